package frost

import (
	"fmt"

	"github.com/klauspost/compress/s2"
)

// kindPacked is a log record that holds another one, packed by Snappy: half of the bytes to sync and to keep until they
// are in a block, for 0.02 CPU-seconds per million samples.
const kindPacked = 3

const (
	// maxRecord is how large an unpacked record is at most: as large as one may be in the log.
	maxRecord = 1 << 30
	// keptPacker is how large a packer's memory stays.
	keptPacker = 4 << 20
)

// packer packs records into memory that it uses again. It is for one goroutine.
type packer struct{ buf []byte }

// pack returns a record that holds another, or that other if packing does not make it smaller. It is valid until the
// next call.
func (p *packer) pack(record []byte) []byte {
	need := s2.MaxEncodedLen(len(record))
	if need < 0 || len(record) > maxRecord {
		return record
	}
	out := append(p.take(1 + need)[:0], kindPacked)
	out = out[:1+len(s2.EncodeSnappy(out[1:cap(out)], record))]
	if len(out) >= len(record) {
		return record
	}
	return out
}

// unpack returns the record that pack was given. It is valid until the next call.
func (p *packer) unpack(record []byte) ([]byte, error) {
	if len(record) == 0 || record[0] != kindPacked {
		return record, nil
	}
	n, err := s2.DecodedLen(record[1:])
	if err == nil && n > maxRecord {
		err = fmt.Errorf("%d bytes are too many", n)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: unpacking a record of %d bytes: %w", errCorruptRow, len(record), err)
	}
	out, err := s2.Decode(p.take(n), record[1:])
	if err != nil {
		return nil, fmt.Errorf("%w: unpacking a record of %d bytes: %w", errCorruptRow, len(record), err)
	}
	return out, nil
}

func (p *packer) take(n int) []byte {
	if cap(p.buf) >= n {
		return p.buf[:n]
	}
	b := make([]byte, n)
	if n <= keptPacker {
		p.buf = b
	}
	return b
}

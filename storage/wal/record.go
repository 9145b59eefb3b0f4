package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	headerBytes       = 24
	recordHeaderBytes = 8
)

var (
	magic      = [8]byte{'P', 'F', 'W', 'A', 'L', 0, 0, 1}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// errBroken: the bytes are no record. Everything from there on is not trusted.
var errBroken = errors.New("broken record")

func appendHeader(b []byte, segment uint64) []byte {
	start := len(b)
	b = append(b, magic[:]...)
	b = binary.LittleEndian.AppendUint64(b, segment)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
	return binary.LittleEndian.AppendUint32(b, 0)
}

func checkHeader(b []byte, segment uint64) error {
	if len(b) < headerBytes || [8]byte(b) != magic {
		return fmt.Errorf("%w: no segment header", errBroken)
	}
	if binary.LittleEndian.Uint32(b[16:]) != crc32.Checksum(b[:16], castagnoli) || binary.LittleEndian.Uint32(b[20:]) != 0 {
		return fmt.Errorf("%w: segment header checksum", errBroken)
	}
	if n := binary.LittleEndian.Uint64(b[8:]); n != segment {
		return fmt.Errorf("%w: the header is of segment %d", errBroken, n)
	}
	return nil
}

// checksum covers where the record is, so that bytes left over from another file or place are none.
func checksum(segment uint64, offset int64, payload []byte) uint32 {
	var place [20]byte
	binary.LittleEndian.PutUint64(place[0:], segment)
	binary.LittleEndian.PutUint64(place[8:], uint64(offset))
	binary.LittleEndian.PutUint32(place[16:], uint32(len(payload)))
	return crc32.Update(crc32.Checksum(place[:], castagnoli), castagnoli, payload)
}

// appendRecord appends a record that will lie at offset of the segment.
func appendRecord(b []byte, segment uint64, offset int64, payload []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b = binary.LittleEndian.AppendUint32(b, checksum(segment, offset, payload))
	return append(b, payload...)
}

// reader streams the records of one segment. It holds one record and a read-ahead buffer.
type reader struct {
	r       io.ReaderAt
	segment uint64
	size    int64
	offset  int64 // of the next record
	buf     []byte
	at      int64 // where buf begins
}

const readAheadBytes = 256 << 10

// newReader checks the segment's header.
func newReader(r io.ReaderAt, segment uint64, size int64) (*reader, error) {
	rd := &reader{r: r, segment: segment, size: size}
	if size < headerBytes {
		return rd, fmt.Errorf("%w: %d bytes are no segment header", errBroken, size)
	}
	h, err := rd.peek(headerBytes)
	if err != nil {
		return rd, err
	}
	if err := checkHeader(h, segment); err != nil {
		return rd, err
	}
	rd.offset = headerBytes
	return rd, nil
}

// peek returns n bytes at the offset, which must be in the file. They are valid until the next call.
func (rd *reader) peek(n int64) ([]byte, error) {
	if rd.offset < rd.at || rd.offset+n > rd.at+int64(len(rd.buf)) {
		want := min(max(n, readAheadBytes), rd.size-rd.offset)
		if int64(cap(rd.buf)) < want {
			rd.buf = make([]byte, want)
		}
		rd.buf, rd.at = rd.buf[:want], rd.offset
		if got, err := rd.r.ReadAt(rd.buf, rd.at); int64(got) < want {
			rd.buf = rd.buf[:0]
			if err == io.EOF {
				return nil, fmt.Errorf("%w: the file became shorter", errBroken)
			}
			return nil, err
		}
	}
	return rd.buf[rd.offset-rd.at:][:n], nil
}

// next returns the next payload, valid until the next call. It returns io.EOF at the end of the file, an error
// that wraps errBroken where there is no good record, else the error of the file system.
func (rd *reader) next() ([]byte, error) {
	left := rd.size - rd.offset
	if left == 0 {
		return nil, io.EOF
	}
	if left < recordHeaderBytes {
		return nil, fmt.Errorf("%w: %d bytes are no record header", errBroken, left)
	}
	h, err := rd.peek(recordHeaderBytes)
	if err != nil {
		return nil, err
	}
	n, sum := int64(binary.LittleEndian.Uint32(h)), binary.LittleEndian.Uint32(h[4:])
	if n == 0 || n > left-recordHeaderBytes {
		return nil, fmt.Errorf("%w: %d bytes of payload, %d left", errBroken, n, left-recordHeaderBytes)
	}
	rec, err := rd.peek(recordHeaderBytes + n)
	if err != nil {
		return nil, err
	}
	payload := rec[recordHeaderBytes:]
	if checksum(rd.segment, rd.offset, payload) != sum {
		return nil, fmt.Errorf("%w: checksum", errBroken)
	}
	rd.offset += recordHeaderBytes + n
	return payload, nil
}

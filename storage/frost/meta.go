package frost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"

	"github.com/perfuse/perfuse/storage/dictionary"
)

// meta is what the index knows of a block. Its file makes the block exist: it is written last, and removed
// first.
type meta struct {
	segments [2]uint64 // the log segments whose rows the block has, both ends included
	// generation is 0 for a block made of a head; one that was made of blocks is of a later generation than each
	// of them.
	generation uint32
	size       int64 // of the Parquet file
	totals     totals
	span       span
}

func (m *meta) name() string {
	if m.generation == 0 {
		return fmt.Sprintf("%016x-%016x", m.segments[0], m.segments[1])
	}
	return fmt.Sprintf("%016x-%016x-%x", m.segments[0], m.segments[1], m.generation)
}

var (
	metaMagic   = [8]byte{'P', 'F', 'B', 'L', 'K', 0, 0, 1}
	metaMagic2  = [8]byte{'P', 'F', 'B', 'L', 'K', 0, 0, 2} // with a generation
	dictMagic   = [8]byte{'P', 'F', 'D', 'I', 'C', 'T', 0, 1}
	marksMagic  = [8]byte{'P', 'F', 'M', 'A', 'R', 'K', 0, 1}
	marksMagic2 = [8]byte{'P', 'F', 'M', 'A', 'R', 'K', 0, 2} // of a file that stands for those before it
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

// errCorruptFile: bytes are not what seal wrote.
var errCorruptFile = errors.New("corrupt file")

// seal returns magic, body and checksum, as block indices and dictionaries lie on disk.
func seal(magic [8]byte, body []byte) []byte {
	b := append(slices.Clip(magic[:]), body...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func unseal(magic [8]byte, b []byte) ([]byte, error) {
	if len(b) < 12 || [8]byte(b) != magic {
		return nil, fmt.Errorf("%w: it does not begin as it should", errCorruptFile)
	}
	n := len(b) - 4
	if binary.LittleEndian.Uint32(b[n:]) != crc32.Checksum(b[:n], castagnoli) {
		return nil, fmt.Errorf("%w: checksum", errCorruptFile)
	}
	return b[8:n], nil
}

func (m *meta) encode() []byte {
	var b []byte
	magic := metaMagic
	if m.generation > 0 {
		magic = metaMagic2
		b = binary.AppendUvarint(b, uint64(m.generation))
	}
	b = binary.AppendUvarint(b, m.segments[0])
	b = binary.AppendUvarint(b, m.segments[1])
	b = binary.AppendUvarint(b, uint64(m.size))
	b = binary.AppendUvarint(b, uint64(m.totals.rows))
	b = binary.AppendUvarint(b, uint64(m.totals.samples))
	b = binary.AppendUvarint(b, uint64(m.totals.bytes))
	b = binary.LittleEndian.AppendUint64(b, m.totals.sum)
	b = binary.AppendUvarint(b, uint64(m.span.first))
	b = binary.AppendUvarint(b, uint64(m.span.last))
	ids := make([]dictionary.SeriesID, 0, len(m.span.series))
	for id := range m.span.series {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	b = binary.AppendUvarint(b, uint64(len(ids)))
	last := dictionary.SeriesID(0)
	for _, id := range ids {
		rs := *m.span.series[id]
		b = binary.AppendUvarint(b, uint64(id-last))
		b = binary.AppendUvarint(b, uint64(len(rs)))
		end := bucket(0)
		for _, r := range rs {
			b = binary.AppendUvarint(b, uint64(r.from-end))
			b = binary.AppendUvarint(b, uint64(r.to-r.from))
			end = r.to
		}
		last = id
	}
	return seal(magic, b)
}

func decodeMeta(b []byte) (*meta, error) {
	magic := metaMagic
	if len(b) >= len(metaMagic2) && [8]byte(b) == metaMagic2 {
		magic = metaMagic2
	}
	body, err := unseal(magic, b)
	if err != nil {
		return nil, err
	}
	d := varints{b: body}
	m := &meta{span: newSpan()}
	if magic == metaMagic2 {
		g := d.uvarint()
		if g == 0 || g > math.MaxUint32 {
			return nil, fmt.Errorf("%w: generation %d", errCorruptFile, g)
		}
		m.generation = uint32(g)
	}
	num := func() int64 {
		v := d.uvarint()
		if v > math.MaxInt64 {
			d.bad = true
		}
		return int64(v)
	}
	m.segments = [2]uint64{d.uvarint(), d.uvarint()}
	m.size = num()
	m.totals.rows, m.totals.samples, m.totals.bytes = num(), num(), num()
	if s := d.take(8); s != nil {
		m.totals.sum = binary.LittleEndian.Uint64(s)
	}
	m.span.first, m.span.last = num(), num()
	id := uint64(0)
	for range d.uvarint() {
		id += d.uvarint()
		if d.bad || id > math.MaxUint32 {
			return nil, fmt.Errorf("%w: series", errCorruptFile)
		}
		rs := &runs{}
		end := int64(0)
		for range d.uvarint() {
			from := end + num()
			end = from + num()
			if d.bad || from < 0 || end < from {
				return nil, fmt.Errorf("%w: times of series %d", errCorruptFile, id)
			}
			*rs = append(*rs, run{bucket(from), bucket(end)})
		}
		m.span.series[dictionary.SeriesID(id)] = rs
	}
	if d.bad || len(d.b) != 0 || m.segments[0] > m.segments[1] {
		return nil, fmt.Errorf("%w: it ends too early or too late", errCorruptFile)
	}
	return m, nil
}

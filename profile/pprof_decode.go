package profile

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// span is where something lies in an encoded pprof, which is below 4 GiB.
type span struct{ at, n uint32 }

// pprofFile is an encoded pprof (profile.proto of github.com/google/pprof) with its tables found, but not decoded:
// that happens entry by entry when a sample asks. So memory stays below ten times the file's size, whatever
// is in it, and what nothing refers to costs nothing.
type pprofFile struct {
	data      []byte
	strings   []string // share one copy of data
	types     []span
	samples   int
	mappings  pprofTable
	locations pprofTable
	functions pprofTable

	periodType                          span
	timeNanos, durationNanos, periodLen int64
}

// pprofTable finds messages by their ids, which are 1, 2, 3, ... in all but odd files.
type pprofTable struct {
	what    string
	entries []span
	dense   []uint32          // by id: entry number + 1
	sparse  map[uint64]uint32 // the same, for ids beyond the number of entries
}

// index reads the ids of all entries.
func (t *pprofTable) index(data []byte) error {
	t.dense = make([]uint32, len(t.entries)+1)
	for i, e := range t.entries {
		var id uint64
		if err := eachField(e.of(data), func(f pprofField) error {
			if f.number == 1 {
				id = f.value
			}
			return nil
		}); err != nil {
			return err
		}
		if id == 0 {
			return fmt.Errorf("%s %d has no id", t.what, i)
		}
		if t.find(id) >= 0 {
			return fmt.Errorf("two %ss have the id %d", t.what, id)
		}
		if id < uint64(len(t.dense)) {
			t.dense[id] = uint32(i + 1)
			continue
		}
		if t.sparse == nil {
			t.sparse = map[uint64]uint32{}
		}
		t.sparse[id] = uint32(i + 1)
	}
	return nil
}

// find returns the number of the entry with that id, or -1.
func (t *pprofTable) find(id uint64) int {
	if id < uint64(len(t.dense)) {
		return int(t.dense[id]) - 1
	}
	return int(t.sparse[id]) - 1
}

func (s span) of(data []byte) []byte { return data[s.at : s.at+s.n] }

// openPprof finds the tables. It keeps data.
func openPprof(data []byte) (*pprofFile, error) {
	f := &pprofFile{data: data, mappings: pprofTable{what: "mapping"}, locations: pprofTable{what: "location"}, functions: pprofTable{what: "function"}}
	text := string(data)
	err := eachField(data, func(p pprofField) error {
		switch p.number {
		case 1:
			f.types = append(f.types, p.span())
		case 2:
			f.samples++
		case 3:
			f.mappings.entries = append(f.mappings.entries, p.span())
		case 4:
			f.locations.entries = append(f.locations.entries, p.span())
		case 5:
			f.functions.entries = append(f.functions.entries, p.span())
		case 6:
			f.strings = append(f.strings, text[p.start:p.start+len(p.bytes)])
		case 9:
			f.timeNanos = int64(p.value)
		case 10:
			f.durationNanos = int64(p.value)
		case 11:
			f.periodType = p.span()
		case 12:
			f.periodLen = int64(p.value)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(f.strings) > 0 && f.strings[0] != "" {
		return nil, errors.New("string 0 is not empty")
	}
	for _, t := range []*pprofTable{&f.mappings, &f.locations, &f.functions} {
		if err := t.index(data); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// text returns a string of the table, as valid UTF-8. It shares memory with the whole file.
func (f *pprofFile) text(i uint64) (string, error) {
	if i >= uint64(len(f.strings)) {
		if i == 0 {
			return "", nil
		}
		return "", fmt.Errorf("string %d of %d", int64(i), len(f.strings))
	}
	return validText(f.strings[i]), nil
}

// texts reads a message of strings, such as ValueType: fields a and b.
func (f *pprofFile) texts(s span, a, b int) (va, vb string, err error) {
	err = eachField(s.of(f.data), func(p pprofField) (err error) {
		switch p.number {
		case a:
			va, err = f.text(p.value)
		case b:
			vb, err = f.text(p.value)
		}
		return err
	})
	return va, vb, err
}

// pprofField is one field of a message: bytes if it has a length, else value. start is where bytes lie.
type pprofField struct {
	number int
	value  uint64
	bytes  []byte
	start  int
	packed bool // it has a length
}

func (p pprofField) span() span { return span{uint32(p.start), uint32(len(p.bytes))} }

// numbers calls f for each number of a repeated field, which may be packed.
func (p pprofField) numbers(f func(uint64)) error {
	if !p.packed {
		f(p.value)
		return nil
	}
	for b := p.bytes; len(b) > 0; {
		v, n := uvarint(b)
		if n <= 0 {
			return errNotPprof
		}
		f(v)
		b = b[n:]
	}
	return nil
}

var errNotPprof = errors.New("not a pprof, or truncated")

// eachField calls f for each field of an encoded protobuf message. start counts from the message's own
// beginning.
func eachField(data []byte, f func(pprofField) error) error {
	for at := 0; at < len(data); {
		tag, n := uvarint(data[at:])
		if n <= 0 {
			return errNotPprof
		}
		at += n
		p := pprofField{number: int(tag >> 3)}
		switch tag & 7 {
		case 0:
			if p.value, n = uvarint(data[at:]); n <= 0 {
				return errNotPprof
			}
			at += n
		case 1, 5: // fixed numbers: pprof has none, what is unknown is skipped
			size := 8
			if tag&7 == 5 {
				size = 4
			}
			if len(data)-at < size {
				return errNotPprof
			}
			at += size
			continue
		case 2:
			l, n := uvarint(data[at:])
			if n <= 0 || l > uint64(len(data)-at-n) {
				return errNotPprof
			}
			p.packed, p.start = true, at+n
			p.bytes = data[p.start : p.start+int(l)]
			at = p.start + int(l)
		default:
			return errNotPprof
		}
		if err := f(p); err != nil {
			return err
		}
	}
	return nil
}

// uvarint is binary.Uvarint with the common case of one byte inlined.
func uvarint(b []byte) (uint64, int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	return binary.Uvarint(b)
}

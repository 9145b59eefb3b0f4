package frost

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/s2"
)

func TestPackedRecords(t *testing.T) {
	_, rows := rowsOf(t, 3, 100)
	record := append([]byte{kindRowsAndID}, appendRows(nil, kindRowsAndID, rows)...)
	noise := make([]byte, 5000)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	noise[0] = kindRows
	var p, q packer
	for _, record := range [][]byte{record, noise, {kindRows}, bytes.Repeat(record, 100), record, make([]byte, 2*keptPacker), record} {
		packed := p.pack(record)
		if len(packed) > len(record) || bytes.Count(record, record[:1]) == len(record) && len(record) > 1 && len(packed) > len(record)/10 {
			t.Errorf("%d bytes were packed into %d", len(record), len(packed))
		}
		got, err := q.unpack(packed)
		if err != nil || !bytes.Equal(got, record) {
			t.Errorf("%d bytes came back otherwise: %v", len(record), err)
		}
	}
	if cap(p.buf) > keptPacker || cap(q.buf) > keptPacker {
		t.Errorf("%d and %d bytes are kept", cap(p.buf), cap(q.buf))
	}
	for name, bad := range map[string][]byte{
		"nothing": {kindPacked}, "torn": p.pack(record)[:100], "too long": append([]byte{kindPacked}, 0xff, 0xff, 0xff, 0xff, 0x0f, 0),
	} {
		if _, err := q.unpack(bad); !errors.Is(err, errCorruptRow) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzPackedRecords: no bytes make unpacking panic, and what was unpacked can be packed again.
func FuzzPackedRecords(f *testing.F) {
	_, rows := rowsOf(f, 1, 5)
	f.Add(appendRows(nil, kindRows, rows))
	f.Add(s2.EncodeSnappy(nil, appendRows(nil, kindRows, rows)))
	f.Add(s2.EncodeSnappy(nil, make([]byte, 1000)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if n, err := s2.DecodedLen(data); err != nil || n > 1<<20 {
			return
		}
		var p, q packer
		record, err := p.unpack(append([]byte{kindPacked}, data...))
		if err != nil || len(record) == 0 || record[0] == kindPacked {
			return
		}
		again, err := p.unpack(bytes.Clone(q.pack(record)))
		if err != nil || !bytes.Equal(again, record) {
			t.Errorf("%d bytes came back as %d: %v", len(record), len(again), err)
		}
	})
}

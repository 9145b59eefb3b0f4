package frost

import (
	"bytes"
	"os"
	"testing"

	"github.com/perfuse/perfuse/storage/disk/disktest"
)

// FuzzBlock: no bytes of a block make what reads it panic, and its rows either keep to their own numbers or are refused.
func FuzzBlock(f *testing.F) {
	fsys := disktest.New()
	s := open(f, onDisk(fsys))
	for i := range 5 {
		if err := s.Write(f.Context(), batchOf(i)); err != nil {
			f.Fatal(err)
		}
	}
	if err := s.Flush(f.Context()); err != nil {
		f.Fatal(err)
	}
	for _, b := range s.Stats().Blocks {
		whole := fsys.Bytes("/data/blocks/" + b.Name + ".parquet")
		f.Add(whole)
		f.Add(whole[:len(whole)-9])
	}
	old, err := os.ReadFile("testdata/without-ids/blocks/0000000000000001-0000000000000002.parquet") // without totals
	if err != nil {
		f.Fatal(err)
	}
	f.Add(old)
	f.Fuzz(func(t *testing.T, data []byte) {
		groups, err := parseBlock(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		var samples samplesOf
		for i := range groups {
			var r groupReader
			_ = r.read(&groups[i], nil, func(c *recordColumns) error {
				for i := range c.n {
					row := c.row(i)
					_ = row.check(&samples, 1<<20)
				}
				return nil
			})
		}
	})
}

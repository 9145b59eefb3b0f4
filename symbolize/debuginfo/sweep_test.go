package debuginfo

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perfuse/perfuse/symbolize"
	"github.com/perfuse/perfuse/symbolize/elf"
	"github.com/perfuse/perfuse/symbolize/index"
	"github.com/perfuse/perfuse/symbolize/table"
)

// TestSweep builds the table of every ELF file below the directories in PERFUSE_SWEEP (separated by colons), from
// the file and from its extraction, and says what it found. It is for whole machines, not for every day.
func TestSweep(t *testing.T) {
	dirs := os.Getenv("PERFUSE_SWEEP")
	if dirs == "" {
		t.Skip("PERFUSE_SWEEP names no directories")
	}
	work := t.TempDir()
	var files, nameless, warned int
	var bytesIn, bytesExtracted, bytesTable int64
	var slowest time.Duration
	var slowestName string
	visit := func(path string) {
		f, err := elf.Open(path)
		if err != nil {
			return
		}
		defer f.Close()
		if f.Type != elf.TypeExec && f.Type != elf.TypeDyn {
			return
		}
		files++
		bytesIn += f.Size()
		begun := time.Now()
		out := filepath.Join(work, "a.symtab")
		warning, err := index.Build(out, work, index.Files{File: f})
		if took := time.Since(begun); took > slowest {
			slowest, slowestName = took, path
		}
		if warning != nil {
			warned++
			t.Logf("%s: warning: %v", path, warning)
		}
		if errors.Is(err, symbolize.ErrNoDebugInfo) {
			nameless++
			return
		}
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return
		}
		x, err := ExtractFile(path, "")
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return
		}
		defer x.Close()
		small := filepath.Join(work, "small")
		h, err := os.Create(small)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := x.WriteTo(h); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		h.Close()
		e, err := elf.Open(small)
		if err != nil {
			t.Errorf("%s: extracted: %v", path, err)
			return
		}
		defer e.Close()
		bytesExtracted += e.Size()
		split := findSplit(f, path, "", []string{defaultDebugDir})
		if split != nil {
			defer split.Close()
			if _, err := index.Build(out, work, index.Files{File: f, Split: split}); err != nil {
				t.Errorf("%s: with its split debug file: %v", path, err)
			}
		}
		again := filepath.Join(work, "b.symtab")
		if _, err := index.Build(again, work, index.Files{File: e}); err != nil {
			t.Errorf("%s: extracted: %v", path, err)
			return
		}
		a, err := table.Open(out)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		b, err := table.Open(again)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		bytesTable += a.Size()
		step := max(a.Ranges()/500, 1)
		for i := 0; i < a.Ranges(); i += step {
			addr, _ := a.Range(i)
			addr += 2
			want, got := a.Lookup(addr, nil), b.Lookup(addr, nil)
			if len(want) != len(got) {
				t.Errorf("%s: %#x: extracted gives %v, want %v", path, uint64(addr), got, want)
				break
			}
			for k := range want {
				if want[k] != got[k] {
					t.Errorf("%s: %#x: extracted gives %v, want %v", path, uint64(addr), got, want)
					break
				}
			}
		}
	}
	for _, dir := range strings.Split(dirs, ":") {
		_ = filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				visit(p)
			}
			return nil
		})
	}
	t.Logf("%d files of %d MB, extracted %d MB, tables %d MB; %d without names, %d with warnings; the slowest %s %v",
		files, bytesIn>>20, bytesExtracted>>20, bytesTable>>20, nameless, warned, slowestName, slowest)
}

package debuginfo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/klauspost/compress/zstd"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/symbolize"
	"github.com/perfuse/perfuse/symbolize/elf"
)

// TestStore runs transcripts. Uploads are named: small (a C program), text, bomb (8 MiB of zeros in zstd).
func TestStore(t *testing.T) {
	small := smallProgram(t)
	f, err := elf.NewBytes(small)
	if err != nil {
		t.Fatal(err)
	}
	smallID := f.BuildID()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	empty := bytes.Clone(small)
	// The same file with all of its sections' headers blank: nothing names its code.
	for i := len(empty) - 64*len(f.Sections); i < len(empty); i++ {
		empty[i] = 0
	}
	empty = bytes.ReplaceAll(empty, []byte("GNU\x00"), []byte("XXX\x00"))
	files := map[string][]byte{
		"small":     small,
		"small-zst": enc.EncodeAll(small, nil),
		"text":      []byte(strings.Repeat("no ELF ", 20)),
		"bomb":      enc.EncodeAll(make([]byte, 8<<20), nil),
		"empty":     empty,
		"cut-zst":   enc.EncodeAll(small, nil)[:500],
		"nothing":   nil,
	}
	word := strings.NewReplacer("$small", smallID)

	datadriven.Walk(t, "testdata/store", func(t *testing.T, path string) {
		dir := t.TempDir()
		options := StoreOptions{Dir: dir, MaxFileBytes: 1 << 20, Now: func() time.Time { return time.Unix(1700000000, 0) }}
		s, err := NewStore(options)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			arg := func(i int) string {
				if i >= len(d.CmdArgs) {
					return ""
				}
				return word.Replace(d.CmdArgs[i].Key)
			}
			var out strings.Builder
			fail := func(err error) string {
				text := strings.ReplaceAll(err.Error(), dir, "DIR")
				for _, kind := range []error{ErrBuildID, ErrTooLarge, ErrFull, ErrKnown, ErrUpload, symbolize.ErrNoDebugInfo} {
					if errors.Is(err, kind) {
						return fmt.Sprintf("error (%v): %s\n", kind, strings.ReplaceAll(text, smallID, "$small"))
					}
				}
				return "error: " + text + "\n"
			}
			switch d.Cmd {
			case "put":
				n, err := s.Put(context.Background(), arg(0), "/usr/bin/prog", bytes.NewReader(files[arg(1)]))
				if err != nil {
					return fail(err)
				}
				fmt.Fprintf(&out, "%d bytes\n", n)
			case "wanted":
				for _, id := range s.Wanted(strings.Fields(word.Replace(d.Input))) {
					fmt.Fprintln(&out, strings.ReplaceAll(id, smallID, "$small"))
				}
			case "index": // what Run does, until nothing is left to do
				for {
					id, ok := s.next()
					if !ok {
						break
					}
					s.index(id)
				}
			case "list":
				for _, i := range s.List() {
					fmt.Fprintf(&out, "%s %s %s %d bytes, table %v, %s %q\n", strings.ReplaceAll(i.BuildID, smallID, "$small"), i.File, i.State, i.Bytes, i.TableBytes > 0, i.Uploaded.Format(time.RFC3339), i.Error)
				}
			case "resolve":
				var addrs []profile.Addr
				for _, a := range strings.Fields(d.Input) {
					addrs = append(addrs, profile.Addr(parseHex(t, a)))
				}
				got, err := s.Resolve(context.Background(), arg(0), addrs)
				if err != nil {
					return fail(err)
				}
				for i, a := range addrs {
					fmt.Fprintf(&out, "%#x", uint64(a))
					for _, src := range got[i] {
						fmt.Fprintf(&out, " %s %s:%d (%d)", src.Name, filepath.Base(src.File), src.Line, src.StartLine)
					}
					fmt.Fprintln(&out)
				}
			case "restart":
				s.Close()
				if d.HasArg("drop-uploads") {
					options.DropUploads = true
				}
				if d.HasArg("small") {
					options.MaxBytes = 10000
				}
				if s, err = NewStore(options); err != nil {
					return fail(err)
				}
			case "corrupt", "remove": // a file of a build id, by its suffix
				p := s.path(arg(0), arg(1))
				if d.Cmd == "remove" {
					if err := os.Remove(p); err != nil {
						return fail(err)
					}
					break
				}
				b, err := os.ReadFile(p)
				if err != nil {
					return fail(err)
				}
				b[len(b)/2] ^= 0xff
				if err := os.WriteFile(p, b, 0o600); err != nil {
					return fail(err)
				}
			case "debris": // what a crash leaves
				p := s.path(arg(0), "")
				if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
					return fail(err)
				}
				for _, name := range []string{filepath.Join(filepath.Dir(p), "upload-1.tmp"), p + ".elf", p + ".symtab"} {
					if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
						return fail(err)
					}
				}
			case "files":
				_ = filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
					if err == nil && !e.IsDir() {
						rel, _ := filepath.Rel(dir, p)
						fmt.Fprintln(&out, strings.ReplaceAll(rel, smallID[:2]+"/"+smallID[2:], "$small"))
					}
					return err
				})
			default:
				t.Fatalf("unknown command %s", d.Cmd)
			}
			return out.String()
		})
	})
}

// A client that goes away in the middle leaves nothing behind.
func TestStorePutBroken(t *testing.T) {
	dir := t.TempDir()
	s, err := NewStore(StoreOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	done := make(chan error)
	go func() {
		_, err := s.Put(ctx, "0011223344", "f", r)
		done <- err
	}()
	if _, err := w.Write(make([]byte, 200<<10)); err != nil {
		t.Fatal(err)
	}
	if got := s.Wanted([]string{"0011223344"}); len(got) != 0 {
		t.Error("it is wanted while it is uploaded")
	}
	if _, err := s.Put(ctx, "0011223344", "f", strings.NewReader("x")); !errors.Is(err, ErrKnown) {
		t.Errorf("a second upload meanwhile: %v", err)
	}
	cancel()
	w.CloseWithError(errors.New("gone"))
	if err := <-done; err == nil {
		t.Error("a broken upload was stored")
	}
	if got := s.Wanted([]string{"0011223344"}); len(got) != 1 {
		t.Error("it is not wanted again")
	}
	_ = filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			t.Errorf("%s is left behind", p)
		}
		return err
	})
}

// Many resolve at once while tables come and go: a cache of two tables for six build ids.
func TestStoreConcurrent(t *testing.T) {
	small := smallProgram(t)
	s, err := NewStore(StoreOptions{Dir: t.TempDir(), MaxOpenTables: 2, Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	// Without the note the file states no build id and may have any.
	anon := bytes.Clone(small)
	i := bytes.Index(anon, []byte("GNU\x00"))
	for ; i >= 0; i = bytes.Index(anon, []byte("GNU\x00")) {
		anon[i] = 'X'
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error)
	go func() { ran <- s.Run(ctx) }()
	var ids []string
	for k := range 6 {
		id := fmt.Sprintf("%08x", k)
		ids = append(ids, id)
		if _, err := s.Put(ctx, id, "f", bytes.NewReader(anon)); err != nil {
			t.Fatal(err)
		}
	}
	f, err := elf.NewBytes(anon)
	if err != nil {
		t.Fatal(err)
	}
	entry := []profile.Addr{profile.Addr(f.Entry)}
	var users sync.WaitGroup
	for u := range 8 {
		users.Go(func() {
			resolved := 0
			for k := 0; resolved < 300; k++ {
				got, err := s.Resolve(ctx, ids[(u+k)%len(ids)], entry)
				if errors.Is(err, symbolize.ErrNoDebugInfo) && strings.Contains(err.Error(), "not built yet") {
					continue
				}
				if err != nil || len(got[0]) == 0 || got[0][len(got[0])-1].Name != "main" {
					t.Errorf("got %v %v", got, err)
					return
				}
				resolved++
			}
		})
	}
	users.Wait()
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if n := len(s.tables.byID); n > 2 {
		t.Errorf("%d tables are mapped", n)
	}
}

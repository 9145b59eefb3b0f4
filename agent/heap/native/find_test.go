package native

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/perfuse/perfuse/bpf/memory"
	"github.com/perfuse/perfuse/symbolize/elf"
)

type diskFile struct {
	*os.File
	size int64
}

func (f diskFile) Size() int64 { return f.size }

func openDisk(t testing.TB, path string) diskFile {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return diskFile{f, st.Size()}
}

// TestFindHooks looks into the allocators at hand: what programs call all the time must be there, with a probe that costs
// little, and each of its arguments where the probe is.
func TestFindHooks(t *testing.T) {
	always := []string{"malloc", "calloc", "realloc", "free", "posix_memalign", "memalign"}
	for _, c := range []struct {
		pattern string
		want    []string
		leaf    []string // whose end is not looked at
		missing []string
	}{
		{"/lib*/*/libc.so.6", append([]string{"reallocarray", "valloc", "pvalloc"}, always...), []string{"malloc", "calloc"}, nil},
		{"/usr/lib/*/libjemalloc.so.2", append([]string{"_Znwm", "sdallocx", "mallocx", "rallocx"}, always...),
			[]string{"malloc", "calloc", "mallocx", "_Znwm"}, []string{"_Znam", "_ZdlPv", "_ZnwmSt11align_val_t"}}, // those go on to ones with probes
		{"/usr/lib/*/libtcmalloc_minimal.so.4", append([]string{"_ZdaPvm"}, always...), []string{"malloc", "calloc"}, nil},
		{"/usr/lib/*/libmimalloc.so.2", append([]string{"mi_zalloc", "mi_malloc_aligned"}, "malloc", "calloc", "realloc", "free"),
			[]string{"malloc", "calloc", "mi_zalloc"}, []string{"posix_memalign"}},
		{"/usr/lib/*-musl/libc.so", always[:5], nil, []string{"memalign"}}, // its calloc calls malloc
		{"/usr/lib/*/libstdc++.so.6", nil, nil, nil},
		{"/lib64/ld-linux-x86-64.so.2", nil, nil, nil},
		{"/bin/sh", nil, nil, nil},
	} {
		t.Run(filepath.Base(c.pattern), func(t *testing.T) {
			paths, _ := filepath.Glob(c.pattern)
			if len(paths) == 0 {
				t.Skipf("%s is not installed", c.pattern)
			}
			r := openDisk(t, paths[0])
			k, err := findAllocator(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			byName, dear := map[string]hook{}, 0
			offsets := map[uint64]bool{}
			f, err := elf.New(r, r.size)
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range k.hooks {
				byName[h.name] = h
				var code [6]byte
				if _, err := r.ReadAt(code[:], int64(h.offset)); err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
				if f.Machine == elf.MachineX86_64 && emulated(code[:]) == 0 {
					dear++
					t.Logf("the probe on %s is one that the kernel must step over", h.name)
				}
				if offsets[h.offset] {
					t.Errorf("two probes at %#x", h.offset)
				}
				offsets[h.offset] = true
				if h.throws && !h.leaf {
					t.Errorf("%s throws, and its end is probed always", h.name)
				}
			}
			t.Logf("%d functions, %d of them dear", len(k.hooks), dear)
			if len(c.want) == 0 && len(k.hooks) > 0 {
				t.Errorf("it is no allocator, and has %v", k.hooks)
			}
			for _, name := range c.want {
				if _, ok := byName[name]; !ok {
					t.Errorf("%s is missing", name)
				}
			}
			for _, name := range c.missing {
				if _, ok := byName[name]; ok {
					t.Errorf("%s has a probe, as has what it calls", name)
				}
			}
			for name, h := range byName {
				if got, want := h.leaf, slices.Contains(c.leaf, name); got != want && slices.Contains(always, name) {
					t.Errorf("%s: leaf is %v, want %v", name, got, want)
				}
			}
			if h, ok := byName["posix_memalign"]; ok && (h.form != memory.Out || h.args[0] == h.args[1]) {
				t.Errorf("posix_memalign: %+v", h)
			}
			for _, name := range []string{"malloc", "free", "calloc"} {
				if h, ok := byName[name]; ok && f.Machine == elf.MachineX86_64 {
					var code [6]byte
					_, _ = r.ReadAt(code[:], int64(h.offset))
					if emulated(code[:]) == 0 {
						t.Errorf("the probe on %s would be stepped over", name)
					}
				}
			}
		})
	}
}

// TestPrefixes finds jemalloc as Rust programs have it, in a program of its own and without its dynamic symbols.
func TestPrefixes(t *testing.T) {
	k, err := findAllocator(t.Context(), openDisk(t, compile(t, "prefixed.c", "gcc", "-O1", "-shared", "-fPIC", "-fvisibility=hidden")))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, h := range k.hooks {
		got = append(got, h.name)
		if want := h.name == "_rjem_mallocx" || h.name == "_rjem_calloc"; h.leaf != want {
			t.Errorf("%s: leaf is %v, want %v", h.name, h.leaf, want)
		}
	}
	if want := []string{"_rjem_calloc", "_rjem_mallocx", "_rjem_rallocx", "_rjem_sdallocx"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// countingFile counts the bytes that are read of it.
type countingFile struct {
	bytesFile
	read *int
}

func (f countingFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.bytesFile.ReadAt(p, off)
	*f.read += n
	return n, err
}

// manyTables is a library with sections that are all the same symbol table, of functions of one name.
func manyTables(sections, symbols int, name string) bytesFile {
	const segments = 4000
	le := binary.LittleEndian
	b := []byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 15: 0}
	const programs = 64
	table := uint64(programs + 56*segments)
	names := table + 24*uint64(symbols)
	at := names + 64
	word := func(v ...uint64) {
		for _, v := range v {
			b = le.AppendUint64(b, v)
		}
	}
	b = le.AppendUint32(b, 3|62<<16) // ET_DYN, x86-64
	b = le.AppendUint32(b, 1)
	word(0, programs, at)
	b = le.AppendUint32(b, 0)
	for _, v := range []uint16{64, 56, segments, 64, uint16(2 + sections), 1} {
		b = le.AppendUint16(b, v)
	}
	for i := range uint64(segments) {
		word(1|5<<32, 0, 0x100000+4096*i, 0, 16, 16, 1) // PT_LOAD, readable and executable
	}
	for range symbols {
		word(1|2<<32|1<<48, 0x100000+4096*(segments-1), 1) // STT_FUNC, in section 1
	}
	b = append(append(b, 0), name...)
	b = append(b, make([]byte, at-uint64(len(b)))...)
	section := func(kind, offset, size, link, entry uint64) {
		word(kind<<32, 0, 0, offset, size, link, 1, entry)
	}
	section(0, 0, 0, 0, 0)
	section(3, names, 64, 0, 0)
	for range sections {
		section(2, table, 24*uint64(symbols), 1, 24)
	}
	return bytesFile{b}
}

// TestManyTables reads files that are made to take long.
func TestManyTables(t *testing.T) {
	const symbols = 100_000
	read := 0
	f := countingFile{manyTables(50, symbols, "nothing"), &read}
	if k, err := findAllocator(t.Context(), f); err != nil || len(k.hooks) > 0 {
		t.Errorf("%v, %v", k, err)
	}
	if most := 2 * len(f.b); read > most {
		t.Errorf("%d bytes are read of %d", read, len(f.b))
	}
	if _, err := findAllocator(t.Context(), manyTables(1, symbols, "malloc")); !errors.Is(err, errSymbols) {
		t.Errorf("%d functions malloc: got %v", symbols, err)
	}
	if k, err := findAllocator(t.Context(), manyTables(1, 3, "malloc")); err != nil || len(k.hooks) > 0 {
		t.Errorf("nothing frees: %v, %v", k, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := findAllocator(ctx, manyTables(1, symbols, "nothing")); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: got %v", err)
	}
}

// TestUnwinders knows what takes stack traces within allocations by what it defines.
func TestUnwinders(t *testing.T) {
	for _, pattern := range []string{"/usr/lib/heaptrack/libheaptrack_*.so", "/usr/lib/*/libasan.so.?", "/usr/lib/*/liblsan.so.?", "/usr/lib/*/libtsan.so.?"} {
		paths, _ := filepath.Glob(pattern)
		if len(paths) == 0 {
			t.Logf("%s is not installed", pattern)
		}
		for _, path := range paths {
			if k, err := findAllocator(t.Context(), openDisk(t, path)); err != nil || k.unwinds == "" || len(k.hooks) > 0 {
				t.Errorf("%s: %+v, %v", path, k, err)
			}
		}
	}
	if k, err := findAllocator(t.Context(), manyTables(1, 1, "__asan_init")); err != nil || k.unwinds == "" {
		t.Errorf("%+v, %v", k, err)
	}
}

type bytesFile struct{ b []byte }

func (f bytesFile) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= int64(len(f.b)) {
		return 0, io.EOF
	}
	n := copy(p, f.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
func (f bytesFile) Close() error { return nil }
func (f bytesFile) Size() int64  { return int64(len(f.b)) }

// FuzzFindHooks reads files that nobody vouches for.
func FuzzFindHooks(f *testing.F) {
	if b, err := os.ReadFile(filepath.Join("testdata", "allocator.so")); err == nil {
		f.Add(b)
	} else {
		f.Fatal(err)
	}
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := findAllocator(t.Context(), bytesFile{b})
		if err != nil {
			return
		}
		for _, h := range k.hooks {
			if h.offset >= uint64(len(b)) {
				t.Errorf("a probe at %#x of %d bytes", h.offset, len(b))
			}
		}
	})
}

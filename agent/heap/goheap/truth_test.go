package goheap

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	pprof "github.com/google/pprof/profile"
)

// TestTruth compares what is read of programs that stand still with what they say themselves, bucket by bucket.
func TestTruth(t *testing.T) {
	type form struct {
		name string
		env  []string
		args []string
	}
	forms := []form{
		{"plain", nil, nil},
		{"stripped", nil, []string{"-ldflags=-s -w", "-trimpath"}},
		{"pie", nil, []string{"-buildmode=pie"}},
		{"pie stripped", nil, []string{"-buildmode=pie", "-ldflags=-s -w"}},
		{"cgo", []string{"CGO_ENABLED=1", "CC=gcc"}, []string{"-ldflags=-linkmode=external"}},
		{"cgo pie stripped", []string{"CGO_ENABLED=1", "CC=gcc"}, []string{"-ldflags=-linkmode=external -s -w", "-buildmode=pie"}},
		{"not optimised", nil, []string{"-gcflags=all=-N -l"}},
	}
	for _, toolchain := range toolchains {
		for i, form := range forms {
			if toolchain != "local" && i > 2 {
				break
			}
			t.Run(toolchain+" "+form.name, func(t *testing.T) {
				if len(form.env) > 0 {
					needGCC(t)
				}
				path := build(t, toolchain, "heap", form.env, form.args...)
				t.Run("sampled", func(t *testing.T) { testTruth(t, path, 512<<10) })
				t.Run("every object", func(t *testing.T) { testTruth(t, path, 1) })
				t.Run("before the first collection", func(t *testing.T) { testEarly(t, path) })
			})
		}
	}
}

// TestTruthARM64 does it for the other architecture, under an emulator, whose memory has the program's.
func TestTruthARM64(t *testing.T) {
	emulator := findEmulator(t)
	for _, toolchain := range toolchains {
		t.Run(toolchain, func(t *testing.T) {
			for _, flags := range []string{"", "-s -w"} {
				path := build(t, toolchain, "heap", []string{"GOARCH=arm64"}, "-ldflags="+flags)
				testTruth(t, path, 512<<10, emulator)
				testTruth(t, path, 1, emulator)
				testEarly(t, path, emulator)
			}
		})
	}
}

func findEmulator(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"qemu-aarch64-static", "qemu-aarch64"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("qemu-user-static is not installed")
	return ""
}

// run starts a program, by an emulator if there is one.
func run(t *testing.T, path string, emulator []string, args ...string) *program {
	t.Helper()
	if len(emulator) == 0 {
		return start(t, path, "", args...)
	}
	return start(t, emulator[0], path, append([]string{path}, args...)...)
}

// testTruth allocates 30 MB at one site, a fifth of which is freed.
func testTruth(t *testing.T, path string, rate int64, emulator ...string) {
	t.Helper()
	p := run(t, path, emulator, fmt.Sprint(rate), "off")
	r := p.reader()
	p.order("site 2000 3000")
	p.order("drop")
	p.order("site 2000 12000")
	p.order("wide 300")
	p.order("deep 20 1000000")
	p.order("deep 60 1000000")
	p.order("deep 300 1000000")
	for range 2 {
		p.order("gc")
		got, err := r.Read(patient)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, p, path, got)
		comparePprof(t, p, path, got)
		if got.Rate != rate || !got.Complete || !got.Consistent || got.Early {
			t.Errorf("rate %d, complete %v %s, consistent %v, early %v", got.Rate, got.Complete, got.Reason, got.Consistent, got.Early)
		}
		p.order("site 100 100000") // what is new in the second
		p.order("wide 1000")
	}
}

// compare holds the buckets to the program's own. A record has 32 frames at most.
func compare(t *testing.T, p *program, path string, got *Profile) {
	t.Helper()
	n := newNames(t, path, p.bias)
	longest := 0
	line := func(frames []string, values ...int64) string {
		longest = max(longest, len(frames))
		// The runtime leaves out wrappers, in its stacks and in names of them.
		frames = slices.DeleteFunc(frames, func(name string) bool { return strings.HasSuffix(name, "-fm") })
		return fmt.Sprint(values, " ", strings.Join(frames[:min(len(frames), 32)], " "))
	}
	g := sorted(got.Buckets, func(b Bucket) string {
		if b.Size*b.Allocs != b.AllocBytes || b.Size*b.Frees != b.FreeBytes {
			t.Errorf("size %d: %+v", b.Size, b)
		}
		return line(n.of(b.Stack), b.Allocs, b.Frees, b.AllocBytes, b.FreeBytes)
	})
	records := p.profile()
	w := sorted(records, func(r record) string {
		return line(r.Frames, r.AllocObjects, r.FreeObjects, r.AllocBytes, r.FreeBytes)
	})
	// Buckets of which nothing is published are records of zeros.
	for len(w) > 0 && strings.HasPrefix(w[0], "[0 0 0 0]") {
		w = w[1:]
	}
	if d := difference(g, w); d != "" {
		t.Errorf("of %d and %d buckets differ:\n%s", len(g), len(w), d[:min(len(d), 1500)])
	}
	if len(g) < 3 || longest < 6 {
		t.Errorf("%d buckets only, the deepest of %d frames", len(g), longest)
	}
}

// comparePprof holds the estimates, and the stacks in full length, to those of runtime/pprof, sample by sample.
func comparePprof(t *testing.T, p *program, path string, got *Profile) {
	t.Helper()
	raw, err := hex.DecodeString(p.order("frames"))
	if err != nil {
		t.Fatal(err)
	}
	prof, err := pprof.Parse(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	deepest := 0
	want := sorted(prof.Sample, func(s *pprof.Sample) string {
		var frames []string
		for _, l := range s.Location {
			for _, line := range l.Line {
				frames = append(frames, printed(line.Function.Name))
			}
		}
		deepest = max(deepest, len(frames))
		return fmt.Sprint(s.Value, withoutRuntime(frames))
	})
	for len(want) > 0 && strings.HasPrefix(want[0], "[0 0 0 0]") {
		want = want[1:]
	}
	n := newNames(t, path, p.bias)
	have := sorted(got.Buckets, func(b Bucket) string {
		objects, bytes := b.Alloc(got.Rate)
		inUse, inUseBytes := b.InUse(got.Rate)
		frames := slices.DeleteFunc(n.of(b.Stack), func(name string) bool {
			return strings.HasSuffix(name, "-fm") || name == "runtime.goexit"
		})
		return fmt.Sprint([]int64{objects, bytes, inUse, inUseBytes}, withoutRuntime(frames))
	})
	if d := difference(have, want); d != "" {
		t.Errorf("differs from runtime/pprof:\n%s", d[:min(len(d), 1500)])
	}
	t.Logf("%d buckets, the deepest of %d frames", len(have), deepest)
}

// withoutRuntime takes off what runtime/pprof hides on top of stacks, by versions more or less.
func withoutRuntime(frames []string) []string {
	i := slices.IndexFunc(frames, func(name string) bool {
		return !strings.HasPrefix(name, "runtime.") && !strings.HasPrefix(name, "internal/runtime/")
	})
	return frames[max(i, 0):]
}

// testEarly reads while nothing has been collected: what has been allocated counts, and reading changes nothing.
func testEarly(t *testing.T, path string, emulator ...string) {
	t.Helper()
	p := run(t, path, emulator, "1", "off")
	r := p.reader()
	for _, want := range []int64{500, 1000} {
		p.order("site 500 4096")
		got, err := r.Read(patient)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Early || !got.Complete {
			t.Errorf("early %v, complete %v", got.Early, got.Complete)
		}
		n := newNames(t, path, p.bias)
		var objects, bytes int64
		for _, b := range got.Buckets {
			if strings.Contains(strings.Join(n.of(b.Stack), " "), "main.inner main.middle main.outer main.keep main.main runtime.main") {
				objects += b.Allocs - b.Frees
				bytes += b.AllocBytes
			}
		}
		if objects != want || bytes != want*4096 {
			t.Errorf("%d objects, %d bytes, want %d", objects, bytes, want)
		}
	}
}

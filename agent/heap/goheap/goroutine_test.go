package goheap

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	pprof "github.com/google/pprof/profile"
)

// TestGoroutines compares the goroutines that are seen with those of runtime/pprof, stack by stack.
func TestGoroutines(t *testing.T) {
	for _, toolchain := range toolchains {
		for _, flags := range []string{"", "-s -w"} {
			t.Run(toolchain+flags, func(t *testing.T) {
				path := build(t, toolchain, "goroutines", nil, "-ldflags="+flags)
				testGoroutines(t, start(t, path, ""), path)
			})
		}
		t.Run(toolchain+" arm64", func(t *testing.T) {
			emulator := findEmulator(t)
			path := build(t, toolchain, "goroutines", []string{"GOARCH=arm64"}, "-ldflags=-s -w")
			p := start(t, emulator, path, path)
			if toolchain == "go1.20.14" {
				if got, err := p.reader().Goroutines(patient); !errors.Is(err, ErrGoroutines) {
					t.Errorf("%+v, %v", got, err)
				}
				return
			}
			testGoroutines(t, p, path)
		})
	}
}

func testGoroutines(t *testing.T, p *program, path string) {
	t.Helper()
	n := newNames(t, path, p.bias)
	if p.layout.scheduler == nil {
		t.Fatal("no goroutines are found")
	}
	inSyscall := 0
	for _, more := range []int{1, 4} {
		p.order("start %d", more)
		if !p.layout.scheduler.syscalls {
			inSyscall += 10 * more
		}
		// They have begun, but nothing tells when the last one waits.
		for begin := time.Now(); ; {
			d := compareGoroutines(t, p, n, inSyscall)
			if d == "" {
				break
			}
			if time.Since(begin) > 10*time.Second {
				t.Fatal(d[:min(len(d), 3000)])
			}
		}
	}
	r := p.reader()
	if got, err := r.Goroutines(Limits{Goroutines: 7}); err != nil || got.Complete || got.Reason != "more than 7 goroutines" {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := r.Goroutines(Limits{Bytes: 20_000}); err != nil || got.Complete || !strings.Contains(got.Reason, "limit of bytes") {
		t.Errorf("%+v, %v", got, err)
	}
	p.kill()
	if got, err := r.Goroutines(patient); !errors.Is(err, ErrGone) {
		t.Errorf("%+v, %v", got, err)
	}
}

// compareGoroutines says what differs. The main goroutine answers us and is left out, as are those in system calls if
// these are not seen.
func compareGoroutines(t *testing.T, p *program, n *names, inSyscall int) string {
	t.Helper()
	got, err := p.reader().Goroutines(patient)
	if err != nil {
		t.Fatal(err)
	}
	left := func(stack string) bool {
		return strings.Contains(stack, "main.main") || inSyscall > 0 && strings.Contains(stack, "main.blockedRead")
	}
	have, want := map[string]int{}, map[string]int{}
	for _, s := range got.Stacks {
		frames := slices.DeleteFunc(n.of(s.Stack), func(name string) bool { return name == "runtime.goexit" })
		if last := frames[len(frames)-1]; strings.HasPrefix(last, "runtime.") && last != "runtime.main" {
			continue
		}
		if stack := strings.Join(frames, " "); !left(stack) {
			have[stack] += s.Count
		}
	}
	raw, err := hex.DecodeString(p.order("goroutines"))
	if err != nil {
		t.Fatal(err)
	}
	prof, err := pprof.Parse(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range prof.Sample {
		var frames []string
		for _, l := range s.Location {
			for _, line := range l.Line {
				frames = append(frames, printed(line.Function.Name))
			}
		}
		if stack := strings.Join(frames, " "); !left(stack) {
			want[stack] += int(s.Value[0])
		}
	}
	list := func(m map[string]int) (out []string) {
		for stack, count := range m {
			out = append(out, fmt.Sprint(stack, " ", count))
		}
		slices.Sort(out)
		return out
	}
	d := difference(list(have), list(want))
	if len(want) < 9 {
		d += fmt.Sprintf("%d stacks only\n", len(want))
	}
	// The main goroutine and the runtime's own may be on a CPU, too.
	if got.Running < inSyscall || got.Running > inSyscall+3 || !got.Complete {
		d += fmt.Sprintf("%d running, want %d; complete %v\n", got.Running, inSyscall, got.Complete)
	}
	return d
}

// TestGoroutineStorm reads goroutines that wake each other all the time: each has a whole stack or is running.
func TestGoroutineStorm(t *testing.T) {
	path := build(t, "local", "goroutines", nil)
	p := start(t, path, "")
	p.order("storm 50")
	n := newNames(t, path, p.bias)
	r := p.reader()
	whole := map[string]bool{}
	running, standing := 0, 0
	for range 300 {
		got, err := r.Goroutines(patient)
		if err != nil {
			t.Fatal(err)
		}
		total := got.Running
		for _, s := range got.Stacks {
			total += s.Count
			key := fmt.Sprint(s.Stack)
			if _, seen := whole[key]; !seen {
				frames := n.of(s.Stack)
				whole[key] = true
				if frames[len(frames)-1] != "runtime.goexit" && len(s.Stack) > 1 || slices.Contains(frames, "?") {
					t.Fatalf("%d times %v", s.Count, frames)
				}
			}
		}
		if total < 101 || total > 120 {
			t.Fatalf("%d goroutines, want 100 and the runtime's own: %+v", total, got)
		}
		running += got.Running
		standing += total - got.Running
	}
	t.Logf("%d stacks; of 300 reads %d goroutines were running, %d not", len(whole), running, standing)
	if standing < running || len(whole) < 5 {
		t.Errorf("%d stacks; of 300 reads %d goroutines were running, %d not", len(whole), running, standing)
	}
}

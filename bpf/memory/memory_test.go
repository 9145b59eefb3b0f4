package memory

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"regexp"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"
)

var instructions = regexp.MustCompile(`processed (\d+) insns`)

// loadAll loads every program that this kernel can have.
func loadAll(t *testing.T, rate uint64) *ebpf.Collection {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("loading programs needs root")
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Logf("raising the memlock limit: %v", err)
	}
	if err := features.HaveProgramHelper(ebpf.Kprobe, asm.FnLoop); err != nil {
		t.Skipf("bpf_loop: %v", err)
	}
	spec, err := loadMemory()
	if err != nil {
		t.Fatal(err)
	}
	if !have(attachSession) {
		t.Log("this kernel has no uprobe sessions: memory_session is left out")
		delete(spec.Programs, "memory_session")
	}
	if err := spec.Variables["rate_ln2"].Set(uint64(float64(rate) * math.Ln2)); err != nil {
		t.Fatal(err)
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats},
	})
	var verr *ebpf.VerifierError
	if errors.As(err, &verr) {
		t.Fatalf("%v\n%v", err, verr.Log[max(0, len(verr.Log)-80):])
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(coll.Close)
	return coll
}

// TestVerifier loads every program and prints what the verifier had to walk through.
func TestVerifier(t *testing.T) {
	for name, p := range loadAll(t, DefaultRate).Programs {
		m := instructions.FindStringSubmatch(p.VerifierLog)
		if m == nil {
			t.Errorf("%s: no statistics in the verifier's log: %q", name, p.VerifierLog)
			continue
		}
		t.Logf("%s: %s instructions verified", name, m[1])
	}
}

// TestDraw compares what the kernel side draws with an exponential distribution: its mean, its deviation, and how
// many fall into each tenth of it.
func TestDraw(t *testing.T) {
	for _, rate := range []uint64{1 << 12, DefaultRate, 1 << 30} {
		p := loadAll(t, rate).Programs["memory_draw"]
		const each, rounds = 64, 3200 // as many as the program's context holds
		const n = each * rounds
		var sum, squares float64
		var deciles [10]int
		for range rounds {
			out := make([]byte, 8*each)
			_, err := p.Run(&ebpf.RunOptions{Context: make([]byte, 8*each), ContextOut: out})
			if errors.Is(err, ebpf.ErrNotSupported) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			for i := range each {
				x := float64(binary.NativeEndian.Uint64(out[8*i:])) / float64(rate)
				sum += x
				squares += x * x
				deciles[min(int(10*(1-math.Exp(-x))), 9)]++
			}
		}
		mean := sum / n
		deviation := math.Sqrt(squares/n - mean*mean)
		t.Logf("rate %d: mean %.4f, deviation %.4f of the rate, by tenths %v", rate, mean, deviation, deciles)
		// Five standard errors of n draws, and what rounding down to a 65536th of the rate takes.
		if math.Abs(mean-1) > 5/math.Sqrt(n)+2e-4 {
			t.Errorf("rate %d: the mean is %.4f of it", rate, mean)
		}
		if math.Abs(deviation-1) > 5*2/math.Sqrt(n) {
			t.Errorf("rate %d: the deviation is %.4f of it, want 1", rate, deviation)
		}
		for i, got := range deciles {
			if math.Abs(float64(got)-n/10) > 5*math.Sqrt(n*0.1*0.9)+n*2e-4 {
				t.Errorf("rate %d: %d of %d draws in the tenth %d, want a tenth", rate, got, n, i)
			}
		}
	}
}

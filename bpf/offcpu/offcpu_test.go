package offcpu

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/perfuse/perfuse/bpf/cpu"
)

// TestLoad loads and attaches the programs beside those of package cpu, prints what the verifier had to walk through, and runs
// a tick.
func TestLoad(t *testing.T) {
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Logf("raising the memlock limit: %v", err)
	}
	c, err := cpu.Load(cpu.Options{})
	if errors.Is(err, ebpf.ErrNotSupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p, err := Load(c, Options{RingBytes: 1 << 20, Wakers: true})
	if errors.Is(err, ebpf.ErrNotSupported) {
		t.Skip(err)
	}
	var verr *ebpf.VerifierError
	if errors.As(err, &verr) {
		t.Fatalf("%v\n%+v", err, verr.Log[max(0, len(verr.Log)-80):])
	}
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, coll := range p.colls {
		for name, program := range coll.Programs {
			info, err := program.Info()
			if err != nil {
				t.Fatal(err)
			}
			if n, ok := info.VerifiedInstructions(); ok {
				t.Logf("%s: %d instructions verified", name, n)
			}
		}
	}
	for _, last := range []bool{false, true} {
		n, err := p.Tick(last)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			t.Error("the iterator has seen no thread")
		}
	}
}

package cpu

import (
	"errors"
	"os"
	"regexp"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"
)

var instructions = regexp.MustCompile(`processed (\d+) insns`)

// TestVerifier loads every program that this kernel has the helpers for, and prints what its verifier
// had to walk through.
func TestVerifier(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("loading programs needs root")
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Logf("raising the memlock limit: %v", err)
	}
	spec, err := loadCpu()
	if err != nil {
		t.Fatal(err)
	}
	// What is switched off is no code to the verifier.
	for _, name := range []string{"spans_enabled", "verify"} {
		if err := spec.Variables[name].Set(true); err != nil {
			t.Fatal(err)
		}
	}
	if err := features.HaveProgramHelper(ebpf.PerfEvent, asm.FnLoop); errors.Is(err, ebpf.ErrNotSupported) {
		t.Log("this kernel has no bpf_loop: cpu_loop and fault_loop are left out")
		delete(spec.Programs, "cpu_loop")
		delete(spec.Programs, "fault_loop")
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats},
	})
	if errors.Is(err, ebpf.ErrNotSupported) {
		t.Skip(err)
	}
	var verr *ebpf.VerifierError
	if errors.As(err, &verr) {
		n := len(verr.Log)
		t.Fatalf("%v\n%v", err, verr.Log[max(0, n-80):])
	}
	if err != nil {
		t.Fatal(err)
	}
	defer coll.Close()
	for name, p := range coll.Programs {
		m := instructions.FindStringSubmatch(p.VerifierLog)
		if m == nil {
			t.Errorf("%s: no statistics in the verifier's log: %q", name, p.VerifierLog)
			continue
		}
		t.Logf("%s: %s instructions verified", name, m[1])
	}
}

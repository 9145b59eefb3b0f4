package running

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

func TestHeldPrograms(t *testing.T) {
	f := func(want []ebpf.ProgramID, files ...string) {
		t.Helper()
		folder := t.TempDir()
		for i, text := range files {
			if err := os.WriteFile(filepath.Join(folder, fmt.Sprint(i)), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		ids, err := heldPrograms(folder)
		if got := slices.Sorted(maps.Keys(ids)); err != nil || !slices.Equal(got, want) {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
	}
	f(nil)
	f(nil, "pos:\t0\nflags:\t02\n")
	f([]ebpf.ProgramID{7}, "pos:\t0\nprog_type:\t7\nprog_jited:\t1\nprog_id:\t7\n")
	f([]ebpf.ProgramID{7, 9}, "link_type:\ttracing\nlink_id:\t3\nprog_id:\t9\n", "prog_id:\t7\n", "prog_id:\t9\n")
	f(nil, "prog_id:\t\n", "prog_id:\t-1\n", "prog_id:\t99999999999\n", "map_id:\t4\n")
}

func TestSinceBPF(t *testing.T) {
	before := map[ebpf.ProgramID]BPFProgram{1: {"a", 10, time.Second}}
	after := map[ebpf.ProgramID]BPFProgram{1: {"a", 15, 3 * time.Second}, 2: {"a", 1, time.Second}, 3: {"b", 2, 5}}
	want := map[string]BPFProgram{"a": {"a", 6, 3 * time.Second}, "b": {"b", 2, 5}}
	if got := SinceBPF(before, after); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

package offcpu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/bpf/cpu"
)

func TestMain(m *testing.M) {
	switch os.Getenv(step) {
	case "thread":
		execInThread()
	case "wait":
		fmt.Println("done")
		_, _ = os.Stdin.Read(make([]byte, 1))
	default:
		os.Exit(m.Run())
	}
}

const step = "OFFCPU_TEST_STEP"

// execInThread starts this program anew from a thread that is not the process's first, when it is told to.
func execInThread() {
	runtime.LockOSThread() // the first thread stays here
	go func() {
		runtime.LockOSThread()
		fmt.Println(unix.Gettid())
		_, _ = unix.Read(0, make([]byte, 1)) // not through the runtime: this thread waits
		os.Setenv(step, "wait")
		fmt.Println(unix.Exec("/proc/self/exe", os.Args, os.Environ()))
	}()
	select {}
}

// loadAll loads and attaches the programs beside those of package cpu.
func loadAll(t *testing.T) *Programs {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("loading programs needs root")
	}
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
	t.Cleanup(c.Close)
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
	t.Cleanup(p.Close)
	return p
}

// TestExec: a thread that execs becomes the first of its process, and what was known by its own id is forgotten.
func TestExec(t *testing.T) {
	p := loadAll(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), step+"=thread")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cancel()
	lines := bufio.NewScanner(out)
	lines.Scan()
	tid, err := strconv.ParseUint(lines.Text(), 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	if int(tid) == cmd.Process.Pid {
		t.Fatal("the thread is the first")
	}
	known := func(id uint32) bool {
		var v offcpuThread
		err := p.colls[0].Maps["threads"].Lookup(id, &v)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) || ctx.Err() != nil {
			t.Fatal(err, ctx.Err())
		}
		return err == nil
	}
	for !known(uint32(tid)) { // until it waits
		runtime.Gosched()
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	if lines.Scan(); lines.Text() != "done" {
		t.Fatalf("the program says %q", lines.Text())
	}
	if known(uint32(tid)) {
		t.Error("the thread's old id is still known")
	}
	for !known(uint32(cmd.Process.Pid)) { // until it waits, under its new id
		runtime.Gosched()
	}
}

// TestLoad loads and attaches the programs beside those of package cpu, prints what the verifier had to walk through, and runs
// a tick.
func TestLoad(t *testing.T) {
	p := loadAll(t)
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

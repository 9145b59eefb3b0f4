package e2e

import (
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestKill kills `perfuse up` without warning while four clients send, starts it again on the same storage, and counts:
// what was acknowledged is there, once; what was on its way is there once or not at all. PERFUSE_TEST_KILL_TIMES says
// how often, here and in storage/frost.
func TestKill(t *testing.T) {
	const (
		clients = 4
		batch   = 20 // stacks a request
	)
	times := 4
	if n, err := strconv.Atoi(os.Getenv("PERFUSE_TEST_KILL_TIMES")); err == nil {
		times = n
	}
	storage := t.TempDir()
	address := freeAddress(t)
	var sent, acknowledged []string
	next := 0
	for round := range times {
		in := start(t, "up", address, storage)
		if round > 0 {
			checkKept(t, in, sent, acknowledged)
		}
		var (
			mu      sync.Mutex
			acks    atomic.Int64
			wait    sync.WaitGroup
			enough  = make(chan struct{})
			isClose sync.Once
			first   = next
			// Each round dies at another moment: after some requests, while others are under way.
			moment = 1 + rand.Int64N(int64(max(2000/times, 100)))
		)
		for range clients {
			wait.Go(func() {
				for {
					mu.Lock()
					names := numbered("stack", next, batch)
					next += batch
					sent = append(sent, names...)
					mu.Unlock()
					status, answer := in.export(export(t, "crash", time.Now(), names...))
					if status == 0 {
						return // killed
					}
					if status != http.StatusOK {
						t.Errorf("sending answers %d: %s", status, answer)
						isClose.Do(func() { close(enough) })
						return
					}
					mu.Lock()
					acknowledged = append(acknowledged, names...)
					mu.Unlock()
					if acks.Add(1) == moment {
						isClose.Do(func() { close(enough) })
					}
				}
			})
		}
		<-enough
		in.kill()
		wait.Wait()
		if t.Failed() {
			return
		}
		t.Logf("round %d: %d stacks sent, %d acknowledged in all", round, next-first, len(acknowledged))
	}
	in := start(t, "up", address, storage)
	checkKept(t, in, sent, acknowledged)
	in.stop(t)
}

func checkKept(t *testing.T, in *instance, sent, acknowledged []string) {
	t.Helper()
	kept := in.folded(t, "crash", "process_cpu:samples")
	lost := 0
	for _, name := range acknowledged {
		if kept["main;"+name] == 0 {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d acknowledged stacks are lost", lost, len(acknowledged))
	}
	known := map[string]bool{}
	for _, name := range sent {
		known["main;"+name] = true
	}
	for stack, value := range kept {
		if value != 1 {
			t.Errorf("%s is there %d times", stack, value)
		}
		if !known[stack] {
			t.Errorf("%s was never sent", stack)
		}
	}
}

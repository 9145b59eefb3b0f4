package frost

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const (
	killDirEnv   = "PERFUSE_TEST_KILL_DIR"
	killFirstEnv = "PERFUSE_TEST_KILL_FIRST"
	killTimesEnv = "PERFUSE_TEST_KILL_TIMES"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(killDirEnv); dir != "" {
		if err := writeForEver(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// writeForEver is the child of TestKill: it writes numbered batches from several goroutines, says on standard
// output which were acknowledged, and is killed.
func writeForEver(dir string) error {
	first, err := strconv.Atoi(os.Getenv(killFirstEnv))
	if err != nil {
		return err
	}
	s, err := New(Options{Dir: dir, Retention: -1, HeadBytes: 3000, SegmentBytes: 8 << 10})
	if err != nil {
		return err
	}
	const writers = 4
	var mu sync.Mutex
	errs := make(chan error, writers)
	for w := range writers {
		go func() {
			for i := first + w; ; i += writers {
				if err := s.Write(context.Background(), batchOf(i)); err != nil {
					errs <- err
					return
				}
				mu.Lock()
				_, err := fmt.Println(i)
				mu.Unlock()
				if err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	return <-errs
}

// TestKill kills a writing process at random moments, again and again on the same directory, and finds every
// acknowledged batch exactly once each time.
func TestKill(t *testing.T) {
	times := 20
	if v, err := strconv.Atoi(os.Getenv(killTimesEnv)); err == nil {
		times = v
	}
	dir := t.TempDir()
	acked := map[int]bool{}
	first := 0
	blocks, generation := 0, uint32(0)
	rnd := rand.New(rand.NewPCG(1, uint64(os.Getpid())))
	for round := range times {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), killDirEnv+"="+dir, killFirstEnv+"="+strconv.Itoa(first))
		var stderr strings.Builder
		child.Stderr = &stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		// The child is killed somewhere after this many acknowledgements; those under way come on top.
		after := 1 + rnd.IntN(250)
		lines := bufio.NewScanner(out)
		n, last := 0, first
		for lines.Scan() {
			i, err := strconv.Atoi(lines.Text())
			if err != nil {
				break // the kill tore the line
			}
			acked[i] = true
			last = max(last, i)
			if n++; n == after {
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := child.Wait(); err == nil || n < after {
			t.Fatalf("round %d: the child ended by itself after %d of %d: %v %s", round, n, after, err, stderr.String())
		}
		s, err := New(Options{Dir: dir, Retention: -1})
		if err != nil {
			t.Fatalf("round %d: opening what was killed: %v", round, err)
		}
		got := found(t, s)
		there := map[int]bool{}
		for name, v := range got {
			if name == "shared" {
				continue
			}
			var i int
			if _, err := fmt.Sscanf(name, "own%d", &i); err != nil || v != 1 {
				t.Fatalf("round %d: %s is there %d times", round, name, v)
			}
			there[i] = true
			last = max(last, i)
		}
		for i := range acked {
			if !there[i] {
				t.Fatalf("round %d: acknowledged batch %d is lost\nlosses %v", round, i, s.Stats().Losses)
			}
		}
		knows(t, fmt.Sprintf("round %d", round), s)
		if v := got["shared"]; v != int64(2*len(there)) {
			t.Fatalf("round %d: the shared stack has %d, want %d", round, v, 2*len(there))
		}
		acked = there // what was on disk when it was killed stays
		blocks = len(s.Stats().Blocks)
		for _, b := range s.Stats().Blocks {
			generation = max(generation, b.Generation)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		first = last + 8
	}
	if generation == 0 { // one block of several is of generation 1
		t.Errorf("%d blocks of generation 0: the kills met no rotation or no compaction", blocks)
	}
	t.Logf("%d kills, %d batches, %d blocks, generation %d", times, len(acked), blocks, generation)
}

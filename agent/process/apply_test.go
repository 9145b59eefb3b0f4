package process

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// teller writes down what a table says.
type teller struct{ b strings.Builder }

func (w *teller) Started(p *Process, ms []Mapping) {
	fmt.Fprintf(&w.b, "started g%d pid=%d parent=%d comm=%q exe=%q%s\n", p.Generation, p.PID, p.Parent, p.Comm, p.Executable, mapText(ms))
}
func (w *teller) Mapped(p *Process, m Mapping) {
	fmt.Fprintf(&w.b, "mapped g%d%s\n", p.Generation, mapText([]Mapping{m}))
}
func (w *teller) Exited(p *Process) { fmt.Fprintf(&w.b, "exited g%d\n", p.Generation) }

func mapText(ms []Mapping) string {
	var b strings.Builder
	for _, m := range ms {
		fmt.Fprintf(&b, " %x-%x+%x:%s", m.Start, m.End, m.Offset, m.Path)
	}
	return b.String()
}

// transcript is a table without kernel, with a /proc of its own.
type transcript struct {
	t     *testing.T
	table *Table
	said  *teller
	proc  string
	now   uint64
	// scanned is when the last scan began.
	scanned uint64
}

func newTranscript(t *testing.T) *transcript {
	tr := &transcript{t: t, said: &teller{}, proc: t.TempDir()}
	opts := Options{Node: "n", Proc: tr.proc, Observers: []Observer{tr.said}, MaxMappings: 8, Grace: time.Minute}
	if err := opts.setDefaults(); err != nil {
		t.Fatal(err)
	}
	var err error
	if tr.table, err = newTable(opts); err != nil {
		t.Fatal(err)
	}
	tr.now = monotonic()
	return tr
}

// process writes /proc/PID.
func (tr *transcript) process(pid int, comm, exe string, threads int, state, maps string) {
	dir := filepath.Join(tr.proc, strconv.Itoa(pid))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tr.t.Fatal(err)
	}
	stat := fmt.Sprintf("%d (%s) %s 1 1 0 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 %d 0 4711 9 9", pid, comm, state, threads)
	os.WriteFile(filepath.Join(dir, "stat"), []byte(stat), 0o644)
	os.WriteFile(filepath.Join(dir, "maps"), []byte(maps), 0o644)
	os.Remove(filepath.Join(dir, "exe"))
	os.Symlink(exe, filepath.Join(dir, "exe"))
	os.Symlink("/", filepath.Join(dir, "root"))
}

// line does one line of a transcript.
func (tr *transcript) line(line string) {
	f := strings.Fields(line)
	num := func(i int) uint32 {
		n, err := strconv.ParseUint(f[i], 10, 32)
		if err != nil {
			tr.t.Fatalf("%s: %v", line, err)
		}
		return uint32(n)
	}
	tr.now += 1000
	r := record{time: tr.now}
	if f[0] == "old" { // from before the last scan
		f, r.time = f[1:], tr.scanned-1
	}
	switch f[0] {
	case "fork": // pid parent
		r.kind, r.pid, r.tid, r.ppid, r.ptid = recordFork, num(1), num(1), num(2), num(2)
	case "thread": // pid tid
		r.kind, r.pid, r.tid, r.ppid, r.ptid = recordFork, num(1), num(2), num(1), num(1)
	case "exec": // pid comm
		r.kind, r.pid, r.tid, r.text = recordExec, num(1), num(1), f[2]
	case "comm": // pid tid name
		r.kind, r.pid, r.tid, r.text = recordComm, num(1), num(2), f[3]
	case "exit": // pid tid
		r.kind, r.pid, r.tid = recordExit, num(1), num(2)
	case "map": // pid start-end offset path
		r.kind, r.pid, r.tid, r.text = recordMap, num(1), num(1), f[4]
		fmt.Sscanf(f[2], "%x-%x", &r.mapping.Start, &r.mapping.End)
		if !strings.HasPrefix(f[4], "[") && f[4] != "//anon" {
			fmt.Sscanf(f[3], "%x", &r.mapping.Offset)
			r.mapping.File = FileID{Dev: 1, Inode: uint64(len(f[4]))}
		}
	case "lost":
		r.kind, r.lost = recordLost, 5
	case "late":
		r.kind = recordOther
		tr.table.announceLate(tr.now + uint64(time.Second))
	case "scan", "rescan":
		tr.now, tr.scanned = monotonic(), monotonic()
		if err := tr.table.queue.fill(tr.proc); err != nil {
			tr.t.Fatal(err)
		}
		tr.table.queue.thorough = f[0] == "rescan"
		for tr.table.scan(time.Second) {
		}
		tr.now = max(tr.now, monotonic())
	case "queued":
		for tr.table.scan(time.Second) {
		}
		tr.now = max(tr.now, monotonic())
	case "check":
		tr.table.queue.checkWatched(tr.table)
	case "gone": // pid
		os.RemoveAll(filepath.Join(tr.proc, f[1]))
	case "show": // pid
		var all []string
		for p := tr.table.byPID[PID(num(1))]; p != nil; p = p.older {
			all = append(all, fmt.Sprintf("g%d ended=%v comm=%q%s", p.Generation, p.end != 0, p.currentComm(), mapText(p.Mappings())))
		}
		fmt.Fprintf(&tr.said.b, "pid %d: %s\n", num(1), strings.Join(all, " | "))
	case "forget":
		tr.table.forgetEnded(tr.now + uint64(2*time.Minute))
	default:
		tr.t.Fatalf("unknown: %s", line)
	}
	if r.kind != recordOther {
		tr.table.apply(&r)
	}
}

func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata/table", func(t *testing.T, path string) {
		tr := newTranscript(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			tr.said.b.Reset()
			switch d.Cmd {
			case "run":
				for line := range strings.Lines(d.Input) {
					tr.line(strings.TrimSpace(line))
				}
			case "proc": // pid= comm= exe= threads= state=, maps as input
				var pid, threads int
				var comm, exe, state string
				d.ScanArgs(t, "pid", &pid)
				d.ScanArgs(t, "comm", &comm)
				d.ScanArgs(t, "exe", &exe)
				d.MaybeScanArgs(t, "threads", &threads)
				d.MaybeScanArgs(t, "state", &state)
				if state == "" {
					state = "S"
				}
				tr.process(pid, comm, exe, max(threads, 1), state, d.Input)
			}
			return tr.said.b.String()
		})
	})
}

// The list of mappings is what a memory of pages says that it is.
func TestMappingsModel(t *testing.T) {
	const pages, page = 40, 0x1000
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 7))
		p := &Process{}
		type content struct {
			file   FileID
			offset uint64
			path   string
		}
		var model [pages]content
		var child *Process
		var childWant []Mapping
		for range 60 {
			a, b := rng.Uint64N(pages), rng.Uint64N(pages)
			if a == b {
				continue
			}
			a, b = min(a, b), max(a, b)
			m := Mapping{Start: a * page, End: b * page, Path: "//anon"}
			if rng.IntN(3) > 0 {
				n := rng.Uint64N(3) + 1
				m.File, m.Path, m.Offset = FileID{Inode: n}, fmt.Sprint("/", n), rng.Uint64N(9)*page
			}
			if _, full := p.addMapping(m, 1000); full {
				t.Fatal("full")
			}
			for i := a; i < b; i++ {
				c := content{m.File, m.Offset, m.Path}
				if m.File != (FileID{}) {
					c.offset += (i - a) * page
				}
				model[i] = c
			}
			if rng.IntN(20) == 0 {
				child = &Process{mappings: p.share(), shared: true}
				childWant = slices.Clone(child.mappings)
			}
			if child != nil && rng.IntN(5) == 0 && child.shared {
				if !slices.Equal(child.mappings, childWant) {
					t.Fatalf("seed %d: the parent's changes reach the child", seed)
				}
			}
		}
		for i := range uint64(pages) {
			for _, at := range []uint64{i * page, i*page + page - 1} {
				m, ok := p.Mapping(at)
				got := content{}
				if ok {
					got = content{m.File, m.Offset, m.Path}
					if m.File != (FileID{}) {
						got.offset += i*page - m.Start
					}
				}
				if got != model[i] {
					t.Fatalf("seed %d: at %#x %+v, want %+v", seed, at, got, model[i])
				}
			}
		}
		if !slices.IsSortedFunc(p.mappings, func(a, b Mapping) int { return int(a.Start) - int(b.Start) }) {
			t.Fatalf("seed %d: %v", seed, p.mappings)
		}
	}
}

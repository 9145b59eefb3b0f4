package process

import (
	"errors"
	"strings"
	"time"

	"github.com/go-kit/log/level"
)

// apply brings the table up to date with one record of the kernel.
func (t *Table) apply(r *record) {
	pid := PID(r.pid)
	if r.kind == recordLost {
		t.metrics.lost.Add(float64(r.lost))
		t.lost = true
		return
	}
	if pid == 0 || int32(pid) < 0 {
		return
	}
	switch r.kind {
	case recordFork:
		t.applyFork(r)
	case recordExec:
		t.applyExec(r)
	case recordComm:
		if r.pid == r.tid {
			if p := t.current(pid); p != nil && r.time >= p.synced {
				p.rename(r.text)
			}
		}
	case recordMap:
		if !isProbe(r) {
			t.applyMap(r)
		}
	case recordExit:
		t.applyExit(r)
	}
}

// current is the live process of a pid, announced or not.
func (t *Table) current(pid PID) *Process {
	if p := t.opening[pid]; p != nil {
		return p
	}
	// Only this goroutine writes the map: reading it needs no lock.
	if p := t.byPID[pid]; p != nil && p.end == 0 {
		return p
	}
	return nil
}

func (t *Table) newProcess(pid, parent PID, start uint64) *Process {
	t.generation++
	return &Process{PID: pid, Parent: parent, Generation: t.generation, StartTime: t.wall(start), table: t, start: start}
}

func (t *Table) applyFork(r *record) {
	pid, parent := PID(r.pid), PID(r.ppid)
	if r.pid != r.tid || r.pid == r.ppid {
		if p := t.current(pid); p != nil && r.time >= p.synced {
			p.threads++
		}
		return
	}
	if p := t.current(pid); p != nil {
		if r.time <= max(p.start, p.synced) {
			return // the scan saw it first
		}
		t.end(p, r.time) // its exit was lost
	}
	from := t.current(parent)
	if from == nil {
		t.queue.push(pid)
		return
	}
	t.announce(from)
	p := t.newProcess(pid, parent, r.time)
	p.born = r.time + t.sleptFor
	p.Comm, p.Executable, p.Kernel = from.currentComm(), from.Executable, from.Kernel
	p.comm, p.threads = p.Comm, 1
	p.mappings, p.shared = from.share(), true
	p.identity = from.identity.fork()
	t.metrics.forks.Inc()
	t.start(p)
	if t.queue.thorough && from.synced < t.queue.filled {
		t.queue.push(pid) // the parent is still to be read: what the child has of it may be incomplete
	}
}

func (t *Table) applyExec(r *record) {
	pid := PID(r.pid)
	p := t.newProcess(pid, 0, r.time)
	p.Comm, p.comm, p.threads = r.text, r.text, 1
	p.mappings = make([]Mapping, 0, 6) // of a small dynamic program
	if old := t.current(pid); old != nil {
		if r.time < old.synced {
			return
		}
		p.Parent, p.born = old.Parent, old.born
		p.identity = old.identity.exec()
		t.end(old, r.time)
	}
	if p.identity == nil {
		p.identity = &identity{}
	}
	t.metrics.execs.Inc()
	t.opening[pid] = p
}

func (t *Table) applyMap(r *record) {
	p := t.current(PID(r.pid))
	if p == nil {
		t.queue.push(PID(r.pid))
		return
	}
	if r.time < p.synced {
		return
	}
	m := r.mapping
	m.Path = r.text
	if t.opening[p.PID] == p {
		if m.File != (FileID{}) {
			p.Executable = strings.TrimSuffix(m.Path, " (deleted)")
		}
		t.announce(p)
	} else if p.Executable == "" && !p.Kernel && m.File != (FileID{}) {
		t.queue.push(p.PID) // it was announced before its first mapping came, which now names it
	}
	t.mapped(p, m)
}

func (t *Table) mapped(p *Process, m Mapping) {
	added, full := p.addMapping(m, t.opts.MaxMappings)
	if full {
		// Most of them are gone: the kernel does not report munmap. Look at what is really there.
		t.metrics.mappingsDropped.Inc()
		t.queue.push(p.PID)
	}
	if added {
		for _, o := range t.opts.Observers {
			o.Mapped(p, m)
		}
	}
}

// applyExit counts a thread's end. A process ends with its last thread, which need not be the leader.
func (t *Table) applyExit(r *record) {
	p := t.current(PID(r.pid))
	if p == nil || r.time < p.synced {
		return
	}
	if r.pid == r.tid {
		if p.leaderGone {
			return // the scan has seen it on its way out
		}
		p.leaderGone = true
	}
	p.threads--
	if !p.leaderGone {
		return
	}
	if p.threads <= 0 {
		t.end(p, r.time)
		return
	}
	t.queue.watch(p) // should the count be wrong, /proc will tell
}

// announce tells the observers of an exec'ed process.
func (t *Table) announce(p *Process) {
	if t.opening[p.PID] != p {
		return
	}
	delete(t.opening, p.PID)
	t.start(p)
	t.young = append(t.young, p)
}

// openingPatience is how long an exec waits for the first mapping, which names its executable. The kernel
// makes both within one system call.
const openingPatience = 10 * time.Millisecond

// announceLate announces the exec'ed processes whose first mapping does not come. It says whether there are
// others that are still waited for. drained is the time up to which all records have been applied.
func (t *Table) announceLate(drained uint64) bool {
	if len(t.opening) == 0 {
		return false
	}
	for _, p := range t.opening {
		if drained-min(p.start, drained) < uint64(openingPatience) {
			continue
		}
		exe, alive := t.executable(p.PID)
		if exe == "" && alive && drained-p.start < uint64(time.Second) {
			continue // in the middle of something: a mapping may still come
		}
		p.Executable = exe
		t.announce(p)
	}
	return len(t.opening) > 0
}

// executable asks /proc for the main program of a process, and whether there is such a process.
func (t *Table) executable(pid PID) (exe string, alive bool) {
	d, err := openProcDir(t.opts.Proc, pid)
	if err != nil {
		return "", false
	}
	defer func() { d.close() }()
	exe, err = d.readlink("exe")
	if err != nil {
		// The main thread may have ended; others show what it was.
		tid := otherThread(d, pid)
		if tid == 0 {
			return "", true
		}
		d2, err := openProcDir(t.opts.Proc, tid)
		if err != nil {
			return "", true
		}
		d.close()
		d = d2
		if exe, err = d.readlink("exe"); err != nil {
			return "", true
		}
	}
	root, _ := d.readlink("root") // unknown: as if it were "/"
	return strings.TrimSuffix(withinRoot(exe, root), " (deleted)"), true
}

// start enters a process into the table and tells the observers.
func (t *Table) start(p *Process) {
	t.mu.Lock()
	old := t.byPID[p.PID]
	p.older = old
	if old != nil {
		old.newer = p
	}
	t.byPID[p.PID] = p
	t.byGeneration[p.Generation] = p
	t.mu.Unlock()
	for _, o := range t.opts.Observers {
		o.Started(p, p.mappings)
	}
}

// end marks a process as ended and tells the observers.
func (t *Table) end(p *Process, at uint64) {
	t.announce(p)
	t.mu.Lock()
	p.end = max(at, 1)
	t.ended = append(t.ended, p)
	t.mu.Unlock()
	for _, o := range t.opts.Observers {
		o.Exited(p)
	}
}

// forgetEnded drops the processes whose grace period is over.
func (t *Table) forgetEnded(now uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for n < len(t.ended) && (len(t.ended)-n > t.opts.MaxEnded || t.ended[n].end+uint64(t.opts.Grace) < now) {
		p := t.ended[n]
		delete(t.byGeneration, p.Generation)
		if p.newer != nil {
			p.newer.older = p.older
		} else if p.older == nil {
			delete(t.byPID, p.PID)
		} else {
			t.byPID[p.PID] = p.older
		}
		if p.older != nil {
			p.older.newer = p.newer
		}
		t.ended[n] = nil
		n++
	}
	t.ended = t.ended[n:]
}

// keepHouse does once a second what has no event of its own.
func (t *Table) keepHouse() error {
	t.setBootOffset()
	now := monotonic()
	t.forgetEnded(now)
	t.metrics.garbled.Add(float64(t.events.garbled))
	t.events.garbled = 0
	t.queue.checkWatched(t)
	changed, err := t.events.followCPUs()
	t.lost = t.lost || changed
	since := time.Duration(now - t.queue.filled)
	if !t.queue.busy() && (since > auditEvery || t.lost && since > t.queue.pause) {
		t.queue.thorough = t.lost
		if t.lost {
			level.Warn(t.opts.Logger).Log("msg", "kernel records were lost; reading /proc again")
		}
		t.lost = false
		err = errors.Join(err, t.queue.fill(t.opts.Proc))
	}
	return err
}

// untilNextTask is how long the table may wait for records.
func (t *Table) untilNextTask(kept time.Time) time.Duration {
	d := housekeep - time.Since(kept)
	for len(t.young) > 0 && t.young[0].end != 0 {
		t.young[0] = nil
		t.young = t.young[1:]
	}
	if len(t.young) > 0 {
		d = min(d, time.Duration(t.young[0].start+uint64(youngAge)-min(monotonic(), t.young[0].start+uint64(youngAge))))
	}
	return d
}

// rename is a prctl(PR_SET_NAME) of the main thread.
func (p *Process) rename(comm string) {
	p.mu.Lock()
	p.comm = comm
	p.mu.Unlock()
}

func (p *Process) currentComm() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.comm
}

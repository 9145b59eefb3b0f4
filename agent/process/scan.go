package process

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-kit/log/level"
	"golang.org/x/sys/unix"
)

// auditEvery is how often the list of /proc is compared with the table even if nothing was lost.
const auditEvery = time.Minute

// rereadPause is how long nothing is read again, per process, after all of /proc was because records were lost.
// A process takes about 0.1 ms.
const rereadPause = 2 * time.Millisecond

// userHZ is the unit of times in /proc, fixed in the kernel's user interface on amd64 and arm64.
const userHZ = 100

// scanQueue is the processes to be read from /proc. The table works it off in small portions between two
// looks at the rings, so that a scan of ten thousand processes does not let the rings run over.
type scanQueue struct {
	pids   []PID
	queued map[PID]struct{}
	// listing is true from fill until all listed processes have been read.
	listing bool
	// thorough: read also the processes that are known, their records may be lost.
	thorough bool
	pause    time.Duration // after the last thorough reading
	filled   uint64        // when /proc was last listed
	begun    bool
	// watched processes have lost their leader but not, by count, their last thread.
	watched []*Process
}

func (q *scanQueue) push(pid PID) {
	if _, ok := q.queued[pid]; ok {
		return
	}
	if q.queued == nil {
		q.queued = map[PID]struct{}{}
	}
	q.queued[pid] = struct{}{}
	q.pids = append(q.pids, pid)
}

func (q *scanQueue) busy() bool { return q.listing }

// fill lists /proc.
func (q *scanQueue) fill(root string) error {
	q.filled = monotonic()
	pids, err := listPIDs(root)
	if err != nil {
		return err
	}
	q.listing = true
	slices.Sort(pids) // parents mostly before their children
	for _, pid := range pids {
		q.push(pid)
	}
	return nil
}

func (q *scanQueue) watch(p *Process) {
	if !slices.Contains(q.watched, p) {
		q.watched = append(q.watched, p)
	}
}

// checkWatched ends those processes whose last thread is gone although the count of threads disagrees.
func (q *scanQueue) checkWatched(t *Table) {
	if len(q.watched) == 0 {
		return
	}
	keep := q.watched[:0]
	for _, p := range q.watched {
		if p.end != 0 {
			continue
		}
		if s, err := t.readStat(p.PID); err != nil || s.threads <= 1 && s.ending {
			t.end(p, monotonic())
			continue
		}
		keep = append(keep, p)
	}
	clear(q.watched[len(keep):])
	q.watched = keep
}

func (t *Table) readStat(pid PID) (stat, error) {
	d, err := openProcDir(t.opts.Proc, pid)
	if err != nil {
		return stat{}, err
	}
	defer d.close()
	b, err := d.read("stat", nil, maxStatBytes)
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

// scan reads queued processes, and environments of young ones, for about the given time. It says whether
// there is more to do at once.
func (t *Table) scan(budget time.Duration) bool {
	t.readYoung(budget)
	if len(t.queue.pids) == 0 {
		return false
	}
	defer t.endIdentifying()
	deadline := time.Now().Add(budget)
	n := 0
	for n < len(t.queue.pids) && (n == 0 || time.Now().Before(deadline)) {
		pid := t.queue.pids[n]
		delete(t.queue.queued, pid)
		n++
		known := t.current(pid)
		if known != nil && t.queue.listing && !t.queue.thorough && len(known.mappings) < t.opts.MaxMappings &&
			(known.Executable != "" || known.Kernel) {
			continue
		}
		t.scanProcess(pid, known)
	}
	t.queue.pids = t.queue.pids[n:]
	if len(t.queue.pids) > 0 {
		return true
	}
	t.queue.pids = nil
	clear(t.files) // from now on an inode number may be another file's
	if t.queue.listing {
		if t.queue.thorough {
			t.queue.pause = rereadPause * time.Duration(len(t.byPID))
		}
		t.queue.listing, t.queue.thorough = false, false
		t.endMissing()
		if !t.queue.begun {
			t.queue.begun = true
			close(t.scanned)
			level.Info(t.opts.Logger).Log("msg", "read all processes", "processes", len(t.byPID))
		}
	}
	return false
}

// endMissing ends the processes that are not in /proc any more and whose exit was lost.
func (t *Table) endMissing() {
	now := monotonic()
	for pid, p := range t.byPID {
		if p.end != 0 || p.start > t.queue.filled {
			continue
		}
		if d, err := openProcDir(t.opts.Proc, pid); !errors.Is(err, unix.ENOENT) {
			if err == nil {
				d.close()
			}
			continue
		}
		// Its exit may be in a ring; the record will find nothing left to end.
		t.metrics.exitsMissed.Inc()
		t.end(p, now)
	}
}

// scanProcess reads one process from /proc and enters it, or brings the known one up to date. A process that
// dies meanwhile is left to its exit record.
func (t *Table) scanProcess(pid PID, known *Process) {
	synced := monotonic()
	d, err := openProcDir(t.opts.Proc, pid)
	if err != nil {
		return
	}
	defer func() { d.close() }()
	t.metrics.scans.Inc()
	t.buf, err = d.read("stat", t.buf[:0], maxStatBytes)
	if err != nil {
		return
	}
	s, err := parseStat(t.buf)
	if err != nil {
		level.Warn(t.opts.Logger).Log("msg", "reading process", "pid", pid, "err", err)
		return
	}
	if s.ending {
		// If other threads live, the process does, and they show its memory.
		tid := otherThread(d, pid)
		if tid == 0 {
			if known != nil {
				t.end(known, synced)
			}
			return
		}
		s.threads--
		if d2, err := openProcDir(t.opts.Proc, tid); err == nil {
			d.close()
			d = d2
		}
	}
	var mappings []Mapping
	var executable string
	if !s.kernel {
		t.buf, err = d.read("maps", t.buf[:0], maxMapsBytes)
		if err != nil && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) {
			return
		}
		root, _ := d.readlink("root") // unknown: as if it were "/"
		parseMaps(t.buf, func(m Mapping, path []byte) {
			if len(mappings) >= t.opts.MaxMappings {
				return
			}
			m.Path = string(path)
			if m.File != (FileID{}) {
				m.Path = withinRoot(m.Path, root)
				m.File = t.identify(d, m)
			}
			mappings = append(mappings, m)
		})
		if link, err := d.readlink("exe"); err == nil {
			executable = strings.TrimSuffix(withinRoot(link, root), " (deleted)")
		}
	}
	born := s.startTicks * (uint64(time.Second) / userHZ)
	if known != nil {
		if sameExecution(known, born, executable) {
			t.refresh(known, mappings, synced)
			known.threads, known.leaderGone = s.threads, s.ending
			return
		}
		t.end(known, synced)
	}
	start := born - min(born, t.sleptFor)
	p := t.newProcess(pid, s.parent, start)
	p.born, p.synced, p.threads = born, synced, s.threads
	p.Comm, p.comm, p.Executable, p.Kernel = s.comm, s.comm, executable, s.kernel
	p.leaderGone = s.ending
	p.mappings, p.shared = mappings, true
	p.identity = &identity{}
	if parent := t.current(s.parent); parent != nil {
		p.identity = parent.identity.exec()
	}
	t.start(p)
	if !p.Kernel {
		t.young = append(t.young, p)
	}
}

// sameExecution compares what /proc says with what is known. An exec of the same program by the same
// process cannot be told from none; its mappings are brought up to date all the same.
func sameExecution(p *Process, born uint64, executable string) bool {
	const slack = 3 * uint64(time.Second) / userHZ // rounding of both
	return (p.born == 0 || max(p.born, born)-min(p.born, born) <= slack) && p.Executable == executable
}

// refresh replaces the mappings by those that are really there.
func (t *Table) refresh(p *Process, mappings []Mapping, synced uint64) {
	t.announce(p)
	p.mu.Lock()
	old := p.mappings
	p.mappings, p.shared = mappings, true
	p.mu.Unlock()
	p.synced = synced
	for _, m := range mappings {
		i := search(old, func(o *Mapping) bool { return o.Start >= m.Start })
		if i < len(old) && old[i] == m {
			continue
		}
		for _, o := range t.opts.Observers {
			o.Mapped(p, m)
		}
	}
}

// otherThread returns a thread that is not the leader, 0 if there is none. Threads are not listed in /proc,
// yet they have a directory there under their own number.
func otherThread(d procDir, pid PID) PID {
	fd, err := unix.Openat(d.fd, "task", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	dir := os.NewFile(uintptr(fd), "task")
	defer dir.Close()
	names, _ := dir.Readdirnames(16) // an error leaves what was read
	for _, n := range names {
		if tid, err := strconv.ParseUint(n, 10, 32); err == nil && PID(tid) != pid {
			return PID(tid)
		}
	}
	return 0
}

// withinRoot makes a path, which /proc gives relative to the reader's root, relative to the process's own
// root directory, as the kernel's records have it. It matters for chroots: a process in a mount namespace of
// its own has the root "/".
func withinRoot(path, root string) string {
	if root == "" || root == "/" {
		return path
	}
	if rest, ok := strings.CutPrefix(path, root); ok && strings.HasPrefix(rest, "/") {
		return rest
	}
	return path
}

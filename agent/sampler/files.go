package sampler

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/agent/unwind"
	"github.com/perfuse/perfuse/bpf/cpu"
	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/symbolize/elf"
)

// file is an executable file that some process maps or mapped.
type file struct {
	// Fixed once the file is known.
	id       uint32
	identity process.FileID
	path     string
	buildID  string
	segments elf.File // only its segments: addresses, no content

	// Guarded by files' owner.
	refs     int // mappings of live processes
	lastUsed time.Time
	table    installed
	object   cpu.Object // what the kernel side was told
}

// files numbers executable files, compiles their unwind tables in the background, and forgets what is long
// unused when room is needed. Methods whose name does not say otherwise want the sampler's lock held.
type files struct {
	programs *cpu.Programs
	tables   *tables
	open     func(*process.Process, process.Mapping) (process.File, error)
	found    func(string, *process.Process, process.Mapping, process.File)
	byID     []*file // index 0 is unused
	byFile   map[process.FileID]*file
	spare    []uint32
	queue    []job
	wake     chan struct{}
	settled  chan struct{} // closed while nothing is queued or being compiled

	compiled, failed, evicted uint64
	lastError                 error
}

// job is a table to compile. The file is open, so that it does not matter when its process ends.
type job struct {
	file *file
	r    process.File
}

const (
	maxObjects = 1 << 15
	// maxQueue bounds the open files that wait for compilation.
	maxQueue = 512
)

// vdsoID is the identity of the vDSO: one image for all 64-bit processes of a kernel.
var vdsoID = process.FileID{Dev: ^uint64(0), Inode: 1}

func newFiles(p *cpu.Programs, t *tables, open func(*process.Process, process.Mapping) (process.File, error),
	found func(string, *process.Process, process.Mapping, process.File)) *files {
	return &files{
		programs: p,
		tables:   t,
		open:     open,
		found:    found,
		byID:     make([]*file, 1, 256),
		byFile:   map[process.FileID]*file{},
		wake:     make(chan struct{}, 1),
		settled:  make(chan struct{}),
	}
}

// settle says that the queue is empty and its last job done.
func (fs *files) settle() {
	select {
	case <-fs.settled:
	default:
		close(fs.settled)
	}
}

// get returns the file that m shows, or nil if m shows none or it cannot be read. It opens a file that it does
// not know and queues the compilation of its table.
func (fs *files) get(p *process.Process, m process.Mapping, now time.Time) *file {
	id := m.File
	if m.Path == "[vdso]" {
		id = vdsoID
	}
	if id == (process.FileID{}) {
		return nil
	}
	if f := fs.byFile[id]; f != nil {
		f.lastUsed = now
		return f
	}
	if len(fs.queue) >= maxQueue {
		return nil
	}
	r, err := fs.openMapping(p, m)
	if err != nil {
		fs.failed++
		fs.lastError = err
		return nil
	}
	f, err := fs.read(r, id, m.Path)
	if err != nil {
		r.Close()
		fs.failed++
		fs.lastError = fmt.Errorf("reading %s: %w", m.Path, err)
		return nil
	}
	f.lastUsed = now
	fs.byFile[id] = f
	if fs.found != nil {
		fs.found(f.buildID, p, m, r)
	}
	fs.queue = append(fs.queue, job{f, r})
	select {
	case <-fs.settled:
		fs.settled = make(chan struct{})
	default:
	}
	select {
	case fs.wake <- struct{}{}:
	default:
	}
	return f
}

func (fs *files) openMapping(p *process.Process, m process.Mapping) (process.File, error) {
	if m.Path == "[vdso]" {
		return openVDSO()
	}
	return fs.open(p, m)
}

// read takes the little that mappings need from the file's headers.
func (fs *files) read(r process.File, id process.FileID, path string) (*file, error) {
	e, err := elf.New(r, r.Size())
	if err != nil {
		return nil, err
	}
	build, err := elf.BuildID(r)
	if err != nil {
		return nil, err
	}
	var n uint32
	switch {
	case len(fs.spare) > 0:
		n = fs.spare[len(fs.spare)-1]
		fs.spare = fs.spare[:len(fs.spare)-1]
	case len(fs.byID) < maxObjects:
		n = uint32(len(fs.byID))
		fs.byID = append(fs.byID, nil)
	default:
		return nil, errors.New("too many executable files")
	}
	f := &file{id: n, identity: id, path: path, buildID: build}
	f.segments.Segments = e.Segments
	if err := fs.announce(f, cpu.Object{BlockCount: cpu.BlocksPending}); err != nil {
		fs.spare = append(fs.spare, n)
		return nil, err
	}
	fs.byID[n] = f
	return f, nil
}

// announce tells the kernel side what f's table is.
func (fs *files) announce(f *file, o cpu.Object) error {
	if err := fs.programs.Objects.Put(f.id, o); err != nil {
		return fmt.Errorf("announcing the unwind table of %s: %w", f.path, err)
	}
	f.object = o
	return nil
}

// next takes the newest job: what was mapped a moment ago may not live long, what the first scan found does.
func (fs *files) next() (job, bool) {
	if len(fs.queue) == 0 {
		return job{}, false
	}
	last := len(fs.queue) - 1
	j := fs.queue[last]
	fs.queue[last] = job{}
	fs.queue = fs.queue[:last]
	return j, true
}

// compiled is what a job makes.
type compiled struct {
	packed        *unwind.Packed
	framePointers []unwind.Range
	labels        *unwind.GoLabels // nil: the file has none
}

// compile does the work of a job. It wants the lock not held.
func (j job) compile() (compiled, error) {
	defer j.r.Close()
	t, err := unwind.Compile(j.r)
	if err != nil {
		return compiled{}, fmt.Errorf("compiling the unwind table of %s: %w", j.file.path, err)
	}
	p, err := unwind.Pack(t)
	if err != nil {
		return compiled{}, fmt.Errorf("packing the unwind table of %s: %w", j.file.path, err)
	}
	c := compiled{packed: p, framePointers: t.FramePointers}
	if t.Go != nil {
		c.labels = t.Go.Labels
	}
	return c, nil
}

// finished makes a compiled table visible to the kernel side, making room if it must; without a table (err) the
// file's code is walked by frame pointers.
func (fs *files) finished(f *file, c compiled, err error, now time.Time) error {
	if fs.byID[f.id] != f {
		return err
	}
	var in installed
	if err == nil {
		in, err = fs.tables.install(c.packed, now)
		for errors.Is(err, errTablesFull) && fs.evict(now) {
			in, err = fs.tables.install(c.packed, now)
		}
		if err != nil {
			err = fmt.Errorf("installing the unwind table of %s: %w", f.path, err)
		}
	}
	if err != nil {
		fs.failed++
		fs.lastError = err
		return errors.Join(err, fs.announce(f, cpu.Object{}))
	}
	o := cpu.Object{
		AddressBlock: uint32(c.packed.FirstBlock),
		BlockCount:   in.blocks.count,
		FirstBlock:   in.blocks.first,
		FirstRule:    in.rules.first,
	}
	if fp := c.framePointers; len(fp) > 0 {
		last := len(fp) - 1
		o.FpStart, o.FpEnd = uint64(fp[0].Start), uint64(fp[last].End)
		// The gaps lie close together, in the runtime's assembly; rows are right for what is between them too.
		if last > 0 {
			o.RowsStart, o.RowsEnd = uint64(fp[0].End), uint64(fp[last].Start)
		}
	}
	if l := c.labels; l != nil {
		o.GoTls, o.GoM, o.GoCurg, o.GoLabels = l.TLS, l.M, l.Curg, l.Labels
		if l.Map {
			o.GoLabelsMap = 1
		}
	}
	if err := fs.announce(f, o); err != nil {
		fs.tables.remove(in, now)
		return err
	}
	f.table = in
	fs.compiled++
	return nil
}

// evict forgets the file that has been unused for longest. It reports false if all are in use.
func (fs *files) evict(now time.Time) bool {
	var oldest *file
	for _, f := range fs.byID {
		if f != nil && f.refs == 0 && f.table.blocks.count > 0 && (oldest == nil || f.lastUsed.Before(oldest.lastUsed)) {
			oldest = f
		}
	}
	if oldest == nil {
		return false
	}
	_ = fs.programs.Objects.Put(oldest.id, cpu.Object{})
	fs.tables.remove(oldest.table, now)
	delete(fs.byFile, oldest.identity)
	fs.byID[oldest.id] = nil
	fs.spare = append(fs.spare, oldest.id)
	fs.evicted++
	return true
}

// bias returns what to subtract from an address in m to get the file's own address. The kernel maps whole
// pages, so m may begin before the segment that it shows: in a page that another segment's end shares.
func (f *file) bias(m process.Mapping) (uint64, bool) {
	const page = 4096
	for i := range f.segments.Segments {
		s := &f.segments.Segments[i]
		if s.Type != elf.SegmentLoad || s.Flags&elf.FlagExec == 0 {
			continue
		}
		lo, hi := s.Offset&^(page-1), (s.Offset+s.Filesz+page-1)&^(page-1)
		if m.Offset >= lo && m.Offset < hi {
			return m.Start - m.Offset + s.Offset - s.Vaddr, true
		}
	}
	return 0, false
}

// frameMapping is what frames in this file refer to.
func (f *file) frameMapping() profile.Mapping {
	return profile.Mapping{BuildID: f.buildID, File: f.path}
}

// vdso is the agent's own copy of the vDSO.
type vdso struct{ bytes.Reader }

func (v *vdso) Close() error { return nil }

func openVDSO() (process.File, error) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.HasSuffix(line, "[vdso]\n") {
			continue
		}
		var start, end uint64
		if _, err := fmt.Sscanf(line, "%x-%x", &start, &end); err != nil || end < start || end-start > 1<<20 {
			return nil, fmt.Errorf("parsing the mapping of the vDSO %q", line)
		}
		mem, err := os.Open("/proc/self/mem")
		if err != nil {
			return nil, err
		}
		defer mem.Close()
		data := make([]byte, end-start)
		if _, err := mem.ReadAt(data, int64(start)); err != nil {
			return nil, fmt.Errorf("reading the vDSO: %w", err)
		}
		return &vdso{*bytes.NewReader(data)}, nil
	}
	return nil, errors.New("this kernel maps no vDSO")
}

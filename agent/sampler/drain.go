package sampler

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/go-kit/log/level"
	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/bpf/cpu"
	"github.com/perfuse/perfuse/profile"
)

// drain takes what the kernel side counted.
type drain struct {
	s     *Sampler
	epoch uint32
	build builder

	mu     sync.Mutex
	stacks [2]map[cpu.Key]seen // by epoch
	// labels are what the hashes in keys stand for, by epoch.
	labels [2]map[uint64][]profile.Label
	// deferred are samples whose user stacks are still to be walked, by epoch.
	deferred [2][]deferred
	// again are those that wait for a table that was not ready, once more.
	again []deferred
	// held are the stacks of waits, whose time may be counted in a later epoch than the one in which they began.
	held       map[cpu.Key]held
	heldStacks map[uint64]*heldStack // by the keys' stack: requests wait at the same places
	heldFrames int
	// told are the frames of the stacks of an epoch.
	told   [2]int
	copies []deferred // of samples that were walked in the kernel, for tests
	late   uint64     // deferred samples so far
	bad    uint64     // records that make no sense, or counts without a stack
	// unlabelled counts samples whose program has too many sets of labels.
	unlabelled uint64

	flushed chan struct{} // one token per Flush that read has answered

	keys   []cpu.Key
	counts []uint64
}

// seen is the stack behind a key.
type seen struct {
	time   uint64 // CLOCK_MONOTONIC
	frames []cpu.Frame
}

// held is a stack that may be counted again.
type held struct {
	time   uint64          // as of seen
	labels []profile.Label // that the program gave
	used   time.Time
}

type heldStack struct {
	frames []cpu.Frame
	keys   int
}

// Bounds on the stacks of an epoch, and on those that are held: 16 bytes a frame. What is beyond has no stack, and counts
// as malformed.
const (
	maxToldFrames = 4 << 20
	maxHeldFrames = 2 << 20
	maxHeld       = 1 << 18
)

// holdFor is far longer than a thread that waits stays uncounted: a tick or two.
const holdFor = 30 * time.Second

func (d *drain) init(s *Sampler) {
	d.held, d.heldStacks = map[cpu.Key]held{}, map[uint64]*heldStack{}
	d.s = s
	d.stacks = [2]map[cpu.Key]seen{{}, {}}
	d.labels = [2]map[uint64][]profile.Label{{}, {}}
	d.flushed = make(chan struct{}, 1)
	d.keys = make([]cpu.Key, 1024)
	d.counts = make([]uint64, 1024)
}

// read takes new stacks off the ring, until it is closed.
func (d *drain) read(r *ringbuf.Reader) {
	var rec ringbuf.Record
	for {
		err := r.ReadInto(&rec)
		switch {
		case err == nil:
			d.mu.Lock()
			d.accept(rec.RawSample)
			d.mu.Unlock()
		case errors.Is(err, ringbuf.ErrFlushed):
			d.flushed <- struct{}{}
		default:
			if !errors.Is(err, os.ErrClosed) {
				level.Error(d.s.opts.Logger).Log("msg", "new stacks are no longer read", "err", err)
			}
			close(d.flushed)
			return
		}
	}
}

func (d *drain) accept(raw []byte) {
	const header = int(unsafe.Sizeof(cpu.Record{}))
	const frame = int(unsafe.Sizeof(cpu.Frame{}))
	if len(raw) < header {
		d.bad++
		return
	}
	var rec cpu.Record
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&rec)), header), raw)
	switch rec.Kind {
	case cpu.RecordWalk, cpu.RecordVerify:
		one, ok := parseDeferred(raw)
		switch {
		case !ok:
			d.bad++
		case rec.Kind == cpu.RecordVerify:
			d.copies = append(d.copies, one)
		default:
			d.late++
			d.deferred[rec.Epoch&1] = append(d.deferred[rec.Epoch&1], one)
		}
		return
	case cpu.RecordLabels:
		known := d.labels[rec.Epoch&1]
		if _, ok := known[rec.Key.Labels]; ok {
			return
		}
		if ls, ok := parseLabels(raw); ok {
			known[rec.Key.Labels] = ls
		} else {
			d.bad++
		}
		return
	}
	if len(raw)-header < int(rec.FrameCount)*frame || d.told[rec.Epoch&1] > maxToldFrames {
		d.bad++
		return
	}
	d.told[rec.Epoch&1] += int(rec.FrameCount)
	frames := make([]cpu.Frame, rec.FrameCount)
	for i := range frames {
		b := raw[header+i*frame:]
		frames[i].Addr = binary.NativeEndian.Uint64(b)
		frames[i].Object = binary.NativeEndian.Uint32(b[8:])
		frames[i].Kind = binary.NativeEndian.Uint32(b[12:])
	}
	d.stacks[rec.Epoch&1][rec.Key] = seen{rec.Time, frames}
}

// flip ends the epoch and returns its samples, the last time without keeping any for later.
func (d *drain) flip(start, end time.Time, last bool) (*profile.Batch, error) {
	release, _ := d.s.holdTicks()
	defer func() { release() }()
	old := d.epoch
	d.epoch ^= 1
	for _, e := range d.s.epochs {
		if err := e.Set(d.epoch); err != nil {
			return nil, fmt.Errorf("setting the epoch: %w", err)
		}
	}
	// Programs run with preemption off, but for ticks: after a grace period of the kernel none still uses the old epoch.
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0); errno != 0 {
		return nil, fmt.Errorf("waiting for running programs: %w", errno)
	}
	if err := d.s.reader.Flush(); err != nil {
		return nil, fmt.Errorf("flushing the ring of stacks: %w", err)
	}
	<-d.flushed

	counted, err := d.take(d.s.programs.Counts[old])
	if err != nil {
		return nil, fmt.Errorf("reading counts: %w", err)
	}
	release()
	release = func() {}
	d.mu.Lock()
	stacks := d.stacks[old]
	d.stacks[old] = make(map[cpu.Key]seen, len(stacks))
	d.told[old] = 0
	copies := d.copies
	d.copies = nil
	labels := d.labels[old]
	d.labels[old] = map[uint64][]profile.Label{}
	late := append(d.again, d.deferred[old]...)
	d.again, d.deferred[old] = nil, nil
	d.mu.Unlock()
	if d.s.verify != nil {
		d.s.verify(copies, stacks)
	}
	d.hold(counted, stacks, labels, end)
	return d.build.batch(d.s, counted, stacks, labels, late, start, end, last), nil
}

// hold keeps the stacks and labels of waits, and puts those among the others that were counted now but told before.
func (d *drain) hold(counted map[cpu.Key]uint64, stacks map[cpu.Key]seen, labels map[uint64][]profile.Label, now time.Time) {
	for k, st := range stacks {
		if k.Event != cpu.EventWait {
			continue
		}
		_, known := d.held[k]
		stack := d.heldStacks[k.Stack]
		switch {
		case known:
		case len(d.held) >= maxHeld:
			continue
		case stack != nil:
			stack.keys++
		case d.heldFrames < maxHeldFrames:
			d.heldStacks[k.Stack] = &heldStack{st.frames, 1}
			d.heldFrames += len(st.frames)
		default:
			continue
		}
		d.held[k] = held{st.time, labels[k.Labels], now}
	}
	for k, n := range counted {
		if k.Event != cpu.EventWait {
			continue
		}
		if h, ok := d.held[k]; ok {
			h.used = now
			d.held[k] = h
			stacks[k] = seen{h.time, d.heldStacks[k.Stack].frames}
			if k.Labels != 0 && labels[k.Labels] == nil {
				labels[k.Labels] = h.labels
			}
		}
		if n == 0 {
			delete(counted, k) // it has begun, and counts later
		}
	}
	for k, h := range d.held {
		if now.Sub(h.used) > holdFor {
			delete(d.held, k)
			if stack := d.heldStacks[k.Stack]; stack.keys > 1 {
				stack.keys--
			} else {
				d.heldFrames -= len(stack.frames)
				delete(d.heldStacks, k.Stack)
			}
		}
	}
}

const membarrierGlobal = 1

// take empties a map of counts.
func (d *drain) take(m *ebpf.Map) (map[cpu.Key]uint64, error) {
	out := map[cpu.Key]uint64{}
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookupAndDelete(&cursor, d.keys, d.counts, nil)
		for i := range n {
			out[d.keys[i]] += d.counts[i]
		}
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			return out, nil
		case errors.Is(err, unix.ENOSPC):
			// A bucket holds more than the buffer.
			d.keys = make([]cpu.Key, 2*len(d.keys))
			d.counts = make([]uint64, 2*len(d.counts))
		case err != nil:
			return nil, err
		}
	}
}

// builder makes a batch out of counted stacks. Processes that have the same labels (hundreds of compilers in
// a build) share a profile.
type builder struct {
	dict     *profile.Dictionary
	frames   map[cpu.Frame]profile.FrameIndex // without frames whose meaning depends on the process
	labels   map[uint64][]profile.Label       // what programs gave, by hash
	threads  map[thread]place
	sets     map[uint32]int // how many sets of labels a process has, by generation
	profiles map[series]int
	samples  map[sampleID]int // index in its profile's samples
	template profile.Profile
	reasons  map[uint64]string // why threads wait, by stack
	out      []profile.Profile
	stack    profile.Stack
}

// series is what becomes one profile.
type series struct {
	typ    profile.Type
	labels string
}

// thread is a process, one of its threads' names, the labels that the program gave, and what is counted.
type thread struct {
	generation, tgid, event uint32
	comm                    [16]int8
	labels                  uint64
	reason                  string
}

// place is where a thread's samples go.
type place struct {
	profile int
	link    profile.Link
}

// maxLabelSets bounds how many series one process can make within one interval. A program that labels by request has
// no end of them: what is beyond is one series without the program's labels.
const maxLabelSets = 256

type sampleID struct {
	profile int
	stack   profile.StackIndex
	link    profile.LinkIndex
}

func newBuilder(start, end time.Time) *builder {
	return &builder{
		dict:     profile.NewDictionary(),
		frames:   map[cpu.Frame]profile.FrameIndex{},
		threads:  map[thread]place{},
		sets:     map[uint32]int{},
		profiles: map[series]int{},
		samples:  map[sampleID]int{},
		reasons:  map[uint64]string{},
		template: profile.Profile{TimeNanos: start.UnixNano(), DurationNanos: end.Sub(start).Nanoseconds()},
	}
}

func (b *builder) batch(s *Sampler, counted map[cpu.Key]uint64, stacks map[cpu.Key]seen, labels map[uint64][]profile.Label, late []deferred, start, end time.Time, final bool) *profile.Batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	*b = *newBuilder(start, end)
	b.labels = labels
	for _, k := range slices.SortedFunc(maps.Keys(counted), compareKeys) {
		st, ok := stacks[k]
		if !ok {
			s.drain.mu.Lock()
			s.drain.bad += samples(k, counted[k])
			s.drain.mu.Unlock()
			continue
		}
		b.sample(s, k, s.owner(k, st.time), st.time, labels[k.Labels], st.frames, counted[k])
	}
	for i := range late {
		d := &late[i]
		if !d.retried {
			d.labels = labels[d.key.Labels]
		}
		r := s.owner(d.key, d.time)
		frames := s.walk(d, r)
		if last := frames[len(frames)-1]; last == stopFrame(cpu.StopPending) && !d.retried && !final {
			d.retried = true
			s.drain.again = append(s.drain.again, *d)
			continue
		}
		b.sample(s, d.key, r, d.time, d.labels, frames, max(d.weight, 1))
	}
	s.forget(start)
	return &profile.Batch{Dictionary: b.dict, Profiles: b.out}
}

func (b *builder) sample(s *Sampler, k cpu.Key, r *running, at uint64, own []profile.Label, frames []cpu.Frame, n uint64) {
	of := r // whose the sample is; the frames are r's
	reason, waker := "", ""
	switch k.Event {
	case cpu.EventWait:
		frames, reason = b.wait(s, k, frames)
	case cpu.EventWake:
		frames, waker = s.wake(k, frames)
		k = waiterOf(k)
		of = s.owner(k, at)
	}
	if s.opts.Keep != nil && !s.opts.Keep(processOf(of)) {
		return
	}
	to := b.place(s, k, of, own, reason, n)
	if k.SpanId != [8]uint8{} {
		to.link = profile.Link{TraceID: k.TraceId, SpanID: k.SpanId}
	}
	b.stack = b.stack[:0]
	for _, f := range frames {
		b.stack = append(b.stack, b.frame(s, r, f))
	}
	if waker != "" {
		b.stack = append(b.stack, b.dict.Frame(b.named(profile.KindNative, 0, "woken by "+waker)))
	}
	b.add(to.profile, to.link, b.stack, int64(n))
}

// add adds to the value of a stack in a profile.
func (b *builder) add(to int, link profile.Link, stack profile.Stack, n int64) {
	at := sampleID{to, b.dict.Stack(stack), b.dict.Link(link)}
	p := &b.out[to]
	if j, ok := b.samples[at]; ok {
		p.Samples[j].Value += n
		return
	}
	b.samples[at] = len(p.Samples)
	p.Samples = append(p.Samples, profile.Sample{Stack: at.stack, Link: at.link, Value: n})
}

func (b *builder) place(s *Sampler, k cpu.Key, r *running, own []profile.Label, reason string, n uint64) place {
	id := thread{k.Generation, k.Tgid, k.Event, k.Comm, k.Labels, reason}
	if r != nil {
		id.generation = r.process.Generation
	}
	to, ok := b.threads[id]
	if ok {
		return to
	}
	if k.Labels != 0 && (len(own) == 0 || b.sets[id.generation] >= maxLabelSets) {
		s.drain.mu.Lock()
		s.drain.unlabelled += samples(k, n)
		s.drain.mu.Unlock()
		k.Labels = 0
		return b.place(s, k, r, nil, reason, n)
	}
	ls := labels(r, k)
	if len(own) > 0 {
		b.sets[id.generation]++
		ls, to.link = profile.SampleLabels(own, ls)
	}
	if reason != "" {
		ls = profile.NewLabels(append(slices.Clone(ls), profile.Label{Name: profile.LabelReason, Value: reason})...)
	}
	typ, period := s.typeOf(k.Event)
	to.profile = b.series(typ, period, ls)
	b.threads[id] = to
	return to
}

// typeOf returns what an event measures, and the period.
func (s *Sampler) typeOf(event uint32) (profile.Type, int64) {
	switch event {
	case cpu.EventFault:
		return profile.TypePageFaults, 1
	case cpu.EventWait:
		return profile.TypeOffCPU, 1
	case cpu.EventWake:
		return profile.TypeWakers, 1
	default:
		return profile.TypeCPUSamples, int64(1e9 / s.opts.Rate)
	}
}

// series returns the index of the profile of a type with these labels.
func (b *builder) series(t profile.Type, period int64, ls profile.Labels) int {
	key := series{t, ls.String()}
	i, ok := b.profiles[key]
	if !ok {
		i = len(b.out)
		p := b.template
		p.Type, p.Period, p.Labels = t, period, ls
		b.profiles[key] = i
		b.out = append(b.out, p)
	} else if b.out[i].Period == 0 {
		b.out[i].Period = period
	}
	return i
}

// samples is how many samples a count stands for, for statistics: of time it is not known, but one at least.
func samples(k cpu.Key, n uint64) uint64 {
	if k.Event == cpu.EventWait || k.Event == cpu.EventWake {
		return 1
	}
	return n
}

func compareKeys(a, b cpu.Key) int {
	return cmp.Or(
		cmp.Compare(a.Event, b.Event),
		cmp.Compare(a.Tgid, b.Tgid),
		cmp.Compare(a.Generation, b.Generation),
		slices.Compare(a.Comm[:], b.Comm[:]),
		cmp.Compare(a.Stack, b.Stack),
		slices.Compare(a.TraceId[:], b.TraceId[:]),
		slices.Compare(a.SpanId[:], b.SpanId[:]),
		cmp.Compare(a.Labels, b.Labels),
		cmp.Compare(a.State, b.State),
	)
}

// owner finds the process that a sample was taken in. The kernel side does not know its number in the moment
// after a fork or an exec.
func (s *Sampler) owner(k cpu.Key, at uint64) *running {
	if r := s.processes[k.Generation]; r != nil && uint32(r.process.PID) == k.Tgid {
		return r
	}
	p := s.opts.Lookup(pid(k.Tgid), time.Unix(0, int64(at)+s.boot.Nanoseconds()))
	if p == nil {
		return nil
	}
	if r := s.processes[p.Generation]; r != nil {
		return r
	}
	return &running{process: p}
}

func processOf(r *running) *process.Process {
	if r == nil {
		return nil
	}
	return r.process
}

func labels(r *running, k cpu.Key) profile.Labels {
	comm := commString(k.Comm)
	if r == nil {
		return profile.NewLabels(
			profile.Label{Name: profile.LabelServiceName, Value: comm},
			profile.Label{Name: profile.LabelComm, Value: comm},
			profile.Label{Name: profile.LabelThread, Value: comm},
		)
	}
	ls := slices.Clone(r.process.Labels())
	if r.process.Kernel {
		comm = ls.Get(profile.LabelComm) // its thread's name changes with the work that it does
	}
	return profile.NewLabels(append(ls, profile.Label{Name: profile.LabelThread, Value: comm})...)
}

// parseLabels reads a record of labels. What was cut at its end loses no half of a character.
func parseLabels(raw []byte) ([]profile.Label, bool) {
	const header = int(unsafe.Sizeof(cpu.Record{}))
	const size = int(unsafe.Sizeof(cpu.Label{}))
	var rec cpu.LabelRecord
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&rec)), unsafe.Sizeof(rec)), raw)
	n := int(rec.Record.FrameCount)
	if n > len(rec.Labels) || len(raw) < header+n*size {
		return nil, false
	}
	out := make([]profile.Label, n)
	for i := range out {
		l := &rec.Labels[i]
		out[i] = profile.Label{Name: cut(l.Key[:], l.KeyBytes), Value: cut(l.Value[:], l.ValueBytes)}
	}
	return out, true
}

func cut(s []int8, n uint32) string {
	b := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), min(int(n), len(s)))
	return strings.ToValidUTF8(string(b), "")
}

func commString(c [16]int8) string {
	b := make([]byte, 0, len(c))
	for _, x := range c {
		if x == 0 {
			break
		}
		b = append(b, byte(x))
	}
	return string(b)
}

package hotspot

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/perfuse/perfuse/profile"
)

// Options say what to record, of Allocations, CPU and Live at least one.
type Options struct {
	// Allocations: where memory is allocated, as memory:alloc_space and memory:alloc_objects.
	Allocations bool
	// CPU: where Java code spends CPU time, as process_cpu:cpu.
	CPU bool
	// Live: where what is on the heap was allocated, as memory:inuse_space and memory:inuse_objects. It costs a full collection at the
	// start and at every dump, for which all threads of the program stop: see [JVM.Histogram]. Allocations are
	// recorded for it, too.
	Live bool
	// Garbage leaves the collections out: Live then also counts what is dead and not collected yet.
	Garbage bool

	// Interval is how often the caller dumps. A recording that is neither dumped nor stopped ends by itself after
	// two and a half minutes more than twice as long, or Lifetime. 0: a minute.
	Interval time.Duration
	// Lifetime is that limit, a second or more. 0: as said.
	Lifetime time.Duration
	// Period is how often a thread that runs is sampled, and how much CPU time a sample of JDK 25 stands for. 0: 20 ms.
	Period time.Duration
	// MaxBytes bounds a recording, on the JVM's disk and here. What is beyond it is lost, the oldest first: then the profiles
	// begin later. 0: 64 MiB.
	MaxBytes int64
}

func (o *Options) fill() error {
	if o.Interval <= 0 {
		o.Interval = time.Minute
	}
	if o.Lifetime <= 0 {
		o.Lifetime = 2*o.Interval + 150*time.Second
	}
	if o.Period <= 0 {
		o.Period = 20 * time.Millisecond
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 64 << 20
	}
	switch {
	case !o.Allocations && !o.CPU && !o.Live:
		return errors.New("a recording of nothing: choose allocations, CPU time or live objects")
	case o.Lifetime < time.Second:
		return errors.New("a recording's lifetime is at least 1s")
	case o.Period < time.Millisecond || o.Period > time.Minute:
		return errors.New("a recording's period is between 1ms and 1m")
	case o.MaxBytes < 1<<20:
		return errors.New("a recording has at least 1 MiB")
	}
	return nil
}

// Recording is a Flight Recorder recording that runs in a JVM until it is stopped. Its methods are safe for concurrent use.
type Recording struct {
	j     *JVM
	o     Options
	major int

	mu      sync.Mutex
	name    string // "" : none is running
	started time.Time
	cpu     cpuTimes
	read    []profile.JFRChunk // the last that were read
	alloc   allocations
	live    live
}

// ErrEnded: the recording ended by itself, because it was not asked in time, or somebody else stopped it.
var ErrEnded = errors.New("the recording has ended before it was dumped: dump more often than its lifetime")

var jdkVersion = regexp.MustCompile(`(?m)^JDK ([0-9]+[0-9A-Za-z._+-]*)`)

// version asks the JVM for its version.
func (j *JVM) version(ctx context.Context) (int, error) {
	text, err := j.command(ctx, "VM.version")
	if err != nil {
		return 0, err
	}
	v, err := parseVersion(text)
	if err != nil {
		return 0, fmt.Errorf("VM.version in process %d: %w", j.PID, err)
	}
	return v, nil
}

func parseVersion(text string) (int, error) {
	m := jdkVersion.FindStringSubmatch(text)
	if m == nil || majorVersion(m[1]) == 0 {
		return 0, fmt.Errorf("its version is not in %q", firstLine(text))
	}
	return majorVersion(m[1]), nil
}

// Start starts recording. The first time in a JVM's life this takes it about a second of CPU time, to load the recorder's classes.
func (j *JVM) Start(ctx context.Context, o Options) (*Recording, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	major, err := j.version(ctx)
	if err != nil {
		return nil, err
	}
	if major < 11 {
		return nil, fmt.Errorf("process %d is Java %d, older than 11: %w", j.PID, major, ErrNoRecorder)
	}
	if err := j.sweep(time.Now()); err != nil {
		return nil, err
	}
	r := &Recording{j: j, o: o, major: major}
	if r.name, err = r.begin(ctx); err != nil {
		return nil, err
	}
	r.started = time.Now()
	if o.Live {
		var classes []Class
		if classes, err = j.Histogram(ctx, !o.Garbage); err == nil {
			r.live.begin(classes)
		}
	}
	if err == nil && o.CPU {
		r.cpu, err = j.cpuTimes()
	}
	if err != nil {
		return nil, errors.Join(err, r.discard(ctx))
	}
	return r, nil
}

// begin starts a recording with a time limit and returns its name.
func (r *Recording) begin(ctx context.Context) (name string, err error) {
	x, err := r.j.newExchange()
	if err != nil {
		return "", err
	}
	if err := x.write(settingsFile, settings(r.o, r.major)); err != nil {
		return "", errors.Join(err, x.close())
	}
	name = "perfuse-" + randomName()
	// Without a file name some versions write one into the JVM's working directory when the time is over.
	text, err := r.j.command(ctx, fmt.Sprintf("JFR.start name=%s settings=%s duration=%dms maxsize=%d disk=true filename=/dev/null",
		name, x.path(settingsFile), r.o.Lifetime.Milliseconds(), r.o.MaxBytes))
	if err == nil && !strings.Contains(text, "Started recording") {
		err = fmt.Errorf("JFR.start in process %d: %w", r.j.PID, commandError(text))
	}
	if err = errors.Join(err, x.close()); err == nil {
		return name, nil
	}
	if !errors.Is(err, ErrNoRecorder) {
		err = errors.Join(err, r.end(ctx, name)) // it may have begun, or begin yet, all the same
	}
	return "", err
}

// end ends a recording, if there is one, and throws away what it has, even if ctx is over.
func (r *Recording) end(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_, err := r.j.command(ctx, "JFR.stop name="+name)
	if errors.Is(err, ErrGone) || err != nil && strings.Contains(err.Error(), "Could not find") {
		return nil
	}
	return err
}

func (r *Recording) discard(ctx context.Context) error {
	name := r.name
	r.name = ""
	return r.end(ctx, name)
}

// Dump returns what was recorded since Start or the last Dump and goes on recording. Profiles that have nothing to tell
// are left out. After an error it goes on if it can.
func (r *Recording) Dump(ctx context.Context) (*profile.Batch, error) { return r.turn(ctx, true) }

// Stop ends recording and returns what was recorded since Start or the last Dump. Whatever happens, nothing is recorded any more; if
// ctx is over, the batch is nil.
func (r *Recording) Stop(ctx context.Context) (*profile.Batch, error) { return r.turn(ctx, false) }

func (r *Recording) turn(ctx context.Context, goOn bool) (b *profile.Batch, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() {
		if !goOn {
			err = errors.Join(err, r.discard(ctx))
		}
	}()
	if r.name == "" && !goOn {
		return nil, ErrEnded
	}
	// The histogram's collection lies between the two: what it frees is no sample any more. The recorder gives only samples that are
	// older than the last collection that found one dead; listing all settings makes buffers large enough to be one, and dead.
	old, next := r.name, ""
	if goOn || r.o.Live {
		if next, err = r.begin(ctx); err != nil {
			return nil, err
		}
	}
	var classes []Class
	if r.o.Live {
		if _, err = r.j.command(ctx, "JFR.check verbose=true"); err == nil {
			classes, err = r.j.Histogram(ctx, !r.o.Garbage)
		}
		if !goOn {
			err, next = errors.Join(err, r.end(ctx, next)), ""
		}
		if err != nil {
			return nil, errors.Join(err, r.end(ctx, next))
		}
	}
	r.name = next
	if old == "" {
		return nil, ErrEnded
	}
	data, err := r.take(ctx, old)
	if err != nil {
		return nil, err
	}
	var cpu cpuTimes
	if r.o.CPU {
		if cpu, err = r.j.cpuTimes(); err != nil {
			return nil, err
		}
		cpu, r.cpu = cpu.since(r.cpu), cpu
	}
	return r.decode(ctx, data, classes, cpu)
}

// take ends a recording and returns what it has.
func (r *Recording) take(ctx context.Context, name string) (data []byte, err error) {
	x, err := r.j.newExchange()
	if err != nil {
		return nil, errors.Join(err, r.end(ctx, name))
	}
	defer func() { err = errors.Join(err, x.close()) }()
	text, err := r.j.command(ctx, "JFR.stop name="+name+" filename="+x.path(recordingFile))
	switch {
	case err == nil && strings.Contains(text, "Could not find"), err != nil && strings.Contains(err.Error(), "Could not find"):
		return nil, ErrEnded
	case err == nil && !strings.Contains(text, "Stopped recording"):
		err = fmt.Errorf("JFR.stop in process %d: %w", r.j.PID, commandError(text))
	}
	if err != nil {
		return nil, errors.Join(err, r.end(ctx, name))
	}
	return x.read(recordingFile, r.o.MaxBytes+r.o.MaxBytes/2+32<<20)
}

// settings writes the recorder's settings, which name events that a version does not have without harm.
func settings(o Options, major int) string {
	var b strings.Builder
	b.WriteString("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<configuration version=\"2.0\">\n")
	event := func(name string, settings ...string) {
		fmt.Fprintf(&b, "<event name=\"jdk.%s\"><setting name=\"enabled\">true</setting>", name)
		for _, s := range settings {
			key, value, _ := strings.Cut(s, "=")
			fmt.Fprintf(&b, "<setting name=%q>%s</setting>", key, value)
		}
		b.WriteString("</event>\n")
	}
	period := fmt.Sprintf("period=%d ms", o.Period.Milliseconds())
	switch {
	case !o.CPU:
	case major >= 25:
		event("CPUTimeSample", fmt.Sprintf("throttle=%dms", o.Period.Milliseconds()), "stackTrace=true")
	default:
		event("ExecutionSample", period)
	}
	switch {
	case !o.Allocations && !o.Live:
	case major >= 16:
		// Of a burst that is throttled and does not go on, most is not told: hence more than the 150 of the default,
		// and no limit where the stack of each new TLAB is walked anyway.
		throttle := "1000/s"
		if o.Live {
			throttle = "off"
		}
		event("ObjectAllocationSample", "throttle="+throttle, "stackTrace=true")
		event("ObjectAllocationInNewTLAB", fmt.Sprintf("stackTrace=%v", o.Live))
		event("ThreadAllocationStatistics", "period=beginChunk")
	default:
		event("ObjectAllocationInNewTLAB", "stackTrace=true")
		event("ObjectAllocationOutsideTLAB", "stackTrace=true")
	}
	if o.Live {
		event("OldObjectSample", "cutoff=0 ns", "stackTrace=true")
	}
	b.WriteString("</configuration>\n")
	return b.String()
}

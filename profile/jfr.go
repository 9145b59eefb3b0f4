package profile

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// JFROptions says how a recording becomes profiles of ours. The zero value works.
type JFROptions struct {
	// Labels are those of all series.
	Labels Labels
	// SamplesPerSecond is how often a thread was sampled; 0: what the recording says, else 100.
	SamplesPerSecond int64
	// Contexts are what async-profiler's context ids in samples stand for. Nil: nothing.
	Contexts *JFRContexts
	// MaxBytes bounds the memory that reading takes beside data itself; 0: 512 MiB.
	MaxBytes int64
}

// jfrMeasure is what one kind of event measures: how often it happened and, if more is not empty, an amount.
type jfrMeasure struct {
	events, more Type
	amount       string // the field with the amount
	ticks        bool   // the amount is in ticks
	timed        bool   // an event stands for a period of time
}

func jfrType(name, sample, unit, period, periodUnit string) Type {
	return Type{Name: name, SampleType: sample, SampleUnit: unit, PeriodType: period, PeriodUnit: periodUnit}
}

// The types are Pyroscope's, whose users know them.
var (
	jfrCPU  = &jfrMeasure{events: TypeCPU, timed: true}
	jfrWall = &jfrMeasure{events: jfrType("wall", "wall", "nanoseconds", "wall", "nanoseconds"), timed: true}

	jfrMeasures = map[string]*jfrMeasure{
		"jdk.ExecutionSample":      jfrCPU,
		"profiler.WallClockSample": jfrWall,
		"jdk.ObjectAllocationInNewTLAB": {
			events: jfrType("memory", "alloc_in_new_tlab_objects", "count", "space", "bytes"),
			more:   jfrType("memory", "alloc_in_new_tlab_bytes", "bytes", "space", "bytes"), amount: "tlabSize",
		},
		"jdk.ObjectAllocationOutsideTLAB": {
			events: jfrType("memory", "alloc_outside_tlab_objects", "count", "space", "bytes"),
			more:   jfrType("memory", "alloc_outside_tlab_bytes", "bytes", "space", "bytes"), amount: "allocationSize",
		},
		"jdk.ObjectAllocationSample": {
			events: jfrType("memory", "alloc_sample_objects", "count", "space", "bytes"),
			more:   jfrType("memory", "alloc_sample_bytes", "bytes", "space", "bytes"), amount: "weight",
		},
		"jdk.JavaMonitorEnter": {
			events: jfrType("mutex", "contentions", "count", "mutex", "count"),
			more:   jfrType("mutex", "delay", "nanoseconds", "mutex", "count"), amount: "duration", ticks: true,
		},
		"jdk.ThreadPark": {
			events: jfrType("block", "contentions", "count", "block", "count"),
			more:   jfrType("block", "delay", "nanoseconds", "block", "count"), amount: "duration", ticks: true,
		},
		"profiler.LiveObject": {events: jfrType("memory", "live", "count", "objects", "count")},
		"profiler.Malloc": {
			events: jfrType("memory", "malloc_objects", "count", "", ""),
			more:   jfrType("memory", "malloc_bytes", "bytes", "", ""), amount: "size",
		},
	}
)

// ParseJFR reads a recording of Java's Flight Recorder or async-profiler: samples of running threads as CPU time,
// of all threads as wall-clock time, allocations, live objects, and waiting for monitors and parked threads; other
// events it passes over. A recording that has none of these gives no profiles. Java's frames are called
// "package.Class.method"; hidden classes lose the address that differs from run to run. A stack that the recorder cut
// off begins with "[unwind: …]".
func ParseJFR(data []byte, o JFROptions) (*Batch, error) {
	if o.MaxBytes <= 0 {
		o.MaxBytes = 512 << 20
	}
	p := jfrParser{
		opts:   o,
		budget: budget{bytes: o.MaxBytes, steps: 16*int64(len(data)) + 1<<16},
		b:      &Batch{Dictionary: NewDictionary()},
		series: map[jfrPlace]*jfrSeries{},
		labels: map[string]*jfrSeries{},
		start:  math.MaxInt64,
	}
	if len(data) == 0 {
		return nil, errors.New("reading JFR: no data")
	}
	for n := 1; len(data) > 0; n++ {
		rest, err := p.chunk(data)
		if err != nil {
			return nil, fmt.Errorf("reading JFR: chunk %d: %w", n, err)
		}
		data = rest
	}
	if err := p.finish(); err != nil {
		return nil, fmt.Errorf("reading JFR: %w", err)
	}
	return p.b, nil
}

type jfrParser struct {
	opts   JFROptions
	budget budget
	b      *Batch
	series map[jfrPlace]*jfrSeries
	labels map[string]*jfrSeries // by measure and label set
	order  []*jfrSeries

	start, end int64
	period     int64 // between two samples, as the recording says; 0: it does not
	wall       bool  // samples are of wall-clock time
}

// jfrPlace is where an event belongs.
type jfrPlace struct {
	measure *jfrMeasure
	context uint64
}

type jfrSeries struct {
	measure *jfrMeasure
	labels  Labels
	at      map[pprofSample]int
	samples []pprofSample
	values  [][2]int64
}

// jfrEvent is the fields of an event that samples need.
type jfrEvent struct {
	stack, state, amount, samples uint64
	context, span, spanName       uint64
}

func (p *jfrParser) chunk(data []byte) (rest []byte, err error) {
	c, rest, err := openJFRChunk(data, &p.budget)
	if err != nil {
		return nil, err
	}
	p.start, p.end = min(p.start, c.startNanos), max(p.end, c.startNanos+c.durationNanos)
	if err := p.settings(c); err != nil {
		return nil, fmt.Errorf("its settings: %w", err)
	}
	s := newJFRStacks(c, p.b.Dictionary)
	wanted := map[uint64]*jfrMeasure{}
	for name, m := range jfrMeasures {
		if class := c.byName[name]; class != nil {
			wanted[class.id] = m
		}
	}
	if err := c.events(func(id uint64, r *jfrReader) error {
		m := wanted[id]
		if m == nil {
			return nil
		}
		var e jfrEvent
		if err := c.values(r, c.classes[id], 0, func(name string, v jfrValue) {
			switch name {
			case "stackTrace":
				e.stack = v.number
			case "state":
				e.state = v.number
			case "samples":
				e.samples = v.number
			case "contextId":
				e.context = v.number
			case "spanId":
				e.span = v.number
			case "spanName":
				e.spanName = v.number
			}
			if name == m.amount {
				e.amount = v.number
			}
		}); err != nil {
			return err
		}
		return p.event(c, s, m, &e)
	}); err != nil {
		return nil, fmt.Errorf("its events: %w", err)
	}
	return rest, nil
}

// settings looks for how often and what the recorder sampled.
func (p *jfrParser) settings(c *jfrChunk) error {
	class, samples := c.byName["jdk.ActiveSetting"], c.byName["jdk.ExecutionSample"]
	if class == nil || samples == nil {
		return nil
	}
	return c.events(func(id uint64, r *jfrReader) error {
		if id != class.id {
			return nil
		}
		var of uint64
		var name, value string
		if err := c.values(r, class, 0, func(field string, v jfrValue) {
			switch field {
			case "id":
				of = v.number
			case "name":
				name = v.text
			case "value":
				value = v.text
			}
		}); err != nil {
			return err
		}
		switch {
		case name == "event":
			p.wall = value == "wall"
		case name == "interval", name == "period" && of == samples.id:
			if n := jfrDuration(value); n > 0 {
				p.period = n
			}
		}
		return nil
	})
}

// jfrDuration reads "20 ms" as the JDK writes it, and nanoseconds without a unit as async-profiler does; 0 for
// everything else ("everyChunk").
func jfrDuration(s string) int64 {
	number, unit, _ := strings.Cut(s, " ")
	n, err := strconv.ParseInt(number, 10, 64)
	scale, ok := map[string]int64{"": 1, "ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9}[unit]
	if err != nil || !ok || n < 0 || n > 3600e9/scale {
		return 0
	}
	return n * scale
}

func (p *jfrParser) event(c *jfrChunk, s *jfrStacks, m *jfrMeasure, e *jfrEvent) error {
	stack, err := s.stack(e.stack)
	if err != nil {
		return err
	}
	values := [2]int64{1, 0}
	if m == jfrWall && e.samples > 0 {
		values[0] = int64(min(e.samples, math.MaxInt32))
	}
	if m.amount != "" {
		if e.amount > math.MaxInt64 {
			return fmt.Errorf("the amount %s of an event is negative", m.amount)
		}
		values[1] = int64(e.amount)
		if m.ticks {
			values[1] = ticksToNanos(e.amount, c.ticksPerSecond)
		}
	}
	if m == jfrCPU {
		// async-profiler in wall-clock mode samples threads whatever they do: all are wall-clock time, those
		// that do not sleep also CPU time.
		if p.wall {
			if err := p.add(jfrWall, e, stack, values); err != nil {
				return err
			}
		}
		sleeps, err := s.sleeps(e.state)
		if sleeps || err != nil {
			return err
		}
	}
	return p.add(m, e, stack, values)
}

func ticksToNanos(ticks, perSecond uint64) int64 {
	if perSecond == 0 || perSecond == 1e9 {
		return int64(min(ticks, math.MaxInt64))
	}
	return int64(min(float64(ticks)/float64(perSecond)*1e9, math.MaxInt64/2))
}

// jfrSampleCost is what a new sample takes of memory, with its place in the series' index.
const jfrSampleCost = 160

func (p *jfrParser) add(m *jfrMeasure, e *jfrEvent, stack StackIndex, values [2]int64) error {
	g := p.series[jfrPlace{m, e.context}]
	if g == nil {
		ls, _ := SampleLabels(p.opts.Contexts.labels(e.context), p.opts.Labels)
		key := m.events.String() + string(appendLabels(nil, ls))
		if g = p.labels[key]; g == nil {
			g = &jfrSeries{measure: m, labels: ls, at: map[pprofSample]int{}}
			p.labels[key] = g
			p.order = append(p.order, g)
		}
		p.series[jfrPlace{m, e.context}] = g
		if err := p.budget.spend(512+2*int64(len(key)), 0); err != nil {
			return err
		}
	}
	sample := pprofSample{stack: stack, link: p.b.Dictionary.Link(p.opts.Contexts.link(e.span, e.spanName))}
	at, ok := g.at[sample]
	if !ok {
		at = len(g.samples)
		g.at[sample] = at
		g.samples = append(g.samples, sample)
		g.values = append(g.values, [2]int64{})
		if err := p.budget.spend(jfrSampleCost, 0); err != nil {
			return err
		}
	}
	for i, v := range values {
		if g.values[at][i] > math.MaxInt64-v {
			return errors.New("the sum of a stack's values is more than a number can hold")
		}
		g.values[at][i] += v
	}
	return nil
}

// finish makes profiles of the series.
func (p *jfrParser) finish() error {
	period := p.period
	if n := p.opts.SamplesPerSecond; n > 0 {
		period = 1e9 / n
	}
	if period <= 0 {
		period = 1e9 / 100
	}
	for _, g := range p.order {
		for i, t := range []Type{g.measure.events, g.measure.more} {
			if t == (Type{}) {
				continue
			}
			out := Profile{Type: t, Labels: g.labels, TimeNanos: p.start, DurationNanos: p.end - p.start}
			scale := int64(1)
			if g.measure.timed {
				scale, out.Period = period, period
			}
			for j, s := range g.samples {
				v := g.values[j][i]
				if v == 0 {
					continue
				}
				if v > math.MaxInt64/scale {
					return errors.New("the samples are more time than a number can hold")
				}
				out.Samples = append(out.Samples, Sample{Stack: s.stack, Link: s.link, Value: v * scale})
			}
			if len(out.Samples) > 0 {
				p.b.Profiles = append(p.b.Profiles, out)
			}
		}
	}
	return nil
}

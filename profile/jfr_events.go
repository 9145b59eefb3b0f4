package profile

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
)

// JFREvent is one event of a recording. What the event does not have is zero.
type JFREvent struct {
	// Name is the event's, such as "jdk.ObjectAllocationSample".
	Name string
	// Stack is in the dictionary that was given to [ReadJFR].
	Stack StackIndex
	// Class is the object's class as the JVM writes it: "java/lang/String", "[B".
	Class string
	// Bytes is the size of the object; Weight how much was allocated for which the event stands, or a TLAB's size.
	Bytes, Weight int64
	// Elements is the length of an array.
	Elements int64
	// Thread tells threads apart, as long as the JVM lives; virtual threads are threads of their own.
	Thread uint64
	// Allocated is what a thread has allocated in its life.
	Allocated int64
	// PeriodNanos is the CPU time for which a sample stands.
	PeriodNanos int64
	// StartNanos is when it happened, AllocatedNanos when its object was allocated, on a clock of the JVM's own.
	StartNanos, AllocatedNanos int64
	// Chunk is the index of the chunk that the event lies in, in [JFRSpan].Chunks.
	Chunk int
}

// JFREventOptions says what of a recording to read.
type JFREventOptions struct {
	// Events are the names of those that are read.
	Events []string
	// Skip are chunks that are left out.
	Skip []JFRChunk
	// MaxBytes bounds the memory that reading takes beside data itself, with 32 bytes for what f may keep of each event; 0: 512 MiB.
	MaxBytes int64
}

// JFRChunk tells a chunk from all others of a JVM: when it began by the clock, which somebody may set, and by the JVM's own, which nobody can.
type JFRChunk struct {
	StartNanos int64
	StartTicks uint64
}

// jfrEventCost is what an event may take of memory that is not its stack.
const jfrEventCost = 32

// JFRSpan is the time that a recording's chunks were written in, those that were left out not counted.
type JFRSpan struct {
	StartNanos, EndNanos int64
	Chunks               []JFRChunk
}

// ReadJFR calls f for each event of a recording that o asks for, in the order in which they were written, until ctx is over. Their stacks go
// to d. f may keep nothing of the event but copies. [ParseJFR] makes profiles instead.
func ReadJFR(ctx context.Context, data []byte, d *Dictionary, o JFREventOptions, f func(*JFREvent) error) (span JFRSpan, err error) {
	if o.MaxBytes <= 0 {
		o.MaxBytes = 512 << 20
	}
	b := budget{bytes: o.MaxBytes, steps: 16*int64(len(data)) + 1<<16, ctx: ctx}
	if len(data) == 0 {
		return span, errors.New("reading JFR: no data")
	}
	for n := 1; len(data) > 0; n++ {
		c, rest, err := openJFRChunk(data, &b)
		if err != nil {
			return span, fmt.Errorf("reading JFR: chunk %d: %w", n, err)
		}
		data = rest
		if err := b.spend(jfrEventCost, 1); err != nil {
			return span, fmt.Errorf("reading JFR: chunk %d: %w", n, err)
		}
		id := JFRChunk{c.startNanos, c.startTicks}
		if slices.Contains(o.Skip, id) {
			continue
		}
		if len(span.Chunks) == 0 {
			span.StartNanos = c.startNanos
		}
		span.EndNanos = max(span.EndNanos, c.startNanos+c.durationNanos)
		span.Chunks = append(span.Chunks, id)
		if err := c.read(d, o.Events, len(span.Chunks)-1, f); err != nil {
			return span, fmt.Errorf("reading JFR: chunk %d: its events: %w", n, err)
		}
	}
	return span, nil
}

func (c *jfrChunk) read(d *Dictionary, names []string, chunk int, f func(*JFREvent) error) error {
	s := newJFRStacks(c, d)
	wanted := map[uint64]string{}
	for _, name := range names {
		if class := c.byName[name]; class != nil {
			wanted[class.id] = name
		}
	}
	classes := map[[2]uint64]string{} // by id, and whether it is an object's
	// One for all events: recordings have millions.
	var e JFREvent
	var stack uint64
	var class [2]uint64
	set := func(name string, v jfrValue) {
		n := int64(min(v.number, math.MaxInt64))
		switch name {
		case "startTime":
			e.StartNanos = ticksToNanos(v.number, c.ticksPerSecond)
		case "allocationTime":
			e.AllocatedNanos = ticksToNanos(v.number, c.ticksPerSecond)
		case "stackTrace":
			stack = v.number
		case "objectClass":
			class = [2]uint64{v.number, 0}
		case "object":
			class = [2]uint64{v.number, 1}
		case "allocationSize", "objectSize":
			e.Bytes = n
		case "weight", "tlabSize":
			e.Weight = n
		case "eventThread", "thread":
			e.Thread = v.number
		case "allocated":
			e.Allocated = n
		case "arrayElements":
			if n <= math.MaxInt32 { // the least int: no array
				e.Elements = n
			}
		case "samplingPeriod":
			e.PeriodNanos = ticksToNanos(v.number, c.ticksPerSecond)
		}
	}
	return c.events(func(id uint64, r *jfrReader) error {
		name, ok := wanted[id]
		if !ok {
			return nil
		}
		if err := c.budget.spend(jfrEventCost, 1); err != nil {
			return err
		}
		e, stack, class = JFREvent{Name: name, Chunk: chunk}, 0, [2]uint64{}
		if err := c.values(r, c.classes[id], 0, set); err != nil {
			return err
		}
		var err error
		if e.Stack, err = s.stack(stack); err != nil {
			return err
		}
		text, ok := classes[class]
		if !ok && class != ([2]uint64{}) {
			if text, err = s.class(class[0], class[1] == 1); err != nil {
				return err
			}
			classes[class] = text
			if err := c.budget.spend(96+int64(len(text)), 0); err != nil {
				return err
			}
		}
		e.Class = text
		return f(&e)
	})
}

// class returns the name of a class, or of the class of an object of the old-object sampler.
func (s *jfrStacks) class(id uint64, object bool) (string, error) {
	if object {
		var of uint64
		if err := s.values("jdk.types.OldObject", id, func(name string, v jfrValue) {
			if name == "type" {
				of = v.number
			}
		}); err != nil {
			return "", fmt.Errorf("object %d: %w", id, err)
		}
		id = of
	}
	var symbol uint64
	if err := s.values("java.lang.Class", id, func(name string, v jfrValue) {
		if name == "name" {
			symbol = v.number
		}
	}); err != nil {
		return "", fmt.Errorf("class %d: %w", id, err)
	}
	return s.symbol(symbol)
}

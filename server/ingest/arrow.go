package ingest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/perfuse/perfuse/profile"
	profilestorev1alpha1 "github.com/perfuse/perfuse/proto/parca/profilestore/v1alpha1"
	"github.com/perfuse/perfuse/server/limits"
)

// Parca's agents send a row per sample: its labels, its type in words, value, period, duration, timestamp, and its
// stack. In their first schema the stack is an id, and what it stands for is told when the server asks; in the second
// it is there, a list of entries of a dictionary. What a column's strings are packed in differs from release to
// release, so every packing is read.

// arrowCost is what reading a byte of a record may take of memory; LZ4 alone makes ten bytes of one.
const arrowCost = 60

// arrowDrop are labels that differ from sample to sample and would make a series of each.
var arrowDrop = []string{"thread_id", "cpu"}

// arrowLabels are labels that have a name of their own here.
var arrowLabels = map[string]string{"thread_name": profile.LabelThread}

// writeArrow stores records whose stacks are with them.
func (g *Ingester) writeArrow(ctx context.Context, raw *rawRequest) error {
	var req profilestorev1alpha1.WriteArrowRequest
	if err := raw.decode(&req); err != nil {
		return err
	}
	return g.storeArrow(ctx, req.GetIpcBuffer(), nil)
}

// storeArrow stores the samples of a stream; stacks, if not nil, is the stream of what their ids stand for.
func (g *Ingester) storeArrow(ctx context.Context, samples, stacks []byte) error {
	b := &profile.Batch{Dictionary: profile.NewDictionary()}
	release, err := g.readArrow(ctx, len(samples)+len(stacks), func(mem *arrowMemory) error {
		r := newArrowReader(g, b, mem)
		if stacks != nil {
			if err := eachRecord(stacks, mem, r.stackRecord); err != nil {
				return err
			}
		}
		if err := eachRecord(samples, mem, r.sampleRecord); err != nil {
			return err
		}
		return r.finish()
	})
	if err != nil {
		return err
	}
	defer release()
	at, now := &place{"record", -1, nil}, g.now().UnixNano()
	for i := range b.Profiles {
		if err := g.checkProfile(&b.Profiles[i], now, at); err != nil {
			return err
		}
	}
	if err := g.checkBatch(b); err != nil {
		return err
	}
	return g.write(ctx, b)
}

// wantedStacks returns the ids that a stream's samples name their stacks by, as the answer that asks for them; nil if
// the stacks are in the stream.
func (g *Ingester) wantedStacks(ctx context.Context, samples []byte) ([]byte, error) {
	var ids []string
	seen := map[string]bool{}
	release, err := g.readArrow(ctx, len(samples), func(mem *arrowMemory) error {
		return eachRecord(samples, mem, func(rec arrow.Record) error {
			c := recordColumns(rec)
			if c.fields["stacktrace"] != nil {
				return nil
			}
			id := c.text("stacktrace_id")
			if c.err != nil {
				return c.err
			}
			if err := g.checkRows(rec); err != nil {
				return err
			}
			for row := range int(rec.NumRows()) {
				if s := id(row); s != "" && !seen[s] {
					mem.spend(128 + 2*len(s))
					s = strings.Clone(s)
					seen[s] = true
					ids = append(ids, s)
				}
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	defer release()
	if len(ids) == 0 {
		return nil, nil
	}
	column := array.NewBinaryBuilder(memory.DefaultAllocator, arrow.BinaryTypes.Binary)
	defer column.Release()
	for _, id := range ids {
		column.AppendString(id)
	}
	schema := arrow.NewSchema([]arrow.Field{{Name: "stacktrace_id", Type: arrow.BinaryTypes.Binary}}, nil)
	rec := array.NewRecord(schema, []arrow.Array{column.NewArray()}, int64(len(ids)))
	defer rec.Release()
	var out bytes.Buffer
	w := ipc.NewWriter(&out, ipc.WithSchema(schema))
	if err := errors.Join(w.Write(rec), w.Close()); err != nil {
		panic("BUG: writing our own record: " + err.Error())
	}
	return out.Bytes(), nil
}

// readArrow reads streams of so many bytes in the memory that they may take. The caller gives that back.
func (g *Ingester) readArrow(ctx context.Context, size int, read func(*arrowMemory) error) (release func(), err error) {
	if size == 0 {
		return nil, invalid("the record is empty: want an Arrow IPC stream")
	}
	allowed := min(leastCost+arrowCost*int64(size), unlessOff(g.limits.DecodedBytes))
	if release, err = g.gate.room.enter(ctx, allowed); err != nil {
		return nil, err
	}
	err = newArrowMemory(allowed).recovered(read)
	if err == nil {
		return release, nil
	}
	release()
	var le *limits.Error
	switch {
	case errors.Is(err, errArrowMemory):
		return nil, g.tooLarge(allowed, err)
	case errors.As(err, &le), errors.Is(err, ErrInvalid):
		return nil, err
	}
	return nil, invalid("record: %v", err)
}

// checkRows bounds what is done for every row before it is done.
func (g *Ingester) checkRows(rec arrow.Record) error {
	if err := limits.Count(limits.SamplesPerRequest, rec.NumRows(), g.limits.SamplesPerRequest, "the record has %d samples", rec.NumRows()); err != nil {
		return err
	}
	labels := 0
	for i, f := range rec.Schema().Fields() {
		if strings.HasPrefix(f.Name, labelPrefix) {
			labels++
		} else if s, ok := rec.Column(i).DataType().(*arrow.StructType); ok && f.Name == "labels" {
			labels += s.NumFields()
		}
	}
	if max := g.limits.LabelsPerSeries; int64(labels) > 4*max { // not every sample has every label
		return limits.Count(limits.LabelsPerSeries, int64(labels), max, "the record has columns for %d labels", labels)
	}
	return nil
}

// arrowReader turns records into one batch.
type arrowReader struct {
	g      *Ingester
	mem    *arrowMemory
	b      *profile.Batch
	stacks map[string]profile.StackIndex // by id
	groups map[string]*arrowGroup
	order  []*arrowGroup
	key    []byte
	stack  profile.Stack
	rows   int64
}

// arrowGroup is the samples of one series.
type arrowGroup struct {
	link     profile.LinkIndex
	profile  *profile.Profile
	end      int64
	duration int64
}

func newArrowReader(g *Ingester, b *profile.Batch, mem *arrowMemory) *arrowReader {
	return &arrowReader{g: g, b: b, mem: mem, stacks: map[string]profile.StackIndex{}, groups: map[string]*arrowGroup{}}
}

// stackRecord notes what ids stand for.
func (r *arrowReader) stackRecord(rec arrow.Record) error {
	c := recordColumns(rec)
	id, locations := c.text("stacktrace_id"), c.list("locations")
	if c.err != nil {
		return c.err
	}
	if err := r.g.checkRows(rec); err != nil {
		return err
	}
	stackOf, err := r.stackColumn(locations)
	if err != nil {
		return err
	}
	for row := range int(rec.NumRows()) {
		s, err := stackOf(row)
		if err != nil {
			return err
		}
		key := id(row)
		r.mem.spend(128 + len(key))
		r.stacks[strings.Clone(key)] = s
	}
	return nil
}

func (r *arrowReader) sampleRecord(rec arrow.Record) error {
	r.rows += rec.NumRows()
	if err := limits.Count(limits.SamplesPerRequest, r.rows, r.g.limits.SamplesPerRequest, "the request has %d samples", r.rows); err != nil {
		return err
	}
	if err := r.g.checkRows(rec); err != nil {
		return err
	}
	c := recordColumns(rec)
	value, period, duration, timestamp := c.number("value"), c.number("period"), c.number("duration"), c.number("timestamp")
	words := []textColumn{c.text("producer"), c.text("sample_type"), c.text("sample_unit"), c.text("period_type"), c.text("period_unit")}
	labels := c.labels(rec)
	var stackOf func(int) (profile.StackIndex, error)
	var err error
	if c.fields["stacktrace"] != nil {
		stackOf, err = r.stackColumn(c.list("stacktrace"))
	} else {
		id := c.text("stacktrace_id")
		stackOf = func(row int) (profile.StackIndex, error) {
			s, ok := r.stacks[id(row)]
			if !ok && id(row) != "" {
				return 0, invalid("record: the stack %x of row %d is not among those that were sent", id(row), row)
			}
			return s, nil
		}
	}
	if err := errors.Join(err, c.err); err != nil {
		return err
	}
	values := make([]string, len(words)+len(labels))
	for row := range int(rec.NumRows()) {
		r.key = r.key[:0]
		for i, w := range words {
			values[i] = w(row)
		}
		for i, l := range labels {
			values[len(words)+i] = l.text(row)
		}
		for _, v := range values {
			r.key = binary.AppendUvarint(r.key, uint64(len(v)))
			r.key = append(r.key, v...)
		}
		p, d := period(row), duration(row)
		r.key = binary.AppendVarint(r.key, p)
		group := r.groups[string(r.key)]
		if group == nil {
			if group, err = r.group(values[:len(words)], labels, values[len(words):], p); err != nil {
				return err
			}
		}
		stack, err := stackOf(row)
		if err != nil {
			return err
		}
		v, at := value(row), arrowTime(timestamp(row))
		if at < 0 || d < 0 {
			return invalid("record: the timestamp or duration of row %d is negative", row)
		}
		if v == 0 {
			continue
		}
		r.mem.spend(64)
		out := group.profile
		out.Samples = append(out.Samples, profile.Sample{Stack: stack, Link: group.link, Value: v, TimeNanos: at})
		if at > 0 {
			if out.TimeNanos == 0 || at < out.TimeNanos {
				out.TimeNanos = at
			}
			group.end = max(group.end, at)
		}
		group.duration = max(group.duration, d)
	}
	return nil
}

// arrowTime returns nanoseconds; the first schema had milliseconds before it had those.
func arrowTime(t int64) int64 {
	if t > 0 && t < 1e14 {
		return t * 1e6
	}
	return t
}

// group begins a series. Its key is r.key.
func (r *arrowReader) group(words []string, names []labelColumn, values []string, period int64) (*arrowGroup, error) {
	r.mem.spend(1024 + 2*len(r.key))
	var own []profile.Label
	for i, l := range names {
		name := l.name
		if n, ok := arrowLabels[name]; ok {
			name = n
		}
		if values[i] != "" {
			own = append(own, profile.Label{Name: strings.Clone(name), Value: strings.Clone(text(values[i]))})
		}
	}
	series, link := profile.SampleLabels(own, nil)
	if !slices.ContainsFunc(serviceNames, func(n string) bool { return series.Get(n) != "" }) {
		for _, n := range []string{profile.LabelExecutable, profile.LabelComm} {
			if v := series.Get(n); v != "" && series.Get(profile.LabelServiceName) == "" {
				series = profile.NewLabels(append(slices.Clone(series), profile.Label{Name: profile.LabelServiceName, Value: v})...)
			}
		}
	}
	raw, err := r.g.rawSeries(series, &place{"record", -1, nil})
	if err != nil {
		return nil, err
	}
	if period < 0 {
		return nil, invalid("record: a period is %d: want 0 (unknown) or more", period)
	}
	word := func(i int) string { return strings.Clone(typeWord(words[i])) }
	producer := word(0)
	if producer == "parca_agent" {
		producer = "" // who measured it is not what was measured
	}
	g := &arrowGroup{
		link:    r.b.Dictionary.Link(link),
		profile: &profile.Profile{Type: profileType(producer, word(1), word(2), word(3), word(4), false), Labels: raw.labels, Period: period},
	}
	r.groups[string(r.key)] = g
	r.order = append(r.order, g)
	return g, nil
}

// finish makes profiles of the groups, and CPU time of counts of samples.
func (r *arrowReader) finish() error {
	for _, g := range r.order {
		p := *g.profile
		if len(p.Samples) == 0 {
			continue
		}
		p.DurationNanos = max(g.duration, g.end-p.TimeNanos)
		if p.TimeNanos == 0 {
			p.TimeNanos = max(r.g.now().UnixNano()-p.DurationNanos, 1)
		}
		for i := range p.Samples {
			if p.Samples[i].TimeNanos == p.TimeNanos {
				p.Samples[i].TimeNanos = 0
			}
		}
		if cpu, nanos, ok := cpuTime(p.Type, p.Period); ok {
			times := p
			times.Type, times.Period = cpu, nanos
			r.mem.spend(40 * len(p.Samples))
			times.Samples = slices.Clone(p.Samples)
			for i := range times.Samples {
				v := &times.Samples[i].Value
				if *v > math.MaxInt64/nanos || *v < 0 {
					return invalid("record: %d samples of %d ns are more CPU time than a number can hold", *v, nanos)
				}
				*v *= nanos
			}
			p.Type.PeriodUnit, p.Period = cpu.PeriodUnit, nanos
			r.b.Profiles = append(r.b.Profiles, times)
		}
		r.b.Profiles = append(r.b.Profiles, p)
	}
	return nil
}

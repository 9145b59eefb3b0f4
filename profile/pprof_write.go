package profile

import (
	"encoding/hex"
	"fmt"
	"io"
	"math"

	pprof "github.com/google/pprof/profile"
)

// WritePprof writes profiles of b (none given: all of them) as one gzip-compressed pprof; see ToPprof.
func WritePprof(w io.Writer, b *Batch, profiles ...*Profile) error {
	out, err := ToPprof(b, profiles...)
	if err != nil {
		return err
	}
	if err := out.Write(w); err != nil {
		return fmt.Errorf("writing pprof: %w", err)
	}
	return nil
}

// ToPprof returns profiles of b (none given: all of them) as one pprof. Each sample type is a value column, in
// order of first appearance; the first profile's is the default. Labels and links become sample labels;
// samples of equal stack, labels and link become one, whatever profiles they come from and whenever they
// were taken. It is an error if two profile types would be the same column.
//
// Addresses are the file's own (mappings start at 0). Frames without a name stay locations without lines,
// which pprof shows by their mapping.
func ToPprof(b *Batch, profiles ...*Profile) (*pprof.Profile, error) {
	if len(profiles) == 0 {
		for i := range b.Profiles {
			profiles = append(profiles, &b.Profiles[i])
		}
	}
	out := &pprof.Profile{PeriodType: &pprof.ValueType{}}
	columns, of, err := pprofColumns(profiles)
	if err != nil {
		return nil, fmt.Errorf("making pprof: %w", err)
	}
	for _, t := range columns {
		out.SampleType = append(out.SampleType, &pprof.ValueType{Type: t.SampleType, Unit: t.SampleUnit})
	}
	if len(columns) > 0 {
		out.DefaultSampleType = columns[0].SampleType
	}
	pprofHeader(out, profiles)

	w := pprofWriter{
		d: b.Dictionary, out: out,
		mappings:  make([]*pprof.Mapping, len(b.Dictionary.Mappings)),
		functions: make([]*pprof.Function, len(b.Dictionary.Functions)),
		locations: make([]*pprof.Location, len(b.Dictionary.Frames)),
		stacks:    make([][]*pprof.Location, len(b.Dictionary.Stacks)),
	}
	type sampleKey struct {
		labels int
		stack  StackIndex
		link   LinkIndex
	}
	labelSets := map[string]int{}
	samples := map[sampleKey]*pprof.Sample{}
	var key []byte
	for i, p := range profiles {
		key = appendLabels(key[:0], p.Labels)
		set, ok := labelSets[string(key)]
		if !ok {
			set = len(labelSets)
			labelSets[string(key)] = set
		}
		for j := range p.Samples {
			s := &p.Samples[j]
			k := sampleKey{set, s.Stack, s.Link}
			ps := samples[k]
			if ps == nil {
				ps = &pprof.Sample{Location: w.stack(s.Stack), Value: make([]int64, len(columns)), Label: sampleLabels(p.Labels, b.Dictionary.Links[s.Link])}
				samples[k] = ps
				out.Sample = append(out.Sample, ps)
			}
			ps.Value[of[i]] += s.Value
		}
	}
	w.finish()
	if err := out.CheckValid(); err != nil {
		return nil, fmt.Errorf("making pprof: %w", err)
	}
	return out, nil
}

// pprofColumns returns the distinct types, and for each profile which of them is its own.
func pprofColumns(profiles []*Profile) (columns []Type, of []int, err error) {
	of = make([]int, len(profiles))
profiles:
	for i, p := range profiles {
		for j, t := range columns {
			if t == p.Type {
				of[i] = j
				continue profiles
			}
			if t.SampleType == p.Type.SampleType && t.SampleUnit == p.Type.SampleUnit {
				return nil, nil, fmt.Errorf("%s and %s would be the same column", t, p.Type)
			}
		}
		of[i] = len(columns)
		columns = append(columns, p.Type)
	}
	return columns, of, nil
}

// pprofHeader sets the time, the span and, as far as all profiles agree on it, the period.
func pprofHeader(out *pprof.Profile, profiles []*Profile) {
	var start, end int64
	for i, p := range profiles {
		if i == 0 {
			start = p.TimeNanos
			*out.PeriodType = pprof.ValueType{Type: p.Type.PeriodType, Unit: p.Type.PeriodUnit}
			out.Period = p.Period
		}
		start = min(start, p.TimeNanos)
		end = max(end, p.TimeNanos+p.DurationNanos)
		if p.Type.PeriodType != out.PeriodType.Type || p.Type.PeriodUnit != out.PeriodType.Unit {
			*out.PeriodType = pprof.ValueType{}
			out.Period = 0
		} else if p.Period != out.Period {
			out.Period = 0
		}
	}
	out.TimeNanos, out.DurationNanos = start, max(end-start, 0)
}

func sampleLabels(ls Labels, link Link) map[string][]string {
	if len(ls) == 0 && link == (Link{}) {
		return nil
	}
	m := make(map[string][]string, len(ls)+3)
	for _, l := range ls {
		m[l.Name] = []string{l.Value}
	}
	if link.TraceID != (TraceID{}) {
		m[sampleTraceID] = []string{hex.EncodeToString(link.TraceID[:])}
	}
	if link.SpanID != (SpanID{}) {
		m[sampleSpanID] = []string{hex.EncodeToString(link.SpanID[:])}
	}
	if link.SpanName != "" {
		m[sampleSpanName] = []string{link.SpanName}
	}
	return m
}

type pprofWriter struct {
	d         *Dictionary
	out       *pprof.Profile
	mappings  []*pprof.Mapping
	functions []*pprof.Function
	locations []*pprof.Location
	stacks    [][]*pprof.Location
}

func (w *pprofWriter) stack(i StackIndex) []*pprof.Location {
	if w.stacks[i] == nil {
		s := w.d.Stacks[i]
		locs := make([]*pprof.Location, len(s))
		for j, f := range s {
			locs[j] = w.location(f)
		}
		w.stacks[i] = locs
	}
	return w.stacks[i]
}

func (w *pprofWriter) location(i FrameIndex) *pprof.Location {
	if w.locations[i] != nil {
		return w.locations[i]
	}
	f := &w.d.Frames[i]
	l := &pprof.Location{ID: uint64(len(w.out.Location) + 1), Address: uint64(f.Addr)}
	w.locations[i] = l
	w.out.Location = append(w.out.Location, l)
	switch m := w.d.Mappings[f.Mapping]; {
	case f.Kind == KindKernel: // one mapping for the kernel and its modules, which index 0 is free for
		l.Mapping = w.mapping(0, Mapping{File: KernelFile, BuildID: m.BuildID})
	case m != (Mapping{}):
		l.Mapping = w.mapping(f.Mapping, m)
	}
	if l.Mapping != nil && l.Address < math.MaxUint64 {
		l.Mapping.Limit = max(l.Mapping.Limit, l.Address+1)
	}
	for _, line := range f.Lines {
		l.Line = append(l.Line, pprof.Line{Function: w.function(line.Function), Line: int64(line.Line), Column: int64(line.Column)})
	}
	switch {
	case len(l.Line) > 0:
	case f.Kind == KindUnwind || f.Kind == KindKernel || l.Mapping == nil && l.Address == 0:
		// pprof would show nothing, or only the kernel's name.
		fn := &pprof.Function{ID: uint64(len(w.out.Function) + 1), Name: w.d.unnamed(f)}
		w.out.Function = append(w.out.Function, fn)
		l.Line = []pprof.Line{{Function: fn}}
	case l.Mapping != nil:
		l.Mapping.HasFunctions = false
	}
	if l.Mapping != nil {
		for j, line := range l.Line {
			l.Mapping.HasFilenames = l.Mapping.HasFilenames || line.Function.Filename != ""
			l.Mapping.HasLineNumbers = l.Mapping.HasLineNumbers || line.Line != 0
			l.Mapping.HasInlineFrames = l.Mapping.HasInlineFrames || j > 0
		}
	}
	return l
}

func (w *pprofWriter) mapping(i MappingIndex, m Mapping) *pprof.Mapping {
	if w.mappings[i] == nil {
		w.mappings[i] = &pprof.Mapping{File: m.File, BuildID: m.BuildID, HasFunctions: true}
	}
	return w.mappings[i]
}

func (w *pprofWriter) function(i FunctionIndex) *pprof.Function {
	if w.functions[i] == nil {
		f := w.d.Functions[i]
		if f.SystemName == "" {
			f.SystemName = f.Name
		}
		w.functions[i] = &pprof.Function{ID: uint64(len(w.out.Function) + 1), Name: f.Name, SystemName: f.SystemName, Filename: f.File, StartLine: int64(f.StartLine)}
		w.out.Function = append(w.out.Function, w.functions[i])
	}
	return w.functions[i]
}

// finish numbers the mappings: executables before the kernel, since pprof takes the first one for the program.
func (w *pprofWriter) finish() {
	for _, kernel := range []bool{false, true} {
		for _, m := range w.mappings {
			if m != nil && (m.File == KernelFile) == kernel {
				const page = 4096
				if m.Limit <= 1<<63 {
					m.Limit = (m.Limit + page - 1) / page * page
				}
				m.ID = uint64(len(w.out.Mapping) + 1)
				w.out.Mapping = append(w.out.Mapping, m)
			}
		}
	}
}

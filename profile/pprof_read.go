package profile

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	pprof "github.com/google/pprof/profile"
)

// Names of the sample labels that become a sample's [Link] instead of series labels.
const (
	pprofTraceID  = "trace_id"
	pprofSpanID   = "span_id"
	pprofSpanName = "span_name"
)

// PprofOptions says how a pprof becomes profiles of ours. The zero value works.
type PprofOptions struct {
	// Name is the first part of the profile types. Empty: told from the sample types ("process_cpu",
	// "memory", ...).
	Name string
	// Labels are those of all series; they win over sample labels of the same name.
	Labels Labels
	// MaxSeries bounds the number of label sets that sample labels may make; 0: 1000. What goes beyond is
	// an error.
	MaxSeries int
	// MaxBytes bounds the decompressed size for ReadPprof; 0: 64 MiB. What would take more than 16 times
	// as much memory while it is decoded is refused, too.
	MaxBytes int64
}

// ErrTooLarge: the input exceeds a limit of PprofOptions.
var ErrTooLarge = errors.New("profile too large")

// ReadPprof reads a pprof, gzip-compressed or not, from r. Of the old text formats it reads none.
func ReadPprof(r io.Reader, o PprofOptions) (*Batch, error) {
	if o.MaxBytes <= 0 {
		o.MaxBytes = 64 << 20
	}
	data, err := readBounded(r, o.MaxBytes)
	if err != nil {
		return nil, fmt.Errorf("reading pprof: %w", err)
	}
	if err := checkPprofShape(data, 16*o.MaxBytes); err != nil {
		return nil, fmt.Errorf("reading pprof: %w", err)
	}
	src, err := pprof.ParseUncompressed(data)
	if err != nil {
		return nil, fmt.Errorf("reading pprof: %w", err)
	}
	return FromPprof(src, o)
}

func readBounded(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if len(data) >= 2 && data[0] == 0x1f && data[1] == 0x8b {
		zr, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		if data, err = io.ReadAll(io.LimitReader(zr, limit+1)); err != nil {
			return nil, err
		}
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: more than %s after decompression", ErrTooLarge, FormatValue(limit, "bytes"))
	}
	if len(data) == 0 {
		return nil, errors.New("no data")
	}
	return data, nil
}

// FromPprof returns the profiles of src: one per sample type and set of string labels that occurs, each with
// the samples that have a value there. It checks src first.
//
// Numeric labels are dropped. The labels trace_id, span_id (hex) and span_name make a sample's link. Names of
// labels are made to fit selectors: what is neither letter, digit, '_', '.' nor '-' becomes '_'. Text that is
// not UTF-8 is repaired.
//
// Addresses become those of the executable file (see [Addr]): address - start + offset of the mapping, which
// is right for position-independent files whose segments lie in memory as in the file; addresses of programs
// that are linked to a fixed place below 256 MiB stay as they are.
func FromPprof(src *pprof.Profile, o PprofOptions) (*Batch, error) {
	if src == nil {
		return nil, fmt.Errorf("converting pprof: no profile")
	}
	if err := src.CheckValid(); err != nil {
		return nil, fmt.Errorf("converting pprof: %w", err)
	}
	if o.MaxSeries <= 0 {
		o.MaxSeries = 1000
	}
	c := pprofReader{
		d:         NewDictionary(),
		mappings:  make(map[*pprof.Mapping]MappingIndex, len(src.Mapping)),
		functions: make(map[*pprof.Function]FunctionIndex, len(src.Function)),
		frames:    make(map[*pprof.Location]FrameIndex, len(src.Location)),
	}
	types, err := pprofTypes(src, o.Name)
	if err != nil {
		return nil, fmt.Errorf("converting pprof: %w", err)
	}
	groups := map[string]*pprofGroup{}
	var order []*pprofGroup
	var key []byte
	for _, s := range src.Sample {
		var ls Labels
		var link Link
		if len(s.Label) > 0 {
			ls, link = pprofLabels(s.Label)
		}
		key = appendLabels(key[:0], ls)
		g := groups[string(key)]
		if g == nil {
			if len(order) == o.MaxSeries {
				return nil, fmt.Errorf("converting pprof: %w: more than %d sets of sample labels", ErrTooLarge, o.MaxSeries)
			}
			g = &pprofGroup{labels: NewLabels(slices.Concat(ls, o.Labels)...), at: map[pprofSample]int{}}
			groups[string(key)] = g
			order = append(order, g)
		}
		k := pprofSample{c.stack(s.Location), c.d.Link(link)}
		at, ok := g.at[k]
		if !ok {
			at = len(g.samples)
			g.at[k] = at
			g.samples = append(g.samples, k)
			g.values = append(g.values, s.Value...)
			continue
		}
		for i, v := range s.Value {
			g.values[at*len(types)+i] += v
		}
	}
	b := &Batch{Dictionary: c.d}
	for _, g := range order {
		for i, t := range types {
			p := Profile{
				Type: t, Labels: g.labels,
				TimeNanos: max(src.TimeNanos, 0), DurationNanos: max(src.DurationNanos, 0), Period: max(src.Period, 0),
			}
			for j, s := range g.samples {
				if v := g.values[j*len(types)+i]; v != 0 {
					p.Samples = append(p.Samples, Sample{Stack: s.stack, Link: s.link, Value: v})
				}
			}
			if len(p.Samples) > 0 {
				b.Profiles = append(b.Profiles, p)
			}
		}
	}
	return b, nil
}

type pprofSample struct {
	stack StackIndex
	link  LinkIndex
}

// pprofGroup is the samples of one label set; values has len(types) values per sample.
type pprofGroup struct {
	labels  Labels
	samples []pprofSample
	at      map[pprofSample]int
	values  []int64
}

type pprofReader struct {
	d         *Dictionary
	mappings  map[*pprof.Mapping]MappingIndex
	functions map[*pprof.Function]FunctionIndex
	frames    map[*pprof.Location]FrameIndex
	scratch   Stack
}

func (c *pprofReader) stack(locs []*pprof.Location) StackIndex {
	c.scratch = c.scratch[:0]
	for _, l := range locs {
		f, ok := c.frames[l]
		if !ok {
			f = c.frame(l)
			c.frames[l] = f
		}
		c.scratch = append(c.scratch, f)
	}
	return c.d.Stack(c.scratch)
}

func (c *pprofReader) frame(l *pprof.Location) FrameIndex {
	f := Frame{Addr: Addr(l.Address)}
	if m := l.Mapping; m != nil {
		i, ok := c.mappings[m]
		if !ok {
			i = c.d.Mapping(Mapping{BuildID: strings.ToLower(validText(m.BuildID)), File: pprofFile(validText(m.File))})
			c.mappings[m] = i
		}
		f.Mapping = i
		const fixed = 256 << 20
		switch {
		case strings.HasPrefix(m.File, "[kernel"):
			f.Kind = KindKernel
		case m.Start >= fixed && l.Address >= m.Start:
			f.Addr = Addr(l.Address - m.Start + m.Offset)
		}
	}
	for _, line := range l.Line {
		i, ok := c.functions[line.Function]
		if !ok {
			fn := Function{
				Name:       validText(line.Function.Name),
				SystemName: validText(line.Function.SystemName),
				File:       validText(line.Function.Filename),
				StartLine:  lineNumber(line.Function.StartLine),
			}
			if fn.Name == "" {
				fn.Name = fn.SystemName
			}
			if fn.SystemName == fn.Name {
				fn.SystemName = ""
			}
			i = c.d.Function(fn)
			c.functions[line.Function] = i
		}
		if i == 0 { // a function without a name, file and line says nothing
			continue
		}
		f.Lines = append(f.Lines, Line{Function: i, Line: lineNumber(line.Line), Column: lineNumber(line.Column)})
	}
	if len(f.Lines) == 1 && f.Mapping == 0 && strings.HasPrefix(c.d.Functions[f.Lines[0].Function].Name, foldedUnwind) {
		f.Kind = KindUnwind
	}
	return c.d.Frame(f)
}

// pprofFile takes from the kernel's mapping the name of a symbol that perf's converters append to it.
func pprofFile(file string) string {
	if strings.HasPrefix(file, KernelFile) {
		return KernelFile
	}
	return file
}

func lineNumber(n int64) int32 {
	if n < 0 || n > math.MaxInt32 {
		return 0
	}
	return int32(n)
}

func validText(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// pprofTypes names the types of the value columns.
func pprofTypes(src *pprof.Profile, name string) ([]Type, error) {
	var period pprof.ValueType
	if src.PeriodType != nil {
		period.Type, period.Unit = src.PeriodType.Type, src.PeriodType.Unit
	}
	if name == "" {
		name = pprofName(src.SampleType, period.Type)
	}
	part := func(s string) string { return strings.ReplaceAll(validText(s), ":", "_") }
	types := make([]Type, len(src.SampleType))
	for i, st := range src.SampleType {
		types[i] = Type{Name: part(name), SampleType: part(st.Type), SampleUnit: part(st.Unit), PeriodType: part(period.Type), PeriodUnit: part(period.Unit)}
		if types[i].SampleType == "" {
			types[i].SampleType = "unknown"
		}
		if slices.Contains(types[:i], types[i]) {
			return nil, fmt.Errorf("the sample type %s:%s occurs twice", types[i].SampleType, types[i].SampleUnit)
		}
	}
	return types, nil
}

// pprofName tells what kind of profile it is, as Parca and Pyroscope call it.
func pprofName(types []*pprof.ValueType, period string) string {
	has := func(names ...string) bool {
		return slices.ContainsFunc(types, func(t *pprof.ValueType) bool { return slices.Contains(names, t.Type) })
	}
	switch {
	case has("cpu"), period == "cpu":
		return "process_cpu"
	case has("inuse_space", "inuse_objects", "alloc_space", "alloc_objects"), period == "space":
		return "memory"
	case has("contentions"):
		return "contention"
	case has("goroutine"), period == "goroutine":
		return "goroutine"
	case period != "":
		return period
	case len(types) > 0 && types[0].Type != "":
		return types[0].Type
	}
	return "unknown"
}

// pprofLabels parts a sample's string labels into those of its series and its link. Of several values for
// one name the first counts.
func pprofLabels(in map[string][]string) (Labels, Link) {
	ls := make(Labels, 0, len(in))
	var link Link
	for name, values := range in {
		if len(values) == 0 || values[0] == "" {
			continue
		}
		value := validText(values[0])
		switch name {
		case pprofTraceID:
			if id, err := hex.DecodeString(value); err == nil && len(id) == len(link.TraceID) {
				copy(link.TraceID[:], id)
				continue
			}
		case pprofSpanID:
			if id, err := hex.DecodeString(value); err == nil && len(id) == len(link.SpanID) {
				copy(link.SpanID[:], id)
				continue
			}
		case pprofSpanName:
			link.SpanName = value
			continue
		}
		ls = append(ls, Label{labelName(name), value})
	}
	// Two names may have become one: let the order of values decide, not that of the map.
	slices.SortFunc(ls, func(a, b Label) int { return Labels{a}.Compare(Labels{b}) })
	return NewLabels(ls...), link
}

// labelName makes a name that selectors can name.
func labelName(s string) string {
	b := []byte(s)
	for i := range b {
		if !isNameByte(b[i], true) {
			b[i] = '_'
		}
	}
	if len(b) == 0 || !isNameByte(b[0], false) {
		return "_" + string(b)
	}
	return string(b)
}

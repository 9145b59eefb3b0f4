package profile

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
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
	// Dictionary takes what the samples refer to, beside what it holds already. Nil: a new one.
	Dictionary *Dictionary
	// MaxBytes bounds the decompressed size; 0: 64 MiB. Reading takes up to ten times as much memory.
	MaxBytes int64
	// Amounts says that values are amounts: one below zero is an error, and so is a sum that no number holds. Default: any
	// values, as those of a difference.
	Amounts bool
}

// ErrTooLarge: the input exceeds a limit of PprofOptions.
var ErrTooLarge = errors.New("profile too large")

// ErrManySeries: it exceeds MaxSeries. It is ErrTooLarge, too.
var ErrManySeries = fmt.Errorf("%w: too many sets of sample labels", ErrTooLarge)

// ReadPprof reads a pprof, gzip-compressed or not, and returns its profiles: one per sample type and set of
// string labels that occurs, each with the samples that have a value there. Of the old text formats it reads
// none.
//
// Numeric labels are dropped. The labels trace_id, span_id (hex) and span_name make a sample's link. Names of
// labels become what [LabelName] makes of them. Text that is not UTF-8 is repaired.
//
// Addresses become those of the executable file (see [Addr]): address - start + offset of the mapping, which
// is right for position-independent files whose segments lie in memory as in the file; addresses of programs
// that are linked to a fixed place below 256 MiB stay as they are.
func ReadPprof(r io.Reader, o PprofOptions) (*Batch, error) {
	if o.MaxBytes <= 0 {
		o.MaxBytes = 64 << 20
	}
	o.MaxBytes = min(o.MaxBytes, math.MaxUint32)
	data, err := readBounded(r, o.MaxBytes)
	if err != nil {
		return nil, fmt.Errorf("reading pprof: %w", err)
	}
	return ParsePprof(data, o)
}

// ParsePprof is [ReadPprof] of data that lies in memory, decompressed; MaxBytes does not bound it. The batch refers
// to none of it.
func ParsePprof(data []byte, o PprofOptions) (*Batch, error) {
	if o.MaxSeries <= 0 {
		o.MaxSeries = 1000
	}
	b, err := parsePprof(data, o)
	if err != nil {
		return nil, fmt.Errorf("reading pprof: %w", err)
	}
	return b, nil
}

func parsePprof(data []byte, o PprofOptions) (*Batch, error) {
	if len(data) == 0 {
		return nil, errors.New("no data")
	}
	if int64(len(data)) > math.MaxUint32 {
		return nil, fmt.Errorf("%w: more than %s", ErrTooLarge, FormatValue(math.MaxUint32, "bytes"))
	}
	f, err := openPprof(data)
	if err != nil {
		return nil, err
	}
	if o.Dictionary == nil {
		o.Dictionary = NewDictionary()
	}
	p := pprofReader{
		file: f, opts: o, d: o.Dictionary,
		mappings:  make([]pprofMapping, len(f.mappings.entries)),
		functions: make([]FunctionIndex, len(f.functions.entries)),
		frames:    make([]FrameIndex, len(f.locations.entries)),
		places:    map[string]pprofPlace{},
		series:    map[string]*pprofSeries{},
	}
	if p.types, err = f.profileTypes(o.Name); err != nil {
		return nil, err
	}
	if err := eachField(data, func(field pprofField) error {
		if field.number != 2 {
			return nil
		}
		return p.sample(field.bytes)
	}); err != nil {
		return nil, err
	}
	return p.batch(), nil
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
	return data, nil
}

type pprofReader struct {
	file  *pprofFile
	opts  PprofOptions
	types []Type
	d     *Dictionary

	// By number of entry: what it became. 0 means not yet, so all are stored plus 1.
	mappings  []pprofMapping
	functions []FunctionIndex
	frames    []FrameIndex

	places map[string]pprofPlace   // by a sample's string labels as encoded
	series map[string]*pprofSeries // by labels
	order  []*pprofSeries

	// Of the sample at hand.
	stack  Stack
	values []int64
	key    []byte
	labels []pprofLabel
}

type pprofLabel struct{ key, value uint64 }

type pprofMapping struct {
	index         MappingIndex // plus 1
	kernel        bool
	start, offset uint64
}

// pprofPlace is where a sample belongs by its labels.
type pprofPlace struct {
	series *pprofSeries
	link   LinkIndex
}

// pprofSeries is the samples of one label set; values has one per type and sample.
type pprofSeries struct {
	labels  Labels
	samples []pprofSample
	at      map[pprofSample]int
	values  []int64
}

type pprofSample struct {
	stack StackIndex
	link  LinkIndex
}

func (p *pprofReader) batch() *Batch {
	f := p.file
	b := &Batch{Dictionary: p.d}
	for _, g := range p.order {
		for i, t := range p.types {
			out := Profile{
				Type: t, Labels: g.labels,
				TimeNanos: max(f.timeNanos, 0), DurationNanos: max(f.durationNanos, 0), Period: max(f.periodLen, 0),
			}
			n := 0
			for j := range g.samples {
				if g.values[j*len(p.types)+i] != 0 {
					n++
				}
			}
			if n == 0 {
				continue
			}
			out.Samples = make([]Sample, 0, n)
			for j, s := range g.samples {
				if v := g.values[j*len(p.types)+i]; v != 0 {
					out.Samples = append(out.Samples, Sample{Stack: s.stack, Link: s.link, Value: v})
				}
			}
			b.Profiles = append(b.Profiles, out)
		}
	}
	return b
}

func (p *pprofReader) sample(data []byte) error {
	p.stack, p.values, p.labels = p.stack[:0], p.values[:0], p.labels[:0]
	err := eachField(data, func(f pprofField) error {
		switch f.number {
		case 1:
			var bad error
			err := f.numbers(func(id uint64) {
				n := p.file.locations.find(id)
				if n < 0 {
					bad = fmt.Errorf("a sample refers to location %d, which does not exist", id)
					return
				}
				if p.frames[n] == 0 {
					i, err := p.frame(p.file.locations.entries[n].of(p.file.data))
					if err != nil {
						bad = fmt.Errorf("location %d: %w", id, err)
						return
					}
					p.frames[n] = i + 1
				}
				p.stack = append(p.stack, p.frames[n]-1)
			})
			return cmp.Or(bad, err)
		case 2:
			return f.numbers(func(v uint64) { p.values = append(p.values, int64(v)) })
		case 3:
			return p.label(f.bytes)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(p.values) != len(p.types) {
		return fmt.Errorf("a sample has %d values, there are %d sample types", len(p.values), len(p.types))
	}
	for i, v := range p.values {
		if p.opts.Amounts && v < 0 {
			return fmt.Errorf("a value of %s is %d: want 0 or more", p.types[i], v)
		}
	}
	place, err := p.place()
	if err != nil {
		return err
	}
	g, s := place.series, pprofSample{p.d.Stack(p.stack), place.link}
	at, ok := g.at[s]
	if !ok {
		g.at[s] = len(g.samples)
		g.samples = append(g.samples, s)
		g.values = append(g.values, p.values...)
		return nil
	}
	for i, v := range p.values {
		sum := &g.values[at*len(p.types)+i]
		if *sum += v; p.opts.Amounts && *sum < 0 {
			return fmt.Errorf("the sum of the values of %s is more than a number can hold", p.types[i])
		}
	}
	return nil
}

// label notes a label of the sample at hand if it is a string. Of several values for a name the first counts.
func (p *pprofReader) label(data []byte) error {
	var l pprofLabel
	if err := eachField(data, func(f pprofField) error {
		switch f.number {
		case 1:
			l.key = f.value
		case 2:
			l.value = f.value
		}
		return nil
	}); err != nil {
		return err
	}
	if l.value != 0 && !slices.ContainsFunc(p.labels, func(o pprofLabel) bool { return o.key == l.key }) {
		p.labels = append(p.labels, l)
	}
	return nil
}

// place finds the series and the link of the labels at hand.
func (p *pprofReader) place() (pprofPlace, error) {
	p.key = p.key[:0]
	for _, l := range p.labels {
		p.key = binary.AppendUvarint(binary.AppendUvarint(p.key, l.key), l.value)
	}
	if place, ok := p.places[string(p.key)]; ok {
		return place, nil
	}
	own := make([]Label, 0, len(p.labels))
	for _, l := range p.labels {
		name, err := p.file.text(l.key)
		if err != nil {
			return pprofPlace{}, fmt.Errorf("a label's name: %w", err)
		}
		value, err := p.file.text(l.value)
		if err != nil {
			return pprofPlace{}, fmt.Errorf("label %q: %w", name, err)
		}
		own = append(own, Label{name, strings.Clone(value)})
	}
	ls, link := SampleLabels(own, p.opts.Labels)
	key := string(appendLabels(nil, ls))
	g := p.series[key]
	if g == nil {
		if len(p.order) == p.opts.MaxSeries {
			return pprofPlace{}, fmt.Errorf("%w: more than %d", ErrManySeries, p.opts.MaxSeries)
		}
		g = &pprofSeries{labels: ls, at: map[pprofSample]int{}}
		p.series[key] = g
		p.order = append(p.order, g)
	}
	place := pprofPlace{g, p.d.Link(link)}
	p.places[string(p.key)] = place
	return place, nil
}

func (p *pprofReader) frame(data []byte) (FrameIndex, error) {
	var f Frame
	var mapping uint64
	if err := eachField(data, func(field pprofField) (err error) {
		switch field.number {
		case 2:
			mapping = field.value
		case 3:
			f.Addr = Addr(field.value)
		case 4:
			var l Line
			if l, err = p.line(field.bytes); err == nil && l.Function != 0 {
				f.Lines = append(f.Lines, l)
			}
		}
		return err
	}); err != nil {
		return 0, err
	}
	if mapping != 0 {
		m, err := p.mapping(mapping)
		if err != nil {
			return 0, err
		}
		f.Mapping = m.index - 1
		const fixed = 256 << 20
		switch {
		case m.kernel:
			f.Kind = KindKernel
		case m.start >= fixed && uint64(f.Addr) >= m.start:
			f.Addr = Addr(uint64(f.Addr) - m.start + m.offset)
		}
	}
	if len(f.Lines) == 1 && f.Mapping == 0 && strings.HasPrefix(p.d.Functions[f.Lines[0].Function].Name, foldedUnwind) {
		f.Kind = KindUnwind
	}
	return p.d.Frame(f), nil
}

// line returns a line, with function 0 if that says nothing.
func (p *pprofReader) line(data []byte) (l Line, err error) {
	var id uint64
	if err := eachField(data, func(f pprofField) error {
		switch f.number {
		case 1:
			id = f.value
		case 2:
			l.Line = lineNumber(f.value)
		case 3:
			l.Column = lineNumber(f.value)
		}
		return nil
	}); err != nil || id == 0 {
		return l, err
	}
	n := p.file.functions.find(id)
	if n < 0 {
		return l, fmt.Errorf("function %d does not exist", id)
	}
	if p.functions[n] == 0 {
		i, err := p.function(p.file.functions.entries[n].of(p.file.data))
		if err != nil {
			return l, fmt.Errorf("function %d: %w", id, err)
		}
		p.functions[n] = i + 1
	}
	l.Function = p.functions[n] - 1
	return l, nil
}

func (p *pprofReader) function(data []byte) (FunctionIndex, error) {
	var fn Function
	if err := eachField(data, func(f pprofField) (err error) {
		switch f.number {
		case 2:
			fn.Name, err = p.file.text(f.value)
		case 3:
			fn.SystemName, err = p.file.text(f.value)
		case 4:
			fn.File, err = p.file.text(f.value)
		case 5:
			fn.StartLine = lineNumber(f.value)
		}
		return err
	}); err != nil {
		return 0, err
	}
	if fn.Name == "" {
		fn.Name = fn.SystemName
	}
	if fn.SystemName == fn.Name {
		fn.SystemName = ""
	}
	fn.Name, fn.SystemName, fn.File = strings.Clone(fn.Name), strings.Clone(fn.SystemName), strings.Clone(fn.File)
	return p.d.Function(fn), nil
}

// mapping returns a mapping; one that is not in the table says nothing, as in the pprof library.
func (p *pprofReader) mapping(id uint64) (pprofMapping, error) {
	n := p.file.mappings.find(id)
	if n < 0 {
		return pprofMapping{index: 1}, nil
	}
	if p.mappings[n].index != 0 {
		return p.mappings[n], nil
	}
	var m pprofMapping
	var out Mapping
	if err := eachField(p.file.mappings.entries[n].of(p.file.data), func(f pprofField) (err error) {
		switch f.number {
		case 2:
			m.start = f.value
		case 4:
			m.offset = f.value
		case 5:
			out.File, err = p.file.text(f.value)
		case 6:
			out.BuildID, err = p.file.text(f.value)
		}
		return err
	}); err != nil {
		return m, fmt.Errorf("mapping %d: %w", id, err)
	}
	m.kernel = strings.HasPrefix(out.File, "[kernel")
	if strings.HasPrefix(out.File, KernelFile) {
		out.File = KernelFile // converters of perf's files append the name of a symbol
	}
	out.File, out.BuildID = strings.Clone(out.File), strings.ToLower(strings.Clone(out.BuildID))
	m.index = p.d.Mapping(out) + 1
	p.mappings[n] = m
	return m, nil
}

func lineNumber(n uint64) int32 {
	if n > math.MaxInt32 { // negative ones, too
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

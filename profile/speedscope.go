package profile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
)

// SpeedscopeOptions says how a speedscope file becomes profiles of ours. The zero value works.
type SpeedscopeOptions struct {
	// Labels are those of all series.
	Labels Labels
	// Type says what a profile measures whose values have that unit ("none", "nanoseconds", "microseconds",
	// "milliseconds", "seconds", "bytes"), and what to multiply them by. Nil: SpeedscopeType.
	Type func(unit string) (Type, float64, error)
	// MaxFrames bounds a stack; 0: 4096.
	MaxFrames int
	// MaxBytes bounds the memory that the profiles take; 0: not bounded.
	MaxBytes int64
}

// SpeedscopeNanos returns how many nanoseconds one of a speedscope file's units of time is.
func SpeedscopeNanos(unit string) (float64, bool) {
	n, ok := map[string]float64{"nanoseconds": 1, "microseconds": 1e3, "milliseconds": 1e6, "seconds": 1e9}[unit]
	return n, ok
}

// SpeedscopeType takes time for CPU time, bytes for allocations and values without a unit for samples.
func SpeedscopeType(unit string) (Type, float64, error) {
	if n, ok := SpeedscopeNanos(unit); ok {
		return TypeCPU, n, nil
	}
	switch unit {
	case "bytes":
		return TypeAllocSpace, 1, nil
	case "none", "":
		return TypeCPUSamples, 1, nil
	}
	return Type{}, 0, fmt.Errorf("the unit %.40q: want none, nanoseconds, microseconds, milliseconds, seconds or bytes", unit)
}

// speedscopeFile is the parts of https://www.speedscope.app/file-format-schema.json that say something.
type speedscopeFile struct {
	Schema string `json:"$schema"`
	Shared struct {
		Frames []struct {
			Name string `json:"name"`
			File string `json:"file"`
			Line int64  `json:"line"`
			Col  int64  `json:"col"`
		} `json:"frames"`
	} `json:"shared"`
	Profiles []speedscopeProfile `json:"profiles"`
}

type speedscopeProfile struct {
	Type       string  `json:"type"`
	Name       string  `json:"name"`
	Unit       string  `json:"unit"`
	StartValue float64 `json:"startValue"`
	EndValue   float64 `json:"endValue"`
	// Of a profile of type evented.
	Events []struct {
		Type  string  `json:"type"`
		Frame int     `json:"frame"`
		At    float64 `json:"at"`
	} `json:"events"`
	// Of a profile of type sampled.
	Samples [][]int   `json:"samples"`
	Weights []float64 `json:"weights"`
}

// ParseSpeedscope reads a file in speedscope's own format, sampled or evented. A profile's name becomes the label
// profile_name. The file does not say when it was taken.
func ParseSpeedscope(data []byte, o SpeedscopeOptions) (*Batch, error) {
	b, err := parseSpeedscope(data, o)
	if err != nil {
		return nil, fmt.Errorf("reading speedscope: %w", err)
	}
	return b, nil
}

func parseSpeedscope(data []byte, o SpeedscopeOptions) (*Batch, error) {
	if o.Type == nil {
		o.Type = SpeedscopeType
	}
	if o.MaxFrames <= 0 {
		o.MaxFrames = 4096
	}
	var file speedscopeFile
	if err := json.Unmarshal(bytes.TrimPrefix(data, []byte("\ufeff")), &file); err != nil {
		return nil, err
	}
	if !strings.Contains(file.Schema, "speedscope") {
		return nil, fmt.Errorf("$schema is %.100q: want speedscope's file format, not an export of another tool", file.Schema)
	}
	if len(file.Profiles) == 0 {
		return nil, errors.New("it has no profiles")
	}
	p := speedscopeParser{opts: o, d: NewDictionary(), left: newBudget(o.MaxBytes)}
	for _, f := range file.Shared.Frames {
		if f.Name == "" {
			f.Name = foldedEmpty
		}
		fn := p.d.Function(Function{Name: validText(f.Name), File: validText(f.File)})
		p.frames = append(p.frames, p.d.Frame(Frame{Lines: []Line{{Function: fn, Line: lineNumber(uint64(f.Line)), Column: lineNumber(uint64(f.Col))}}}))
		if err := p.left.spend(namedFrameCost, 0); err != nil {
			return nil, err
		}
	}
	b := &Batch{Dictionary: p.d}
	for i := range file.Profiles {
		in := &file.Profiles[i]
		out, err := p.profile(in)
		if err != nil {
			return nil, fmt.Errorf("profiles[%d]: %w", i, err)
		}
		if len(out.Samples) > 0 {
			b.Profiles = append(b.Profiles, out)
		}
	}
	return b, nil
}

type speedscopeParser struct {
	opts   SpeedscopeOptions
	d      *Dictionary
	frames []FrameIndex
	left   budget

	// Of the profile at hand.
	stack  Stack // the leaf first
	order  []StackIndex
	values map[StackIndex]float64
}

func (p *speedscopeParser) profile(in *speedscopeProfile) (out Profile, err error) {
	t, scale, err := p.opts.Type(in.Unit)
	if err != nil {
		return out, err
	}
	p.order, p.values = nil, map[StackIndex]float64{}
	switch in.Type {
	case "sampled":
		err = p.sampled(in)
	case "evented":
		err = p.evented(in)
	default:
		err = fmt.Errorf("the type %.40q: want sampled or evented", in.Type)
	}
	if err != nil {
		return out, err
	}
	out = Profile{Type: t, Labels: p.opts.Labels}
	if in.Name != "" {
		out.Labels, _ = SampleLabels([]Label{{"profile_name", validText(in.Name)}}, p.opts.Labels)
	}
	if n, ok := SpeedscopeNanos(in.Unit); ok && in.EndValue > in.StartValue && (in.EndValue-in.StartValue)*n < math.MaxInt64/2 {
		out.DurationNanos = int64((in.EndValue - in.StartValue) * n)
	}
	for _, s := range p.order {
		v := math.Round(p.values[s] * scale)
		if v >= math.MaxInt64 {
			return out, errors.New("the sum of a stack's values is more than a number can hold")
		}
		if v > 0 {
			out.Samples = append(out.Samples, Sample{Stack: s, Value: int64(v)})
		}
	}
	return out, nil
}

// add counts a value for the stack at hand.
func (p *speedscopeParser) add(v float64) error {
	if v == 0 {
		return nil
	}
	s := p.d.Stack(p.stack)
	if _, ok := p.values[s]; !ok {
		p.order = append(p.order, s)
		if err := p.left.spend(stackCost+4*int64(len(p.stack)), 0); err != nil {
			return err
		}
	}
	p.values[s] += v
	return nil
}

func (p *speedscopeParser) frame(i int) (FrameIndex, error) {
	if i < 0 || i >= len(p.frames) {
		return 0, fmt.Errorf("frame %d of %d", i, len(p.frames))
	}
	return p.frames[i], nil
}

func (p *speedscopeParser) tooDeep(n int) error {
	if n <= p.opts.MaxFrames {
		return nil
	}
	return fmt.Errorf("%w: a stack of more than %d frames", ErrTooDeep, p.opts.MaxFrames)
}

func (p *speedscopeParser) sampled(in *speedscopeProfile) error {
	if len(in.Samples) != len(in.Weights) {
		return fmt.Errorf("%d samples and %d weights: want as many", len(in.Samples), len(in.Weights))
	}
	for i, sample := range in.Samples {
		if err := p.tooDeep(len(sample)); err != nil {
			return fmt.Errorf("samples[%d]: %w", i, err)
		}
		p.stack = p.stack[:0]
		for j := len(sample) - 1; j >= 0; j-- {
			f, err := p.frame(sample[j])
			if err != nil {
				return fmt.Errorf("samples[%d]: %w", i, err)
			}
			p.stack = append(p.stack, f)
		}
		if in.Weights[i] < 0 {
			return fmt.Errorf("weights[%d] is %g: want 0 or more", i, in.Weights[i])
		}
		if err := p.add(in.Weights[i]); err != nil {
			return err
		}
	}
	return nil
}

// evented takes the time between two events for the stack that is open then.
func (p *speedscopeParser) evented(in *speedscopeProfile) error {
	var open []FrameIndex
	at := in.StartValue
	for i, e := range in.Events {
		if e.At < at {
			return fmt.Errorf("events[%d] is at %g, after one at %g: want them in order", i, e.At, at)
		}
		if len(open) > 0 && e.At > at {
			p.stack = p.stack[:0]
			for j := len(open) - 1; j >= 0; j-- {
				p.stack = append(p.stack, open[j])
			}
			if err := p.add(e.At - at); err != nil {
				return err
			}
		}
		at = e.At
		f, err := p.frame(e.Frame)
		if err != nil {
			return fmt.Errorf("events[%d]: %w", i, err)
		}
		switch {
		case e.Type == "O":
			open = append(open, f)
			if err := p.tooDeep(len(open)); err != nil {
				return fmt.Errorf("events[%d]: %w", i, err)
			}
		case e.Type != "C":
			return fmt.Errorf("events[%d] has the type %.40q: want O or C", i, e.Type)
		case len(open) == 0 || open[len(open)-1] != f:
			return fmt.Errorf("events[%d] closes frame %d, which is not the innermost open one", i, e.Frame)
		default:
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		return fmt.Errorf("%d frames are never closed", len(open))
	}
	return nil
}

// IsSpeedscope says whether data looks like a speedscope file.
func IsSpeedscope(data []byte) bool {
	data = bytes.TrimLeft(data, " \t\r\n\ufeff")
	return bytes.HasPrefix(data, []byte("{")) && bytes.Contains(data, []byte("speedscope.app/file-format-schema"))
}

package profile

import (
	"context"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
)

// FrameField is what a condition on frames looks at.
type FrameField uint8

const (
	// FieldFunction is the function's name as trees show it, so file+0xaddr where there is none.
	FieldFunction FrameField = iota
	// FieldFile is the source file, "" if unknown.
	FieldFile
	// FieldBinary is the path of the executable file, "" if unknown.
	FieldBinary
)

func (f FrameField) String() string { return [...]string{"function", "file", "binary"}[f] }

// FrameMatcher is a condition on one function of a stack; inlined functions count as well.
type FrameMatcher struct {
	Field FrameField
	Value string
	re    *regexp.Regexp
}

// maxPattern is how many instructions a regular expression may have: "(a{1000}){1000}" is short to write.
const maxPattern = 10_000

// NewFrameMatcher returns the condition that field is value or, if pattern, that the regular expression value
// (RE2) matches a part of it, as in pprof's focus and ignore.
func NewFrameMatcher(field FrameField, value string, pattern bool) (FrameMatcher, error) {
	m := FrameMatcher{Field: field, Value: value}
	if !pattern {
		return m, nil
	}
	parsed, err := syntax.Parse(value, syntax.Perl)
	if err != nil {
		return FrameMatcher{}, fmt.Errorf("parsing the regular expression for the %s: %w", field, err)
	}
	if n := patternSize(parsed); n > maxPattern {
		return FrameMatcher{}, fmt.Errorf("parsing the regular expression for the %s: it has %d steps once its repetitions are written out, want at most %d", field, n, maxPattern)
	}
	if m.re, err = regexp.Compile(value); err != nil {
		return FrameMatcher{}, fmt.Errorf("parsing the regular expression for the %s: %w", field, err)
	}
	return m, nil
}

// patternSize is how many instructions re has, about. The parser bounds how deep re is.
func patternSize(re *syntax.Regexp) int {
	n := 1 + len(re.Rune)
	for _, sub := range re.Sub {
		n += patternSize(sub)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(1, re.Min, re.Max)
	}
	return n
}

// Match says whether the field's value meets the condition.
func (m *FrameMatcher) Match(value string) bool {
	if m.re != nil {
		return m.re.MatchString(value)
	}
	return m.Value == value
}

// MaxMatchers is how many conditions a StackFilter can have.
const MaxMatchers = 64

// StackFilter says which stacks a question is about. The zero StackFilter keeps all.
type StackFilter struct {
	// CallSite keeps only stacks that begin with these functions, by name, the root first.
	CallSite []string
	// Keep keeps only stacks that have, for each of these, a function that meets it.
	Keep []FrameMatcher
	// Drop leaves out stacks that have a function that meets any of these.
	Drop []FrameMatcher
}

// Empty says whether f keeps every stack.
func (f *StackFilter) Empty() bool { return len(f.CallSite)+len(f.Keep)+len(f.Drop) == 0 }

// Apply takes the samples that f does not keep out of all profiles of b, in place. Names must be known by then
// and b valid. A condition is asked once per function, file and executable, not per stack. The error is the
// context's, or that there are more than MaxMatchers conditions; samples are all there then.
func (f *StackFilter) Apply(ctx context.Context, b *Batch) error {
	if f.Empty() {
		return nil
	}
	if n := len(f.Keep) + len(f.Drop); n > MaxMatchers {
		return fmt.Errorf("filtering stacks: %d conditions, want at most %d", n, MaxMatchers)
	}
	j := stackJudge{filter: f, d: b.Dictionary}
	kept, err := j.judge(ctx, b)
	if err != nil {
		return fmt.Errorf("filtering stacks: %w", err)
	}
	for i := range b.Profiles {
		p := &b.Profiles[i]
		p.Samples = slices.DeleteFunc(p.Samples, func(s Sample) bool { return !kept[s.Stack] })
	}
	return nil
}

// stackJudge holds which conditions are met, as bits: those of Keep first, then those of Drop.
type stackJudge struct {
	filter    *StackFilter
	d         *Dictionary
	functions []uint64
	mappings  []uint64
	frames    []uint64
	// site is by function: which of the call site's distinct names it has, from 1; 0 is none.
	site  []uint32
	names map[string]uint32
	path  []uint32 // the call site in these numbers
}

// pollMask: a context is looked at once in so many turns of a loop, plus one.
const pollMask = 1<<10 - 1

// judge returns by stack whether it is kept, for those that samples refer to.
func (j *stackJudge) judge(ctx context.Context, b *Batch) ([]bool, error) {
	j.names = map[string]uint32{}
	for _, name := range j.filter.CallSite {
		if j.names[name] == 0 {
			j.names[name] = uint32(len(j.names) + 1)
		}
		j.path = append(j.path, j.names[name])
	}
	if err := j.match(ctx); err != nil {
		return nil, err
	}
	keep := uint64(1)<<len(j.filter.Keep) - 1
	kept, done := make([]bool, len(j.d.Stacks)), make([]bool, len(j.d.Stacks))
	turns := 0
	for i := range b.Profiles {
		for _, s := range b.Profiles[i].Samples {
			if turns++; turns&pollMask == 0 && ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if done[s.Stack] {
				continue
			}
			done[s.Stack] = true
			var met uint64
			for _, f := range j.d.Stacks[s.Stack] {
				met |= j.frames[f]
			}
			kept[s.Stack] = met == keep && j.begins(j.d.Stacks[s.Stack])
		}
	}
	return kept, nil
}

// match asks every condition about everything that it can be asked about.
func (j *stackJudge) match(ctx context.Context) error {
	turns := 0
	poll := func() bool {
		turns++
		return turns&pollMask == 0 && ctx.Err() != nil
	}
	j.mappings = make([]uint64, len(j.d.Mappings))
	for i := range j.d.Mappings {
		if poll() {
			return context.Cause(ctx)
		}
		j.mappings[i] = j.met(FieldBinary, validText(j.d.Mappings[i].File))
	}
	j.functions, j.site = make([]uint64, len(j.d.Functions)), make([]uint32, len(j.d.Functions))
	for i := range j.d.Functions {
		if poll() {
			return context.Cause(ctx)
		}
		if fn := &j.d.Functions[i]; fn.Name != "" {
			name := validText(fn.Name)
			j.functions[i] = j.met(FieldFunction, name) | j.met(FieldFile, validText(fn.File))
			j.site[i] = j.names[name]
		}
	}
	noFile := j.met(FieldFile, "")
	j.frames = make([]uint64, len(j.d.Frames))
	for i := range j.d.Frames {
		if poll() {
			return context.Cause(ctx)
		}
		f := &j.d.Frames[i]
		met, unnamed := j.mappings[f.Mapping], len(f.Lines) == 0
		for _, l := range f.Lines {
			met |= j.functions[l.Function]
			unnamed = unnamed || j.d.Functions[l.Function].Name == ""
		}
		if unnamed {
			met |= j.met(FieldFunction, validText(j.d.unnamed(f))) | noFile
		}
		j.frames[i] = met
	}
	return nil
}

// met returns the conditions that a field of that value meets.
func (j *stackJudge) met(field FrameField, value string) (bits uint64) {
	for i := range j.filter.Keep {
		if m := &j.filter.Keep[i]; m.Field == field && m.Match(value) {
			bits |= 1 << i
		}
	}
	for i := range j.filter.Drop {
		if m := &j.filter.Drop[i]; m.Field == field && m.Match(value) {
			bits |= 1 << (len(j.filter.Keep) + i)
		}
	}
	return bits
}

// begins says whether a stack begins with the call site.
func (j *stackJudge) begins(s Stack) bool {
	at := 0
	for i := len(s) - 1; i >= 0 && at < len(j.path); i-- {
		f := &j.d.Frames[s[i]]
		if len(f.Lines) == 0 {
			if j.names[validText(j.d.unnamed(f))] != j.path[at] {
				return false
			}
			at++
		}
		for n := len(f.Lines) - 1; n >= 0 && at < len(j.path); n-- {
			fn := f.Lines[n].Function
			site := j.site[fn]
			if j.d.Functions[fn].Name == "" {
				site = j.names[validText(j.d.unnamed(f))]
			}
			if site != j.path[at] {
				return false
			}
			at++
		}
	}
	return at == len(j.path)
}

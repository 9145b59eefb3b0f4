package storage

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/perfuse/perfuse/profile"
)

// Validate says whether b keeps to the data model, which is what every Store checks before it takes anything.
// The error is ErrInvalid and names the first thing that is wrong.
//
// Every index lies in its table and entry 0 of each table is the zero value. A type has a name and a sample
// type, no part of it a colon. Labels are sorted, each once, none empty. Times, durations and periods are not
// negative, and a profile ends before the year 2262. Labels and types are UTF-8.
func Validate(b *profile.Batch) error {
	if b == nil {
		return fmt.Errorf("%w: there is no batch", ErrInvalid)
	}
	if len(b.Profiles) == 0 {
		return nil
	}
	if b.Dictionary == nil {
		return fmt.Errorf("%w: profiles without a dictionary", ErrInvalid)
	}
	if err := validateDictionary(b.Dictionary); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	for i := range b.Profiles {
		if err := validateProfile(b.Dictionary, &b.Profiles[i]); err != nil {
			return fmt.Errorf("%w: profile %d: %w", ErrInvalid, i, err)
		}
	}
	return nil
}

func validateDictionary(d *profile.Dictionary) error {
	switch {
	case len(d.Mappings) == 0 || d.Mappings[0] != profile.Mapping{}:
		return fmt.Errorf("mapping 0 is not the zero mapping")
	case len(d.Functions) == 0 || d.Functions[0] != profile.Function{}:
		return fmt.Errorf("function 0 is not the zero function")
	case len(d.Links) == 0 || d.Links[0] != profile.Link{}:
		return fmt.Errorf("link 0 is not the zero link")
	case len(d.Stacks) == 0 || len(d.Stacks[0]) != 0:
		return fmt.Errorf("stack 0 is not the empty stack")
	case len(d.Frames) == 0 || d.Frames[0].Kind != 0 || d.Frames[0].Mapping != 0 || d.Frames[0].Addr != 0 || len(d.Frames[0].Lines) != 0:
		return fmt.Errorf("frame 0 is not the zero frame")
	}
	for i := range d.Frames {
		f := &d.Frames[i]
		if f.Kind > profile.KindUnwind {
			return fmt.Errorf("frame %d: unknown kind %d", i, f.Kind)
		}
		if int(f.Mapping) >= len(d.Mappings) {
			return fmt.Errorf("frame %d: mapping %d of %d", i, f.Mapping, len(d.Mappings))
		}
		for _, l := range f.Lines {
			if int(l.Function) >= len(d.Functions) {
				return fmt.Errorf("frame %d: function %d of %d", i, l.Function, len(d.Functions))
			}
		}
	}
	for i, s := range d.Stacks {
		for _, f := range s {
			if int(f) >= len(d.Frames) {
				return fmt.Errorf("stack %d: frame %d of %d", i, f, len(d.Frames))
			}
		}
	}
	return nil
}

func validateProfile(d *profile.Dictionary, p *profile.Profile) error {
	if err := validateType(p.Type); err != nil {
		return err
	}
	if err := validateLabels(p.Labels); err != nil {
		return err
	}
	if p.TimeNanos < 0 || p.DurationNanos < 0 || p.Period < 0 {
		return fmt.Errorf("negative time %d, duration %d or period %d", p.TimeNanos, p.DurationNanos, p.Period)
	}
	if p.TimeNanos > math.MaxInt64-p.DurationNanos {
		return fmt.Errorf("time %d and duration %d are out of range", p.TimeNanos, p.DurationNanos)
	}
	for i := range p.Samples {
		s := &p.Samples[i]
		if int(s.Stack) >= len(d.Stacks) {
			return fmt.Errorf("sample %d: stack %d of %d", i, s.Stack, len(d.Stacks))
		}
		if int(s.Link) >= len(d.Links) {
			return fmt.Errorf("sample %d: link %d of %d", i, s.Link, len(d.Links))
		}
		if s.TimeNanos < 0 {
			return fmt.Errorf("sample %d: negative time %d", i, s.TimeNanos)
		}
	}
	return nil
}

func validateType(t profile.Type) error {
	if t.Name == "" || t.SampleType == "" {
		return fmt.Errorf("type %q lacks a name or a sample type", t)
	}
	for _, p := range []string{t.Name, t.SampleType, t.SampleUnit, t.PeriodType, t.PeriodUnit} {
		if strings.Contains(p, ":") || !utf8.ValidString(p) {
			return fmt.Errorf("type %q: part %q has a colon or is not UTF-8", t, p)
		}
	}
	return nil
}

func validateLabels(ls profile.Labels) error {
	for i, l := range ls {
		switch {
		case l.Name == "":
			return fmt.Errorf("label %d has no name", i)
		case l.Value == "":
			return fmt.Errorf("label %s is empty", l.Name)
		case !utf8.ValidString(l.Name) || !utf8.ValidString(l.Value):
			return fmt.Errorf("label %q=%q is not UTF-8", l.Name, l.Value)
		case i > 0 && ls[i-1].Name >= l.Name:
			return fmt.Errorf("label %s is not after label %s", l.Name, ls[i-1].Name)
		}
	}
	return nil
}

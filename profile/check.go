package profile

import "fmt"

// Check says whether b keeps the rules of the data model: every index lies in its table, entry 0 of every
// table is the zero value, every profile has a type with a name and a sample type, and its labels are sorted,
// unique and not empty. All other functions of this package take that for granted.
func (b *Batch) Check() error {
	d := b.Dictionary
	if d == nil {
		return fmt.Errorf("checking batch: no dictionary")
	}
	switch {
	case len(d.Mappings) == 0 || d.Mappings[0] != (Mapping{}):
		return fmt.Errorf("checking batch: mapping 0 is not the zero mapping")
	case len(d.Functions) == 0 || d.Functions[0] != (Function{}):
		return fmt.Errorf("checking batch: function 0 is not the zero function")
	case len(d.Frames) == 0 || len(d.Frames[0].Lines) != 0 || d.Frames[0].Addr != 0 || d.Frames[0].Mapping != 0:
		return fmt.Errorf("checking batch: frame 0 is not the zero frame")
	case len(d.Stacks) == 0 || len(d.Stacks[0]) != 0:
		return fmt.Errorf("checking batch: stack 0 is not the empty stack")
	case len(d.Links) == 0 || d.Links[0] != (Link{}):
		return fmt.Errorf("checking batch: link 0 is not the zero link")
	}
	for i := range d.Frames {
		f := &d.Frames[i]
		if f.Kind > KindUnwind {
			return fmt.Errorf("checking frame %d: unknown kind %d", i, f.Kind)
		}
		if int(f.Mapping) >= len(d.Mappings) {
			return fmt.Errorf("checking frame %d: mapping %d of %d", i, f.Mapping, len(d.Mappings))
		}
		for _, l := range f.Lines {
			if int(l.Function) >= len(d.Functions) {
				return fmt.Errorf("checking frame %d: function %d of %d", i, l.Function, len(d.Functions))
			}
		}
	}
	for i, s := range d.Stacks {
		for _, f := range s {
			if int(f) >= len(d.Frames) {
				return fmt.Errorf("checking stack %d: frame %d of %d", i, f, len(d.Frames))
			}
		}
	}
	for i := range b.Profiles {
		if err := b.checkProfile(&b.Profiles[i]); err != nil {
			return fmt.Errorf("checking profile %d: %w", i, err)
		}
	}
	return nil
}

func (b *Batch) checkProfile(p *Profile) error {
	if p.Type.Name == "" || p.Type.SampleType == "" {
		return fmt.Errorf("the type %q lacks a name or a sample type", p.Type)
	}
	for i, l := range p.Labels {
		if l.Name == "" || l.Value == "" {
			return fmt.Errorf("label %d has no name or no value", i)
		}
		if i > 0 && p.Labels[i-1].Name >= l.Name {
			return fmt.Errorf("label %q is not in order", l.Name)
		}
	}
	for i := range p.Samples {
		s := &p.Samples[i]
		if int(s.Stack) >= len(b.Dictionary.Stacks) {
			return fmt.Errorf("sample %d: stack %d of %d", i, s.Stack, len(b.Dictionary.Stacks))
		}
		if int(s.Link) >= len(b.Dictionary.Links) {
			return fmt.Errorf("sample %d: link %d of %d", i, s.Link, len(b.Dictionary.Links))
		}
	}
	return nil
}

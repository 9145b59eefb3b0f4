package ingest

import (
	"strings"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/server/limits"
)

// What a stack, a frame and a function take of memory, with their places in the tables that find them again.
const (
	arrowStackCost    = 220
	arrowFrameCost    = 160
	arrowFunctionCost = 320
)

// stackColumn returns what makes a stack of a row's list of locations.
func (r *arrowReader) stackColumn(list *arrowList) (func(row int) (profile.StackIndex, error), error) {
	if list.values == nil {
		return nil, nil // the column is of another type, which is said elsewhere
	}
	frames, err := r.frames(list)
	if err != nil {
		return nil, err
	}
	type bounds struct{ start, end int }
	known := map[bounds]profile.StackIndex{}
	return func(row int) (profile.StackIndex, error) {
		start, end := list.bounds(row)
		if s, ok := known[bounds{start, end}]; ok {
			return s, nil
		}
		n := end - start
		if err := limits.Count(limits.FramesPerStack, int64(n), r.g.limits.FramesPerStack, "the stack of row %d has %d frames", row, n); err != nil {
			return 0, err
		}
		r.mem.spend(arrowStackCost + 4*n)
		r.stack = r.stack[:0]
		for i := start; i < end; i++ {
			f, err := frames(i)
			if err != nil {
				return 0, err
			}
			r.stack = append(r.stack, f)
		}
		s := r.b.Dictionary.Stack(r.stack)
		known[bounds{start, end}] = s
		return s, nil
	}, nil
}

// frames returns what makes a frame of an entry of a list of locations.
func (r *arrowReader) frames(list *arrowList) (func(int) (profile.FrameIndex, error), error) {
	s := structs(list.values)
	if s == nil {
		return nil, invalid("record: stacks are lists of %.200s: want lists of locations", list.values.DataType())
	}
	c := &columns{fields: s.fields}
	address, frameType, file := c.number("address"), c.text("frame_type"), c.text("mapping_file")
	buildID, lines := c.text("mapping_build_id"), c.list("lines")
	if c.err != nil {
		return nil, c.err
	}
	lineOf, err := r.lines(lines)
	if err != nil {
		return nil, err
	}
	d := r.b.Dictionary
	known := map[int]profile.FrameIndex{}
	return func(i int) (profile.FrameIndex, error) {
		at := s.row(i)
		if at < 0 {
			return 0, errNotArrow
		}
		if f, ok := known[at]; ok {
			return f, nil
		}
		start, end := lines.bounds(at)
		if err := limits.Count(limits.FramesPerStack, int64(end-start), r.g.limits.FramesPerStack, "a location has %d lines", end-start); err != nil {
			return 0, err
		}
		r.mem.spend(arrowFrameCost + 12*(end-start))
		out := profile.Frame{Addr: profile.Addr(address(at))}
		for j := start; j < end; j++ {
			l, err := lineOf(j)
			if err != nil {
				return 0, err
			}
			if l.Function != 0 {
				out.Lines = append(out.Lines, l)
			}
		}
		m := profile.Mapping{File: text(file(at)), BuildID: strings.ToLower(text(buildID(at)))}
		out.Kind = kindOf(frameType(at), m.File, len(out.Lines) > 0)
		switch out.Kind {
		case profile.KindUnwind:
			reason := "aborted by the profiler"
			if len(out.Lines) > 0 {
				reason = d.Functions[out.Lines[0].Function].Name
			}
			out = profile.Frame{Kind: profile.KindUnwind, Lines: []profile.Line{{Function: d.Function(profile.Function{Name: "[unwind: " + strings.Trim(reason, "[]") + "]"})}}}
		default:
			if m.File != "" || m.BuildID != "" {
				r.mem.spend(256 + len(m.File) + len(m.BuildID))
				out.Mapping = d.Mapping(profile.Mapping{File: strings.Clone(m.File), BuildID: strings.Clone(m.BuildID)})
			}
		}
		f := d.Frame(out)
		known[at] = f
		return f, nil
	}, nil
}

// lines returns what makes a line of an entry of a location's list of lines. Its function is a struct of its own, or
// its parts are the line's.
func (r *arrowReader) lines(list *arrowList) (func(int) (profile.Line, error), error) {
	s := structs(list.values)
	if s == nil {
		return nil, invalid("record: lines are lists of %.200s: want lists of lines", list.values.DataType())
	}
	c := &columns{fields: s.fields}
	number := c.number("line")
	column := func(int) int64 { return 0 }
	if s.fields["column"] != nil {
		column = c.number("column")
	}
	f, prefix, rowOf := c, "function_", func(at int) int { return at }
	if a := s.fields["function"]; a != nil {
		fs := structs(a)
		if fs == nil {
			return nil, invalid("record: functions are %.200s: want functions", a.DataType())
		}
		f, prefix, rowOf = &columns{fields: fs.fields}, "", fs.row
	}
	name := func(int) string { return "" }
	if f.fields[prefix+"name"] != nil {
		name = f.text(prefix + "name")
	}
	systemName, file, startLine := f.text(prefix+"system_name"), f.text(prefix+"filename"), f.number(prefix+"start_line")
	for _, err := range []error{c.err, f.err} {
		if err != nil {
			return nil, err
		}
	}
	d := r.b.Dictionary
	known := map[int]profile.FunctionIndex{}
	return func(i int) (profile.Line, error) {
		at := s.row(i)
		if at < 0 {
			return profile.Line{}, errNotArrow
		}
		out := profile.Line{Line: clampInt32(number(at)), Column: clampInt32(column(at))}
		fn := rowOf(at)
		if fn < 0 {
			return out, nil
		}
		index, ok := known[fn]
		if !ok {
			in := profile.Function{Name: text(name(fn)), SystemName: text(systemName(fn)), File: text(file(fn)), StartLine: clampInt32(startLine(fn))}
			if in.Name == "" {
				in.Name = in.SystemName
			}
			if in.SystemName == in.Name {
				in.SystemName = ""
			}
			r.mem.spend(arrowFunctionCost + len(in.Name) + len(in.SystemName) + len(in.File))
			in.Name, in.SystemName, in.File = strings.Clone(in.Name), strings.Clone(in.SystemName), strings.Clone(in.File)
			index = d.Function(in)
			known[fn] = index
		}
		out.Function = index
		return out, nil
	}, nil
}

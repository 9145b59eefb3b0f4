package profile

import (
	"cmp"
	"context"
	"slices"
	"strings"
)

// FunctionLines is what the source lines of one function cost in one file.
type FunctionLines struct {
	File      string // source file, "" if unknown
	Mapping   string // executable file, "" if unknown
	StartLine int32  // of the function, 0 if unknown
	Self      int64
	Total     int64 // stacks in which the function occurs several times count once
	Lines     []LineValue
}

// LineValue is what one source line cost.
type LineValue struct {
	Line  int32 // 0: unknown
	Self  int64
	Total int64 // stacks in which the line occurs several times count once
}

// Lines returns the lines of the functions of that name in p, a profile of b: one entry for each source and executable
// file, the largest total first; lines in their order. A line's own value is that of stacks that end in it. The error
// is the context's.
func Lines(ctx context.Context, b *Batch, p *Profile, function string) ([]FunctionLines, error) {
	d := b.Dictionary
	named := make([]bool, len(d.Functions))
	for i := 1; i < len(d.Functions); i++ {
		named[i] = strings.ToValidUTF8(d.Functions[i].Name, "\uFFFD") == function
	}
	holds := make([]bool, len(d.Frames))
	for i := range d.Frames {
		holds[i] = slices.ContainsFunc(d.Frames[i].Lines, func(l Line) bool { return named[l.Function] })
	}

	type place struct{ file, mapping string }
	type spot struct {
		of   int // index into files
		line int32
	}
	// seen are numbers of samples, from 1: what has been counted for this one.
	type sum struct {
		value LineValue
		seen  int
	}
	var files []FunctionLines
	var fileSeen []int
	places := map[place]int{}
	spots := map[spot]*sum{}
	for i := range p.Samples {
		if i&pollMask == 0 && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		s := &p.Samples[i]
		leaf := true
		for _, fi := range d.Stacks[s.Stack] {
			f := &d.Frames[fi]
			if !holds[fi] {
				leaf = false
				continue
			}
			for _, l := range f.Lines {
				if !named[l.Function] {
					leaf = false
					continue
				}
				fn := &d.Functions[l.Function]
				at := place{fn.File, d.Mappings[f.Mapping].File}
				of, ok := places[at]
				if !ok {
					of = len(files)
					places[at] = of
					files = append(files, FunctionLines{File: strings.ToValidUTF8(at.file, "\uFFFD"), Mapping: strings.ToValidUTF8(at.mapping, "\uFFFD"), StartLine: fn.StartLine})
					fileSeen = append(fileSeen, 0)
				}
				line := spots[spot{of, l.Line}]
				if line == nil {
					line = &sum{value: LineValue{Line: l.Line}}
					spots[spot{of, l.Line}] = line
				}
				if leaf {
					files[of].Self += s.Value
					line.value.Self += s.Value
					leaf = false
				}
				if fileSeen[of] != i+1 {
					fileSeen[of] = i + 1
					files[of].Total += s.Value
				}
				if line.seen != i+1 {
					line.seen = i + 1
					line.value.Total += s.Value
				}
			}
		}
	}
	for at, line := range spots {
		files[at.of].Lines = append(files[at.of].Lines, line.value)
	}
	for i := range files {
		slices.SortFunc(files[i].Lines, func(a, b LineValue) int { return cmp.Compare(a.Line, b.Line) })
	}
	slices.SortFunc(files, func(a, b FunctionLines) int {
		return cmp.Or(cmp.Compare(b.Total, a.Total), cmp.Compare(b.Self, a.Self), strings.Compare(a.File, b.File), strings.Compare(a.Mapping, b.Mapping))
	})
	return files, nil
}

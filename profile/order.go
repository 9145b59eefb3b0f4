package profile

import (
	"cmp"
	"slices"
	"strings"
)

// Ordered returns what b says with samples and dictionary in an order that follows from nothing but that: samples
// by stack from the root on, span, time and value, and the dictionary as samples meet it. b stays as it is.
func Ordered(b *Batch) *Batch {
	rank := frameRanks(b.Dictionary)
	out := &Batch{Dictionary: NewDictionary(), Profiles: slices.Clone(b.Profiles)}
	im := NewImporter(out.Dictionary, b.Dictionary)
	for i := range out.Profiles {
		p := &out.Profiles[i]
		p.Samples = slices.Clone(p.Samples)
		slices.SortFunc(p.Samples, func(x, y Sample) int {
			if x.Stack != y.Stack {
				if c := compareStacks(b.Dictionary.Stacks[x.Stack], b.Dictionary.Stacks[y.Stack], rank); c != 0 {
					return c
				}
			}
			if x.Link != y.Link {
				if c := compareLinks(&b.Dictionary.Links[x.Link], &b.Dictionary.Links[y.Link]); c != 0 {
					return c
				}
			}
			return cmp.Or(cmp.Compare(x.TimeNanos, y.TimeNanos), cmp.Compare(x.Value, y.Value))
		})
		for j := range p.Samples {
			s := &p.Samples[j]
			s.Stack, s.Link = im.Stack(s.Stack), im.Link(s.Link)
		}
	}
	return out
}

func compareStacks(x, y Stack, rank []uint32) int {
	for i, j := len(x)-1, len(y)-1; i >= 0 && j >= 0; i, j = i-1, j-1 {
		if c := cmp.Compare(rank[x[i]], rank[y[j]]); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(x), len(y))
}

func compareLinks(x, y *Link) int {
	return cmp.Or(slices.Compare(x.TraceID[:], y.TraceID[:]), slices.Compare(x.SpanID[:], y.SpanID[:]), strings.Compare(x.SpanName, y.SpanName))
}

// frameRanks numbers the frames of d by what they are; equal ones have one number.
func frameRanks(d *Dictionary) []uint32 {
	mappings := ranks(d.Mappings, func(x, y *Mapping) int {
		return cmp.Or(strings.Compare(x.File, y.File), strings.Compare(x.BuildID, y.BuildID))
	})
	functions := ranks(d.Functions, func(x, y *Function) int {
		return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.File, y.File), strings.Compare(x.SystemName, y.SystemName), cmp.Compare(x.StartLine, y.StartLine))
	})
	return ranks(d.Frames, func(x, y *Frame) int {
		if c := slices.CompareFunc(x.Lines, y.Lines, func(x, y Line) int {
			return cmp.Or(cmp.Compare(functions[x.Function], functions[y.Function]), cmp.Compare(x.Line, y.Line), cmp.Compare(x.Column, y.Column))
		}); c != 0 {
			return c
		}
		return cmp.Or(cmp.Compare(mappings[x.Mapping], mappings[y.Mapping]), cmp.Compare(x.Addr, y.Addr), cmp.Compare(x.Kind, y.Kind))
	})
}

// ranks returns by entry which one it is in order; equal entries have one rank.
func ranks[T any](table []T, compare func(x, y *T) int) []uint32 {
	order := make([]uint32, len(table))
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(i, j uint32) int { return compare(&table[i], &table[j]) })
	rank := make([]uint32, len(table))
	for n, i := range order {
		rank[i] = uint32(n)
		if n > 0 && compare(&table[order[n-1]], &table[i]) == 0 {
			rank[i] = rank[order[n-1]]
		}
	}
	return rank
}

package main

import (
	"context"
	"math"
	"slices"

	"github.com/perfuse/perfuse/profile"
)

// draw lays the means of both sides over each other, if that is asked for.
func (g *gating) draw(ctx context.Context) error {
	// Runs have scales of their own: before they are added up, all are brought to the smallest, which loses no digits.
	least := math.Inf(1)
	for _, s := range g.sides {
		for _, r := range s.runs {
			least = min(least, r.scale)
		}
	}
	drawn := slices.ContainsFunc(g.out, func(o output) bool { return o.form == formSVG || o.form == formHTML })
	for i, s := range g.sides {
		sum := &side{name: []string{"before", "after"}[i], title: s.title, typ: g.c.typ, scale: least / float64(len(s.runs))}
		if s.selector == nil {
			sum.file = s.title // it has no range
		} else {
			sum.selector, sum.from, sum.to = s.selector.String(), s.from, s.to
		}
		g.c.sides[i] = sum
		if !drawn {
			continue
		}
		batches := make([]*profile.Batch, len(s.runs))
		for k, r := range s.runs {
			batches[k] = scaledBatch(r.batch, r.scale/least)
		}
		var err error
		if sum.tree, err = profile.GroupTree(ctx, profile.Merge(batches...), nil); err != nil {
			return err
		}
		sum.total = sum.tree.Total[0]
		sum.all = sum.total
		for _, v := range sum.tree.Self {
			if v != 0 {
				sum.stacks++
			}
		}
	}
	if !drawn {
		return nil
	}
	b, after := g.c.sides[0], g.c.sides[1]
	b.tree = profile.Align(b.tree, after.tree)
	g.c.tree = profile.Diff(b.tree, after.tree)
	g.c.rows = g.c.tree.Top(b.scale, after.scale)
	if g.c.typ.Memory() && !g.o.KeepAllocators {
		g.c.rows = profile.Diff(b.tree.FoldAllocators(), after.tree.FoldAllocators()).Top(b.scale, after.scale)
	}
	g.c.count = int64(len(g.c.rows))
	g.c.sort(&g.d)
	share, _ := g.d.draw.share(formHTML)
	g.c.cut = int64(g.c.tree.Cut(share, b.scale, after.scale))
	return nil
}

func scaledBatch(b *profile.Batch, scale float64) *profile.Batch {
	out := &profile.Batch{Dictionary: b.Dictionary, Profiles: slices.Clone(b.Profiles)}
	for i := range out.Profiles {
		p := &out.Profiles[i]
		p.Samples = slices.Clone(p.Samples)
		for k := range p.Samples {
			p.Samples[k].Value = profile.Scaled(p.Samples[k].Value, scale)
		}
	}
	return out
}

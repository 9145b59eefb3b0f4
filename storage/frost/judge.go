package frost

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/dictionary"
)

// verdicts are what a storage.Judge says of the stacks of a question.
type verdicts struct {
	s     *Store
	judge storage.Judge
	// known is by stack, for those that the first look at the question's rows met.
	known []verdict

	mu   sync.Mutex
	late map[dictionary.StackID]bool // of rows that were written since
}

type verdict uint8

const (
	notMet verdict = iota
	counts
	countsNot
)

// judged asks the judge about every stack of a question, all at once: naming frames is cheaper that way.
func (q *question) judged(ctx context.Context, judge storage.Judge) (*verdicts, error) {
	met := make([]stackSums, workers())
	var left atomic.Int64
	left.Store(q.s.o.maxPages)
	fns := make([]func(*part) error, len(met))
	for w := range fns {
		met[w].left = &left
		known := knownStacks{s: q.s}
		fns[w] = func(p *part) error {
			if err := known.check(p); err != nil {
				return err
			}
			p.each(func(i int) { met[w].add(p.samples.stacks[i], 1) })
			if met[w].full {
				return errManyJudged
			}
			return nil
		}
	}
	if err := q.scan(ctx, fns...); err != nil {
		return nil, queryError(ctx, "looking for stacks", err)
	}
	pages := 0
	for w := range met {
		pages = max(pages, len(met[w].pages))
	}
	v := &verdicts{s: q.s, judge: judge, known: make([]verdict, pages*pageStacks), late: map[dictionary.StackID]bool{}}
	var ids []dictionary.StackID
	for w := range met {
		for page, sums := range met[w].pages {
			for i, n := range sums {
				if id := page*pageStacks + i; n != 0 && v.known[id] == notMet {
					v.known[id] = countsNot
					ids = append(ids, dictionary.StackID(id))
				}
			}
		}
	}
	return v, v.decide(ctx, ids, func(id dictionary.StackID) { v.known[id] = counts })
}

var errManyJudged = fmt.Errorf("%w: the selection has more stacks than a filter can look at in memory; select less time or fewer series", storage.ErrLimit)

// decide calls keep for those of the stacks that count.
func (v *verdicts) decide(ctx context.Context, ids []dictionary.StackID, keep func(dictionary.StackID)) error {
	d := profile.NewDictionary()
	r := v.s.dict.NewResolver(d)
	at, frames := make([]profile.StackIndex, len(ids)), 0
	for i, id := range ids {
		if i%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		var err error
		if at[i], err = r.Stack(id); err != nil {
			return fmt.Errorf("judging stacks: %w", err)
		}
		if frames += len(d.Stacks[at[i]]); frames > v.s.o.MaxFrames {
			return errManyJudged
		}
	}
	stacks := len(d.Stacks)
	says, err := v.judge(ctx, d)
	if err != nil {
		return err
	}
	if len(says) != stacks {
		return fmt.Errorf("judging stacks: %d verdicts on %d stacks", len(says), stacks)
	}
	for i, id := range ids {
		if says[at[i]] {
			keep(id)
		}
	}
	return ctx.Err()
}

// apply makes the values of a part's samples 0 if their stacks do not count, and its total the sum of what is left.
func (v *verdicts) apply(ctx context.Context, p *part) error {
	err := v.clear(ctx, p)
	p.row.total = p.samples.total()
	return err
}

func (v *verdicts) clear(ctx context.Context, p *part) error {
	var open []int
	p.each(func(i int) {
		what := notMet
		if id := int(p.samples.stacks[i]); id < len(v.known) {
			what = v.known[id]
		}
		switch what {
		case countsNot:
			p.samples.values[i] = 0
		case notMet:
			open = append(open, i)
		}
	})
	if len(open) == 0 {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var ids []dictionary.StackID
	for _, i := range open {
		id := p.samples.stacks[i]
		if _, ok := v.late[id]; !ok {
			v.late[id] = false
			ids = append(ids, id)
		}
	}
	if len(ids) > 0 {
		if err := v.decide(ctx, ids, func(id dictionary.StackID) { v.late[id] = true }); err != nil {
			return err
		}
	}
	for _, i := range open {
		if !v.late[p.samples.stacks[i]] {
			p.samples.values[i] = 0
		}
	}
	return nil
}

package query

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
	"golang.org/x/sync/errgroup"
)

// Scale says what makes two selections comparable.
type Scale uint8

const (
	// ScaleNone compares values as they are.
	ScaleNone Scale = iota
	// ScaleTime compares what happened per second, and levels (bytes in use) by their means.
	ScaleTime
	// ScaleTotal compares shares of everything selected.
	ScaleTotal
)

// Sentinels of Diff. They are wrapped; test with errors.Is.
var (
	// ErrUnits: the two selections have different units.
	ErrUnits = errors.New("values of different units cannot be compared")
	// ErrNoDuration: nothing says how long a side is.
	ErrNoDuration = errors.New("its profiles say no duration; give the selection a start and an end, or compare without the scale by time")
)

// Side is one of the two selections of a difference.
type Side struct {
	*Merged
	Tree *profile.Tree
	// Duration is from the beginning of the first profile to the end of the last, or as long as the selection
	// where profiles say no duration.
	Duration time.Duration
	// Scale is what the side's values are to be multiplied by; 0 if there is nothing to compare.
	Scale float64
}

// Diff answers both questions, which group by nothing, for a comparison. Builds of one program are aligned
// ([profile.Align]).
func (e *Engine) Diff(ctx context.Context, before, after Question, scale Scale) (b, a *Side, err error) {
	if x, y := before.Selection.Type.SampleUnit, after.Selection.Type.SampleUnit; x != y {
		return nil, nil, fmt.Errorf("comparing: %w: before is in %s, after in %s", ErrUnits, x, y)
	}
	sides := [2]*Side{{}, {}}
	questions := [2]Question{before, after}
	names := [2]string{"before", "after"}
	work, workCtx := errgroup.WithContext(ctx)
	for i, s := range sides {
		work.Go(func() (err error) {
			if s.Merged, err = e.gather(workCtx, questions[i]); err != nil {
				return fmt.Errorf("%s: %w", names[i], err)
			}
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return nil, nil, err
	}
	// One after the other: the second finds in the cache what the first has asked for, and of two errors it is
	// always the first.
	for i, s := range sides {
		if err := s.scale(questions[i].Selection, scale); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", names[i], err)
		}
		if err := e.finish(ctx, questions[i], s.Merged); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", names[i], err)
		}
	}
	work, workCtx = errgroup.WithContext(ctx)
	for i, s := range sides {
		work.Go(func() (err error) {
			if s.Tree, err = profile.GroupTree(workCtx, s.Batch, nil); err != nil {
				return fmt.Errorf("%s: %w", names[i], err)
			}
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return nil, nil, err
	}
	sides[0].Tree = profile.Align(sides[0].Tree, sides[1].Tree)
	return sides[0], sides[1], nil
}

// scale finds out how long a side is and what its values are to be multiplied by.
func (s *Side) scale(sel storage.Selection, scale Scale) error {
	s.Duration = time.Duration(s.Profile.DurationNanos)
	if s.Duration == 0 && len(s.Profile.Samples) > 0 && !sel.Start.IsZero() && !sel.End.IsZero() {
		s.Duration = sel.End.Sub(sel.Start)
	}
	switch {
	case scale == ScaleNone:
		s.Scale = 1
	case len(s.Profile.Samples) == 0 || s.Unfiltered == 0:
	case scale == ScaleTotal:
		s.Scale = 1 / float64(s.Unfiltered)
	case sel.Type.Level():
		s.Scale = 1 // it is the mean already
	case s.Duration == 0:
		return ErrNoDuration
	default:
		s.Scale = 1 / s.Duration.Seconds()
	}
	return nil
}

package query

import (
	"context"
	"fmt"
	"time"

	"github.com/perfuse/perfuse/profile"
)

// ResolveType finds the one stored profile type that text means; profile.ResolveType has the rules and the
// errors. A type that is written out in full need not be stored, and where nothing is stored at all "cpu"
// means what the agent will bring: asking a new server is no mistake, its answer is just empty.
func (e *Engine) ResolveType(ctx context.Context, text string) (profile.Type, error) {
	if t, err := profile.ParseType(text); err == nil {
		return t, nil
	}
	types, err := e.opts.Store.Types(ctx, time.Time{}, time.Time{})
	if err != nil {
		return profile.Type{}, fmt.Errorf("listing profile types: %w", err)
	}
	if len(types) == 0 && text == "cpu" {
		return profile.TypeCPU, nil
	}
	if text == "" {
		return profile.Type{}, &profile.TypeError{Candidates: types, Known: types}
	}
	return profile.ResolveType(text, types)
}

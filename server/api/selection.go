package api

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/storage"
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errInvalid, fmt.Sprintf(format, args...))
}

// named says which part of a request an error is about.
func named(part string, err error) error { return fmt.Errorf("%s: %w", part, err) }

// timeRange reads start and end; 0 is unbounded.
func timeRange(start, end int64) (from, until time.Time, err error) {
	if start < 0 || end < 0 {
		return from, until, invalid("start_unix_nano and end_unix_nano are nanoseconds since 1970, 0 or more")
	}
	if start != 0 {
		from = time.Unix(0, start).UTC()
	}
	if end != 0 {
		until = time.Unix(0, end).UTC()
		if end <= start {
			return from, until, invalid("the time range ends (%s) before it begins (%s)", until.Format(time.RFC3339Nano), from.Format(time.RFC3339Nano))
		}
	}
	return from, until, nil
}

// selection reads a selection; its type may be missing only if anyType.
func (a *API) selection(ctx context.Context, in *queryv1.Selection, anyType bool) (sel storage.Selection, err error) {
	if sel.Start, sel.End, err = timeRange(in.GetStartUnixNano(), in.GetEndUnixNano()); err != nil {
		return sel, err
	}
	if sel.Selector, err = a.Selector(in.GetSelector()); err != nil {
		return sel, err
	}
	var trace profile.TraceID
	if err := a.IDs("selection.trace_ids", in.GetTraceIds(), trace[:], func() { sel.TraceIDs = append(sel.TraceIDs, trace) }); err != nil {
		return sel, err
	}
	var span profile.SpanID
	if err := a.IDs("selection.span_ids", in.GetSpanIds(), span[:], func() { sel.SpanIDs = append(sel.SpanIDs, span) }); err != nil {
		return sel, err
	}
	if err := a.Terms("selection.span_names", len(in.GetSpanNames())); err != nil {
		return sel, err
	}
	if i := slices.Index(in.GetSpanNames(), ""); i >= 0 {
		return sel, invalid("selection.span_names[%d] is empty: want the name of a span", i)
	}
	sel.SpanNames = in.GetSpanNames()
	if in.GetProfileType() == "" && anyType {
		return sel, nil
	}
	t, err := a.opts.Engine.ResolveType(ctx, in.GetProfileType())
	if err != nil {
		return sel, err
	}
	sel.Type = &t
	return sel, nil
}

// atMost returns how many values an answer may have: what was asked for, within the server's limit.
func (a *API) atMost(asked int32) (int, error) {
	if asked < 0 {
		return 0, invalid("limit is %d: want 0 (the server's limit) or more", asked)
	}
	max := a.limits.AnswerValues
	if max <= 0 {
		max = 1 << 31
	}
	if asked == 0 {
		return int(max), nil
	}
	return int(min(int64(asked), max)), nil
}

func wireLabels(ls profile.Labels) []*queryv1.Label {
	out := make([]*queryv1.Label, len(ls))
	for i, l := range ls {
		out[i] = &queryv1.Label{Name: l.Name, Value: l.Value}
	}
	return out
}

package datasource

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/backend"
	"github.com/grafana/grafana-plugin-sdk-go/backend/gtime"
	"github.com/grafana/grafana-plugin-sdk-go/data"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"golang.org/x/sync/errgroup"
)

// The kinds of queries; Grafana's queryType.
const (
	kindSeries     = "series"
	kindFlameGraph = "flamegraph"
	kindBoth       = "both"
	kindDiff       = "diff"
	kindBeginnings = "beginnings" // an annotation query
)

// query is what the editor writes; src/query.ts has the same.
type query struct {
	kind string

	ProfileType string   `json:"profileType"`
	Selector    string   `json:"selector"`
	GroupBy     []string `json:"groupBy"`
	// Limit is how many series there are before the rest becomes one; 0: the server's choice.
	Limit int32 `json:"limit"`
	// MinShare is the share of the total below which frames are folded; 0: the server's choice.
	MinShare float64   `json:"minShare"`
	CallSite []string  `json:"callSite"`
	Keep     []matcher `json:"keep"`
	Drop     []matcher `json:"drop"`
	// What was served when the samples were taken: a trace's page links here.
	TraceIDs  []string `json:"traceIds"`
	SpanIDs   []string `json:"spanIds"`
	SpanNames []string `json:"spanNames"`
	Before    before   `json:"before"`
	// Label is the one whose new values an annotation query marks.
	Label string `json:"label"`
	// Exemplars asks for the spans that cost most, beside a series.
	Exemplars bool `json:"exemplars"`
}

// matcher is queryv1.FrameMatcher by words.
type matcher struct {
	Field  string `json:"field"`
	Value  string `json:"value"`
	Regexp bool   `json:"regexp"`
}

// before is the left side of a diff; the query itself is the right one.
type before struct {
	// Selector is the query's own if it is nil.
	Selector *string `json:"selector"`
	// Earlier is how long before the panel's range, as in 1d. Empty: no earlier if the selectors differ, else as
	// long as the range.
	Earlier string `json:"earlier"`
	// PerSecond divides by the time that each side covers.
	PerSecond bool `json:"perSecond"`
}

var frameFields = map[string]queryv1.FrameField{
	"":         queryv1.FrameField_FRAME_FIELD_FUNCTION,
	"function": queryv1.FrameField_FRAME_FIELD_FUNCTION,
	"file":     queryv1.FrameField_FRAME_FIELD_FILE,
	"binary":   queryv1.FrameField_FRAME_FIELD_BINARY,
}

// scope is when a query is about.
type scope struct {
	backend.TimeRange
	// interval is how far apart a panel's points may be.
	interval time.Duration
}

func readQuery(kind string, raw json.RawMessage) (query, error) {
	q := query{kind: kind}
	if err := json.Unmarshal(raw, &q); err != nil {
		return q, invalid("reading the query: %w", err)
	}
	if q.kind == "" {
		q.kind = kindBoth
	}
	if !slices.Contains([]string{kindSeries, kindFlameGraph, kindBoth, kindDiff, kindBeginnings}, q.kind) {
		return q, invalid("a query of type %q is unknown: want %s, %s, %s, %s or %s", q.kind, kindSeries, kindFlameGraph, kindBoth, kindDiff, kindBeginnings)
	}
	if q.kind == kindBeginnings && q.Label == "" {
		return q, invalid("no label is chosen: want one whose new values are marked, such as version")
	}
	if q.ProfileType == "" {
		return q, invalid("no profile type is chosen")
	}
	if !(q.MinShare >= 0 && q.MinShare < 1) {
		return q, invalid("the smallest share is %g: want 0 or more, below 1", q.MinShare)
	}
	q.CallSite = slices.DeleteFunc(q.CallSite, func(s string) bool { return s == "" })
	for _, list := range []*[]matcher{&q.Keep, &q.Drop} {
		*list = slices.DeleteFunc(*list, func(m matcher) bool { return m.Value == "" })
		for _, m := range *list {
			if _, ok := frameFields[m.Field]; !ok {
				return q, invalid("frames have no %q: want function, file or binary", m.Field)
			}
		}
	}
	for _, ids := range []struct {
		name  string
		list  []string
		bytes int
	}{{"trace", q.TraceIDs, 16}, {"span", q.SpanIDs, 8}} {
		for _, id := range ids.list {
			if b, err := hex.DecodeString(id); err != nil || len(b) != ids.bytes {
				return q, invalid("%q is no %s id: want %d hexadecimal digits", id, ids.name, 2*ids.bytes)
			}
		}
	}
	return q, nil
}

func (q *query) selection(selector string, from, to time.Time) (*queryv1.Selection, error) {
	if !from.Before(to) {
		return nil, invalid("the time range is empty: it begins at %s and ends at %s", from.UTC().Format(time.RFC3339), to.UTC().Format(time.RFC3339))
	}
	return &queryv1.Selection{
		ProfileType: q.ProfileType, Selector: selector, StartUnixNano: from.UnixNano(), EndUnixNano: to.UnixNano(),
		TraceIds: q.TraceIDs, SpanIds: q.SpanIDs, SpanNames: q.SpanNames,
	}, nil
}

func (q *query) filter() *queryv1.StackFilter {
	if len(q.CallSite)+len(q.Keep)+len(q.Drop) == 0 {
		return nil
	}
	out := &queryv1.StackFilter{CallSite: q.CallSite}
	for _, m := range q.Keep {
		out.Keep = append(out.Keep, m.wire())
	}
	for _, m := range q.Drop {
		out.Drop = append(out.Drop, m.wire())
	}
	return out
}

func (m matcher) wire() *queryv1.FrameMatcher {
	return &queryv1.FrameMatcher{Field: frameFields[m.Field], Value: m.Value, Regexp: m.Regexp}
}

// left is the selector and the range of a diff's left side.
func (q *query) left(r backend.TimeRange) (string, backend.TimeRange, error) {
	selector := q.Selector
	if q.Before.Selector != nil {
		selector = *q.Before.Selector
	}
	var earlier time.Duration
	switch {
	case q.Before.Earlier != "":
		var err error
		if earlier, err = gtime.ParseDuration(q.Before.Earlier); err != nil || earlier < 0 {
			return "", r, invalid("what is before lies %q earlier: want a duration, as in 1d", q.Before.Earlier)
		}
	case strings.TrimSpace(selector) == strings.TrimSpace(q.Selector):
		earlier = r.Duration()
	}
	return selector, backend.TimeRange{From: r.From.Add(-earlier), To: r.To.Add(-earlier)}, nil
}

// frames asks the server.
func (ds *Datasource) frames(ctx context.Context, q query, in scope) (data.Frames, error) {
	type ask func(context.Context, query, scope) (*data.Frame, error)
	asks := map[string][]ask{
		kindSeries: {ds.series}, kindFlameGraph: {ds.flameGraph}, kindDiff: {ds.diff}, kindBoth: {ds.series, ds.flameGraph}, kindBeginnings: {ds.beginnings},
	}[q.kind]
	if q.Exemplars && (q.kind == kindSeries || q.kind == kindBoth) {
		asks = append(asks, ds.exemplars)
	}
	frames := make(data.Frames, len(asks))
	g, ctx := errgroup.WithContext(ctx)
	for i, f := range asks {
		g.Go(func() (err error) { frames[i], err = f(ctx, q, in); return err })
	}
	return frames, g.Wait()
}

// note tells the reader of a panel something about what is shown.
func note(meta *data.FrameMeta, severity data.NoticeSeverity, format string, args ...any) {
	meta.Notices = append(meta.Notices, data.Notice{Severity: severity, Text: fmt.Sprintf(format, args...)})
}

package pyroscope

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/server/api"
	"github.com/perfuse/perfuse/storage"
)

// flamebearer is the JSON of version 1, as Pyroscope's own scripts and pages read it.
type flamebearer struct {
	Version     int `json:"version"`
	Flamebearer struct {
		Names    []string  `json:"names"`
		Levels   [][]int64 `json:"levels"`
		NumTicks int64     `json:"numTicks"`
		MaxSelf  int64     `json:"maxSelf"`
	} `json:"flamebearer"`
	Metadata struct {
		Format     string `json:"format"`
		SpyName    string `json:"spyName"`
		SampleRate int64  `json:"sampleRate"`
		Units      string `json:"units"`
		Name       string `json:"name"`
	} `json:"metadata"`
	Timeline *timeline `json:"timeline"`
	// Always null: groupBy and heatmaps are not served.
	Groups  *struct{} `json:"groups"`
	Heatmap *struct{} `json:"heatmap"`

	LeftTicks  *int64 `json:"leftTicks,omitempty"`
	RightTicks *int64 `json:"rightTicks,omitempty"`
}

// timeline has a value for every step from StartTime on; both are in seconds.
type timeline struct {
	StartTime     int64     `json:"startTime"`
	Samples       []int64   `json:"samples"`
	DurationDelta int64     `json:"durationDelta"`
	Watermarks    *struct{} `json:"watermarks"`
}

func newFlamebearer(format string, t profile.Type, g *graph) *flamebearer {
	out := &flamebearer{Version: 1}
	names, levels, maxSelf := g.levels()
	out.Flamebearer.Names, out.Flamebearer.MaxSelf, out.Flamebearer.NumTicks = names, maxSelf, g.nodes[0].weight()
	for _, l := range levels {
		out.Flamebearer.Levels = append(out.Flamebearer.Levels, l.Values)
	}
	out.Metadata.Format, out.Metadata.Name = format, t.SampleType
	out.Metadata.Units, out.Metadata.SampleRate = units(t)
	return out
}

// units returns a unit in the words of flamebearer, in which time is a count of samples at a rate.
func units(t profile.Type) (name string, sampleRate int64) {
	switch t.SampleUnit {
	case "bytes", "byte":
		return "bytes", 0
	case "nanoseconds", "nanosecond", "ns":
		return "samples", 1e9
	case "microseconds", "microsecond", "us":
		return "samples", 1e6
	case "milliseconds", "millisecond", "ms":
		return "samples", 1e3
	case "seconds", "second", "s":
		return "samples", 1
	}
	if strings.HasPrefix(t.Name, "goroutine") {
		return "goroutines", 0
	}
	return "objects", 0
}

func (d *Door) render(ctx context.Context, in url.Values) (http.Header, []byte, error) {
	if in.Has("groupBy") {
		return nil, nil, api.Unserved("groupBy is not served by /pyroscope/render; SelectSeries has group_by")
	}
	format := cmp.Or(in.Get("format"), "json")
	if format != "json" && format != "pprof" && format != "dot" {
		return nil, nil, api.Unserved("format %.40q is not served; served are json, pprof and dot", format)
	}
	most, err := maxNodes(in)
	if err != nil {
		return nil, nil, err
	}
	sel, err := d.asked(ctx, in, "query", "from", "until")
	if err != nil {
		return nil, nil, err
	}
	m, err := d.merge(ctx, sel, nil)
	if err != nil {
		return nil, nil, err
	}
	if format == "pprof" {
		var b bytes.Buffer
		if err := profile.WritePprof(&b, m.Batch, m.Profile); err != nil {
			return nil, nil, err
		}
		return http.Header{
			"Content-Type":        {"application/octet-stream"},
			"Content-Disposition": {"attachment; filename=" + strconv.Quote(m.Profile.Type.Name+".pb.gz")},
		}, b.Bytes(), nil
	}
	tree := profile.NewTree(m.Batch, m.Profile)
	if format == "dot" {
		return http.Header{"Content-Type": {"text/vnd.graphviz; charset=utf-8"}}, dot(*sel.Type, single(tree), most), nil
	}
	g, err := d.drawn(single(tree), most)
	if err != nil {
		return nil, nil, err
	}
	out := newFlamebearer("single", *sel.Type, g)
	if out.Timeline, err = d.timeline(ctx, sel); err != nil {
		return nil, nil, err
	}
	return writeJSON(out)
}

func (d *Door) renderDiff(ctx context.Context, in url.Values) (http.Header, []byte, error) {
	if format := in.Get("format"); format != "" && format != "json" {
		return nil, nil, api.Unserved("format %.40q of a diff is not served; served is json", format)
	}
	most, err := maxNodes(in)
	if err != nil {
		return nil, nil, err
	}
	var sides [2]side
	for i, name := range []string{"left", "right"} {
		if sides[i].Selection, err = d.asked(ctx, in, name+"Query", name+"From", name+"Until"); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	g, err := d.diff(ctx, sides, most)
	if err != nil {
		return nil, nil, err
	}
	out := newFlamebearer("double", *sides[0].Type, g)
	root := &g.nodes[0]
	out.LeftTicks, out.RightTicks = &root.total[0], &root.total[1]
	return writeJSON(out)
}

func writeJSON(v any) (http.Header, []byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, nil, fmt.Errorf("writing JSON: %w", err)
	}
	return http.Header{"Content-Type": {"application/json"}}, b, nil
}

func maxNodes(in url.Values) (int64, error) {
	text := cmp.Or(in.Get("max-nodes"), in.Get("maxNodes"), "0")
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, api.Invalid("max-nodes is %.40q: want a whole number, 0 for what can be seen, -1 for all", text)
	}
	return n, nil
}

// asked reads a selection from the parameters of these names.
func (d *Door) asked(ctx context.Context, in url.Values, query, from, until string) (sel storage.Selection, err error) {
	now := d.opts.Now()
	start, err := parseTime(cmp.Or(in.Get(from), "now-1h"), now)
	if err != nil {
		return sel, api.Invalid("%s: %v", from, err)
	}
	end, err := parseTime(cmp.Or(in.Get(until), "now"), now)
	if err != nil {
		return sel, api.Invalid("%s: %v", until, err)
	}
	if start, end, err = api.Between(start, end); err != nil {
		return sel, err
	}
	typ, selector := api.SplitQuery(in.Get(query))
	if typ == "" {
		return sel, api.Invalid(`%s is %.100q: want a profile type and a selector, as in process_cpu:cpu:nanoseconds:cpu:nanoseconds{service_name="api"}`, query, in.Get(query))
	}
	if sel, err = d.selection(ctx, typ, selector, 0, 0); err != nil {
		return sel, err
	}
	sel.Start, sel.End = start, end
	return sel, nil
}

// timeUnits are what may follow the number in "now-1h".
var timeUnits = map[string]time.Duration{
	"s": time.Second, "sec": time.Second, "m": time.Minute, "min": time.Minute, "h": time.Hour, "d": 24 * time.Hour,
	"w": 7 * 24 * time.Hour, "M": 30 * 24 * time.Hour, "y": 365 * 24 * time.Hour,
}

// parseTime reads a moment: now, now-1h, now-30m, seconds, milliseconds, microseconds or nanoseconds since the
// epoch (told apart by the number of digits), or RFC 3339.
func parseTime(text string, now time.Time) (time.Time, error) {
	if rest, ok := strings.CutPrefix(text, "now"); ok {
		if rest == "" {
			return now, nil
		}
		i := 1
		for i < len(rest) && rest[i] >= '0' && rest[i] <= '9' {
			i++
		}
		n, err := strconv.ParseInt(rest[1:i], 10, 32)
		unit, known := timeUnits[rest[i:]]
		// 300 years are all that a time.Duration holds.
		if (rest[0] == '-' || rest[0] == '+') && err == nil && known && n <= int64(290*365*24*time.Hour/unit) {
			if rest[0] == '-' {
				n = -n
			}
			return now.Add(time.Duration(n) * unit), nil
		}
	} else if n, err := strconv.ParseInt(text, 10, 64); err == nil && n >= 0 {
		switch {
		case n < 1e11: // until the year 5138
			return time.Unix(n, 0), nil
		case n < 1e14:
			return time.UnixMilli(n), nil
		case n < 1e17:
			return time.UnixMicro(n), nil
		}
		return time.Unix(0, n), nil
	} else if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	return time.Time{}, fmt.Errorf("%.40q is no time: want now, now-1h, seconds or milliseconds since 1970, or as in 2026-01-02T15:04:05Z", text)
}

// timeline sums up over time in whole seconds.
func (d *Door) timeline(ctx context.Context, sel storage.Selection) (*timeline, error) {
	step, err := d.opts.API.Steps(ctx, sel, 0, 0)
	if err != nil {
		return nil, err
	}
	series, err := d.opts.Store.Series(ctx, sel, nil, step)
	if err != nil {
		return nil, fmt.Errorf("summing over time: %w", err)
	}
	out := &timeline{Samples: []int64{}, DurationDelta: int64(step / time.Second)}
	if len(series) == 0 {
		return out, nil
	}
	points := series[0].Points
	first, last := points[0].TimeNanos, points[len(points)-1].TimeNanos
	out.StartTime, out.Samples = first/1e9, make([]int64, (last-first)/int64(step)+1)
	for _, p := range points {
		out.Samples[(p.TimeNanos-first)/int64(step)] = p.Value
	}
	return out, nil
}

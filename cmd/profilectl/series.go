package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/proto/perfuse/query/v1/queryv1connect"
)

func (a *app) series() *cobra.Command {
	var (
		l      listFlags
		typ    string
		by     []string
		step   time.Duration
		limit  int32
		narrow narrowing
	)
	cmd := &cobra.Command{
		Use:   "series [SELECTOR]",
		Short: "Show the course of a profile type over time, by label",
		Example: `  profilectl series --by service_name
  profilectl series '{service_name="api"}' --by pod --from -6h --step 5m -o json`,
		Args: between(0, "SELECTOR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			out, err := parseOutput(l.out, listForms)
			if err != nil {
				return err
			}
			if step < 0 {
				return usage("--step %s: want a duration above 0", step)
			}
			v, sel, err := a.selection(cmd.Context(), l.when, typ, strings.Join(args, ""))
			if err != nil {
				return err
			}
			narrow.narrow(sel)
			v.title += narrow.describe()
			v.atMost = int(limit)
			if limit == 0 {
				v.atMost = 20
			}
			var resp *queryv1.SeriesResponse
			err = a.ask(cmd.Context(), "querying series", func(ctx context.Context, c queryv1connect.QueryServiceClient) (err error) {
				resp, err = c.Series(ctx, &queryv1.SeriesRequest{Selection: sel, GroupBy: by, StepNano: int64(step), Limit: limit})
				return err
			})
			if err != nil {
				return err
			}
			if len(resp.Series) == 0 {
				return a.empty(v, 0)
			}
			return out.write(a, func(w io.Writer) error {
				if out.form == formJSON {
					return writeSeriesJSON(w, v, resp)
				}
				return writeSeries(w, a.outTerm, v, resp)
			})
		},
	}
	l.flags(cmd, "-1h")
	cmd.Flags().StringVar(&typ, "type", "cpu", "profile type, or an unambiguous beginning of its name or sample type")
	cmd.Flags().StringSliceVar(&by, "by", nil, "one series per value of this label (may be repeated)")
	cmd.Flags().DurationVar(&step, "step", 0, "width of a step; 0 lets the server choose")
	cmd.Flags().Int32Var(&limit, "limit", 0, "at most so many series, the largest first, the others as one; 0 means 20")
	narrow.spanFlags(cmd)
	return cmd
}

func seriesLabels(s *queryv1.TimeSeries) profile.Labels {
	var ls profile.Labels
	for _, l := range s.Labels {
		ls = append(ls, profile.Label{Name: l.Name, Value: l.Value})
	}
	return ls
}

func sum(values []int64) (n int64) {
	for _, v := range values {
		n += v
	}
	return n
}

// writeSeries prints a table, the largest series first, with the course as a line of small bars on a terminal.
func writeSeries(w io.Writer, term terminal, v *view, resp *queryv1.SeriesResponse) error {
	var total int64
	first, last := int64(0), int64(0)
	slices.SortStableFunc(resp.Series, func(a, b *queryv1.TimeSeries) int { return cmp.Compare(sum(b.Values), sum(a.Values)) })
	for _, s := range resp.Series {
		total += sum(s.Values)
		for _, t := range s.TimeUnixNano {
			if first == 0 || t < first {
				first = t
			}
			last = max(last, t)
		}
	}
	t := table{head: []string{"TOTAL", "SHARE", "PEAK/STEP", "SERIES"}, right: []bool{true, true, true, false}}
	bars := 0
	if term.is {
		bars = max(10, min(60, term.width/3))
		t.head = []string{"TOTAL", "SHARE", "PEAK/STEP", "COURSE", "SERIES"}
		t.right = []bool{true, true, true, false, false}
	}
	for _, s := range resp.Series {
		n := sum(s.Values)
		peak := int64(0)
		for _, v := range s.Values {
			peak = max(peak, v)
		}
		row := []string{profile.FormatValue(n, resp.Unit), profile.FormatShare(n, total), profile.FormatValue(peak, resp.Unit)}
		if bars > 0 {
			row = append(row, sparkline(s, first, last+resp.StepNano, bars))
		}
		t.add(append(row, printable(seriesLabels(s).String()))...)
	}
	text := fmt.Sprintf("%s %s: %s, %s in steps of %s\n", v.typ, v.title, amount(total, resp.Unit), describeRange(v.from, v.to), time.Duration(resp.StepNano))
	text += t.text(term)
	if resp.Truncated {
		text += term.style(styleDim, v.rest(resp)) + "\n"
	}
	_, err := io.WriteString(w, text)
	return err
}

// rest says what became of the smaller series.
func (v *view) rest(resp *queryv1.SeriesResponse) string {
	kept := len(resp.Series) - 1
	return fmt.Sprintf("… and %s, summed up as {other=\"true\"}; %s", plural(resp.SeriesCount-int64(kept), "smaller series"), more(kept, v.atMost))
}

// sparkline draws the values between two times as n bars of eighths; empty steps are blanks.
func sparkline(s *queryv1.TimeSeries, from, to int64, n int) string {
	sums := make([]int64, n)
	peak := int64(0)
	for i, t := range s.TimeUnixNano {
		if i < len(s.Values) && t >= from && t < to {
			at := int(float64(t-from) / float64(to-from) * float64(n))
			sums[min(at, n-1)] += s.Values[i]
		}
	}
	for _, v := range sums {
		peak = max(peak, v)
	}
	var b strings.Builder
	for _, v := range sums {
		if v <= 0 || peak == 0 {
			b.WriteByte(' ')
			continue
		}
		b.WriteRune([]rune("▁▂▃▄▅▆▇█")[min(7, int(float64(v)/float64(peak)*8))])
	}
	return b.String()
}

func writeSeriesJSON(w io.Writer, v *view, resp *queryv1.SeriesResponse) error {
	type point struct {
		Time  time.Time `json:"time"`
		Value int64     `json:"value"`
	}
	type series struct {
		Labels map[string]string `json:"labels"`
		Total  int64             `json:"total"`
		Points []point           `json:"points"`
	}
	out := struct {
		Title string   `json:"title"`
		Type  string   `json:"type"`
		Unit  string   `json:"unit"`
		Step  string   `json:"step"`
		More  bool     `json:"truncated,omitempty"`
		Count int64    `json:"series_count"`
		All   []series `json:"series"`
	}{Title: v.title, Type: v.typ.String(), Unit: resp.Unit, Step: time.Duration(resp.StepNano).String(), More: resp.Truncated, Count: resp.SeriesCount}
	for _, s := range resp.Series {
		one := series{Labels: map[string]string{}, Total: sum(s.Values), Points: []point{}}
		for _, l := range s.Labels {
			one.Labels[l.Name] = l.Value
		}
		for i, t := range s.TimeUnixNano {
			if i < len(s.Values) {
				one.Points = append(one.Points, point{time.Unix(0, t).UTC(), s.Values[i]})
			}
		}
		out.All = append(out.All, one)
	}
	return printJSON(w, out)
}

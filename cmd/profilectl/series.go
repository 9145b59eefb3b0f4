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
  profilectl series '{service_name="api"}' --by pod --from -6h --step 5m -o json
  profilectl series --by service_name --keep '^runtime\.mallocgc'`,
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
			filter, err := narrow.filter()
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
				resp, err = c.Series(ctx, &queryv1.SeriesRequest{Selection: sel, GroupBy: by, StepNano: int64(step), Limit: limit, Filter: filter})
				return err
			})
			if err != nil {
				return err
			}
			per := per(v.typ, resp)
			if filter != nil {
				v.all = sum(resp.Unfiltered.GetValues()) / per
			}
			if len(resp.Series) == 0 {
				return a.empty(v, v.all)
			}
			return out.write(a, func(w io.Writer) error {
				if out.form == formJSON {
					return writeSeriesJSON(w, v, resp, per)
				}
				return writeSeries(w, a.outTerm, v, resp, per)
			})
		},
	}
	l.flags(cmd, "-1h")
	cmd.Flags().StringVar(&typ, "type", "cpu", "profile type, or an unambiguous beginning of its name or sample type")
	cmd.Flags().StringSliceVar(&by, "by", nil, "one series per value of this label (may be repeated)")
	cmd.Flags().DurationVar(&step, "step", 0, "width of a step; 0 lets the server choose")
	cmd.Flags().Int32Var(&limit, "limit", 0, "at most so many series, the largest first, the others as one; 0 means 20")
	narrow.flags(cmd)
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

// per is what the sums over steps are divided by. Levels mean nothing when they are added: it is in how many steps
// there is something, which makes means of them. Of amounts it is 1.
func per(typ profile.Type, resp *queryv1.SeriesResponse) int64 {
	if !typ.Level() {
		return 1
	}
	steps := map[int64]bool{}
	for _, s := range append(resp.Series[:len(resp.Series):len(resp.Series)], resp.Unfiltered) {
		for _, t := range s.GetTimeUnixNano() {
			steps[t] = true
		}
	}
	return max(1, int64(len(steps)))
}

// writeSeries prints a table, the largest series first, with the course as a line of small bars on a terminal.
func writeSeries(w io.Writer, term terminal, v *view, resp *queryv1.SeriesResponse, per int64) error {
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
	total /= per
	t := table{head: []string{"TOTAL", "SHARE"}, right: []bool{true, true}}
	if v.typ.Level() {
		t.head[0] = "MEAN"
	}
	column := func(head string, right bool) { t.head, t.right = append(t.head, head), append(t.right, right) }
	if v.all != 0 {
		column("ALL%", true)
	}
	column("PEAK/STEP", true)
	bars := 0
	if term.is {
		bars = max(10, min(60, term.width/3))
		column("COURSE", false)
	}
	column("SERIES", false)
	for _, s := range resp.Series {
		n := sum(s.Values) / per
		peak := int64(0)
		for _, v := range s.Values {
			peak = max(peak, v)
		}
		row := []string{profile.FormatValue(n, resp.Unit), profile.FormatShare(n, total)}
		if v.all != 0 {
			row = append(row, profile.FormatShare(n, v.all))
		}
		row = append(row, profile.FormatValue(peak, resp.Unit))
		if bars > 0 {
			row = append(row, sparkline(s, first, last+resp.StepNano, bars, v.typ.Level()))
		}
		t.add(append(row, printable(seriesLabels(s).String()))...)
	}
	mean := ""
	if v.typ.Level() {
		mean = "on average "
	}
	text := fmt.Sprintf("%s %s: %s%s, %s in steps of %s\n", v.typ, v.title, mean, v.share(total), describeRange(v.from, v.to), time.Duration(resp.StepNano))
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

// sparkline draws the values between two times as n bars of eighths, levels as means; empty steps are blanks.
func sparkline(s *queryv1.TimeSeries, from, to int64, n int, level bool) string {
	sums, steps := make([]int64, n), make([]int64, n)
	peak := int64(0)
	for i, t := range s.TimeUnixNano {
		if i < len(s.Values) && t >= from && t < to {
			at := min(n-1, int(float64(t-from)/float64(to-from)*float64(n)))
			sums[at] += s.Values[i]
			steps[at]++
		}
	}
	for i := range sums {
		if level && steps[i] > 0 {
			sums[i] /= steps[i]
		}
		peak = max(peak, sums[i])
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

func writeSeriesJSON(w io.Writer, v *view, resp *queryv1.SeriesResponse, per int64) error {
	type point struct {
		Time  time.Time `json:"time"`
		Value int64     `json:"value"`
	}
	type series struct {
		Labels map[string]string `json:"labels"`
		Total  *int64            `json:"total,omitempty"`
		Mean   *int64            `json:"mean,omitempty"`
		Points []point           `json:"points"`
	}
	out := struct {
		Title string   `json:"title"`
		Type  string   `json:"type"`
		Unit  string   `json:"unit"`
		Step  string   `json:"step"`
		More  bool     `json:"truncated,omitempty"`
		Count int64    `json:"series_count"`
		Whole int64    `json:"unfiltered_total,omitempty"`
		Usual int64    `json:"unfiltered_mean,omitempty"`
		All   []series `json:"series"`
	}{Title: v.title, Type: v.typ.String(), Unit: resp.Unit, Step: time.Duration(resp.StepNano).String(), More: resp.Truncated, Count: resp.SeriesCount}
	if v.typ.Level() {
		out.Usual = v.all
	} else {
		out.Whole = v.all
	}
	for _, s := range resp.Series {
		one, n := series{Labels: map[string]string{}, Points: []point{}}, sum(s.Values)/per
		if v.typ.Level() {
			one.Mean = &n
		} else {
			one.Total = &n
		}
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

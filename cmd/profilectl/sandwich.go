package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/proto/perfuse/query/v1/queryv1connect"
)

// sandwich is a function with what calls it, upside down, and what it calls. Both trees' roots stand for it.
type sandwich struct {
	view             // without a tree
	function         string
	total, self      int64
	callers, callees view
}

func (a *app) querySandwich(ctx context.Context, v *view, q question, function string) error {
	share, min := q.draw.shares(q.out.form)
	var resp *queryv1.SandwichResponse
	err := a.ask(ctx, "querying", func(ctx context.Context, c queryv1connect.QueryServiceClient) (err error) {
		resp, err = c.Sandwich(ctx, &queryv1.SandwichRequest{Selection: q.sel, Filter: q.filter, Function: function, MinShare: min})
		return err
	})
	if err != nil {
		return err
	}
	v.all = resp.UnfilteredTotal
	if resp.SeriesCount == 0 || resp.UnfilteredTotal == 0 {
		return a.empty(v, 0)
	}
	a.sayCut(resp.StacksCut)
	s := sandwich{view: *v, function: function, total: resp.Total, self: resp.Self}
	s.stacks, s.series, s.stacksCut = resp.StackCount, resp.SeriesCount, resp.StacksCut
	for _, part := range []struct {
		v    *view
		wire *queryv1.FlameTree
	}{{&s.callers, resp.Callers}, {&s.callees, resp.Callees}} {
		*part.v = s.view
		if part.v.tree, err = decodeTree(part.wire.GetNodes(), part.wire.GetFrames(), part.wire.GetStrings()); err != nil {
			return err
		}
		part.v.root, part.v.cut = function, part.wire.CutCount
	}
	if s.total == 0 && s.callers.tree.Len() == 1 && s.callees.tree.Len() == 1 {
		return a.noSuchFunction(ctx, v, q, function, "--sandwich")
	}
	return q.out.write(a, func(w io.Writer) error {
		if q.out.form == formJSON {
			return s.writeJSON(w)
		}
		term := a.outTerm
		if q.out.file != "" {
			term = terminal{}
		}
		return s.write(w, term, share)
	})
}

// noSuchFunction says that flag's function is not there, and which ones are that look like it.
func (a *app) noSuchFunction(ctx context.Context, v *view, q question, function, flag string) error {
	similar, err := a.similar(ctx, q, function)
	if err != nil {
		return err
	}
	if len(similar) == 0 {
		return nothing("no function of %s is called %s, %s; %s wants the whole name, as 'profilectl query -o top' lists it.", v.title, function, describeRange(v.from, v.to), flag)
	}
	return nothing("no function of %s is called %s, %s. There are\n  %s", v.title, function, describeRange(v.from, v.to), strings.Join(similar, "\n  "))
}

// similar returns the names of some functions that have text in their names, the most expensive first.
func (a *app) similar(ctx context.Context, q question, text string) (names []string, err error) {
	has := "(?i)" + regexp.QuoteMeta(text)
	filter := &queryv1.StackFilter{CallSite: q.filter.GetCallSite(), Drop: q.filter.GetDrop()}
	filter.Keep = append(filter.Keep, q.filter.GetKeep()...)
	filter.Keep = append(filter.Keep, &queryv1.FrameMatcher{Value: has, Regexp: true})
	var resp *queryv1.TopResponse
	err = a.ask(ctx, "querying", func(ctx context.Context, c queryv1connect.QueryServiceClient) (err error) {
		resp, err = c.Top(ctx, &queryv1.TopRequest{Selection: q.sel, Filter: filter, Order: queryv1.TopOrder_TOP_ORDER_TOTAL, Limit: 1000})
		return err
	})
	if err != nil {
		return nil, err
	}
	pattern := regexp.MustCompile(has)
	for _, f := range resp.Functions {
		if pattern.MatchString(f.Name) && len(names) < 10 {
			names = append(names, printable(f.Name))
		}
	}
	return names, nil
}

func (s *sandwich) summary() string {
	return fmt.Sprintf("%s %s in %s: %s, self %s (%s), %s, %s", s.typ, s.function, s.title, s.share(s.total), s.format(s.self),
		profile.FormatShare(s.self, s.total), plural(s.series, "series"), describeRange(s.from, s.to))
}

func (s *sandwich) write(w io.Writer, term terminal, minShare float64) error {
	bw := bufio.NewWriter(w)
	fmt.Fprintln(bw, s.summary())
	for _, part := range []struct {
		head, self, none string
		v                *view
	}{
		{"Callers, the function first", "BEGIN", "Nothing calls it: its stacks begin with it.", &s.callers},
		{"What it calls", "SELF", "It calls nothing.", &s.callees},
	} {
		fmt.Fprintln(bw, "\n"+term.style(styleBold, part.head))
		if part.v.tree.Len() <= 1 {
			fmt.Fprintln(bw, part.none)
			continue
		}
		part.v.writeLines(bw, term, minShare, part.self)
	}
	return bw.Flush()
}

func (s *sandwich) writeJSON(w io.Writer) error {
	bw := bufio.NewWriter(w)
	head, err := json.Marshal(struct {
		Title    string     `json:"title"`
		Function string     `json:"function"`
		Type     string     `json:"type"`
		Unit     string     `json:"unit"`
		From     *time.Time `json:"from,omitempty"`
		To       *time.Time `json:"to,omitempty"`
		Total    int64      `json:"total"`
		Self     int64      `json:"self"`
		All      int64      `json:"unfiltered_total"`
		Cut      int64      `json:"cut,omitempty"`
		Less     bool       `json:"stacks_cut,omitempty"`
	}{s.title, s.function, s.typ.String(), s.typ.SampleUnit, timeOrNil(s.from), timeOrNil(s.to), s.total, s.self, s.all, s.callers.cut + s.callees.cut, s.stacksCut})
	if err != nil {
		return err
	}
	bw.Write(head[:len(head)-1])
	bw.WriteString(`,"callers":`)
	if err := s.callers.writeNodes(bw); err != nil {
		return err
	}
	bw.WriteString(`,"callees":`)
	if err := s.callees.writeNodes(bw); err != nil {
		return err
	}
	bw.WriteString("}\n")
	return bw.Flush()
}

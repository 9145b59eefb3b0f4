package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/proto/perfuse/query/v1/queryv1connect"
)

// drawing is the flags that say how a merged profile is shown.
type drawing struct {
	minShare   string
	limit      int
	sort       string
	allocators bool
}

func (d *drawing) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&d.minShare, "min-share", "", "leave out what is below this share of the total, as 0.5% (tree: 0.5%, svg: 0.03%, json: 0)")
	cmd.Flags().IntVar(&d.limit, "limit", 30, "rows of the top table; 0 means all that the server gives")
	cmd.Flags().StringVar(&d.sort, "sort", "self", "order of the top table: self or total")
	cmd.Flags().BoolVar(&d.allocators, "allocators", false, "in tables of memory show allocators (malloc, runtime.mallocgc, operator new, ...) as functions of their own;\nwithout, what they take counts for who called them")
}

// share returns --min-share as a fraction, or what suits the form.
func (d *drawing) share(form string) (float64, error) {
	if d.minShare == "" {
		return map[string]float64{formTree: 0.005, formSVG: 0.0003, formHTML: 0.0003}[form], nil
	}
	n, err := strconv.ParseFloat(strings.TrimSuffix(d.minShare, "%"), 64)
	if strings.HasSuffix(d.minShare, "%") {
		n /= 100
	}
	if err != nil || !(n >= 0 && n < 1) {
		return 0, usage("--min-share %q: want a share as 0.5%% or 0.005", d.minShare)
	}
	return n, nil
}

// shares returns what is drawn, and what the server is asked for.
func (d *drawing) shares(form string) (drawn, asked float64) {
	drawn, _ = d.share(form) // checked
	if drawn == 0 {
		return 0, -1 // 0 would be the server's default
	}
	return drawn, drawn
}

func (d *drawing) check(form string) error {
	if d.sort != "self" && d.sort != "total" {
		return usage("--sort %q: want self or total", d.sort)
	}
	if d.limit < 0 {
		return usage("--limit %d: want 0 or more", d.limit)
	}
	_, err := d.share(form)
	return err
}

func (a *app) query() *cobra.Command {
	var (
		when     timeRange
		draw     drawing
		narrow   narrowing
		typ      string
		by       []string
		sandwich string
		source   string
		outFlag  string
	)
	cmd := &cobra.Command{
		Use:   "query [SELECTOR]",
		Short: "Show the merged profile of everything that a selector matches",
		Long: `Show the merged profile of everything that a selector matches, as {service_name="api", namespace=~"prod.*"};
the empty selector matches everything.

Forms: top    a table of functions with self and total value
       tree   the call tree, indented
       svg    a flame graph as a file for browsers
       folded one line per stack, root first: a;b;c VALUE
       pprof  for go tool pprof and others
       json   the call tree for machines

--keep, --drop and --call-site say which stacks count; shares of everything that is selected stay beside those of
what they leave (ALL%). --by puts the values of labels into the call tree, above the functions. --sandwich shows what
calls one function and what it calls, --source what each of its lines cost, beside their text if the server or this
machine has the file.`,
		Example: `  profilectl query '{service_name="api"}' --from -1h -o tree
  profilectl query '{service_name="api"}' --keep '^json\.' --drop 'file=~_test\.go$'
  profilectl query --by namespace,pod -o tree
  profilectl query --sandwich json.Marshal
  profilectl query --source json.Marshal
  profilectl query --span-name 'GET /cart' -o tree
  profilectl query '{comm="postgres"}' --type cpu -o flame.svg
  profilectl query -o pprof > cpu.pb.gz`,
		Args: between(0, "SELECTOR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if sandwich+source != "" && !cmd.Flags().Changed("output") {
				outFlag = formTree
			}
			out, err := parseOutput(outFlag, profileForms)
			if err != nil {
				return err
			}
			if err := draw.check(out.form); err != nil {
				return err
			}
			switch {
			case sandwich != "" && source != "":
				return usage("--sandwich and --source do not go together: each shows one function")
			case source != "" && out.form != formTree && out.form != formJSON:
				return usage("--source makes a list of lines: want -o tree or json, not %s", out.form)
			case source != "" && len(by) > 0:
				return usage("--source and --by do not go together")
			case sandwich != "" && out.form != formTree && out.form != formJSON:
				return usage("--sandwich makes two trees: want -o tree or json, not %s", out.form)
			case sandwich != "" && len(by) > 0:
				return usage("--sandwich and --by do not go together")
			case len(by) > 0 && !slices.Contains([]string{formTree, formSVG, formJSON}, out.form):
				return usage("--by puts labels into the call tree: want -o tree, svg or json, not %s", out.form)
			}
			filter, err := narrow.filter()
			if err != nil {
				return err
			}
			if out.form == formPprof && out.file == "" && a.outTerm.is {
				return out.write(a, nil) // refuse before the server works
			}
			v, sel, err := a.selection(cmd.Context(), when, typ, strings.Join(args, ""))
			if err != nil {
				return err
			}
			narrow.narrow(sel)
			v.title += narrow.describe()
			q := question{sel: sel, filter: filter, by: by, draw: draw, out: out}
			switch {
			case sandwich != "":
				return a.querySandwich(cmd.Context(), v, q, sandwich)
			case source != "":
				return a.querySource(cmd.Context(), v, q, source)
			case out.form == formTop:
				return a.queryTop(cmd.Context(), v, q)
			case out.form == formFolded, out.form == formPprof:
				return a.export(cmd.Context(), v, q)
			}
			return a.queryTree(cmd.Context(), v, q)
		},
	}
	when.flags(cmd, "-1h")
	draw.flags(cmd)
	narrow.flags(cmd)
	cmd.Flags().StringSliceVar(&by, "by", nil, "labels whose values come first in the call tree")
	cmd.Flags().StringVar(&sandwich, "sandwich", "", "show what calls the function of this name and what it calls")
	cmd.Flags().StringVar(&source, "source", "", "show what each source line of the function of this name cost")
	cmd.Flags().StringVar(&typ, "type", "cpu", "profile type, or an unambiguous beginning of its name or sample type")
	cmd.Flags().StringVarP(&outFlag, "output", "o", formTop, "form ("+strings.Join(profileForms, ", ")+") or a file whose end says it (out.pb.gz, out.svg, ...)")
	return cmd
}

// selection checks what was typed, finds the full name of the type, and returns both what to show and what to
// ask for.
func (a *app) selection(ctx context.Context, when timeRange, typ, selector string) (*view, *queryv1.Selection, error) {
	from, to, err := when.parse(a.now())
	if err != nil {
		return nil, nil, err
	}
	parsed, err := profile.ParseSelector(selector)
	if err != nil {
		return nil, nil, err
	}
	known, err := a.knownTypes(ctx, time.Time{}, time.Time{})
	if err != nil {
		return nil, nil, err
	}
	if len(known) == 0 {
		return nil, nil, nothing("the server at %s has no profiles yet.\nStart an agent with 'perfuse up' or 'perfuse agent', or send some with 'profilectl upload'.", a.server)
	}
	t, err := profile.ResolveType(typ, known)
	if err != nil {
		return nil, nil, fmt.Errorf("--type: %w", err)
	}
	v := &view{title: parsed.String(), typ: t, from: from, to: to}
	return v, &queryv1.Selection{ProfileType: t.String(), Selector: parsed.String(), StartUnixNano: unixNano(from), EndUnixNano: unixNano(to)}, nil
}

// question is what to ask for and how to show the answer.
type question struct {
	sel    *queryv1.Selection
	filter *queryv1.StackFilter // nil: all stacks count
	by     []string
	draw   drawing
	out    output
}

// filtered says that v's is what a filter left of all, if there was one.
func (q *question) filtered(v *view, all int64) {
	if q.filter != nil {
		v.all = all
	}
}

// empty says that nothing matched, and what to try. all is what is selected without the filter.
func (a *app) empty(v *view, all int64) error {
	if all != 0 {
		return nothing("no stack passes the filter: %s, %s. Without it there are %s.\n'profilectl query' lists the names of functions, with -o json their files and binaries too; a part of one is a regular expression: --keep json, --keep 'file=~json'.",
			v.title, describeRange(v.from, v.to), amount(all, v.typ.SampleUnit))
	}
	return nothing("no samples of %s match %s, %s.\nTry a longer range (--from -24h, or 0 for everything); 'profilectl labels' and 'profilectl types' list what there is.",
		v.typ, v.title, describeRange(v.from, v.to))
}

func (a *app) queryTree(ctx context.Context, v *view, q question) error {
	share, min := q.draw.shares(q.out.form)
	var resp *queryv1.FlameGraphResponse
	err := a.ask(ctx, "querying", func(ctx context.Context, c queryv1connect.QueryServiceClient) (err error) {
		resp, err = c.FlameGraph(ctx, &queryv1.FlameGraphRequest{Selection: q.sel, Filter: q.filter, GroupBy: q.by, MinShare: min})
		return err
	})
	if err != nil {
		return err
	}
	if resp.SeriesCount == 0 {
		return a.empty(v, 0)
	}
	a.sayCut(resp.StacksCut)
	if v.tree, err = decodeTree(resp.Nodes, resp.Frames, resp.Strings); err != nil {
		return err
	}
	v.tree.Unit = resp.Unit
	v.stacks, v.series, v.cut, v.stacksCut = resp.StackCount, resp.SeriesCount, resp.CutCount, resp.StacksCut
	q.filtered(v, resp.UnfilteredTotal)
	if resp.StackCount == 0 && q.filter != nil {
		return a.empty(v, resp.UnfilteredTotal)
	}
	return q.out.write(a, func(w io.Writer) error { return v.draw(w, q.out, a.outTerm, share) })
}

// sayCut says that an answer is not made of all stacks.
func (a *app) sayCut(cut bool) {
	if cut {
		fmt.Fprintf(a.err, "too many stacks for one answer: those of the least values are one, %q; ask for less time or fewer series, or raise the server's limits.answer_frames\n",
			profile.CutName)
	}
}

// decodeTree reads a tree as it travels.
func decodeTree(nodes []byte, wire []*queryv1.FlameFrame, strs []string) (*profile.Tree, error) {
	tree, err := profile.DecodeNodes(nodes, treeFrames(wire), strs)
	if err != nil {
		return nil, fmt.Errorf("querying: the server's answer: %w", err)
	}
	return tree, nil
}

func treeFrames(wire []*queryv1.FlameFrame) []profile.TreeFrame {
	frames := make([]profile.TreeFrame, len(wire))
	for i, f := range wire {
		frames[i] = profile.TreeFrame{Name: f.Name, File: f.File, Mapping: f.Mapping, Kind: kindOf(f.Kind), Inlined: f.Inlined, StartLine: f.StartLine}
	}
	return frames
}

// draw writes the view as a tree, an SVG or JSON.
func (v *view) draw(w io.Writer, out output, term terminal, share float64) error {
	switch out.form {
	case formSVG:
		return v.writeSVG(w)
	case formJSON:
		return v.writeJSON(w)
	}
	if out.file != "" {
		term = terminal{}
	}
	return v.writeTree(w, term, share)
}

func (a *app) queryTop(ctx context.Context, v *view, q question) error {
	req := &queryv1.TopRequest{Selection: q.sel, Filter: q.filter, Limit: int32(min(q.draw.limit, 1<<31-1)), FoldAllocators: !q.draw.allocators}
	if q.draw.limit == 0 {
		req.Limit = 1 << 20
	}
	if q.draw.sort == "total" {
		req.Order = queryv1.TopOrder_TOP_ORDER_TOTAL
	}
	var resp *queryv1.TopResponse
	err := a.ask(ctx, "querying", func(ctx context.Context, c queryv1connect.QueryServiceClient) (err error) {
		resp, err = c.Top(ctx, req)
		return err
	})
	if err != nil {
		return err
	}
	a.sayCut(resp.StacksCut)
	if resp.FunctionCount == 0 && resp.Total == 0 {
		return a.empty(v, resp.UnfilteredTotal)
	}
	q.filtered(v, resp.UnfilteredTotal)
	v.atMost = q.draw.limit
	t := topTable{view: *v, sum: resp.Total, count: resp.FunctionCount}
	for _, f := range resp.Functions {
		t.rows = append(t.rows, profile.TopRow{Name: f.Name, File: f.File, Mapping: f.Mapping, Kind: kindOf(f.Kind), Self: f.Self, Total: f.Total})
	}
	return q.out.write(a, func(w io.Writer) error { return t.write(w, a.outTerm) })
}

// export fetches the profile as a file. Its summary goes to standard error, the form has no place for it.
func (a *app) export(ctx context.Context, v *view, q question) error {
	format := queryv1.ExportFormat_EXPORT_FORMAT_PPROF
	if q.out.form == formFolded {
		format = queryv1.ExportFormat_EXPORT_FORMAT_FOLDED
	}
	var resp *queryv1.ExportResponse
	err := a.ask(ctx, "querying", func(ctx context.Context, c queryv1connect.QueryServiceClient) (err error) {
		resp, err = c.Export(ctx, &queryv1.ExportRequest{Selection: q.sel, Filter: q.filter, Format: format})
		return err
	})
	if err != nil {
		return err
	}
	stacks, total, err := measure(resp.Data, q.out.form, v.typ)
	if err != nil {
		return fmt.Errorf("querying: the server's answer: %w", err)
	}
	a.sayCut(resp.StacksCut)
	if stacks == 0 {
		return a.empty(v, resp.UnfilteredTotal)
	}
	q.filtered(v, resp.UnfilteredTotal)
	if err := q.out.write(a, func(w io.Writer) error { _, err := w.Write(resp.Data); return err }); err != nil {
		return err
	}
	fmt.Fprintf(a.err, "%s %s: %s, %s, %s, %s\n", v.typ, v.title, v.share(total), plural(stacks, "stack"),
		profile.FormatValue(int64(len(resp.Data)), "bytes"), describeRange(v.from, v.to))
	return nil
}

// measure counts what is in a file that the server made.
func measure(data []byte, form string, typ profile.Type) (stacks, total int64, err error) {
	var b *profile.Batch
	if form == formFolded {
		b, err = profile.ParseFolded(strings.NewReader(string(data)), typ, nil)
	} else {
		b, err = profile.ReadPprof(strings.NewReader(string(data)), profile.PprofOptions{Name: typ.Name, MaxBytes: maxAnswerBytes})
	}
	if err != nil {
		return 0, 0, err
	}
	for i := range b.Profiles {
		stacks += int64(len(b.Profiles[i].Samples))
		total += b.Profiles[i].Total()
	}
	return stacks, total, nil
}

func kindOf(k queryv1.FrameKind) profile.Kind {
	switch k {
	case queryv1.FrameKind_FRAME_KIND_KERNEL:
		return profile.KindKernel
	case queryv1.FrameKind_FRAME_KIND_JIT:
		return profile.KindJIT
	case queryv1.FrameKind_FRAME_KIND_INTERPRETED:
		return profile.KindInterpreted
	case queryv1.FrameKind_FRAME_KIND_UNWIND:
		return profile.KindUnwind
	case queryv1.FrameKind_FRAME_KIND_CUT:
		return profile.KindCut
	case queryv1.FrameKind_FRAME_KIND_ROOT:
		return profile.KindRoot
	case queryv1.FrameKind_FRAME_KIND_LABEL:
		return profile.KindLabel
	}
	return profile.KindNative
}

package main

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
)

// diffForms are the forms of a difference.
var diffForms = []string{formTable, formTree, formFolded, formJSON, formSVG, formHTML, formPprof}

// diffing is the flags of diff.
type diffing struct {
	before, after string
	typ           string
	typed         bool // the type was given
	scale         string
	operations    [2]float64
	draw          drawing
	narrow        narrowing
	out           output
}

func (a *app) diff() *cobra.Command {
	var (
		d       diffing
		outFlag string
	)
	cmd := &cobra.Command{
		Use:   "diff [BEFORE] [AFTER]",
		Short: "Show what changed between two time ranges, selectors or files",
		Long: `Show what changed. Each side is a selector, {service_name="api", version="1.4"}, or a file: pprof, folded text,
JFR or speedscope, gzip-compressed or not; "-" is standard input. One selector, or none, stands for both sides.

Ranges are FROM..TO in the forms of 'query --from'. Without --after it is the last hour. Without --before it is the
time of the same length right before --after if there is one selector, and the same time if there are two.

What is compared (--scale) is said in the output:
       none     values as they are: the default for two sides of equal length, and for levels as bytes in use,
                of which a range has its mean
       time     values per second, the default for sides of different lengths
       samples  shares of each side's total
--before-operations and --after-operations compare values per operation: requests served, rows read.

Forms: table  functions, the largest change of the self value first, in either direction
       tree   call paths, those with most change below them first
       svg    a differential flame graph; boxes are as wide as before and after together
       html   flame graph and table as one page that needs nothing else, with search and zoom
       folded one line per stack with two values: a;b;c BEFORE AFTER
       pprof  after less before, as of pprof -diff_base
       json   functions and the call tree for machines

Types of memory: what ends in an allocator counts for its caller in tables, so that a leak's first line is the
function that leaks; --allocators shows them. Functions of two builds are matched by name.`,
		Example: `  profilectl diff '{service_name="api"}' --before -2h..-1h --after -1h..now
  profilectl diff '{version="1.4"}' '{version="1.5"}' --after -1d..now -o tree
  profilectl diff '{service_name="api"}' --type inuse_space            # what leaks
  profilectl diff old.pb.gz new.pb.gz -o diff.html
  profilectl diff old.pb.gz new.pb.gz --before-operations 1000 --after-operations 1500
  profilectl diff release.pb.gz '{service_name="api"}'`,
		Args: between(0, "BEFORE", "AFTER"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if d.out, err = parseOutput(outFlag, diffForms); err != nil {
				return err
			}
			d.typed = cmd.Flags().Changed("type")
			for i, flag := range []string{"before-operations", "after-operations"} {
				if cmd.Flags().Changed(flag) && !(d.operations[i] > 0) {
					return usage("--%s %v: want more than 0", flag, d.operations[i])
				}
			}
			return a.runDiff(cmd.Context(), &d, args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&d.before, "before", "", "time range of a selector before, as -2h..-1h")
	f.StringVar(&d.after, "after", "", "time range of a selector after, as -1h..now")
	f.StringVar(&d.scale, "scale", "", "what is compared: none, time or samples")
	f.Float64Var(&d.operations[0], "before-operations", 0, "compare values per operation, of which there were so many before")
	f.Float64Var(&d.operations[1], "after-operations", 0, "and so many after")
	d.draw.flags(cmd)
	d.narrow.flags(cmd)
	f.StringVar(&d.typ, "type", "cpu", "profile type, or an unambiguous beginning of its name or sample type; of a file without CPU time its last one")
	f.StringVarP(&outFlag, "output", "o", formTable, "form ("+strings.Join(diffForms, ", ")+") or a file whose end says it (out.html, out.svg, ...)")
	return cmd
}

func (a *app) runDiff(ctx context.Context, d *diffing, args []string) error {
	if err := d.check(); err != nil {
		return err
	}
	filter, err := d.narrow.filter()
	if err != nil {
		return err
	}
	if d.out.form == formPprof && d.out.file == "" && a.outTerm.is {
		return d.out.write(a, nil) // refuse before anything works
	}
	sides, err := a.sides(d, args)
	if err != nil {
		return err
	}
	if err := a.findTypes(ctx, d, sides); err != nil {
		return err
	}
	c := &comparison{typ: sides[1].typ, sides: sides, filtered: filter != nil}
	if err := c.choose(d); err != nil {
		return err
	}
	local := sides[0].file != "" || sides[1].file != "" || d.out.form == formFolded || d.out.form == formPprof
	if local {
		err = a.compareHere(ctx, c, d, filter)
	} else {
		err = a.compareThere(ctx, c, d, filter)
	}
	if err != nil {
		return err
	}
	if c.hint != "" {
		fmt.Fprintln(a.err, c.hint)
	}
	a.sayCut(sides[0].stacksCut || sides[1].stacksCut)
	if err := d.out.write(a, func(w io.Writer) error { return c.write(w, d, a.outTerm) }); err != nil {
		return err
	}
	if d.out.form == formFolded || d.out.form == formPprof {
		fmt.Fprint(a.err, c.summary()) // the forms have no place for it
	}
	return nil
}

func (d *diffing) check() error {
	switch {
	case d.scale != "" && d.scale != scaleNone && d.scale != scaleTime && d.scale != scaleSamples:
		return usage("--scale %q: want none, time or samples", d.scale)
	case (d.operations[0] != 0) != (d.operations[1] != 0):
		return usage("--before-operations and --after-operations go together: values are compared per operation")
	case d.operations[0] != 0 && d.scale != "":
		return usage("--scale and --before-operations do not go together: values are compared per operation")
	}
	return d.draw.check(d.out.form)
}

// side is one of the two sides of a difference.
type side struct {
	name     string // before or after
	title    string // the selector, or the file's name as it was typed
	file     string // "": the server has it
	data     []byte // of the file, unpacked
	selector string
	from, to time.Time
	length   time.Duration // as the range or the file says; 0: unknown

	typ   profile.Type
	batch *profile.Batch // profiles of that type; nil if only the server has them
	tree  *profile.Tree

	total, all     int64 // all: whatever the filter leaves out
	stacks, series int64
	covers         time.Duration // how long its profiles are
	scale          float64       // what its values are to be multiplied by
	stacksCut      bool
}

// bareSelector is a selector without braces.
var bareSelector = regexp.MustCompile(`^\s*[A-Za-z_][\w.-]*\s*(=|!=|=~|!~)\s*["` + "`]")

// sides reads what was typed.
func (a *app) sides(d *diffing, args []string) ([2]*side, error) {
	sides := [2]*side{{name: "before"}, {name: "after"}}
	for i, s := range sides {
		arg := ""
		if len(args) > 0 {
			arg = args[min(i, len(args)-1)]
		}
		if trimmed := strings.TrimSpace(arg); trimmed != "" && trimmed[0] != '{' && !bareSelector.MatchString(arg) {
			s.file, s.title = arg, arg
			continue
		}
		parsed, err := profile.ParseSelector(arg)
		if err != nil {
			return sides, fmt.Errorf("%s: %w", s.name, err)
		}
		s.selector = parsed.String()
		s.title = s.selector + d.narrow.describe()
	}
	files := 0
	for i, s := range sides {
		span := [2]string{d.before, d.after}[i]
		if s.file == "" {
			continue
		}
		files++
		switch {
		case len(args) == 1:
			return sides, &hintError{usage("one file is one side: want two files, or a file and a selector"),
				`Selectors are written in braces, as {service_name="api"}.`}
		case span != "":
			return sides, usage("--%s is a time range of a selector, but %s is the file %s", s.name, s.name, s.file)
		case len(d.narrow.traceIDs)+len(d.narrow.spanIDs)+len(d.narrow.spanName) > 0:
			return sides, usage("traces and spans are selected on a server, but %s is the file %s; upload it first", s.name, s.file)
		}
	}
	if files == 2 && args[0] == "-" && args[1] == "-" {
		return sides, usage("standard input can be one side only")
	}
	if err := a.setRanges(d, sides, len(args) < 2); err != nil {
		return sides, err
	}
	for _, s := range sides {
		if s.file == "" {
			continue
		}
		var err error
		if s.data, err = a.readFile(s.file); err != nil {
			return sides, &hintError{fmt.Errorf("%s: reading %s: %w", s.name, s.file, err), hintForFile(err)}
		}
	}
	return sides, nil
}

// setRanges sets the times of selectors. one says that both sides have the same.
func (a *app) setRanges(d *diffing, sides [2]*side, one bool) error {
	now := a.now()
	given := [2]string{d.before, d.after}
	if given[1] == "" {
		given[1] = "-1h..now"
		if !one && given[0] != "" {
			given[1] = given[0]
		}
	}
	for i, s := range []*side{sides[1], sides[0]} { // after decides what before is
		span := given[1-i]
		if s.file != "" {
			continue
		}
		var err error
		switch {
		case span != "":
			if s.from, s.to, err = parseSpan(span, now); err != nil {
				return usage("--%s %s", s.name, err)
			}
		case !one && sides[1].file != "":
			s.from, s.to = now.Add(-time.Hour), now
		case !one:
			s.from, s.to = sides[1].from, sides[1].to
		case sides[1].from.IsZero():
			return usage("--after %s has no beginning: say what it is compared with, as --before -2h..-1h", d.after)
		default:
			s.to = sides[1].from
			s.from = s.to.Add(-sides[1].to.Sub(sides[1].from))
		}
		if !s.from.IsZero() && !s.to.IsZero() {
			s.length = s.to.Sub(s.from)
		}
	}
	b, after := sides[0], sides[1]
	if b.file == "" && after.file == "" && b.selector == after.selector && b.from.Equal(after.from) && b.to.Equal(after.to) {
		return usage("both sides are the same: %s, %s", b.selector, describeRange(b.from, b.to))
	}
	return nil
}

// parseSpan reads a time range FROM..TO; an end without a time is now, and 0 is unbounded.
func parseSpan(s string, now time.Time) (from, to time.Time, err error) {
	first, last, ok := strings.Cut(s, "..")
	if !ok || first == "" {
		return from, to, fmt.Errorf("%q: want FROM..TO, as -2h..-1h", s)
	}
	if from, err = parseTime(first, now); err != nil {
		return from, to, fmt.Errorf("%q: its beginning %w", s, err)
	}
	if to, err = parseTime(last, now); err != nil {
		return from, to, fmt.Errorf("%q: its end %w", s, err)
	}
	if !from.IsZero() && !to.IsZero() && !from.Before(to) {
		return from, to, fmt.Errorf("%q: %s is not before %s", s, from.Format(time.RFC3339), to.Format(time.RFC3339))
	}
	if to.IsZero() && !from.IsZero() && !from.Before(now) {
		return from, to, fmt.Errorf("%q: %s is not before now", s, from.Format(time.RFC3339))
	}
	return from, to, nil
}

// selection is what the server is asked for.
func (s *side) selection(n *narrowing) *queryv1.Selection {
	sel := &queryv1.Selection{ProfileType: s.typ.String(), Selector: s.selector, StartUnixNano: unixNano(s.from), EndUnixNano: unixNano(s.to)}
	n.narrow(sel)
	return sel
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/proto/perfuse/query/v1/queryv1connect"
)

// What makes two sides comparable: --scale, and by operations.
const (
	scaleNone       = "none"
	scaleTime       = "time"
	scaleSamples    = "samples"
	scaleOperations = "operations"
)

// hintForFile says what to do about a file that cannot be read.
func hintForFile(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return `Selectors are written in braces, as {service_name="api"}; everything else is a file.`
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "The file ends too early: fetch or copy it again."
	}
	return "Want a pprof, folded text, a JFR recording or speedscope's JSON."
}

// findTypes finds out what is compared, and reads the files.
func (a *app) findTypes(ctx context.Context, d *diffing, sides [2]*side) error {
	// What a file is decides first, unless it is said: folded text is of any type, a server has them all.
	var told *profile.Type
	for _, s := range sides {
		if s.file == "" || isFolded(s.data) {
			continue
		}
		if err := s.readTyped(d); err != nil {
			return err
		}
		if told == nil {
			told = &s.typ
		}
	}
	for _, s := range sides {
		if s.file != "" {
			continue
		}
		if err := a.findServersType(ctx, d, s, told); err != nil {
			return err
		}
		told = &s.typ
	}
	for _, s := range sides {
		if s.file == "" || !isFolded(s.data) {
			continue
		}
		var err error
		if told != nil {
			s.typ = *told
		} else if s.typ, err = parseUploadType(d.typ); err != nil {
			return err
		}
		if s.batch, err = profile.ParseFolded(strings.NewReader(string(s.data)), s.typ, nil); err != nil {
			return &hintError{fmt.Errorf("%s: reading %s: %w", s.name, s.file, err), hintForFile(err)}
		}
		if len(s.batch.Profiles[0].Samples) == 0 {
			return nothing("%s: %s holds no samples: there is nothing to compare.", s.name, s.file)
		}
	}
	b, c := sides[0].typ, sides[1].typ
	if b.SampleType != c.SampleType || b.SampleUnit != c.SampleUnit {
		return &hintError{fmt.Errorf("before and after cannot be compared: before is %s, after is %s", b, c), "Want two of one type; --type says which, if a file has several."}
	}
	return nil
}

// readTyped reads a file that says which types it has.
func (s *side) readTyped(d *diffing) error {
	typ := profile.TypeCPU
	if d.typed {
		if t, err := parseUploadType(d.typ); err == nil { // for values without a type, in speedscope's files
			typ = t
		}
	}
	b, err := decodeProfile(s.data, typ, profile.PprofOptions{MaxBytes: maxUploadBytes})
	if err != nil {
		err = fmt.Errorf("%s: reading %s: %w", s.name, s.file, err)
		var hint *hintError
		if !errors.As(err, &hint) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = &hintError{err, hintForFile(err)}
		}
		return err
	}
	var types []profile.Type
	for i := range b.Profiles {
		if p := &b.Profiles[i]; len(p.Samples) > 0 && !slices.Contains(types, p.Type) {
			types = append(types, p.Type)
		}
	}
	if len(types) == 0 {
		return nothing("%s: %s holds no samples: there is nothing to compare.", s.name, s.file)
	}
	if s.typ, err = profile.ResolveType(d.typ, types); err != nil {
		if d.typed {
			return fmt.Errorf("%s: --type: %s: %w", s.name, s.file, err)
		}
		s.typ = types[len(types)-1] // as pprof has it
	}
	b.Profiles = slices.DeleteFunc(b.Profiles, func(p profile.Profile) bool { return p.Type != s.typ })
	s.batch = b
	for i := range b.Profiles {
		s.length = max(s.length, time.Duration(b.Profiles[i].DurationNanos))
	}
	return nil
}

// findServersType finds the type that a selector is asked for: the one of the other side, if that is a file.
func (a *app) findServersType(ctx context.Context, d *diffing, s *side, told *profile.Type) error {
	known, err := a.knownTypes(ctx, time.Time{}, time.Time{})
	if err != nil {
		return err
	}
	if len(known) == 0 {
		return nothing("the server at %s has no profiles yet.\nStart an agent with 'perfuse up' or 'perfuse agent', or send some with 'profilectl upload'.", a.server)
	}
	want := d.typ
	if told != nil && !d.typed {
		want = told.SampleType
		if slices.Contains(known, *told) {
			want = told.String()
		}
	}
	if s.typ, err = profile.ResolveType(want, known); err != nil {
		return fmt.Errorf("%s: --type: %w", s.name, err)
	}
	return nil
}

// compareThere asks the server for the difference of two selectors.
func (a *app) compareThere(ctx context.Context, c *comparison, d *diffing, filter *queryv1.StackFilter) error {
	scale := c.wireScale()
	before, after := c.sides[0].selection(&d.narrow), c.sides[1].selection(&d.narrow)
	if d.out.form == formTable || d.out.form == formJSON || d.out.form == formHTML {
		req := &queryv1.DiffTopRequest{Before: before, After: after, Filter: filter, Scale: scale, FoldAllocators: !d.draw.allocators, Limit: 1 << 20}
		if c.scale != scaleOperations && d.draw.limit > 0 { // else the order is ours
			req.Limit = int32(min(d.draw.limit, 1<<20))
		}
		if d.draw.sort == "total" {
			req.Order = queryv1.DiffTopOrder_DIFF_TOP_ORDER_TOTAL
		}
		var resp *queryv1.DiffTopResponse
		err := a.ask(ctx, "querying", func(ctx context.Context, q queryv1connect.QueryServiceClient) (err error) {
			resp, err = q.DiffTop(ctx, req)
			return err
		})
		if err != nil {
			return err
		}
		if err := c.take(d, resp.Before, resp.After); err != nil {
			return err
		}
		c.count = resp.FunctionCount
		for _, f := range resp.Functions {
			c.rows = append(c.rows, profile.DiffRow{
				TopRow:     profile.TopRow{Name: f.Name, File: f.File, Mapping: f.Mapping, Kind: kindOf(f.Kind), Self: f.SelfAfter, Total: f.TotalAfter},
				BeforeSelf: f.SelfBefore, BeforeTotal: f.TotalBefore,
			})
		}
		c.sort(d)
	}
	if d.out.form == formTable {
		return nil
	}
	// What changed is not what is large: nothing is left out that the server need not.
	req := &queryv1.DiffRequest{Before: before, After: after, Filter: filter, Scale: scale, MinShare: -1}
	var resp *queryv1.DiffResponse
	err := a.ask(ctx, "querying", func(ctx context.Context, q queryv1connect.QueryServiceClient) (err error) {
		resp, err = q.Diff(ctx, req)
		return err
	})
	if err != nil {
		return err
	}
	if err := c.take(d, resp.Before, resp.After); err != nil {
		return err
	}
	c.cut = resp.CutCount
	c.tree, err = profile.DecodeDiffNodes(resp.Nodes, treeFrames(resp.Frames), resp.Strings)
	if err != nil {
		return fmt.Errorf("querying: the server's answer: %w", err)
	}
	return nil
}

// take notes what the server says of both sides.
func (c *comparison) take(d *diffing, before, after *queryv1.DiffSide) error {
	for i, wire := range []*queryv1.DiffSide{before, after} {
		c.sides[i].take(wire)
		if c.scale == scaleOperations {
			c.sides[i].scale /= d.operations[i]
		}
	}
	return c.empty()
}

func (s *side) take(wire *queryv1.DiffSide) {
	s.total, s.all, s.stacks, s.series = wire.GetTotal(), wire.GetUnfilteredTotal(), wire.GetStackCount(), wire.GetSeriesCount()
	s.covers, s.scale, s.stacksCut = time.Duration(wire.GetDurationNano()), wire.GetScale(), wire.GetStacksCut()
}

// compareHere compares files, or what the server has as a file.
func (a *app) compareHere(ctx context.Context, c *comparison, d *diffing, filter *queryv1.StackFilter) error {
	for i, s := range c.sides {
		var err error
		if s.file == "" {
			err = a.fetch(ctx, c, s, d, filter)
		} else {
			err = s.filter(ctx, filter)
		}
		if err != nil {
			return err
		}
		if s.file != "" {
			if s.scale, err = c.scaleOf(s); err != nil {
				return err
			}
		}
		if c.scale == scaleOperations {
			s.scale /= d.operations[i]
		}
		if s.tree, err = profile.GroupTree(ctx, s.batch, nil); err != nil {
			return err
		}
	}
	if err := c.empty(); err != nil {
		return err
	}
	b, after := c.sides[0], c.sides[1]
	b.tree = profile.Align(b.tree, after.tree)
	c.tree = profile.Diff(b.tree, after.tree)
	if c.typ.Memory() && !d.draw.allocators {
		c.rows = profile.Diff(b.tree.FoldAllocators(), after.tree.FoldAllocators()).Top(b.scale, after.scale)
	} else {
		c.rows = c.tree.Top(b.scale, after.scale)
	}
	c.count = int64(len(c.rows))
	c.sort(d)
	return nil
}

// scaleOf is what a file's values are to be multiplied by, but for operations.
func (c *comparison) scaleOf(s *side) (float64, error) {
	switch {
	case c.scale == scaleTime && s.length == 0:
		return 0, usage("%s: %s does not say how long it is, so that there are no values per second: want --scale samples or none, or --before-operations and --after-operations", s.name, s.file)
	case c.scale == scaleTime:
		return 1 / s.length.Seconds(), nil
	case c.scale == scaleSamples && s.all != 0:
		return 1 / float64(s.all), nil
	}
	return 1, nil
}

// fetch gets a selector's profile, with how it is to be scaled: that is only in the server's differences.
func (a *app) fetch(ctx context.Context, c *comparison, s *side, d *diffing, filter *queryv1.StackFilter) error {
	sel := s.selection(&d.narrow)
	var about *queryv1.DiffTopResponse
	var file *queryv1.ExportResponse
	err := a.ask(ctx, "querying", func(ctx context.Context, q queryv1connect.QueryServiceClient) (err error) {
		about, err = q.DiffTop(ctx, &queryv1.DiffTopRequest{Before: sel, After: sel, Filter: filter, Scale: c.wireScale(), Limit: 1})
		if err != nil {
			return err
		}
		file, err = q.Export(ctx, &queryv1.ExportRequest{Selection: sel, Filter: filter, Format: queryv1.ExportFormat_EXPORT_FORMAT_PPROF})
		return err
	})
	if err != nil {
		return err
	}
	s.take(about.After)
	s.batch, err = profile.ReadPprof(bytes.NewReader(file.Data), profile.PprofOptions{Name: s.typ.Name, MaxBytes: maxAnswerBytes})
	if err != nil {
		return fmt.Errorf("querying: the server's answer: %w", err)
	}
	return nil
}

// filter leaves out what a filter does and adds up the rest.
func (s *side) filter(ctx context.Context, filter *queryv1.StackFilter) error {
	for i := range s.batch.Profiles {
		s.all += s.batch.Profiles[i].Total()
	}
	f, err := localFilter(filter)
	if err != nil {
		return err
	}
	if err := f.Apply(ctx, s.batch); err != nil {
		return err
	}
	for i := range s.batch.Profiles {
		s.total += s.batch.Profiles[i].Total()
		s.stacks += int64(len(s.batch.Profiles[i].Samples))
	}
	s.covers = s.length
	return nil
}

func localFilter(in *queryv1.StackFilter) (*profile.StackFilter, error) {
	out := &profile.StackFilter{CallSite: in.GetCallSite()}
	for _, list := range []struct {
		from []*queryv1.FrameMatcher
		to   *[]profile.FrameMatcher
	}{{in.GetKeep(), &out.Keep}, {in.GetDrop(), &out.Drop}} {
		for _, m := range list.from {
			field := map[queryv1.FrameField]profile.FrameField{
				queryv1.FrameField_FRAME_FIELD_FILE: profile.FieldFile, queryv1.FrameField_FRAME_FIELD_BINARY: profile.FieldBinary,
			}[m.Field]
			matcher, err := profile.NewFrameMatcher(field, m.Value, m.Regexp)
			if err != nil {
				return nil, err
			}
			*list.to = append(*list.to, matcher)
		}
	}
	return out, nil
}

// choose decides what is compared, and says why.
func (c *comparison) choose(d *diffing) error {
	b, after := c.sides[0], c.sides[1]
	span := func(s *side) string { return profile.FormatValue(int64(s.length), "nanoseconds") }
	equal := math.Abs(float64(b.length-after.length)) <= 0.01*float64(max(b.length, after.length))
	level := c.typ.Level()
	switch {
	case d.operations[0] != 0:
		c.scale = scaleOperations
		c.why = fmt.Sprintf("per operation, of which there were %s before and %s after", number(d.operations[0]), number(d.operations[1]))
	case d.scale == scaleTime && level:
		return usage("--scale time: %s says how much there is, not how much happens: want none or samples", c.typ)
	case d.scale == scaleSamples:
		c.scale, c.why = d.scale, "as shares of each side's total"
	case level:
		c.scale, c.why = scaleNone, "as they are"
		if b.file == "" || after.file == "" {
			c.why += ", means over each range"
		}
	case d.scale == scaleNone:
		c.scale, c.why = d.scale, "as they are"
	case d.scale == "" && b.length != 0 && after.length != 0 && equal:
		c.scale, c.why = scaleNone, "as they are, both sides are "+span(after)+" long"
	case d.scale == "" && (b.file != "" && b.length == 0 || after.file != "" && after.length == 0):
		silent := b
		if b.file == "" || b.length != 0 {
			silent = after
		}
		c.scale = scaleNone
		c.why = fmt.Sprintf("as they are, %s does not say how long it is", silent.file)
		c.hint = "two profiles of different lengths are compared by --scale samples, or by --before-operations and --after-operations"
	default:
		c.scale, c.why = scaleTime, "per second"
		if b.length != 0 && after.length != 0 && !equal {
			c.why += fmt.Sprintf(", before is %s long, after %s", span(b), span(after))
		}
	}
	return nil
}

// wireScale is what the server is asked for.
func (c *comparison) wireScale() queryv1.DiffScale {
	switch {
	case c.scale == scaleSamples:
		return queryv1.DiffScale_DIFF_SCALE_TOTAL
	case c.scale == scaleTime:
		return queryv1.DiffScale_DIFF_SCALE_TIME
	}
	return queryv1.DiffScale_DIFF_SCALE_NONE
}

// empty says that a side has nothing, and what to try.
func (c *comparison) empty() error {
	left := int64(0)
	for _, s := range c.sides {
		left += s.stacks
		switch {
		case s.all != 0 || s.stacks != 0:
		case s.file != "":
			return nothing("%s: %s has no %s.", s.name, s.file, s.typ)
		default:
			return nothing("%s: no samples of %s match %s, %s.\nTry another range (--%s -24h..-23h); 'profilectl labels' and 'profilectl types' list what there is.",
				s.name, s.typ, s.selector, describeRange(s.from, s.to), s.name)
		}
	}
	if left == 0 {
		return nothing("no stack of either side passes the filter. 'profilectl query' lists the names of functions; a part of one is a regular expression: --keep json.")
	}
	return nil
}

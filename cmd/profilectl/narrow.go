package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
)

// narrowing is the flags that say which of the selected samples and stacks count.
type narrowing struct {
	keep, drop                  []string
	callSite                    string
	traceIDs, spanIDs, spanName []string
}

func (n *narrowing) flags(cmd *cobra.Command) {
	n.stackFlags(cmd)
	n.spanFlags(cmd)
}

func (n *narrowing) stackFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&n.keep, "keep", nil, "only stacks with such a function: a regular expression for its name, or function=NAME, function=~REGEXP,\nand likewise file and binary; repeated, all must be met")
	f.StringArrayVar(&n.drop, "drop", nil, "no stacks with such a function, in the same forms")
	f.StringVar(&n.callSite, "call-site", "", "only stacks that begin with these functions, the root first, as 'main;serve;handle'")
}

func (n *narrowing) spanFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVar(&n.traceIDs, "trace-id", nil, "only samples of these traces, 32 hexadecimal digits each")
	f.StringSliceVar(&n.spanIDs, "span-id", nil, "only samples of these spans, 16 hexadecimal digits each")
	f.StringArrayVar(&n.spanName, "span-name", nil, "only samples of spans of this name; repeated, of any of them")
}

// filter returns what is asked of stacks, or nil.
func (n *narrowing) filter() (*queryv1.StackFilter, error) {
	out := &queryv1.StackFilter{}
	if n.callSite != "" {
		out.CallSite = strings.Split(n.callSite, ";")
	}
	for _, f := range []struct {
		flag  string
		terms []string
		to    *[]*queryv1.FrameMatcher
	}{{"--keep", n.keep, &out.Keep}, {"--drop", n.drop, &out.Drop}} {
		for _, term := range f.terms {
			m, err := parseCondition(term)
			if err != nil {
				return nil, usage("%s %q: %s", f.flag, term, err)
			}
			*f.to = append(*f.to, m)
		}
	}
	if len(out.CallSite)+len(out.Keep)+len(out.Drop) == 0 {
		return nil, nil
	}
	return out, nil
}

// narrow puts the spans into a selection.
func (n *narrowing) narrow(sel *queryv1.Selection) {
	sel.TraceIds, sel.SpanIds, sel.SpanNames = n.traceIDs, n.spanIDs, n.spanName
}

var conditionForm = regexp.MustCompile(`^(function|file|binary)(=~|!=|!~|=)`)

// parseCondition reads a condition on a function: FIELD=VALUE, FIELD=~REGEXP, or a regular expression for the name.
func parseCondition(s string) (*queryv1.FrameMatcher, error) {
	m := &queryv1.FrameMatcher{Value: s, Regexp: true}
	field := profile.FieldFunction
	if parts := conditionForm.FindStringSubmatch(s); parts != nil {
		switch parts[1] {
		case "file":
			m.Field, field = queryv1.FrameField_FRAME_FIELD_FILE, profile.FieldFile
		case "binary":
			m.Field, field = queryv1.FrameField_FRAME_FIELD_BINARY, profile.FieldBinary
		}
		if parts[2][0] == '!' {
			return nil, fmt.Errorf("a condition has = or =~; --drop leaves stacks out")
		}
		m.Value, m.Regexp = s[len(parts[0]):], parts[2] == "=~"
	}
	if m.Value == "" {
		return nil, fmt.Errorf("want a name or a regular expression")
	}
	if _, err := profile.NewFrameMatcher(field, m.Value, m.Regexp); err != nil {
		return nil, err
	}
	return m, nil
}

// describe says in words what the flags ask for, to stand behind a selector; "" if nothing.
func (n *narrowing) describe() string {
	text := ""
	add := func(what string, list []string) {
		if len(list) > 0 {
			text += ", " + what + " " + strings.Join(list, " or ")
		}
	}
	for _, k := range n.keep {
		add("keep", []string{k})
	}
	for _, d := range n.drop {
		add("drop", []string{d})
	}
	if n.callSite != "" {
		add("call site", []string{n.callSite})
	}
	add("trace", n.traceIDs)
	add("span", n.spanIDs)
	var quoted []string
	for _, s := range n.spanName {
		quoted = append(quoted, fmt.Sprintf("%q", s))
	}
	add("span name", quoted)
	return text
}

package parca

import (
	"context"
	"regexp"

	"github.com/perfuse/perfuse/profile"
	queryv1alpha1 "github.com/perfuse/perfuse/proto/parca/query/v1alpha1"
	"github.com/perfuse/perfuse/server/api"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/server/query"
	"github.com/perfuse/perfuse/storage"
	"google.golang.org/protobuf/proto"
)

// merge answers a selection, without the stacks that the request's filters leave out.
func (d *Door) merge(ctx context.Context, req *queryv1alpha1.QueryRequest, sel storage.Selection) (*query.Merged, error) {
	filter, err := d.stackFilter(req.GetFilter())
	if err != nil {
		return nil, err
	}
	return d.opts.Engine.Ask(ctx, query.Question{Selection: sel, Filter: filter})
}

// stackFilter reads the filters of a request.
func (d *Door) stackFilter(in []*queryv1alpha1.Filter) (out profile.StackFilter, err error) {
	if len(in) > profile.MaxMatchers {
		return out, api.Invalid("filter has %d conditions: want at most %d", len(in), profile.MaxMatchers)
	}
	for i, f := range in {
		// What is searched for becomes a regular expression.
		if err := limits.Count(limits.PatternBytes, int64(proto.Size(f)), d.limits.PatternBytes, "filter %d has %d bytes", i, proto.Size(f)); err != nil {
			return out, err
		}
		if f.GetStackFilter() == nil {
			return out, api.Unserved("filter %d is not served; served is stack_filter", i)
		}
		if old := f.GetStackFilter().GetFunctionNameStackFilter(); old != nil {
			if err := addCondition(&out, profile.FieldFunction, "", old.GetFunctionToFilter(), "", !old.GetExclude()); err != nil {
				return out, err
			}
			continue
		}
		criteria := f.GetStackFilter().GetCriteria()
		conditions := []struct {
			field profile.FrameField
			*queryv1alpha1.StringCondition
		}{
			{profile.FieldFunction, criteria.GetFunctionName()}, {profile.FieldBinary, criteria.GetBinary()}, {profile.FieldFile, criteria.GetFilename()},
		}
		if criteria.GetSystemName() != nil || criteria.GetAddress() != nil || criteria.GetLineNumber() != nil {
			return out, api.Unserved("the criteria of filter %d are not served; served are function_name, binary and filename", i)
		}
		n := 0
		for _, c := range conditions {
			if c.StringCondition == nil {
				continue
			}
			if n++; n > 1 {
				return out, api.Unserved("several criteria in filter %d are not served; served is one in each filter", i)
			}
			if err := addString(&out, c.field, c.StringCondition); err != nil {
				return out, err
			}
		}
		if n == 0 {
			return out, api.Invalid("filter %d has no criteria: want function_name, binary or filename", i)
		}
	}
	return out, nil
}

func addString(f *profile.StackFilter, field profile.FrameField, c *queryv1alpha1.StringCondition) error {
	switch v := c.GetCondition().(type) {
	case *queryv1alpha1.StringCondition_Equal:
		return addCondition(f, field, "^", v.Equal, "$", true)
	case *queryv1alpha1.StringCondition_NotEqual:
		return addCondition(f, field, "^", v.NotEqual, "$", false)
	case *queryv1alpha1.StringCondition_Contains:
		return addCondition(f, field, "", v.Contains, "", true)
	case *queryv1alpha1.StringCondition_NotContains:
		return addCondition(f, field, "", v.NotContains, "", false)
	case *queryv1alpha1.StringCondition_StartsWith:
		return addCondition(f, field, "^", v.StartsWith, "", true)
	case *queryv1alpha1.StringCondition_NotStartsWith:
		return addCondition(f, field, "^", v.NotStartsWith, "", false)
	}
	return api.Unserved("a condition of filter is not served; served are equal, contains and starts_with, and these with not")
}

// addCondition adds that a stack has, or if not keep has not, a function whose field matches.
func addCondition(f *profile.StackFilter, field profile.FrameField, before, text, after string, keep bool) error {
	m, err := profile.NewFrameMatcher(field, "(?is)"+before+regexp.QuoteMeta(text)+after, true)
	if err != nil {
		return api.Invalid("filter: %v", err)
	}
	if keep {
		f.Keep = append(f.Keep, m)
	} else {
		f.Drop = append(f.Drop, m)
	}
	return nil
}

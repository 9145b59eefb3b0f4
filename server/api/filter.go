package api

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/server/query"
)

// question reads what FlameGraph, Top, Export, Series, Diff and Sandwich have in common.
func (s queryService) question(ctx context.Context, sel *queryv1.Selection, filter *queryv1.StackFilter, by []string) (q query.Question, err error) {
	if err := s.GroupBy("group_by", by); err != nil {
		return q, err
	}
	q.By = by
	if q.Filter, err = s.filter(filter); err != nil {
		return q, err
	}
	q.Selection, err = s.selection(ctx, sel, false)
	return q, err
}

// filter reads a filter of stacks; errors name the field.
func (a *API) filter(in *queryv1.StackFilter) (f profile.StackFilter, err error) {
	if err := a.Terms("filter.call_site", len(in.GetCallSite())); err != nil {
		return f, err
	}
	if n := len(in.GetKeep()) + len(in.GetDrop()); n > profile.MaxMatchers {
		return f, invalid("filter.keep and filter.drop have %d conditions: want at most %d (one regular expression can stand for many names)", n, profile.MaxMatchers)
	}
	f.CallSite = in.GetCallSite()
	if f.Keep, err = a.matchers("filter.keep", in.GetKeep()); err != nil {
		return f, err
	}
	f.Drop, err = a.matchers("filter.drop", in.GetDrop())
	return f, err
}

var frameFields = map[queryv1.FrameField]profile.FrameField{
	queryv1.FrameField_FRAME_FIELD_FUNCTION: profile.FieldFunction,
	queryv1.FrameField_FRAME_FIELD_FILE:     profile.FieldFile,
	queryv1.FrameField_FRAME_FIELD_BINARY:   profile.FieldBinary,
}

func (a *API) matchers(field string, in []*queryv1.FrameMatcher) ([]profile.FrameMatcher, error) {
	var out []profile.FrameMatcher
	for i, m := range in {
		at := fmt.Sprintf("%s[%d]", field, i)
		of, ok := frameFields[m.GetField()]
		if !ok {
			return nil, invalid("%s.field is %d: want FRAME_FIELD_FUNCTION, FRAME_FIELD_FILE or FRAME_FIELD_BINARY", at, m.GetField())
		}
		if m.GetValue() == "" {
			return nil, invalid("%s.value is empty: want a %s or a part of one", at, of)
		}
		if m.GetRegexp() {
			if err := limits.Count(limits.PatternBytes, int64(len(m.GetValue())), a.limits.PatternBytes,
				"%s.value is a regular expression of %d bytes", at, len(m.GetValue())); err != nil {
				return nil, err
			}
		}
		matcher, err := profile.NewFrameMatcher(of, m.GetValue(), m.GetRegexp())
		if err != nil {
			return nil, invalid("%s.value: %v", at, err)
		}
		out = append(out, matcher)
	}
	return out, nil
}

// functionsAtMost is atMost for a table of functions.
func (a *API) functionsAtMost(asked int32) (int, error) {
	most, err := a.atMost(asked)
	if asked == 0 {
		most = min(most, 100)
	}
	return most, err
}

// IDs reads ids in hexadecimal, each of as many bytes as id has, and hands them to add. An id of zeros would mean
// "none".
func (a *API) IDs(field string, in []string, id []byte, add func()) error {
	if err := a.Terms(field, len(in)); err != nil {
		return err
	}
	for i, s := range in {
		ok := len(s) == hex.EncodedLen(len(id))
		if ok {
			_, err := hex.Decode(id, []byte(s))
			ok = err == nil && slices.ContainsFunc(id, func(b byte) bool { return b != 0 })
		}
		if !ok {
			return invalid("%s[%d] is %.80q: want %d hexadecimal digits, not all of them 0", field, i, s, hex.EncodedLen(len(id)))
		}
		add()
	}
	return nil
}

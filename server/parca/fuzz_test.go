package parca

import (
	"testing"

	queryv1alpha1 "github.com/perfuse/perfuse/proto/parca/query/v1alpha1"
	"github.com/perfuse/perfuse/server/api"
	"github.com/perfuse/perfuse/server/query/querytest"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// FuzzAsk: whatever is asked for, it is answered or it is the question that is wrong. raw is a QueryRequest as it
// comes over the wire.
func FuzzAsk(f *testing.F) {
	store, engine := querytest.New(f)
	a, err := api.New(api.Options{Store: store, Engine: engine})
	if err != nil {
		f.Fatal(err)
	}
	door, err := New(Options{API: a, Store: store, Engine: engine})
	if err != nil {
		f.Fatal(err)
	}
	s := service{door}

	merge := &queryv1alpha1.MergeProfile{Query: `cpu{service_name="web"}`, Start: &timestamppb.Timestamp{Seconds: 1}, End: &timestamppb.Timestamp{Seconds: 9}}
	for _, req := range []*queryv1alpha1.QueryRequest{
		{Mode: queryv1alpha1.QueryRequest_MODE_MERGE, Options: &queryv1alpha1.QueryRequest_Merge{Merge: merge}, ReportType: queryv1alpha1.QueryRequest_REPORT_TYPE_FLAMEGRAPH_ARROW,
			NodeTrimThreshold: proto.Float32(1), GroupBy: &queryv1alpha1.GroupBy{Fields: []string{"function_name"}},
			Filter: []*queryv1alpha1.Filter{{Filter: &queryv1alpha1.Filter_StackFilter{StackFilter: &queryv1alpha1.StackFilter{Filter: &queryv1alpha1.StackFilter_Criteria{
				Criteria: &queryv1alpha1.FilterCriteria{Binary: &queryv1alpha1.StringCondition{Condition: &queryv1alpha1.StringCondition_NotContains{NotContains: "("}}}}}}}}},
		{Mode: queryv1alpha1.QueryRequest_MODE_DIFF, ReportType: queryv1alpha1.QueryRequest_REPORT_TYPE_FLAMEGRAPH_ARROW, Options: &queryv1alpha1.QueryRequest_Diff{Diff: &queryv1alpha1.DiffProfile{
			A: &queryv1alpha1.ProfileDiffSelection{Mode: queryv1alpha1.ProfileDiffSelection_MODE_MERGE, Options: &queryv1alpha1.ProfileDiffSelection_Merge{Merge: merge}},
			B: &queryv1alpha1.ProfileDiffSelection{Options: &queryv1alpha1.ProfileDiffSelection_Single{Single: &queryv1alpha1.SingleProfile{Query: "cpu", Time: &timestamppb.Timestamp{Seconds: 5}}}}}}},
		{ReportType: queryv1alpha1.QueryRequest_REPORT_TYPE_TOP, Options: &queryv1alpha1.QueryRequest_Single{Single: &queryv1alpha1.SingleProfile{Query: "cpu{a", Time: &timestamppb.Timestamp{Seconds: -1 << 60, Nanos: -5}}}},
	} {
		raw, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, `samples{service_name=~"w.*"}`, int64(0), int64(9), uint32(100), int64(1e9), "service_name")
	}
	f.Fuzz(func(t *testing.T, raw []byte, text string, start, end int64, limit uint32, step int64, label string) {
		check := func(what string, err error) { querytest.Blames(t, what, api.CodeOf(err), err) }
		ctx := t.Context()
		req := &queryv1alpha1.QueryRequest{}
		if proto.Unmarshal(raw, req) == nil {
			_, err := s.Query(ctx, req)
			check("Query", err)
		}
		from, until := &timestamppb.Timestamp{Seconds: start}, &timestamppb.Timestamp{Seconds: end, Nanos: int32(step)}
		_, err := s.QueryRange(ctx, &queryv1alpha1.QueryRangeRequest{Query: text, Start: from, End: until, Limit: limit, Step: &durationpb.Duration{Nanos: int32(step)}, SumBy: []string{label}})
		check("QueryRange", err)
		_, err = s.Labels(ctx, &queryv1alpha1.LabelsRequest{Match: []string{text}, Start: from, End: until, ProfileType: &label})
		check("Labels", err)
		_, err = s.Values(ctx, &queryv1alpha1.ValuesRequest{LabelName: label, Match: []string{text}, Start: from})
		check("Values", err)
		_, err = s.ProfileTypes(ctx, &queryv1alpha1.ProfileTypesRequest{Start: from, End: until})
		check("ProfileTypes", err)
	})
}

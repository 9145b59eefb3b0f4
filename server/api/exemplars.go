package api

import (
	"context"
	"encoding/hex"

	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
)

// maxExemplars is how many of one step can be asked for.
const maxExemplars = 100

func (s queryService) Exemplars(ctx context.Context, req *queryv1.ExemplarsRequest) (*queryv1.ExemplarsResponse, error) {
	resp := &queryv1.ExemplarsResponse{}
	return resp, s.query(ctx, func(ctx context.Context) error {
		most := int(req.GetLimit())
		if most < 0 || most > maxExemplars {
			return invalid("limit is %d: want 0 (one for each group and step) to %d", most, maxExemplars)
		}
		q, err := s.question(ctx, req.GetSelection(), req.GetFilter(), req.GetGroupBy())
		if err != nil {
			return err
		}
		step, err := s.step(ctx, req.GetStepNano(), q.Selection)
		if err != nil {
			return err
		}
		list, err := s.opts.Engine.Exemplars(ctx, q, step, max(1, most))
		if err != nil {
			return err
		}
		for _, e := range list {
			out := &queryv1.Exemplar{Labels: wireLabels(e.Labels), TimeUnixNano: e.TimeNanos, Value: e.Value, SpanName: e.Link.SpanName}
			if e.Link.TraceID != (profile.TraceID{}) {
				out.TraceId = hex.EncodeToString(e.Link.TraceID[:])
			}
			if e.Link.SpanID != (profile.SpanID{}) {
				out.SpanId = hex.EncodeToString(e.Link.SpanID[:])
			}
			resp.Exemplars = append(resp.Exemplars, out)
		}
		resp.StepNano, resp.Unit = int64(step), q.Selection.Type.SampleUnit
		return nil
	})
}

package main

import (
	"bytes"
	"context"
	"fmt"

	"github.com/perfuse/perfuse/profile"
	pushv1 "github.com/perfuse/perfuse/proto/push/v1"
	"github.com/perfuse/perfuse/proto/push/v1/pushv1connect"
	typesv1 "github.com/perfuse/perfuse/proto/types/v1"
)

// ship sends one batch to the server in one call: when it returns without an error, all of it is stored, else nothing.
func (a *app) ship(ctx context.Context, what string, b *profile.Batch) error {
	server, err := a.serverURL()
	if err != nil {
		return err
	}
	req, err := pushRequest(b)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	_, err = pushv1connect.NewPusherServiceClient(a.http, server).Push(ctx, req)
	return a.explain(what, server, err)
}

// measurement is what profiles share that can be columns of one pprof.
type measurement struct {
	name, labels, periodType, periodUnit string
	time, duration, period               int64
}

// pushRequest writes a batch as pprofs, one a measurement.
func pushRequest(b *profile.Batch) (*pushv1.PushRequest, error) {
	var order []measurement
	profiles := map[measurement][]*profile.Profile{}
	for i := range b.Profiles {
		p := &b.Profiles[i]
		m := measurement{p.Type.Name, p.Labels.String(), p.Type.PeriodType, p.Type.PeriodUnit, p.TimeNanos, p.DurationNanos, p.Period}
		if profiles[m] == nil {
			order = append(order, m)
		}
		profiles[m] = append(profiles[m], p)
	}
	req := &pushv1.PushRequest{}
	for _, m := range order {
		var raw bytes.Buffer
		if err := profile.WritePprof(&raw, b, profiles[m]...); err != nil {
			return nil, err
		}
		s := &pushv1.RawProfileSeries{
			Labels:  []*typesv1.LabelPair{{Name: "__name__", Value: m.name}},
			Samples: []*pushv1.RawSample{{RawProfile: raw.Bytes()}},
		}
		for _, l := range profiles[m][0].Labels {
			s.Labels = append(s.Labels, &typesv1.LabelPair{Name: l.Name, Value: l.Value})
		}
		req.Series = append(req.Series, s)
	}
	return req, nil
}

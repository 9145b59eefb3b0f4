package fleet

import (
	"cmp"
	"context"
	"slices"
	"time"

	fleetv1 "github.com/perfuse/perfuse/proto/perfuse/fleet/v1"
	"github.com/perfuse/perfuse/server/scrape"
)

// maxTargets bounds the list of targets; those that are down come first.
const maxTargets = 10_000

func (s service) Targets(_ context.Context, req *fleetv1.TargetsRequest) (*fleetv1.TargetsResponse, error) {
	resp := &fleetv1.TargetsResponse{NowUnixNano: s.opts.Now().UnixNano()}
	for _, j := range s.opts.Targets() {
		job := &fleetv1.Job{Name: j.Job, Interval: j.Interval, Targets: uint32(len(j.Targets)), Dropped: uint32(j.Dropped), Errors: j.Errors}
		if !req.GetFailing() || len(j.Errors) > 0 || slices.ContainsFunc(j.Targets, isDown) {
			resp.Jobs = append(resp.Jobs, job)
		}
		for _, t := range j.Targets {
			resp.Total++
			switch t.Health {
			case scrape.Up:
				resp.Up++
			case scrape.Down:
				resp.Down++
			}
			if !req.GetFailing() || isDown(t) {
				resp.Targets = append(resp.Targets, targetOf(j.Job, t))
			}
		}
	}
	rank := map[string]int{string(scrape.Down): 0, string(scrape.Unknown): 1, string(scrape.Up): 2}
	slices.SortStableFunc(resp.Targets, func(a, b *fleetv1.Target) int { return cmp.Compare(rank[a.Health], rank[b.Health]) })
	resp.Targets = resp.Targets[:min(len(resp.Targets), maxTargets)]
	return resp, nil
}

func isDown(t scrape.TargetStatus) bool { return t.Health == scrape.Down }

func targetOf(job string, t scrape.TargetStatus) *fleetv1.Target {
	out := &fleetv1.Target{
		Job: job, Address: t.Address, Labels: t.Labels, Health: string(t.Health), LastScrapeUnixNano: unixNano(t.LastScrape),
		TookSeconds: t.TookSeconds, Missed: uint32(t.Missed),
	}
	for _, p := range t.Profiles {
		out.Profiles = append(out.Profiles, &fleetv1.TargetProfile{
			Name: p.Name, Path: p.Path, TookSeconds: p.TookSeconds, Error: p.Error, Restarts: uint32(p.Restarts),
		})
	}
	return out
}

// unixNano is 0 for the zero time, which means never.
func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

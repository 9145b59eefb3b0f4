package ingest

import (
	"context"
	"io"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/server/limits"
)

const doorScrape = "scrape"

// Scraped is a pprof that this server fetched itself.
type Scraped struct {
	// Name is the first part of the profile types. Empty: told by the pprof.
	Name string
	// Labels of the target; they win over those of samples.
	Labels profile.Labels
	// Body is the pprof as it comes over the wire, gzip-compressed or not.
	Body io.Reader
	// Edit changes the decoded profiles before they are stored; it may leave none. Default: nothing.
	Edit func(*profile.Batch) error
}

// Scraped stores a scraped pprof under the limits of every door. Errors: as Export has them, and what reading
// the body and Edit return.
func (g *Ingester) Scraped(ctx context.Context, s Scraped) (err error) {
	n := 0
	defer func() { g.done(doorScrape, n, err) }()
	at := &place{table: "the scraped profile", index: -1}
	if err := g.checkLabels(s.Labels, at); err != nil {
		return err
	}
	body, leave, err := g.gate.enter(ctx, s.Body, -1)
	if err != nil {
		return err
	}
	defer leave()
	n = len(body)
	raw, unpacked := rawProfile{data: body, at: at}, int64(0)
	if raw.data, err = g.unpackRaw(&raw, &unpacked); err != nil {
		return err
	}
	cost := readCost * unpacked
	if err := limits.Count(limits.DecodedBytes, cost, g.limits.DecodedBytes, "%s would take about %d bytes of memory", at, cost); err != nil {
		return err
	}
	release, err := g.gate.room.enter(ctx, cost)
	if err != nil {
		return err
	}
	defer release()
	b := &profile.Batch{Dictionary: profile.NewDictionary()}
	if _, err := g.readRaw(b, &rawSeries{name: s.Name, labels: s.Labels}, &raw); err != nil {
		return err
	}
	if err := g.checkBatch(b); err != nil {
		return err
	}
	if s.Edit != nil {
		if err := s.Edit(b); err != nil {
			return err
		}
	}
	return g.write(ctx, b)
}

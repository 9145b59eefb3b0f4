package scrape

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/go-kit/log/level"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/server/ingest"
)

// loop scrapes one target.
type loop struct {
	*job
	target *target
	stop   context.CancelFunc

	mu       sync.Mutex
	profiles []profileState // by fetch
	health   Health
	last     time.Time // when the last round began
	took     time.Duration
	missed   int
}

// profileState is what is known of one of a target's profiles.
type profileState struct {
	old      *counters // the loop's own; the rest is for those who look
	last     time.Time
	took     time.Duration
	err      error
	restarts int
}

// run starts a round each time the target is due, never two at once.
func (l *loop) run(ctx context.Context) {
	interval := l.config.ScrapeInterval
	due := l.target.next(time.Now(), interval)
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		select {
		case l.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		l.round(ctx)
		<-l.slots
		now := time.Now()
		next := l.target.next(now, interval)
		if missed := int(next.Sub(due)/interval) - 1; missed > 0 {
			l.metrics.missed.WithLabelValues(l.config.JobName).Add(float64(missed))
			l.mu.Lock()
			l.missed += missed
			l.mu.Unlock()
		}
		due = next
		timer.Reset(due.Sub(now))
	}
}

// round fetches each profile once: at its beginning those that the target has at hand, one after the other, then
// all that it measures for a time, together, so that they are of the same time.
func (l *loop) round(ctx context.Context) {
	began := time.Now()
	errs := make([]error, len(l.fetches))
	var measured sync.WaitGroup
	for i, f := range l.fetches {
		if f.seconds > 0 {
			measured.Go(func() { errs[i] = l.fetch(ctx, i) })
		} else {
			errs[i] = l.fetch(ctx, i)
		}
	}
	measured.Wait()
	if ctx.Err() != nil {
		return // we stop, which says nothing about the target
	}
	failed := errors.Join(errs...)
	l.mu.Lock()
	before := l.health
	l.health, l.last, l.took = Up, began, time.Since(began)
	if failed != nil {
		l.health = Down
	}
	l.mu.Unlock()
	switch {
	case failed != nil && before != Down:
		level.Warn(l.logger).Log("msg", "target is down", "instance", l.target.address, "err", failed)
		l.opts.OnError("scrape "+l.config.JobName+" "+l.target.address, failed)
	case failed == nil && before == Down:
		level.Info(l.logger).Log("msg", "target is up", "instance", l.target.address)
	}
}

// fetch scrapes profile i and notes how that went.
func (l *loop) fetch(ctx context.Context, i int) error {
	f, p := &l.fetches[i], &l.profiles[i]
	start := time.Now()
	restarted, err := l.scrape(ctx, f, p)
	if ctx.Err() != nil {
		return nil
	}
	outcome := "ok"
	if err != nil {
		outcome = "failed"
	}
	l.metrics.scrapes.WithLabelValues(l.config.JobName, outcome).Inc()
	l.mu.Lock()
	defer l.mu.Unlock()
	p.last, p.took, p.err = start, time.Since(start), err
	if restarted {
		p.restarts++
		l.metrics.restarts.WithLabelValues(l.config.JobName).Inc()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	return nil
}

// scrape fetches and stores one profile.
func (l *loop) scrape(ctx context.Context, f *fetch, state *profileState) (restarted bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.config.ScrapeTimeout+time.Duration(f.seconds)*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.target.url(*f).String(), nil)
	if err != nil {
		return false, plainError(err)
	}
	resp, err := l.client.Do(req)
	if err != nil {
		return false, plainError(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		return false, fmt.Errorf("the target answers %s: %s", resp.Status, firstLine(b))
	}
	var next *counters
	err = l.opts.Ingester.Scraped(ctx, ingest.Scraped{
		Name: f.name, Labels: l.target.labels, Body: resp.Body,
		Edit: func(b *profile.Batch) error {
			next, restarted = f.edit(b, l.config.ScrapeInterval, state.old)
			return nil
		},
	})
	if err != nil {
		return false, err
	}
	// Only what is stored is not told again.
	state.old = next
	return restarted, nil
}

// plainError leaves out the URL, whose parameters may be secrets.
func plainError(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		if ue.Timeout() {
			return fmt.Errorf("no answer in time: %w", ue.Err)
		}
		return ue.Err
	}
	return err
}

// firstLine returns the beginning of an answer as people can read it.
func firstLine(b []byte) string {
	b, _, _ = bytes.Cut(bytes.TrimSpace(b), []byte("\n"))
	if len(b) > 300 {
		b = b[:300]
	}
	if !utf8.Valid(b) {
		return "(no text)"
	}
	return strings.TrimSpace(string(b))
}

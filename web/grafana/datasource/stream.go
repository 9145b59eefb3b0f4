package datasource

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/backend"
	"github.com/grafana/grafana-plugin-sdk-go/data"
)

const (
	// livePath is how the paths of our channels begin; the rest tells one query from another.
	livePath = "live/"
	// A stream asks the server at an interval within these.
	minEvery, maxEvery = time.Second, 5 * time.Minute
	// maxStreams is how many a data source runs at a time: each is a question again and again.
	maxStreams = 50
	// maxFailures in a row end a stream.
	maxFailures = 5
	// maxLiveRange is the longest time that is asked for again and again.
	maxLiveRange = 24 * time.Hour
)

// live is what a channel shows: a query about the time until now.
type live struct {
	query
	RangeMs    int64 `json:"rangeMs"`
	IntervalMs int64 `json:"intervalMs"`
	EveryMs    int64 `json:"everyMs"`
	every      time.Duration
}

// readLive reads what a channel's subscriber sends with it. A channel has frames of one shape, so both a series and a
// flame graph are two channels.
func readLive(path string, raw json.RawMessage) (live, error) {
	var l live
	if !strings.HasPrefix(path, livePath) {
		return l, invalid("there is no channel %q: want %s…", path, livePath)
	}
	var head struct {
		QueryType string `json:"queryType"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return l, invalid("reading what the channel shows: %w", err)
	}
	q, err := readQuery(head.QueryType, raw)
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(raw, &l); err != nil {
		return l, invalid("reading what the channel shows: %w", err)
	}
	l.query = q
	if l.kind != kindSeries && l.kind != kindFlameGraph {
		return l, invalid("a channel shows %s or %s, not %s", kindSeries, kindFlameGraph, l.kind)
	}
	l.every = time.Duration(l.EveryMs) * time.Millisecond
	if l.EveryMs < minEvery.Milliseconds() || l.EveryMs > maxEvery.Milliseconds() {
		return l, invalid("a channel is refreshed every %d ms: want %d to %d", l.EveryMs, minEvery.Milliseconds(), maxEvery.Milliseconds())
	}
	if l.RangeMs <= 0 || l.RangeMs > maxLiveRange.Milliseconds() {
		return l, invalid("a channel shows the last %d ms: want 1 to %d", l.RangeMs, maxLiveRange.Milliseconds())
	}
	if l.IntervalMs < 0 || l.IntervalMs > l.RangeMs {
		return l, invalid("the interval is %d ms: want 0 to %d", l.IntervalMs, l.RangeMs)
	}
	return l, nil
}

// SubscribeStream lets in who asks for something that can be shown.
func (ds *Datasource) SubscribeStream(ctx context.Context, req *backend.SubscribeStreamRequest) (*backend.SubscribeStreamResponse, error) {
	if _, err := readLive(req.Path, req.Data); err != nil {
		backend.Logger.FromContext(ctx).Warn("refusing a subscription", "path", req.Path, "error", err)
		return &backend.SubscribeStreamResponse{Status: backend.SubscribeStreamStatusNotFound}, nil
	}
	return &backend.SubscribeStreamResponse{Status: backend.SubscribeStreamStatusOK}, nil
}

// PublishStream refuses: nobody but the data source sends.
func (ds *Datasource) PublishStream(context.Context, *backend.PublishStreamRequest) (*backend.PublishStreamResponse, error) {
	return &backend.PublishStreamResponse{Status: backend.PublishStreamStatusPermissionDenied}, nil
}

// RunStream sends a frame at once and then at the interval, each of them whole. It ends when ctx does, which is when the last
// subscriber left, or after some failures in a row: Grafana starts it again after a while.
func (ds *Datasource) RunStream(ctx context.Context, req *backend.RunStreamRequest, sender *backend.StreamSender) error {
	l, err := readLive(req.Path, req.Data)
	if err != nil {
		return backend.DownstreamError(err)
	}
	if n := ds.streams.Add(1); n > maxStreams {
		ds.streams.Add(-1)
		return backend.DownstreamErrorf("%d live queries run already, the most of one data source: close some of their panels", maxStreams)
	}
	defer ds.streams.Add(-1)
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	for failures := 0; ; {
		frame, err := ds.newest(ctx, l)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			failures++
			message := ds.explain(err).message
			if failures == maxFailures {
				return backend.DownstreamErrorf("refreshing %s %d times: %s", l.query, failures, message)
			}
			backend.Logger.FromContext(ctx).Warn("refreshing a live query", "query", l.query.String(), "error", message)
		default:
			failures = 0
			if err := sender.SendFrame(frame, data.IncludeAll); err != nil {
				return fmt.Errorf("sending a frame of %s: %w", req.Path, err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (ds *Datasource) newest(ctx context.Context, l live) (*data.Frame, error) {
	// A question may take as long as the next one is away.
	ctx, cancel := context.WithTimeout(ctx, max(l.every, 10*time.Second))
	defer cancel()
	now := ds.now()
	frames, err := ds.frames(ctx, l.query, scope{
		backend.TimeRange{From: now.Add(-time.Duration(l.RangeMs) * time.Millisecond), To: now},
		time.Duration(l.IntervalMs) * time.Millisecond,
	})
	if err != nil {
		return nil, err
	}
	plain(frames[0])
	return frames[0], nil
}

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/data"
	"github.com/grafana/grafana-plugin-sdk-go/genproto/pluginv2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func liveQuery(t *testing.T, kind string, more fields) []byte {
	t.Helper()
	q := fields{"queryType": kind, "profileType": "cpu", "rangeMs": 3_600_000, "intervalMs": 15_000, "everyMs": 1000}
	for k, v := range more {
		q[k] = v
	}
	raw, err := json.Marshal(q)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestStream subscribes, sees what is stored meanwhile, and leaves.
func TestStream(t *testing.T) {
	s := startServer(t)
	s.loadShop(t)
	p := startPlugin(t, s.url)
	for _, kind := range []string{"flamegraph", "series"} {
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		raw := liveQuery(t, kind, nil)
		sub, err := p.stream.SubscribeStream(ctx, &pluginv2.SubscribeStreamRequest{PluginContext: p.context(), Path: "live/1", Data: raw})
		if err != nil || sub.Status != pluginv2.SubscribeStreamResponse_OK {
			t.Fatalf("%v, %v", sub, err)
		}
		stream, err := p.stream.RunStream(ctx, &pluginv2.RunStreamRequest{PluginContext: p.context(), Path: "live/1", Data: raw})
		if err != nil {
			t.Fatal(err)
		}
		// sum is the total of a flame graph, or of a series in core seconds.
		sum := func() (out float64) {
			t.Helper()
			packet, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			frame := &data.Frame{}
			if err := json.Unmarshal(packet.Data, frame); err != nil {
				t.Fatal(err)
			}
			if kind == "flamegraph" {
				if label := column[string](t, frame, "label"); label[0] != "root" {
					t.Errorf("labels %v", label[:1])
				}
				return float64(column[int64](t, frame, "value")[0]) / 1e9
			}
			for _, v := range column[float64](t, frame, "cpu") {
				out += v * 15
			}
			return out
		}
		first := sum()
		s.load(t, "late.cpu{}", "samples", noon.Add(9*time.Minute), "main;late 100000\n")
		for next := first; next < first+900; next = sum() { // 100000 samples at 100 a second
			if ctx.Err() != nil {
				t.Fatal(ctx.Err())
			}
		}
		leave()
		for err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Canceled {
			t.Errorf("after leaving: %v", err)
		}
	}
}

// TestStreamsEnd fills the data source's places with streams; when their subscribers leave, there are places again.
func TestStreamsEnd(t *testing.T) {
	s := startServer(t)
	s.loadShop(t)
	p := startPlugin(t, s.url)
	const places = 50
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	run := func(ctx context.Context) error {
		stream, err := p.stream.RunStream(ctx, &pluginv2.RunStreamRequest{PluginContext: p.context(), Path: "live/1", Data: liveQuery(t, "series", fields{"everyMs": 60_000})})
		if err != nil {
			return err
		}
		_, err = stream.Recv()
		return err
	}
	for range places {
		if err := run(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := run(ctx); err == nil || !strings.Contains(err.Error(), "50 live queries run already") {
		t.Fatalf("one more: %v", err)
	}
	leave()
	eventually(t, "there is a place for a stream again", func() bool { return run(t.Context()) == nil })
}

// TestStreamsWithoutServer end by themselves, and say why.
func TestStreamsWithoutServer(t *testing.T) {
	t.Parallel()
	away := "http://" + freeAddress(t)
	p := startPlugin(t, away)
	stream, err := p.stream.RunStream(t.Context(), &pluginv2.RunStreamRequest{PluginContext: p.context(), Path: "live/1", Data: liveQuery(t, "series", nil)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err == nil || errors.Is(err, io.EOF) || !strings.Contains(err.Error(), away+" cannot be reached") {
		t.Errorf("got %v", err)
	}
}

// TestBadStreams: nobody subscribes to what cannot be shown, and nobody sends.
func TestBadStreams(t *testing.T) {
	p := startPlugin(t, "http://"+freeAddress(t))
	f := func(path string, raw []byte) {
		t.Helper()
		sub, err := p.stream.SubscribeStream(t.Context(), &pluginv2.SubscribeStreamRequest{PluginContext: p.context(), Path: path, Data: raw})
		if err != nil || sub.Status != pluginv2.SubscribeStreamResponse_NOT_FOUND {
			t.Errorf("%s %s: %v, %v", path, raw, sub, err)
		}
		stream, err := p.stream.RunStream(t.Context(), &pluginv2.RunStreamRequest{PluginContext: p.context(), Path: path, Data: raw})
		if err == nil {
			_, err = stream.Recv()
		}
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s %s runs: %v", path, raw, err)
		}
	}
	f("else", liveQuery(t, "series", nil))
	f("live/1", nil)
	f("live/1", []byte("{"))
	f("live/1", liveQuery(t, "both", nil))
	f("live/1", liveQuery(t, "series", fields{"everyMs": 1}))
	f("live/1", liveQuery(t, "series", fields{"everyMs": int64(1) << 60}))
	f("live/1", liveQuery(t, "series", fields{"rangeMs": int64(1) << 60}))
	f("live/1", liveQuery(t, "series", fields{"rangeMs": 0}))
	f("live/1", liveQuery(t, "series", fields{"intervalMs": -1}))
	pub, err := p.stream.PublishStream(t.Context(), &pluginv2.PublishStreamRequest{PluginContext: p.context(), Path: "live/1", Data: []byte("{}")})
	if err != nil || pub.Status != pluginv2.PublishStreamResponse_PERMISSION_DENIED {
		t.Errorf("publishing: %v, %v", pub, err)
	}
}

package ingest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/server/limits"
)

// TestScraped: what is scraped is stored under the limits of every door, edited on the way.
func TestScraped(t *testing.T) {
	refused := errors.New("refused by the editor")
	for _, c := range []struct {
		name   string
		limits limits.Limits
		body   io.Reader
		edit   func(*profile.Batch) error
		want   string // part of the error, or the batch
	}{
		{name: "as it is", body: bytes.NewReader(heap(testNow)), want: "mem:inuse_objects:count:space:bytes {job=\"api\"}\n  12:00:00 for 0s, period 524288\n  alloc(a.go:7) 1\n" +
			"mem:inuse_space:bytes:space:bytes {job=\"api\"}\n  12:00:00 for 0s, period 524288\n  alloc(a.go:7) 1024\n"},
		{name: "edited", body: bytes.NewReader(heap(testNow)), edit: func(b *profile.Batch) error {
			b.Profiles = b.Profiles[:1]
			return nil
		}, want: "mem:inuse_objects:count:space:bytes {job=\"api\"}\n  12:00:00 for 0s, period 524288\n  alloc(a.go:7) 1\n"},
		{name: "nothing left", body: bytes.NewReader(heap(testNow)), edit: func(b *profile.Batch) error {
			b.Profiles = nil
			return nil
		}},
		{name: "refused", body: bytes.NewReader(heap(testNow)), edit: func(*profile.Batch) error { return refused }, want: refused.Error()},
		{name: "empty", body: bytes.NewReader(nil), want: "the scraped profile is empty: want a pprof"},
		{name: "nonsense", body: strings.NewReader("<html>"), want: "the scraped profile: reading pprof"},
		{name: "large", body: bytes.NewReader(heap(testNow)), limits: limits.Limits{BodyBytes: 10}, want: "limit body_bytes is 10"},
		{name: "large inside", body: bytes.NewReader(heap(testNow)), limits: limits.Limits{DecompressedBytes: 10}, want: "limit decompressed_bytes is 10"},
		{name: "label", body: bytes.NewReader(heap(testNow)), limits: limits.Limits{LabelValueBytes: 2}, want: "limit label_value_bytes is 2"},
		{name: "samples", body: bytes.NewReader(heap(testNow, "a", "b")), limits: limits.Limits{SamplesPerRequest: 3}, want: "limit samples_per_request is 3"},
		{name: "cut off", body: iotest.ErrReader(io.ErrUnexpectedEOF), want: "reading the body: unexpected EOF"},
		{name: "old", body: bytes.NewReader(heap(testNow.Add(-time.Hour))), limits: limits.Limits{Past: time.Minute}, want: "limit past is"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := &keeper{}
			g, err := New(Options{Store: k, Limits: c.limits, Now: func() time.Time { return testNow }})
			if err != nil {
				t.Fatal(err)
			}
			err = g.Scraped(context.Background(), Scraped{Name: "mem", Labels: profile.NewLabels(profile.Label{Name: "job", Value: "api"}), Body: c.body, Edit: c.edit})
			got := k.take()
			if err != nil {
				if got != "" {
					t.Errorf("refused, but stored: %s", got)
				}
				if got = err.Error(); !strings.Contains(got, c.want) || c.want == "" {
					t.Errorf("got %q, want %q", got, c.want)
				}
			} else if got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			if held := g.gate.wire.Load(); held != 0 {
				t.Errorf("%d bytes are still held", held)
			}
		})
	}
}

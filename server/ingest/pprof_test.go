package ingest

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	pprof "github.com/google/pprof/profile"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/perfuse/perfuse/profile"
	profilestorev1alpha1 "github.com/perfuse/perfuse/proto/parca/profilestore/v1alpha1"
	pushv1 "github.com/perfuse/perfuse/proto/push/v1"
	typesv1 "github.com/perfuse/perfuse/proto/types/v1"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/storagetest"
)

// keeper is a store that shows what it was given.
type keeper struct {
	storagetest.Model
	batches []*profile.Batch
	err     error
}

func (k *keeper) Write(_ context.Context, b *profile.Batch) error {
	if k.err == nil {
		k.batches = append(k.batches, b)
	}
	return k.err
}

func (k *keeper) take() string {
	var out []string
	for _, b := range k.batches {
		out = append(out, describe(b))
	}
	k.batches = nil
	return strings.Join(out, "--\n")
}

// fuzzed checks what became of an input of any bytes: it keeps the data model, or it is the input's fault.
func (k *keeper) fuzzed(t *testing.T, err error) {
	t.Helper()
	var le *limits.Error
	if err != nil && !errors.Is(err, ErrInvalid) && !errors.As(err, &le) {
		t.Errorf("neither the request's fault nor a limit: %v", err)
	}
	for _, b := range k.batches {
		if err := storage.Validate(b); err != nil {
			t.Errorf("the batch breaks the data model: %v", err)
		}
	}
	k.batches = nil
}

// heap is a small pprof: two columns, samples with a label.
func heap(at time.Time, labels ...string) []byte {
	f := &pprof.Function{ID: 1, Name: "alloc", Filename: "a.go"}
	l := &pprof.Location{ID: 1, Line: []pprof.Line{{Function: f, Line: 7}}}
	p := &pprof.Profile{
		SampleType: []*pprof.ValueType{{Type: "inuse_objects", Unit: "count"}, {Type: "inuse_space", Unit: "bytes"}},
		PeriodType: &pprof.ValueType{Type: "space", Unit: "bytes"}, Period: 524288,
		Function: []*pprof.Function{f}, Location: []*pprof.Location{l},
	}
	if !at.IsZero() {
		p.TimeNanos = at.UnixNano()
	}
	if len(labels) == 0 {
		labels = []string{""}
	}
	for i, v := range labels {
		s := &pprof.Sample{Location: []*pprof.Location{l}, Value: []int64{int64(i + 1), int64(i+1) * 1024}}
		if v != "" {
			s.Label = map[string][]string{"tenant": {v}}
		}
		p.Sample = append(p.Sample, s)
	}
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// TestRawDoors sends the same series through Parca's and Pyroscope's doors, as protobuf and as JSON.
func TestRawDoors(t *testing.T) {
	long := strings.Repeat("x", 100)
	bomb := func() []byte {
		var b bytes.Buffer
		zw := gzip.NewWriter(&b)
		zw.Write(make([]byte, 8<<20))
		zw.Close()
		return b.Bytes()
	}()
	plain := func() []byte {
		zr, err := gzip.NewReader(bytes.NewReader(heap(testNow)))
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := b.ReadFrom(zr); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}()
	const head = "memory:inuse_objects:count:space:bytes {service_name=\"api\"}\n  12:00:00 for 0s, period 524288\n  alloc(a.go:7) 1\n" +
		"memory:inuse_space:bytes:space:bytes {service_name=\"api\"}\n  12:00:00 for 0s, period 524288\n  alloc(a.go:7) 1024\n"
	api := []string{"service_name", "api"}
	for _, c := range []struct {
		name   string
		limits limits.Limits
		labels []string
		raw    [][]byte
		want   string // part of the error, or the batch
	}{
		{name: "gzip", labels: api, raw: [][]byte{heap(testNow)}, want: head},
		{name: "plain", labels: api, raw: [][]byte{plain}, want: head},
		{name: "without a time", labels: api, raw: [][]byte{heap(time.Time{})}, want: head},
		{name: "two in one batch", labels: api, raw: [][]byte{heap(testNow), heap(testNow)}, want: head + head},
		{name: "another label for the service", labels: []string{"job", "api"}, raw: [][]byte{heap(testNow)}, want: strings.ReplaceAll(head, `{`, `{job="api", `)},
		{name: "names", labels: []string{"__name__", "heap", "__session_id__", "1", "app.kubernetes.io/name", "api", "service_name", "api"}, raw: [][]byte{heap(testNow)},
			want: strings.ReplaceAll(strings.ReplaceAll(head, "memory:", "heap:"), `{`, `{app_kubernetes_io_name="api", `)},
		{name: "no service", raw: [][]byte{heap(testNow)}, want: strings.ReplaceAll(head, `"api"`, `"unknown_service"`)},
		{name: "labels of samples", labels: api, raw: [][]byte{heap(testNow, "a", "b")}, want: strings.Join([]string{
			"memory:inuse_objects:count:space:bytes {service_name=\"api\", tenant=\"a\"}\n  12:00:00 for 0s, period 524288\n  alloc(a.go:7) 1\n",
			"memory:inuse_space:bytes:space:bytes {service_name=\"api\", tenant=\"a\"}\n  12:00:00 for 0s, period 524288\n  alloc(a.go:7) 1024\n",
			"memory:inuse_objects:count:space:bytes {service_name=\"api\", tenant=\"b\"}\n  12:00:00 for 0s, period 524288\n  alloc(a.go:7) 2\n",
			"memory:inuse_space:bytes:space:bytes {service_name=\"api\", tenant=\"b\"}\n  12:00:00 for 0s, period 524288\n  alloc(a.go:7) 2048\n"}, "")},

		{name: "no profiles", labels: api, want: "invalid error: invalid profiles: the request has no profiles"},
		{name: "an empty profile", labels: api, raw: [][]byte{heap(testNow), {}}, want: "series[0].samples[1] is empty: want a pprof"},
		{name: "garbage", labels: api, raw: [][]byte{heap(testNow), []byte("garbage")}, want: "invalid error: invalid profiles: series[0].samples[1]: reading pprof"},
		{name: "cut off", labels: api, raw: [][]byte{heap(testNow)[:40]}, want: "unpacking series[0].samples[0] (gzip)"},
		{name: "a bomb", limits: limits.Limits{DecompressedBytes: 1 << 20}, labels: api, raw: [][]byte{bomb}, want: "limit decompressed_bytes is 1048576"},
		{name: "many small ones", limits: limits.Limits{DecompressedBytes: 200}, labels: api, raw: [][]byte{plain, plain, plain}, want: "limit decompressed_bytes is 200"},
		{name: "memory", limits: limits.Limits{DecodedBytes: 200}, labels: api, raw: [][]byte{plain}, want: "limit decoded_bytes is 200"},
		{name: "the future", labels: api, raw: [][]byte{heap(testNow.Add(time.Hour))}, want: "series[0].samples[0] lies 1h0m0s in the future"},
		{name: "the past", limits: limits.Limits{Past: time.Minute}, labels: api, raw: [][]byte{heap(testNow.Add(-time.Hour))}, want: "limit past is 1m0s"},
		{name: "samples", limits: limits.Limits{SamplesPerRequest: 1}, labels: api, raw: [][]byte{heap(testNow)}, want: "the request has 2 samples: limit samples_per_request is 1"},
		{name: "series", limits: limits.Limits{SeriesPerRequest: 1}, labels: api, raw: [][]byte{heap(testNow, "a", "b")}, want: "limit series_per_request is 1"},
		{name: "labels", limits: limits.Limits{LabelsPerSeries: 1}, labels: []string{"a", "1", "b", "2"}, raw: [][]byte{heap(testNow)}, want: "series[0] has 3 labels: limit labels_per_series is 1"},
		{name: "a label of a sample", limits: limits.Limits{LabelsPerSeries: 1}, labels: api, raw: [][]byte{heap(testNow, "a")}, want: "series[0].samples[0] has 2 labels"},
		{name: "a long name", limits: limits.Limits{LabelNameBytes: 50}, labels: []string{long, "1"}, raw: [][]byte{heap(testNow)}, want: "limit label_name_bytes is 50"},
		{name: "a long value", limits: limits.Limits{LabelValueBytes: 50}, labels: []string{"a", long}, raw: [][]byte{heap(testNow)}, want: "limit label_value_bytes is 50"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := &keeper{}
			in, err := New(Options{Store: k, Limits: c.limits, Now: func() time.Time { return testNow }})
			if err != nil {
				t.Fatal(err)
			}
			push, write := &pushv1.RawProfileSeries{}, &profilestorev1alpha1.RawProfileSeries{Labels: &profilestorev1alpha1.LabelSet{}}
			for l := range slices.Chunk(c.labels, 2) {
				push.Labels = append(push.Labels, &typesv1.LabelPair{Name: l[0], Value: l[1]})
				write.Labels.Labels = append(write.Labels.Labels, &profilestorev1alpha1.Label{Name: l[0], Value: l[1]})
			}
			for _, raw := range c.raw {
				push.Samples = append(push.Samples, &pushv1.RawSample{RawProfile: raw})
				write.Samples = append(write.Samples, &profilestorev1alpha1.RawSample{RawProfile: raw})
			}
			for door, m := range map[string]proto.Message{
				"push":  &pushv1.PushRequest{Series: []*pushv1.RawProfileSeries{push}},
				"write": &profilestorev1alpha1.WriteRawRequest{Series: []*profilestorev1alpha1.RawProfileSeries{write}},
			} {
				take := in.push
				if door == "write" {
					take = in.writeRaw
				}
				for _, json := range []bool{false, true} {
					body, err := proto.Marshal(m)
					if json {
						body, err = protojson.Marshal(m)
					}
					if err != nil {
						t.Fatal(err)
					}
					err = take(t.Context(), &rawRequest{body, json})
					got := k.take()
					if err != nil {
						if got != "" {
							t.Errorf("%s: stored in spite of an error:\n%s", door, got)
						}
						if got = describeError(err); strings.Contains(got, c.want) {
							continue
						}
					}
					if got != c.want {
						t.Errorf("%s, JSON %v: got\n%swant\n%s", door, json, got, c.want)
					}
				}
			}
		})
	}
}

// TestPushAgain sends profiles again whose answer was lost.
func TestPushAgain(t *testing.T) {
	k := &keeper{}
	in, err := New(Options{Store: k, Now: func() time.Time { return testNow }})
	if err != nil {
		t.Fatal(err)
	}
	send := func(ids ...string) error {
		s := &pushv1.RawProfileSeries{}
		for _, id := range ids {
			s.Samples = append(s.Samples, &pushv1.RawSample{RawProfile: heap(testNow), ID: id})
		}
		body, err := proto.Marshal(&pushv1.PushRequest{Series: []*pushv1.RawProfileSeries{s}})
		if err != nil {
			t.Fatal(err)
		}
		return in.push(t.Context(), &rawRequest{body, false})
	}
	stored := func() (n int) {
		for _, b := range k.batches {
			n += len(b.Profiles)
		}
		return n / 2 // two columns
	}
	k.err = errors.New("disk gone")
	if err := send("a", "b"); err == nil {
		t.Fatal("the store's error is lost")
	}
	k.err = nil
	for _, ids := range [][]string{{"a", "b"}, {"a", "b"}, {"b", "c"}, {"", ""}} {
		if err := send(ids...); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(5, stored()); diff != "" {
		t.Errorf("profiles stored (-want +got):\n%s", diff)
	}
}

func FuzzPush(f *testing.F) {
	k := &keeper{}
	in, err := New(Options{Store: k, Now: func() time.Time { return testNow }, Limits: limits.Limits{DecompressedBytes: 1 << 20}})
	if err != nil {
		f.Fatal(err)
	}
	body, err := proto.Marshal(&pushv1.PushRequest{Series: []*pushv1.RawProfileSeries{{
		Labels:  []*typesv1.LabelPair{{Name: "a", Value: "b"}},
		Samples: []*pushv1.RawSample{{RawProfile: heap(testNow, "a", "b"), ID: "1"}},
	}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Fuzz(func(t *testing.T, body []byte) {
		k.fuzzed(t, in.push(t.Context(), &rawRequest{body, false}))
	})
}

// FuzzWriteRaw: whatever Parca's clients send, in protobuf or JSON.
func FuzzWriteRaw(f *testing.F) {
	k := &keeper{}
	in, err := New(Options{Store: k, Now: func() time.Time { return testNow }, Limits: limits.Limits{DecompressedBytes: 1 << 20}})
	if err != nil {
		f.Fatal(err)
	}
	req := &profilestorev1alpha1.WriteRawRequest{Series: []*profilestorev1alpha1.RawProfileSeries{{
		Labels:  &profilestorev1alpha1.LabelSet{Labels: []*profilestorev1alpha1.Label{{Name: "a", Value: "b"}, {Name: "__name__", Value: "memory"}}},
		Samples: []*profilestorev1alpha1.RawSample{{RawProfile: heap(testNow, "a", "b")}},
	}}}
	body, err := proto.Marshal(req)
	if err != nil {
		f.Fatal(err)
	}
	text, err := protojson.Marshal(req)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body, false)
	f.Add(text, true)
	f.Fuzz(func(t *testing.T, body []byte, json bool) {
		k.fuzzed(t, in.writeRaw(t.Context(), &rawRequest{body, json}))
	})
}

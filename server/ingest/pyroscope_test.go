package ingest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/klauspost/compress/gzip"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/storage"
	"go.yaml.in/yaml/v3"
)

func newIngester(t testing.TB, k *keeper, lim limits.Limits) *Ingester {
	t.Helper()
	in, err := New(Options{Store: k, Limits: lim, Now: func() time.Time { return testNow }})
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// TestIngest runs the transcripts in testdata/pyroscope:
//
//	post [limits=(name: value)] [type=T] [encoding=E] [get]   calls Pyroscope's /ingest and prints its answer and what was stored
//	parameters of the URL
//	body
func TestIngest(t *testing.T) {
	datadriven.Walk(t, "testdata/pyroscope", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var lim limits.Limits
			if d.HasArg("limits") {
				var text string
				d.ScanArgs(t, "limits", &text)
				if err := yaml.Unmarshal([]byte(text), &lim); err != nil {
					d.Fatalf(t, "%v", err)
				}
			}
			k := &keeper{}
			in := newIngester(t, k, lim)
			params, body, _ := strings.Cut(d.Input, "\n")
			method := http.MethodPost
			if d.HasArg("get") {
				method = http.MethodGet
			}
			r := httptest.NewRequest(method, IngestPath+"?"+encode(params), strings.NewReader(body))
			for arg, header := range map[string]string{"type": "Content-Type", "encoding": "Content-Encoding"} {
				var v string
				if d.MaybeScanArgs(t, arg, &v) {
					r.Header.Set(header, v)
				}
			}
			w := httptest.NewRecorder()
			in.Ingest().ServeHTTP(w, r)
			answer := fmt.Sprintf("%d %s\n", w.Code, strings.TrimSpace(w.Body.String()))
			for _, b := range k.batches {
				if err := storage.Validate(b); err != nil {
					t.Errorf("%s: the batch breaks the data model: %v", d.Pos, err)
				}
			}
			if stored := k.take(); stored != "" {
				answer = strings.TrimSuffix(answer, " \n") + "\n" + stored
			}
			return answer
		})
	})
}

// encode escapes the values of readable parameters.
func encode(params string) string {
	q := url.Values{}
	for p := range strings.FieldsSeq(params) {
		k, v, _ := strings.Cut(p, "=")
		q.Set(k, v)
	}
	return q.Encode()
}

// form returns a form of these parts, and its type.
func form(t testing.TB, parts map[string][]byte) (contentType string, body []byte) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for name, data := range parts {
		p, err := w.CreateFormFile(name, name)
		if err != nil {
			t.Fatal(err)
		}
		p.Write(data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return w.FormDataContentType(), b.Bytes()
}

func javaRecording(t testing.TB) (packed, plain []byte) {
	t.Helper()
	packed, err := os.ReadFile("../../profile/testdata/jfr/workload-17.jfr.gz")
	if err != nil {
		t.Fatal(err)
	}
	zr, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err = io.ReadAll(zr); err != nil {
		t.Fatal(err)
	}
	return packed, plain
}

// TestIngestBinary posts what transcripts cannot hold: pprofs, recordings, forms of them.
func TestIngestBinary(t *testing.T) {
	packed, recording := javaRecording(t)
	const objects = "memory:inuse_objects:count:space:bytes {service_name=\"app\"}\n  12:00:00 for 0s, period 524288\n  alloc(a.go:7) 1\n" +
		"memory:inuse_space:bytes:space:bytes {service_name=\"app\"}\n  12:00:00 for 0s, period 524288\n  alloc(a.go:7) 1024\n"
	for _, c := range []struct {
		name   string
		params string
		body   []byte
		parts  map[string][]byte
		want   string // of the batch, or part of the answer
	}{
		{name: "pprof", params: "name=app format=pprof", body: heap(testNow), want: objects},
		{name: "form without a format", params: "name=app", parts: map[string][]byte{"profile": heap(testNow)}, want: objects},
		{name: "sample labels", params: "name=app format=pprof", body: heap(testNow, "a"), want: strings.ReplaceAll(objects, `"app"`, `"app", tenant="a"`)},
		{name: "a pprof without a time", params: "name=app format=pprof from=1795435140 until=1795435200", body: heap(time.Time{}),
			want: strings.ReplaceAll(objects, "12:00:00 for 0s", "11:59:00 for 1m0s")},
		{name: "a name for the type", params: "name=app", parts: map[string][]byte{"profile": heap(testNow), "sample_type_config": []byte(`{"inuse_space":{"display-name":"mutex_space"}}`)},
			want: strings.ReplaceAll(objects, "memory:", "mutex:")},
		{name: "growth", params: "name=app", parts: map[string][]byte{"profile": heap(testNow, "", "b"), "prev_profile": heap(testNow, ""),
			"sample_type_config": []byte(`{"inuse_space":{"cumulative":true},"inuse_objects":{"cumulative":true}}`)},
			want: strings.ReplaceAll(strings.NewReplacer(" 1\n", " 2\n", " 1024\n", " 2048\n").Replace(objects), `"app"`, `"app", tenant="b"`)},

		{name: "no part", params: "name=app", parts: map[string][]byte{"other": heap(testNow)}, want: `400 invalid profiles: the form has no part "profile"`},
		{name: "an empty part", params: "name=app", parts: map[string][]byte{"profile": {}}, want: "400 invalid profiles: profile is empty: want a pprof"},
		{name: "broken configuration", params: "name=app", parts: map[string][]byte{"profile": heap(testNow), "sample_type_config": []byte(`[]`)}, want: "sample_type_config: json"},
		{name: "no pprof", params: "name=app format=pprof", body: []byte("garbage"), want: "400 invalid profiles: body: reading pprof"},
		{name: "no recording", params: "name=app format=jfr", body: []byte("garbage"), want: "400 invalid profiles: reading JFR: chunk 1: not a recording"},
		{name: "half a recording", params: "name=app format=jfr", body: recording[:len(recording)/2], want: "was the recording copied before it was finished?"},
		{name: "no contexts", params: "name=app format=jfr", parts: map[string][]byte{"jfr": recording, "labels": []byte("\xff\xff")}, want: "not a snapshot of labels"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := &keeper{}
			status, answer := postIngest(t, newIngester(t, k, limits.Limits{}), c.params, c.body, c.parts)
			got := k.take()
			if status != http.StatusOK {
				if got != "" {
					t.Errorf("stored in spite of an error:\n%s", got)
				}
				if got = fmt.Sprintf("%d %s", status, answer); strings.Contains(got, c.want) {
					return
				}
			}
			if got != c.want {
				t.Errorf("got\n%swant\n%s", got, c.want)
			}
		})
	}
	for name, send := range map[string]struct {
		body  []byte
		parts map[string][]byte
	}{"a recording": {body: recording}, "compressed": {body: packed}, "as a form": {parts: map[string][]byte{"jfr": packed, "labels": {}}}} {
		k := &keeper{}
		if status, answer := postIngest(t, newIngester(t, k, limits.Limits{}), "name=shop.itimer{region=eu} format=jfr spyName=javaspy sampleRate=50", send.body, send.parts); status != http.StatusOK {
			t.Errorf("%s: %d %s", name, status, answer)
			continue
		}
		got := k.take()
		for _, want := range []string{
			`process_cpu:cpu:nanoseconds:cpu:nanoseconds {pyroscope_spy="javaspy", region="eu", service_name="shop"}`, "period 20000000",
			"Workload.burn(:", "memory:alloc_outside_tlab_bytes:bytes:space:bytes", "mutex:delay:nanoseconds:mutex:count", "block:contentions:count:block:count",
		} {
			if !strings.Contains(got, want) {
				t.Errorf("%s: nothing of %s", name, want)
			}
		}
	}
}

func postIngest(t testing.TB, in *Ingester, params string, body []byte, parts map[string][]byte) (int, string) {
	t.Helper()
	contentType := "application/octet-stream"
	if parts != nil {
		contentType, body = form(t, parts)
	}
	r := httptest.NewRequest(http.MethodPost, IngestPath+"?"+encode(params), bytes.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	in.Ingest().ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestParseMoment(t *testing.T) {
	f := func(in string, want time.Time) {
		t.Helper()
		got, err := parseMoment("from", in, testNow)
		if want.IsZero() != (err != nil) || err == nil && got != want.UnixNano() {
			t.Errorf("%s: %d %v, want %s", in, got, err, want)
		}
	}
	at := time.Unix(1795435140, 0)
	f("1795435140", at)
	f("1795435140000", at)
	f("1795435140000000", at)
	f("1795435140000000000", at)
	f("2026-11-23T11:59:00Z", at)
	f("now", testNow)
	f("now-1m30s", testNow.Add(-90*time.Second))
	f("now+1m", time.Time{})
	f("yesterday", time.Time{})
	f("-5", time.Time{})
	f("0", time.Time{})
	f("9300000000000000000", time.Time{})
	f("0001-01-01T00:00:00Z", time.Time{})
}

func FuzzAppName(f *testing.F) {
	f.Add("app.cpu{a=b,c=d}", "")
	f.Add("app", "bytes")
	f.Add("{}", "x")
	f.Add("a{b=}c", "")
	f.Fuzz(func(t *testing.T, name, units string) {
		app, labels, err := parseAppName(name)
		if err == nil {
			_, app, err = measureOf(app, units)
		}
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("not the request's fault: %v", err)
			}
			return
		}
		if app == "" || strings.ContainsAny(app, "{") {
			t.Errorf("%q names %q", name, app)
		}
		for _, l := range labels {
			if l.Name == "" || strings.ContainsAny(l.Name+l.Value, ",}") {
				t.Errorf("%q has the label %q", name, l)
			}
		}
	})
}

func FuzzIngest(f *testing.F) {
	k := &keeper{}
	in := newIngester(f, k, limits.Limits{DecompressedBytes: 1 << 20, DecodedBytes: 4 << 20})
	f.Add("name=app", "", []byte("a;b 1\n"))
	f.Add("name=app&format=lines", "", []byte("a;b\n"))
	f.Add("name=app&format=pprof", "", heap(testNow, "a"))
	f.Add("name=app", "multipart/form-data; boundary=b", []byte("--b\r\nContent-Disposition: form-data; name=\"profile\"\r\n\r\nx\r\n--b--\r\n"))
	_, heaps := form(f, map[string][]byte{"profile": heap(testNow, "", "b"), "prev_profile": heap(testNow, ""), "sample_type_config": []byte(`{"inuse_space":{"cumulative":true,"display-name":"x"}}`)})
	boundary, _, _ := bytes.Cut(heaps, []byte("\r\n"))
	f.Add("name=app&from=now-1m&until=now", "multipart/form-data; boundary="+string(boundary[2:]), heaps)
	packed, _ := javaRecording(f)
	f.Add("name=app.itimer&format=jfr&sampleRate=50", "", packed)
	f.Add("name=app&format=speedscope", "", []byte(`{"$schema":"speedscope","profiles":[{}]}`))
	f.Fuzz(func(t *testing.T, query, contentType string, body []byte) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		k.fuzzed(t, in.ingest(t.Context(), q, contentType, body))
	})
}

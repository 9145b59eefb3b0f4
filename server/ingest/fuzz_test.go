package ingest

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/perfuse/perfuse/profile"
	profilestorev1alpha1 "github.com/perfuse/perfuse/proto/parca/profilestore/v1alpha1"
	pushv1 "github.com/perfuse/perfuse/proto/push/v1"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/storage"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/profiles/v1development"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

// FuzzOTLP: whatever the body, the answer is an error of a known kind or a batch that keeps the data model,
// in which every count of the request is found again.
func FuzzOTLP(f *testing.F) {
	files, err := filepath.Glob("testdata/normalise/*")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		// The requests of a transcript lie between a line "otlp …" or "json …" and "----".
		var dictionary string
		for _, block := range strings.Split(string(b), "\n\n") {
			input, _, _ := strings.Cut(block, "\n----")
			for strings.HasPrefix(input, "#") {
				_, input, _ = strings.Cut(input, "\n")
			}
			command, input, _ := strings.Cut(input, "\n")
			switch {
			case strings.HasPrefix(command, "dictionary"):
				dictionary = "dictionary {" + input + "}"
			case strings.HasPrefix(command, "json"):
				f.Add([]byte(input), true)
			case strings.HasPrefix(command, "otlp"):
				if !strings.Contains(input, "dictionary") {
					input = dictionary + input
				}
				req := new(collectorv1.ExportProfilesServiceRequest)
				if err := prototext.Unmarshal([]byte(input), req); err != nil {
					f.Fatalf("%s: %v in %s", file, err, input)
				}
				body, err := proto.Marshal(req)
				if err != nil {
					f.Fatal(err)
				}
				f.Add(body, false)
			}
		}
	}
	n := Normaliser{
		Limits:         limits.Limits{DecodedBytes: 1 << 20, Future: time.Hour}.OrDefault(),
		DropAttributes: DefaultDropAttributes,
		Now:            func() time.Time { return testNow },
	}
	known := func(t *testing.T, err error) {
		var le *limits.Error
		if !errors.Is(err, ErrInvalid) && !errors.As(err, &le) {
			t.Fatalf("an error of an unknown kind: %v", err)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, json bool) {
		req, err := decodeWithin(body, json, &n.Limits)
		if err != nil {
			known(t, err)
			return
		}
		b, err := n.Normalise(req, nil)
		if err != nil {
			known(t, err)
			return
		}
		if err := storage.Validate(b); err != nil {
			t.Fatalf("the batch breaks the data model: %v", err)
		}
		var want, got uint64
		bringsCPU := false // then what is derived cannot be told from what was sent
		for _, rp := range req.GetResourceProfiles() {
			for _, sp := range rp.GetScopeProfiles() {
				for _, p := range sp.GetProfiles() {
					keyOf(p)
					strs := req.GetDictionary().GetStringTable()
					bringsCPU = bringsCPU || str(strs, p.GetSampleType().GetTypeStrindex()) == "cpu"
					for _, s := range p.GetSamples() {
						for _, v := range s.GetValues() {
							want += uint64(v)
						}
						if len(s.GetValues()) == 0 {
							want += uint64(len(s.GetTimestampsUnixNano()))
						}
					}
				}
			}
		}
		for i := range b.Profiles {
			p := &b.Profiles[i]
			// CPU time is derived from the counts that follow it.
			if i+1 < len(b.Profiles) && p.Type.SampleType == "cpu" && b.Profiles[i+1].Type.SampleType == "samples" && p.Period > 0 &&
				len(p.Samples) == len(b.Profiles[i+1].Samples) && p.Total() == b.Profiles[i+1].Total()*p.Period {
				continue
			}
			got += uint64(p.Total())
			if profile.NewTree(b, p).Total[0] != p.Total() {
				t.Fatal("the tree lost something")
			}
		}
		if got != want && !bringsCPU {
			t.Fatalf("the request counts %d, the batch %d:\n%s", want, got, describe(b))
		}
	})
}

// FuzzHandlers: whatever comes over a connection, in whatever envelope and packing, is answered with a status that says whose
// fault it is, and what is stored keeps the data model.
func FuzzHandlers(f *testing.F) {
	k := &keeper{}
	in := newIngester(f, k, limits.Limits{BodyBytes: 1 << 20, DecompressedBytes: 1 << 20, DecodedBytes: 4 << 20})
	handlers := []struct {
		path string
		http.Handler
	}{
		{ExportPath, in.HTTP()}, {ExportProcedure, in.RPC()}, {PushProcedure, in.Push()}, {WriteRawProcedure, in.WriteRaw()},
		{WriteArrowProcedure, in.WriteArrow()}, {IngestPath + "?name=app", in.Ingest()},
	}
	seed := func(door uint8, contentType string, m proto.Message) {
		wire, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		text, err := protojson.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		w.Write(wire)
		w.Close()
		f.Add(door, contentType, "", "", wire)
		f.Add(door, "application/json", "", "", text)
		f.Add(door, contentType, "gzip", "", packed.Bytes())
		f.Add(door, "application/grpc-web+proto", "", "gzip", envelope(1, packed.Bytes()))
		f.Add(door, "application/grpc", "", "", envelope(0, wire))
	}
	seed(0, "application/x-protobuf", goodOTLP())
	seed(1, "application/proto", goodOTLP())
	seed(2, "application/proto", &pushv1.PushRequest{Series: []*pushv1.RawProfileSeries{{Samples: []*pushv1.RawSample{{RawProfile: heap(testNow)}}}}})
	seed(3, "application/proto", &profilestorev1alpha1.WriteRawRequest{Series: []*profilestorev1alpha1.RawProfileSeries{{Samples: []*profilestorev1alpha1.RawSample{{RawProfile: heap(testNow)}}}}})
	seed(4, "application/proto", &profilestorev1alpha1.WriteArrowRequest{IpcBuffer: recordOf(f, goodRow())})
	f.Add(uint8(5), "", "", "", []byte("main;work 4\n"))
	f.Add(uint8(0), "application/json", "", "", []byte("\xff\xff{"))
	f.Fuzz(func(t *testing.T, door uint8, contentType, encoding, grpcEncoding string, body []byte) {
		h := handlers[int(door)%len(handlers)]
		r := httptest.NewRequest(http.MethodPost, h.path, bytes.NewReader(body))
		for name, value := range map[string]string{"Content-Type": contentType, "Content-Encoding": encoding, "Grpc-Encoding": grpcEncoding} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		switch w.Code {
		case http.StatusOK, http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusTooManyRequests, http.StatusNotImplemented:
		default:
			t.Errorf("%d %q", w.Code, w.Body)
		}
		k.fuzzed(t, nil)
	})
}

package server

import (
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"

	profilestorev1alpha1 "github.com/perfuse/perfuse/proto/parca/profilestore/v1alpha1"
	"github.com/perfuse/perfuse/proto/parca/profilestore/v1alpha1/profilestorev1alpha1connect"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	pushv1 "github.com/perfuse/perfuse/proto/push/v1"
	"github.com/perfuse/perfuse/proto/push/v1/pushv1connect"
	typesv1 "github.com/perfuse/perfuse/proto/types/v1"
)

// TestRawDoors sends a pprof as Parca's and Pyroscope's clients do, in every protocol, and asks for it.
func TestRawDoors(t *testing.T) {
	s := start(t, Options{})
	want := int64(0)
	for name, opts := range map[string][]connect.ClientOption{
		"Connect": nil, "JSON": {connect.WithProtoJSON()}, "gRPC": {connect.WithGRPC()}, "gRPC-web": {connect.WithGRPCWeb()}, "gzip": {connect.WithSendGzip()},
	} {
		client := http.DefaultClient
		if name == "gRPC" {
			client = h2c()
		}
		if _, err := pushv1connect.NewPusherServiceClient(client, s.url, opts...).Push(t.Context(), &pushv1.PushRequest{Series: []*pushv1.RawProfileSeries{{
			Labels:  []*typesv1.LabelPair{{Name: "service_name", Value: "web"}, {Name: "pod", Value: "push " + name}},
			Samples: []*pushv1.RawSample{{RawProfile: goodPprof(t)}},
		}}}); err != nil {
			t.Errorf("%s: push: %v", name, err)
		}
		if _, err := profilestorev1alpha1connect.NewProfileStoreServiceClient(client, s.url, opts...).WriteRaw(t.Context(), &profilestorev1alpha1.WriteRawRequest{Series: []*profilestorev1alpha1.RawProfileSeries{{
			Labels:  &profilestorev1alpha1.LabelSet{Labels: []*profilestorev1alpha1.Label{{Name: "service_name", Value: "web"}, {Name: "pod", Value: "write " + name}}},
			Samples: []*profilestorev1alpha1.RawSample{{RawProfile: goodPprof(t)}},
		}}}); err != nil {
			t.Errorf("%s: write: %v", name, err)
		}
		want += 60
		resp, err := s.query().FlameGraph(t.Context(), &queryv1.FlameGraphRequest{Selection: &queryv1.Selection{ProfileType: "cpu", Selector: `{service_name="web"}`}})
		if err != nil {
			t.Fatal(err)
		}
		if resp.Total != want {
			t.Errorf("%s: total %d, want %d", name, resp.Total, want)
		}
	}
	_, err := pushv1connect.NewPusherServiceClient(http.DefaultClient, s.url).Push(t.Context(), &pushv1.PushRequest{})
	if connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("an empty request: %v", err)
	}
}

// TestIngestDoor posts folded text to Pyroscope's /ingest, by both of its names, and asks for it.
func TestIngestDoor(t *testing.T) {
	s := start(t, Options{})
	want := int64(0)
	for _, path := range []string{"/ingest", "/pyroscope/ingest"} {
		status, answer := s.post(t, path+"?name=shop.cpu%7Bregion%3Deu%7D&sampleRate=1000", strings.NewReader("main;work 30\n"))
		if status != http.StatusOK {
			t.Fatalf("%s: %d %s", path, status, answer)
		}
		want += 30_000_000
		resp, err := s.query().FlameGraph(t.Context(), &queryv1.FlameGraphRequest{Selection: &queryv1.Selection{ProfileType: "cpu", Selector: `{service_name="shop", region="eu"}`}})
		if err != nil {
			t.Fatal(err)
		}
		if resp.Total != want {
			t.Errorf("%s: total %d, want %d", path, resp.Total, want)
		}
	}
	if status, answer := s.post(t, "/ingest?name=shop", strings.NewReader("")); status != http.StatusBadRequest || !strings.Contains(answer, "the body is empty") {
		t.Errorf("an empty body: %d %s", status, answer)
	}
}

package ingest

import (
	"context"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	profilestorev1alpha1 "github.com/perfuse/perfuse/proto/parca/profilestore/v1alpha1"
	pushv1 "github.com/perfuse/perfuse/proto/push/v1"
	typesv1 "github.com/perfuse/perfuse/proto/types/v1"
	"github.com/perfuse/perfuse/server/limits"
)

// sent is a request without an id.
type sent struct {
	params string // of /ingest
	body   []byte
	parts  map[string][]byte
	rpc    proto.Message
}

func (s sent) to(t *testing.T, in *Ingester) {
	t.Helper()
	if s.rpc == nil {
		if status, answer := postIngest(t, in, s.params, s.body, s.parts); status != http.StatusOK {
			t.Fatalf("%d %s", status, answer)
		}
		return
	}
	body, err := proto.Marshal(s.rpc)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := s.rpc.(*pushv1.PushRequest); ok {
		err = in.push(t.Context(), &rawRequest{body: body})
	} else {
		err = in.writeRaw(t.Context(), &rawRequest{body: body})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestComesAgain: what comes again without an id is stored once if it says to less than a second when it was taken, also
// after a restart. What does not, and what differs in anything, is stored every time.
func TestComesAgain(t *testing.T) {
	precise := testNow.Add(-time.Minute + 123*time.Millisecond)
	_, recording := javaRecording(t)
	writeRaw := func(at time.Time, pod string) sent {
		return sent{rpc: &profilestorev1alpha1.WriteRawRequest{Series: []*profilestorev1alpha1.RawProfileSeries{{
			Labels:  &profilestorev1alpha1.LabelSet{Labels: []*profilestorev1alpha1.Label{{Name: "pod", Value: pod}}},
			Samples: []*profilestorev1alpha1.RawSample{{RawProfile: heap(at)}},
		}}}}
	}
	push := func(at time.Time) sent {
		return sent{rpc: &pushv1.PushRequest{Series: []*pushv1.RawProfileSeries{{
			Labels: []*typesv1.LabelPair{{Name: "pod", Value: "a"}}, Samples: []*pushv1.RawSample{{RawProfile: heap(at)}},
		}}}}
	}
	text := []byte("main;wait 100\n")
	const seconds, millis = " from=1795435140 until=1795435150", " from=1795435140123 until=1795435150123"
	for _, c := range []struct {
		name          string
		first, second sent
		stored        int // of the first, the second, and the second after a restart
	}{
		{"text without a time", sent{params: "name=app", body: text}, sent{params: "name=app", body: text}, 3},
		{"text a minute ago", sent{params: "name=app from=now-1m", body: text}, sent{params: "name=app from=now-1m", body: text}, 3},
		{"text of two idle processes", sent{params: "name=app" + seconds, body: text}, sent{params: "name=app" + seconds, body: text}, 3},
		{"text with a time", sent{params: "name=app" + millis, body: text}, sent{params: "name=app" + millis, body: text}, 1},
		{"of another pod", sent{params: "name=app{pod=a}" + millis, body: text}, sent{params: "name=app{pod=b}" + millis, body: text}, 2},
		{"with other values", sent{params: "name=app" + millis, body: text}, sent{params: "name=app" + millis, body: []byte("main;wait 99\n")}, 2},
		{"at another rate", sent{params: "name=app" + millis, body: text}, sent{params: "sampleRate=50 name=app" + millis, body: text}, 2},
		{"pprof", sent{params: "name=app format=pprof", body: heap(precise)}, sent{params: "name=app format=pprof", body: heap(precise)}, 1},
		{"pprof with a full second", sent{params: "name=app format=pprof", body: heap(testNow)}, sent{params: "name=app format=pprof", body: heap(testNow)}, 3},
		{"pprof with microseconds in place of nanoseconds", sent{params: "name=app format=pprof" + seconds, body: heap(time.Unix(0, testNow.UnixMicro()))},
			sent{params: "name=app format=pprof" + seconds, body: heap(time.Unix(0, testNow.UnixMicro()))}, 3},
		{"forms, whose boundaries differ", sent{params: "name=app", parts: map[string][]byte{"profile": heap(precise)}}, sent{params: "name=app", parts: map[string][]byte{"profile": heap(precise)}}, 1},
		{"forms with another part", sent{params: "name=app", parts: map[string][]byte{"profile": heap(precise)}},
			sent{params: "name=app", parts: map[string][]byte{"profile": heap(precise), "sample_type_config": []byte("{}")}}, 2},
		{"recordings", sent{params: "name=app format=jfr" + seconds, parts: map[string][]byte{"jfr": recording}}, sent{params: "name=app format=jfr" + seconds, parts: map[string][]byte{"jfr": recording}}, 1},
		{"WriteRaw", writeRaw(precise, "a"), writeRaw(precise, "a"), 1},
		{"WriteRaw of another pod", writeRaw(precise, "a"), writeRaw(precise, "b"), 2},
		{"WriteRaw with a full second", writeRaw(testNow, "a"), writeRaw(testNow, "a"), 3},
		{"push", push(precise), push(precise), 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := &keeper{}
			in := newIngester(t, k, limits.Limits{})
			c.first.to(t, in)
			c.second.to(t, in)
			for _, b := range k.batches {
				if err := k.Model.Write(t.Context(), b); err != nil {
					t.Fatal(err)
				}
			}
			c.second.to(t, newIngester(t, k, limits.Limits{}))
			if len(k.batches) != c.stored {
				t.Errorf("stored %d times, want %d", len(k.batches), c.stored)
			}
		})
	}
}

// TestComesAgainAfterLeaving: two that say only the second when they were taken may be of two processes, unless the
// sender of the first left before it had an answer.
func TestComesAgainAfterLeaving(t *testing.T) {
	for _, leaves := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			g, in := newGatedStore(t, 100)
			post := func(ctx context.Context) error {
				return in.ingest(ctx, url.Values{"name": {"app"}, "from": {"1795435140"}}, "", []byte("main;wait 100\n"))
			}
			ctx, leave := context.WithCancel(t.Context())
			errs := make(chan error, 2)
			go func() { errs <- post(ctx) }()
			<-g.arrived
			if leaves {
				leave()
			}
			go func() { errs <- post(t.Context()) }()
			synctest.Wait()
			g.result <- nil
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if again := len(g.arrived) == 1; again == leaves {
				t.Errorf("the sender leaves: %v, it is stored again: %v", leaves, again)
			}
			g.result <- nil
			if err := <-errs; err != nil {
				t.Error(err)
			}
			leave()
		})
	}
}

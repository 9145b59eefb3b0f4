package scrape

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	pprof "github.com/google/pprof/profile"
	"go.yaml.in/yaml/v3"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/server/ingest"
)

// TestMain lets the heap profile of this process count every allocation, so that tests know what it must say.
func TestMain(m *testing.M) {
	runtime.MemProfileRate = 1
	os.Exit(m.Run())
}

// parse reads scrape_configs as the server does.
func parse(text string) ([]Config, error) {
	var c []Config
	dec := yaml.NewDecoder(strings.NewReader(text))
	dec.KnownFields(true)
	err := dec.Decode(&c)
	return c, err
}

// newManager makes one of scrape_configs, whose requests go to transport (nil: to the network).
func newManager(t *testing.T, text string, o Options, transport http.RoundTripper) *Manager {
	t.Helper()
	c, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	o.Configs = c
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if transport != nil {
		for _, j := range m.jobs {
			j.client.Transport = transport
		}
	}
	return m
}

// keeper is an ingester that keeps what it is given.
type keeper struct {
	mu      sync.Mutex
	batches []*profile.Batch
	fail    error // what the next call returns once it has read everything
}

func (k *keeper) Scraped(_ context.Context, s ingest.Scraped) error {
	b, err := profile.ReadPprof(s.Body, profile.PprofOptions{Name: s.Name, Labels: s.Labels})
	if err != nil {
		return err
	}
	if err := s.Edit(b); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.fail; err != nil {
		k.fail = nil
		return err
	}
	k.batches = append(k.batches, b)
	return nil
}

func (k *keeper) failNext(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fail = err
}

// take returns what was kept, a line a profile and one a stack, and forgets it.
func (k *keeper) take() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out strings.Builder
	for _, b := range k.batches {
		for i := range b.Profiles {
			p := &b.Profiles[i]
			fmt.Fprintf(&out, "%s %s %s+%s\n", p.Type, p.Labels, time.Unix(0, p.TimeNanos).UTC().Format("15:04:05"), time.Duration(p.DurationNanos))
			for _, s := range p.Samples {
				fmt.Fprintf(&out, "  %s %d\n", stackText(b.Dictionary, s.Stack), s.Value)
			}
		}
	}
	k.batches = nil
	return out.String()
}

// stackText is a stack root first.
func stackText(d *profile.Dictionary, i profile.StackIndex) string {
	var names []string
	for _, f := range d.Stacks[i] {
		for _, l := range d.Frames[f].Lines {
			names = append([]string{d.Functions[l.Function].Name}, names...)
		}
	}
	return strings.Join(names, ";")
}

// encode makes a pprof: types as "alloc_space/bytes …", lines as "main;work 1 100".
func encode(types string, at time.Time, lines ...string) []byte {
	p := &pprof.Profile{TimeNanos: at.UnixNano()}
	for _, t := range strings.Fields(types) {
		name, unit, _ := strings.Cut(t, "/")
		p.SampleType = append(p.SampleType, &pprof.ValueType{Type: name, Unit: unit})
	}
	functions := map[string]*pprof.Location{}
	for _, line := range lines {
		words := strings.Fields(line)
		s := &pprof.Sample{}
		for name := range strings.SplitSeq(words[0], ";") {
			l := functions[name]
			if l == nil {
				f := &pprof.Function{ID: uint64(len(p.Function) + 1), Name: name}
				p.Function = append(p.Function, f)
				l = &pprof.Location{ID: f.ID, Line: []pprof.Line{{Function: f}}}
				p.Location = append(p.Location, l)
				functions[name] = l
			}
			s.Location = append([]*pprof.Location{l}, s.Location...)
		}
		for _, v := range words[1:] {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				panic(err)
			}
			s.Value = append(s.Value, n)
		}
		p.Sample = append(p.Sample, s)
	}
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// answer is what a RoundTripper of tests returns.
func answer(status int, body []byte) *http.Response {
	return &http.Response{StatusCode: status, Status: fmt.Sprintf("%d %s", status, http.StatusText(status)), Body: io.NopCloser(bytes.NewReader(body)), Header: http.Header{}}
}

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

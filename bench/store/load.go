package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	pprof "github.com/google/pprof/profile"
	"google.golang.org/protobuf/encoding/protowire"

	profilestorev1alpha1 "github.com/perfuse/perfuse/proto/parca/profilestore/v1alpha1"
	"github.com/perfuse/perfuse/proto/parca/profilestore/v1alpha1/profilestorev1alpha1connect"
	pushv1 "github.com/perfuse/perfuse/proto/push/v1"
	"github.com/perfuse/perfuse/proto/push/v1/pushv1connect"
	typesv1 "github.com/perfuse/perfuse/proto/types/v1"
)

// pods is how many each service has.
const pods = 5

// fleet is services and their pods, each with a CPU profile per step, and a heap profile unless it is cpuOnly.
type fleet struct {
	services int
	step     time.Duration
	cpuOnly  bool
}

// kinds is how many profiles a pod has per step.
func (f fleet) kinds() int {
	if f.cpuOnly {
		return 1
	}
	return 2
}

func (f fleet) series() int { return f.services * pods * f.kinds() }

// file is a pprof of the corpus, as it was written.
type file struct {
	gzipped []byte
	samples int64
}

// corpus is the files of each kind.
type corpus struct{ cpu, mem []file }

func readCorpus(folder string) (c corpus, err error) {
	for kind, to := range map[string]*[]file{"cpu": &c.cpu, "mem": &c.mem} {
		paths, err := filepath.Glob(filepath.Join(folder, kind, "*.pb.gz"))
		if err != nil {
			return c, err
		}
		if len(paths) == 0 {
			return c, fmt.Errorf("reading the corpus: %s has no files %s/*.pb.gz", folder, kind)
		}
		slices.Sort(paths)
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				return c, fmt.Errorf("reading the corpus: %w", err)
			}
			p, err := pprof.ParseData(data)
			if err != nil {
				return c, fmt.Errorf("reading the corpus: %s: %w", path, err)
			}
			*to = append(*to, file{data, int64(len(p.Sample))})
		}
	}
	return c, nil
}

// load is what the fleet sends, one profile after the other, from some time ago until now.
type load struct {
	fleet
	corpus  corpus
	end     time.Time
	sent    int   // profiles
	samples int64 // their samples
	bytes   int64 // their files
	start   time.Time
}

// newLoad plans for n samples.
func newLoad(f fleet, c corpus, n int64) *load {
	l := &load{fleet: f, corpus: c, start: time.Unix(0, 0)}
	for l.samples < n {
		l.next()
	}
	steps := (l.sent + f.series() - 1) / f.series()
	now := time.Now().Truncate(f.step)
	return &load{fleet: f, corpus: c, start: now.Add(-time.Duration(steps) * f.step), end: now}
}

// message is one profile of one pod.
type message struct {
	kind, service, pod string
	raw                []byte
	samples            int64
}

// next returns the next profile. Its time is a gzip member of its own behind the file: of a field that is there twice
// protobuf takes the last.
func (l *load) next() message {
	at, i := l.sent/l.series(), l.sent%l.series()
	n := i / l.kinds() // of the pod
	service, pod := n/pods, n%pods
	kind, files := "process_cpu", l.corpus.cpu
	if i%l.kinds() == 1 {
		kind, files = "memory", l.corpus.mem
	}
	f := files[(n+at*37)%len(files)]
	l.sent++
	l.samples += f.samples
	l.bytes += int64(len(f.gzipped))

	b := protowire.AppendTag(nil, 9, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(l.start.Add(time.Duration(at)*l.step).UnixNano()))
	var member bytes.Buffer
	zw := gzip.NewWriter(&member)
	zw.Write(b)
	zw.Close()
	return message{
		kind: kind, service: fmt.Sprintf("service-%02d", service), pod: fmt.Sprintf("service-%02d-%d", service, pod),
		raw: slices.Concat(f.gzipped, member.Bytes()), samples: f.samples,
	}
}

func (m *message) labels() [][2]string {
	return [][2]string{
		{"__name__", m.kind}, {"cluster", "eu-1"}, {"namespace", "shop"}, {"node", "node-" + m.pod[len(m.pod)-1:]}, {"pod", m.pod},
		{"region", "eu"}, {"service_name", m.service}, {"version", "1.2.3"},
	}
}

// sender sends through one connection of its own.
func sender(door, address string) func(context.Context, message) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	url := "http://" + address
	if door == "push" {
		c := pushv1connect.NewPusherServiceClient(client, url)
		return func(ctx context.Context, m message) error {
			s := &pushv1.RawProfileSeries{Samples: []*pushv1.RawSample{{RawProfile: m.raw}}}
			for _, l := range m.labels() {
				s.Labels = append(s.Labels, &typesv1.LabelPair{Name: l[0], Value: l[1]})
			}
			_, err := c.Push(ctx, &pushv1.PushRequest{Series: []*pushv1.RawProfileSeries{s}})
			return err
		}
	}
	c := profilestorev1alpha1connect.NewProfileStoreServiceClient(client, url, connect.WithGRPCWeb())
	return func(ctx context.Context, m message) error {
		s := &profilestorev1alpha1.RawProfileSeries{
			Labels: &profilestorev1alpha1.LabelSet{}, Samples: []*profilestorev1alpha1.RawSample{{RawProfile: m.raw}},
		}
		for _, l := range m.labels() {
			s.Labels.Labels = append(s.Labels.Labels, &profilestorev1alpha1.Label{Name: l[0], Value: l[1]})
		}
		_, err := c.WriteRaw(ctx, &profilestorev1alpha1.WriteRawRequest{Series: []*profilestorev1alpha1.RawProfileSeries{s}})
		return err
	}
}

// send makes senders send until the load has so many samples. It returns how long each acknowledgement took.
func (l *load) send(ctx context.Context, door, address string, senders int, until int64) (acks []time.Duration, err error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	messages := make(chan message)
	took := make([][]time.Duration, senders)
	var wait sync.WaitGroup
	var acknowledged atomic.Int64
	for i := range senders {
		wait.Go(func() {
			send := sender(door, address)
			for m := range messages {
				began := time.Now()
				if err := send(ctx, m); err != nil {
					stop(fmt.Errorf("sending a profile of %s: %w", m.pod, err))
					return
				}
				took[i] = append(took[i], time.Since(began))
				acknowledged.Add(m.samples)
			}
		})
	}
	for l.samples < until && ctx.Err() == nil {
		m := l.next()
		select {
		case messages <- m:
		case <-ctx.Done():
		}
	}
	close(messages)
	wait.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	acks = slices.Concat(took...)
	slices.Sort(acks)
	return acks, nil
}

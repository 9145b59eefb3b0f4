package server

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/storage/frost"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/profiles/v1development"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	profilesv1 "go.opentelemetry.io/proto/otlp/profiles/v1development"
	resourcev1 "go.opentelemetry.io/proto/otlp/resource/v1"
)

// Of each request of the load below.
const (
	loadServices = 20
	loadSamples  = 500 // of each service
	loadStacks   = 3000
	loadDepth    = 25
)

// loadRequest is what an agent sends for some seconds of a busy machine. All of them draw from the same stacks,
// as the rounds of one machine do.
func loadRequest(round int) *collectorv1.ExportProfilesServiceRequest {
	same, rnd := rand.New(rand.NewPCG(1, 2)), rand.New(rand.NewPCG(3, uint64(round)))
	d := &profilesv1.ProfilesDictionary{
		StringTable:   []string{"", "samples", "count", "cpu", "nanoseconds"},
		FunctionTable: []*profilesv1.Function{{}}, LocationTable: []*profilesv1.Location{{}}, StackTable: []*profilesv1.Stack{{}},
	}
	for i := range 5000 {
		d.StringTable = append(d.StringTable, fmt.Sprint("function_", i))
		d.FunctionTable = append(d.FunctionTable, &profilesv1.Function{NameStrindex: int32(len(d.StringTable) - 1)})
		d.LocationTable = append(d.LocationTable, &profilesv1.Location{Lines: []*profilesv1.Line{{FunctionIndex: int32(i + 1)}}})
	}
	for range loadStacks {
		s := &profilesv1.Stack{}
		for range loadDepth {
			s.LocationIndices = append(s.LocationIndices, int32(1+same.IntN(5000)))
		}
		d.StackTable = append(d.StackTable, s)
	}
	req := &collectorv1.ExportProfilesServiceRequest{Dictionary: d}
	for i := range loadServices {
		p := &profilesv1.Profile{
			SampleType: &profilesv1.ValueType{TypeStrindex: 1, UnitStrindex: 2}, PeriodType: &profilesv1.ValueType{TypeStrindex: 3, UnitStrindex: 4},
			Period: 52631578, TimeUnixNano: uint64(testTime.Add(time.Duration(round) * time.Second).UnixNano()), DurationNano: 1e9,
		}
		for range loadSamples {
			p.Samples = append(p.Samples, &profilesv1.Sample{StackIndex: int32(1 + rnd.IntN(loadStacks)), Values: []int64{int64(1 + rnd.IntN(5))}})
		}
		req.ResourceProfiles = append(req.ResourceProfiles, &profilesv1.ResourceProfiles{
			Resource: &resourcev1.Resource{Attributes: []*commonv1.KeyValue{
				{Key: "service.name", Value: &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: fmt.Sprint("service-", i)}}},
			}},
			ScopeProfiles: []*profilesv1.ScopeProfiles{{Profiles: []*profilesv1.Profile{p}}},
		})
	}
	return req
}

// BenchmarkServer is the whole way in, with two senders over gRPC and a store on disk, and then questions to
// what is there. Senders and server share the machine and the process, so CPU counts both.
func BenchmarkServer(b *testing.B) {
	dir := b.TempDir()
	s := start(b, Options{Open: func(context.Context) (Backends, error) {
		store, err := frost.New(frost.Options{Dir: dir})
		return Backends{Store: store}, err
	}})
	s.awaitReady(b)
	requests := make([]*collectorv1.ExportProfilesServiceRequest, 16)
	for i := range requests {
		requests[i] = loadRequest(i)
	}
	cpu := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	b.Run("ingest", func(b *testing.B) {
		var mu sync.Mutex
		var acks []time.Duration
		next := make(chan int)
		var senders sync.WaitGroup
		before := cpu()
		for range 2 {
			senders.Go(func() {
				client := otlp(b, s.Addr())
				for i := range next {
					begin := time.Now()
					if _, err := client.Export(b.Context(), requests[i%len(requests)]); err != nil {
						b.Error(err)
					}
					mu.Lock()
					acks = append(acks, time.Since(begin))
					mu.Unlock()
				}
			})
		}
		for i := range b.N {
			next <- i
		}
		close(next)
		senders.Wait()
		samples := float64(b.N) * loadServices * loadSamples
		slices.Sort(acks)
		b.ReportMetric(samples/b.Elapsed().Seconds(), "samples/s")
		b.ReportMetric((cpu()-before).Seconds()/samples*1e6, "cpu-s/Msamples")
		b.ReportMetric(float64(acks[len(acks)/2].Milliseconds()), "ack-p50-ms")
	})
	query := func(name, selector string) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := s.query().FlameGraph(b.Context(), &queryv1.FlameGraphRequest{Selection: &queryv1.Selection{ProfileType: "cpu", Selector: selector}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	query("merge all", "")
	query("merge one service", `{service_name="service-7"}`)
}

package hotspot

import (
	"context"
	"testing"
	"time"
)

// BenchmarkJVM: how long each takes with 100 MB live, and what user CPU time of the JVM.
func BenchmarkJVM(b *testing.B) {
	p := run(b, oneJDK(b), nil)
	j := p.find()
	measure := func(name string, f func() error) {
		b.Run(name, func(b *testing.B) {
			before, err := j.cpuTimes()
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := f(); err != nil {
					b.Fatal(err)
				}
			}
			after, err := j.cpuTimes()
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(after.since(before).process/time.Microsecond)/1000/float64(b.N), "jvm-ms/op")
		})
	}
	ctx := context.Background()
	p.do("keep-nodes 60")
	p.do("keep 40")
	measure("the first start", func() error {
		r, err := j.Start(ctx, Options{Allocations: true, CPU: true})
		if err == nil {
			_, err = r.Stop(ctx)
		}
		return err
	})
	for _, c := range []struct {
		name string
		o    Options
	}{
		{"dump of allocations and CPU", Options{Allocations: true, CPU: true}},
		{"dump of live objects", Options{Live: true}},
		{"dump of live objects, without collections", Options{Live: true, Garbage: true}},
	} {
		r, err := j.Start(ctx, c.o)
		if err != nil {
			b.Fatal(err)
		}
		measure(c.name, func() error {
			_, err := r.Dump(ctx)
			return err
		})
		if _, err := r.Stop(ctx); err != nil {
			b.Fatal(err)
		}
	}
	for name, live := range map[string]bool{"histogram after a collection": true, "histogram of all": false} {
		measure(name, func() error {
			_, err := j.Histogram(ctx, live)
			return err
		})
	}
}

// BenchmarkSlowdown: a program that does nothing but allocate, paired with itself while it is recorded.
func BenchmarkSlowdown(b *testing.B) {
	p := run(b, oneJDK(b), nil)
	p.do("churn 2000")
	for _, c := range []struct {
		name string
		o    Options
	}{{"allocations and CPU", Options{Allocations: true, CPU: true}}, {"live", Options{Live: true}}} {
		b.Run(c.name, func(b *testing.B) {
			var plain, recorded time.Duration
			for b.Loop() {
				before := time.Now()
				p.do("churn 2000")
				plain += time.Since(before)
				r, err := p.find().Start(context.Background(), c.o)
				if err != nil {
					b.Fatal(err)
				}
				before = time.Now()
				p.do("churn 2000")
				recorded += time.Since(before)
				if _, err := r.Stop(context.Background()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(100*(float64(recorded)/float64(plain)-1), "%slower")
		})
	}
}

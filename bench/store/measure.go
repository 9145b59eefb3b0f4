package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/perfuse/perfuse/bench/running"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/proto/perfuse/query/v1/queryv1connect"
)

const reach = `
to reach: 4 CPU-s per million samples, 100k samples/s with 2 senders, acknowledged on disk in 10 ms, 300 MB at 20 M, 10 B a
sample; merge of everything 100 ms at 1 M, 400 ms at 18 M; of one service 10 and 50 ms; types and labels 2 ms; series by
service 20 ms; diff 20 ms; ready in 1 s at 20 M; clean stop in 2 s
Parca, same load on such a machine: 60 to 63 CPU-s, 26.6k samples/s, 39 ms, 2.2 GB at 1 M, 148 B; 1.1 s, 250 ms; 157 to 681 ms; 101 ms; 213 ms
Pyroscope: 12.7 to 16.4 CPU-s, 3.6k samples/s (128 senders 67 to 76k), 500 ms, 0.95 GB at 1 M, 12 to 78 B; 0.53 s at 1 M, 3.9 s at 18 M; 30 and
179 ms; 1.6 to 8.5 ms; 59 ms; 67 ms
`

// fill brings the store to so many samples and prints what that cost.
func (s *subject) fill(ctx context.Context, l *load, until int64) error {
	pid := s.process.PID()
	samples, before := l.samples, time.Duration(0)
	before, err := running.CPUTime(pid)
	if err != nil {
		return err
	}
	began := time.Now()
	acks, err := l.send(ctx, s.door, s.address, s.senders, until)
	if err != nil {
		return err
	}
	took := time.Since(began)
	after, err := s.quiet(ctx)
	if err != nil {
		return err
	}
	rss, err := running.RSSBytes(pid)
	if err != nil {
		return err
	}
	disk, err := diskBytes(s.folder + "/data")
	if err != nil {
		return err
	}
	n := float64(l.samples - samples)
	fmt.Printf("\n%.1f M samples: %.2f CPU-s per million, %.0fk samples/s, acknowledged in p50 %.1f ms, p99 %.1f ms; then RSS %.0f MB, %.2f B a sample on disk (%.2f in the gzip that came)\n",
		float64(l.samples)/1e6, (after-before).Seconds()/n*1e6, n/took.Seconds()/1e3, ms(acks[len(acks)/2]), ms(acks[len(acks)*99/100]),
		float64(rss)/1e6, float64(disk)/float64(l.samples), float64(l.bytes)/float64(l.samples))
	return nil
}

// quiet waits until the server has done what it does afterwards, and returns its CPU time then.
func (s *subject) quiet(ctx context.Context) (time.Duration, error) {
	last, err := running.CPUTime(s.process.PID())
	if err != nil {
		return 0, err
	}
	for {
		if err := running.Pause(ctx, s.process, 3*time.Second); err != nil {
			return 0, err
		}
		now, err := running.CPUTime(s.process.PID())
		if err != nil || now-last < 30*time.Millisecond {
			return now, err
		}
		last = now
	}
}

func diskBytes(folder string) (n int64, err error) {
	err = filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil // removed meanwhile
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if os.IsNotExist(err) {
			return nil
		}
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}

// recentSteps is what the narrow queries ask for: what they cost should not depend on what else is stored.
const recentSteps = 5

// ask measures the queries, and prints the median time and the server's CPU time of each.
func (s *subject) ask(ctx context.Context, l *load) error {
	q := queryv1connect.NewQueryServiceClient(http.DefaultClient, "http://"+s.address, connect.WithSendGzip())
	sel := func(typ, selector string) *queryv1.Selection {
		return &queryv1.Selection{ProfileType: typ, Selector: selector, StartUnixNano: l.start.UnixNano(), EndUnixNano: l.end.Add(l.step).UnixNano()}
	}
	last := l.start.Add(time.Duration(l.sent/l.series()) * l.step) // what is not complete yet begins here
	recent := func(typ, selector string) *queryv1.Selection {
		s := sel(typ, selector)
		s.StartUnixNano, s.EndUnixNano = last.Add(-recentSteps*l.step).UnixNano(), last.UnixNano()
		return s
	}
	const heap = "memory:inuse_space:bytes:space:bytes"
	one := `{service_name="service-07"}`
	found := "" // how much the last answer was made of
	flame := func(s *queryv1.Selection) func() error {
		return func() error {
			resp, err := q.FlameGraph(ctx, &queryv1.FlameGraphRequest{Selection: s})
			if err == nil {
				found = fmt.Sprintf("; %d series, %d stacks, %d nodes", resp.GetSeriesCount(), resp.GetStackCount(), resp.GetNodeCount())
			}
			return err
		}
	}
	for _, c := range []struct {
		name string
		ask  func() error
	}{
		{"merge of everything, CPU", flame(sel("cpu", ""))},
		{"merge of one service, CPU", flame(sel("cpu", one))},
		{"its last 5 steps, CPU", flame(recent("cpu", one))},
		{"merge of everything, heap", flame(sel(heap, ""))},
		{"merge of one service, heap", flame(sel(heap, one))},
		{"its last 5 steps, heap", flame(recent(heap, one))},
		{"diff of one service, CPU", func() error {
			before, after := sel("cpu", one), sel("cpu", one)
			middle := l.start.Add(l.end.Sub(l.start) / 2).UnixNano()
			before.EndUnixNano, after.StartUnixNano = middle, middle
			_, err := q.Diff(ctx, &queryv1.DiffRequest{Before: before, After: after})
			return err
		}},
		{"top of one service, CPU", func() error {
			_, err := q.Top(ctx, &queryv1.TopRequest{Selection: sel("cpu", one), Limit: 100})
			return err
		}},
		{"profile types", func() error {
			_, err := q.ProfileTypes(ctx, &queryv1.ProfileTypesRequest{StartUnixNano: l.start.UnixNano(), EndUnixNano: l.end.UnixNano()})
			return err
		}},
		{"label names", func() error {
			_, err := q.LabelNames(ctx, &queryv1.LabelNamesRequest{Selection: sel("", "")})
			return err
		}},
		{"label values", func() error {
			_, err := q.LabelValues(ctx, &queryv1.LabelValuesRequest{Selection: sel("", ""), Name: "pod"})
			return err
		}},
		{"series by service", func() error {
			_, err := q.Series(ctx, &queryv1.SeriesRequest{Selection: sel("cpu", ""), GroupBy: []string{"service_name"}, StepNano: int64(l.step)})
			return err
		}},
	} {
		if !s.only.MatchString(c.name) || s.fleet.cpuOnly && strings.HasSuffix(c.name, "heap") {
			continue
		}
		found = ""
		times := make([]time.Duration, s.repeats)
		before, err := running.CPUTime(s.process.PID())
		if err != nil {
			return err
		}
		for i := range times {
			began := time.Now()
			if err := c.ask(); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			times[i] = time.Since(began)
		}
		after, err := running.CPUTime(s.process.PID())
		if err != nil {
			return err
		}
		slices.Sort(times)
		fmt.Printf("  %-28s %8.2f ms (%.2f to %.2f), %.1f ms of CPU%s\n", c.name, ms(times[len(times)/2]), ms(times[0]), ms(times[len(times)-1]),
			ms(after-before)/float64(s.repeats), found)
		if s.profiles != "" {
			if err := s.profile(ctx, fmt.Sprintf("%.0fM %s", float64(l.samples)/1e6, c.name), c.ask); err != nil {
				return fmt.Errorf("taking a profile of %s: %w", c.name, err)
			}
		}
	}
	return nil
}

// profile takes a CPU profile of the server while it is asked one query over and over.
func (s *subject) profile(ctx context.Context, name string, ask func() error) error {
	done := make(chan error, 1)
	go func() {
		done <- s.takeProfile(ctx, filepath.Join(s.profiles, strings.ReplaceAll(name, " ", "-")+".pb.gz"))
	}()
	for {
		select {
		case err := <-done:
			return err
		default:
		}
		if err := ask(); err != nil {
			return errors.Join(err, <-done)
		}
	}
}

func (s *subject) takeProfile(ctx context.Context, path string) error {
	if err := os.MkdirAll(s.profiles, 0o777); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.address+"/debug/pprof/profile?seconds=5", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(data))
	}
	return os.WriteFile(path, data, 0o666)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

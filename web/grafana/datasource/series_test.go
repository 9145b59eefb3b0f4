package datasource

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/backend"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
)

// TestGrid lays series of 10 s steps out. Times are seconds; a point is time:value, a row begins at its time.
func TestGrid(t *testing.T) {
	f := func(name string, from, to, now int64, level bool, points, want string) {
		t.Helper()
		s := &queryv1.TimeSeries{}
		for point := range strings.FieldsSeq(points) {
			var at, value int64
			if _, err := fmt.Sscanf(point, "%d:%d", &at, &value); err != nil {
				t.Fatal(err)
			}
			s.TimeUnixNano, s.Values = append(s.TimeUnixNano, at*1e9), append(s.Values, value)
		}
		in := scope{TimeRange: backend.TimeRange{From: time.Unix(from, 0), To: time.Unix(to, 0)}}
		g := newGrid(&queryv1.SeriesResponse{Series: []*queryv1.TimeSeries{s}, StepNano: 10e9}, in, time.Unix(now, 0))
		var got []string
		if g != nil {
			for i, v := range g.lay(s, level, 1) {
				got = append(got, fmt.Sprintf("%d:%g", g.times[i].Unix(), v))
			}
		}
		if got := strings.Join(got, " "); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	f("nothing", 100, 140, 1000, false, "", "")
	f("amounts are per second, what is not there is 0", 100, 140, 1000, false, "100:50 120:30", "100:5 110:0 120:3 130:0")
	f("the server's steps have an origin of their own", 100, 140, 1000, false, "103:50 113:50", "103:5 113:5 123:0 133:0")
	f("steps before and after the range are left out", 100, 120, 1000, false, "80:10 90:10 100:50 110:50 120:70", "100:5 110:5")
	f("the first point lies after the range's beginning", 100, 140, 1000, false, "130:50", "100:0 110:0 120:0 130:5")
	f("a step that still runs is divided by what has passed of it", 100, 120, 115, false, "100:50 110:30", "100:5 110:6")
	f("but never by next to nothing", 100, 120, 110, false, "100:50 110:1", "100:5 110:1")
	f("levels are as they are", 100, 120, 115, true, "100:50 110:30", "100:50 110:30")
	f("profiles of a moment every 30 s: a step is as long as they are apart", 100, 190, 1000, false, "100:300 130:600 160:300 190:300", "100:10 130:20 160:10")
	f("and levels are not thinned", 100, 190, 1000, true, "100:300 130:600 160:300 190:300", "100:300 130:600 160:300")
	f("two points do not tell how far profiles are apart", 100, 140, 1000, false, "100:50 130:50", "100:5 110:0 120:0 130:5")
}

func TestStep(t *testing.T) {
	ds := &Datasource{settings: settings{minStep: 10 * time.Second}}
	f := func(interval, long, want time.Duration) {
		t.Helper()
		if got := ds.step(scope{backend.TimeRange{To: time.Time{}.Add(long)}, interval}); got != want {
			t.Errorf("interval %s in %s: step %s, want %s", interval, long, got, want)
		}
	}
	f(0, time.Hour, 10*time.Second)
	f(time.Second, time.Hour, 10*time.Second)
	f(15*time.Second, time.Hour, 15*time.Second)
	f(20*time.Second+time.Nanosecond, time.Hour, 20*time.Second+time.Millisecond)
	f(time.Second, 365*24*time.Hour, 365*24*time.Hour/maxSteps)
}

package datasource

import (
	"testing"
	"time"
)

// FuzzRead: what Grafana hands on from a browser is refused or within bounds.
func FuzzRead(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `null`, `[]`, `{"profileType":"cpu"}`,
		`{"profileType":"cpu","queryType":"series","rangeMs":3600000,"intervalMs":15000,"everyMs":5000}`,
		`{"profileType":"cpu","queryType":"flamegraph","rangeMs":1,"everyMs":1000,"keep":[{"field":"file","value":"x","regexp":true}]}`,
		`{"profileType":"cpu","minShare":1e-9,"callSite":["","main"],"before":{"earlier":"1d","perSecond":true}}`,
		`{"profileType":"cpu","rangeMs":9223372036854775807,"everyMs":-1}`,
		`{"profileType":"cpu","traceIds":["4bf92f3577b34da6a3ce929d0e0e4736"],"spanIds":["00f067aa0ba902b7"]}`,
	} {
		f.Add(kindBoth, []byte(seed))
		f.Add(kindSeries, []byte(seed))
	}
	f.Fuzz(func(t *testing.T, kind string, raw []byte) {
		if q, err := readQuery(kind, raw); err == nil {
			if q.ProfileType == "" || !(q.MinShare >= 0 && q.MinShare < 1) {
				t.Errorf("%+v is accepted", q)
			}
			for _, m := range q.filter().GetKeep() {
				if m.Value == "" {
					t.Errorf("an empty condition is asked for: %+v", q)
				}
			}
		}
		if l, err := readLive(livePath+"1", raw); err == nil {
			if l.every < minEvery || l.every > maxEvery || l.RangeMs <= 0 || time.Duration(l.RangeMs)*time.Millisecond > maxLiveRange || l.IntervalMs > l.RangeMs {
				t.Errorf("%+v is accepted", l)
			}
		}
	})
}

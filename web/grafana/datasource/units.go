package datasource

import (
	"github.com/perfuse/perfuse/profile"
)

// measure says how the values of a type are shown: over time as a rate, unless they are levels, and merged as they are.
type measure struct {
	// level values (bytes in use) say how much there is, the others how much happened.
	level bool
	// unit is Grafana's id for values, rateUnit that for values per second, once they are multiplied by rateScale.
	unit, rateUnit string
	rateScale      float64
}

// Units that are no time, sizes or counts are shown as they come.
func measureOf(t profile.Type) measure {
	m := measure{level: t.Level(), unit: t.SampleUnit, rateUnit: "suffix:" + t.SampleUnit + "/s", rateScale: 1}
	switch t.SampleUnit {
	case "nanoseconds":
		m.unit, m.rateUnit, m.rateScale = "ns", "si:s/s", 1e-9
		if t.Name == "process_cpu" {
			m.rateUnit = "suffix:cores"
		}
	case "microseconds":
		m.unit, m.rateUnit, m.rateScale = "µs", "si:s/s", 1e-6
	case "milliseconds":
		m.unit, m.rateUnit, m.rateScale = "ms", "si:s/s", 1e-3
	case "seconds":
		m.unit, m.rateUnit = "s", "si:s/s"
	case "bytes":
		m.unit, m.rateUnit = "bytes", "binBps"
	case "count", "objects", "":
		m.unit, m.rateUnit = "short", "cps"
	}
	return m
}

// overTime is how values over time are shown.
func (m measure) overTime() (unit string, scale float64) {
	if m.level {
		return m.unit, 1
	}
	return m.rateUnit, m.rateScale
}

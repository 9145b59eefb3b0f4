package profile

import (
	"math"
	"strconv"
)

// FormatValue writes a value for people, in three significant digits: 1.23s for 1234567890 nanoseconds,
// 5.2MiB for bytes, 12.3k for counts of whatever else, followed by the unit unless that is "count" or empty.
// Counts below 10000 are exact.
func FormatValue(v int64, unit string) string {
	if v > -10000 && v < 10000 {
		return formatUnit(float64(v), unit, strconv.FormatInt(v, 10))
	}
	return FormatFloat(float64(v), unit)
}

// FormatFloat writes as FormatValue does what need not be whole: values per second, per operation.
func FormatFloat(f float64, unit string) string {
	count := significant(f)
	if math.Abs(f) >= 10000 {
		count = formatScaled(f, 1000, "", "k", "M", "G", "T", "P", "E")
	} else if f != 0 && math.Abs(f) < 0.995 {
		count = strconv.FormatFloat(f, 'g', 2, 64)
	}
	return formatUnit(f, unit, count)
}

// formatUnit is f in its unit; count is f for those that have no prefixes of their own.
func formatUnit(f float64, unit, count string) string {
	switch unit {
	case "nanoseconds", "nanosecond", "ns":
		return formatNanos(f)
	case "microseconds", "us", "µs":
		return formatNanos(f * 1e3)
	case "milliseconds", "ms":
		return formatNanos(f * 1e6)
	case "seconds", "s":
		return formatNanos(f * 1e9)
	case "bytes", "byte":
		return formatScaled(f, 1024, "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
	case "kilobytes", "kB":
		return formatScaled(f*1024, 1024, "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB")
	}
	if unit == "" || unit == "count" {
		return count
	}
	return count + " " + unit
}

// FormatShare writes part/whole as a percentage: 12.3%, 0.04%, and <0.01% for what is less. Of nothing
// it is 0%.
func FormatShare(part, whole int64) string {
	if whole == 0 {
		return "0%"
	}
	return FormatRatio(float64(part) / float64(whole))
}

// FormatRatio writes a ratio as FormatShare does.
func FormatRatio(ratio float64) string {
	p := 100 * ratio
	switch a := math.Abs(p); {
	case a == 0:
		return "0%"
	case a < 0.01:
		return "<0.01%"
	case a < 0.995:
		return strconv.FormatFloat(p, 'f', 2, 64) + "%"
	case a < 99.95:
		return strconv.FormatFloat(p, 'f', 1, 64) + "%"
	}
	return strconv.FormatFloat(p, 'f', 0, 64) + "%"
}

func formatNanos(v float64) string {
	const second = 1e9
	switch a := math.Abs(v); {
	case a == 0:
		return "0s"
	case a < 999.5:
		return significant(v) + "ns"
	case a < 999.5e3:
		return significant(v/1e3) + "µs"
	case a < 999.5e6:
		return significant(v/1e6) + "ms"
	case a < 120*second:
		return significant(v/second) + "s"
	case a < 120*60*second:
		return significant(v/(60*second)) + "min"
	case a < 100*3600*second:
		return significant(v/(3600*second)) + "h"
	}
	return significant(v/(86400*second)) + "d"
}

func formatScaled(v, step float64, units ...string) string {
	i := 0
	for i+1 < len(units) && math.Abs(v) >= step*0.9995 {
		v /= step
		i++
	}
	return significant(v) + units[i]
}

// significant writes v with three significant digits, more only in front of the point.
func significant(v float64) string {
	digits := 0
	switch a := math.Abs(v); {
	case a < 9.995 && v != math.Trunc(v):
		digits = 2
	case a < 99.95 && v != math.Trunc(v):
		digits = 1
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}

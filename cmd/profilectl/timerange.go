package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// timeRange is the flags --from and --to.
type timeRange struct{ from, to string }

func (r *timeRange) flags(cmd *cobra.Command, from string) {
	cmd.Flags().StringVar(&r.from, "from", from, "beginning: a distance as -1h or -2d, RFC 3339, Unix seconds, or 0 for everything")
	cmd.Flags().StringVar(&r.to, "to", "now", "end, in the same forms")
}

// parse returns both ends; a zero time is unbounded.
func (r *timeRange) parse(now time.Time) (from, to time.Time, err error) {
	if from, err = parseTime(r.from, now); err != nil {
		return from, to, usage("--from %s", err)
	}
	if to, err = parseTime(r.to, now); err != nil {
		return from, to, usage("--to %s", err)
	}
	if !from.IsZero() && !to.IsZero() && !from.Before(to) {
		return from, to, usage("--from %s is not before --to %s", from.Format(time.RFC3339), to.Format(time.RFC3339))
	}
	return from, to, nil
}

// parseTime reads now, a distance from now (-90s, -1h30m, -2d, -1w, also now-1h), a date or time as in RFC 3339
// (local time unless a zone is given) or seconds since the Unix epoch. "0" is the zero time: unbounded.
func parseTime(s string, now time.Time) (time.Time, error) {
	switch s {
	case "now", "":
		return now, nil
	case "0":
		return time.Time{}, nil
	}
	if rest := strings.TrimPrefix(s, "now"); strings.HasPrefix(rest, "-") || strings.HasPrefix(rest, "+") {
		if d, err := parseDistance(rest[1:]); err == nil {
			if rest[0] == '-' {
				d = -d
			}
			return now.Add(d), nil
		}
	}
	if n, err := strconv.ParseFloat(s, 64); err == nil && n > 0 && n < math.MaxInt64/1e9 {
		sec, frac := math.Modf(n)
		return time.Unix(int64(sec), int64(frac*1e9)), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q: want a distance as -1h or -2d, a time as 2026-01-02T15:04:05Z, Unix seconds, or now", s)
}

// parseDistance is time.ParseDuration with days and weeks.
func parseDistance(s string) (time.Duration, error) {
	for suffix, unit := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if digits, ok := strings.CutSuffix(s, suffix); ok {
			if n, err := strconv.ParseFloat(digits, 64); err == nil && n >= 0 && n*float64(unit) < math.MaxInt64 {
				return time.Duration(n * float64(unit)), nil
			}
		}
	}
	d, err := time.ParseDuration(s)
	if err == nil && d < 0 {
		return 0, fmt.Errorf("negative duration %s", s)
	}
	return d, err
}

func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// describeRange says which time an answer is about.
func describeRange(from, to time.Time) string {
	switch {
	case from.IsZero() && to.IsZero():
		return "all time"
	case from.IsZero():
		return "until " + to.Format(time.RFC3339)
	case to.IsZero():
		return "since " + from.Format(time.RFC3339)
	}
	return from.Format(time.RFC3339) + " to " + to.Format(time.RFC3339)
}

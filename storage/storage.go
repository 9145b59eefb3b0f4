// Package storage keeps profiles and answers what was kept. It promises: what Write acknowledged is on
// disk, is in the next answer, and is there exactly once after a crash at any moment.
//
// [Store] is the contract. Implementations are folders below this one, each passes storagetest.Test.
//
// # What is kept
//
// A sample's identity within its profile is its stack, its link and its time. Samples that agree in all three
// are one sample with the sum of their values, and a sample whose value is 0 is none: it is in no answer, and a
// profile without samples leaves no trace. A sample without a stack is kept like any other. A sample's time is
// its own or, where that is 0, its profile's.
//
// # Over time
//
// Series lays values on steps. A sample that was taken at another time than its profile's counts in the step of
// that time. What a group's other samples of profiles that cover the same time [t, t+d) add up to, v, is spread
// evenly over it: until a moment x of that time v*(x-t)/d of it have passed, rounded to the nearest, halves away
// from zero, and a step has what passed during it. With d = 0 all of it is at t. So what was spread adds up to v
// exactly, and the answer does not depend on how or in what order the profiles are stored.
//
//	t       10 s       t+d              v = 100 over 25 s, steps of 10 s
//	├────────┬────────┬──┤
//	│   40   │   40   │20│
//
// Which samples are selected goes by their own times, as everywhere. A profile that begins before Selection.End
// is spread over all its time, also where that lies after it, and one that begins before Selection.Start is not
// there: all points together are the sum of what Merge answers to the same selection. Who draws a chart asks for
// a little more at both ends, and cuts.
//
// A type may be a level (profile.Type.Level): adding what is there at several moments means nothing. Then a profile
// says that all its selected samples together, whatever their own times, are the value during [t, t+d), for a nanosecond
// if d = 0; several of one series that cover the same time are one. In each step a series has the mean of its
// profiles, each weighed by the time that it has in the step, rounded in the same way, and a group has the sum of its
// series'.
package storage

import (
	"context"
	"errors"
	"time"

	"github.com/perfuse/perfuse/profile"
)

// Sentinels that callers branch on. They are wrapped; test with errors.Is.
var (
	// ErrReadOnly: the store refuses writes (disk full or not writable) but answers queries.
	ErrReadOnly = errors.New("storage is read-only")
	// ErrInvalid: the batch breaks the data model (an index outside of its table, no type, ...). Nothing of
	// it was stored; sending it again is useless.
	ErrInvalid = errors.New("invalid batch")
	// ErrLimit: the answer would exceed a limit of the store or of the query.
	ErrLimit = errors.New("limit exceeded")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("storage is closed")
)

// IndexResolution is how exactly Types, LabelNames, LabelValues and Labels see time: they answer for the range
// from Start rounded down to End rounded up to multiples of it since the Unix epoch.
const IndexResolution = 5 * time.Minute

// RecentIDs is how many IDs of profiles a store can give back at least.
const RecentIDs = 1 << 16

// Selection says which samples a query is about.
type Selection struct {
	// Type is the profile type, or nil for all (label queries only).
	Type *profile.Type
	// Selector matches series; empty matches all.
	Selector profile.Selector
	// Start and End bound the samples' time: Start <= t < End. Zero means unbounded.
	Start, End time.Time
	// TraceIDs, SpanIDs and SpanNames narrow to samples taken while one of them was served. A sample must
	// be in every list that is not empty.
	TraceIDs  []profile.TraceID
	SpanIDs   []profile.SpanID
	SpanNames []string
	// Stacks, if it is not nil, says which stacks count. Only Series and Exemplars ask: the values of others are 0 for it, and their
	// profiles stay, so that the levels of what counts and of what does not add up to those of everything.
	Stacks Judge
}

// Judge says by index which stacks of a dictionary count. The answer must depend on nothing but a stack's frames. The
// dictionary is the judge's, which may give its frames names. A judge is asked at least once about each stack of a
// selection, by one goroutine at a time. Its error ends the query.
type Judge func(ctx context.Context, d *profile.Dictionary) ([]bool, error)

// Point is the value in [TimeNanos, TimeNanos+step): the sum of amounts, or the mean level.
type Point struct {
	TimeNanos int64
	Value     int64
}

// TimeSeries is the course of one group. Points are in order of time; those of value 0 are left out.
type TimeSeries struct {
	Labels profile.Labels
	Points []Point
}

// Store keeps profiles. All methods are safe for concurrent use, honour the context, and answer the same
// question over the same data byte for byte alike (sorted, deterministic).
type Store interface {
	// Write stores all of b or nothing, and returns when it is on disk and visible to queries. It does
	// not keep b. Errors: ErrInvalid, ErrReadOnly, ErrClosed, or the context's.
	Write(ctx context.Context, b *profile.Batch) error

	// Types, LabelNames and LabelValues answer from an index, sorted. See [IndexResolution] for how they
	// see time.
	Types(ctx context.Context, start, end time.Time) ([]profile.Type, error)
	LabelNames(ctx context.Context, sel Selection) ([]string, error)
	LabelValues(ctx context.Context, name string, sel Selection) ([]string, error)
	// Labels returns the distinct label sets, sorted, that have samples in the selection. It sees time as
	// LabelNames does.
	Labels(ctx context.Context, sel Selection) ([]profile.Labels, error)

	// Series lays values on steps as the package comment says, in groups of equal values of the labels in by
	// (none: one group), of which those without a point are left out. Steps are aligned to multiples of step
	// since the Unix epoch. The selection must name a type, and step must be positive, else ErrInvalid. Too
	// many points, or a profile over too many steps, are ErrLimit.
	Series(ctx context.Context, sel Selection, by []string, step time.Duration) ([]TimeSeries, error)

	// Exemplars returns, for each group of equal values of the labels in by and each step, the spans of the largest
	// value among the selected samples: most of them, in the order of [SortExemplars]. Steps are as in Series. What a
	// span cost is taken profile by profile, in its step by the time of the span's first sample in it; a store may take a profile of
	// very many samples in parts. The selection must name a type, and step and most must be positive, else
	// ErrInvalid. Too many are ErrLimit.
	Exemplars(ctx context.Context, sel Selection, by []string, step time.Duration, most int) ([]Exemplar, error)

	// Merge sums values by stack: one profile per group of equal values of the labels in by (none: one
	// profile), sorted by labels. Each profile's Period is that of the profiles it was merged from if they
	// agree, else 0; its TimeNanos and DurationNanos span from the first to the last of what was merged:
	// the whole time of every profile with a selected sample, and those samples' times. Samples have no
	// time and no link, each stack is there once, sums of 0 are left out. A group without labels has nil
	// Labels. The selection must name a type, else ErrInvalid. The batch is the caller's. A store that would need too
	// much memory for it makes one stack of those of the least values, whose only frame is a [profile.KindCut], or
	// returns ErrLimit.
	Merge(ctx context.Context, sel Selection, by []string) (*profile.Batch, error)

	// Recent returns the IDs of the profiles that were written last, each once, in the order in which they
	// were written last, the oldest first: RecentIDs of them, or all that there ever were if those are fewer.
	// An ID becomes durable with its profile: after a crash at any moment it is there exactly if the profile
	// is. It stays when the profile is dropped for its age. A profile of which nothing is kept leaves no ID.
	// The slice is the caller's.
	Recent(ctx context.Context) ([]profile.ID, error)

	// Close waits for running calls, flushes and releases everything. What was acknowledged stays.
	Close() error
}

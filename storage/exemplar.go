package storage

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

	"github.com/perfuse/perfuse/profile"
)

// Exemplar is what a span cost, as one profile tells: a point of a series that leads to a request.
type Exemplar struct {
	// Labels are the values of what is grouped by.
	Labels profile.Labels
	// TimeNanos is that of the first of the span's samples.
	TimeNanos int64
	// Value is the sum of its samples, more than 0.
	Value int64
	// Link has a trace or a span, or both.
	Link profile.Link
}

// Compare orders the exemplars of one step: the largest value first; then by trace, span, name and time.
func (e *Exemplar) Compare(o *Exemplar) int {
	return cmp.Or(
		cmp.Compare(o.Value, e.Value),
		bytes.Compare(e.Link.TraceID[:], o.Link.TraceID[:]),
		bytes.Compare(e.Link.SpanID[:], o.Link.SpanID[:]),
		strings.Compare(e.Link.SpanName, o.Link.SpanName),
		cmp.Compare(e.TimeNanos, o.TimeNanos),
	)
}

// SortExemplars orders an answer: by labels, by step, and within a step by [Exemplar.Compare].
func SortExemplars(list []Exemplar, step int64) {
	slices.SortFunc(list, func(a, b Exemplar) int {
		return cmp.Or(a.Labels.Compare(b.Labels), cmp.Compare(a.TimeNanos/step, b.TimeNanos/step), a.Compare(&b))
	})
}

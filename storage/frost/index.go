package frost

import (
	"math"
	"slices"
	"sort"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/dictionary"
)

// seriesIndex finds series by type and labels. It has every series that had a row and was not forgotten.
type seriesIndex struct {
	byID    []seriesEntry // by SeriesID; see has
	byType  map[profile.Type][]dictionary.SeriesID
	byLabel map[profile.Label][]dictionary.SeriesID
	count   int
}

// seriesEntry is nil for a series that is not known: that many ids cost no more than a pointer.
type seriesEntry struct{ *knownSeries }

type knownSeries struct {
	typ    profile.Type
	labels profile.Labels
}

func newSeriesIndex() *seriesIndex {
	return &seriesIndex{byType: map[profile.Type][]dictionary.SeriesID{}, byLabel: map[profile.Label][]dictionary.SeriesID{}}
}

// has says whether a series is known.
func (x *seriesIndex) has(id dictionary.SeriesID) bool {
	return int(id) < len(x.byID) && x.byID[id].knownSeries != nil
}

// add makes a series known, reading it from the dictionary. It says whether there is such a series.
func (x *seriesIndex) add(id dictionary.SeriesID, d *dictionary.Dictionary) bool {
	if x.has(id) {
		return true
	}
	typ, labels, ok := d.Series(id)
	if !ok {
		return false
	}
	for int(id) >= len(x.byID) {
		x.byID = append(x.byID, seriesEntry{})
	}
	x.byID[id] = seriesEntry{&knownSeries{typ, labels}}
	x.byType[typ] = append(x.byType[typ], id)
	for _, l := range labels {
		x.byLabel[l] = append(x.byLabel[l], id)
	}
	x.count++
	return true
}

// match calls f for every series of a type, or of all, that a selector matches.
func (x *seriesIndex) match(typ *profile.Type, sel profile.Selector, f func(dictionary.SeriesID, *seriesEntry)) {
	var candidates []dictionary.SeriesID
	narrowed := false
	narrow := func(ids []dictionary.SeriesID) {
		if !narrowed || len(ids) < len(candidates) {
			candidates, narrowed = ids, true
		}
	}
	if typ != nil {
		narrow(x.byType[*typ])
	}
	for _, m := range sel {
		if m.Op == profile.MatchEqual && m.Value != "" {
			narrow(x.byLabel[profile.Label{Name: m.Name, Value: m.Value}])
		}
	}
	one := func(id dictionary.SeriesID) {
		e := &x.byID[id]
		if e.knownSeries != nil && e.typ.Name != "" && (typ == nil || e.typ == *typ) && sel.Match(e.labels) {
			f(id, e)
		}
	}
	if narrowed {
		for _, id := range candidates {
			one(id)
		}
		return
	}
	for id := range x.byID {
		one(dictionary.SeriesID(id))
	}
}

// bucket is a time divided by storage.IndexResolution.
type bucket int64

func bucketOf(nanos int64) bucket { return bucket(nanos / int64(storage.IndexResolution)) }

// endOf is the last moment of a bucket.
func endOf(b bucket) int64 {
	if int64(b) >= math.MaxInt64/int64(storage.IndexResolution) {
		return math.MaxInt64
	}
	return (int64(b)+1)*int64(storage.IndexResolution) - 1
}

// run is a range of buckets, both ends included.
type run struct{ from, to bucket }

// runs are disjoint, in order, with gaps between them.
type runs []run

func (rs *runs) add(from, to bucket) {
	s := *rs
	if n := len(s); n > 0 && from >= s[n-1].from && from <= s[n-1].to+1 {
		s[n-1].to = max(s[n-1].to, to)
		return
	}
	// [i, j) are the runs that touch the new one.
	i := sort.Search(len(s), func(i int) bool { return s[i].to+1 >= from })
	j := sort.Search(len(s), func(j int) bool { return s[j].from > to+1 })
	if i < j {
		from, to = min(from, s[i].from), max(to, s[j-1].to)
	}
	*rs = slices.Replace(s, i, j, run{from, to})
}

func (rs runs) overlap(from, to bucket) bool {
	i := sort.Search(len(rs), func(i int) bool { return rs[i].to >= from })
	return i < len(rs) && rs[i].from <= to
}

// span is what an index knows about the rows of some place: which series have samples when.
type span struct {
	series      map[dictionary.SeriesID]*runs
	first, last int64 // of the samples' times
}

func newSpan() span {
	return span{series: map[dictionary.SeriesID]*runs{}, first: math.MaxInt64, last: math.MinInt64}
}

// add notes a row. s is its decoded payload, needed if its samples have their own times.
func (sp *span) add(r *row, s *samplesOf) {
	sp.first, sp.last = min(sp.first, r.first), max(sp.last, r.last)
	rs := sp.series[r.series]
	if rs == nil {
		rs = &runs{}
		sp.series[r.series] = rs
	}
	if from, to := bucketOf(r.first), bucketOf(r.last); from == to || len(s.times) == 0 {
		rs.add(from, to)
		return
	}
	for _, t := range s.times {
		rs.add(bucketOf(t), bucketOf(t))
	}
}

// overlaps says whether there may be samples with from <= time < to.
func (sp *span) overlaps(from, to int64) bool { return sp.first < to && sp.last >= from }

// coarse widens a time range to storage.IndexResolution.
func coarse(from, to int64) (int64, int64) {
	r := int64(storage.IndexResolution)
	from = from / r * r
	if to > math.MaxInt64-r {
		return from, math.MaxInt64
	}
	return from, (to + r - 1) / r * r
}

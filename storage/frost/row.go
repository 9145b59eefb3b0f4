package frost

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage/dictionary"
)

// row is one profile (or a part of a very large one) as it lies in the log, in FrostDB and in blocks.
type row struct {
	service  dictionary.StringID // the value of service_name
	series   dictionary.SeriesID
	time     int64 // the profile's
	duration int64
	period   int64
	first    int64 // of the samples' times
	last     int64
	samples  int64
	total    int64  // of the samples' values
	payload  []byte // the samples; docs/formats/blocks.md
	// id is the profile's. It is in the log, and later in the file of recent IDs, never in a block: rows that
	// were read have none.
	id profile.ID
}

// maxRowSamples bounds a row; profiles with more samples become several rows.
const maxRowSamples = 1 << 16

// sum identifies the row's content but for the total, which follows from it. Sums of rows are added up, so that their
// order does not matter.
func (r *row) sum() uint64 {
	var b [64]byte
	for i, v := range [...]int64{int64(r.service), int64(r.series), r.time, r.duration, r.period, r.first, r.last, r.samples} {
		binary.LittleEndian.PutUint64(b[i*8:], uint64(v))
	}
	return xxh3.HashSeed(r.payload, xxh3.Hash(b[:]))
}

func (r *row) bytes() int64 { return int64(len(r.payload)) + 64 }

func compareRows(a, b *row) int {
	return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.series, b.series), cmp.Compare(a.time, b.time))
}

// sample is one sample in the store's terms.
type sample struct {
	stack dictionary.StackID
	link  uint32 // index in links, 0 for none
	time  int64
	value int64
}

// link is a link in the store's terms.
type link struct {
	trace profile.TraceID
	span  profile.SpanID
	name  dictionary.StringID
}

// Flags of a payload.
const (
	flagTimes = 1 << iota
	flagLinks
)

// rowEncoder turns profiles into rows. It is for one goroutine.
type rowEncoder struct {
	samples []sample
	links   []link
	byLink  map[link]uint32
	renum   []uint32
}

// rows appends the rows of one profile, of which nothing is kept. Equal samples become one and zeros none.
func (e *rowEncoder) rows(out []row, b *profile.Batch, i int, in *dictionary.Interned) []row {
	p := &b.Profiles[i]
	e.samples, e.links = e.samples[:0], append(e.links[:0], link{})
	clear(e.byLink)
	for j := range p.Samples {
		s := &p.Samples[j]
		if s.Value == 0 {
			continue
		}
		t := s.TimeNanos
		if t == 0 {
			t = p.TimeNanos
		}
		e.samples = append(e.samples, sample{stack: in.Stacks[s.Stack], link: e.link(b, s.Link, in), time: t, value: s.Value})
	}
	slices.SortFunc(e.samples, func(a, b sample) int {
		return cmp.Or(cmp.Compare(a.stack, b.stack), cmp.Compare(a.time, b.time), cmp.Compare(a.link, b.link))
	})
	kept := e.samples[:0]
	for _, s := range e.samples {
		if n := len(kept); n > 0 && kept[n-1].stack == s.stack && kept[n-1].time == s.time && kept[n-1].link == s.link {
			kept[n-1].value += s.value
			continue
		}
		kept = append(kept, s)
	}
	kept = slices.DeleteFunc(kept, func(s sample) bool { return s.value == 0 })
	for len(kept) > 0 {
		n := min(len(kept), maxRowSamples)
		r := row{
			service: in.Services[i], series: in.Series[i], time: p.TimeNanos, duration: p.DurationNanos, period: p.Period,
			first: kept[0].time, last: kept[0].time, samples: int64(n), id: p.ID,
		}
		for _, s := range kept[:n] {
			r.first, r.last = min(r.first, s.time), max(r.last, s.time)
			r.total += s.value
		}
		r.payload = e.payload(kept[:n], p.TimeNanos, r.first != r.last || r.first != r.time)
		out = append(out, r)
		kept = kept[n:]
	}
	return out
}

// link returns the index of a link in e.links, which has equal ones once.
func (e *rowEncoder) link(b *profile.Batch, i profile.LinkIndex, in *dictionary.Interned) uint32 {
	if i == 0 {
		return 0
	}
	l := &b.Dictionary.Links[i]
	k := link{l.TraceID, l.SpanID, in.SpanNames[i]}
	if k == (link{}) {
		return 0
	}
	n, ok := e.byLink[k]
	if !ok {
		if e.byLink == nil {
			e.byLink = map[link]uint32{}
		}
		n = uint32(len(e.links))
		e.links = append(e.links, k)
		e.byLink[k] = n
	}
	return n
}

func (e *rowEncoder) payload(samples []sample, base int64, times bool) []byte {
	links := slices.ContainsFunc(samples, func(s sample) bool { return s.link != 0 })
	flags := byte(0)
	if times {
		flags |= flagTimes
	}
	if links {
		flags |= flagLinks
	}
	b := make([]byte, 0, 16+5*len(samples))
	b = append(b, flags)
	b = binary.AppendUvarint(b, uint64(len(samples)))
	unit := divisor(samples)
	b = binary.AppendUvarint(b, uint64(unit))
	stack := dictionary.StackID(0)
	for _, s := range samples {
		b = binary.AppendUvarint(b, uint64(s.stack-stack))
		stack = s.stack
	}
	for _, s := range samples {
		b = binary.AppendVarint(b, s.value/unit)
	}
	if times {
		for _, s := range samples {
			b = binary.AppendVarint(b, s.time-base)
		}
	}
	if links {
		// Only the links that this row has, in order of their first use.
		e.renum = append(e.renum[:0], make([]uint32, len(e.links))...)
		n := uint32(0)
		for _, s := range samples {
			if s.link != 0 && e.renum[s.link] == 0 {
				n++
				e.renum[s.link] = n
			}
		}
		b = binary.AppendUvarint(b, uint64(n))
		next := uint32(1)
		for _, s := range samples {
			if s.link != 0 && e.renum[s.link] == next {
				l := &e.links[s.link]
				b = append(b, l.trace[:]...)
				b = append(b, l.span[:]...)
				b = binary.AppendUvarint(b, uint64(l.name))
				next++
			}
		}
		for _, s := range samples {
			b = binary.AppendUvarint(b, uint64(e.renum[s.link]))
		}
	}
	return slices.Clip(b)
}

// divisor is the largest number that divides all values: sampling counts periods.
func divisor(samples []sample) int64 {
	g := int64(0)
	for _, s := range samples {
		v := s.value
		if v == math.MinInt64 {
			return 1
		}
		if v < 0 {
			v = -v
		}
		for v != 0 {
			g, v = v, g%v
		}
		if g == 1 {
			break
		}
	}
	return max(g, 1)
}

// errCorruptRow: bytes from disk are no row.
var errCorruptRow = errors.New("corrupt row")

// samplesOf is a decoded payload, in columns. Times and links are empty if no sample has its own.
type samplesOf struct {
	stacks []dictionary.StackID
	values []int64
	times  []int64
	links  []uint32
	table  []link // entry 0 is none
}

func (s *samplesOf) total() (sum int64) {
	for _, v := range s.values {
		sum += v
	}
	return sum
}

// decode reads a payload into s, which reuses its memory. Every sample takes two bytes or more, so what is
// allocated is bounded by the input.
func (s *samplesOf) decode(b []byte, base int64) error {
	s.stacks, s.values, s.times, s.links, s.table = s.stacks[:0], s.values[:0], s.times[:0], s.links[:0], s.table[:0]
	if len(b) == 0 || b[0]&^(flagTimes|flagLinks) != 0 {
		return fmt.Errorf("%w: flags", errCorruptRow)
	}
	flags := b[0]
	d := varints{b: b[1:]}
	n, unit := d.uvarint(), int64(d.uvarint())
	if d.bad || n > uint64(len(d.b))/2 {
		return fmt.Errorf("%w: %d samples in %d bytes", errCorruptRow, n, len(b))
	}
	stack := uint64(0)
	for range n {
		if stack += d.uvarint(); stack > math.MaxUint32 {
			return fmt.Errorf("%w: a stack id is out of range", errCorruptRow)
		}
		s.stacks = append(s.stacks, dictionary.StackID(stack))
	}
	for range n {
		s.values = append(s.values, d.varint()*unit)
	}
	if flags&flagTimes != 0 {
		for range n {
			s.times = append(s.times, base+d.varint())
		}
	}
	if flags&flagLinks != 0 {
		m := d.uvarint()
		if m > uint64(len(d.b))/25 {
			return fmt.Errorf("%w: %d links in %d bytes", errCorruptRow, m, len(d.b))
		}
		s.table = append(s.table, link{})
		for range m {
			var l link
			copy(l.trace[:], d.take(16))
			copy(l.span[:], d.take(8))
			l.name = dictionary.StringID(d.uvarint())
			s.table = append(s.table, l)
		}
		for range n {
			i := d.uvarint()
			if i > m {
				return fmt.Errorf("%w: link %d of %d", errCorruptRow, i, m)
			}
			s.links = append(s.links, uint32(i))
		}
	}
	if d.bad || len(d.b) != 0 {
		return fmt.Errorf("%w: it ends too early or too late", errCorruptRow)
	}
	return nil
}

// varints reads numbers. After one that is not there it is bad, and gives zeros.
type varints struct {
	b   []byte
	bad bool
}

func (d *varints) uvarint() uint64 {
	if len(d.b) > 0 && d.b[0] < 0x80 {
		v := d.b[0]
		d.b = d.b[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.b, d.bad = nil, true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *varints) varint() int64 {
	u := d.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

func (d *varints) take(n int) []byte {
	if len(d.b) < n {
		d.b, d.bad = nil, true
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

// Kinds of log records.
const (
	kindRows      = 1
	kindRowsAndID = 2
)

// kindOf is the kind of the log record that can have rows.
func kindOf(rows []row) byte {
	if slices.ContainsFunc(rows, func(r row) bool { return r.id != profile.ID{} }) {
		return kindRowsAndID
	}
	return kindRows
}

// What a row of kindRowsAndID says of its ID.
const (
	idNone = iota
	idLast // that of the row before: a delivered profile is often several rows
	idOwn
)

// appendRows writes rows as they lie in a log record.
func appendRows(b []byte, kind byte, rows []row) []byte {
	last := profile.ID{}
	b = binary.AppendUvarint(b, uint64(len(rows)))
	for i := range rows {
		r := &rows[i]
		b = binary.AppendUvarint(b, uint64(r.service))
		b = binary.AppendUvarint(b, uint64(r.series))
		b = binary.AppendUvarint(b, uint64(r.time))
		b = binary.AppendUvarint(b, uint64(r.duration))
		b = binary.AppendUvarint(b, uint64(r.period))
		b = binary.AppendVarint(b, r.first-r.time)
		b = binary.AppendVarint(b, r.last-r.time)
		b = binary.AppendUvarint(b, uint64(r.samples))
		b = binary.AppendUvarint(b, uint64(len(r.payload)))
		b = append(b, r.payload...)
		if kind != kindRowsAndID {
			continue
		}
		switch {
		case r.id == profile.ID{}:
			b = append(b, idNone)
		case r.id == last:
			b = append(b, idLast)
		default:
			b = append(append(b, idOwn), r.id[:]...)
		}
		last = r.id
	}
	return b
}

// parseRows reads what appendRows wrote. The payloads are parts of b; totals are found when the rows are checked.
func parseRows(b []byte, kind byte) ([]row, error) {
	d, last := varints{b: b}, profile.ID{}
	n := d.uvarint()
	if d.bad || n > uint64(len(b))/9 {
		return nil, fmt.Errorf("%w: %d rows in %d bytes", errCorruptRow, n, len(b))
	}
	rows := make([]row, 0, n)
	for range n {
		r := row{service: dictionary.StringID(d.uvarint()), series: dictionary.SeriesID(d.uvarint())}
		r.time, r.duration, r.period = int64(d.uvarint()), int64(d.uvarint()), int64(d.uvarint())
		r.first = r.time + d.varint()
		r.last = r.time + d.varint()
		r.samples = int64(d.uvarint())
		size := d.uvarint()
		if d.bad || size > uint64(len(d.b)) {
			return nil, fmt.Errorf("%w: row %d", errCorruptRow, len(rows))
		}
		r.payload = d.take(int(size))
		if kind == kindRowsAndID {
			switch d.uvarint() {
			case idNone:
			case idLast:
				r.id = last
			case idOwn:
				copy(r.id[:], d.take(len(r.id)))
			default:
				return nil, fmt.Errorf("%w: the ID of row %d", errCorruptRow, len(rows))
			}
			last = r.id
		}
		rows = append(rows, r)
	}
	if d.bad || len(d.b) != 0 {
		return nil, fmt.Errorf("%w: %d bytes after the rows", errCorruptRow, len(d.b))
	}
	return rows, nil
}

// check decodes a row from the log, finds its total, and says whether it keeps to its own numbers and to the dictionary.
func (r *row) check(s *samplesOf, stacks uint32) error {
	if r.time < 0 || r.duration < 0 || r.period < 0 || r.first < 0 || r.last < r.first || r.time > math.MaxInt64-r.duration {
		return fmt.Errorf("%w: times", errCorruptRow)
	}
	if err := s.decode(r.payload, r.time); err != nil {
		return err
	}
	if n := len(s.stacks); int64(n) != r.samples || n == 0 || uint32(s.stacks[n-1]) >= stacks {
		return fmt.Errorf("%w: %d samples, wants %d", errCorruptRow, n, r.samples)
	}
	for _, t := range s.times {
		if t < r.first || t > r.last {
			return fmt.Errorf("%w: a sample's time is out of range", errCorruptRow)
		}
	}
	r.total = s.total()
	return nil
}

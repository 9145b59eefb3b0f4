package frost

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage/dictionary"
	"github.com/perfuse/perfuse/storage/storagetest"
)

// rowsOf returns the rows of random batches.
func rowsOf(t testing.TB, seed uint64, batches int) (*dictionary.Dictionary, []row) {
	t.Helper()
	rnd, d := storagetest.NewRandom(seed), dictionary.New()
	var rows []row
	var e rowEncoder
	for range batches {
		b := rnd.Batch()
		in, err := d.Intern(b, func(int, *profile.Sample) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		for i := range b.Profiles {
			rows = e.rows(rows, b, i, &in)
		}
	}
	return d, rows
}

func TestRows(t *testing.T) {
	d, rows := rowsOf(t, 3, 100)
	var got []row
	for range 2 {
		kind := kindOf(rows)
		b := appendRows(nil, kind, rows)
		var err error
		if got, err = parseRows(b, kind); err != nil {
			t.Fatal(err)
		}
		var s samplesOf
		for i := range got {
			if err := got[i].check(&s, d.StackCount()); err != nil {
				t.Errorf("row %d: %v", i, err)
			}
		}
		if !reflect.DeepEqual(got, rows) {
			t.Fatal("rows came back otherwise")
		}
		for i := range rows { // as an earlier version wrote them
			rows[i].id = profile.ID{}
		}
	}
	var s samplesOf
	for i := range got {
		if err := s.decode(got[i].payload, got[i].time); err != nil {
			t.Fatal(err)
		}
		if err := got[i].check(&s, uint32(s.stacks[len(s.stacks)-1])); !errors.Is(err, errCorruptRow) {
			t.Errorf("row %d: a stack beyond the dictionary: %v", i, err)
		}
	}
}

func TestPayload(t *testing.T) {
	var e rowEncoder
	var s samplesOf
	f := func(values ...int64) {
		t.Helper()
		in := make([]sample, len(values))
		for i, v := range values {
			in[i] = sample{stack: dictionary.StackID(i * 1000), time: 5, value: v}
		}
		b := e.payload(in, 5, false)
		if err := s.decode(b, 5); err != nil || !reflect.DeepEqual(s.values, values) {
			t.Errorf("%v came back as %v, %v", values, s.values, err)
		}
		if len(s.times) != 0 || len(s.links) != 0 {
			t.Errorf("%v has times or links", values)
		}
	}
	f(1)
	f(10_000_000, 30_000_000, -20_000_000)
	f(math.MinInt64, math.MaxInt64, 2)
	f(math.MinInt64, math.MinInt64)
	f(math.MaxInt64, math.MaxInt64)
	// CPU samples of 10 ms take two bytes each: the period is not repeated.
	if n := len(e.payload([]sample{{stack: 1, value: 1e7}, {stack: 2, value: 3e7}, {stack: 3, value: 1e7}}, 0, false)); n > 13 {
		t.Errorf("three samples take %d bytes", n)
	}
}

// TestLargeProfile: a profile with more samples than a row may have.
func TestLargeProfile(t *testing.T) {
	d := profile.NewDictionary()
	p := profile.Profile{Type: profile.TypeCPU, TimeNanos: 1, Period: 1}
	f := d.Frame(profile.Frame{Addr: 1})
	stack := d.Stack(profile.Stack{f})
	for i := range maxRowSamples*2 + 5 {
		p.Samples = append(p.Samples, profile.Sample{Stack: stack, Value: 1, TimeNanos: int64(i + 1)})
	}
	b := &profile.Batch{Dictionary: d, Profiles: []profile.Profile{p}}
	dd := dictionary.New()
	in, err := dd.Intern(b, func(int, *profile.Sample) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	var e rowEncoder
	rows := e.rows(nil, b, 0, &in)
	if len(rows) != 3 || rows[0].samples != maxRowSamples || rows[2].samples != 5 || rows[1].first != maxRowSamples+1 {
		t.Errorf("%d rows", len(rows))
	}
}

func metaOf(t testing.TB) *meta {
	d, rows := rowsOf(t, 5, 50)
	m := &meta{segments: [2]uint64{3, 9}, size: 12345, span: newSpan()}
	var s samplesOf
	for i := range rows {
		if err := rows[i].check(&s, d.StackCount()); err != nil {
			t.Fatal(err)
		}
		m.span.add(&rows[i], &s)
		m.totals.add(&rows[i])
	}
	return m
}

func TestMeta(t *testing.T) {
	m := metaOf(t)
	for _, m.generation = range []uint32{0, 1, 300} {
		got, err := decodeMeta(m.encode())
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Fatalf("the index came back otherwise: %v\n got %+v\nwant %+v", err, got, m)
		}
		b := m.encode()
		for i := range b {
			if _, err := decodeMeta(b[:i]); !errors.Is(err, errCorruptFile) {
				t.Fatalf("cut at %d: %v", i, err)
			}
		}
	}
}

// TestRuns compares runs with a set.
func TestRuns(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		var rs runs
		set := map[bucket]bool{}
		for range rnd.IntN(40) {
			from := bucket(rnd.IntN(60))
			to := from + bucket(rnd.IntN(4))
			rs.add(from, to)
			for b := from; b <= to; b++ {
				set[b] = true
			}
		}
		for i, r := range rs {
			if r.from > r.to || i > 0 && rs[i-1].to+1 >= r.from {
				t.Fatalf("not in order: %v", rs)
			}
		}
		for b := bucket(-1); b < 70; b++ {
			if rs.overlap(b, b) != set[b] {
				t.Fatalf("%v and bucket %d", rs, b)
			}
			if rs.overlap(b, b+2) != (set[b] || set[b+1] || set[b+2]) {
				t.Fatalf("%v and buckets %d to %d", rs, b, b+2)
			}
		}
	}
}

// FuzzRows: no bytes of a log record make the decoders panic, and what passes its checks can be written again.
func FuzzRows(f *testing.F) {
	d, rows := rowsOf(f, 1, 5)
	f.Add(appendRows(nil, kindRowsAndID, rows), byte(kindRowsAndID))
	f.Add(appendRows(nil, kindRows, rows[:1]), byte(kindRows))
	stacks := d.StackCount()
	f.Fuzz(func(t *testing.T, data []byte, kind byte) {
		rows, err := parseRows(data, kind)
		if err != nil {
			return
		}
		var s samplesOf
		sp := newSpan()
		for i := range rows {
			if rows[i].check(&s, stacks) != nil {
				continue
			}
			sp.add(&rows[i], &s)
			again, err := parseRows(appendRows(nil, kind, rows[i:i+1]), kind)
			if err != nil || len(again) != 1 || again[0].sum() != rows[i].sum() || again[0].id != rows[i].id {
				t.Errorf("row %d came back otherwise: %v", i, err)
			}
		}
	})
}

// FuzzFiles: no bytes of a block index or dictionary file, with a good checksum, make the decoders panic.
func FuzzFiles(f *testing.F) {
	m := metaOf(f)
	b := m.encode()
	f.Add(b[8 : len(b)-4])
	d, _ := rowsOf(f, 1, 3)
	f.Add(d.AppendDelta(nil, dictionary.Marks{}, d.Marks()))
	ids := recent{{1}, {2}}.encode()
	f.Add(ids[8 : len(ids)-4])
	m.generation = 2
	b = m.encode()
	f.Add(b[8 : len(b)-4])
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, magic := range [][8]byte{metaMagic, metaMagic2} {
			if m, err := decodeMeta(seal(magic, body)); err == nil {
				again, err := decodeMeta(m.encode())
				if err != nil || !reflect.DeepEqual(again, m) {
					t.Errorf("the index came back otherwise: %v", err)
				}
			}
		}
		decode := func(file []byte) (h dictionaryHead, deltas []byte, ok bool, err error) {
			h, ok, err = decodeDictionary(bytes.NewReader(file), int64(len(file)), func(delta []byte) error {
				deltas = append(deltas, delta...)
				return nil
			})
			return h, deltas, ok, err
		}
		h, delta, ok, err := decode(encodeDictionary(dictionary.Marks{1, 2}, body))
		if !ok || err != nil || h != (dictionaryHead{to: dictionary.Marks{1, 2}}) || !bytes.Equal(delta, body) {
			t.Errorf("the dictionary file came back otherwise: %v", err)
		}
		_, _, _, _ = decode(body)
		whole := dictionaryHead{to: dictionary.Marks{1, 2}, lost: dictionary.Marks{5: 7}, whole: true}
		if h, _, ok, _ := decode(append(whole.encode(), body...)); !ok || h != whole {
			t.Errorf("the head of a whole dictionary is %+v", h)
		}
		d := dictionary.New()
		if _, err := d.Apply(body); err == nil {
			var file bytes.Buffer
			whole = dictionaryHead{to: d.Marks(), lost: d.Lost(), whole: true}
			if err := encodeWhole(&file, whole, d); err != nil {
				t.Fatal(err)
			}
			h, deltas, ok, err := decode(file.Bytes())
			if again := dictionary.New(); err == nil {
				for len(deltas) > 0 && err == nil {
					deltas, err = again.Apply(deltas)
				}
				if again.Marks() != d.Marks() {
					err = errCorruptFile
				}
			}
			if !ok || err != nil || h != whole {
				t.Errorf("a whole dictionary came back otherwise: %v", err)
			}
			for _, cut := range []int{1, 8, file.Len() / 2} {
				if _, _, _, err := decode(file.Bytes()[:file.Len()-cut]); err == nil {
					t.Errorf("a whole dictionary without its last %d bytes is fine", cut)
				}
			}
		}
		_, _ = decodeMeta(body)
		if ids, err := decodeRecent(seal(recentMagic, body)); err == nil {
			if again, err := decodeRecent(ids.encode()); err != nil || !reflect.DeepEqual(again, ids) {
				t.Errorf("the recent IDs came back otherwise: %v", err)
			}
		}
	})
}

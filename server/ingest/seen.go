package ingest

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/perfuse/perfuse/profile"
	"github.com/zeebo/xxh3"
	profilesv1 "go.opentelemetry.io/proto/otlp/profiles/v1development"
)

// seen remembers the last profiles that were stored, so that one that is sent again, because the first
// answer was lost, is acknowledged and not stored again. It begins with what the store remembers: the answer
// may have been lost with the server.
//
//	         claim                 finish(true)
//	unknown ──────▶ in flight ─────────────────▶ stored ──▶ (forgotten after window others)
//	   ▲                │ finish(false)
//	   └────────────────┘
//
// A claim of something in flight waits for its end: if that stored it, it is stored; if not, the waiter
// takes it over. A claim takes all its keys or none, so that two of them never wait for each other.
type seen struct {
	mu       sync.Mutex
	inFlight map[profile.ID]chan struct{}
	stored   map[profile.ID]struct{}
	ring     []profile.ID
	next     int
}

// newSeen returns one that knows what is stored, each once, the oldest first.
func newSeen(window int, stored []profile.ID) *seen {
	s := &seen{inFlight: map[profile.ID]chan struct{}{}, stored: map[profile.ID]struct{}{}, ring: make([]profile.ID, window)}
	for _, k := range stored {
		s.remember(k)
	}
	return s
}

// keyOf identifies a profile by its id and, since some senders give one id to all that they took at one
// moment, by what it says that a collector on the way does not change. ok is false if it has no id.
func keyOf(p *profilesv1.Profile) (key profile.ID, ok bool) {
	zero := true
	for _, b := range p.GetProfileId() {
		zero = zero && b == 0
	}
	if zero {
		return key, false
	}
	h := xxh3.New()
	h.Write(p.GetProfileId())
	var buf [8]byte
	num := func(v uint64) {
		for i := range buf {
			buf[i] = byte(v >> (8 * i))
		}
		h.Write(buf[:])
	}
	num(p.GetTimeUnixNano())
	num(p.GetDurationNano())
	num(uint64(p.GetPeriod()))
	num(uint64(len(p.GetSamples())))
	var values, times, n uint64
	for _, s := range p.GetSamples() {
		for _, v := range s.GetValues() {
			values += uint64(v)
		}
		for _, t := range s.GetTimestampsUnixNano() {
			times += t
		}
		n += uint64(len(s.GetTimestampsUnixNano()))
	}
	num(values)
	num(times)
	num(n)
	return h.Sum128().Bytes(), true
}

// claim takes the keys that are not stored yet and returns them as fresh. The caller must call finish and
// say whether it stored them. It waits while any of them is in flight elsewhere.
func (s *seen) claim(ctx context.Context, keys []profile.ID) (fresh map[profile.ID]bool, finish func(stored bool), err error) {
	for {
		s.mu.Lock()
		var wait chan struct{}
		for _, k := range keys {
			if wait = s.inFlight[k]; wait != nil {
				break
			}
		}
		if wait == nil {
			break
		}
		s.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
	defer s.mu.Unlock()
	done := make(chan struct{})
	fresh = map[profile.ID]bool{}
	for _, k := range keys {
		if _, ok := s.stored[k]; !ok {
			fresh[k] = true
			s.inFlight[k] = done
		}
	}
	return fresh, func(stored bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for k := range fresh {
			delete(s.inFlight, k)
			if stored {
				s.remember(k)
			}
		}
		close(done)
	}, nil
}

func (s *seen) remember(k profile.ID) {
	if len(s.ring) == 0 {
		return
	}
	delete(s.stored, s.ring[s.next])
	s.ring[s.next] = k
	s.stored[k] = struct{}{}
	s.next = (s.next + 1) % len(s.ring)
}

// delivery is what tells profiles that come again from others.
type delivery struct {
	key   profile.ID
	named bool  // the key is made of the sender's own id; if not, of all that it sent
	from  int64 // when they were taken, as is said beside them; 0: it is not
}

// known returns the id of profiles which themselves say that they were taken at that time. What only says the second
// is not enough for one: processes that were forked idle alike and send the same, at the same full seconds. unsure is
// what they are known by.
func (d delivery) known(taken int64) (id, unsure profile.ID) {
	switch {
	case d.named, precise(taken), precise(d.from):
		return d.key, unsure
	case d.from != 0:
		return id, d.key
	}
	return id, unsure
}

func precise(nanos int64) bool { return nanos > leastTime && nanos%1e9 != 0 }

// rawDelivery is that of a pprof among the series of a request.
func rawDelivery(s *rawSeries, p *rawProfile) delivery {
	h := xxh3.New()
	h.WriteString(s.name + "\x00" + s.labels.String() + "\x00" + p.id)
	if p.id == "" {
		h.WriteString("\x00")
		h.Write(p.data)
	}
	return delivery{key: h.Sum128().Bytes(), named: p.id != ""}
}

// delivery is that of what was posted with these parameters. A form is its parts: what is between them differs each time.
func (u *upload) delivery(q url.Values) delivery {
	h := xxh3.New()
	h.WriteString(q.Encode())
	part := func(name string, data []byte) {
		fmt.Fprintf(h, "\x00%q %d\x00", name, len(data))
		h.Write(data)
	}
	if u.form == nil {
		part("", u.data)
	}
	for _, name := range slices.Sorted(maps.Keys(u.form)) {
		part(name, u.form[name])
	}
	d := delivery{key: h.Sum128().Bytes()}
	if from := q.Get("from"); from != "" && !strings.HasPrefix(from, "now") {
		d.from = u.span.from
	}
	return d
}

package ingest

import (
	"context"
	"sync"

	"github.com/zeebo/xxh3"
	profilesv1 "go.opentelemetry.io/proto/otlp/profiles/v1development"
)

// seen remembers the last profiles that were stored, so that one that is sent again, because the first
// answer was lost, is acknowledged and not stored again.
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
	inFlight map[profileKey]chan struct{}
	stored   map[profileKey]struct{}
	ring     []profileKey
	next     int
}

type profileKey xxh3.Uint128

func newSeen(window int) *seen {
	return &seen{inFlight: map[profileKey]chan struct{}{}, stored: map[profileKey]struct{}{}, ring: make([]profileKey, window)}
}

// keyOf identifies a profile by its id and, since some senders give one id to all that they took at one
// moment, by what it says that a collector on the way does not change. ok is false if it has no id.
func keyOf(p *profilesv1.Profile) (key profileKey, ok bool) {
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
	return profileKey(h.Sum128()), true
}

// claim takes the keys that are not stored yet and returns them as fresh. The caller must call finish and
// say whether it stored them. It waits while any of them is in flight elsewhere.
func (s *seen) claim(ctx context.Context, keys []profileKey) (fresh map[profileKey]bool, finish func(stored bool), err error) {
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
	fresh = map[profileKey]bool{}
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

func (s *seen) remember(k profileKey) {
	if len(s.ring) == 0 {
		return
	}
	delete(s.stored, s.ring[s.next])
	s.ring[s.next] = k
	s.stored[k] = struct{}{}
	s.next = (s.next + 1) % len(s.ring)
}

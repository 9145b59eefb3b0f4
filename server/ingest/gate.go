package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync/atomic"
	"time"

	"github.com/perfuse/perfuse/server/limits"
	"golang.org/x/sync/semaphore"
)

// ErrBusy: as much is being taken in as memory allows.
var ErrBusy = errors.New("the server is busy; send the profiles again later")

// busy says what all requests together have reached. It is ErrBusy and the limit's error in one.
func busy(name limits.Name, max int64, what string) error {
	return fmt.Errorf("%w: %w", ErrBusy, limits.Count(name, math.MaxInt64, max, "%s", what))
}

// waitTime is how long a request waits for others.
const waitTime = 10 * time.Second

// gate bounds what all requests together take of memory, in three steps:
//
//	read the body       all bodies together, as they are on the wire; beyond that they are refused at once
//	wait for a turn     so many are unpacked and decoded at a time; a slow client holds none
//	wait for room       what is decoded, all together
type gate struct {
	limits *limits.Limits
	wire   atomic.Int64
	turns  queue
	room   queue // in bytes
}

func newGate(lim *limits.Limits) *gate {
	return &gate{
		limits: lim,
		turns:  newQueue(limits.ConcurrentIngests, lim.ConcurrentIngests, "too many requests are stored at this moment"),
		room:   newQueue(limits.DecodedBytes, lim.DecodedBytes, "what is decoded at this moment takes too much memory"),
	}
}

// queue lets in what there is room for; others wait, for waitTime at most.
type queue struct {
	room *semaphore.Weighted // nil: no bound
	full error
}

func newQueue(name limits.Name, max int64, what string) queue {
	if max <= 0 {
		return queue{}
	}
	return queue{semaphore.NewWeighted(max), busy(name, max, what)}
}

func (q queue) enter(ctx context.Context, n int64) (leave func(), err error) {
	if q.room == nil {
		return func() {}, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, waitTime, q.full)
	defer cancel()
	if err := q.room.Acquire(ctx, n); err != nil {
		return nil, fmt.Errorf("waiting for other requests to end: %w", context.Cause(ctx))
	}
	return func() { q.room.Release(n) }, nil
}

// enter reads a body, of which the client says that it has so many bytes (-1: it does not say), and waits for a turn.
// The caller calls leave when it is done with both.
func (g *gate) enter(ctx context.Context, r io.Reader, size int64) (body []byte, leave func(), err error) {
	if err := limits.Count(limits.BodyBytes, size, g.limits.BodyBytes, "%s is too large", wireBody); err != nil {
		return nil, nil, err
	}
	in := g.hold(r)
	body, err = limits.ReadAll(in)
	if err != nil {
		in.release()
		return nil, nil, readError("", err)
	}
	end, err := g.turns.enter(ctx, 1)
	if err != nil {
		in.release()
		return nil, nil, err
	}
	return body, func() {
		in.release()
		end()
	}, nil
}

const wireBody = "the request body"

// hold returns a reader of a body that is not read at once.
func (g *gate) hold(r io.Reader) *heldReader {
	return &heldReader{r: limits.Reader(r, limits.BodyBytes, g.limits.BodyBytes, wireBody, nil), gate: g}
}

// heldReader counts what is read as held until it is released.
type heldReader struct {
	r    io.Reader
	gate *gate
	held int64
	err  error // why it read no more, where that is the server's wish
}

func (h *heldReader) release() { h.gate.wire.Add(-h.held) }

func (h *heldReader) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	h.held += int64(n)
	if max := h.gate.limits.InFlightBytes; h.gate.wire.Add(int64(n)) > max && max > 0 {
		h.err = busy(limits.InFlightBytes, max, "the bodies of all requests together are too large")
		return n, h.err
	}
	return n, err
}

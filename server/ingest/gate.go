package ingest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/perfuse/perfuse/server/limits"
	"golang.org/x/sync/semaphore"
)

// ErrBusy: as much is being taken in as memory allows.
var ErrBusy = errors.New("the server is busy; send the profiles again later")

// waitTime is how long a request waits for others.
const waitTime = 10 * time.Second

// gate bounds what all requests together take of memory, in three steps:
//
//	read the body       all bodies together, as they are on the wire; beyond that they are refused at once
//	wait for a turn     so many are unpacked and decoded at a time; a slow client holds none
//	decode              what is decoded, all together
type gate struct {
	limits *limits.Limits
	wire   atomic.Int64
	turns  *semaphore.Weighted // nil: not bounded
	memory *semaphore.Weighted // nil: not bounded
}

func newGate(lim *limits.Limits) *gate {
	g := &gate{limits: lim}
	if lim.ConcurrentIngests > 0 {
		g.turns = semaphore.NewWeighted(lim.ConcurrentIngests)
	}
	if lim.DecodedBytes > 0 {
		g.memory = semaphore.NewWeighted(lim.DecodedBytes)
	}
	return g
}

// enter reads a body and waits for a turn. The caller calls leave when it is done with both.
func (g *gate) enter(ctx context.Context, r io.Reader) (body []byte, leave func(), err error) {
	in := g.hold(r)
	var buf bytes.Buffer
	if _, err := buf.ReadFrom(in); err != nil {
		in.release()
		return nil, nil, readError("", err)
	}
	end, err := g.turn(ctx)
	if err != nil {
		in.release()
		return nil, nil, err
	}
	return buf.Bytes(), func() {
		in.release()
		end()
	}, nil
}

// hold returns a reader of a body that is not read at once.
func (g *gate) hold(r io.Reader) *heldReader {
	return &heldReader{r: limits.Reader(r, limits.BodyBytes, g.limits.BodyBytes, "the request body", nil), gate: g}
}

// turn waits for a turn.
func (g *gate) turn(ctx context.Context) (end func(), err error) {
	if err := wait(ctx, g.turns, 1); err != nil {
		return nil, err
	}
	return func() {
		if g.turns != nil {
			g.turns.Release(1)
		}
	}, nil
}

// room waits until what is decoded at one time takes no more than one request may.
func (g *gate) room(ctx context.Context, cost int64) (release func(), err error) {
	if err := wait(ctx, g.memory, cost); err != nil {
		return nil, err
	}
	return func() {
		if g.memory != nil {
			g.memory.Release(cost)
		}
	}, nil
}

func wait(ctx context.Context, s *semaphore.Weighted, n int64) error {
	if s == nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, waitTime, ErrBusy)
	defer cancel()
	if err := s.Acquire(ctx, n); err != nil {
		return fmt.Errorf("waiting for other requests to end: %w", context.Cause(ctx))
	}
	return nil
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
		h.err = fmt.Errorf("%w: limit %s is %d", ErrBusy, limits.InFlightBytes, max)
		return n, h.err
	}
	return n, err
}

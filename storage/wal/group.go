package wal

import (
	"context"
	"sync"

	"github.com/perfuse/perfuse/storage"
)

// Group lets many callers share one commit: while one commit runs, what the callers bring meanwhile becomes
// the next. A Group is safe for concurrent use.
type Group[T any] struct {
	commit func([]T) error
	weigh  func(T) int64
	most   int64

	mu      sync.Mutex
	waiting []*request[T]
	busy    bool
	closed  bool
	idle    sync.Cond
}

type request[T any] struct {
	item T
	done chan error
}

// NewGroup returns a group whose commits call commit, one at a time, with items in the order in which they
// were submitted. A commit takes items until their weights reach most.
func NewGroup[T any](most int64, weigh func(T) int64, commit func([]T) error) *Group[T] {
	g := &Group[T]{commit: commit, weigh: weigh, most: most}
	g.idle.L = &g.mu
	return g
}

// Submit returns when a commit with the item ended, with the commit's error. If ctx ends while the item still
// waits, the item is taken back and Submit returns the context's error.
func (g *Group[T]) Submit(ctx context.Context, item T) error {
	r := &request[T]{item: item, done: make(chan error, 1)}
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return storage.ErrClosed
	}
	g.waiting = append(g.waiting, r)
	lead := !g.busy
	g.busy = true
	g.mu.Unlock()
	if lead {
		g.lead()
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		g.mu.Lock()
		for i, w := range g.waiting {
			if w == r {
				g.waiting = append(g.waiting[:i], g.waiting[i+1:]...)
				g.mu.Unlock()
				return ctx.Err()
			}
		}
		g.mu.Unlock()
		return <-r.done // it is being committed: there is an outcome soon
	}
}

// lead starts the goroutine that commits until nothing waits.
func (g *Group[T]) lead() {
	go func() {
		var items []T
		for {
			g.mu.Lock()
			if len(g.waiting) == 0 {
				g.busy = false
				g.idle.Broadcast()
				g.mu.Unlock()
				return
			}
			n, weight := 0, int64(0)
			for n < len(g.waiting) && (n == 0 || weight+g.weigh(g.waiting[n].item) <= g.most) {
				weight += g.weigh(g.waiting[n].item)
				n++
			}
			batch := g.waiting[:n:n]
			g.waiting = append([]*request[T](nil), g.waiting[n:]...)
			g.mu.Unlock()
			items = items[:0]
			for _, r := range batch {
				items = append(items, r.item)
			}
			err := g.commit(items)
			clear(items)
			for _, r := range batch {
				r.done <- err
			}
		}
	}()
}

// Close refuses what is submitted from now on and returns when all that waits is committed.
func (g *Group[T]) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for g.busy {
		g.idle.Wait()
	}
}

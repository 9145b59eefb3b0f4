package frost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/polarsignals/frostdb"
)

// totals say what rows there are, without their order.
type totals struct {
	rows, samples, bytes int64
	sum                  uint64
}

func (t *totals) add(r *row) {
	t.rows++
	t.samples += r.samples
	t.bytes += r.bytes()
	t.sum += r.sum()
}

// head holds the rows of a range of log segments in memory, in a FrostDB of its own and in a tail of rows that
// are too few for a record of it: FrostDB compacts one large record at a hundredth of the cost of as many rows
// in small ones. The span, the totals and the recent IDs are guarded by the store's lock.
type head struct {
	cs      *frostdb.ColumnStore
	table   *frostdb.Table
	opened  time.Time
	readers sync.WaitGroup

	// spilling is held by readers while they read, and by who moves the tail into FrostDB: rows are in one of
	// the two for each reader.
	spilling sync.RWMutex
	tailMu   sync.Mutex
	tail     []row // only appended to; replaced when it was moved
	tailSize int64
	// spillBytes is how large the tail becomes before it is moved if no reader is in the way, and
	// mustSpill times that before readers are waited for.
	spillBytes int64

	span   span
	totals totals
	recent recent
	// segments are the first and the last log segment that have its rows. The last is known when it is sealed.
	segments [2]uint64
}

func openHead(o *Options, first uint64) (*head, error) {
	cs, table, err := openTable(o.Logger, o.compactBytes)
	if err != nil {
		return nil, err
	}
	return &head{cs: cs, table: table, opened: o.Now(), spillBytes: o.spillBytes, span: newSpan(), segments: [2]uint64{first, 0}}, nil
}

const mustSpill = 8

// insert adds rows, all at once for readers. It keeps them.
func (h *head) insert(rows []row) {
	h.tailMu.Lock()
	defer h.tailMu.Unlock()
	h.tail = append(h.tail, rows...)
	for i := range rows {
		h.tailSize += rows[i].bytes()
	}
}

// spill moves the tail into FrostDB if it is large enough, or in any case. It is called by one goroutine at a
// time, beside which nothing is inserted.
func (h *head) spill(always bool) error {
	switch {
	case h.tailSize == 0 || !always && h.tailSize < h.spillBytes:
		return nil
	case always || h.tailSize >= mustSpill*h.spillBytes:
		h.spilling.Lock()
	case !h.spilling.TryLock():
		return nil // after a later commit
	}
	defer h.spilling.Unlock()
	r := record(h.tail)
	defer r.Release()
	if _, err := h.table.InsertRecord(context.Background(), r); err != nil {
		return fmt.Errorf("inserting into FrostDB: %w", err)
	}
	h.tailMu.Lock()
	defer h.tailMu.Unlock()
	h.tail, h.tailSize = nil, 0
	return nil
}

// scan calls each of fns, from one goroutine each, with records of rows that may be in the bounds.
func (h *head) scan(ctx context.Context, b bounds, what reading, fns ...func(*recordColumns) error) error {
	h.spilling.RLock()
	defer h.spilling.RUnlock()
	h.tailMu.Lock()
	tail := h.tail
	h.tailMu.Unlock()
	for len(tail) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(len(tail), 4096)
		c := columnsOfRows(tail[:n])
		if err := fns[0](&c); err != nil {
			return err
		}
		tail = tail[n:]
	}
	return scanTable(ctx, h.table, b, what, fns...)
}

// write writes the rows, sorted, as Parquet. Nothing may be inserted meanwhile.
func (h *head) write(w io.Writer) error {
	if err := h.spill(true); err != nil {
		return err
	}
	if err := setRowGroups(h.cs, h.totals.rows, h.totals.bytes); err != nil {
		return err
	}
	return h.table.ActiveBlock().Serialize(w)
}

// close waits for readers and frees the memory.
func (h *head) close() error {
	h.readers.Wait()
	if err := h.cs.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("closing FrostDB: %w", err)
	}
	return nil
}

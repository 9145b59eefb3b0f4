package frost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/go-kit/log"
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

// head holds the rows of a range of log segments in memory, in a FrostDB of its own. Its span and totals are
// guarded by the store's lock; rows become visible with them.
type head struct {
	cs      *frostdb.ColumnStore
	table   *frostdb.Table
	opened  time.Time
	readers sync.WaitGroup

	span   span
	totals totals
	// segments are the first and the last log segment that have its rows. The last is known when it is sealed.
	segments [2]uint64
}

func openHead(logger log.Logger, first uint64, now time.Time) (*head, error) {
	cs, table, err := openTable(logger)
	if err != nil {
		return nil, err
	}
	return &head{cs: cs, table: table, opened: now, span: newSpan(), segments: [2]uint64{first, 0}}, nil
}

// insert adds rows, all at once for readers.
func (h *head) insert(ctx context.Context, rows []row) error {
	r := record(rows)
	defer r.Release()
	if _, err := h.table.InsertRecord(ctx, r); err != nil {
		return fmt.Errorf("inserting into FrostDB: %w", err)
	}
	return nil
}

func (h *head) scan(ctx context.Context, b bounds, fns ...func(*recordColumns) error) error {
	return scanTable(ctx, h.table, b, fns...)
}

// write writes the rows, sorted, as Parquet. Nothing may be inserted meanwhile.
func (h *head) write(w io.Writer) error {
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

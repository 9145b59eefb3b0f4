package frost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/go-kit/log"
	"github.com/parquet-go/parquet-go"
	"github.com/polarsignals/frostdb"
	"github.com/polarsignals/frostdb/dynparquet"
	"github.com/polarsignals/frostdb/query/expr"
	"github.com/polarsignals/frostdb/query/logicalplan"
)

// block is an immutable Parquet file of rows with its index. Its footer is read once, when it is first asked.
type block struct {
	*meta
	remote  bool // its rows are only in the bucket
	open    func() (io.ReaderAt, io.Closer, error)
	readers sync.WaitGroup

	mu     sync.Mutex
	parsed *dynparquet.SerializedBuffer
	file   io.Closer
}

func (b *block) buffer() (*dynparquet.SerializedBuffer, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.parsed != nil {
		return b.parsed, nil
	}
	r, c, err := b.open()
	if err != nil {
		return nil, fmt.Errorf("opening block %s: %w", b.name(), err)
	}
	parsed, err := parseBlock(r, b.size)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening block %s: %w", b.name(), err), c.Close())
	}
	b.parsed, b.file = parsed, c
	return parsed, nil
}

// parseBlock reads a Parquet footer. The library panics on some damaged files.
func parseBlock(r io.ReaderAt, size int64) (buf *dynparquet.SerializedBuffer, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errCorruptFile, p)
		}
	}()
	f, err := parquet.OpenFile(r, size, parquet.SkipBloomFilters(true), parquet.ReadBufferSize(256<<10))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCorruptFile, err)
	}
	return dynparquet.NewSerializedBuffer(f)
}

// close waits for readers and closes the file.
func (b *block) close() error {
	b.readers.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file == nil {
		return nil
	}
	err := b.file.Close()
	b.file, b.parsed = nil, nil
	return err
}

// blockTable reads blocks through FrostDB: it is the source of a table that has nothing else. Which blocks a
// scan is about travels in its context, so FrostDB neither lists nor opens what the index has ruled out.
type blockTable struct {
	cs    *frostdb.ColumnStore
	table *frostdb.Table
}

func openBlockTable(opts ...frostdb.Option) (*blockTable, error) {
	t := &blockTable{}
	var err error
	if t.cs, t.table, err = openTable(log.NewNopLogger(), append(opts, frostdb.WithReadOnlyStorage(t))...); err != nil {
		return nil, err
	}
	return t, nil
}

type blocksKey struct{}

func (t *blockTable) scan(ctx context.Context, blocks []*block, b bounds, fns ...func(*recordColumns) error) error {
	if len(blocks) == 0 {
		return nil
	}
	return scanTable(context.WithValue(ctx, blocksKey{}, blocks), t.table, logicalplan.ReadModeDataSourcesOnly, b, fns...)
}

// String implements frostdb.DataSource.
func (t *blockTable) String() string { return "perfuse blocks" }

// Prefixes implements frostdb.DataSource: there are no tables but the one.
func (t *blockTable) Prefixes(context.Context, string) ([]string, error) { return nil, nil }

// Scan implements frostdb.DataSource.
func (t *blockTable) Scan(ctx context.Context, _ string, _ *dynparquet.Schema, filter logicalplan.Expr, _ uint64, callback func(context.Context, any) error) error {
	blocks, _ := ctx.Value(blocksKey{}).([]*block)
	keep, err := expr.BooleanExpr(filter)
	if err != nil {
		return fmt.Errorf("reading the filter: %w", err)
	}
	for _, b := range blocks {
		buf, err := b.buffer()
		if err != nil {
			return err
		}
		for i := range buf.NumRowGroups() {
			rg := buf.DynamicRowGroup(i)
			ok, err := keep.Eval(rg, false)
			if err != nil {
				return fmt.Errorf("reading block %s: %w", b.name(), err)
			}
			if !ok {
				continue
			}
			if err := callback(ctx, rg); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *blockTable) close() error { return t.cs.Close() }

// verify reads a whole block back and says whether it has exactly the rows of its index.
func (t *blockTable) verify(ctx context.Context, b *block) error {
	var got totals
	last := row{}
	sorted := true
	err := t.scan(ctx, []*block{b}, everything, func(c *recordColumns) error {
		for i := range c.n {
			r := c.row(i)
			got.add(&r)
			sorted = sorted && compareRows(&last, &r) <= 0
			last = r
			last.payload = nil
		}
		return nil
	})
	switch {
	case err != nil:
		return fmt.Errorf("verifying block %s: %w", b.name(), err)
	case got != b.totals:
		return fmt.Errorf("verifying block %s: it has %d rows, %d samples, sum %x; want %d, %d, %x", b.name(),
			got.rows, got.samples, got.sum, b.totals.rows, b.totals.samples, b.totals.sum)
	case !sorted:
		return fmt.Errorf("verifying block %s: its rows are not sorted", b.name())
	}
	return nil
}

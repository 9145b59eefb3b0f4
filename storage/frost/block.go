package frost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parquet-go/parquet-go"
	"golang.org/x/sync/errgroup"
)

// block is an immutable Parquet file of rows with its index. Its footer is read once, when it is first asked.
//
// Blocks are read with the Parquet library, not through FrostDB: FrostDB would copy all columns of a row group
// into Arrow records, where a question needs the payload of some rows, in place.
type block struct {
	*meta
	remote bool // its rows are only in the bucket
	// When retention drops it, and when it is rewritten without what has outlived its rule; see setExpiry.
	dropAt, rewriteAt int64
	held              bool      // it is being compacted; guarded by the store's lock
	asideUntil        time.Time // it is not compacted before
	open              func() (io.ReaderAt, io.Closer, error)
	readers           sync.WaitGroup

	mu     sync.Mutex
	groups []rowGroup // nil until it is opened
	file   io.Closer
}

// rowGroup is a part of a block, with the bounds of its rows.
type rowGroup struct {
	parquet.RowGroup
	bounds bounds
	// untotalled: the block is from before rows had totals.
	untotalled bool
}

func (b *block) rowGroups() ([]rowGroup, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.groups != nil {
		return b.groups, nil
	}
	r, c, err := b.open()
	if err != nil {
		return nil, fmt.Errorf("opening block %s: %w", b.name(), err)
	}
	groups, err := parseBlock(r, b.size)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening block %s: %w", b.name(), err), c.Close())
	}
	b.groups, b.file = groups, c
	return groups, nil
}

// survive makes an error of a panic: the library panics on some damaged files.
func survive(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%w: %v", errCorruptFile, p)
	}
}

// parseBlock reads a Parquet footer and the column indices.
func parseBlock(r io.ReaderAt, size int64) (_ []rowGroup, err error) {
	defer survive(&err)
	f, err := parquet.OpenFile(r, size, parquet.SkipBloomFilters(true), parquet.ReadBufferSize(256<<10))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCorruptFile, err)
	}
	names := f.Schema().Columns()
	untotalled := len(names) == colTotal
	if len(names) != columns && !untotalled {
		return nil, fmt.Errorf("%w: %d columns", errCorruptFile, len(names))
	}
	for i, name := range names {
		if len(name) != 1 || name[0] != columnNames[i] {
			return nil, fmt.Errorf("%w: column %d is %v", errCorruptFile, i, name)
		}
	}
	groups := make([]rowGroup, 0, len(f.RowGroups()))
	for _, rg := range f.RowGroups() {
		g := rowGroup{RowGroup: rg, untotalled: untotalled}
		for col, at := range map[int]*[2]int64{colService: &g.bounds.services, colSeries: &g.bounds.series} {
			if at[0], at[1], err = columnBounds(rg, col); err != nil {
				return nil, err
			}
		}
		if g.bounds.from, _, err = columnBounds(rg, colFirst); err != nil {
			return nil, err
		}
		if _, g.bounds.to, err = columnBounds(rg, colLast); err != nil {
			return nil, err
		}
		groups = append(groups, g)
	}
	return groups, nil
}

func columnBounds(rg parquet.RowGroup, col int) (lo, hi int64, err error) {
	idx, err := rg.ColumnChunks()[col].ColumnIndex()
	if err != nil {
		return 0, 0, fmt.Errorf("%w: the index of column %s: %w", errCorruptFile, columnNames[col], err)
	}
	for i := range idx.NumPages() {
		a, b := idx.MinValue(i).Int64(), idx.MaxValue(i).Int64()
		if i == 0 {
			lo, hi = a, b
		}
		lo, hi = min(lo, a), max(hi, b)
	}
	return lo, hi, nil
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
	b.file, b.groups = nil, nil
	return err
}

// overlaps says whether rows in one bounds may be in the other's. The row group's last time is included.
func (g *rowGroup) overlaps(b bounds) bool {
	return g.bounds.services[0] <= b.services[1] && g.bounds.services[1] >= b.services[0] &&
		g.bounds.series[0] <= b.series[1] && g.bounds.series[1] >= b.series[0] &&
		g.bounds.from < b.to && g.bounds.to >= b.from
}

// reading is how much of a row is read.
type reading uint8

const (
	readNothing reading = iota
	readNumbers         // all but the payload
	readAll
)

// scanBlocks calls each of fns, from one goroutine each, with rows of blocks in the bounds. It asks want, if it is not
// nil, once about each row of a row group: payloads are read if one of them needs its own, and rows of which nothing is
// wanted may come along. With one fn the rows come in their order.
func scanBlocks(ctx context.Context, blocks []*block, b bounds, want func(*recordColumns, int) reading, fns ...func(*recordColumns) error) error {
	type job struct {
		block *block
		group *rowGroup
	}
	var jobs []job
	for _, blk := range blocks {
		groups, err := blk.rowGroups()
		if err != nil {
			return err
		}
		for i := range groups {
			if groups[i].overlaps(b) {
				jobs = append(jobs, job{blk, &groups[i]})
			}
		}
	}
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for _, fn := range fns {
		g.Go(func() error {
			var r groupReader
			for {
				i := int(next.Add(1)) - 1
				if i >= len(jobs) {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := r.read(jobs[i].group, want, fn); err != nil {
					return fmt.Errorf("reading block %s: %w", jobs[i].block.name(), err)
				}
			}
		})
	}
	return g.Wait()
}

// groupReader reads row groups, one after another, into memory that it uses again.
type groupReader struct {
	ints    [columns][]int64
	samples samplesOf
}

func (r *groupReader) read(g *rowGroup, want func(*recordColumns, int) reading, fn func(*recordColumns) error) (err error) {
	defer survive(&err)
	n := int(g.NumRows())
	chunks := g.ColumnChunks()
	all := recordColumns{n: n}
	for col := range columns {
		if col == colPayload || col == colTotal && g.untotalled {
			continue
		}
		if r.ints[col], err = readInts(r.ints[col][:0], chunks[col]); err != nil {
			return fmt.Errorf("column %s: %w", columnNames[col], err)
		}
		if len(r.ints[col]) != n {
			return fmt.Errorf("%w: column %s has %d of %d rows", errCorruptFile, columnNames[col], len(r.ints[col]), n)
		}
		all.ints[col] = r.ints[col]
	}
	if g.untotalled {
		r.ints[colTotal] = slices.Grow(r.ints[colTotal][:0], n)[:n]
		all.ints[colTotal] = r.ints[colTotal]
	}
	first, last, most := 0, n-1, readAll
	if want != nil {
		first, last, most = n, -1, readNothing
		for i := range n {
			if w := want(&all, i); w != readNothing {
				first, last, most = min(first, i), i, max(most, w)
			}
		}
	}
	switch {
	case first > last:
		return nil
	case most == readNumbers && !g.untotalled:
		c := all.slice(first, last+1)
		return fn(&c)
	}
	pages := chunks[colPayload].Pages()
	defer func() { err = errors.Join(err, pages.Close()) }()
	if err := pages.SeekToRow(int64(first)); err != nil {
		return err
	}
	for at := first; at <= last; {
		page, err := pages.ReadPage()
		if err == io.EOF {
			return fmt.Errorf("%w: the payload has %d of %d rows", errCorruptFile, at, n)
		}
		if err != nil {
			return err
		}
		rows := min(int(page.NumRows()), last+1-at)
		c := all.slice(at, at+rows)
		if err = pagePayloads(page, &c); err == nil && g.untotalled {
			err = r.total(&c)
		}
		if err == nil {
			err = fn(&c)
		}
		parquet.Release(page)
		if err != nil {
			return err
		}
		at += rows
	}
	return nil
}

// total makes the totals of rows that have none.
func (r *groupReader) total(c *recordColumns) error {
	for i := range c.n {
		if err := r.samples.decode(c.payload(i), c.ints[colTime][i]); err != nil {
			return err
		}
		c.ints[colTotal][i] = r.samples.total()
	}
	return nil
}

func pagePayloads(page parquet.Page, c *recordColumns) error {
	values := page.Data()
	data, offsets := values.ByteArray()
	if len(offsets) <= c.n || c.n == 0 {
		return fmt.Errorf("%w: a payload page of %d rows has %d offsets", errCorruptFile, c.n, len(offsets))
	}
	for i := range c.n {
		if offsets[i] > offsets[i+1] || int(offsets[i+1]) > len(data) {
			return fmt.Errorf("%w: payload offsets", errCorruptFile)
		}
	}
	c.payload = func(i int) []byte { return data[offsets[i]:offsets[i+1]] }
	return nil
}

func readInts(out []int64, chunk parquet.ColumnChunk) (_ []int64, err error) {
	pages := chunk.Pages()
	defer func() { err = errors.Join(err, pages.Close()) }()
	for {
		page, err := pages.ReadPage()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		values := page.Data()
		out = append(out, values.Int64()...)
		parquet.Release(page)
	}
}

// verify reads a whole block back and says whether it has exactly the rows of its index, in order, with their totals.
func (b *block) verify(ctx context.Context) error {
	var got totals
	last := row{}
	sorted := true
	var samples samplesOf
	err := scanBlocks(ctx, []*block{b}, everything, nil, func(c *recordColumns) error {
		for i := range c.n {
			r := c.row(i)
			if err := samples.decode(r.payload, r.time); err != nil {
				return err
			}
			if sum := samples.total(); sum != r.total {
				return fmt.Errorf("%w: a row of series %d has the total %d, its samples %d", errCorruptFile, r.series, r.total, sum)
			}
			got.add(&r)
			sorted = sorted && compareRows(&last, &r) <= 0
			last = r
			last.payload = nil
		}
		return nil
	})
	switch {
	case err != nil:
		return fmt.Errorf("verifying: %w", err)
	case got != b.totals:
		return fmt.Errorf("verifying block %s: it has %d rows, %d samples, sum %x; want %d, %d, %x", b.name(),
			got.rows, got.samples, got.sum, b.totals.rows, b.totals.samples, b.totals.sum)
	case !sorted:
		return fmt.Errorf("verifying block %s: its rows are not sorted", b.name())
	}
	return nil
}

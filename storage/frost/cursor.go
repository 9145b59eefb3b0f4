package frost

import (
	"fmt"
	"io"

	"github.com/parquet-go/parquet-go"
)

// cursor goes over a block's rows in their order, a row group at a time. At the end it knows whether they were
// all.
type cursor struct {
	block  *block
	groups []rowGroup // those to come
	reader groupReader
	rows   []row
	at     int
	bytes  []byte // the payloads of rows
	seen   totals
}

// fill reads the next row group; after the last there are no rows. Earlier rows are not valid any more.
func (c *cursor) fill() error {
	c.rows, c.at, c.bytes = c.rows[:0], 0, c.bytes[:0]
	for len(c.rows) == 0 && len(c.groups) > 0 {
		g := &c.groups[0]
		c.groups = c.groups[1:]
		if err := c.reader.read(g, nil, c.take); err != nil {
			return fmt.Errorf("reading block %s: %w", c.block.name(), err)
		}
	}
	if len(c.rows) == 0 && c.seen != c.block.totals {
		return fmt.Errorf("reading block %s: %w: it has %d rows, sum %x; want %d, %x", c.block.name(), errCorruptFile,
			c.seen.rows, c.seen.sum, c.block.totals.rows, c.block.totals.sum)
	}
	return nil
}

func (c *cursor) take(cols *recordColumns) error {
	for i := range cols.n {
		r := cols.row(i)
		begin := len(c.bytes)
		c.bytes = append(c.bytes, r.payload...)
		r.payload = c.bytes[begin:len(c.bytes):len(c.bytes)]
		c.seen.add(&r)
		c.rows = append(c.rows, r)
	}
	return nil
}

// blockSchema is that of the Parquet files that FrostDB makes of tableSchema.
var blockSchema = func() *parquet.Schema {
	g := parquet.Group{}
	for i, name := range columnNames {
		if i == colPayload {
			g[name] = parquet.Compressed(parquet.Encoded(parquet.String(), &parquet.Plain), &parquet.Snappy)
		} else {
			g[name] = parquet.Encoded(parquet.Int(64), &parquet.DeltaBinaryPacked)
		}
	}
	return parquet.NewSchema(tableName, g)
}()

// blockWriter writes sorted rows as a block's Parquet file.
type blockWriter struct {
	w     *parquet.Writer
	row   parquet.Row
	bytes int64
}

func newBlockWriter(w io.Writer) *blockWriter {
	return &blockWriter{w: parquet.NewWriter(w, blockSchema), row: make(parquet.Row, columns)}
}

func (w *blockWriter) write(r *row) error {
	for i, v := range r.ints() {
		if i == colPayload {
			w.row[i] = parquet.ByteArrayValue(r.payload).Level(0, 0, i)
		} else {
			w.row[i] = parquet.Int64Value(v).Level(0, 0, i)
		}
	}
	if _, err := w.w.WriteRows([]parquet.Row{w.row}); err != nil {
		return err
	}
	if w.bytes += r.bytes(); w.bytes < rowGroupBytes {
		return nil
	}
	w.bytes = 0
	return w.w.Flush()
}

func (w *blockWriter) close() error { return w.w.Close() }

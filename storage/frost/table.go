package frost

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/go-kit/log"
	"github.com/polarsignals/frostdb"
	schemapb "github.com/polarsignals/frostdb/gen/proto/go/frostdb/schema/v1alpha1"
	"github.com/polarsignals/frostdb/index"
	"github.com/polarsignals/frostdb/query/logicalplan"

	"github.com/perfuse/perfuse/storage/dictionary"
)

// The columns of the table, in the order of their names, which is FrostDB's.
const (
	colDuration = iota
	colFirst
	colLast
	colPayload
	colPeriod
	colSamples
	colSeries
	colService
	colTime
	colTotal
	columns
)

var columnNames = [columns]string{"duration", "first", "last", "payload", "period", "samples", "series", "service", "time", "total"}

// numberColumns are all but the payload, which FrostDB copies.
var numberColumns = func() (out []logicalplan.Expr) {
	for i, name := range columnNames {
		if i != colPayload {
			out = append(out, logicalplan.Col(name))
		}
	}
	return out
}()

var arrowSchema = func() *arrow.Schema {
	fields := make([]arrow.Field, columns)
	for i, name := range columnNames {
		fields[i] = arrow.Field{Name: name, Type: arrow.PrimitiveTypes.Int64}
	}
	fields[colPayload].Type = arrow.BinaryTypes.Binary
	return arrow.NewSchema(fields, nil)
}()

// tableSchema sorts by service, then series, then time, so that what one question selects lies together.
func tableSchema() *schemapb.Schema {
	s := &schemapb.Schema{Name: "profiles"}
	for i, name := range columnNames {
		layout := &schemapb.StorageLayout{
			Type:     schemapb.StorageLayout_TYPE_INT64,
			Encoding: schemapb.StorageLayout_ENCODING_DELTA_BINARY_PACKED,
		}
		if i == colPayload {
			layout.Type, layout.Encoding = schemapb.StorageLayout_TYPE_STRING, schemapb.StorageLayout_ENCODING_PLAIN_UNSPECIFIED
			// LZ4's encoder is made anew for every page and took a third of all CPU; zstd saves 6 % more space for 1.7
			// times the CPU.
			layout.Compression = schemapb.StorageLayout_COMPRESSION_SNAPPY
		}
		s.Columns = append(s.Columns, &schemapb.Column{Name: name, StorageLayout: layout})
	}
	for _, i := range []int{colService, colSeries, colTime} {
		s.SortingColumns = append(s.SortingColumns, &schemapb.SortingColumn{Name: columnNames[i], Direction: schemapb.SortingColumn_DIRECTION_ASCENDING})
	}
	return s
}

const (
	tableName = "profiles"
	// headGroupRows is how many rows a row group has in memory: what one question unpacks at least. With 8192 a question
	// about one service unpacked all of them.
	headGroupRows = 128
	// rowGroupBytes is about how much payload one row group of a block has: what one question reads at least.
	rowGroupBytes = 1 << 20
)

// openTable opens a FrostDB of its own with one empty table. We rotate by beginning another: FrostDB's own
// rotation drops a block when its upload fails, so it never rotates, logs or persists here.
func openTable(logger log.Logger, compactBytes int64) (*frostdb.ColumnStore, *frostdb.Table, error) {
	cs, err := frostdb.New(
		frostdb.WithLogger(logger),
		frostdb.WithManualBlockRotation(),
		frostdb.WithActiveMemorySize(math.MaxInt64),
		frostdb.WithIndexConfig([]*index.LevelConfig{
			{Level: index.L0, MaxSize: compactBytes, Type: index.CompactionTypeParquetMemory},
			{Level: index.L1, MaxSize: math.MaxInt64},
		}),
	)
	if err != nil {
		return nil, nil, fmt.Errorf("opening FrostDB: %w", err)
	}
	db, err := cs.DB(context.Background(), "perfuse")
	if err != nil {
		return nil, nil, fmt.Errorf("opening FrostDB's database: %w", err)
	}
	table, err := db.Table(tableName, frostdb.NewTableConfig(tableSchema(), frostdb.WithRowGroupSize(headGroupRows)))
	if err != nil {
		return nil, nil, fmt.Errorf("opening FrostDB's table: %w", err)
	}
	return cs, table, nil
}

// setRowGroups makes blocks that are written from now on have row groups of about rowGroupBytes.
func setRowGroups(cs *frostdb.ColumnStore, rows, bytes int64) error {
	db, err := cs.GetDB("perfuse")
	if err != nil {
		return err
	}
	n := 8192
	if rows > 0 && bytes > 0 {
		n = int(min(max(rowGroupBytes*rows/bytes, 32), 64<<10))
	}
	_, err = db.Table(tableName, frostdb.NewTableConfig(tableSchema(), frostdb.WithRowGroupSize(n)))
	return err
}

// record returns rows as an Arrow record, sorted.
func record(rows []row) arrow.Record {
	order := make([]*row, len(rows))
	size := 0
	for i := range rows {
		order[i] = &rows[i]
		size += len(rows[i].payload)
	}
	slices.SortStableFunc(order, compareRows)
	b := array.NewRecordBuilder(memory.DefaultAllocator, arrowSchema)
	defer b.Release()
	b.Reserve(len(rows))
	b.Field(colPayload).(*array.BinaryBuilder).ReserveData(size)
	for _, r := range order {
		for i, v := range r.ints() {
			if i != colPayload {
				b.Field(i).(*array.Int64Builder).UnsafeAppend(v)
			}
		}
		b.Field(colPayload).(*array.BinaryBuilder).Append(r.payload)
	}
	return b.NewRecord()
}

// recordColumns are the columns of a record that a scan gave.
type recordColumns struct {
	ints    [columns][]int64
	payload func(i int) []byte // nil if it was not read
	n       int
}

// columnsOfRows returns rows as columns. The payloads stay where they are.
func columnsOfRows(rows []row) recordColumns {
	c := recordColumns{n: len(rows), payload: func(i int) []byte { return rows[i].payload }}
	all := make([]int64, len(rows)*columns)
	for col := range c.ints {
		if col != colPayload {
			c.ints[col], all = all[:len(rows):len(rows)], all[len(rows):]
		}
	}
	for i := range rows {
		for col, v := range rows[i].ints() {
			if col != colPayload {
				c.ints[col][i] = v
			}
		}
	}
	return c
}

// ints returns the row's columns, 0 for the payload.
func (r *row) ints() [columns]int64 {
	return [columns]int64{
		colDuration: r.duration, colFirst: r.first, colLast: r.last, colPeriod: r.period, colSamples: r.samples,
		colSeries: int64(r.series), colService: int64(r.service), colTime: r.time, colTotal: r.total,
	}
}

// slice returns rows i to j, without payload.
func (c *recordColumns) slice(i, j int) recordColumns {
	out := recordColumns{n: j - i}
	for col := range c.ints {
		if col != colPayload {
			out.ints[col] = c.ints[col][i:j]
		}
	}
	return out
}

func columnsOf(r arrow.Record, what reading) (c recordColumns, err error) {
	c.n = int(r.NumRows())
	for i, f := range r.Schema().Fields() {
		at, ok := slices.BinarySearch(columnNames[:], f.Name)
		if !ok {
			return c, fmt.Errorf("scanning: unknown column %s", f.Name)
		}
		switch a := r.Column(i).(type) {
		case *array.Int64:
			if a.NullN() > 0 {
				return c, fmt.Errorf("scanning: column %s has nulls", f.Name)
			}
			c.ints[at] = a.Int64Values()
		case *array.Binary:
			if at != colPayload {
				return c, fmt.Errorf("scanning: column %s is binary", f.Name)
			}
			if a.Len() == c.n {
				c.payload = a.Value
			}
		default:
			return c, fmt.Errorf("scanning: column %s is %T", f.Name, a)
		}
	}
	for i := range c.ints {
		if i != colPayload && len(c.ints[i]) != c.n {
			return c, fmt.Errorf("scanning: column %s is missing", columnNames[i])
		}
	}
	if what == readAll && c.payload == nil {
		return c, fmt.Errorf("scanning: the payload is missing")
	}
	return c, nil
}

// row returns row i. Its payload, if it was read, belongs to the record.
func (c *recordColumns) row(i int) row {
	r := row{
		service: dictionary.StringID(c.ints[colService][i]), series: dictionary.SeriesID(c.ints[colSeries][i]),
		time: c.ints[colTime][i], duration: c.ints[colDuration][i], period: c.ints[colPeriod][i],
		first: c.ints[colFirst][i], last: c.ints[colLast][i], samples: c.ints[colSamples][i],
		total: c.ints[colTotal][i],
	}
	if c.payload != nil {
		r.payload = c.payload(i)
	}
	return r
}

// bounds narrow a scan to rows that may matter. What a scan gives is a superset of what is in the bounds.
type bounds struct {
	services, series [2]int64 // both ends included
	from, to         int64    // of samples' times, the end not included
}

var everything = bounds{services: [2]int64{0, math.MaxUint32}, series: [2]int64{0, math.MaxUint32}, from: 0, to: math.MaxInt64}

func (b bounds) filter() logicalplan.Expr {
	col := func(i int) *logicalplan.Column { return logicalplan.Col(columnNames[i]) }
	lit := func(v int64) logicalplan.Expr { return logicalplan.Literal(v) }
	return logicalplan.And(
		col(colService).GtEq(lit(b.services[0])), col(colService).LtEq(lit(b.services[1])),
		col(colSeries).GtEq(lit(b.series[0])), col(colSeries).LtEq(lit(b.series[1])),
		col(colLast).GtEq(lit(b.from)), col(colFirst).Lt(lit(b.to)),
	)
}

// scanTable calls each of fns, from one goroutine each, with records of rows that may be in the bounds.
func scanTable(ctx context.Context, t *frostdb.Table, b bounds, what reading, fns ...func(*recordColumns) error) error {
	callbacks := make([]logicalplan.Callback, len(fns))
	for i, fn := range fns {
		callbacks[i] = func(ctx context.Context, r arrow.Record) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			c, err := columnsOf(r, what)
			if err != nil {
				return err
			}
			return fn(&c)
		}
	}
	// Not t.View: it would take the transaction of this moment, and a compaction that begins after it and takes
	// in a later record makes a part that an earlier transaction does not see: rows that were there are not.
	// With the largest one everything is visible that was inserted, each record as a whole.
	options := []logicalplan.Option{logicalplan.WithReadMode(logicalplan.ReadModeInMemoryOnly), logicalplan.WithFilter(b.filter())}
	if what == readNumbers {
		options = append(options, logicalplan.WithPhysicalProjection(numberColumns...))
	}
	return t.Iterator(ctx, math.MaxUint64, memory.DefaultAllocator, callbacks, options...)
}

package frost

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/go-kit/log"
	"github.com/parquet-go/parquet-go"
	"github.com/polarsignals/frostdb"
	schemapb "github.com/polarsignals/frostdb/gen/proto/go/frostdb/schema/v1alpha1"
	"github.com/polarsignals/frostdb/index"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage/dictionary"
)

// layout is a way to lay profiles into rows of FrostDB. Columns are in the order of their names, all but payload
// are numbers; rows are sorted by service, series and time.
type layout struct {
	columns []string
	// groupRows is how many rows a row group of the block has.
	groupRows int
	// rows calls emit for every row of a batch.
	rows func(b *profile.Batch, in *dictionary.Interned, emit func(payload []byte, values ...int64))
	// sum adds the values by stack of the series that want accepts, of one row group.
	sum func(g parquet.RowGroup, want func(series int64) bool, sums *stackSums) error
}

// series of values that are side by side lie this far apart in the layout "sample".
const sideBySide = 4

func intColumns(g parquet.RowGroup, columns ...int) ([][]int64, error) {
	out := make([][]int64, len(columns))
	for i, c := range columns {
		var err error
		if out[i], err = readInts(nil, g.ColumnChunks()[c]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// layouts are the candidates: a row per value, a row per sample with the values of its types side by side, a row
// per profile with its samples packed.
func layouts() map[string]layout {
	var encoder rowEncoder
	var decoded samplesOf
	return map[string]layout{
		"value": {
			columns: []string{"series", "service", "stack", "time", "value"}, groupRows: 64 << 10,
			rows: func(b *profile.Batch, in *dictionary.Interned, emit func([]byte, ...int64)) {
				for i := range b.Profiles {
					p := &b.Profiles[i]
					for _, s := range p.Samples {
						if s.Value != 0 {
							emit(nil, int64(in.Series[i]), int64(in.Services[i]), int64(in.Stacks[s.Stack]), p.TimeNanos, s.Value)
						}
					}
				}
			},
			sum: func(g parquet.RowGroup, want func(int64) bool, sums *stackSums) error {
				c, err := intColumns(g, 0, 2, 4)
				if err != nil {
					return err
				}
				for i, series := range c[0] {
					if want(series) {
						sums.add(dictionary.StackID(c[1][i]), c[2][i])
					}
				}
				return nil
			},
		},
		"sample": {
			columns: []string{"series", "service", "stack", "time", "v0", "v1", "v2", "v3"}, groupRows: 64 << 10,
			rows: func(b *profile.Batch, in *dictionary.Interned, emit func([]byte, ...int64)) {
				// The first profile of some labels names the row; those after it are its other columns.
				for i := 0; i < len(b.Profiles); {
					j := i
					values := map[dictionary.StackID]*[sideBySide]int64{}
					for ; j < len(b.Profiles) && j-i < sideBySide && b.Profiles[j].Labels.Compare(b.Profiles[i].Labels) == 0; j++ {
						for _, s := range b.Profiles[j].Samples {
							id := in.Stacks[s.Stack]
							if values[id] == nil {
								values[id] = new([sideBySide]int64)
							}
							values[id][j-i] += s.Value
						}
					}
					for id, v := range values {
						if *v != [sideBySide]int64{} {
							emit(nil, int64(in.Series[i]), int64(in.Services[i]), int64(id), b.Profiles[i].TimeNanos, v[0], v[1], v[2], v[3])
						}
					}
					i = j
				}
			},
			sum: func(g parquet.RowGroup, want func(int64) bool, sums *stackSums) error {
				c, err := intColumns(g, 0, 2, 4+1) // alloc_space is the second type of a heap profile
				if err != nil {
					return err
				}
				for i, series := range c[0] {
					if want(series + 1) {
						sums.add(dictionary.StackID(c[1][i]), c[2][i])
					}
				}
				return nil
			},
		},
		"profile": {
			columns: columnNames[:],
			rows: func(b *profile.Batch, in *dictionary.Interned, emit func([]byte, ...int64)) {
				for i := range b.Profiles {
					for _, r := range encoder.rows(nil, b, i, in) {
						v := r.ints()
						emit(r.payload, v[:]...)
					}
				}
			},
			sum: func(g parquet.RowGroup, want func(int64) bool, sums *stackSums) error {
				var r groupReader
				wanted := func(c *recordColumns, i int) reading {
					if want(c.ints[colSeries][i]) {
						return readAll
					}
					return readNothing
				}
				return r.read(&rowGroup{RowGroup: g}, wanted, func(c *recordColumns) error {
					for i := range c.n {
						if wanted(c, i) == readNothing {
							continue
						}
						if err := decoded.decode(c.payload(i), c.ints[colTime][i]); err != nil {
							return err
						}
						for j, id := range decoded.stacks {
							sums.add(id, decoded.values[j])
						}
					}
					return nil
				})
			},
		},
	}
}

// write makes a block of batches through FrostDB, in sorted records of a hundred.
func (l *layout) write(batches []*profile.Batch, in []dictionary.Interned) (block []byte, rows int, err error) {
	schema := &schemapb.Schema{Name: tableName}
	fields := make([]arrow.Field, len(l.columns))
	for i, name := range l.columns {
		schema.Columns = append(schema.Columns, &schemapb.Column{Name: name, StorageLayout: &schemapb.StorageLayout{
			Type: schemapb.StorageLayout_TYPE_INT64, Encoding: schemapb.StorageLayout_ENCODING_DELTA_BINARY_PACKED,
			Compression: schemapb.StorageLayout_COMPRESSION_SNAPPY,
		}})
		fields[i] = arrow.Field{Name: name, Type: arrow.PrimitiveTypes.Int64}
		if name == "payload" {
			fields[i].Type = arrow.BinaryTypes.Binary
			schema.Columns[i].StorageLayout.Type, schema.Columns[i].StorageLayout.Encoding = schemapb.StorageLayout_TYPE_STRING, schemapb.StorageLayout_ENCODING_PLAIN_UNSPECIFIED
		}
	}
	var order []int
	for _, name := range []string{"service", "series", "time"} {
		schema.SortingColumns = append(schema.SortingColumns, &schemapb.SortingColumn{Name: name, Direction: schemapb.SortingColumn_DIRECTION_ASCENDING})
		order = append(order, slices.Index(l.columns, name))
	}
	cs, err := frostdb.New(frostdb.WithLogger(log.NewNopLogger()), frostdb.WithManualBlockRotation(), frostdb.WithActiveMemorySize(math.MaxInt64),
		frostdb.WithIndexConfig([]*index.LevelConfig{{Level: index.L0, MaxSize: 8 << 20, Type: index.CompactionTypeParquetMemory}, {Level: index.L1, MaxSize: math.MaxInt64}}))
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if cerr := cs.Close(); !errors.Is(cerr, context.Canceled) {
			err = errors.Join(err, cerr)
		}
	}()
	db, err := cs.DB(context.Background(), "layouts")
	if err != nil {
		return nil, 0, err
	}
	table, err := db.Table(tableName, frostdb.NewTableConfig(schema, frostdb.WithRowGroupSize(l.groupRows)))
	if err != nil {
		return nil, 0, err
	}
	type line struct {
		values  []int64
		payload []byte
	}
	var lines []line
	builder := array.NewRecordBuilder(memory.DefaultAllocator, arrow.NewSchema(fields, nil))
	defer builder.Release()
	for i, b := range batches {
		l.rows(b, &in[i], func(payload []byte, values ...int64) { lines = append(lines, line{slices.Clone(values), payload}) })
		if i%100 != 99 && i != len(batches)-1 {
			continue
		}
		slices.SortStableFunc(lines, func(a, b line) int {
			for _, c := range order {
				if d := cmp.Compare(a.values[c], b.values[c]); d != 0 {
					return d
				}
			}
			return 0
		})
		for _, r := range lines {
			for c, v := range r.values {
				if f, ok := builder.Field(c).(*array.BinaryBuilder); ok {
					f.Append(r.payload)
				} else {
					builder.Field(c).(*array.Int64Builder).Append(v)
				}
			}
		}
		rows += len(lines)
		lines = lines[:0]
		record := builder.NewRecord()
		_, err := table.InsertRecord(context.Background(), record)
		record.Release()
		if err != nil {
			return nil, 0, err
		}
	}
	var out bytes.Buffer
	err = table.ActiveBlock().Serialize(&out)
	return out.Bytes(), rows, err
}

// BenchmarkLayouts compares the candidates on the corpus: CPU to take 300 thousand samples in and make a
// block of them, its size, and merges of a type of everything and of one service. Decision 11 has the figures.
// Run it with -benchtime 1x.
func BenchmarkLayouts(b *testing.B) {
	c := loadCorpus(b)
	dict := dictionary.New()
	var batches []*profile.Batch
	var interned []dictionary.Interned
	samples := 0
	for n := 0; samples < 300e3; n++ {
		batch, messages := c.at(n)
		in, err := dict.Intern(batch, func(_ int, s *profile.Sample) bool { return s.Value != 0 })
		if err != nil {
			b.Fatal(err)
		}
		batches, interned, samples = append(batches, batch), append(interned, in), samples+messages
	}
	alloc := profile.Type{Name: "memory", SampleType: "alloc_space", SampleUnit: "bytes", PeriodType: "space", PeriodUnit: "bytes"}
	series := func(service string) map[int64]bool {
		out := map[int64]bool{}
		for i, batch := range batches {
			for j := range batch.Profiles {
				p := &batch.Profiles[j]
				if p.Type == alloc && (service == "" || p.Labels.Get(profile.LabelServiceName) == service) {
					out[int64(interned[i].Series[j])] = true
				}
			}
		}
		return out
	}
	all, one := series(""), series("service-07")
	var wants [2]int64
	for name, l := range layouts() {
		b.Run(name, func(b *testing.B) {
			if name == "profile" {
				l.groupRows = 1000
			}
			for range b.N {
				cpu := cpuSeconds(b)
				block, rows, err := l.write(batches, interned)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric((cpuSeconds(b)-cpu)/float64(samples)*1e6, "cpu-s/M")
				b.ReportMetric(float64(len(block))/float64(samples), "B/sample")
				b.ReportMetric(float64(rows)/float64(samples), "rows/sample")
				file, err := parquet.OpenFile(bytes.NewReader(block), int64(len(block)), parquet.SkipBloomFilters(true))
				if err != nil {
					b.Fatal(err)
				}
				for q, selected := range []map[int64]bool{all, one} {
					lo, hi := int64(math.MaxInt64), int64(0)
					for id := range selected {
						lo, hi = min(lo, id-sideBySide), max(hi, id)
					}
					best := time.Hour
					for range 5 {
						began, total := time.Now(), int64(0)
						var sums stackSums
						for _, g := range file.RowGroups() {
							from, to, err := columnBounds(g, slices.Index(l.columns, "series"))
							if err != nil {
								b.Fatal(err)
							}
							if to < lo || from > hi {
								continue
							}
							if err := l.sum(g, func(id int64) bool { return selected[id] }, &sums); err != nil {
								b.Fatal(err)
							}
						}
						best = min(best, time.Since(began))
						for _, page := range sums.pages {
							for _, v := range page {
								total += v
							}
						}
						if wants[q] == 0 {
							wants[q] = total
						}
						if total != wants[q] || total == 0 {
							b.Fatalf("the sum is %d, another layout's is %d", total, wants[q])
						}
					}
					b.ReportMetric(float64(best.Microseconds())/1000, fmt.Sprintf("merge-%s-ms", []string{"all", "one"}[q]))
				}
			}
		})
	}
}

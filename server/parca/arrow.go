package parca

import (
	"bytes"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/perfuse/perfuse/profile"
)

// text is a column of few different values. Datasources read its values as bytes, not as strings.
var text = &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.Binary}

// schema is drawn in the package comment.
var schema = arrow.NewSchema([]arrow.Field{
	{Name: "labels_only", Type: arrow.FixedWidthTypes.Boolean, Nullable: true},
	{Name: "location_address", Type: arrow.PrimitiveTypes.Uint64, Nullable: true},
	{Name: "mapping_file", Type: text, Nullable: true},
	{Name: "mapping_build_id", Type: text, Nullable: true},
	{Name: "location_line", Type: arrow.PrimitiveTypes.Uint32, Nullable: true},
	{Name: "inlined", Type: arrow.FixedWidthTypes.Boolean, Nullable: true},
	{Name: "function_startline", Type: arrow.PrimitiveTypes.Uint32, Nullable: true},
	{Name: "function_name", Type: text, Nullable: true},
	{Name: "function_system_name", Type: text, Nullable: true},
	{Name: "function_file_name", Type: text, Nullable: true},
	{Name: "children", Type: arrow.ListOf(arrow.PrimitiveTypes.Uint32), Nullable: true},
	{Name: "parent", Type: arrow.PrimitiveTypes.Int32},
	{Name: "cumulative", Type: arrow.PrimitiveTypes.Uint64},
	{Name: "flat", Type: arrow.PrimitiveTypes.Uint64},
	{Name: "diff", Type: arrow.PrimitiveTypes.Int64},
	{Name: "timestamp", Type: arrow.PrimitiveTypes.Int64},
	{Name: "depth", Type: arrow.PrimitiveTypes.Uint32},
	{Name: "value_offset", Type: arrow.PrimitiveTypes.Uint64},
}, nil)

// writeArrow writes a tree as an Arrow stream of one record and says how many rows its longest path has; diffs
// are by node, nil for none. Equal trees give equal bytes.
func writeArrow(t *profile.Tree, diffs []int64) (stream []byte, height int32, err error) {
	b := array.NewRecordBuilder(memory.NewGoAllocator(), schema)
	defer b.Release()
	b.Reserve(t.Len())
	column := func(name string) array.Builder { return b.Field(schema.FieldIndices(name)[0]) }
	var (
		labelsOnly  = column("labels_only").(*array.BooleanBuilder)
		address     = column("location_address").(*array.Uint64Builder)
		mapping     = column("mapping_file").(*array.BinaryDictionaryBuilder)
		buildID     = column("mapping_build_id").(*array.BinaryDictionaryBuilder)
		line        = column("location_line").(*array.Uint32Builder)
		inlined     = column("inlined").(*array.BooleanBuilder)
		startLine   = column("function_startline").(*array.Uint32Builder)
		name        = column("function_name").(*array.BinaryDictionaryBuilder)
		systemName  = column("function_system_name").(*array.BinaryDictionaryBuilder)
		file        = column("function_file_name").(*array.BinaryDictionaryBuilder)
		children    = column("children").(*array.ListBuilder)
		child       = children.ValueBuilder().(*array.Uint32Builder)
		parent      = column("parent").(*array.Int32Builder)
		cumulative  = column("cumulative").(*array.Uint64Builder)
		flat        = column("flat").(*array.Uint64Builder)
		diff        = column("diff").(*array.Int64Builder)
		timestamp   = column("timestamp").(*array.Int64Builder)
		depth       = column("depth").(*array.Uint32Builder)
		valueOffset = column("value_offset").(*array.Uint64Builder)
	)
	appendText := func(b *array.BinaryDictionaryBuilder, s string) {
		if s == "" || err != nil {
			b.AppendNull()
			return
		}
		err = b.AppendString(s)
	}
	type row struct {
		node   uint32
		parent int32
		depth  uint32
		offset uint64
	}
	rows := make([]row, 1, t.Len())
	rows[0].parent = -1
	for at := 0; at < len(rows); at++ { // rows grows until all nodes are in it
		r := rows[at]
		if r.node == 0 {
			labelsOnly.AppendNull()
			address.AppendNull()
			inlined.AppendNull()
			startLine.AppendNull()
			appendText(mapping, "")
			appendText(name, "")
			appendText(file, "")
		} else {
			f := t.Frames[t.Frame[r.node]]
			labelsOnly.Append(false)
			address.Append(0)
			inlined.Append(f.Inlined)
			startLine.Append(uint32(f.StartLine))
			appendText(mapping, t.Strings[f.Mapping])
			appendText(name, t.Strings[f.Name])
			appendText(file, t.Strings[f.File])
		}
		buildID.AppendNull()
		line.AppendNull()
		systemName.AppendNull()
		parent.Append(r.parent)
		cumulative.Append(natural(t.Total[r.node]))
		flat.Append(natural(t.Self[r.node]))
		if diffs == nil {
			diff.Append(0)
		} else {
			diff.Append(diffs[r.node])
		}
		timestamp.Append(0)
		depth.Append(r.depth)
		valueOffset.Append(r.offset)
		height = int32(r.depth) + 1 // rows are in order of depth

		children.Append(true)
		offset := r.offset
		for c := range t.Children(r.node) {
			child.Append(uint32(len(rows)))
			rows = append(rows, row{c, int32(at), r.depth + 1, offset})
			offset += natural(t.Total[c])
		}
	}
	if err != nil {
		return nil, 0, fmt.Errorf("building an Arrow record: %w", err)
	}
	record := b.NewRecord()
	defer record.Release()
	var out bytes.Buffer
	w := ipc.NewWriter(&out, ipc.WithSchema(schema))
	if err := w.Write(record); err != nil {
		return nil, 0, fmt.Errorf("writing an Arrow record: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, 0, fmt.Errorf("writing an Arrow record: %w", err)
	}
	return out.Bytes(), height, nil
}

// natural is v, or 0 where it is negative: the columns have no sign.
func natural(v int64) uint64 { return uint64(max(v, 0)) }

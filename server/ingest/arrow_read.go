package ingest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// arrowMemory is what reading a stream may still take, the library's buffers and what we make of them.
type arrowMemory struct {
	memory.Allocator
	left int64
}

// errArrowMemory: a stream takes more memory than it may.
var errArrowMemory = errors.New("the record would take more memory than allowed")

func newArrowMemory(bytes int64) *arrowMemory {
	return &arrowMemory{Allocator: memory.NewGoAllocator(), left: bytes}
}

func (m *arrowMemory) Allocate(size int) []byte {
	m.spend(size)
	return m.Allocator.Allocate(size)
}

func (m *arrowMemory) Reallocate(size int, b []byte) []byte {
	m.spend(size)
	return m.Allocator.Reallocate(size, b)
}

// spend panics when nothing is left: the library's reader turns panics into errors, and so does recovered.
func (m *arrowMemory) spend(size int) {
	if size < 0 || int64(size) > m.left {
		m.left = -1
		panic(errArrowMemory)
	}
	m.left -= int64(size)
}

// recovered calls f, which reads streams. The library's arrays are not checked when they are read: an offset that leads
// to nowhere panics when it is followed.
func (m *arrowMemory) recovered(f func(*arrowMemory) error) (err error) {
	defer func() {
		if recover() != nil {
			err = errNotArrow
		}
		if m.left < 0 {
			err = errArrowMemory
		}
	}()
	return f(m)
}

// eachRecord calls f with every record of an Arrow IPC stream.
func eachRecord(stream []byte, mem *arrowMemory, f func(arrow.Record) error) error {
	if err := checkArrow(stream); err != nil {
		return err
	}
	r, err := ipc.NewReader(bytes.NewReader(stream), ipc.WithAllocator(mem))
	if err != nil {
		return fmt.Errorf("%w: %w", errNotArrow, err)
	}
	defer r.Release()
	for r.Next() {
		if err := f(r.Record()); err != nil {
			return err
		}
	}
	if r.Err() != nil {
		return fmt.Errorf("%w: %w", errNotArrow, r.Err())
	}
	return nil
}

// textColumn returns the string in a row, "" where there is none. It is the buffer's own memory.
type textColumn func(row int) string

// texts reads a column of strings, however they are packed: in runs, by a dictionary, as text, bytes or views.
func texts(a arrow.Array) textColumn {
	switch a := a.(type) {
	case *array.RunEndEncoded:
		if values := texts(a.Values()); values != nil {
			return func(row int) string { return values(a.GetPhysicalIndex(row)) }
		}
	case *array.Dictionary:
		if values := texts(a.Dictionary()); values != nil {
			return func(row int) string {
				if a.IsNull(row) {
					return ""
				}
				return values(a.GetValueIndex(row))
			}
		}
	case interface {
		arrow.Array
		Value(int) string
	}:
		return func(row int) string {
			if a.IsNull(row) {
				return ""
			}
			return a.Value(row)
		}
	case interface {
		arrow.Array
		Value(int) []byte
	}:
		return func(row int) string {
			if a.IsNull(row) {
				return ""
			}
			return string(a.Value(row))
		}
	}
	return nil
}

// numberColumn returns the number in a row, 0 where there is none.
type numberColumn func(row int) int64

func numbers(a arrow.Array) numberColumn {
	number := func(value func(int) int64) numberColumn {
		return func(row int) int64 {
			if a.IsNull(row) {
				return 0
			}
			return value(row)
		}
	}
	switch a := a.(type) {
	case *array.RunEndEncoded:
		if values := numbers(a.Values()); values != nil {
			return func(row int) int64 { return values(a.GetPhysicalIndex(row)) }
		}
	case *array.Int64:
		return number(a.Value)
	case *array.Uint64:
		return number(func(row int) int64 { return int64(a.Value(row)) })
	case *array.Timestamp:
		scale := int64(a.DataType().(*arrow.TimestampType).Unit.Multiplier())
		return number(func(row int) int64 { return int64(a.Value(row)) * scale })
	}
	return nil
}

// arrowList is a column of lists: where in values each row's entries lie.
type arrowList struct {
	values arrow.Array
	bounds func(row int) (start, end int)
}

func lists(a arrow.Array) *arrowList {
	l, ok := a.(array.ListLike)
	if !ok {
		return nil
	}
	values := l.ListValues()
	return &arrowList{values, func(row int) (int, int) {
		if l.IsNull(row) {
			return 0, 0
		}
		start, end := l.ValueOffsets(row)
		if start < 0 || end < start || end > int64(values.Len()) {
			panic(errNotArrow)
		}
		return int(start), int(end)
	}}
}

// arrowStruct is a column of structs, whose fields are columns: row says which of their rows is meant.
type arrowStruct struct {
	fields map[string]arrow.Array
	len    int
	row    func(int) int
}

func structs(a arrow.Array) *arrowStruct {
	switch a := a.(type) {
	case *array.Dictionary:
		s := structs(a.Dictionary())
		if s == nil {
			return nil
		}
		inner := s.row
		s.row = func(i int) int {
			if a.IsNull(i) {
				return -1
			}
			return inner(a.GetValueIndex(i))
		}
		return s
	case *array.Struct:
		s := &arrowStruct{fields: map[string]arrow.Array{}, len: a.Len(), row: func(i int) int { return i }}
		for i := range a.NumField() {
			s.fields[a.DataType().(*arrow.StructType).Field(i).Name] = a.Field(i)
		}
		return s
	}
	return nil
}

// columns finds a record's columns; the first that is missing or of another type is remembered.
type columns struct {
	fields map[string]arrow.Array
	err    error
}

func recordColumns(rec arrow.Record) *columns {
	c := &columns{fields: map[string]arrow.Array{}}
	for i, f := range rec.Schema().Fields() {
		c.fields[f.Name] = rec.Column(i)
	}
	return c
}

func (c *columns) wrong(name, want string) {
	if c.err == nil {
		got := "it is missing"
		if a := c.fields[name]; a != nil {
			got = "it is " + a.DataType().String()
		}
		c.err = fmt.Errorf("the column %s: want %s, %.200s", name, want, got)
	}
}

func (c *columns) text(name string) textColumn {
	if a := c.fields[name]; a != nil {
		if t := texts(a); t != nil {
			return t
		}
	}
	c.wrong(name, "strings")
	return func(int) string { return "" }
}

func (c *columns) number(name string) numberColumn {
	if a := c.fields[name]; a != nil {
		if n := numbers(a); n != nil {
			return n
		}
	}
	c.wrong(name, "whole numbers")
	return func(int) int64 { return 0 }
}

func (c *columns) list(name string) *arrowList {
	if a := c.fields[name]; a != nil {
		if l := lists(a); l != nil {
			return l
		}
	}
	c.wrong(name, "lists")
	return &arrowList{bounds: func(int) (int, int) { return 0, 0 }}
}

const labelPrefix = "labels."

// labelColumn is the values of one label.
type labelColumn struct {
	name string
	text textColumn
}

// labels returns the columns of labels: those of a struct, or each by itself.
func (c *columns) labels(rec arrow.Record) (out []labelColumn) {
	for i, f := range rec.Schema().Fields() {
		name, ok := strings.CutPrefix(f.Name, labelPrefix)
		if ok {
			if !slices.Contains(arrowDrop, name) {
				out = append(out, labelColumn{name, c.text(f.Name)})
			}
			continue
		}
		if s := structs(rec.Column(i)); f.Name == "labels" && s != nil {
			of := &columns{fields: s.fields}
			for j := range rec.Column(i).DataType().(*arrow.StructType).NumFields() {
				name := rec.Column(i).DataType().(*arrow.StructType).Field(j).Name
				if !slices.Contains(arrowDrop, name) {
					out = append(out, labelColumn{name, of.text(name)})
				}
			}
			c.err = errors.Join(c.err, of.err)
		}
	}
	return out
}

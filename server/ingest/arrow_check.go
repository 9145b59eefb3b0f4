package ingest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	flatbuffers "github.com/google/flatbuffers/go"
)

// An Arrow IPC stream is messages: a marker, the length of the metadata, the metadata (a flatbuffer, see Message.fbs
// and Schema.fbs of Apache Arrow), the body. The library that reads them takes what they say about sizes for granted,
// and follows references in metadata however often they lead to the same place. So a stream is walked once before
// it is read.
const (
	arrowMarker = math.MaxUint32

	maxArrowMetadata = 256 << 10 // bytes of metadata of one message
	maxArrowText     = 4 << 20   // bytes of names in a schema, each time that they are referred to
	maxArrowFields   = 4096
	maxArrowDepth    = 24
	maxArrowMessages = 4096
)

// Which header a message has.
const (
	arrowSchema          = 1
	arrowDictionaryBatch = 2
	arrowRecordBatch     = 3
)

var errNotArrow = errors.New("not an Arrow IPC stream, or truncated")

// checkArrow says what is wrong with a stream that the library should not see. It mends what the library's own writer
// gets wrong: the counts of a batch's long strings begin with those of the batches before.
func checkArrow(stream []byte) (err error) {
	defer func() {
		if recover() != nil { // flatbuffers leave it to Go to notice a reference to the outside
			err = errNotArrow
		}
	}()
	var schema schemaCheck
	for n := 0; len(stream) > 0; n++ {
		if len(stream) < 8 || binary.LittleEndian.Uint32(stream) != arrowMarker || n == maxArrowMessages {
			return errNotArrow
		}
		size := int64(binary.LittleEndian.Uint32(stream[4:]))
		stream = stream[8:]
		if size == 0 {
			return nil // the end of the stream
		}
		if size > int64(len(stream)) {
			return errNotArrow
		}
		if size > maxArrowMetadata {
			return fmt.Errorf("a message has %d bytes of metadata: %d at most", size, maxArrowMetadata)
		}
		body, err := schema.message(stream[:size], n)
		if err != nil {
			return err
		}
		stream = stream[size:]
		if body < 0 || body > int64(len(stream)) {
			return errNotArrow
		}
		stream = stream[body:]
	}
	return nil
}

// flatTable reads a flatbuffer's table by the numbers of its fields.
type flatTable struct{ flatbuffers.Table }

func flatRoot(b []byte) flatTable {
	return flatTable{flatbuffers.Table{Bytes: b, Pos: flatbuffers.GetUOffsetT(b)}}
}

func (t flatTable) at(field int) (flatbuffers.UOffsetT, bool) {
	o := flatbuffers.UOffsetT(t.Offset(flatbuffers.VOffsetT(4 + 2*field)))
	return o + t.Pos, o != 0
}

func (t flatTable) long(field int) int64 {
	if at, ok := t.at(field); ok {
		return t.GetInt64(at)
	}
	return 0
}

func (t flatTable) byte(field int) byte {
	if at, ok := t.at(field); ok {
		return t.GetByte(at)
	}
	return 0
}

func (t flatTable) short(field int) int16 {
	if at, ok := t.at(field); ok {
		return t.GetInt16(at)
	}
	return 0
}

func (t flatTable) table(field int) (flatTable, bool) {
	at, ok := t.at(field)
	if !ok {
		return flatTable{}, false
	}
	return flatTable{flatbuffers.Table{Bytes: t.Bytes, Pos: t.Indirect(at)}}, true
}

func (t flatTable) textLen(field int) int {
	if at, ok := t.at(field); ok {
		return len(t.ByteVector(at))
	}
	return 0
}

// vector returns where a vector's entries lie and how many there are, size bytes each.
func (t flatTable) vector(field, size int) (start flatbuffers.UOffsetT, n int) {
	at, ok := t.at(field)
	if !ok {
		return 0, 0
	}
	at -= t.Pos
	start, n = t.Vector(at), t.VectorLen(at)
	_ = t.Bytes[start : int(start)+n*size] // all of it is there
	return start, n
}

// schemaCheck knows of a schema what batches are held against.
type schemaCheck struct {
	text, fields int            // that it may still have
	views        int            // how many columns of views a record has
	dictionaries map[int64]*int // the same of each dictionary
}

// message checks the metadata of a message and returns how long its body is.
func (c *schemaCheck) message(b []byte, number int) (body int64, err error) {
	m := flatRoot(b)
	header, ok := m.table(2)
	if !ok {
		return 0, errNotArrow
	}
	switch kind := m.byte(1); {
	case kind == arrowSchema && number == 0:
		if header.short(0) != 0 {
			return 0, errors.New("its numbers are big-endian: want little-endian")
		}
		*c = schemaCheck{text: maxArrowText, fields: maxArrowFields, dictionaries: map[int64]*int{}}
		if err := c.metadata(header, 2); err != nil {
			return 0, err
		}
		err = c.children(header, 1, 0, &c.views)
	case kind == arrowDictionaryBatch && number > 0:
		if header.byte(2) != 0 {
			return 0, errors.New("it has a dictionary in parts: want whole dictionaries")
		}
		batch, ok := header.table(1)
		views := c.dictionaries[header.long(0)]
		if !ok || views == nil {
			return 0, errNotArrow
		}
		err = checkArrowBatch(batch, *views)
	case kind == arrowRecordBatch && number > 0:
		err = checkArrowBatch(header, c.views)
	default:
		err = errNotArrow
	}
	return m.long(3), err
}

// Numbers of types in a schema.
const (
	arrowTimestamp  = 10
	arrowBinaryView = 23
	arrowUtf8View   = 24
)

// children checks the fields below one, and counts columns of views among them.
func (c *schemaCheck) children(t flatTable, field, depth int, views *int) error {
	if depth > maxArrowDepth {
		return fmt.Errorf("its schema is nested deeper than %d", maxArrowDepth)
	}
	start, n := t.vector(field, 4)
	for i := range n {
		if c.fields--; c.fields < 0 {
			return fmt.Errorf("its schema has more than %d fields", maxArrowFields)
		}
		child := flatTable{flatbuffers.Table{Bytes: t.Bytes, Pos: t.Indirect(start + flatbuffers.UOffsetT(4*i))}}
		c.text -= child.textLen(0)
		kind := child.byte(2)
		if typ, ok := child.table(3); ok && kind == arrowTimestamp { // has a time zone
			c.text -= typ.textLen(1)
		}
		if err := c.metadata(child, 6); err != nil {
			return err
		}
		in := views
		if dictionary, ok := child.table(4); ok {
			in = new(int)
			c.dictionaries[dictionary.long(0)] = in
		}
		if kind == arrowBinaryView || kind == arrowUtf8View {
			*in++
		}
		if err := c.children(child, 5, depth+1, in); err != nil {
			return err
		}
	}
	return nil
}

func (c *schemaCheck) metadata(t flatTable, field int) error {
	start, n := t.vector(field, 4)
	for i := range n {
		pair := flatTable{flatbuffers.Table{Bytes: t.Bytes, Pos: t.Indirect(start + flatbuffers.UOffsetT(4*i))}}
		c.text -= 64 + pair.textLen(0) + pair.textLen(1)
		if c.text < 0 {
			break
		}
	}
	if c.text < 0 {
		return fmt.Errorf("its schema has more than %d bytes of names", maxArrowText)
	}
	return nil
}

// checkArrowBatch checks a batch that has so many columns of views.
func checkArrowBatch(batch flatTable, views int) error {
	if batch.long(0) < 0 {
		return errNotArrow
	}
	nodes, n := batch.vector(1, 16)
	for i := range n {
		at := nodes + flatbuffers.UOffsetT(16*i)
		if length, nulls := batch.GetInt64(at), batch.GetInt64(at+8); length < 0 || nulls < 0 || nulls > length {
			return errNotArrow
		}
	}
	_, buffers := batch.vector(2, 16)
	if packed, ok := batch.table(3); ok && packed.byte(0) != 0 {
		return errors.New("it is compressed with zstd: want LZ4 or no compression")
	}
	counts, n := batch.vector(4, 8)
	if n < views {
		return errNotArrow
	}
	copy(batch.Bytes[counts:int(counts)+8*n], batch.Bytes[int(counts)+8*(n-views):int(counts)+8*n])
	for i := range views {
		if v := batch.GetInt64(counts + flatbuffers.UOffsetT(8*i)); v < 0 || v > int64(buffers) {
			return errNotArrow
		}
	}
	return nil
}

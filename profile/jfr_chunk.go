package profile

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A recording is a row of chunks, each complete in itself; all that is in a chunk after its header is events. What
// an event's bytes mean is said by the chunk's metadata, an event of type 0; what events have in common is said once,
// in the constants of checkpoints, events of type 1. Source: JDK's jdk.jfr.internal.consumer, and its writer's
// counterpart in async-profiler.
//
//	 0        4         8     16           24          32        40           48           56         64      68
//	┌────────┬─────────┬─────┬────────────┬───────────┬─────────┬────────────┬────────────┬──────────┬───────┐
//	│ FLR\0  │ version │ size│ checkpoint │ metadata  │ start ns│ duration ns│ start ticks│ ticks/s  │ flags │ events …
//	└────────┴─────────┴─────┴────────────┴───────────┴─────────┴────────────┴────────────┴──────────┴───────┘
//
//	event       size, type, then the fields of the type's class in order
//	metadata    …, strings, then a tree of elements: name, attributes, children
//	checkpoint  …, per class: class id, per constant: id, value
//
// Numbers in the header are big-endian, behind it little groups of seven bits.
const (
	jfrMagic      = "FLR\x00"
	jfrHeaderSize = 68
	jfrCompressed = 1 // flag: numbers are groups of seven bits

	jfrMetadata   = 0
	jfrCheckpoint = 1

	// maxJFRDepth bounds how deep metadata and values are nested. The JDK's own reach 5.
	maxJFRDepth = 16
)

var errNotJFR = errors.New("not a recording, or truncated")

// jfrKind is how a class's values are written.
type jfrKind uint8

const (
	jfrObject jfrKind = iota // its fields, one after the other
	jfrByte
	jfrNumber
	jfrFloat
	jfrDouble
	jfrString
)

var jfrKinds = map[string]jfrKind{
	"boolean": jfrByte, "byte": jfrByte, "char": jfrNumber, "short": jfrNumber, "int": jfrNumber, "long": jfrNumber,
	"float": jfrFloat, "double": jfrDouble, "java.lang.String": jfrString,
}

type jfrClass struct {
	id     uint64
	name   string
	kind   jfrKind
	fields []jfrField
}

type jfrField struct {
	name    string
	classID uint64
	class   *jfrClass
	pool    bool // the value is the id of a constant
	array   bool
}

// jfrValue is a value that is no array and no object; of these it is zero.
type jfrValue struct {
	number uint64
	text   string
}

// jfrReader reads a part of a chunk. Once something is missing it is broken and gives zeroes.
type jfrReader struct {
	data   []byte
	at     int
	broken bool
}

func (r *jfrReader) bytes(n uint64) []byte {
	if r.broken || n > uint64(len(r.data)-r.at) {
		r.broken = true
		return nil
	}
	b := r.data[r.at : r.at+int(n)]
	r.at += int(n)
	return b
}

func (r *jfrReader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

// number reads groups of seven bits, the lowest first; a ninth byte has eight.
func (r *jfrReader) number() (v uint64) {
	for shift := 0; ; shift += 7 {
		b := r.byte()
		if shift == 56 {
			return v | uint64(b)<<shift
		}
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v
		}
	}
}

// jfrPool is the constants of a class: where they lie, by id.
type jfrPool struct {
	class   *jfrClass
	entries []jfrConstant
	sorted  bool
}

type jfrConstant struct {
	id uint64
	at int
}

// jfrEntryCost is what a constant takes of memory, a slice that grows included.
const jfrEntryCost = 40

// find returns a reader at the constant's value; the one that was written last counts.
func (p *jfrPool) find(data []byte, id uint64) (*jfrReader, bool) {
	if p == nil {
		return nil, false
	}
	if !p.sorted {
		slices.SortStableFunc(p.entries, func(a, b jfrConstant) int { return cmp.Compare(a.id, b.id) })
		p.sorted = true
	}
	i, _ := slices.BinarySearchFunc(p.entries, id, func(c jfrConstant, id uint64) int {
		if c.id <= id {
			return -1
		}
		return 1
	})
	if i == 0 || p.entries[i-1].id != id {
		return nil, false
	}
	return &jfrReader{data: data, at: p.entries[i-1].at}, true
}

// jfrChunk is an opened chunk: its classes are known, its constants found.
type jfrChunk struct {
	data                      []byte
	startNanos, durationNanos int64
	startTicks                uint64
	ticksPerSecond            uint64

	budget  *budget
	classes map[uint64]*jfrClass
	byName  map[string]*jfrClass
	pools   map[string]*jfrPool // by the class's name; those of jfrPools only
}

// jfrPools are the classes whose constants samples need.
var jfrPools = []string{
	"jdk.types.StackTrace", "jdk.types.Method", "java.lang.Class", "jdk.types.Symbol", "jdk.types.FrameType", "jdk.types.ThreadState",
	"java.lang.String", "jdk.types.OldObject",
}

// openJFRChunk opens the chunk at the beginning of data and returns what follows it.
func openJFRChunk(data []byte, budget *budget) (c *jfrChunk, rest []byte, err error) {
	if len(data) < jfrHeaderSize || string(data[:4]) != jfrMagic {
		return nil, nil, errNotJFR
	}
	if major := binary.BigEndian.Uint16(data[4:]); major != 2 && major != 1 {
		return nil, nil, fmt.Errorf("version %d.%d of the format: 1 and 2 are known", major, binary.BigEndian.Uint16(data[6:]))
	}
	size := binary.BigEndian.Uint64(data[8:])
	if size < jfrHeaderSize || size > uint64(len(data)) {
		return nil, nil, fmt.Errorf("a chunk of %d bytes where %d are left: was the recording copied before it was finished?", size, len(data))
	}
	if binary.BigEndian.Uint32(data[64:])&jfrCompressed == 0 {
		return nil, nil, errors.New("its integers are not compressed: record it without that option")
	}
	c = &jfrChunk{
		data: data[:size], budget: budget,
		startNanos: int64(binary.BigEndian.Uint64(data[32:])), durationNanos: int64(binary.BigEndian.Uint64(data[40:])),
		startTicks: binary.BigEndian.Uint64(data[48:]), ticksPerSecond: binary.BigEndian.Uint64(data[56:]),
		classes: map[uint64]*jfrClass{}, byName: map[string]*jfrClass{}, pools: map[string]*jfrPool{},
	}
	if c.startNanos < 0 || c.durationNanos < 0 || c.startNanos+c.durationNanos < 0 {
		return nil, nil, errors.New("a chunk's time is out of range")
	}
	if err := c.readMetadata(binary.BigEndian.Uint64(data[24:])); err != nil {
		return nil, nil, fmt.Errorf("its metadata: %w", err)
	}
	if err := c.events(func(class uint64, r *jfrReader) error {
		if class == jfrCheckpoint {
			return c.readConstants(r)
		}
		return nil
	}); err != nil {
		return nil, nil, fmt.Errorf("its constants: %w", err)
	}
	return c, data[size:], nil
}

// events calls f for every event of the chunk with a reader of its fields, which lies in the whole chunk and stands for that call.
func (c *jfrChunk) events(f func(class uint64, r *jfrReader) error) error {
	r := &jfrReader{data: c.data, at: jfrHeaderSize}
	body := &jfrReader{}
	for r.at < len(c.data) {
		start := r.at
		size := r.number()
		if r.broken || size == 0 || size > uint64(len(c.data)-start) {
			return errNotJFR
		}
		*body = jfrReader{data: c.data[:start+int(size)], at: r.at}
		class := body.number()
		if body.broken {
			return errNotJFR
		}
		if err := f(class, body); err != nil {
			return err
		}
		r.at = start + int(size)
	}
	return nil
}

func (c *jfrChunk) readMetadata(at uint64) error {
	if at < jfrHeaderSize || at >= uint64(len(c.data)) {
		return errNotJFR
	}
	r := &jfrReader{data: c.data, at: int(at)}
	size := r.number()
	if size > uint64(len(c.data))-at {
		return errNotJFR
	}
	r.data = c.data[:at+size]
	if class := r.number(); class != jfrMetadata {
		return errNotJFR
	}
	r.number() // start
	r.number() // duration
	r.number() // id
	var texts []string
	for n := r.number(); n > 0 && !r.broken; n-- {
		s := c.text(r, false)
		if err := c.budget.spend(32+int64(len(s)), 1); err != nil {
			return err
		}
		texts = append(texts, s)
	}
	if err := c.element(r, texts, nil, 0); err != nil {
		return err
	}
	if r.broken {
		return errNotJFR
	}
	for _, class := range c.classes {
		for i := range class.fields {
			f := &class.fields[i]
			if f.class = c.classes[f.classID]; f.class == nil {
				return fmt.Errorf("the field %.100q of %.100q has a class that does not exist", f.name, class.name)
			}
		}
	}
	return nil
}

// element reads an element of the metadata's tree with its children; in is the class around it.
func (c *jfrChunk) element(r *jfrReader, texts []string, in *jfrClass, depth int) error {
	if depth > maxJFRDepth {
		return errNotJFR
	}
	text := func() string {
		i := r.number()
		if i >= uint64(len(texts)) {
			r.broken = true
			return ""
		}
		return texts[i]
	}
	number := func(s string) uint64 {
		n, err := strconv.ParseUint(s, 10, 64)
		r.broken = r.broken || err != nil
		return n
	}
	if err := c.budget.spend(64, 1); err != nil {
		return err
	}
	kind := text()
	var class jfrClass
	var field jfrField
	for n := r.number(); n > 0 && !r.broken; n-- {
		key, value := text(), text()
		switch {
		case kind == "class" && key == "id":
			class.id = number(value)
		case kind == "class" && key == "name":
			class.name = value
		case kind == "field" && key == "name":
			field.name = value
		case kind == "field" && key == "class":
			field.classID = number(value)
		case kind == "field" && key == "constantPool":
			field.pool = value == "true"
		case kind == "field" && key == "dimension":
			field.array = value != "0"
		}
	}
	switch {
	case kind == "class":
		class.kind = jfrKinds[class.name]
		in = &class
		c.classes[class.id], c.byName[class.name] = in, in
		if err := c.budget.spend(256, 0); err != nil {
			return err
		}
	case kind == "field" && in != nil:
		in.fields = append(in.fields, field)
		if err := c.budget.spend(128, 0); err != nil {
			return err
		}
	}
	for n := r.number(); n > 0 && !r.broken; n-- {
		if err := c.element(r, texts, in, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// readConstants notes where the constants of a checkpoint lie.
func (c *jfrChunk) readConstants(r *jfrReader) error {
	r.number() // start
	r.number() // duration
	r.number() // how far away the checkpoint before this one is
	r.byte()   // what caused it
	for pools := r.number(); pools > 0 && !r.broken; pools-- {
		class := c.classes[r.number()]
		if class == nil {
			return errors.New("there are some of a class that does not exist")
		}
		pool := c.pools[class.name]
		if pool == nil {
			pool = &jfrPool{class: class}
			if slices.Contains(jfrPools, class.name) {
				c.pools[class.name] = pool
			}
		}
		kept := c.pools[class.name] != nil
		for n := r.number(); n > 0 && !r.broken; n-- {
			id := r.number()
			if kept {
				if err := c.budget.spend(jfrEntryCost, 0); err != nil {
					return err
				}
				pool.entries = append(pool.entries, jfrConstant{id, r.at})
				pool.sorted = false
			}
			if err := c.skip(r, class, 0); err != nil {
				return err
			}
		}
	}
	if r.broken {
		return errNotJFR
	}
	return nil
}

// skip passes over a value of a class.
func (c *jfrChunk) skip(r *jfrReader, class *jfrClass, depth int) error {
	if depth > maxJFRDepth || r.broken {
		return errNotJFR
	}
	if err := c.budget.spend(0, 1); err != nil {
		return err
	}
	switch class.kind {
	case jfrByte:
		r.byte()
	case jfrNumber:
		r.number()
	case jfrFloat:
		r.bytes(4)
	case jfrDouble:
		r.bytes(8)
	case jfrString:
		r.skipText()
	default:
		return c.values(r, class, depth, func(string, jfrValue) {})
	}
	return nil
}

// values reads the fields of an object.
func (c *jfrChunk) values(r *jfrReader, class *jfrClass, depth int, f func(name string, v jfrValue)) error {
	for i := range class.fields {
		v, err := c.value(r, &class.fields[i], depth)
		if err != nil {
			return err
		}
		f(class.fields[i].name, v)
	}
	return nil
}

// value reads the value of a field.
func (c *jfrChunk) value(r *jfrReader, f *jfrField, depth int) (v jfrValue, err error) {
	n := uint64(1)
	if f.array {
		n = r.number()
	}
	for ; n > 0; n-- {
		switch {
		case r.broken:
			return v, errNotJFR
		case f.pool, f.class.kind == jfrNumber:
			v.number = r.number()
			err = c.budget.spend(0, 1)
		case f.class.kind == jfrByte:
			v.number = uint64(r.byte())
			err = c.budget.spend(0, 1)
		case f.class.kind == jfrString && !f.array:
			v.text = c.text(r, true)
			err = c.budget.spend(int64(len(v.text)), 1)
		default:
			err = c.skip(r, f.class, depth+1)
		}
		if err != nil {
			return v, err
		}
	}
	if f.array {
		v = jfrValue{}
	}
	if f.pool && f.class.kind == jfrString {
		v.text, err = c.stringConstant(v.number)
	}
	return v, err
}

// stringConstant returns a constant of java.lang.String, or "".
func (c *jfrChunk) stringConstant(id uint64) (string, error) {
	r, ok := c.pools["java.lang.String"].find(c.data, id)
	if !ok {
		return "", nil
	}
	s := c.text(r, false)
	return s, c.budget.spend(int64(len(s)), 1)
}

// How a string is written.
const (
	jfrNull = iota
	jfrEmpty
	jfrConstantText
	jfrUTF8
	jfrChars
	jfrLatin1
)

// text reads a string; one that is a constant is looked up if resolve, else empty.
func (c *jfrChunk) text(r *jfrReader, resolve bool) string {
	switch encoding := r.byte(); encoding {
	case jfrNull, jfrEmpty:
	case jfrConstantText:
		id := r.number()
		if resolve {
			if pr, ok := c.pools["java.lang.String"].find(c.data, id); ok {
				return c.text(pr, false)
			}
		}
	case jfrUTF8:
		return validText(string(r.bytes(r.number())))
	case jfrLatin1:
		b := r.bytes(r.number())
		var s strings.Builder
		for _, ch := range b {
			s.WriteRune(rune(ch))
		}
		return s.String()
	case jfrChars:
		var s strings.Builder
		for n := r.number(); n > 0 && !r.broken; n-- {
			s.WriteRune(rune(uint16(r.number())))
		}
		return s.String()
	default:
		r.broken = true
	}
	return ""
}

func (r *jfrReader) skipText() {
	switch encoding := r.byte(); encoding {
	case jfrNull, jfrEmpty:
	case jfrConstantText:
		r.number()
	case jfrUTF8, jfrLatin1:
		r.bytes(r.number())
	case jfrChars:
		for n := r.number(); n > 0 && !r.broken; n-- {
			r.number()
		}
	default:
		r.broken = true
	}
}

// IsJFR says whether data begins as a recording of Java's Flight Recorder does.
func IsJFR(data []byte) bool { return bytes.HasPrefix(data, []byte(jfrMagic)) }

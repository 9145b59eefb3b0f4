package profile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
)

// jfrStacks makes stacks of ours out of a chunk's constants, each when it is first asked for.
type jfrStacks struct {
	c       *jfrChunk
	d       *Dictionary
	stacks  map[uint64]StackIndex
	methods map[uint64]FunctionIndex
	kinds   map[uint64]Kind
	states  map[uint64]bool // the thread sleeps
	frames  Stack
	kernel  MappingIndex
	cut     FrameIndex
}

func newJFRStacks(c *jfrChunk, d *Dictionary) *jfrStacks {
	return &jfrStacks{
		c: c, d: d, stacks: map[uint64]StackIndex{}, methods: map[uint64]FunctionIndex{}, kinds: map[uint64]Kind{}, states: map[uint64]bool{},
	}
}

// fields reads a constant's value and calls f with each of its fields; it does nothing if there is no such constant.
func (s *jfrStacks) fields(class string, id uint64, f func(field *jfrField, r *jfrReader) error) error {
	pool := s.c.pools[class]
	r, ok := pool.find(s.c.data, id)
	if !ok {
		return nil
	}
	for i := range pool.class.fields {
		if err := f(&pool.class.fields[i], r); err != nil {
			return err
		}
		if r.broken {
			return errNotJFR
		}
	}
	return nil
}

// values is fields for constants of plain values.
func (s *jfrStacks) values(class string, id uint64, f func(name string, v jfrValue)) error {
	return s.fields(class, id, func(field *jfrField, r *jfrReader) error {
		v, err := s.c.value(r, field, 0)
		if err == nil {
			f(field.name, v)
		}
		return err
	})
}

// stack returns a stack; 0, no stack, if there is no such constant.
func (s *jfrStacks) stack(id uint64) (StackIndex, error) {
	if i, ok := s.stacks[id]; ok {
		return i, nil
	}
	s.frames = s.frames[:0]
	truncated := false
	if err := s.fields("jdk.types.StackTrace", id, func(f *jfrField, r *jfrReader) error {
		if f.name != "frames" || !f.array || f.pool {
			v, err := s.c.value(r, f, 0)
			truncated = truncated || f.name == "truncated" && v.number != 0
			return err
		}
		for n := r.number(); n > 0 && !r.broken; n-- {
			if err := s.frame(r, f.class); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return 0, fmt.Errorf("stack %d: %w", id, err)
	}
	if truncated && len(s.frames) > 0 {
		if s.cut == 0 {
			name := foldedUnwind + "deeper than the recorder's stackdepth]"
			s.cut = s.d.Frame(Frame{Kind: KindUnwind, Lines: []Line{{Function: s.d.Function(Function{Name: name})}}})
		}
		s.frames = append(s.frames, s.cut)
	}
	before := len(s.d.Stacks)
	i := s.d.Stack(s.frames)
	cost := int64(64)
	if len(s.d.Stacks) > before {
		cost += 64 + 4*int64(len(s.frames))
	}
	s.stacks[id] = i
	return i, s.c.budget.spend(cost, 0)
}

func (s *jfrStacks) frame(r *jfrReader, class *jfrClass) error {
	var method, line, kind uint64
	if err := s.c.values(r, class, 1, func(name string, v jfrValue) {
		switch name {
		case "method":
			method = v.number
		case "lineNumber":
			line = v.number
		case "type":
			kind = v.number
		}
	}); err != nil {
		return err
	}
	if err := s.c.budget.spend(8, 1); err != nil {
		return err
	}
	fn, err := s.method(method)
	if err != nil {
		return err
	}
	out := Frame{Lines: []Line{{Function: fn, Line: int32(min(line, math.MaxInt32))}}}
	if line > math.MaxInt32 {
		out.Lines[0].Line = 0 // -1: not known
	}
	if out.Kind, err = s.kind(kind); err != nil {
		return err
	}
	if out.Kind == KindKernel {
		if s.kernel == 0 {
			s.kernel = s.d.Mapping(Mapping{File: KernelFile})
		}
		out.Mapping = s.kernel
	}
	before := len(s.d.Frames)
	s.frames = append(s.frames, s.d.Frame(out))
	if len(s.d.Frames) > before {
		return s.c.budget.spend(128, 0)
	}
	return nil
}

// hidden is what differs from run to run in the names of hidden classes.
var hidden = regexp.MustCompile(`(\$\$Lambda)\$?[0-9]*|[/+.](0x[0-9a-f]+|[0-9]+)$`)

// JavaClass turns a JVM's name of a class into that of Java's source, the same in each run: "shop/Cart$$Lambda$14/0x000080001" is
// "shop.Cart$$Lambda".
func JavaClass(name string) string {
	return strings.ReplaceAll(hidden.ReplaceAllString(name, "$1"), "/", ".")
}

// method returns a method's function.
func (s *jfrStacks) method(id uint64) (FunctionIndex, error) {
	if i, ok := s.methods[id]; ok {
		return i, nil
	}
	var class, nameID, classNameID uint64
	if err := s.values("jdk.types.Method", id, func(name string, v jfrValue) {
		switch name {
		case "type":
			class = v.number
		case "name":
			nameID = v.number
		}
	}); err != nil {
		return 0, fmt.Errorf("method %d: %w", id, err)
	}
	if err := s.values("java.lang.Class", class, func(name string, v jfrValue) {
		if name == "name" {
			classNameID = v.number
		}
	}); err != nil {
		return 0, fmt.Errorf("class %d: %w", class, err)
	}
	name, err := s.symbol(nameID)
	if err != nil {
		return 0, err
	}
	className, err := s.symbol(classNameID)
	if err != nil {
		return 0, err
	}
	if className != "" {
		name = JavaClass(className) + "." + name
	}
	if name == "" {
		name = foldedEmpty
	}
	i := s.d.Function(Function{Name: strings.TrimSuffix(name, foldedKernel)})
	s.methods[id] = i
	return i, s.c.budget.spend(256+2*int64(len(name)), 0)
}

func (s *jfrStacks) symbol(id uint64) (text string, err error) {
	err = s.values("jdk.types.Symbol", id, func(name string, v jfrValue) {
		if name == "string" {
			text = v.text
		}
	})
	if err != nil {
		return "", fmt.Errorf("symbol %d: %w", id, err)
	}
	return text, nil
}

// kind tells what executes a frame, by the words of the JDK and async-profiler.
func (s *jfrStacks) kind(id uint64) (Kind, error) {
	if k, ok := s.kinds[id]; ok {
		return k, nil
	}
	k := KindInterpreted // Interpreted, JIT compiled, Inlined, C1 compiled
	err := s.values("jdk.types.FrameType", id, func(name string, v jfrValue) {
		switch {
		case name != "description":
		case v.text == "Kernel":
			k = KindKernel
		case v.text == "Native", v.text == "C++":
			k = KindNative
		}
	})
	if err != nil {
		return 0, fmt.Errorf("frame type %d: %w", id, err)
	}
	s.kinds[id] = k
	return k, s.c.budget.spend(48, 0)
}

// sleeps says whether a thread's state is sleeping.
func (s *jfrStacks) sleeps(id uint64) (sleeps bool, err error) {
	if sleeps, ok := s.states[id]; ok {
		return sleeps, nil
	}
	err = s.values("jdk.types.ThreadState", id, func(name string, v jfrValue) { sleeps = sleeps || v.text == "STATE_SLEEPING" })
	if err != nil {
		return false, fmt.Errorf("thread state %d: %w", id, err)
	}
	s.states[id] = sleeps
	return sleeps, s.c.budget.spend(48, 0)
}

// JFRContexts are the labels that Pyroscope's Java agent keeps beside a recording: samples carry the number of a
// context, a context is pairs of numbers of strings.
type JFRContexts struct {
	contexts map[uint64][][2]uint64
	strings  map[uint64]string
}

// ParseJFRContexts reads the agent's snapshot of them, which is protobuf: contexts = 1 and strings = 2, both maps.
func ParseJFRContexts(data []byte) (*JFRContexts, error) {
	out := &JFRContexts{contexts: map[uint64][][2]uint64{}, strings: map[uint64]string{}}
	pair := func(b []byte) (key, number uint64, value []byte, err error) {
		err = eachField(b, func(f pprofField) error {
			switch {
			case f.number == 1:
				key = f.value
			case f.number == 2 && f.packed:
				value = f.bytes
			case f.number == 2:
				number = f.value
			}
			return nil
		})
		return key, number, value, err
	}
	err := eachField(data, func(f pprofField) error {
		if !f.packed {
			return nil
		}
		key, _, value, err := pair(f.bytes)
		switch {
		case err != nil:
			return err
		case f.number == 2:
			out.strings[key] = validText(string(value))
		case f.number == 1:
			var labels [][2]uint64
			if err := eachField(value, func(l pprofField) error {
				if l.number != 1 || !l.packed {
					return nil
				}
				name, value, _, err := pair(l.bytes)
				labels = append(labels, [2]uint64{name, value})
				return err
			}); err != nil {
				return err
			}
			out.contexts[key] = labels
		}
		return nil
	})
	if err != nil {
		return nil, errors.New("reading the labels of a JFR recording: not a snapshot of labels, or truncated")
	}
	return out, nil
}

func (c *JFRContexts) labels(id uint64) []Label {
	if c == nil {
		return nil
	}
	var ls []Label
	for _, l := range c.contexts[id] {
		if name, value := c.strings[l[0]], c.strings[l[1]]; name != "" && value != "" {
			ls = append(ls, Label{name, value})
		}
	}
	return ls
}

func (c *JFRContexts) link(span, name uint64) (l Link) {
	if span == 0 {
		return l
	}
	binary.BigEndian.PutUint64(l.SpanID[:], span)
	if c != nil {
		l.SpanName = c.strings[name]
	}
	return l
}

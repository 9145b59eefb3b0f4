package demangle

import (
	"strconv"
	"strings"
)

// Swift's mangling (docs/ABI/Mangling.rst of the Swift project) is a postfix language: operators take what
// earlier ones have left on a stack. What is understood here is what functions in a program are called:
// functions, methods, initializers, accessors, subscripts and closures, in modules, types and extensions,
// with their labels; generic signatures and specializations; the thunks that show up in profiles.
// Everything that is a type is read, but only its name is kept. A name with anything else in it stays as it
// is: none is better than a wrong one.

// kind says what an entry of the stack is.
type kind uint8

const (
	kIdentifier kind = iota
	kName            // a declaration's name that is more than an identifier
	kModule
	kType
	kEntity
	kEmpty      // an empty list
	kFirst      // marks the first element of a list
	kVariadic   // the element before it is variadic
	kAnnotation // throws, async and their like
	kSignature
	kRequirement
)

type swiftNode struct {
	kind kind
	text string
	// params is the number of parameters if it is a function's type, -1 else.
	params int
	// elements is the number of elements if it is a tuple, -1 else.
	elements int
}

// Limits: a name may unfold by its back references.
const (
	maxSwiftNodes = 4096
	maxSwiftText  = 8 << 10
	maxSwiftWords = 26
)

// swift demangles a symbol with one of Swift's prefixes.
func swift(symbol string) (string, bool) {
	rest, ok := "", false
	for _, p := range []string{"$s", "$S", "_$s", "_$S", "_T0"} {
		if rest, ok = strings.CutPrefix(symbol, p); ok {
			break
		}
	}
	if !ok || rest == "" {
		return "", false
	}
	d := &swiftDemangler{in: rest}
	for d.at < len(d.in) {
		if d.in[d.at] == '.' {
			break // a suffix that LLVM has added
		}
		if !d.operator() || d.made > maxSwiftNodes {
			return "", false
		}
	}
	if len(d.stack) != 1 || d.stack[0].kind != kEntity {
		return "", false
	}
	return d.prefix + d.stack[0].text, true
}

type swiftDemangler struct {
	in     string
	at     int
	stack  []swiftNode
	made   int // entries ever pushed
	subst  []swiftNode
	words  []string
	prefix string // of a thunk
}

func (d *swiftDemangler) next() byte {
	if d.at >= len(d.in) {
		return 0
	}
	d.at++
	return d.in[d.at-1]
}

func (d *swiftDemangler) nextIf(c byte) bool {
	if d.at < len(d.in) && d.in[d.at] == c {
		d.at++
		return true
	}
	return false
}

func (d *swiftDemangler) push(n swiftNode) bool {
	d.made++
	d.stack = append(d.stack, n)
	return len(n.text) <= maxSwiftText && d.made <= maxSwiftNodes
}

func (d *swiftDemangler) pushType(text string) bool {
	return d.push(swiftNode{kType, text, -1, -1})
}

func (d *swiftDemangler) pushKind(k kind) bool { return d.push(swiftNode{kind: k}) }

// pop takes the top of the stack if it is of that kind.
func (d *swiftDemangler) pop(k kind) (swiftNode, bool) {
	n := len(d.stack) - 1
	if n < 0 || d.stack[n].kind != k {
		return swiftNode{}, false
	}
	top := d.stack[n]
	d.stack = d.stack[:n]
	return top, true
}

func (d *swiftDemangler) popIf(k kind) bool {
	_, ok := d.pop(k)
	return ok
}

func (d *swiftDemangler) natural() (int, bool) {
	from := d.at
	for d.at < len(d.in) && d.in[d.at] >= '0' && d.in[d.at] <= '9' {
		d.at++
	}
	n, err := strconv.Atoi(d.in[from:d.at])
	return n, err == nil && n <= 1<<16
}

// index reads "_" as 0 and "3_" as 4.
func (d *swiftDemangler) index() (int, bool) {
	if d.nextIf('_') {
		return 0, true
	}
	n, ok := d.natural()
	return n + 1, ok && d.nextIf('_')
}

func (d *swiftDemangler) genericParam() bool {
	if d.nextIf('d') {
		_, ok := d.index()
		_, ok2 := d.index()
		return ok && ok2
	}
	if d.nextIf('z') {
		return true
	}
	_, ok := d.index()
	return ok
}

// operator carries out the next operator; false if it is not understood or does not fit.
func (d *swiftDemangler) operator() bool {
	c := d.next()
	switch c {
	case '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		d.at--
		return d.identifier()
	case 'A':
		return d.substitution()
	case 'B':
		return d.builtin()
	case 'C', 'V', 'O', 'a', 'P':
		return d.nominal()
	case 'E':
		d.pop(kSignature)
		_, ok := d.popModule()
		extended, ok2 := d.pop(kType)
		return ok && ok2 && d.push(swiftNode{kEntity, extended.text, -1, -1})
	case 'F':
		return d.function()
	case 'G':
		return d.boundGeneric()
	case 'K':
		return d.pushKind(kAnnotation)
	case 'L':
		return d.localName()
	case 'M':
		if t, ok := d.pop(kType); ok && d.nextIf('a') {
			return d.push(swiftNode{kEntity, "type metadata accessor for " + t.text, -1, -1})
		}
		return false
	case 'Q':
		return d.dependent()
	case 'R':
		return d.requirement()
	case 'S':
		return d.standard()
	case 's':
		return d.push(swiftNode{kModule, "Swift", -1, -1})
	case 'T':
		return d.thunk()
	case 'W':
		return d.outlined()
	case 'X':
		return d.special()
	case 'Y':
		return d.annotation()
	case 'Z': // static
		e, ok := d.pop(kEntity)
		return ok && d.push(e)
	case 'c':
		return d.functionType()
	case 'd':
		return d.pushKind(kVariadic)
	case 'f':
		return d.functionEntity()
	case 'h', 'm', 'n', 'z': // shared, metatype, owned, inout
		t, ok := d.pop(kType)
		return ok && d.pushType(t.text)
	case 'i':
		d.pop(kName)
		t, ok := d.pop(kType)
		labels, ok2 := d.labels(t)
		context, ok3 := d.popContext()
		return ok && ok2 && ok3 && d.accessor(context+".subscript"+labels)
	case 'l':
		return d.signature(false)
	case 'o':
		return d.operatorName()
	case 'p':
		return d.protocols() && d.pushType("any")
	case 'q':
		return d.genericParam() && d.pushType("A")
	case 'r':
		return d.signature(true)
	case 't':
		return d.tuple()
	case 'u':
		_, ok := d.pop(kSignature)
		t, ok2 := d.pop(kType)
		return ok && ok2 && d.push(t)
	case 'v':
		t, ok := d.pop(kType)
		_, ok2 := d.labels(t)
		name, ok3 := d.popName()
		context, ok4 := d.popContext()
		return ok && ok2 && ok3 && ok4 && d.accessor(context+"."+name)
	case 'x':
		return d.pushType("A")
	case 'y':
		return d.pushKind(kEmpty)
	case '_':
		return d.pushKind(kFirst)
	}
	return false
}

// identifier reads a length and as many bytes; with a leading 0, words of earlier identifiers stand in it as
// letters. Punycode ("00") is left alone.
func (d *swiftDemangler) identifier() bool {
	words := false
	if d.nextIf('0') {
		if d.nextIf('0') {
			return false
		}
		words = true
	}
	var text strings.Builder
	for {
		for words && d.at < len(d.in) && isLetter(d.in[d.at]) {
			c := d.next()
			i := int(c - 'a')
			if isUpper(c) {
				i, words = int(c-'A'), false
			}
			if i >= len(d.words) || text.Len() > maxSwiftText {
				return false
			}
			text.WriteString(d.words[i])
		}
		if d.nextIf('0') {
			break
		}
		n, ok := d.natural()
		if !ok || n == 0 || n > len(d.in)-d.at {
			return false
		}
		part := d.in[d.at : d.at+n]
		d.at += n
		d.collectWords(part)
		text.WriteString(part)
		if !words {
			break
		}
	}
	id := swiftNode{kIdentifier, text.String(), -1, -1}
	d.subst = append(d.subst, id)
	return d.push(id)
}

func isUpper(c byte) bool  { return c >= 'A' && c <= 'Z' }
func isLetter(c byte) bool { return isUpper(c) || c >= 'a' && c <= 'z' }

// collectWords remembers the words of an identifier: they begin at a letter and end before a capital that
// follows none, at an underscore and at the end.
func (d *swiftDemangler) collectWords(s string) {
	start := -1
	for i := 0; i <= len(s); i++ {
		c, before := byte(0), byte(0)
		if i < len(s) {
			c = s[i]
		}
		if i > 0 {
			before = s[i-1]
		}
		if start >= 0 && (c == 0 || c == '_' || !isUpper(before) && isUpper(c)) {
			if i-start >= 2 && len(d.words) < maxSwiftWords {
				d.words = append(d.words, s[start:i])
			}
			start = -1
		}
		if start < 0 && c != 0 && c != '_' && (c < '0' || c > '9') {
			start = i
		}
	}
}

// substitution: lower-case letters push what they stand for, a capital is the last; a number in front repeats.
func (d *swiftDemangler) substitution() bool {
	repeat := -1
	for {
		c := d.next()
		switch {
		case c == '_':
			i := repeat + 27
			return i >= 0 && i < len(d.subst) && d.push(d.subst[i])
		case isLetter(c):
			i := int(c - 'a')
			if isUpper(c) {
				i = int(c - 'A')
			}
			if i >= len(d.subst) || repeat > 256 {
				return false
			}
			for range max(repeat, 1) {
				if !d.push(d.subst[i]) {
					return false
				}
			}
			if isUpper(c) {
				return true
			}
			repeat = -1
		case c >= '0' && c <= '9':
			d.at--
			var ok bool
			if repeat, ok = d.natural(); !ok {
				return false
			}
		default:
			return false
		}
	}
}

var swiftTypes = map[byte]string{
	'A': "AutoreleasingUnsafeMutablePointer", 'a': "Array", 'B': "BinaryFloatingPoint", 'b': "Bool", 'D': "Dictionary",
	'd': "Double", 'E': "Encodable", 'e': "Decodable", 'F': "FloatingPoint", 'f': "Float", 'G': "RandomNumberGenerator",
	'H': "Hashable", 'h': "Set", 'I': "DefaultIndices", 'i': "Int", 'J': "Character", 'j': "Numeric",
	'K': "BidirectionalCollection", 'k': "RandomAccessCollection", 'L': "Comparable", 'l': "Collection",
	'M': "MutableCollection", 'm': "RangeReplaceableCollection", 'N': "ClosedRange", 'n': "Range", 'O': "ObjectIdentifier",
	'P': "UnsafePointer", 'p': "UnsafeMutablePointer", 'Q': "Equatable", 'q': "Optional", 'R': "UnsafeBufferPointer",
	'r': "UnsafeMutableBufferPointer", 'S': "String", 's': "Substring", 'T': "Sequence", 't': "IteratorProtocol",
	'U': "UnsignedInteger", 'u': "UInt", 'V': "UnsafeRawPointer", 'v': "UnsafeMutableRawPointer",
	'W': "UnsafeRawBufferPointer", 'w': "UnsafeMutableRawBufferPointer", 'X': "RangeExpression", 'x': "Strideable",
	'Y': "RawRepresentable", 'y': "StringProtocol", 'Z': "SignedInteger", 'z': "BinaryInteger",
}

var swiftConcurrencyTypes = map[byte]string{
	'A': "Actor", 'C': "CheckedContinuation", 'c': "UnsafeContinuation", 'E': "CancellationError",
	'e': "UnownedSerialExecutor", 'F': "Executor", 'f': "SerialExecutor", 'G': "TaskGroup", 'g': "ThrowingTaskGroup",
	'I': "AsyncIteratorProtocol", 'i': "AsyncSequence", 'J': "UnownedJob", 'M': "MainActor", 'P': "TaskPriority",
	'S': "AsyncStream", 's': "AsyncThrowingStream", 'T': "Task", 't': "UnsafeCurrentTask",
}

func (d *swiftDemangler) standard() bool {
	switch {
	case d.nextIf('o'):
		return d.push(swiftNode{kModule, "__C", -1, -1})
	case d.nextIf('C'):
		return d.push(swiftNode{kModule, "__C_Synthesized", -1, -1})
	case d.nextIf('g'):
		t, ok := d.pop(kType)
		optional := swiftNode{kType, t.text + "?", -1, -1}
		d.subst = append(d.subst, optional)
		return ok && d.push(optional)
	}
	repeat := 1
	if d.at < len(d.in) && d.in[d.at] >= '0' && d.in[d.at] <= '9' {
		var ok bool
		if repeat, ok = d.natural(); !ok || repeat > 256 {
			return false
		}
	}
	types := swiftTypes
	if d.nextIf('c') {
		types = swiftConcurrencyTypes
	}
	name, ok := types[d.next()]
	if !ok {
		return false
	}
	for range repeat {
		if !d.pushType("Swift." + name) {
			return false
		}
	}
	return repeat > 0
}

func (d *swiftDemangler) builtin() bool {
	switch c := d.next(); c {
	case 'b', 'B', 'c', 'D', 'e', 'd', 'I', 'j', 'P', 'O', 'o', 'p', 't', 'w':
	case 'f', 'i':
		if _, ok := d.natural(); !ok || !d.nextIf('_') {
			return false
		}
	case 'v':
		if _, ok := d.natural(); !ok || !d.nextIf('_') || !d.popIf(kType) {
			return false
		}
	default:
		return false
	}
	return d.pushType("Builtin")
}

// popName takes a declaration's name.
func (d *swiftDemangler) popName() (string, bool) {
	if n, ok := d.pop(kIdentifier); ok {
		return n.text, true
	}
	n, ok := d.pop(kName)
	return n.text, ok
}

func (d *swiftDemangler) popModule() (string, bool) {
	if n, ok := d.pop(kIdentifier); ok {
		return n.text, true
	}
	n, ok := d.pop(kModule)
	return n.text, ok
}

func (d *swiftDemangler) popContext() (string, bool) {
	if m, ok := d.popModule(); ok {
		return m, true
	}
	if t, ok := d.pop(kType); ok {
		return t.text, t.params < 0 && t.elements < 0
	}
	e, ok := d.pop(kEntity)
	return e.text, ok
}

func (d *swiftDemangler) nominal() bool {
	name, ok := d.popName()
	context, ok2 := d.popContext()
	if !ok || !ok2 {
		return false
	}
	t := swiftNode{kType, context + "." + name, -1, -1}
	d.subst = append(d.subst, t)
	return d.push(t)
}

func (d *swiftDemangler) localName() bool {
	switch {
	case d.nextIf('L'): // private to a file
		_, ok := d.pop(kIdentifier)
		name, ok2 := d.popName()
		return ok && ok2 && d.push(swiftNode{kName, name, -1, -1})
	case d.nextIf('l'): // without a name
		_, ok := d.pop(kIdentifier)
		return ok && d.push(swiftNode{kName, "", -1, -1})
	}
	if d.at < len(d.in) && isLetter(d.in[d.at]) {
		d.at++
		name, ok := d.popName()
		return ok && d.push(swiftNode{kName, name, -1, -1})
	}
	i, ok := d.index()
	name, ok2 := d.popName()
	return ok && ok2 && d.push(swiftNode{kName, name + " #" + strconv.Itoa(i+1), -1, -1})
}

// operatorName: letters stand for the characters of an operator.
func (d *swiftDemangler) operatorName() bool {
	c := d.next()
	id, ok := d.pop(kIdentifier)
	if !ok || c != 'p' && c != 'P' && c != 'i' {
		return false
	}
	const characters = "& @/= >    <*!|+?%-~   ^ ."
	out := make([]byte, 0, len(id.text))
	for i := range len(id.text) {
		k := id.text[i]
		if k < 'a' || k > 'z' || characters[k-'a'] == ' ' {
			return false
		}
		out = append(out, characters[k-'a'])
	}
	return d.push(swiftNode{kName, string(out), -1, -1})
}

// popParams takes a function's parameters or result and counts them.
func (d *swiftDemangler) popParams() (int, bool) {
	if d.popIf(kEmpty) {
		return 0, true
	}
	t, ok := d.pop(kType)
	if t.elements >= 0 {
		return t.elements, ok
	}
	return 1, ok
}

func (d *swiftDemangler) popSignature() (params int, ok bool) {
	for d.popIf(kAnnotation) {
	}
	params, ok = d.popParams()
	_, ok2 := d.popParams()
	return params, ok && ok2
}

func (d *swiftDemangler) functionType() bool {
	params, ok := d.popSignature()
	return ok && d.push(swiftNode{kType, "function", params, -1})
}

// labels takes the labels of a function's parameters and writes them as in (of:_:).
func (d *swiftDemangler) labels(t swiftNode) (string, bool) {
	if d.popIf(kEmpty) {
		if t.params > 64 {
			return "", false
		}
		return "(" + strings.Repeat("_:", max(t.params, 0)) + ")", true
	}
	if t.params <= 0 {
		return "()", true
	}
	if t.params > 64 {
		return "", false
	}
	all := make([]string, t.params)
	for i := t.params - 1; i >= 0; i-- {
		if id, ok := d.pop(kIdentifier); ok {
			all[i] = id.text
		} else if d.popIf(kFirst) {
			all[i] = "_"
		} else {
			return "", false
		}
	}
	return "(" + strings.Join(all, ":") + ":)", true
}

func (d *swiftDemangler) function() bool {
	d.pop(kSignature)
	params, ok := d.popSignature()
	if !ok {
		return false
	}
	labels, ok := d.labels(swiftNode{kType, "", params, -1})
	name, ok2 := d.popName()
	context, ok3 := d.popContext()
	return ok && ok2 && ok3 && d.push(swiftNode{kEntity, context + "." + name + labels, -1, -1})
}

// functionEntity: initializers, deinitializers, closures and what else has no name of its own.
func (d *swiftDemangler) functionEntity() bool {
	c := d.next()
	name := ""
	switch c {
	case 'D':
		name = "__deallocating_deinit"
	case 'd':
		name = "deinit"
	case 'E':
		name = "__ivar_destroyer"
	case 'e':
		name = "__ivar_initializer"
	case 'i':
		name = "variable initialization expression"
	case 'A':
		i, ok := d.index()
		context, ok2 := d.popContext()
		return ok && ok2 && d.push(swiftNode{kEntity, "default argument " + strconv.Itoa(i) + " of " + context, -1, -1})
	case 'C', 'c':
		d.pop(kName)
		t, ok := d.pop(kType)
		labels, ok2 := d.labels(t)
		context, ok3 := d.popContext()
		name = ".init"
		if c == 'C' {
			name = ".__allocating_init"
		}
		return ok && ok2 && ok3 && t.params >= 0 && d.push(swiftNode{kEntity, context + name + labels, -1, -1})
	case 'U', 'u':
		i, ok := d.index()
		_, ok2 := d.pop(kType)
		context, ok3 := d.popContext()
		name = "closure #"
		if c == 'u' {
			name = "implicit closure #"
		}
		return ok && ok2 && ok3 && d.push(swiftNode{kEntity, name + strconv.Itoa(i+1) + " in " + context, -1, -1})
	default:
		return false
	}
	context, ok := d.popContext()
	return ok && d.push(swiftNode{kEntity, context + "." + name, -1, -1})
}

func (d *swiftDemangler) accessor(of string) bool {
	name := ""
	switch d.next() {
	case 'm':
		name = ".materializeForSet"
	case 's':
		name = ".setter"
	case 'g', 'G':
		name = ".getter"
	case 'w':
		name = ".willset"
	case 'W':
		name = ".didset"
	case 'r':
		name = ".read"
	case 'M':
		name = ".modify"
	case 'a', 'l':
		if !strings.ContainsRune("uOop", rune(d.next())) {
			return false
		}
		name = ".addressor"
	case 'p':
	default:
		return false
	}
	return d.push(swiftNode{kEntity, of + name, -1, -1})
}

func (d *swiftDemangler) special() bool {
	switch d.next() {
	case 'E', 'K', 'A', 'B', 'C', 'f', 'L', 'U':
		return d.functionType()
	case 'D', 'o', 'u', 'w', 'p':
		t, ok := d.pop(kType)
		return ok && d.pushType(t.text)
	case 'M', 'm':
		t, ok := d.pop(kType)
		return ok && strings.ContainsRune("tTo", rune(d.next())) && d.pushType(t.text)
	case 'l':
		return d.protocols() && d.pushType("any")
	case 'c':
		return d.popIf(kType) && d.protocols() && d.pushType("any")
	}
	return false
}

func (d *swiftDemangler) annotation() bool {
	switch d.next() {
	case 'a', 'b': // async, sendable
		return d.pushKind(kAnnotation)
	case 'c', 'K': // global actor, typed throws
		return d.popIf(kType) && d.pushKind(kAnnotation)
	case 'i', 'k', 't', 'u': // of a parameter
		t, ok := d.pop(kType)
		return ok && d.pushType(t.text)
	}
	return false
}

// thunk: what the compiler makes of or around a function. It has the function's name, with a word on what it
// is if it is not the function's own code.
func (d *swiftDemangler) thunk() bool {
	describe := func(prefix string) bool {
		d.prefix = prefix + d.prefix
		n := len(d.stack)
		return n > 0 && d.stack[n-1].kind == kEntity
	}
	switch d.next() {
	case 'A':
		if len(d.stack) == 0 {
			return false
		}
		return describe("partial apply for ")
	case 'm': // merged with equal ones
		return describe("")
	case 'o':
		return describe("@objc ")
	case 'O':
		return describe("@nonobjc ")
	case 'D', 'd', 'I', 'c':
		return describe("")
	case 'j':
		return describe("dispatch thunk of ")
	case 'Q', 'Y':
		_, ok := d.index()
		return ok && describe("")
	case 'g', 'G', 'B', 's':
		// A specialization for some types: flags, the number of the pass, the types before it.
		d.nextIf('q')
		d.nextIf('a')
		d.nextIf('m')
		if c := d.next(); c < '0' || c > '9' {
			return false
		}
		for first := false; !first; {
			if d.popIf(kEmpty) {
				break
			}
			first = d.popIf(kFirst)
			if !d.popIf(kType) {
				return false
			}
		}
		return describe("specialized ")
	case 'f':
		// A specialization for the way of passing arguments; one letter or more for each.
		d.nextIf('q')
		d.nextIf('a')
		if c := d.next(); c < '0' || c > '9' {
			return false
		}
		for !d.nextIf('_') {
			if !strings.ContainsRune("ndgoxisrGOX", rune(d.next())) {
				return false
			}
		}
		for d.at < len(d.in) && strings.ContainsRune("nkdgoxisrGOX", rune(d.in[d.at])) {
			d.at++
		}
		return describe("specialized ")
	case 'W':
		entity, ok := d.pop(kEntity)
		d.pop(kSignature)
		_, ok2 := d.popModule()
		protocol := d.popProtocol()
		t, ok3 := d.pop(kType)
		return ok && ok2 && ok3 && protocol && d.push(swiftNode{kEntity, "protocol witness for " + entity.text + " in " + t.text, -1, -1})
	}
	return false
}

// outlined code handles values of a type.
func (d *swiftDemangler) outlined() bool {
	if !d.nextIf('O') {
		return false
	}
	what := map[byte]string{'y': "copy", 'e': "consume", 'r': "retain", 's': "release", 'b': "init with take", 'c': "init with copy", 'd': "assign with take", 'f': "assign with copy", 'h': "destroy"}[d.next()]
	d.pop(kSignature)
	t, ok := d.pop(kType)
	d.pop(kSignature)
	return ok && what != "" && d.push(swiftNode{kEntity, "outlined " + what + " of " + t.text, -1, -1})
}

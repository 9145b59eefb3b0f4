package dwarf

import (
	"cmp"
	"slices"
)

// FuncInfo is what is known about a function, however often it is inlined. The pointer is its identity while
// one unit is read.
type FuncInfo struct {
	// Name is the linkage name if there is one, else the plain name; empty if neither is known.
	Name string
	// Linkage says that Name is the linkage name.
	Linkage bool
	File    string
	Line    int32
}

// Call is a function that was inlined.
type Call struct {
	Function *FuncInfo
	// Parent is the call it was inlined into, below its own index; -1 for the function itself.
	Parent   int32
	CallFile uint32 // for Files.Name
	CallLine int32
}

// Row says what the addresses from Addr on belong to: an inlined call (index into Func.Inlined) or, if Call is
// -1, the function itself.
type Row struct {
	Addr uint64
	Call int32
	File uint32 // for Files.Name
	Line int32
}

// Func is one range of a function's code. A function has several when its cold parts lie elsewhere.
type Func struct {
	*FuncInfo
	Range
	Inlined []Call
	Rows    []Row
}

// Files names the files of one unit.
type Files struct{ t *fileTable }

// Name returns the path of a file, or "".
func (f Files) Name(i uint32) string { return f.t.name(i) }

// walker is the memory that reading a unit needs, kept for the next one.
type walker struct {
	rows     []lineRow
	stack    []int32 // of the open entries: the inlined call they belong to, ownCode, or noCode
	frames   []frame // of the open functions
	covered  []Range
	ranges   []Range
	open     []mark
	segments []mark
	out      []Row
	info     entryInfo
}

const (
	ownCode = -1
	noCode  = -2
)

// frame is a function whose entry is open.
type frame struct {
	fn      *FuncInfo
	depth   int // of its children
	ranges  []Range
	inlined []Call
	marks   []mark
}

// mark is a range of an inlined call.
type mark struct {
	Range
	call, depth int32
}

// entryInfo is what an entry of a function or an inlined call says about code.
type entryInfo struct {
	low, high, ranges, origin value
	callFile, callLine        uint64
}

// Read goes through a unit's functions in the file's order and calls each for every range of code, then
// rest for the rows of code that has lines but belongs to no function (assembly). What they are given is
// reused afterwards, but for FuncInfo.
func (d *Data) Read(u *Unit, each func(Files, *Func) error, rest func(Files, Range, []Row) error) error {
	defer func() {
		u.loaded = nil
		for _, v := range d.visited {
			v.loaded = nil
		}
		d.visited = d.visited[:0]
	}()
	info, err := d.load(u)
	if err != nil {
		return err
	}
	// Clearing costs what the map once held.
	if len(d.own) > 1024 {
		d.own = map[uint64]*FuncInfo{}
	}
	clear(d.own)
	w := &d.walker
	w.covered = w.covered[:0]
	files := &fileTable{}
	w.rows = w.rows[:0]
	if info.hasLines && !u.partial {
		// Without lines there are still functions.
		if rows, t, err := d.lines(u, w.rows); err == nil {
			w.rows, files = rows, t
		}
	}
	if !u.skeleton {
		d.readScopes(u)
		if err := d.walk(u, func(fn *Func) error { return each(Files{files}, fn) }); err != nil {
			return err
		}
	}
	return w.uncovered(func(r Range, rows []Row) error { return rest(Files{files}, r, rows) })
}

// walk reads the entries of a unit one after the other.
func (d *Data) walk(u *Unit, each func(*Func) error) error {
	w := &d.walker
	w.stack, w.frames = w.stack[:0], w.frames[:0]
	abbrevs := u.loaded.abbrevs
	b := buffer{b: d.info[u.entries:u.end], order: d.order}
	at := int32(noCode)
	for len(b.b) > 0 {
		entry := u.end - uint64(len(b.b))
		code := b.uvarint()
		if code == 0 {
			if len(w.stack) == 0 {
				continue // padding
			}
			at = w.stack[len(w.stack)-1]
			w.stack = w.stack[:len(w.stack)-1]
			if n := len(w.frames); n > 0 && w.frames[n-1].depth > len(w.stack) {
				if err := w.finish(each); err != nil {
					return err
				}
			}
			continue
		}
		a := abbrevs.get(code)
		if a == nil {
			return malformed("the entry at %#x has the unknown code %d", entry, code)
		}
		inside := at // what the children belong to
		begun := false
		switch {
		case a.tag == tagSubprogram:
			e := d.entryInfo(&b, u, a)
			inside = noCode
			if e.low.class != classNone || e.ranges.class != classNone {
				begun = d.begin(u, entry, e)
			}
			if begun {
				inside = ownCode
			}
		case a.tag == tagInlinedSubroutine && at != noCode:
			e := d.entryInfo(&b, u, a)
			f := &w.frames[len(w.frames)-1]
			if len(f.inlined) >= maxInlined {
				return malformed("the function at %#x has more than %d inlined calls", entry, maxInlined)
			}
			inside = d.inline(u, f, at, e)
		case a.children && a.sibling && (a.tag == tagArray || a.tag == tagEnumeration || a.tag == tagSubroutineType):
			// No code in there: go on behind it.
			for i := range a.attrs {
				v := d.value(&b, u, a.attrs[i].form, a.attrs[i].implicit)
				if here := u.end - uint64(len(b.b)); a.attrs[i].attr == attrSibling && v.class == classRef && v.u > here && v.u <= u.end {
					b.b = d.info[v.u:u.end]
					break
				}
			}
			if b.bad {
				return malformed("the entry at %#x is cut short", entry)
			}
			continue
		case a.fixed >= 0:
			b.skip(uint64(a.fixed))
		default:
			for i := range a.attrs {
				d.value(&b, u, a.attrs[i].form, a.attrs[i].implicit)
			}
		}
		if b.bad {
			return malformed("the entry at %#x is cut short", entry)
		}
		if a.children {
			if len(w.stack) >= maxDepth {
				return malformed("entries are nested more than %d deep at %#x", maxDepth, entry)
			}
			w.stack = append(w.stack, at)
			at = inside
			if begun {
				w.frames[len(w.frames)-1].depth = len(w.stack)
			}
		} else if begun {
			if err := w.finish(each); err != nil {
				return err
			}
		}
	}
	// What was not closed ends with the unit.
	for len(w.frames) > 0 {
		if err := w.finish(each); err != nil {
			return err
		}
	}
	return nil
}

func (d *Data) entryInfo(b *buffer, u *Unit, a *abbreviation) *entryInfo {
	e := &d.walker.info
	*e = entryInfo{}
	for i := range a.attrs {
		s := &a.attrs[i]
		v := d.value(b, u, s.form, s.implicit)
		switch s.attr {
		case attrLowPC:
			e.low = v
		case attrHighPC:
			e.high = v
		case attrRanges:
			e.ranges = v
		case attrAbstractOrigin:
			e.origin = v
		case attrCallFile:
			e.callFile = v.u
		case attrCallLine:
			e.callLine = v.u
		}
	}
	return e
}

// begin opens a function if its entry has code.
func (d *Data) begin(u *Unit, entry uint64, e *entryInfo) bool {
	w := &d.walker
	n := len(w.frames)
	if n < cap(w.frames) {
		w.frames = w.frames[:n+1] // with its old slices
	} else {
		w.frames = append(w.frames, frame{})
	}
	f := &w.frames[n]
	f.ranges = d.pcRanges(u, e.low, e.high, e.ranges, f.ranges[:0])
	if len(f.ranges) == 0 {
		w.frames = w.frames[:n]
		return false
	}
	f.fn = d.function(u, entry, 0)
	f.inlined, f.marks = f.inlined[:0], f.marks[:0]
	f.depth = 0
	return true
}

// inline adds an inlined call to an open function and returns its index, or that of its parent if it has no
// code: the children may have some.
func (d *Data) inline(u *Unit, f *frame, parent int32, e *entryInfo) int32 {
	call := int32(len(f.inlined))
	w := &d.walker
	ranges := d.pcRanges(u, e.low, e.high, e.ranges, w.ranges[:0])
	fn := &FuncInfo{}
	switch e.origin.class {
	case classRef:
		fn = d.function(u, e.origin.u, 0)
	case classRefSup:
		fn = d.supplementary(e.origin.u, 0)
	}
	f.inlined = append(f.inlined, Call{fn, parent, uint32(min(e.callFile, uint64(NoFile))), int32(min(e.callLine, 1<<31-1))})
	for _, r := range ranges {
		f.marks = append(f.marks, mark{r, call, int32(len(w.stack))})
	}
	w.ranges = ranges
	return call
}

// function resolves the entry of a function through its abstract origin and specification.
func (d *Data) function(u *Unit, off uint64, depth int) *FuncInfo {
	known := d.own
	if off < u.entries || off >= u.end {
		known = d.foreign
	}
	if fn, ok := known[off]; ok {
		return fn
	}
	fn := &FuncInfo{}
	if len(d.foreign) >= 1<<18 {
		d.foreign = map[uint64]*FuncInfo{}
	}
	if off < u.entries || off >= u.end {
		d.foreign[off] = fn
	} else {
		if len(d.own) >= maxOwn {
			d.own = map[uint64]*FuncInfo{}
		}
		d.own[off] = fn
	}
	in := u
	if off < u.entries || off >= u.end {
		if in = d.unitAt(off); in == nil {
			return fn
		}
		if in.loaded == nil {
			if len(d.visited) >= 256 {
				for _, v := range d.visited {
					v.loaded = nil
				}
				d.visited = d.visited[:0]
			}
			if _, err := d.load(in); err != nil {
				return fn
			}
			d.visited = append(d.visited, in)
		}
	} else if in.loaded == nil {
		// Of a supplementary file: it may have been let go meanwhile.
		if _, err := d.load(in); err != nil {
			return fn
		}
		d.visited = append(d.visited, in)
	}
	b := buffer{b: d.info[off:in.end], order: d.order}
	a := in.loaded.abbrevs.get(b.uvarint())
	if a == nil {
		return fn
	}
	var name, linkage, origin, specification value
	file := uint64(0)
	for i := range a.attrs {
		s := &a.attrs[i]
		v := d.value(&b, in, s.form, s.implicit)
		switch s.attr {
		case attrName:
			name = v
		case attrLinkageName, attrMIPSLinkageName:
			linkage = v
		case attrAbstractOrigin:
			origin = v
		case attrSpecification:
			specification = v
		case attrDeclFile:
			file = v.u
		case attrDeclLine:
			fn.Line = int32(min(v.u, 1<<31-1))
		}
	}
	if b.bad {
		return fn
	}
	if fn.Name = d.string(in, linkage); fn.Name != "" {
		fn.Linkage = true
	} else {
		fn.Name = d.string(in, name)
		if scope := d.scopes[off]; scope != "" && fn.Name != "" {
			fn.Name = scope + "::" + fn.Name
		} else if fn.Name == "operator()" {
			fn.Name = "{lambda}::operator()" // its class lies in a function
		}
	}
	// File 0 means none before version 5.
	if fn.Line != 0 && (file != 0 || in.version >= 5) {
		if in.loaded.files == nil && in.loaded.hasLines {
			_, _, _ = d.lineHead(in)
		}
		if d.textBudget > 0 {
			fn.File = in.loaded.files.name(uint32(min(file, uint64(NoFile))))
			d.textBudget -= len(fn.File)
		}
	}
	for _, ref := range []value{origin, specification} {
		if depth >= maxChain || fn.Linkage && fn.File != "" {
			continue
		}
		var base *FuncInfo
		switch ref.class {
		case classRef:
			base = d.function(u, ref.u, depth+1)
		case classRefSup:
			base = d.supplementary(ref.u, depth+1)
		default:
			continue
		}
		if !fn.Linkage && base.Name != "" && (base.Linkage || fn.Name == "") {
			fn.Name, fn.Linkage = base.Name, base.Linkage
		}
		if fn.File == "" {
			fn.File = base.File
			if base.Line != 0 {
				fn.Line = base.Line
			}
		}
	}
	return fn
}

// supplementary resolves a function of the supplementary file.
func (d *Data) supplementary(off uint64, depth int) *FuncInfo {
	s := d.sup
	if s == nil {
		return &FuncInfo{}
	}
	if fn, ok := s.own[off]; ok {
		return fn
	}
	u := s.unitAt(off)
	if u == nil {
		return &FuncInfo{}
	}
	if len(s.own) > 1<<18 {
		s.own = map[uint64]*FuncInfo{}
	}
	if u.loaded == nil {
		if len(s.visited) >= 256 {
			for _, v := range s.visited {
				v.loaded = nil
			}
			s.visited = s.visited[:0]
		}
		if _, err := s.load(u); err != nil {
			return &FuncInfo{}
		}
		s.visited = append(s.visited, u)
	}
	return s.function(u, off, depth)
}

// finish closes the innermost open function and gives its ranges to each.
func (w *walker) finish(each func(*Func) error) error {
	n := len(w.frames) - 1
	f := &w.frames[n]
	w.frames = w.frames[:n]
	slices.SortFunc(f.ranges, func(a, b Range) int { return cmp.Compare(a.Low, b.Low) })
	w.flatten(f)
	j := 0
	for i, r := range f.ranges {
		if i > 0 && r.Low < f.ranges[i-1].High {
			continue // overlaps itself: nonsense
		}
		w.covered = append(w.covered, r)
		for j < len(w.segments) && w.segments[j].High <= r.Low {
			j++
		}
		w.out = w.join(r, w.segments[j:], w.out[:0])
		if err := each(&Func{f.fn, r, f.inlined, w.out}); err != nil {
			return err
		}
	}
	f.fn = nil
	return nil
}

// flatten turns the marks of inlined calls, which lie in each other, into segments side by side: each with
// the innermost call.
func (w *walker) flatten(f *frame) {
	w.segments, w.open = w.segments[:0], w.open[:0]
	slices.SortFunc(f.marks, func(a, b mark) int {
		return cmp.Or(cmp.Compare(a.Low, b.Low), cmp.Compare(a.depth, b.depth), cmp.Compare(a.call, b.call))
	})
	cursor := uint64(0)
	emit := func(high uint64, call int32) {
		if cursor < high {
			w.segments = append(w.segments, mark{Range{cursor, high}, call, 0})
			cursor = high
		}
	}
	closeUntil := func(low uint64) {
		for n := len(w.open); n > 0 && w.open[n-1].High <= low; n-- {
			emit(w.open[n-1].High, w.open[n-1].call)
			w.open = w.open[:n-1]
		}
	}
	for _, m := range f.marks {
		closeUntil(m.Low)
		if n := len(w.open); n > 0 {
			emit(m.Low, w.open[n-1].call)
			m.High = min(m.High, w.open[n-1].High)
		}
		cursor = max(cursor, m.Low)
		w.open = append(w.open, m)
	}
	closeUntil(^uint64(0))
}

// join merges segments of calls and rows of lines over one range.
func (w *walker) join(r Range, segments []mark, out []Row) []Row {
	i := rowAt(w.rows, r.Low)
	for at := r.Low; at < r.High; {
		next := r.High
		for i+1 < len(w.rows) && w.rows[i+1].addr <= at {
			i++
		}
		row := Row{Addr: at, Call: -1, File: NoFile}
		if i >= 0 && !w.rows[i].end {
			row.File, row.Line = w.rows[i].file, w.rows[i].line
		}
		if i+1 < len(w.rows) {
			next = min(next, w.rows[i+1].addr)
		}
		for len(segments) > 0 && segments[0].High <= at {
			segments = segments[1:]
		}
		if len(segments) > 0 {
			if s := &segments[0]; s.Low <= at {
				row.Call = s.call
				next = min(next, s.High)
			} else {
				next = min(next, s.Low)
			}
		}
		if n := len(out); n == 0 || out[n-1].Call != row.Call || out[n-1].File != row.File || out[n-1].Line != row.Line {
			out = append(out, row)
		}
		at = next
	}
	return out
}

// uncovered gives out the parts of the unit's rows that no function has covered.
func (w *walker) uncovered(rest func(Range, []Row) error) error {
	slices.SortFunc(w.covered, func(a, b Range) int { return cmp.Compare(a.Low, b.Low) })
	covered := w.covered
	for i := 0; i < len(w.rows); {
		j := i
		for j < len(w.rows)-1 && !w.rows[j].end {
			j++
		}
		low, high := w.rows[i].addr, w.rows[j].addr
		i = j + 1
		for low < high {
			for len(covered) > 0 && covered[0].High <= low {
				covered = covered[1:]
			}
			until := high
			if len(covered) > 0 {
				if covered[0].Low <= low {
					low = covered[0].High
					continue
				}
				until = min(until, covered[0].Low)
			}
			r := Range{low, until}
			w.out = w.join(r, nil, w.out[:0])
			if err := rest(r, w.out); err != nil {
				return err
			}
			low = until
		}
	}
	return nil
}

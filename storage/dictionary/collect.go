package dictionary

import "context"

// Collection forgets what nothing refers to: in order [Dictionary.Collect], all references through Stack, Series
// and Text, Trace, Sweep, End. What was forgotten is a hole: its id is never given again, and equal content that
// comes again gets a new one. It is for one goroutine; others use the dictionary meanwhile.
//
// What [Dictionary.Intern] gives from the beginning on is kept, whether it was there or is new. What it gave before,
// and is not yet where the caller looks for references, the caller has to wait for. Of ids that something else still
// has the caller must know that nobody asks for them after Trace.
type Collection struct {
	d     *Dictionary
	began Marks            // what comes later is kept
	open  [tables]uint32   // chunks that what comes later may be in
	pages [tables][]uint32 // those that are not holes
	live  [tables]bitmap
	lost  [tables]int
}

// Collect begins a collection. There is one at a time.
func (d *Dictionary) Collect() *Collection {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &Collection{d: d, began: d.marks()}
	for i := range d.t {
		if d.t[i].handed != nil {
			panic("BUG: two collections at a time")
		}
		d.t[i].handed = &bitmap{}
		c.open[i] = d.t[i].open
		c.pages[i] = d.t[i].pages()
		c.live[i].set(0)
	}
	return c
}

// End ends the collection, at any point.
func (c *Collection) End() {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	for i := range c.d.t {
		c.d.t[i].handed = nil
	}
}

// Stack keeps a stack.
func (c *Collection) Stack(id StackID) { c.keep(stacks, uint64(id)) }

// Series keeps a series.
func (c *Collection) Series(id SeriesID) { c.keep(series, uint64(id)) }

// Text keeps a string.
func (c *Collection) Text(id StringID) { c.keep(strings, uint64(id)) }

func (c *Collection) keep(t tableID, id uint64) {
	if id < uint64(c.began[t]) {
		c.live[t].set(uint32(id))
	}
}

// Trace keeps what is referred to by what is kept.
func (c *Collection) Trace(ctx context.Context) error {
	for _, t := range [...]tableID{series, stacks, frames, functions, mappings, strings} {
		c.lost[t] = c.live[t].count()
		for _, p := range c.pages[t] {
			if err := ctx.Err(); err != nil {
				return err
			}
			c.tracePage(t, p)
		}
	}
	return nil
}

func (c *Collection) tracePage(t tableID, p uint32) {
	c.d.mu.RLock()
	defer c.d.mu.RUnlock()
	for i := range uint64(pageEntries) {
		id := uint32(uint64(p)*pageEntries + i)
		if !c.live[t].has(id) || c.d.t[t].at(id) == nil {
			continue
		}
		c.lost[t]--
		r := entryReader{b: c.d.t[t].get(id)}
		switch t {
		case series:
			for range 5 {
				c.keep(strings, r.uvarint())
			}
			r.byte()
			for !r.done() {
				c.keep(strings, r.uvarint())
			}
		case stacks:
			for frame := int64(0); !r.done(); {
				frame += r.varint()
				c.keep(frames, uint64(frame))
			}
		case frames:
			r.byte()
			c.keep(mappings, r.uvarint())
			r.uvarint()
			for !r.done() {
				c.keep(functions, r.uvarint())
				r.varint()
				r.varint()
			}
		case functions:
			for range 3 {
				c.keep(strings, r.uvarint())
			}
		case mappings:
			for range 2 {
				c.keep(strings, r.uvarint())
			}
		}
	}
}

// Sweep forgets what is not kept, a page at a time, and returns how many entries that were. It can end early: what
// is left is as good as before.
func (c *Collection) Sweep(ctx context.Context) (forgotten int, err error) {
	for t := range tables {
		n, err := c.sweepTable(ctx, t)
		forgotten += n
		if err != nil {
			return forgotten, err
		}
	}
	return forgotten, nil
}

// use is what of a chunk is needed.
type use struct {
	entries int   // that lie in it
	live    int64 // bytes
	sparse  bool  // what is live moves to another
}

func (c *Collection) sweepTable(ctx context.Context, id tableID) (forgotten int, err error) {
	t, uses := &c.d.t[id], map[uint32]*use{}
	for _, p := range c.pages[id] {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		c.countPage(t, id, p, uses)
	}
	c.d.mu.RLock()
	for chunk, u := range uses {
		u.sparse = chunk != c.open[id] && u.live*4 < int64(cap(t.chunks[chunk]))*3
	}
	c.d.mu.RUnlock()
	for _, p := range c.pages[id] {
		if err := ctx.Err(); err != nil {
			return forgotten, err
		}
		forgotten += c.sweepPage(t, id, p, uses)
	}
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	t.lost = c.lost[id]
	if forgotten > 0 {
		t.rehash()
	}
	return forgotten, nil
}

// each calls f with the entries of a page that were there when the collection began.
func (c *Collection) each(t *table, id tableID, p uint32, f func(n uint32, e *entry)) {
	pg := t.page(p)
	if pg == nil {
		return
	}
	for i := range pg {
		if n := uint64(p)*pageEntries + uint64(i); n < uint64(c.began[id]) && pg[i].chunk != 0 {
			f(uint32(n), &pg[i])
		}
	}
}

func (c *Collection) countPage(t *table, id tableID, p uint32, uses map[uint32]*use) {
	c.d.mu.RLock()
	defer c.d.mu.RUnlock()
	c.each(t, id, p, func(n uint32, e *entry) {
		u := uses[e.chunk]
		if u == nil {
			u = &use{}
			uses[e.chunk] = u
		}
		u.entries++
		if c.live[id].has(n) || t.handed.has(n) {
			u.live += int64(e.n)
		}
	})
}

func (c *Collection) sweepPage(t *table, id tableID, p uint32, uses map[uint32]*use) (forgotten int) {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	kept := 0
	c.each(t, id, p, func(n uint32, e *entry) {
		chunk := e.chunk
		u := uses[chunk]
		switch {
		case !c.live[id].has(n) && !t.handed.has(n):
			t.live--
			t.bytes -= int64(e.n)
			*e = entry{}
			forgotten++
		case u.sparse:
			*e = t.write(t.get(n), e.hash)
			kept++
		default:
			kept++
		}
		if u.entries--; u.entries == 0 && u.sparse {
			t.release(chunk)
			delete(uses, chunk)
		}
	})
	// A page that is not full gets entries yet.
	if kept == 0 && t.page(p) != nil && (uint64(p)+1)*pageEntries <= uint64(c.began[id]) {
		t.drop(p)
	}
	return forgotten
}

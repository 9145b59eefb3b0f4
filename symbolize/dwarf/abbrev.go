package dwarf

// Tags that are looked at.
const (
	tagEnumeration       = 0x04
	tagArray             = 0x01
	tagCompileUnit       = 0x11
	tagSubroutineType    = 0x15
	tagInlinedSubroutine = 0x1d
	tagSubprogram        = 0x2e
)

type abbrevKey struct {
	off      uint64
	addrSize uint8
	is64     bool
	version  uint16
}

type attrSpec struct {
	attr, form uint16
	implicit   int64
}

// abbreviation is the shape of an entry.
type abbreviation struct {
	tag      uint16
	children bool
	// fixed is the size of the values if they all have a fixed one, else -1.
	fixed   int
	sibling bool
	attrs   []attrSpec
}

// abbrevTable maps codes to shapes; codes are mostly dense and begin at 1.
type abbrevTable struct {
	dense  []abbreviation
	sparse map[uint64]*abbreviation
}

func (t *abbrevTable) get(code uint64) *abbreviation {
	if code-1 < uint64(len(t.dense)) {
		return &t.dense[code-1]
	}
	return t.sparse[code]
}

// maxAbbrevTables bounds the cache: units of one linked file come with a table each, mostly used once.
const maxAbbrevTables = 64

func (d *Data) abbrevTable(k abbrevKey) (*abbrevTable, error) {
	if t, ok := d.abbrevs[k]; ok {
		return t, nil
	}
	if k.off >= uint64(len(d.abbrev)) {
		return nil, malformed("abbreviations at %#x of %#x", k.off, len(d.abbrev))
	}
	t := &abbrevTable{}
	b := buffer{b: d.abbrev[k.off:], order: d.order}
	for {
		code := b.uvarint()
		if code == 0 || b.bad {
			break
		}
		a := abbreviation{tag: uint16(b.uvarint()), children: b.u8() != 0}
		for {
			attr, form := b.uvarint(), b.uvarint()
			if b.bad || attr == 0 && form == 0 {
				break
			}
			s := attrSpec{attr: uint16(attr), form: uint16(form)}
			if attr > 0xffff {
				s.attr = 0
			}
			if form > 0xffff {
				s.form = 0
			}
			if form == formImplicitConst {
				s.implicit = b.varint()
			}
			if n, ok := fixedSize(s.form, k); !ok {
				a.fixed = -1
			} else if a.fixed >= 0 {
				a.fixed += n
			}
			a.sibling = a.sibling || attr == attrSibling
			a.attrs = append(a.attrs, s)
		}
		if code == uint64(len(t.dense))+1 {
			t.dense = append(t.dense, a)
			continue
		}
		if t.sparse == nil {
			t.sparse = map[uint64]*abbreviation{}
		}
		if _, dup := t.sparse[code]; !dup && code > uint64(len(t.dense)) {
			t.sparse[code] = &a
		}
	}
	d.abbrevBudget -= len(d.abbrev) - int(k.off) - len(b.b)
	if d.abbrevBudget < 0 {
		return nil, malformed("its units read the abbreviations again and again")
	}
	if b.bad {
		return nil, malformed("abbreviations at %#x are cut short", k.off)
	}
	if len(d.abbrevs) >= maxAbbrevTables {
		clear(d.abbrevs)
	}
	d.abbrevs[k] = t
	return t, nil
}

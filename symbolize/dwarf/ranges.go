package dwarf

// Kinds of entries in .debug_rnglists.
const (
	rleEnd          = 0
	rleBaseAddressx = 1
	rleStartxEndx   = 2
	rleStartxLength = 3
	rleOffsetPair   = 4
	rleBaseAddress  = 5
	rleStartEnd     = 6
	rleStartLength  = 7
)

// pcRanges collects the code of an entry from its low and high pc or its list of ranges. Ranges that
// cannot be code are left out.
func (d *Data) pcRanges(u *Unit, low, high, list value, out []Range) []Range {
	if list.class != classNone {
		return d.rangeList(u, list, out)
	}
	lo, ok := d.address(u, low)
	if !ok {
		return out
	}
	hi, ok := d.address(u, high)
	if !ok {
		if high.class != classConstant {
			return out
		}
		hi = lo + high.u
	}
	if r := (Range{lo, hi}); d.live(r) {
		out = append(out, r)
	}
	return out
}

func (d *Data) rangeList(u *Unit, list value, out []Range) []Range {
	info := u.loaded
	if u.version < 5 {
		return d.oldRangeList(u, list.u+info.rangesBase, out)
	}
	off := list.u
	if list.class == classRnglistx {
		size := uint64(4)
		if u.is64 {
			size = 8
		}
		at := info.rnglistBase + list.u*size
		if list.u > uint64(len(d.rnglists)) || at > uint64(len(d.rnglists)) {
			return out
		}
		b := buffer{b: d.rnglists[at:], order: d.order}
		off = info.rnglistBase + b.offset(u.is64)
		if b.bad {
			return out
		}
	}
	if off >= uint64(len(d.rnglists)) {
		return out
	}
	b := buffer{b: d.rnglists[off:], order: d.order}
	base := info.low
	for !b.bad && d.rangeBudget > 0 {
		d.rangeBudget--
		var r Range
		ok := true
		switch b.u8() {
		case rleEnd:
			return out
		case rleBaseAddressx:
			base, _ = d.addrx(u, b.uvarint())
			continue
		case rleBaseAddress:
			base = b.address(u.addrSize)
			continue
		case rleStartxEndx:
			var ok2 bool
			r.Low, ok = d.addrx(u, b.uvarint())
			r.High, ok2 = d.addrx(u, b.uvarint())
			ok = ok && ok2
		case rleStartxLength:
			r.Low, ok = d.addrx(u, b.uvarint())
			r.High = r.Low + b.uvarint()
		case rleOffsetPair:
			r.Low = base + b.uvarint()
			r.High = base + b.uvarint()
		case rleStartEnd:
			r.Low = b.address(u.addrSize)
			r.High = b.address(u.addrSize)
		case rleStartLength:
			r.Low = b.address(u.addrSize)
			r.High = r.Low + b.uvarint()
		default:
			return out
		}
		if ok && !b.bad && d.live(r) {
			out = append(out, r)
		}
	}
	return out
}

func (d *Data) oldRangeList(u *Unit, off uint64, out []Range) []Range {
	if off >= uint64(len(d.ranges)) {
		return out
	}
	b := buffer{b: d.ranges[off:], order: d.order}
	base := u.loaded.low
	highest := ^uint64(0)
	if u.addrSize == 4 {
		highest = 0xffffffff
	}
	for !b.bad && d.rangeBudget > 0 {
		d.rangeBudget--
		lo, hi := b.address(u.addrSize), b.address(u.addrSize)
		switch {
		case b.bad || lo == 0 && hi == 0:
			return out
		case lo == highest:
			base = hi
			continue
		}
		if r := (Range{base + lo, base + hi}); d.live(r) {
			out = append(out, r)
		}
	}
	return out
}

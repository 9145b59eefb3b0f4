package dwarf

// Attributes that are looked at.
const (
	attrSibling         = 0x01
	attrName            = 0x03
	attrStmtList        = 0x10
	attrLowPC           = 0x11
	attrHighPC          = 0x12
	attrLanguage        = 0x13
	attrCompDir         = 0x1b
	attrAbstractOrigin  = 0x31
	attrDeclFile        = 0x3a
	attrDeclLine        = 0x3b
	attrSpecification   = 0x47
	attrRanges          = 0x55
	attrCallFile        = 0x58
	attrCallLine        = 0x59
	attrLinkageName     = 0x6e
	attrStrOffsetsBase  = 0x72
	attrAddrBase        = 0x73
	attrRnglistsBase    = 0x74
	attrDwoName         = 0x76
	attrMIPSLinkageName = 0x2007
	attrGNUDwoName      = 0x2130
	attrGNURangesBase   = 0x2132
	attrGNUAddrBase     = 0x2133
)

// Forms of attribute values.
const (
	formAddr          = 0x01
	formBlock2        = 0x03
	formBlock4        = 0x04
	formData2         = 0x05
	formData4         = 0x06
	formData8         = 0x07
	formString        = 0x08
	formBlock         = 0x09
	formBlock1        = 0x0a
	formData1         = 0x0b
	formFlag          = 0x0c
	formSdata         = 0x0d
	formStrp          = 0x0e
	formUdata         = 0x0f
	formRefAddr       = 0x10
	formRef1          = 0x11
	formRef2          = 0x12
	formRef4          = 0x13
	formRef8          = 0x14
	formRefUdata      = 0x15
	formIndirect      = 0x16
	formSecOffset     = 0x17
	formExprloc       = 0x18
	formFlagPresent   = 0x19
	formStrx          = 0x1a
	formAddrx         = 0x1b
	formRefSup4       = 0x1c
	formStrpSup       = 0x1d
	formData16        = 0x1e
	formLineStrp      = 0x1f
	formRefSig8       = 0x20
	formImplicitConst = 0x21
	formLoclistx      = 0x22
	formRnglistx      = 0x23
	formRefSup8       = 0x24
	formStrx1         = 0x25
	formStrx2         = 0x26
	formStrx3         = 0x27
	formStrx4         = 0x28
	formAddrx1        = 0x29
	formAddrx2        = 0x2a
	formAddrx3        = 0x2b
	formAddrx4        = 0x2c
	formGNUAddrIndex  = 0x1f01
	formGNUStrIndex   = 0x1f02
	formGNURefAlt     = 0x1f20
	formGNUStrpAlt    = 0x1f21
)

// class says how a value's number is meant.
type class uint8

const (
	classNone     class = iota
	classConstant       // u is the number
	classAddress        // u is the address
	classAddrx          // u is an index into .debug_addr
	classString         // b is the string
	classStrp           // u is an offset into .debug_str
	classLineStrp       // u is an offset into .debug_line_str
	classStrx           // u is an index into .debug_str_offsets
	classRef            // u is an offset into .debug_info
	classOffset         // u is an offset into some section
	classRnglistx       // u is an index into the unit's range lists
	classRefSup         // u is an offset into .debug_info of the supplementary file
	classStrpSup        // u is an offset into .debug_str of the supplementary file
)

type value struct {
	class class
	u     uint64
	b     []byte
}

// value reads one attribute value. A form that is not known makes b bad: nothing behind it can be read.
func (d *Data) value(b *buffer, u *Unit, form uint16, implicit int64) value {
	for range 4 {
		if form != formIndirect {
			break
		}
		form = uint16(b.uvarint())
	}
	switch form {
	case formAddr:
		return value{class: classAddress, u: b.address(u.addrSize)}
	case formData1, formFlag:
		return value{class: classConstant, u: uint64(b.u8())}
	case formData2:
		return value{class: classConstant, u: uint64(b.u16())}
	case formData4:
		return value{class: classConstant, u: uint64(b.u32())}
	case formData8:
		return value{class: classConstant, u: b.u64()}
	case formData16:
		b.skip(16)
	case formSdata:
		return value{class: classConstant, u: uint64(b.varint())}
	case formUdata:
		return value{class: classConstant, u: b.uvarint()}
	case formImplicitConst:
		return value{class: classConstant, u: uint64(implicit)}
	case formFlagPresent:
		return value{class: classConstant, u: 1}
	case formString:
		return value{class: classString, b: b.cstring()}
	case formStrp:
		return value{class: classStrp, u: b.offset(u.is64)}
	case formLineStrp:
		return value{class: classLineStrp, u: b.offset(u.is64)}
	case formStrx, formGNUStrIndex:
		return value{class: classStrx, u: b.uvarint()}
	case formStrx1:
		return value{class: classStrx, u: uint64(b.u8())}
	case formStrx2:
		return value{class: classStrx, u: uint64(b.u16())}
	case formStrx3:
		return value{class: classStrx, u: b.u24()}
	case formStrx4:
		return value{class: classStrx, u: uint64(b.u32())}
	case formAddrx, formGNUAddrIndex:
		return value{class: classAddrx, u: b.uvarint()}
	case formAddrx1:
		return value{class: classAddrx, u: uint64(b.u8())}
	case formAddrx2:
		return value{class: classAddrx, u: uint64(b.u16())}
	case formAddrx3:
		return value{class: classAddrx, u: b.u24()}
	case formAddrx4:
		return value{class: classAddrx, u: uint64(b.u32())}
	case formRef1:
		return value{class: classRef, u: u.Offset + uint64(b.u8())}
	case formRef2:
		return value{class: classRef, u: u.Offset + uint64(b.u16())}
	case formRef4:
		return value{class: classRef, u: u.Offset + uint64(b.u32())}
	case formRef8:
		return value{class: classRef, u: u.Offset + b.u64()}
	case formRefUdata:
		return value{class: classRef, u: u.Offset + b.uvarint()}
	case formRefAddr:
		if u.version == 2 {
			return value{class: classRef, u: b.address(u.addrSize)}
		}
		return value{class: classRef, u: b.offset(u.is64)}
	case formSecOffset:
		return value{class: classOffset, u: b.offset(u.is64)}
	case formRnglistx:
		return value{class: classRnglistx, u: b.uvarint()}
	case formLoclistx:
		b.uvarint()
	case formBlock1:
		b.skip(uint64(b.u8()))
	case formBlock2:
		b.skip(uint64(b.u16()))
	case formBlock4:
		b.skip(uint64(b.u32()))
	case formBlock, formExprloc:
		b.skip(b.uvarint())
	case formRefSig8:
		b.skip(8)
	case formRefSup4:
		return value{class: classRefSup, u: uint64(b.u32())}
	case formRefSup8:
		return value{class: classRefSup, u: b.u64()}
	case formGNURefAlt:
		return value{class: classRefSup, u: b.offset(u.is64)}
	case formStrpSup, formGNUStrpAlt:
		return value{class: classStrpSup, u: b.offset(u.is64)}
	default:
		b.bad, b.b = true, nil
	}
	return value{}
}

// fixedSize returns the size of a form's values if they all have the same.
func fixedSize(form uint16, k abbrevKey) (int, bool) {
	offset := 4
	if k.is64 {
		offset = 8
	}
	switch form {
	case formFlagPresent, formImplicitConst:
		return 0, true
	case formData1, formFlag, formRef1, formStrx1, formAddrx1:
		return 1, true
	case formData2, formRef2, formStrx2, formAddrx2:
		return 2, true
	case formStrx3, formAddrx3:
		return 3, true
	case formData4, formRef4, formStrx4, formAddrx4, formRefSup4:
		return 4, true
	case formData8, formRef8, formRefSig8, formRefSup8:
		return 8, true
	case formData16:
		return 16, true
	case formAddr:
		return int(k.addrSize), true
	case formRefAddr:
		if k.version == 2 {
			return int(k.addrSize), true
		}
		return offset, true
	case formStrp, formLineStrp, formSecOffset, formStrpSup, formGNURefAlt, formGNUStrpAlt:
		return offset, true
	}
	return 0, false
}

// string makes a string of a value of any string class.
func (d *Data) string(u *Unit, v value) string {
	b := d.bytes(u, v)
	if d.textBudget -= len(b); d.textBudget < 0 {
		return ""
	}
	return string(b)
}

// bytes returns what string copies.
func (d *Data) bytes(u *Unit, v value) []byte {
	switch v.class {
	case classString:
		return v.b[:min(len(v.b), maxName)]
	case classStrp:
		return stringAt(d.str, v.u)
	case classLineStrp:
		return stringAt(d.lineStr, v.u)
	case classStrpSup:
		if d.sup == nil {
			return nil
		}
		return stringAt(d.sup.str, v.u)
	case classStrx:
		if u.loaded == nil {
			return nil
		}
		size := uint64(4)
		if u.is64 {
			size = 8
		}
		at := u.loaded.strBase + v.u*size
		if v.u > uint64(len(d.strOffsets)) || at > uint64(len(d.strOffsets)) {
			return nil
		}
		b := buffer{b: d.strOffsets[at:], order: d.order}
		off := b.offset(u.is64)
		if b.bad {
			return nil
		}
		return stringAt(d.str, off)
	}
	return nil
}

// address makes an address of a value of an address class.
func (d *Data) address(u *Unit, v value) (uint64, bool) {
	switch v.class {
	case classAddress:
		return v.u, true
	case classAddrx:
		return d.addrx(u, v.u)
	}
	return 0, false
}

func (d *Data) addrx(u *Unit, index uint64) (uint64, bool) {
	if u.loaded == nil || index > uint64(len(d.addr)) {
		return 0, false
	}
	at := u.loaded.addrBase + index*uint64(u.addrSize)
	if at > uint64(len(d.addr)) {
		return 0, false
	}
	b := buffer{b: d.addr[at:], order: d.order}
	a := b.address(u.addrSize)
	return a, !b.bad
}

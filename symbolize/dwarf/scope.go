package dwarf

// Tags of what functions are declared in.
const (
	tagClass     = 0x02
	tagStructure = 0x13
	tagUnion     = 0x17
	tagNamespace = 0x39

	attrProducer = 0x25
)

// maxScope bounds a function's qualified scope.
const maxScope = 4096

// readScopes notes the namespace or class of the functions that have no linkage name to say it. GCC leaves it
// away for functions that are local to a file (clang does not), but lets its entries be skipped: this goes
// over them without the functions' bodies. Faults are left to walk.
func (d *Data) readScopes(u *Unit) {
	if len(d.scopes) > 1024 {
		d.scopes = nil
	}
	clear(d.scopes)
	if !u.loaded.scoped {
		return
	}
	if d.scopes == nil {
		d.scopes = map[uint64]string{}
	}
	b := buffer{b: d.info[u.entries:u.end], order: d.order}
	var stack []string
	scope := ""
	for len(b.b) > 0 && !b.bad {
		entry := u.end - uint64(len(b.b))
		code := b.uvarint()
		if code == 0 {
			if n := len(stack); n > 0 {
				scope, stack = stack[n-1], stack[:n-1]
			}
			continue
		}
		a := u.loaded.abbrevs.get(code)
		if a == nil {
			return
		}
		named := a.tag == tagNamespace || a.tag == tagClass || a.tag == tagStructure || a.tag == tagUnion
		if a.fixed >= 0 && !named && a.tag != tagSubprogram && !a.sibling {
			b.skip(uint64(a.fixed))
			if a.children {
				if len(stack) >= maxDepth {
					return
				}
				stack = append(stack, scope)
			}
			continue
		}
		var name value
		var sibling uint64
		linked := false
		for i := range a.attrs {
			s := &a.attrs[i]
			v := d.value(&b, u, s.form, s.implicit)
			switch s.attr {
			case attrName:
				name = v
			case attrSibling:
				if v.class == classRef {
					sibling = v.u
				}
			case attrLinkageName, attrMIPSLinkageName, attrSpecification, attrAbstractOrigin:
				linked = true
			}
		}
		if a.tag == tagSubprogram && !linked && scope != "" && name.class != classNone {
			d.scopes[entry] = scope
		}
		if !a.children {
			continue
		}
		if !named {
			if here := u.end - uint64(len(b.b)); entry > u.entries && sibling > here && sibling <= u.end {
				b.b = d.info[sibling:u.end]
				continue
			}
		}
		if len(stack) >= maxDepth {
			return
		}
		stack = append(stack, scope)
		if named {
			text := d.string(u, name)
			if text == "" {
				if a.tag != tagNamespace {
					text = "{unnamed}"
				} else {
					text = "(anonymous namespace)"
				}
			}
			if scope != "" {
				text = scope + "::" + text
			}
			if len(text) <= maxScope {
				scope = text
			}
		}
	}
}

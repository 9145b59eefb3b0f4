package demangle

import "strings"

func (d *swiftDemangler) tuple() bool {
	n := 0
	if !d.popIf(kEmpty) {
		for first := false; !first; n++ {
			first = d.popIf(kFirst)
			d.popIf(kVariadic)
			d.pop(kIdentifier)
			if !d.popIf(kType) {
				return false
			}
		}
	}
	return d.push(swiftNode{kType, "tuple", -1, n})
}

func (d *swiftDemangler) boundGeneric() bool {
	for {
		for d.popIf(kType) {
		}
		if d.popIf(kEmpty) {
			break
		}
		if !d.popIf(kFirst) {
			return false
		}
	}
	t, ok := d.pop(kType)
	if !ok || t.params >= 0 || t.elements >= 0 {
		return false
	}
	d.subst = append(d.subst, t)
	return d.push(t)
}

func (d *swiftDemangler) popProtocol() bool {
	if d.popIf(kType) {
		return true
	}
	_, ok := d.popName()
	_, ok2 := d.popContext()
	return ok && ok2
}

func (d *swiftDemangler) protocols() bool {
	if d.popIf(kEmpty) {
		return true
	}
	for first := false; !first; {
		first = d.popIf(kFirst)
		if !d.popProtocol() {
			return false
		}
	}
	return true
}

// associated takes the name of an associated type, with its protocol if that is there, and counts the result
// among the substitutions.
func (d *swiftDemangler) associated() bool {
	d.pop(kType)
	_, ok := d.pop(kIdentifier)
	d.subst = append(d.subst, swiftNode{kType, "A", -1, -1})
	return ok
}

func (d *swiftDemangler) dependent() bool {
	switch d.next() {
	case 'z':
		return d.associated() && d.pushType("A")
	case 'y':
		return d.genericParam() && d.associated() && d.pushType("A")
	case 'r':
		return d.pushType("some")
	case 'R':
		_, ok := d.index()
		return ok && d.pushType("some")
	}
	return false
}

// requirement is a condition of a generic signature.
func (d *swiftDemangler) requirement() bool {
	protocol, layout := false, false
	assoc, substitution := false, false
	switch c := d.next(); c {
	case 'c', 't', 's', 'S', 'b', 'B':
		assoc, substitution = c == 'c' || c == 't', c == 'S' || c == 'B'
	case 'm', 'l', 'L':
		layout, assoc, substitution = true, c == 'm', c == 'L'
	case 'p', 'Q':
		protocol, assoc, substitution = true, c == 'p', c == 'Q'
	case 'C', 'T', 'M', 'P', 'v', 'V':
		return false // of associated types of associated types
	default:
		protocol = true
		d.at--
	}
	switch {
	case substitution:
		if !d.popIf(kType) {
			return false
		}
	case !d.genericParam():
		return false
	case assoc && !d.associated():
		return false
	}
	switch {
	case protocol:
		if !d.popProtocol() {
			return false
		}
	case layout:
		if !strings.ContainsRune("URNCDT", rune(d.next())) {
			return false
		}
	case !d.popIf(kType):
		return false
	}
	return d.pushKind(kRequirement)
}

func (d *swiftDemangler) signature(counts bool) bool {
	if counts {
		for !d.nextIf('l') {
			if d.nextIf('z') {
				continue
			}
			if _, ok := d.index(); !ok {
				return false
			}
		}
	}
	for d.popIf(kRequirement) {
	}
	return d.pushKind(kSignature)
}

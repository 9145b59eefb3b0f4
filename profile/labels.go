package profile

import (
	"encoding/hex"
	"slices"
	"strings"
)

// Names of the labels that the agent gives to what it collects.
const (
	LabelServiceName = "service_name"
	LabelNamespace   = "namespace"
	LabelPod         = "pod"
	LabelContainer   = "container"
	LabelNode        = "node"
	LabelComm        = "comm"
	LabelThread      = "thread"
	// LabelReason is what a thread waits for, in off-CPU profiles.
	LabelReason = "reason"
	// LabelHeap tells the heaps of a process apart, in memory profiles: go, java, or native (malloc and its kin).
	LabelHeap       = "heap"
	LabelExecutable = "executable"
	LabelVersion    = "version"
)

// Label is a name and its value.
type Label struct{ Name, Value string }

// Labels are sorted by name, each name once, no empty value. Treat them as immutable.
type Labels []Label

// NewLabels sorts ls in place, drops empty values and, of equal names, keeps the last.
func NewLabels(ls ...Label) Labels {
	slices.SortStableFunc(ls, func(a, b Label) int { return strings.Compare(a.Name, b.Name) })
	out := ls[:0]
	for i, l := range ls {
		if i+1 < len(ls) && ls[i+1].Name == l.Name {
			continue
		}
		if l.Value != "" {
			out = append(out, l)
		}
	}
	return out
}

// LabelsFromMap returns m as Labels.
func LabelsFromMap(m map[string]string) Labels {
	ls := make([]Label, 0, len(m))
	for n, v := range m {
		ls = append(ls, Label{n, v})
	}
	return NewLabels(ls...)
}

// Get returns the value of a label, or "".
func (ls Labels) Get(name string) string {
	i, ok := slices.BinarySearchFunc(ls, name, func(l Label, n string) int { return strings.Compare(l.Name, n) })
	if !ok {
		return ""
	}
	return ls[i].Value
}

// Compare orders label sets, shorter ones first among equal beginnings.
func (ls Labels) Compare(o Labels) int {
	return slices.CompareFunc(ls, o, func(a, b Label) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.Value, b.Value)
	})
}

// String writes the labels as a selector that matches them: {comm="api", node="a"}.
func (ls Labels) String() string {
	var b strings.Builder
	b.WriteByte('{')
	for i, l := range ls {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(l.Name)
		b.WriteByte('=')
		b.WriteString(quote(l.Value))
	}
	b.WriteByte('}')
	return b.String()
}

// Names of the sample labels that become a sample's [Link] instead of series labels.
const (
	sampleTraceID  = "trace_id"
	sampleSpanID   = "span_id"
	sampleSpanName = "span_name"
)

// SampleLabels turns the labels that a program gave to its own samples into those of a series and the link that
// trace_id, span_id (hex) and span_name make. Names become ones that selectors can name; labels of outer, those of the
// process, win. Of two values for one name the larger wins, whatever their order.
func SampleLabels(own []Label, outer Labels) (Labels, Link) {
	ls := make([]Label, 0, len(own)+len(outer))
	var link Link
	for _, l := range own {
		if !link.take(l.Name, l.Value) {
			ls = append(ls, Label{LabelName(l.Name), l.Value})
		}
	}
	slices.SortFunc(ls, func(a, b Label) int { return Labels{a}.Compare(Labels{b}) })
	return NewLabels(append(ls, outer...)...), link
}

// take makes a sample label part of the link if it is one of its three.
func (l *Link) take(name, value string) bool {
	switch name {
	case sampleTraceID:
		id, err := hex.DecodeString(value)
		return err == nil && len(id) == len(l.TraceID) && copy(l.TraceID[:], id) > 0
	case sampleSpanID:
		id, err := hex.DecodeString(value)
		return err == nil && len(id) == len(l.SpanID) && copy(l.SpanID[:], id) > 0
	case sampleSpanName:
		l.SpanName = value
		return true
	}
	return false
}

// LabelName makes a name as Prometheus has them: '_' for every byte that is no letter and no digit.
func LabelName(s string) string {
	b := []byte(s)
	for i, c := range b {
		if !isNameByte(c, true) || c == '.' || c == '-' {
			b[i] = '_'
		}
	}
	if len(b) == 0 || !isNameByte(b[0], false) {
		return "_" + string(b)
	}
	return string(b)
}

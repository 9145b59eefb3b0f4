package profile

import (
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
	LabelExecutable  = "executable"
	LabelVersion     = "version"
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

package ingest

import (
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/server/limits"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
)

// Attributes that say something else than a label does.
const (
	attrName      = "perfuse.profile.name"
	attrDelta     = "perfuse.profile.delta"
	attrSpanName  = "perfuse.span.name"
	attrFrameType = "profile.frame.type"
	attrGNU       = "process.executable.build_id.gnu"
	attrGo        = "process.executable.build_id.go"
	attrHash      = "process.executable.build_id.htlhash"
)

// labelNames are the attributes whose labels have names of their own. Where two attributes give the same
// label, the one with the larger rank wins: in a pod, host.name is often the pod's name and the node's name
// is the better one.
var labelNames = map[string]struct {
	label string
	rank  int
}{
	"service.name":            {profile.LabelServiceName, 3},
	"k8s.namespace.name":      {profile.LabelNamespace, 3},
	"k8s.pod.name":            {profile.LabelPod, 3},
	"k8s.container.name":      {profile.LabelContainer, 3},
	"container.name":          {profile.LabelContainer, 2},
	"k8s.node.name":           {profile.LabelNode, 3},
	"host.name":               {profile.LabelNode, 2},
	"process.executable.name": {profile.LabelExecutable, 3},
	"process.executable.path": {profile.LabelExecutable, 1},
	"service.version":         {profile.LabelVersion, 3},
	"process.comm":            {profile.LabelComm, 3},
	"thread.name":             {profile.LabelThread, 3},
}

// DefaultDropAttributes never become labels unless the configuration says so: they differ from sample to
// sample or are as long as a command line, and would make a series of each.
var DefaultDropAttributes = []string{
	"thread.id", "cpu.logical_number", "process.command", "process.command_line", "process.command_args",
}

// attribute is a label in the making.
type attribute struct {
	label string
	value string
	// scope is 0 for the resource's attributes, 1 for the profile's, 2 for the sample's; the narrower wins.
	scope int
	rank  int
}

// labelOf returns the label that an attribute stands for; ok is false if it stands for none.
func labelOf(key, value string, scope int) (a attribute, ok bool) {
	if key == "" || value == "" || strings.HasPrefix(key, "perfuse.") || key == attrFrameType {
		return attribute{}, false
	}
	if n, known := labelNames[key]; known {
		if key == "process.executable.path" {
			value = path.Base(value)
		}
		return attribute{n.label, value, scope, n.rank}, true
	}
	return attribute{profile.LabelName(key), value, scope, 0}, true
}

// labels makes a label set of attributes. The series gets a service in any case: the executable's name, the
// process's, or "unknown_service", which is OpenTelemetry's word for it.
func labels(attrs []attribute, lim *limits.Limits, where *place) (profile.Labels, error) {
	attrs = slices.Clone(attrs)
	slices.SortStableFunc(attrs, func(a, b attribute) int {
		if a.scope != b.scope {
			return a.scope - b.scope
		}
		return a.rank - b.rank
	})
	ls := make([]profile.Label, 0, len(attrs)+1)
	for _, a := range attrs {
		if err := limits.Count(limits.LabelNameBytes, int64(len(a.label)), lim.LabelNameBytes,
			"the label name %.40q... of %s has %d bytes", a.label, where, len(a.label)); err != nil {
			return nil, err
		}
		if err := limits.Count(limits.LabelValueBytes, int64(len(a.value)), lim.LabelValueBytes,
			"the value of label %s of %s has %d bytes", a.label, where, len(a.value)); err != nil {
			return nil, err
		}
		ls = append(ls, profile.Label{Name: a.label, Value: text(a.value)})
	}
	out := profile.NewLabels(ls...)
	if out.Get(profile.LabelServiceName) == "" {
		service := out.Get(profile.LabelExecutable)
		if service == "" {
			service = out.Get(profile.LabelComm)
		}
		if service == "" {
			service = "unknown_service"
		}
		out = profile.NewLabels(append(out, profile.Label{Name: profile.LabelServiceName, Value: service})...)
	}
	if err := limits.Count(limits.LabelsPerSeries, int64(len(out)), lim.LabelsPerSeries, "%s has %d labels", where, len(out)); err != nil {
		return nil, err
	}
	return out, nil
}

// text returns s as valid UTF-8 without zero bytes, which neither JSON nor protobuf carries back out.
func text(s string) string {
	if utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// valueOf returns the text of a string, int or bool; "" for all other values.
func valueOf(v *commonv1.AnyValue, strs []string) string {
	switch v := v.GetValue().(type) {
	case *commonv1.AnyValue_StringValue:
		return v.StringValue
	case *commonv1.AnyValue_StringValueStrindex:
		return str(strs, v.StringValueStrindex)
	case *commonv1.AnyValue_IntValue:
		return strconv.FormatInt(v.IntValue, 10)
	case *commonv1.AnyValue_BoolValue:
		return strconv.FormatBool(v.BoolValue)
	}
	return ""
}

// str looks a string up; validate has seen to it that i is 0 or inside of the table.
func str(strs []string, i int32) string {
	if i == 0 {
		return ""
	}
	return strs[i]
}

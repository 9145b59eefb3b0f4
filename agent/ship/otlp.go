package ship

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/perfuse/perfuse/profile"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/profiles/v1development"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	profilesv1 "go.opentelemetry.io/proto/otlp/profiles/v1development"
	resourcev1 "go.opentelemetry.io/proto/otlp/resource/v1"
)

// Attributes of ours on the wire, beside OpenTelemetry's.
const (
	attrName      = "perfuse.profile.name"
	attrDelta     = "perfuse.profile.delta"
	attrSpanName  = "perfuse.span.name"
	attrFrameType = "profile.frame.type"
	attrBuildID   = "process.executable.build_id.gnu"
	attrThread    = "thread.name"
)

// resourceAttributes are the names that OpenTelemetry has for our labels; other labels keep their own.
var resourceAttributes = map[string]string{
	profile.LabelServiceName: "service.name",
	profile.LabelNamespace:   "k8s.namespace.name",
	profile.LabelPod:         "k8s.pod.name",
	profile.LabelContainer:   "k8s.container.name",
	profile.LabelNode:        "host.name",
	profile.LabelExecutable:  "process.executable.name",
	profile.LabelVersion:     "service.version",
	profile.LabelComm:        "process.comm",
}

var frameTypes = map[profile.Kind]string{
	profile.KindNative:      "native",
	profile.KindKernel:      "kernel",
	profile.KindJIT:         "jit",
	profile.KindInterpreted: "interpreted",
	profile.KindUnwind:      "unwind",
}

// requests converts profiles of a batch to OTLP, in as many requests as needed to keep each below the
// limits on resources, samples and, as estimated, bytes. Profiles that differ only by their thread become
// one OTLP profile. Every OTLP profile gets an id of its own, by which the server knows it again.
func requests(b *profile.Batch, lim messageLimits) ([]*collectorv1.ExportProfilesServiceRequest, error) {
	type key struct {
		labels                 string
		typ                    profile.Type
		time, duration, period int64
	}
	var order []key
	groups := map[key][]*profile.Profile{}
	for i := range b.Profiles {
		p := &b.Profiles[i]
		if len(p.Samples) == 0 {
			continue
		}
		k := key{withoutThread(p.Labels).String(), p.Type, p.TimeNanos, p.DurationNanos, p.Period}
		if groups[k] == nil {
			order = append(order, k)
		}
		groups[k] = append(groups[k], p)
	}
	slices.SortStableFunc(order, func(a, b key) int { return strings.Compare(a.labels, b.labels) })

	var out []*collectorv1.ExportProfilesServiceRequest
	var e *encoder
	flush := func() {
		if e != nil && e.samples > 0 {
			out = append(out, e.request())
		}
		e = nil
	}
	for _, k := range order {
		for _, p := range groups[k] {
			for i := range p.Samples {
				if e == nil || e.samples >= lim.samples || e.bytes >= lim.bytes || len(e.resources) > lim.resources {
					flush()
					e = newEncoder(b.Dictionary)
				}
				if err := e.add(k.labels, p, &p.Samples[i]); err != nil {
					return nil, err
				}
			}
		}
		if e != nil {
			e.endProfile()
		}
	}
	flush()
	return out, nil
}

// messageLimits bound one message. They stay well below the server's (server/limits).
type messageLimits struct{ bytes, samples, resources int }

var defaultMessageLimits = messageLimits{bytes: 4 << 20, samples: 100_000, resources: 2000}

func withoutThread(ls profile.Labels) profile.Labels {
	i := slices.IndexFunc(ls, func(l profile.Label) bool { return l.Name == profile.LabelThread })
	if i < 0 {
		return ls
	}
	return slices.Concat(ls[:i], ls[i+1:])
}

// encoder builds one request. It takes from the batch's dictionary only what samples refer to.
type encoder struct {
	in      *profile.Dictionary
	dict    *profilesv1.ProfilesDictionary
	samples int
	bytes   int // roughly

	resources map[string]*profilesv1.ScopeProfiles
	list      []*profilesv1.ResourceProfiles

	profile *profilesv1.Profile // the open one
	merged  map[sampleKey]*profilesv1.Sample

	strings    map[string]int32
	attributes map[attribute]int32
	mappings   map[profile.MappingIndex]int32
	functions  map[profile.FunctionIndex]int32
	frames     map[profile.FrameIndex]int32
	stacks     map[profile.StackIndex]int32
	links      map[linkKey]int32
}

type attribute struct{ key, value string }

type linkKey struct {
	trace profile.TraceID
	span  profile.SpanID
}

type sampleKey struct {
	stack  profile.StackIndex
	link   profile.LinkIndex
	thread string
	timed  bool
}

func newEncoder(in *profile.Dictionary) *encoder {
	return &encoder{
		in: in,
		dict: &profilesv1.ProfilesDictionary{
			MappingTable:   []*profilesv1.Mapping{{}},
			LocationTable:  []*profilesv1.Location{{}},
			FunctionTable:  []*profilesv1.Function{{}},
			LinkTable:      []*profilesv1.Link{{}},
			StringTable:    []string{""},
			AttributeTable: []*profilesv1.KeyValueAndUnit{{}},
			StackTable:     []*profilesv1.Stack{{}},
		},
		resources:  map[string]*profilesv1.ScopeProfiles{},
		strings:    map[string]int32{},
		attributes: map[attribute]int32{},
		mappings:   map[profile.MappingIndex]int32{},
		functions:  map[profile.FunctionIndex]int32{},
		frames:     map[profile.FrameIndex]int32{},
		stacks:     map[profile.StackIndex]int32{},
		links:      map[linkKey]int32{},
	}
}

func (e *encoder) request() *collectorv1.ExportProfilesServiceRequest {
	return &collectorv1.ExportProfilesServiceRequest{ResourceProfiles: e.list, Dictionary: e.dict}
}

func (e *encoder) endProfile() { e.profile, e.merged = nil, nil }

func (e *encoder) add(resource string, p *profile.Profile, s *profile.Sample) error {
	if int(s.Stack) >= len(e.in.Stacks) || int(s.Link) >= len(e.in.Links) {
		return fmt.Errorf("encoding a sample of %s: stack %d or link %d is not in the dictionary", p.Type, s.Stack, s.Link)
	}
	if e.profile == nil {
		e.openProfile(resource, p)
	}
	k := sampleKey{s.Stack, s.Link, p.Labels.Get(profile.LabelThread), s.TimeNanos != 0}
	out := e.merged[k]
	if out == nil {
		stack, err := e.stack(s.Stack)
		if err != nil {
			return err
		}
		out = &profilesv1.Sample{StackIndex: stack}
		if k.thread != "" {
			out.AttributeIndices = append(out.AttributeIndices, e.attribute(attrThread, k.thread))
		}
		if s.Link != 0 {
			l := e.in.Links[s.Link]
			out.LinkIndex = e.link(l)
			if l.SpanName != "" {
				out.AttributeIndices = append(out.AttributeIndices, e.attribute(attrSpanName, l.SpanName))
			}
		}
		e.merged[k] = out
		e.profile.Samples = append(e.profile.Samples, out)
		e.bytes += 12
	}
	switch {
	case k.timed:
		out.Values = append(out.Values, s.Value)
		out.TimestampsUnixNano = append(out.TimestampsUnixNano, uint64(s.TimeNanos))
		e.bytes += 12
	case len(out.Values) == 0:
		out.Values = []int64{s.Value}
		e.bytes += 4
	default:
		out.Values[0] += s.Value
	}
	e.samples++
	return nil
}

func (e *encoder) openProfile(resource string, p *profile.Profile) {
	scope := e.resources[resource]
	if scope == nil {
		scope = &profilesv1.ScopeProfiles{Scope: &commonv1.InstrumentationScope{Name: "github.com/perfuse/perfuse"}}
		r := &resourcev1.Resource{}
		for _, l := range withoutThread(p.Labels) {
			name := resourceAttributes[l.Name]
			if name == "" {
				name = text(l.Name)
			}
			r.Attributes = append(r.Attributes, &commonv1.KeyValue{Key: name, Value: stringValue(l.Value)})
			e.bytes += len(name) + len(l.Value) + 10
		}
		e.resources[resource] = scope
		e.list = append(e.list, &profilesv1.ResourceProfiles{Resource: r, ScopeProfiles: []*profilesv1.ScopeProfiles{scope}})
	}
	id := make([]byte, 16)
	rand.Read(id) // never fails
	e.profile = &profilesv1.Profile{
		SampleType:   &profilesv1.ValueType{TypeStrindex: e.string(p.Type.SampleType), UnitStrindex: e.string(p.Type.SampleUnit)},
		PeriodType:   &profilesv1.ValueType{TypeStrindex: e.string(p.Type.PeriodType), UnitStrindex: e.string(p.Type.PeriodUnit)},
		Period:       p.Period,
		TimeUnixNano: uint64(max(p.TimeNanos, 0)),
		DurationNano: uint64(max(p.DurationNanos, 0)),
		ProfileId:    id,
		AttributeIndices: []int32{
			e.attribute(attrName, p.Type.Name),
			e.boolAttribute(attrDelta, p.Type.Delta),
		},
	}
	e.merged = map[sampleKey]*profilesv1.Sample{}
	e.bytes += 64
	scope.Profiles = append(scope.Profiles, e.profile)
}

func (e *encoder) stack(i profile.StackIndex) (int32, error) {
	if i == 0 {
		return 0, nil
	}
	if out, ok := e.stacks[i]; ok {
		return out, nil
	}
	in := e.in.Stacks[i]
	out := &profilesv1.Stack{LocationIndices: make([]int32, 0, len(in))}
	for _, f := range in {
		l, err := e.frame(f)
		if err != nil {
			return 0, err
		}
		out.LocationIndices = append(out.LocationIndices, l)
	}
	e.bytes += 4 + 3*len(in)
	e.stacks[i] = int32(len(e.dict.StackTable))
	e.dict.StackTable = append(e.dict.StackTable, out)
	return e.stacks[i], nil
}

func (e *encoder) frame(i profile.FrameIndex) (int32, error) {
	if out, ok := e.frames[i]; ok {
		return out, nil
	}
	if int(i) >= len(e.in.Frames) {
		return 0, fmt.Errorf("encoding a stack: frame %d is not in the dictionary", i)
	}
	in := e.in.Frames[i]
	if int(in.Mapping) >= len(e.in.Mappings) {
		return 0, fmt.Errorf("encoding frame %d: mapping %d is not in the dictionary", i, in.Mapping)
	}
	out := &profilesv1.Location{
		MappingIndex:     e.mapping(in.Mapping),
		Address:          uint64(in.Addr),
		AttributeIndices: []int32{e.attribute(attrFrameType, frameTypes[in.Kind])},
	}
	for _, l := range in.Lines {
		if int(l.Function) >= len(e.in.Functions) {
			return 0, fmt.Errorf("encoding frame %d: function %d is not in the dictionary", i, l.Function)
		}
		out.Lines = append(out.Lines, &profilesv1.Line{FunctionIndex: e.function(l.Function), Line: int64(l.Line), Column: int64(l.Column)})
	}
	e.bytes += 16 + 8*len(in.Lines)
	e.frames[i] = int32(len(e.dict.LocationTable))
	e.dict.LocationTable = append(e.dict.LocationTable, out)
	return e.frames[i], nil
}

func (e *encoder) mapping(i profile.MappingIndex) int32 {
	if i == 0 {
		return 0
	}
	if out, ok := e.mappings[i]; ok {
		return out
	}
	in := e.in.Mappings[i]
	out := &profilesv1.Mapping{FilenameStrindex: e.string(in.File)}
	if in.BuildID != "" {
		out.AttributeIndices = []int32{e.attribute(attrBuildID, in.BuildID)}
	}
	e.bytes += 16
	e.mappings[i] = int32(len(e.dict.MappingTable))
	e.dict.MappingTable = append(e.dict.MappingTable, out)
	return e.mappings[i]
}

func (e *encoder) function(i profile.FunctionIndex) int32 {
	if i == 0 {
		return 0
	}
	if out, ok := e.functions[i]; ok {
		return out
	}
	in := e.in.Functions[i]
	out := &profilesv1.Function{
		NameStrindex:       e.string(in.Name),
		SystemNameStrindex: e.string(in.SystemName),
		FilenameStrindex:   e.string(in.File),
		StartLine:          int64(in.StartLine),
	}
	e.bytes += 16
	e.functions[i] = int32(len(e.dict.FunctionTable))
	e.dict.FunctionTable = append(e.dict.FunctionTable, out)
	return e.functions[i]
}

func (e *encoder) link(l profile.Link) int32 {
	k := linkKey{l.TraceID, l.SpanID}
	if k == (linkKey{}) {
		return 0
	}
	if out, ok := e.links[k]; ok {
		return out
	}
	e.bytes += 28
	e.links[k] = int32(len(e.dict.LinkTable))
	e.dict.LinkTable = append(e.dict.LinkTable, &profilesv1.Link{TraceId: l.TraceID[:], SpanId: l.SpanID[:]})
	return e.links[k]
}

func (e *encoder) string(s string) int32 {
	if s == "" {
		return 0
	}
	if i, ok := e.strings[s]; ok {
		return i
	}
	e.bytes += len(s) + 3
	e.strings[s] = int32(len(e.dict.StringTable))
	e.dict.StringTable = append(e.dict.StringTable, text(s))
	return e.strings[s]
}

func (e *encoder) attribute(key, value string) int32 {
	return e.attributeOf(attribute{key, value}, func() *commonv1.AnyValue { return stringValue(value) })
}

func (e *encoder) boolAttribute(key string, value bool) int32 {
	return e.attributeOf(attribute{key, fmt.Sprint(value)}, func() *commonv1.AnyValue {
		return &commonv1.AnyValue{Value: &commonv1.AnyValue_BoolValue{BoolValue: value}}
	})
}

func (e *encoder) attributeOf(a attribute, value func() *commonv1.AnyValue) int32 {
	if i, ok := e.attributes[a]; ok {
		return i
	}
	e.bytes += len(a.value) + 12
	kv := &profilesv1.KeyValueAndUnit{KeyStrindex: e.string(a.key), Value: value()}
	e.attributes[a] = int32(len(e.dict.AttributeTable))
	e.dict.AttributeTable = append(e.dict.AttributeTable, kv)
	return e.attributes[a]
}

func stringValue(s string) *commonv1.AnyValue {
	return &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: text(s)}}
}

// text is s as protobuf wants it: names of files and processes may hold any byte.
func text(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

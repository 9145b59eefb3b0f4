package ingest

import (
	"encoding/binary"
	"math"
	"slices"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/server/limits"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/profiles/v1development"
	profilesv1 "go.opentelemetry.io/proto/otlp/profiles/v1development"
)

// Normaliser turns OTLP profiles into batches. Its zero value takes any input, without limits.
type Normaliser struct {
	Limits limits.Limits
	// DropAttributes are the keys that never become labels. Nil: none.
	DropAttributes []string
	// Now is the server's clock, time.Now if nil.
	Now func() time.Time
}

// Normalise returns what a request says in our own model. It fails as a whole or not at all: with an error
// that is ErrInvalid, or with a *limits.Error. keep, if not nil, says which profiles to take and under which
// ID.
func (n *Normaliser) Normalise(req *collectorv1.ExportProfilesServiceRequest, keep func(*profilesv1.Profile) (profile.ID, bool)) (*profile.Batch, error) {
	if err := validate(req, &n.Limits); err != nil {
		return nil, err
	}
	now := time.Now
	if n.Now != nil {
		now = n.Now
	}
	d := req.GetDictionary()
	c := converter{
		limits: &n.Limits, now: now().UnixNano(), dict: d, strs: d.GetStringTable(),
		frames: frames{
			in: d, out: profile.NewDictionary(),
			mappings: make([]profile.MappingIndex, len(d.GetMappingTable())), functions: make([]profile.FunctionIndex, len(d.GetFunctionTable())),
			frames: make([]profile.FrameIndex, len(d.GetLocationTable())), stacks: make([]profile.StackIndex, len(d.GetStackTable())),
		},
	}
	c.attributes(n.DropAttributes)
	for i, rp := range req.GetResourceProfiles() {
		at := &place{"resource_profiles", i, nil}
		c.resource = c.resource[:0]
		for _, kv := range rp.GetResource().GetAttributes() {
			key := kv.GetKey()
			if key == "" {
				key = str(c.strs, kv.GetKeyStrindex())
			}
			if a, ok := labelOf(key, valueOf(kv.GetValue(), c.strs), 0); ok && !slices.Contains(n.DropAttributes, key) {
				c.resource = append(c.resource, a)
			}
		}
		c.findCPUTimes(rp)
		for j, sp := range rp.GetScopeProfiles() {
			at := &place{"scope_profiles", j, at}
			for k, p := range sp.GetProfiles() {
				var id profile.ID
				if keep != nil {
					var ok bool
					if id, ok = keep(p); !ok {
						continue
					}
				}
				if err := c.profile(p, id, &place{"profiles", k, at}); err != nil {
					return nil, err
				}
			}
		}
	}
	return &profile.Batch{Dictionary: c.frames.out, Profiles: c.profiles}, nil
}

// converter is one request being normalised. Indices were validated.
type converter struct {
	limits *limits.Limits
	now    int64
	dict   *profilesv1.ProfilesDictionary
	strs   []string
	frames frames

	// By index of attribute_table.
	sampleAttrs []sampleAttr

	resource []attribute         // of the resource at hand
	cpuTimes map[moment]struct{} // when it took profiles of CPU time
	series   int64               // distinct label sets so far, counted per profile
	profiles []profile.Profile
}

// moment tells profiles of one measurement.
type moment struct{ time, duration uint64 }

// findCPUTimes notes which measurements of a resource bring their CPU time along with their counts of samples,
// as what was a pprof does: deriving it again would double it.
func (c *converter) findCPUTimes(rp *profilesv1.ResourceProfiles) {
	c.cpuTimes = nil
	for _, sp := range rp.GetScopeProfiles() {
		for _, p := range sp.GetProfiles() {
			if str(c.strs, p.GetSampleType().GetTypeStrindex()) != "cpu" {
				continue
			}
			if c.cpuTimes == nil {
				c.cpuTimes = map[moment]struct{}{}
			}
			c.cpuTimes[moment{p.GetTimeUnixNano(), p.GetDurationNano()}] = struct{}{}
		}
	}
}

type sampleAttr struct {
	label    attribute
	isLabel  bool
	spanName string
}

func (c *converter) attributes(drop []string) {
	c.sampleAttrs = make([]sampleAttr, len(c.dict.GetAttributeTable()))
	for i, a := range c.dict.GetAttributeTable() {
		key, value := str(c.strs, a.GetKeyStrindex()), valueOf(a.GetValue(), c.strs)
		if key == attrSpanName {
			c.sampleAttrs[i].spanName = text(value)
			continue
		}
		if slices.Contains(drop, key) {
			continue
		}
		c.sampleAttrs[i].label, c.sampleAttrs[i].isLabel = labelOf(key, value, 2)
	}
}

// group is the samples of one profile that agree in their labels.
type group struct {
	labels  profile.Labels
	samples []profile.Sample
	total   int64
}

func (c *converter) profile(p *profilesv1.Profile, id profile.ID, at *place) error {
	if len(p.GetSamples()) == 0 {
		return nil
	}
	base := slices.Clone(c.resource)
	name, delta := "", false
	for _, i := range p.GetAttributeIndices() {
		if i == 0 {
			continue
		}
		a := c.dict.GetAttributeTable()[i]
		switch str(c.strs, a.GetKeyStrindex()) {
		case attrName:
			name = text(valueOf(a.GetValue(), c.strs))
		case attrDelta:
			delta = a.GetValue().GetBoolValue() || valueOf(a.GetValue(), c.strs) == "true"
		}
		if sa := c.sampleAttrs[i]; sa.isLabel {
			sa.label.scope = 1
			base = append(base, sa.label)
		}
	}
	word := func(i int32) string { return typeWord(str(c.strs, i)) }
	typ := profileType(typeWord(name),
		word(p.GetSampleType().GetTypeStrindex()), word(p.GetSampleType().GetUnitStrindex()),
		word(p.GetPeriodType().GetTypeStrindex()), word(p.GetPeriodType().GetUnitStrindex()), delta)

	groups, err := c.groups(p, base, at)
	if err != nil {
		return err
	}
	if err := checkType(typ, c.limits, at); err != nil {
		return err
	}
	start, duration, err := c.times(p, at)
	if err != nil {
		return err
	}
	cpu, nanos, counts := cpuTime(typ, p.GetPeriod())
	_, given := c.cpuTimes[moment{p.GetTimeUnixNano(), p.GetDurationNano()}]
	for _, g := range groups {
		out := profile.Profile{Type: typ, Labels: g.labels, TimeNanos: start, DurationNanos: duration, Period: p.GetPeriod(), Samples: g.samples, ID: id}
		if counts {
			out.Type.PeriodUnit, out.Period = cpu.PeriodUnit, nanos
		}
		if counts && !given {
			if g.total > math.MaxInt64/nanos {
				return invalid("%s: %d samples of %d ns are more CPU time than a number can hold", at, g.total, nanos)
			}
			times := out
			times.Type, times.Period = cpu, nanos
			times.Samples = slices.Clone(g.samples)
			for i := range times.Samples {
				times.Samples[i].Value *= nanos
			}
			c.profiles = append(c.profiles, times)
		}
		c.profiles = append(c.profiles, out)
	}
	return nil
}

// typeWord makes s fit between the colons of a profile type's text.
func typeWord(s string) string {
	s = text(s)
	for i := range len(s) {
		if s[i] == ':' {
			b := []byte(s)
			for j := i; j < len(b); j++ {
				if b[j] == ':' {
					b[j] = '_'
				}
			}
			return string(b)
		}
	}
	return s
}

// groups converts the samples of p and sorts them by their labels, in order of first appearance.
func (c *converter) groups(p *profilesv1.Profile, base []attribute, at *place) ([]*group, error) {
	var (
		list  []*group
		byKey = map[string]*group{} // by attribute indices
		byLab = map[string]*group{} // by label set, for different indices with the same meaning
		last  *group
		prev  []int32
		idx   []int32
		key   []byte
		attrs []attribute
	)
	s := place{"samples", 0, at}
	for i, in := range p.GetSamples() {
		s.index = i
		spanName := ""
		idx = idx[:0]
		for _, a := range in.GetAttributeIndices() {
			if a == 0 {
				continue
			}
			if sa := &c.sampleAttrs[a]; sa.isLabel {
				idx = append(idx, a)
			} else if sa.spanName != "" {
				spanName = sa.spanName
			}
		}
		g := last
		if g == nil || !slices.Equal(idx, prev) {
			prev = append(prev[:0], idx...)
			key = key[:0]
			for _, a := range idx {
				key = binary.LittleEndian.AppendUint32(key, uint32(a))
			}
			if g = byKey[string(key)]; g == nil {
				attrs = append(attrs[:0], base...)
				for _, a := range idx {
					attrs = append(attrs, c.sampleAttrs[a].label)
				}
				ls, err := labels(attrs, c.limits, &s)
				if err != nil {
					return nil, err
				}
				text := ls.String()
				if g = byLab[text]; g == nil {
					g = &group{labels: ls}
					list = append(list, g)
					byLab[text] = g
					c.series++
					if err := limits.Count(limits.SeriesPerRequest, c.series, c.limits.SeriesPerRequest,
						"the request has more than %d label sets", c.limits.SeriesPerRequest); err != nil {
						return nil, err
					}
				}
				byKey[string(key)] = g
			}
			last = g
		}
		out := profile.Sample{Stack: c.frames.stack(in.GetStackIndex()), Link: c.link(in.GetLinkIndex(), spanName)}
		times, values := in.GetTimestampsUnixNano(), in.GetValues()
		for j := range max(len(times), len(values)) {
			out.Value, out.TimeNanos = 1, 0
			if len(values) > 0 {
				out.Value = values[j]
			}
			if len(times) > 0 {
				out.TimeNanos = int64(times[j])
			}
			if out.Value == 0 {
				continue
			}
			if g.total > math.MaxInt64-out.Value {
				return nil, invalid("%s.values[%d]: the sum of the profile's values is more than a number can hold", &s, j)
			}
			g.total += out.Value
			g.samples = append(g.samples, out)
		}
	}
	return slices.DeleteFunc(list, func(g *group) bool { return len(g.samples) == 0 }), nil
}

// times returns when the profile began and how long it took. A profile that does not say when it was taken
// lies where its timestamps are, or else is taken to have arrived the moment it ended.
func (c *converter) times(p *profilesv1.Profile, at *place) (start, duration int64, err error) {
	first, last := int64(math.MaxInt64), int64(0)
	for _, s := range p.GetSamples() {
		for _, t := range s.GetTimestampsUnixNano() {
			first, last = min(first, int64(t)), max(last, int64(t))
		}
	}
	start, duration = int64(p.GetTimeUnixNano()), int64(p.GetDurationNano())
	if start == 0 {
		switch {
		case last > 0:
			start, duration = first, max(duration, last-first)
		default:
			start = max(c.now-duration, 1)
		}
	}
	first, last = min(first, start), max(last, start+duration)
	return start, duration, checkTime(first, last, c.now, c.limits, at)
}

// checkTime refuses what lies too far from now, all in nanoseconds since the Unix epoch.
func checkTime(first, last, now int64, lim *limits.Limits, at *place) error {
	if f := lim.Future; f > 0 && last > now && last-now > int64(f) {
		return &limits.Error{Limit: limits.Future, Max: f.String(), What: at.String() + " lies " +
			time.Duration(last-now).Round(time.Second).String() + " in the future; is the sender's clock right?"}
	}
	if old := lim.Past; old > 0 && first < now && now-first > int64(old) {
		return &limits.Error{Limit: limits.Past, Max: old.String(), What: at.String() + " is " +
			time.Duration(now-first).Round(time.Second).String() + " old"}
	}
	return nil
}

func (c *converter) link(i int32, spanName string) profile.LinkIndex {
	var l profile.Link
	if i != 0 {
		in := c.dict.GetLinkTable()[i]
		copy(l.TraceID[:], in.GetTraceId())
		copy(l.SpanID[:], in.GetSpanId())
	}
	l.SpanName = spanName
	if l == (profile.Link{}) {
		return 0
	}
	return c.frames.out.Link(l)
}

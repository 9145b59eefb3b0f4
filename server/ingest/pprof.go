package ingest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/perfuse/perfuse/profile"
	profilestorev1alpha1 "github.com/perfuse/perfuse/proto/parca/profilestore/v1alpha1"
	pushv1 "github.com/perfuse/perfuse/proto/push/v1"
	"github.com/perfuse/perfuse/server/limits"
)

// rawSeries is profiles as pprof, and the labels that they come with.
type rawSeries struct {
	name     string // the first part of the profile types; empty: told by the pprof
	labels   profile.Labels
	profiles []rawProfile
}

type rawProfile struct {
	data []byte
	id   string // empty: the sender does not say
	at   *place
	want string // empty: a pprof

	// What Pyroscope's /ingest says beside.
	sent     delivery
	config   sampleTypes
	previous []byte   // what the cumulative types were when the profile before this one was taken
	span     timeSpan // for a pprof that does not say when it was taken
}

// readCost is how many bytes of memory reading a byte of pprof takes at most.
const readCost = 10

func (raw *rawRequest) decode(into proto.Message) error {
	if len(raw.body) == 0 {
		return invalid("the body is empty: want a %s", into.ProtoReflect().Descriptor().Name())
	}
	err := error(nil)
	if raw.json {
		err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(raw.body, into)
	} else {
		err = proto.Unmarshal(raw.body, into)
	}
	if err != nil {
		return invalid("the body is not a %s: %v", into.ProtoReflect().Descriptor().Name(), err)
	}
	return nil
}

func (g *Ingester) push(ctx context.Context, raw *rawRequest) error {
	var req pushv1.PushRequest
	return g.decodeSeries(ctx, raw, pushShape, &req, func() ([]rawSeries, error) {
		series := make([]rawSeries, len(req.GetSeries()))
		for i, in := range req.GetSeries() {
			if err := fillSeries(g, &series[i], i, in.GetLabels(), in.GetSamples()); err != nil {
				return nil, err
			}
		}
		return series, nil
	})
}

func (g *Ingester) writeRaw(ctx context.Context, raw *rawRequest) error {
	var req profilestorev1alpha1.WriteRawRequest
	return g.decodeSeries(ctx, raw, writeRawShape, &req, func() ([]rawSeries, error) {
		series := make([]rawSeries, len(req.GetSeries()))
		for i, in := range req.GetSeries() {
			if err := fillSeries(g, &series[i], i, in.GetLabels().GetLabels(), in.GetSamples()); err != nil {
				return nil, err
			}
		}
		return series, nil
	})
}

// decodeSeries decodes a request into a message and stores the series that are in it.
func (g *Ingester) decodeSeries(ctx context.Context, raw *rawRequest, s *shape, into proto.Message, series func() ([]rawSeries, error)) error {
	cost, err := seriesCost(raw, s)
	if err != nil {
		return invalid("the body is not a %s: %v", into.ProtoReflect().Descriptor().Name(), err)
	}
	if err := limits.Count(limits.DecodedBytes, cost, g.limits.DecodedBytes, "the request would take about %d bytes of memory", cost); err != nil {
		return err
	}
	release, err := g.gate.room.enter(ctx, cost)
	if err != nil {
		return err
	}
	defer release()
	if err := raw.decode(into); err != nil {
		return err
	}
	in, err := series()
	if err != nil {
		return err
	}
	return g.storeRaw(ctx, in, cost)
}

type wireLabel interface {
	GetName() string
	GetValue() string
}

// fillSeries fills in the i-th series of a request. Samples of some protocols have ids.
func fillSeries[L wireLabel, S interface{ GetRawProfile() []byte }](g *Ingester, s *rawSeries, i int, labels []L, samples []S) (err error) {
	at := &place{"series", i, nil}
	pairs := make([]profile.Label, len(labels))
	for j, l := range labels {
		pairs[j] = profile.Label{Name: l.GetName(), Value: l.GetValue()}
	}
	if *s, err = g.rawSeries(pairs, at); err != nil {
		return err
	}
	s.profiles = make([]rawProfile, len(samples))
	for j, sample := range samples {
		s.profiles[j] = rawProfile{data: sample.GetRawProfile(), at: &place{"samples", j, at}}
		if named, ok := any(sample).(interface{ GetID() string }); ok {
			s.profiles[j].id = named.GetID()
		}
	}
	return nil
}

// serviceNames are the labels that name a service where service_name is missing, the best first.
var serviceNames = []string{"service", "app", "job", "application"}

// rawSeries makes a series of the labels that a sender gave it. Labels between double underscores are for the
// receiver's own use.
func (g *Ingester) rawSeries(pairs []profile.Label, at *place) (s rawSeries, err error) {
	ls := make([]profile.Label, 0, len(pairs)+1)
	for _, l := range pairs {
		if l.Name == "__name__" {
			s.name = text(l.Value)
		}
		if strings.HasPrefix(l.Name, "__") || l.Name == "" {
			continue
		}
		ls = append(ls, profile.Label{Name: profile.LabelName(l.Name), Value: text(l.Value)})
	}
	s.labels = profile.NewLabels(ls...)
	if s.labels.Get(profile.LabelServiceName) == "" {
		service := "unknown_service"
		for _, name := range serviceNames {
			if v := s.labels.Get(name); v != "" {
				service = v
				break
			}
		}
		s.labels = profile.NewLabels(append(slices.Clone(s.labels), profile.Label{Name: profile.LabelServiceName, Value: service})...)
	}
	return s, g.checkLabels(s.labels, at)
}

func (g *Ingester) checkLabels(ls profile.Labels, at *place) error {
	if err := limits.Count(limits.LabelsPerSeries, int64(len(ls)), g.limits.LabelsPerSeries, "%s has %d labels", at, len(ls)); err != nil {
		return err
	}
	for _, l := range ls {
		if err := limits.Count(limits.LabelNameBytes, int64(len(l.Name)), g.limits.LabelNameBytes,
			"the label name %.40q... of %s has %d bytes", l.Name, at, len(l.Name)); err != nil {
			return err
		}
		if err := limits.Count(limits.LabelValueBytes, int64(len(l.Value)), g.limits.LabelValueBytes,
			"the label %q of %s has %d bytes", l.Name, at, len(l.Value)); err != nil {
			return err
		}
	}
	return nil
}

// storeRaw stores all profiles of a request or none, except those that were stored before. The request itself takes held
// bytes of memory.
func (g *Ingester) storeRaw(ctx context.Context, series []rawSeries, held int64) error {
	n, unpacked := 0, int64(0)
	for i := range series {
		s := &series[i]
		for j := range s.profiles {
			p := &s.profiles[j]
			n++
			var err error
			if p.data, err = g.unpackRaw(p, &unpacked); err != nil {
				return err
			}
			if len(p.previous) > 0 {
				if p.previous, err = g.unpackRaw(&rawProfile{data: p.previous, at: &place{"prev_profile", -1, nil}}, &unpacked); err != nil {
					return err
				}
			}
		}
	}
	if n == 0 {
		return invalid("the request has no profiles")
	}
	cost := readCost * unpacked
	if err := limits.Count(limits.DecodedBytes, held+cost, g.limits.DecodedBytes, "the request would take about %d bytes of memory", held+cost); err != nil {
		return err
	}
	release, err := g.gate.room.enter(ctx, cost)
	if err != nil {
		return err
	}
	defer release()

	b := &profile.Batch{Dictionary: profile.NewDictionary()}
	var unsure profile.ID
	var count seriesCount
	for i := range series {
		s := &series[i]
		for j := range s.profiles {
			p := &s.profiles[j]
			at := len(b.Profiles)
			taken, err := g.readRaw(b, s, p)
			if err != nil {
				return err
			}
			if err := count.check(b, &g.limits); err != nil {
				return err
			}
			if p.sent.key == (profile.ID{}) {
				p.sent = rawDelivery(s, p)
			}
			var id profile.ID
			id, unsure = p.sent.known(taken)
			for k := range b.Profiles[at:] {
				b.Profiles[at+k].ID = id
			}
		}
	}
	if err := g.checkBatch(b); err != nil {
		return err
	}
	return g.deliver(ctx, b, unsure)
}

// unpackRaw returns a profile's data decompressed, and counts its bytes among the request's.
func (g *Ingester) unpackRaw(p *rawProfile, total *int64) ([]byte, error) {
	data := p.data
	if len(data) == 0 {
		return nil, invalid("%s is empty: want %s", p.at, cmp.Or(p.want, "a pprof"))
	}
	if bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
		var err error
		data, err = g.unpacker.Unpack("gzip", data)
		var le *limits.Error
		switch {
		case errors.As(err, &le):
			return nil, le
		case err != nil:
			return nil, invalid("unpacking %s (gzip): %v", p.at, err)
		}
	}
	*total += int64(len(data))
	return data, limits.Count(limits.DecompressedBytes, *total, g.limits.DecompressedBytes, "what the request holds has %d bytes and more after decompression", *total)
}

// readRaw adds a pprof's profiles to b, and returns when it says that it was taken, or 0.
func (g *Ingester) readRaw(b *profile.Batch, s *rawSeries, p *rawProfile) (taken int64, err error) {
	got, err := g.parsePprof(b, s, p.data, p.at)
	if err != nil {
		return 0, err
	}
	if len(p.previous) > 0 {
		before, err := g.parsePprof(b, s, p.previous, &place{"prev_profile", -1, nil})
		if err != nil {
			return 0, err
		}
		p.config.subtract(got, before)
	}
	p.config.rename(got)
	now := g.now().UnixNano()
	for _, out := range got.Profiles {
		taken = out.TimeNanos
		p.span.give(&out)
		if out.TimeNanos == 0 {
			out.TimeNanos = max(now-out.DurationNanos, 1)
		}
		if err := g.checkProfile(&out, now, p.at); err != nil {
			return 0, err
		}
		b.Profiles = append(b.Profiles, out)
	}
	return taken, nil
}

// parsePprof reads a pprof with the dictionary of b. What a series costs is not in the estimate of readCost.
func (g *Ingester) parsePprof(b *profile.Batch, s *rawSeries, data []byte, at *place) (*profile.Batch, error) {
	got, err := profile.ParsePprof(data, profile.PprofOptions{
		Name: s.name, Labels: s.labels, Dictionary: b.Dictionary, MaxSeries: int(unlessOff(g.limits.SeriesPerRequest)), Amounts: true,
	})
	switch {
	case errors.Is(err, profile.ErrManySeries):
		return nil, limits.Count(limits.SeriesPerRequest, math.MaxInt64, g.limits.SeriesPerRequest, "%s: %v", at, err)
	case err != nil:
		return nil, invalid("%s: %v", at, err)
	}
	return got, nil
}

// seriesCount counts the label sets of a batch that grows.
type seriesCount struct {
	sets map[string]struct{}
	next int // the first profile that is not counted
}

func (c *seriesCount) check(b *profile.Batch, lim *limits.Limits) error {
	if c.sets == nil {
		c.sets = map[string]struct{}{}
	}
	for ; c.next < len(b.Profiles); c.next++ {
		c.sets[b.Profiles[c.next].Labels.String()] = struct{}{}
	}
	return limits.Count(limits.SeriesPerRequest, int64(len(c.sets)), lim.SeriesPerRequest, "the request has %d series", len(c.sets))
}

// checkProfile holds the limits of a profile against one that was read.
func (g *Ingester) checkProfile(p *profile.Profile, now int64, at *place) error {
	if p.DurationNanos > math.MaxInt64-p.TimeNanos {
		return invalid("%s: its time and duration are out of range", at)
	}
	if err := checkTime(p.TimeNanos, p.TimeNanos+p.DurationNanos, now, &g.limits, at); err != nil {
		return err
	}
	if err := g.checkLabels(p.Labels, at); err != nil {
		return err
	}
	if err := checkType(p.Type, &g.limits, at); err != nil {
		return err
	}
	total := int64(0)
	for _, s := range p.Samples {
		if s.Value < 0 {
			return invalid("%s: a value of %s is %d: want 0 or more", at, p.Type, s.Value)
		}
		if total += s.Value; total < 0 {
			return invalid("%s: the sum of the values of %s is more than a number can hold", at, p.Type)
		}
	}
	return nil
}

// checkBatch holds the limits of a request against what it became.
func (g *Ingester) checkBatch(b *profile.Batch) error {
	samples := 0
	for i := range b.Profiles {
		samples += len(b.Profiles[i].Samples)
	}
	if err := limits.Count(limits.SamplesPerRequest, int64(samples), g.limits.SamplesPerRequest, "the request has %d samples", samples); err != nil {
		return err
	}
	if err := new(seriesCount).check(b, &g.limits); err != nil {
		return err
	}
	for _, s := range b.Dictionary.Stacks {
		if err := limits.Count(limits.FramesPerStack, int64(len(s)), g.limits.FramesPerStack, "a stack has %d frames", len(s)); err != nil {
			return err
		}
	}
	return nil
}

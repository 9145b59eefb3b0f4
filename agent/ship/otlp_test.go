package ship

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/perfuse/perfuse/profile"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/profiles/v1development"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/protobuf/proto"
)

// describe writes a request as text: everything that it says, resolved, and nothing about indices or ids.
func describe(req *collectorv1.ExportProfilesServiceRequest) string {
	d := req.Dictionary
	str := func(i int32) string { return d.StringTable[i] }
	value := func(v *commonv1.AnyValue) string {
		if s, ok := v.Value.(*commonv1.AnyValue_StringValue); ok {
			return s.StringValue
		}
		return fmt.Sprint(v.GetBoolValue())
	}
	attrs := func(is []int32) (out []string) {
		for _, i := range is {
			a := d.AttributeTable[i]
			out = append(out, str(a.KeyStrindex)+"="+value(a.Value))
		}
		return out
	}
	var b strings.Builder
	for _, r := range req.ResourceProfiles {
		b.WriteString("resource")
		for _, a := range r.Resource.Attributes {
			fmt.Fprintf(&b, " %s=%s", a.Key, value(a.Value))
		}
		b.WriteByte('\n')
		for _, s := range r.ScopeProfiles {
			for _, p := range s.Profiles {
				fmt.Fprintf(&b, "  profile %s/%s period %d %s/%s at %d for %d %v\n", str(p.SampleType.TypeStrindex), str(p.SampleType.UnitStrindex),
					p.Period, str(p.PeriodType.TypeStrindex), str(p.PeriodType.UnitStrindex), p.TimeUnixNano, p.DurationNano, attrs(p.AttributeIndices))
				for _, s := range p.Samples {
					fmt.Fprintf(&b, "    %v", s.Values)
					if len(s.TimestampsUnixNano) > 0 {
						fmt.Fprintf(&b, " at %v", s.TimestampsUnixNano)
					}
					if s.LinkIndex != 0 {
						l := d.LinkTable[s.LinkIndex]
						fmt.Fprintf(&b, " link %x/%x", l.TraceId[:2], l.SpanId[:2])
					}
					fmt.Fprintf(&b, " %v\n", attrs(s.AttributeIndices))
					for _, i := range d.StackTable[s.StackIndex].LocationIndices {
						l := d.LocationTable[i]
						m := d.MappingTable[l.MappingIndex]
						fmt.Fprintf(&b, "      %#x %v in %q %v", l.Address, attrs(l.AttributeIndices), str(m.FilenameStrindex), attrs(m.AttributeIndices))
						for _, line := range l.Lines {
							f := d.FunctionTable[line.FunctionIndex]
							fmt.Fprintf(&b, " %s(%s) %s:%d:%d+%d", str(f.NameStrindex), str(f.SystemNameStrindex), str(f.FilenameStrindex), line.Line, line.Column, f.StartLine)
						}
						b.WriteByte('\n')
					}
				}
			}
		}
	}
	return b.String()
}

func TestMapping(t *testing.T) {
	d := profile.NewDictionary()
	lib := d.Mapping(profile.Mapping{BuildID: "abcd", File: "/lib/libc.so.6"})
	kernel := d.Mapping(profile.Mapping{File: "[kernel.kallsyms]"})
	inner := d.Function(profile.Function{Name: "inner()", SystemName: "_Z5innerv", File: "a.cc", StartLine: 10})
	outer := d.Function(profile.Function{Name: "outer"})
	reason := d.Function(profile.Function{Name: "[unwind: no unwind information]"})
	native := d.Frame(profile.Frame{Mapping: lib, Addr: 0x1234})
	inlined := d.Frame(profile.Frame{Kind: profile.KindJIT, Addr: 0x10, Lines: []profile.Line{{Function: inner, Line: 12, Column: 3}, {Function: outer, Line: 40}}})
	sys := d.Frame(profile.Frame{Kind: profile.KindKernel, Mapping: kernel, Lines: []profile.Line{{Function: outer}}})
	end := d.Frame(profile.Frame{Kind: profile.KindUnwind, Lines: []profile.Line{{Function: reason}}})
	deep, shallow := d.Stack(profile.Stack{sys, native, inlined}), d.Stack(profile.Stack{native, end})
	link := d.Link(profile.Link{TraceID: profile.TraceID{1, 2}, SpanID: profile.SpanID{3, 4}, SpanName: "GET /"})
	unnamed := d.Link(profile.Link{TraceID: profile.TraceID{1, 2}, SpanID: profile.SpanID{3, 4}})
	cpu := func(thread string, samples ...profile.Sample) profile.Profile {
		return profile.Profile{
			Type: profile.TypeCPU, TimeNanos: 100, DurationNanos: 10, Period: 5,
			Labels: profile.NewLabels(profile.Label{Name: "service_name", Value: "api"}, profile.Label{Name: "thread", Value: thread},
				profile.Label{Name: "comm", Value: "a\xffb"}, profile.Label{Name: "node", Value: "n"}, profile.Label{Name: "team", Value: "x"}),
			Samples: samples,
		}
	}
	heap := profile.Profile{
		Type:    profile.Type{Name: "memory", SampleType: "inuse_space", SampleUnit: "bytes", PeriodType: "space", PeriodUnit: "bytes", Delta: true},
		Labels:  profile.NewLabels(profile.Label{Name: "executable", Value: "b"}, profile.Label{Name: "pod", Value: "p"}, profile.Label{Name: "version", Value: "1"}),
		Samples: []profile.Sample{{Value: 7}},
	}
	b := &profile.Batch{Dictionary: d, Profiles: []profile.Profile{
		cpu("t1", profile.Sample{Stack: deep, Value: 1}, profile.Sample{Stack: deep, Value: 2}, profile.Sample{Stack: shallow, Value: 4}),
		heap,
		cpu("t2", profile.Sample{Stack: deep, Value: 8, Link: link}, profile.Sample{Stack: deep, Value: 16, TimeNanos: 101, Link: unnamed},
			profile.Sample{Stack: deep, Value: 32, TimeNanos: 102, Link: unnamed}),
		cpu("", profile.Sample{Stack: shallow, Value: 64}),
		cpu("empty"),
	}}
	reqs, err := requests(b, defaultMessageLimits)
	if err != nil || len(reqs) != 1 {
		t.Fatal(len(reqs), err)
	}
	if _, err := proto.Marshal(reqs[0]); err != nil {
		t.Fatal(err)
	}
	stackDeep := `      0x0 [profile.frame.type=kernel] in "[kernel.kallsyms]" [] outer() :0:0+0
      0x1234 [profile.frame.type=native] in "/lib/libc.so.6" [process.executable.build_id.gnu=abcd]
      0x10 [profile.frame.type=jit] in "" [] inner()(_Z5innerv) a.cc:12:3+10 outer() :40:0+0
`
	stackShallow := `      0x1234 [profile.frame.type=native] in "/lib/libc.so.6" [process.executable.build_id.gnu=abcd]
      0x0 [profile.frame.type=unwind] in "" [] [unwind: no unwind information]() :0:0+0
`
	want := "resource process.comm=a\uFFFDb host.name=n service.name=api team=x\n" +
		"  profile cpu/nanoseconds period 5 cpu/nanoseconds at 100 for 10 [perfuse.profile.name=process_cpu perfuse.profile.delta=false]\n" +
		"    [3] [thread.name=t1]\n" + stackDeep +
		"    [4] [thread.name=t1]\n" + stackShallow +
		"    [8] link 0102/0304 [thread.name=t2 perfuse.span.name=GET /]\n" + stackDeep +
		"    [16 32] at [101 102] link 0102/0304 [thread.name=t2]\n" + stackDeep +
		"    [64] []\n" + stackShallow +
		"resource process.executable.name=b k8s.pod.name=p service.version=1\n" +
		"  profile inuse_space/bytes period 0 space/bytes at 0 for 0 [perfuse.profile.name=memory perfuse.profile.delta=true]\n" +
		"    [7] []\n"
	if got := describe(reqs[0]); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	zero := reqs[0].Dictionary
	for name, m := range map[string]proto.Message{
		"mapping": zero.MappingTable[0], "location": zero.LocationTable[0], "function": zero.FunctionTable[0],
		"link": zero.LinkTable[0], "attribute": zero.AttributeTable[0], "stack": zero.StackTable[0],
	} {
		if proto.Size(m) != 0 {
			t.Errorf("%s 0 is not the zero value", name)
		}
	}
	for _, bad := range []*profile.Batch{
		{Dictionary: d, Profiles: []profile.Profile{cpu("t", profile.Sample{Stack: 99})}},
		{Dictionary: d, Profiles: []profile.Profile{cpu("t", profile.Sample{Link: 99})}},
		{Dictionary: &profile.Dictionary{Stacks: []profile.Stack{nil, {5}}, Links: make([]profile.Link, 1)}, Profiles: []profile.Profile{cpu("t", profile.Sample{Stack: 1})}},
	} {
		if _, err := requests(bad, defaultMessageLimits); err == nil {
			t.Error("a batch with an index outside of its dictionary was encoded")
		}
	}
}

// A large batch is cut into messages that keep to their limits; together they say the same.
func TestSplitMessages(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		d := profile.NewDictionary()
		b := &profile.Batch{Dictionary: d}
		want := map[string]int64{}
		for range 1 + rng.IntN(40) {
			p := profile.Profile{Type: profile.TypeCPU, TimeNanos: 5, Labels: profile.NewLabels(
				profile.Label{Name: "service_name", Value: fmt.Sprint(rng.IntN(10))}, profile.Label{Name: "thread", Value: fmt.Sprint(rng.IntN(3))})}
			for range rng.IntN(20) {
				name := fmt.Sprintf("f%d", rng.IntN(30))
				s := profile.Sample{Value: rng.Int64N(100), Stack: d.Stack(profile.Stack{d.Frame(profile.Frame{Lines: []profile.Line{{Function: d.Function(profile.Function{Name: name})}}})})}
				p.Samples = append(p.Samples, s)
				want[p.Labels.Get("service_name")+p.Labels.Get("thread")+name] += s.Value
			}
			b.Profiles = append(b.Profiles, p)
		}
		lim := messageLimits{bytes: 2000, samples: 25, resources: 3}
		reqs, err := requests(b, lim)
		if err != nil {
			t.Fatal(err)
		}
		got, ids := map[string]int64{}, map[string]bool{}
		for _, r := range reqs {
			body, err := proto.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			// The estimate is checked after each sample, so a message exceeds the limit by one at most.
			if len(r.ResourceProfiles) > lim.resources+1 || len(body) > lim.bytes+400 {
				t.Errorf("a message of %d resources and %d bytes", len(r.ResourceProfiles), len(body))
			}
			for _, rp := range r.ResourceProfiles {
				for _, p := range rp.ScopeProfiles[0].Profiles {
					if ids[string(p.ProfileId)] || len(p.ProfileId) != 16 {
						t.Errorf("the profile id %x", p.ProfileId)
					}
					ids[string(p.ProfileId)] = true
					for _, s := range p.Samples {
						f := r.Dictionary.FunctionTable[r.Dictionary.LocationTable[r.Dictionary.StackTable[s.StackIndex].LocationIndices[0]].Lines[0].FunctionIndex]
						thread := r.Dictionary.AttributeTable[s.AttributeIndices[0]]
						got[rp.Resource.Attributes[0].Value.GetStringValue()+thread.Value.GetStringValue()+r.Dictionary.StringTable[f.NameStrindex]] += s.Values[0]
					}
				}
			}
		}
		for k := range want {
			if got[k] != want[k] {
				t.Errorf("%s: %d, want %d", k, got[k], want[k])
			}
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	d := profile.NewDictionary()
	batch := &profile.Batch{Dictionary: d}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 50 {
		p := profile.Profile{Type: profile.TypeCPU, Labels: profile.NewLabels(profile.Label{Name: "service_name", Value: fmt.Sprint(i)})}
		for range 20 {
			var s profile.Stack
			for range 25 {
				s = append(s, d.Frame(profile.Frame{Mapping: d.Mapping(profile.Mapping{BuildID: fmt.Sprint(i % 7), File: "x"}), Addr: profile.Addr(rng.IntN(500))}))
			}
			p.Samples = append(p.Samples, profile.Sample{Stack: d.Stack(s), Value: 1})
		}
		batch.Profiles = append(batch.Profiles, p)
	}
	b.ReportAllocs()
	for b.Loop() {
		reqs, err := requests(batch, defaultMessageLimits)
		if err != nil {
			b.Fatal(err)
		}
		body, err := proto.Marshal(reqs[0])
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(body)), "bytes")
	}
}

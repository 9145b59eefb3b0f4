package profile

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	pprof "github.com/google/pprof/profile"
)

// recording is a batch with everything that a pprof has to carry: two types, labels, links, inlined and
// unnamed frames, kernel frames, an unfinished stack.
func recording() *Batch {
	d := NewDictionary()
	app := d.Mapping(Mapping{File: "/usr/bin/app", BuildID: "c0ffee"})
	libc := d.Mapping(Mapping{File: "/usr/lib/libc.so.6", BuildID: "ab12"})
	kernel := d.Mapping(Mapping{File: KernelFile})
	fn := func(name, system, file string, start int32) FunctionIndex {
		return d.Function(Function{Name: name, SystemName: system, File: file, StartLine: start})
	}
	mainFrame := d.Frame(Frame{Mapping: app, Addr: 0x1100, Lines: []Line{{Function: fn("main", "", "main.cc", 5), Line: 9, Column: 3}}})
	work := d.Frame(Frame{Mapping: app, Addr: 0x1200, Lines: []Line{
		{Function: fn("ns::inner(int)", "_ZN2ns5innerEi", "inner.h", 2), Line: 3},
		{Function: fn("ns::work()", "_ZN2ns4workEv", "work.cc", 10), Line: 20},
	}})
	unnamed := d.Frame(Frame{Mapping: libc, Addr: 0x8f00})
	sys := d.Frame(Frame{Kind: KindKernel, Mapping: kernel, Addr: 0xffffffff81000010, Lines: []Line{{Function: fn("vfs_read", "", "", 0)}}})
	lost := d.Frame(Frame{Kind: KindUnwind, Lines: []Line{{Function: fn("[unwind: no unwind information]", "", "", 0)}}})
	link := d.Link(Link{TraceID: TraceID{1, 2, 15: 3}, SpanID: SpanID{7: 9}, SpanName: "GET /"})

	busy := d.Stack(Stack{work, mainFrame})
	read := d.Stack(Stack{sys, unnamed, mainFrame})
	broken := d.Stack(Stack{unnamed, lost})
	const period = 10_000_000
	profileOf := func(t Type, unit int64, thread string, samples ...Sample) Profile {
		samples = slices.Clone(samples)
		for i := range samples {
			samples[i].Value *= unit
		}
		return Profile{Type: t, Labels: NewLabels(Label{LabelComm, "app"}, Label{LabelThread, thread}), TimeNanos: 1e18, DurationNanos: 3e9, Period: period, Samples: samples}
	}
	one := []Sample{{Stack: busy, Value: 60}, {Stack: busy, Link: link, Value: 5}, {Stack: read, Value: 30}}
	two := []Sample{{Stack: broken, Value: 4}, {Value: 1}}
	return &Batch{Dictionary: d, Profiles: []Profile{
		profileOf(TypeCPU, period, "main", one...),
		profileOf(TypeCPUSamples, 1, "main", one...),
		profileOf(TypeCPU, period, "worker", two...),
		profileOf(TypeCPUSamples, 1, "worker", two...),
	}}
}

// describe writes what a batch says about each profile, folded, in full.
func describe(t *testing.T, b *Batch) string {
	t.Helper()
	if err := b.Check(); err != nil {
		t.Fatal(err)
	}
	var parts []string
	for i := range b.Profiles {
		p := &b.Profiles[i]
		var s strings.Builder
		s.WriteString(p.Type.String() + " " + p.Labels.String() + " " + FormatValue(p.DurationNanos, "nanoseconds") + " every " + FormatValue(p.Period, p.Type.PeriodUnit) + "\n")
		if err := WriteFolded(&s, b, p); err != nil {
			t.Fatal(err)
		}
		for _, smp := range p.Samples {
			if l := b.Dictionary.Links[smp.Link]; l != (Link{}) {
				s.WriteString("linked to " + l.SpanName + " " + string(rune('0'+l.SpanID[7])) + "\n")
			}
		}
		s.WriteString(outline(NewTree(b, p)))
		parts = append(parts, s.String())
	}
	slices.Sort(parts)
	return strings.Join(parts, "\n")
}

func TestPprofRoundTrip(t *testing.T) {
	b := recording()
	var buf bytes.Buffer
	if err := WritePprof(&buf, b); err != nil {
		t.Fatal(err)
	}
	got, err := ReadPprof(&buf, PprofOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if g, w := describe(t, got), describe(t, b); g != w {
		t.Errorf("got\n%s\nwant\n%s", g, w)
	}
	for _, m := range b.Dictionary.Mappings {
		if !slices.Contains(got.Dictionary.Mappings, m) {
			t.Errorf("mapping %v is gone", m)
		}
	}
	for _, f := range b.Dictionary.Functions {
		if !slices.Contains(got.Dictionary.Functions, f) {
			t.Errorf("function %v is gone", f)
		}
	}
	for _, f := range got.Dictionary.Frames {
		if f.Addr == 0x1100 && (f.Lines[0].Line != 9 || f.Lines[0].Column != 3) {
			t.Errorf("position of main is %v", f.Lines[0])
		}
	}
}

func TestPprofColumns(t *testing.T) {
	b := recording()
	p, err := ToPprof(b)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.SampleType) != 2 || p.DefaultSampleType != "cpu" || p.Period != 10_000_000 || p.PeriodType.Type != "cpu" {
		t.Errorf("header %v %q %d %v", p.SampleType, p.DefaultSampleType, p.Period, p.PeriodType)
	}
	if len(p.Sample) != 5 {
		t.Errorf("%d samples, want one per stack and labels: 5", len(p.Sample))
	}
	if p.Mapping[0].File != "/usr/bin/app" || p.Mapping[len(p.Mapping)-1].File != KernelFile {
		t.Errorf("mappings in order %v", p.Mapping)
	}
	memory := Profile{Type: Type{Name: "other", SampleType: "cpu", SampleUnit: "nanoseconds"}}
	if _, err := ToPprof(b, &b.Profiles[0], &memory); err == nil || !strings.Contains(err.Error(), "same column") {
		t.Errorf("two types for one column: %v", err)
	}
}

// The tool that everyone has must read it.
func TestPprofTool(t *testing.T) {
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command: ", err)
	}
	file := filepath.Join(t.TempDir(), "out.pb.gz")
	var buf bytes.Buffer
	if err := WritePprof(&buf, recording()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	f := func(want []string, args ...string) {
		t.Helper()
		cmd := exec.Command(goTool, append(append([]string{"tool", "pprof"}, args...), file)...)
		cmd.Env = append(os.Environ(), "PPROF_TMPDIR="+t.TempDir())
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		for _, w := range want {
			if !strings.Contains(strings.Join(strings.Fields(string(out)), " "), w) {
				t.Errorf("%v: no %q in\n%s", args, w, out)
			}
		}
	}
	f([]string{"Type: cpu", "Duration: 3s, Total samples = 1000ms", "650ms 65.00% 65.00% 650ms 65.00% ns::inner(int) (inline)", "0 0% 99.00% 650ms 65.00% ns::work()", "vfs_read"}, "-top", "-symbolize=none")
	f([]string{"Type: samples", "of 100 total"}, "-top", "-symbolize=none", "-sample_index=samples")
	f([]string{"PeriodType: cpu nanoseconds", "Period: 10000000", "cpu/nanoseconds[dflt] samples/count", "ns::inner(int) inner.h:3:0 s=2", "[kernel.kallsyms]", "c0ffee", "span_name:[GET /]", "thread:[main]"}, "-raw", "-symbolize=none")
}

func TestReadPprof(t *testing.T) {
	pie := &pprof.Mapping{ID: 1, Start: 0x7f0000001000, Limit: 0x7f0000009000, Offset: 0x1000, File: "/lib/x.so", BuildID: "ABCD"}
	exe := &pprof.Mapping{ID: 2, Start: 0x401000, Limit: 0x500000, Offset: 0x1000, File: "/bin/x"}
	kernel := &pprof.Mapping{ID: 3, Start: 0xffffffff81000000, Limit: 0xffffffffff000000, File: "[kernel.kallsyms]_text"}
	fn := &pprof.Function{ID: 1, Name: "bad \xff name", Filename: "x.c", StartLine: 1 << 40}
	locs := []*pprof.Location{
		{ID: 1, Mapping: pie, Address: 0x7f0000002345},
		{ID: 2, Mapping: exe, Address: 0x402345},
		{ID: 3, Mapping: kernel, Address: 0xffffffff81000123, Line: []pprof.Line{{Function: fn, Line: -3}}},
	}
	src := &pprof.Profile{
		SampleType: []*pprof.ValueType{{Type: "alloc_objects", Unit: "count"}, {Type: "alloc_space", Unit: "bytes"}},
		Mapping:    []*pprof.Mapping{pie, exe, kernel}, Function: []*pprof.Function{fn}, Location: locs,
		Sample: []*pprof.Sample{
			{Location: locs, Value: []int64{1, 100}, Label: map[string][]string{"9 lives": {"yes"}, "service_name": {"mine"}, "span_id": {"nonsense"}}},
			{Location: locs[:1], Value: []int64{2, 0}, NumLabel: map[string][]int64{"bytes": {48}}},
			{Location: locs[:1], Value: []int64{3, 0}, NumLabel: map[string][]int64{"bytes": {64}}},
			{Value: []int64{0, 7}},
		},
	}
	read := func(o PprofOptions) (*Batch, error) {
		var buf bytes.Buffer
		if err := src.WriteUncompressed(&buf); err != nil {
			t.Fatal(err)
		}
		return ReadPprof(&buf, o)
	}
	b, err := read(PprofOptions{Labels: NewLabels(Label{LabelServiceName, "theirs"})})
	if err != nil {
		t.Fatal(err)
	}
	const want = `memory:alloc_objects:count:: {_9_lives="yes", service_name="theirs", span_id="nonsense"} 0s every 0
bad � name_[k];x+0x402345;x.so+0x2345 1
root 0/1
 bad � name 0/1 x.c:0 in [kernel.kallsyms]
  x+0x402345 0/1 in /bin/x
   x.so+0x2345 1/1 in /lib/x.so

memory:alloc_objects:count:: {service_name="theirs"} 0s every 0
x.so+0x2345 5
root 0/5
 x.so+0x2345 5/5 in /lib/x.so

memory:alloc_space:bytes:: {_9_lives="yes", service_name="theirs", span_id="nonsense"} 0s every 0
bad � name_[k];x+0x402345;x.so+0x2345 100
root 0/100
 bad � name 0/100 x.c:0 in [kernel.kallsyms]
  x+0x402345 0/100 in /bin/x
   x.so+0x2345 100/100 in /lib/x.so

memory:alloc_space:bytes:: {service_name="theirs"} 0s every 0
[no stack] 7
root 7/7
`
	if got := describe(t, b); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if b.Dictionary.Mappings[1].BuildID != "abcd" {
		t.Errorf("build id %q", b.Dictionary.Mappings[1].BuildID)
	}

	if _, err := read(PprofOptions{MaxSeries: 1}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too many series: %v", err)
	}
	src.Sample = append(src.Sample, &pprof.Sample{Location: locs[:1], Value: []int64{1}})
	if _, err := read(PprofOptions{}); err == nil {
		t.Error("a sample with too few values is taken")
	}
	src.Sample = src.Sample[:1]
	src.SampleType[1] = src.SampleType[0]
	if _, err := read(PprofOptions{}); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("one type twice: %v", err)
	}
}

func TestReadPprofRefuses(t *testing.T) {
	f := func(name, want string, data []byte, o PprofOptions) {
		t.Helper()
		_, err := ReadPprof(bytes.NewReader(data), o)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
	zip := func(data []byte) []byte {
		var buf bytes.Buffer
		zw := gzip.NewWriter(&buf)
		if _, err := zw.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := zw.Close(); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	f("empty", "no data", nil, PprofOptions{})
	f("empty, zipped", "no data", zip(nil), PprofOptions{})
	f("text", "not a pprof", []byte("main;a 1\n"), PprofOptions{})
	f("truncated gzip", "EOF", zip([]byte("hello"))[:12], PprofOptions{})
	f("bomb", "more than 1MiB after decompression", zip(make([]byte, 64<<20)), PprofOptions{MaxBytes: 1 << 20})
	f("samples without values", "a sample has 0 values, there are 1 sample types", []byte{0x0a, 0, 0x12, 0}, PprofOptions{})
	f("samples of no type", "no sample types", []byte{0x12, 0}, PprofOptions{})
	f("a sample without its location", "refers to location 7", []byte{0x0a, 0, 0x12, 4, 8, 7, 0x10, 1}, PprofOptions{})
	f("a location without an id", "location 0 has no id", []byte{0x22, 0}, PprofOptions{})
	f("two locations with one id", "two locations have the id 3", []byte{0x22, 2, 8, 3, 0x22, 2, 8, 3}, PprofOptions{})
	f("a location without its function", "function 9 does not exist", []byte{0x0a, 0, 0x12, 4, 8, 1, 0x10, 1, 0x22, 6, 8, 1, 0x22, 2, 8, 9}, PprofOptions{})
	f("string 0", "string 0 is not empty", []byte{0x32, 1, 'x'}, PprofOptions{})
	f("sample types without content", "sample types", bytes.Repeat([]byte{0x0a, 0}, 1000), PprofOptions{})
	f("negative string index", "function 1: string -1 of 1", negativeString, PprofOptions{})
}

// negativeString is a sample in a function whose name is string -1.
var negativeString = []byte{
	0x0a, 0, // sample_type
	0x12, 4, 8, 1, 0x10, 1, // sample: location 1, value 1
	0x22, 6, 8, 1, 0x22, 2, 8, 1, // location 1: line: function 1
	0x2a, 13, 8, 1, 0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, // function 1
	0x32, 0, // string 0
}

// FuzzReadPprof holds the decoder against the library that defines the format: what that takes, ours takes, with
// the same values. It may be stricter about the encoding (numbers of more than 64 bits, values that a later one of the same field
// replaces) and about types.
func FuzzReadPprof(f *testing.F) {
	p, err := ToPprof(recording())
	if err != nil {
		f.Fatal(err)
	}
	var buf bytes.Buffer
	if err := p.WriteUncompressed(&buf); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Add(negativeString)
	for _, name := range []string{"cpu", "heap"} { // which runtime/pprof wrote in Go's compiler
		packed, err := os.Open("testdata/pprof/" + name + ".pb.gz")
		if err != nil {
			f.Fatal(err)
		}
		zr, err := gzip.NewReader(packed)
		if err != nil {
			f.Fatal(err)
		}
		b, err := io.ReadAll(zr)
		if err := errors.Join(err, packed.Close()); err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ReadPprof(bytes.NewReader(data), PprofOptions{MaxBytes: 1 << 20})
		theirs, theirErr := pprof.ParseUncompressed(data)
		if theirErr == nil {
			theirErr = theirs.CheckValid()
		}
		if err != nil {
			stricter := errors.Is(err, ErrTooLarge) || errors.Is(err, errNotPprof) || strings.Contains(err.Error(), "occurs twice") || strings.Contains(err.Error(), "string ")
			if theirErr == nil && !stricter {
				t.Fatalf("the library takes it, ours says %v", err)
			}
			return
		}
		if err := b.Check(); err != nil {
			t.Fatal(err)
		}
		var total, again int64
		for i := range b.Profiles {
			checkTree(t, NewTree(b, &b.Profiles[i]))
			total += b.Profiles[i].Total()
		}
		if theirErr == nil {
			var want int64
			for _, s := range theirs.Sample {
				for _, v := range s.Value {
					want += v
				}
			}
			if total != want {
				t.Fatalf("total %d, the library has %d", total, want)
			}
		}
		var out bytes.Buffer
		if err := WritePprof(&out, b); err != nil {
			t.Fatal(err)
		}
		b2, err := ReadPprof(&out, PprofOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range b2.Profiles {
			again += b2.Profiles[i].Total()
		}
		if total != again {
			t.Fatalf("total %d, after a round trip %d", total, again)
		}
	})
}

func BenchmarkPprof(b *testing.B) {
	batch := bigBatch(100_000)
	var file bytes.Buffer
	if err := WritePprof(&file, batch); err != nil {
		b.Fatal(err)
	}
	stacks := 0
	b.Run("Read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			got, err := ReadPprof(bytes.NewReader(file.Bytes()), PprofOptions{})
			if err != nil {
				b.Fatal(err)
			}
			stacks = len(got.Profiles[0].Samples)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(stacks), "ns/sample")
	})
	b.Run("Write", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var n counter
			if err := WritePprof(&n, batch); err != nil {
				b.Fatal(err)
			}
		}
	})
}

package ingest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/storage"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/profiles/v1development"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

// The server's clock in all transcripts.
var testNow = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// TestNormalise runs the transcripts in testdata/normalise:
//
//	dictionary                 keep these tables for the requests that follow
//	otlp [limits=(name: value)]          normalise a request in protobuf's text format, with those tables unless it has
//	                           its own, through the wire format, and print the batch
//	json [limits=(name: value)]          the same for a body in OTLP's JSON
func TestNormalise(t *testing.T) {
	datadriven.Walk(t, "testdata/normalise", func(t *testing.T, path string) {
		dictionary := new(collectorv1.ExportProfilesServiceRequest)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			n := Normaliser{DropAttributes: DefaultDropAttributes, Now: func() time.Time { return testNow }}
			if d.HasArg("limits") {
				var text string
				d.ScanArgs(t, "limits", &text)
				if err := yaml.Unmarshal([]byte(text), &n.Limits); err != nil {
					d.Fatalf(t, "%v", err)
				}
			}
			var body []byte
			switch d.Cmd {
			case "dictionary":
				dictionary.Reset()
				if err := prototext.Unmarshal([]byte("dictionary {"+d.Input+"}"), dictionary); err != nil {
					d.Fatalf(t, "%v", err)
				}
				return ""
			case "otlp":
				req := new(collectorv1.ExportProfilesServiceRequest)
				if err := prototext.Unmarshal([]byte(d.Input), req); err != nil {
					d.Fatalf(t, "%v", err)
				}
				if req.Dictionary == nil {
					req.Dictionary = dictionary.Dictionary
				}
				var err error
				if body, err = proto.Marshal(req); err != nil {
					d.Fatalf(t, "%v", err)
				}
			case "json":
				body = []byte(d.Input)
			default:
				d.Fatalf(t, "unknown command %s", d.Cmd)
			}
			req, err := decodeWithin(body, d.Cmd == "json", &n.Limits)
			if err != nil {
				return describeError(err)
			}
			b, err := n.Normalise(req, nil)
			if err != nil {
				return describeError(err)
			}
			if err := storage.Validate(b); err != nil {
				t.Errorf("%s: the batch breaks the data model: %v", d.Pos, err)
			}
			return describe(b)
		})
	})
}

func decodeWithin(body []byte, json bool, lim *limits.Limits) (*collectorv1.ExportProfilesServiceRequest, error) {
	if _, err := estimate(body, json, lim); err != nil {
		return nil, err
	}
	return decode(body, json)
}

// describeError says which kind of error it is, which decides on the code, and what it says. protobuf's own
// messages contain a space that varies from build to build.
func describeError(err error) string {
	kind := "OTHER"
	var le *limits.Error
	switch {
	case errors.As(err, &le):
		kind = "limit"
	case errors.Is(err, ErrInvalid):
		kind = "invalid"
	}
	return strings.ReplaceAll(fmt.Sprintf("%s error: %v\n", kind, err), "\u00a0", " ")
}

// describe writes a batch as text, a profile a paragraph, stacks from the root to the leaf.
func describe(b *profile.Batch) string {
	var out strings.Builder
	d := b.Dictionary
	for i := range b.Profiles {
		p := &b.Profiles[i]
		fmt.Fprintf(&out, "%s %s\n", p.Type, p.Labels)
		fmt.Fprintf(&out, "  %s for %s, period %d\n", clock(p.TimeNanos), time.Duration(p.DurationNanos), p.Period)
		for _, s := range p.Samples {
			stack := d.Stacks[s.Stack]
			frames := make([]string, len(stack))
			for j, f := range stack {
				frames[len(stack)-1-j] = frameText(d, &d.Frames[f])
			}
			fmt.Fprintf(&out, "  %s %d", strings.Join(frames, ";"), s.Value)
			if s.TimeNanos != 0 {
				fmt.Fprintf(&out, " at %s", clock(s.TimeNanos))
			}
			if l := d.Links[s.Link]; l != (profile.Link{}) {
				fmt.Fprintf(&out, " in trace %x span %x %q", l.TraceID, l.SpanID, l.SpanName)
			}
			out.WriteByte('\n')
		}
	}
	if out.Len() == 0 {
		return "nothing\n"
	}
	return out.String()
}

func clock(nanos int64) string {
	t := time.Unix(0, nanos).UTC()
	if t.Year() == testNow.Year() && t.YearDay() == testNow.YearDay() {
		return t.Format("15:04:05.999999999")
	}
	return t.Format(time.RFC3339Nano)
}

func frameText(d *profile.Dictionary, f *profile.Frame) string {
	var names []string
	for i := len(f.Lines) - 1; i >= 0; i-- {
		l := f.Lines[i]
		fn := d.Functions[l.Function]
		s := fn.Name
		if fn.SystemName != "" {
			s += "=" + fn.SystemName
		}
		if fn.File != "" || l.Line != 0 {
			s += fmt.Sprintf("(%s:%d)", fn.File, l.Line)
		}
		names = append(names, s)
	}
	s := strings.Join(names, ">")
	if m := d.Mappings[f.Mapping]; m != (profile.Mapping{}) || f.Addr != 0 {
		s += fmt.Sprintf("[%s %s+%#x]", m.BuildID, m.File, uint64(f.Addr))
	}
	return [...]string{"", "k:", "jit:", "int:", "unw:"}[f.Kind] + s
}

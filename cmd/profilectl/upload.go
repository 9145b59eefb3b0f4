package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
	"github.com/spf13/cobra"

	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/proto/perfuse/query/v1/queryv1connect"
)

// maxUploadBytes bounds a file, compressed and not.
const maxUploadBytes = 256 << 20

// uploadTypes are the profile types that --type knows short names of.
var uploadTypes = []profile.Type{
	profile.TypeCPU, profile.TypeCPUSamples,
	{Name: "memory", SampleType: "alloc_objects", SampleUnit: "count", PeriodType: "space", PeriodUnit: "bytes"},
	{Name: "memory", SampleType: "alloc_space", SampleUnit: "bytes", PeriodType: "space", PeriodUnit: "bytes"},
	{Name: "memory", SampleType: "inuse_objects", SampleUnit: "count", PeriodType: "space", PeriodUnit: "bytes"},
	{Name: "memory", SampleType: "inuse_space", SampleUnit: "bytes", PeriodType: "space", PeriodUnit: "bytes"},
}

// uploadOptions are the flags of upload.
type uploadOptions struct {
	labels []string
	typ    string
	name   string
	time   string
}

func (a *app) upload() *cobra.Command {
	var (
		o       uploadOptions
		outFlag string
	)
	cmd := &cobra.Command{
		Use:   "upload FILE...",
		Short: "Send profiles from files: pprof, folded text, JFR, speedscope",
		Long: `Send profiles from files to the server: pprof, folded text (a;b;c VALUE), recordings of Java's Flight Recorder
(.jfr), or speedscope's JSON, each gzip-compressed or not; "-" is standard input. The form is told from the content.
A file is stored as a whole or not at all.

A profile that has no label service_name gets the file's name for it. A file that says when it was taken keeps
its time; others, and all with --time, are stored at that time.`,
		Example: `  profilectl upload --label service_name=api --label version=1.2 cpu.pb.gz
  profilectl upload --label service_name=shop recording.jfr
  perf script | stackcollapse-perf.pl | profilectl upload --type samples --label service_name=api -`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("missing FILE")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			out, err := parseOutput(outFlag, listForms)
			if err != nil {
				return err
			}
			return a.uploadFiles(cmd.Context(), args, o, out)
		},
	}
	cmd.Flags().StringArrayVar(&o.labels, "label", nil, "a label of all profiles, as name=value (may be repeated)")
	cmd.Flags().StringVar(&o.typ, "type", "cpu", "what folded text holds: a short name or name:sample_type:sample_unit:period_type:period_unit")
	cmd.Flags().StringVar(&o.name, "name", "", "first part of the types of a pprof, as process_cpu or memory (default: told from its sample types)")
	cmd.Flags().StringVar(&o.time, "time", "", "when it was taken, in the forms of --from (default: what the file says, else now)")
	cmd.Flags().StringVarP(&outFlag, "output", "o", formTable, "form of the report: table or json")
	return cmd
}

// uploaded is what became of a file.
type uploaded struct {
	File     string         `json:"file"`
	Profiles int            `json:"profiles"`
	Samples  int            `json:"samples"` // of all types
	Totals   []uploadedType `json:"totals"`
}

type uploadedType struct {
	Type    string `json:"type"`
	Unit    string `json:"unit"`
	Samples int    `json:"samples"`
	Total   int64  `json:"total"`
}

func (a *app) uploadFiles(ctx context.Context, files []string, o uploadOptions, out output) error {
	labels, err := parseLabels(o.labels)
	if err != nil {
		return err
	}
	typ, err := parseUploadType(o.typ)
	if err != nil {
		return err
	}
	var at time.Time
	if o.time != "" {
		if at, err = parseTime(o.time, a.now()); err != nil || at.IsZero() {
			return usage("--time %q: want a distance as -1h, a time as 2026-01-02T15:04:05Z, Unix seconds, or now", o.time)
		}
	}
	// Read all before the first is sent: a typing mistake in the last name should not leave half behind.
	var report []uploaded
	var batches []*profile.Batch
	for _, name := range files {
		b, err := a.readProfile(name, typ, profile.PprofOptions{Name: o.name, MaxBytes: maxUploadBytes})
		if err != nil {
			return fmt.Errorf("uploading %s: %w", name, err)
		}
		u := uploaded{File: name}
		for i := range b.Profiles {
			p := &b.Profiles[i]
			p.Labels = withDefaults(p.Labels, labels, name)
			if !at.IsZero() {
				p.TimeNanos = at.UnixNano()
			} else if p.TimeNanos == 0 {
				p.TimeNanos = a.now().UnixNano() - p.DurationNanos
			}
			u.add(p)
		}
		if u.Samples == 0 {
			return nothing("%s holds no samples; nothing was uploaded.", name)
		}
		batches, report = append(batches, b), append(report, u)
	}
	// Any call tells whether a Perfuse server is there at all, in clearer words than the first gRPC message would.
	if err := a.ask(ctx, "uploading", func(ctx context.Context, c queryv1connect.QueryServiceClient) error {
		_, err := c.ProfileTypes(ctx, &queryv1.ProfileTypesRequest{StartUnixNano: 1, EndUnixNano: 2})
		return err
	}); err != nil {
		return err
	}
	for i, b := range batches {
		if err := a.ship(ctx, "uploading "+files[i], b); err != nil {
			return err
		}
	}
	return out.write(a, func(w io.Writer) error { return writeUploaded(w, a.outTerm, out.form, report) })
}

func (u *uploaded) add(p *profile.Profile) {
	u.Profiles++
	u.Samples += len(p.Samples)
	i := slices.IndexFunc(u.Totals, func(t uploadedType) bool { return t.Type == p.Type.String() })
	if i < 0 {
		i = len(u.Totals)
		u.Totals = append(u.Totals, uploadedType{Type: p.Type.String(), Unit: p.Type.SampleUnit})
	}
	u.Totals[i].Samples += len(p.Samples)
	u.Totals[i].Total += p.Total()
}

func writeUploaded(w io.Writer, term terminal, form string, report []uploaded) error {
	if form == formJSON {
		return printJSON(w, report)
	}
	t := table{head: []string{"FILE", "SAMPLES", "TOTAL", "TYPE"}, right: []bool{false, true, true, false}}
	for _, u := range report {
		for _, total := range u.Totals {
			t.add(printable(u.File), fmt.Sprint(total.Samples), profile.FormatValue(total.Total, total.Unit), printable(total.Type))
		}
	}
	_, err := io.WriteString(w, t.text(term))
	return err
}

func parseLabels(flags []string) (profile.Labels, error) {
	var ls []profile.Label
	for _, s := range flags {
		name, value, ok := strings.Cut(s, "=")
		if !ok || value == "" {
			return nil, usage("--label %q: want name=value", s)
		}
		if _, err := profile.ParseSelector(name + `=""`); err != nil {
			return nil, usage("--label %q: names have letters, digits and '_'", s)
		}
		ls = append(ls, profile.Label{Name: name, Value: value})
	}
	return profile.NewLabels(ls...), nil
}

func parseUploadType(s string) (profile.Type, error) {
	if t, err := profile.ParseType(s); err == nil {
		if t.Delta {
			return t, usage("--type %s: what is uploaded cannot be a delta; leave :delta out", s)
		}
		return t, nil
	}
	t, err := profile.ResolveType(s, uploadTypes)
	if err != nil {
		return t, &hintError{fmt.Errorf("--type: %w", err), "Other types need their whole name: name:sample_type:sample_unit:period_type:period_unit"}
	}
	return t, nil
}

// withDefaults returns the profile's labels with those of the flags, which win, and a service.
func withDefaults(own, flags profile.Labels, file string) profile.Labels {
	ls := profile.NewLabels(slices.Concat(own, flags)...)
	if ls.Get(profile.LabelServiceName) != "" {
		return ls
	}
	service := "stdin"
	if file != "-" {
		service, _, _ = strings.Cut(strings.TrimLeft(filepath.Base(file), "."), ".")
	}
	return profile.NewLabels(append(ls, profile.Label{Name: profile.LabelServiceName, Value: service})...)
}

// readProfile reads a file in whatever form it is.
func (a *app) readProfile(name string, typ profile.Type, o profile.PprofOptions) (*profile.Batch, error) {
	data, err := a.readFile(name)
	if err != nil {
		return nil, err
	}
	return decodeProfile(data, typ, o)
}

// readFile reads a file and unpacks it.
func (a *app) readFile(name string) ([]byte, error) {
	var r io.Reader = a.in
	if name != "-" {
		f, err := os.Open(name)
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	data, err := readBounded(r)
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
		zr, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("unpacking: %w", err)
		}
		if data, err = readBounded(zr); err != nil {
			return nil, fmt.Errorf("unpacking: %w", err)
		}
	}
	return data, nil
}

// isFolded says whether data is folded text: its form says nothing of the type.
func isFolded(data []byte) bool {
	return !profile.IsJFR(data) && !profile.IsSpeedscope(data) && !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) && isText(data)
}

// unreadable are the beginnings of files that people try, and what to do with them instead.
var unreadable = []struct{ prefix, advice string }{
	{"\x7fELF", "this is an executable or a library: for its symbols use 'profilectl debuginfo upload'"},
	{"PERFILE2", "this is perf's own format: convert it with 'perf script | stackcollapse-perf.pl' and upload that with --type samples"},
	{"PK\x03\x04", "this is a zip archive: unpack it first"},
	{"heap profile:", "this is pprof's old text: fetch the profile without debug=1"},
	{"goroutine profile:", "this is pprof's old text: fetch the profile without debug=1"},
	{"go 1.", "this is an execution trace of a Go program, not a profile"},
}

// decodeProfile reads a profile whose form its content tells.
func decodeProfile(data []byte, typ profile.Type, o profile.PprofOptions) (*profile.Batch, error) {
	for _, u := range unreadable {
		if bytes.HasPrefix(data, []byte(u.prefix)) {
			return nil, errors.New(u.advice)
		}
	}
	switch {
	case profile.IsJFR(data):
		return profile.ParseJFR(data, profile.JFROptions{})
	case profile.IsSpeedscope(data):
		return profile.ParseSpeedscope(data, profile.SpeedscopeOptions{Type: speedscopeType(typ)})
	case bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")):
		return nil, errors.New("this is JSON, but not speedscope's file format, the only JSON that is read")
	case isFolded(data):
		return profile.ParseFolded(bytes.NewReader(data), typ, nil)
	}
	b, err := profile.ReadPprof(bytes.NewReader(data), o)
	if err != nil {
		return nil, &hintError{err, "Want a pprof, folded text, a JFR recording or speedscope's JSON."}
	}
	return b, nil
}

// speedscopeType takes values of the unit of --type for what that names.
func speedscopeType(typ profile.Type) func(string) (profile.Type, float64, error) {
	return func(unit string) (profile.Type, float64, error) {
		if n, ok := profile.SpeedscopeNanos(unit); ok && typ.SampleUnit == "nanoseconds" {
			return typ, n, nil
		}
		if unit == typ.SampleUnit || unit == "none" && typ.SampleUnit == "count" {
			return typ, 1, nil
		}
		return profile.SpeedscopeType(unit)
	}
}

func readBounded(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxUploadBytes+1))
	if err == nil && len(data) > maxUploadBytes {
		err = fmt.Errorf("it has more than %s", profile.FormatValue(maxUploadBytes, "bytes"))
	}
	return data, err
}

// isText tells text from protobuf, whose tags and lengths are control characters within the first bytes.
func isText(data []byte) bool {
	head := data[:min(len(data), 4096)]
	for len(head) > 0 {
		r, n := utf8.DecodeRune(head)
		if r == utf8.RuneError && n == 1 && len(head) >= utf8.UTFMax || r < ' ' && r != '\t' && r != '\n' && r != '\r' {
			return false
		}
		head = head[n:]
	}
	return true
}

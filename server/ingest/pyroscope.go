package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/server/limits"
)

// errFormat: the body's format is one that this door does not read.
var errFormat = errors.New("unsupported format")

func unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %w: %s", ErrInvalid, errFormat, fmt.Sprintf(format, args...))
}

// What reading a byte costs in memory at most, for formats that are read within a budget.
const (
	foldedCost = 250
	jfrCost    = 60
	// leastCost is for tables and what begins in a size of its own.
	leastCost = 64 << 10
	// Pyroscope's label snapshots.
	contextCost = 64
)

const (
	maxParts       = 16       // of a form
	maxConfigBytes = 64 << 10 // of the part that describes sample types
)

// Ingest returns the handler of IngestPath, Pyroscope's door for whatever is no pprof pusher: POST of folded
// text, a pprof, a JFR recording or a speedscope file, described by the parameters of the URL.
func (g *Ingester) Ingest() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refuse := func(status int, text string) { plain(w, status, text) }
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			refuse(http.StatusMethodNotAllowed, IngestPath+" takes POST")
			return
		}
		encoding := strings.ToLower(r.Header.Get("Content-Encoding"))
		if !knownEncoding(encoding) {
			refuse(http.StatusUnsupportedMediaType, fmt.Sprintf("unknown content encoding %.40q: want %s", encoding, strings.Join(limits.Encodings, ", ")))
			return
		}
		body, leave, err := g.gate.enter(r.Context(), r.Body, r.ContentLength)
		if err == nil {
			defer leave()
			if body, err = g.unpack(body, encoding); err == nil {
				err = g.ingest(r.Context(), r.URL.Query(), r.Header.Get("Content-Type"), body)
			}
		}
		g.done(doorIngest, len(body), err)
		if err != nil {
			status := statusOf(err)
			if status == http.StatusServiceUnavailable {
				w.Header().Set("Retry-After", retryAfter)
			}
			refuse(status, err.Error())
		}
	})
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	io.WriteString(w, text+"\n")
}

// upload is a body at that door, and what the parameters say of it.
type upload struct {
	data    []byte
	form    map[string][]byte // its parts, if it is a form
	series  rawSeries
	measure measure
	rate    int64 // samples a second; 0: not given
	span    timeSpan
	sent    delivery
}

func (g *Ingester) ingest(ctx context.Context, q url.Values, contentType string, body []byte) error {
	format := q.Get("format")
	mediaType, params, _ := mime.ParseMediaType(contentType)
	isForm := mediaType == "multipart/form-data"
	switch {
	case format == "tree", format == "trie", strings.HasSuffix(contentType, "+tree"), strings.HasSuffix(contentType, "+trie"):
		return unsupported("the binary formats tree and trie of Pyroscope's old agents are not read: send format=folded (a;b;c 10), pprof, jfr or speedscope")
	case format == "" && isForm:
		format = "pprof"
	}
	u, err := g.newUpload(q)
	if err != nil {
		return err
	}
	if blank(body) {
		return invalid("the body is empty: want %s", formatWanted(format))
	}
	u.data = body
	if isForm {
		if u.form, err = formParts(body, params["boundary"]); err != nil {
			return err
		}
	}
	u.sent = u.delivery(q)
	switch format {
	case "", "folded", "collapsed", "groups":
		return g.ingestFolded(ctx, u, false)
	case "lines":
		return g.ingestFolded(ctx, u, true)
	case "pprof":
		return g.ingestPprof(ctx, u)
	case "jfr":
		return g.ingestJFR(ctx, u)
	case "speedscope":
		return g.ingestSpeedscope(ctx, u)
	}
	return unsupported("format=%.40q: want folded, lines, pprof, jfr or speedscope", format)
}

func formatWanted(format string) string {
	switch format {
	case "pprof", "jfr", "speedscope":
		return "a profile as " + format
	}
	return "folded text, as a;b;c 10"
}

func (g *Ingester) newUpload(q url.Values) (*upload, error) {
	app, pairs, err := parseAppName(q.Get("name"))
	if err != nil {
		return nil, err
	}
	u := &upload{}
	if u.measure, app, err = measureOf(app, q.Get("units")); err != nil {
		return nil, err
	}
	if s := q.Get("aggregationType"); s != "" && s != "sum" && s != "average" {
		return nil, invalid("aggregationType is %.40q: want sum or average", s)
	}
	if s := q.Get("sampleRate"); s != "" {
		if u.rate, err = strconv.ParseInt(s, 10, 64); err != nil || u.rate < 0 || u.rate > 1e9 {
			return nil, invalid("sampleRate is %.40q: want samples a second, a whole number", s)
		}
	}
	if u.span, err = parseSpan(q.Get("from"), q.Get("until"), g.now()); err != nil {
		return nil, err
	}
	named := slices.ContainsFunc(pairs, func(l profile.Label) bool { return l.Name == profile.LabelServiceName && l.Value != "" })
	if named {
		pairs = append(pairs, profile.Label{Name: "app_name", Value: app})
	} else {
		pairs = append(pairs, profile.Label{Name: profile.LabelServiceName, Value: app})
	}
	if spy := q.Get("spyName"); spy != "" {
		pairs = append(pairs, profile.Label{Name: "pyroscope_spy", Value: spy})
	}
	u.series, err = g.rawSeries(pairs, &place{"name", -1, nil})
	u.series.name = "" // whatever a label __name__ says
	return u, err
}

func (g *Ingester) now() time.Time {
	if g.opts.Now != nil {
		return g.opts.Now()
	}
	return time.Now()
}

// formParts returns the parts of a form by their names.
func formParts(body []byte, boundary string) (map[string][]byte, error) {
	parts := map[string][]byte{}
	r := multipart.NewReader(bytes.NewReader(body), boundary)
	for {
		p, err := r.NextPart()
		if err == io.EOF {
			return parts, nil
		}
		var data []byte
		if err == nil {
			data, err = limits.ReadAll(p)
		}
		if err != nil {
			return nil, invalid("the body is not a form: %v", err)
		}
		if len(parts) == maxParts {
			return nil, invalid("the form has more than %d parts", maxParts)
		}
		parts[p.FormName()] = data
	}
}

// part returns a form's part, or the body if it is no form.
func (u *upload) part(name string) ([]byte, *place, error) {
	if u.form == nil {
		return u.data, &place{"body", -1, nil}, nil
	}
	data, ok := u.form[name]
	if !ok {
		return nil, nil, invalid("the form has no part %q", name)
	}
	return data, &place{name, -1, nil}, nil
}

// period is how much time a sample stands for, in nanoseconds.
func (u *upload) period() int64 {
	if u.rate == 0 {
		return 1e9 / 100
	}
	return 1e9 / u.rate
}

func (g *Ingester) ingestPprof(ctx context.Context, u *upload) error {
	data, at, err := u.part("profile")
	if err != nil {
		return err
	}
	p := rawProfile{data: data, at: at, span: u.span, sent: u.sent, previous: u.form["prev_profile"]}
	if config := u.form["sample_type_config"]; len(config) > 0 {
		if len(config) > maxConfigBytes {
			return invalid("sample_type_config has %d bytes: want at most %d", len(config), maxConfigBytes)
		}
		if err := json.Unmarshal(config, &p.config); err != nil {
			return invalid("sample_type_config: %v", err)
		}
	}
	u.series.profiles = []rawProfile{p}
	return g.storeRaw(ctx, []rawSeries{u.series}, 0)
}

func (g *Ingester) ingestFolded(ctx context.Context, u *upload, lines bool) error {
	return g.within(ctx, foldedCost*int64(len(u.data)), u, func(room int64) (*profile.Batch, error) {
		b, err := profile.ReadFolded(bytes.NewReader(u.data), u.measure.typ, profile.FoldedOptions{Labels: u.series.labels, Lines: lines, MaxBytes: room})
		if err != nil {
			return nil, err
		}
		return b, u.scale(&b.Profiles[0])
	})
}

// scale turns counts of samples into time where that is what is measured.
func (u *upload) scale(p *profile.Profile) error {
	if !u.measure.timed {
		return nil
	}
	p.Period = u.period()
	for i := range p.Samples {
		v := &p.Samples[i].Value
		if *v > math.MaxInt64/p.Period || *v < math.MinInt64/p.Period {
			return fmt.Errorf("%d samples of %d ns are more time than a number can hold", *v, p.Period)
		}
		*v *= p.Period
	}
	return nil
}

func (g *Ingester) ingestJFR(ctx context.Context, u *upload) error {
	data, at, err := u.part("jfr")
	if err != nil {
		return err
	}
	unpacked := int64(0)
	if data, err = g.unpackRaw(&rawProfile{data: data, at: at, want: "a JFR recording"}, &unpacked); err != nil {
		return err
	}
	var labels []byte
	if packed := u.form["labels"]; len(packed) > 0 {
		if labels, err = g.unpackRaw(&rawProfile{data: packed, at: &place{"labels", -1, nil}}, &unpacked); err != nil {
			return err
		}
	}
	extra := contextCost * int64(len(labels))
	if err := limits.Count(limits.DecodedBytes, extra, g.limits.DecodedBytes, "the labels would take about %d bytes of memory", extra); err != nil {
		return err
	}
	return g.within(ctx, jfrCost*int64(len(data))+extra, u, func(room int64) (*profile.Batch, error) {
		o := profile.JFROptions{Labels: u.series.labels, SamplesPerSecond: u.rate, MaxBytes: max(room-extra, 1)}
		if labels != nil {
			if o.Contexts, err = profile.ParseJFRContexts(labels); err != nil {
				return nil, err
			}
		}
		return profile.ParseJFR(data, o)
	})
}

func (g *Ingester) ingestSpeedscope(ctx context.Context, u *upload) error {
	// What JSON becomes is not bounded while it is read, so it is counted before.
	cost := int64(len(u.data)) + 40*int64(bytes.Count(u.data, []byte{','})) + 80*int64(bytes.Count(u.data, []byte{'{'})+bytes.Count(u.data, []byte{'['}))
	if err := limits.Count(limits.DecodedBytes, cost, g.limits.DecodedBytes, "the request would take about %d bytes of memory", cost); err != nil {
		return err
	}
	return g.within(ctx, 3*cost, u, func(room int64) (*profile.Batch, error) {
		return profile.ParseSpeedscope(u.data, profile.SpeedscopeOptions{
			Labels: u.series.labels, MaxBytes: max(room-cost, 1), Type: u.speedscopeType,
			MaxFrames: int(min(unlessOff(g.limits.FramesPerStack), math.MaxInt32)),
		})
	})
}

// speedscopeType makes time CPU time or wall-clock time, as the application's name says, and counts what the name says.
func (u *upload) speedscopeType(unit string) (profile.Type, float64, error) {
	if nanos, ok := profile.SpeedscopeNanos(unit); ok {
		if u.measure.timed || u.measure.typ.SampleUnit == "nanoseconds" {
			return u.measure.typ, nanos, nil
		}
		return profile.TypeCPU, nanos, nil
	}
	switch {
	case unit == "bytes" && u.measure.typ.SampleUnit == "bytes":
		return u.measure.typ, 1, nil
	case unit == "none" && u.measure.timed:
		return u.measure.typ, float64(u.period()), nil
	case unit == "none":
		return u.measure.typ, 1, nil
	}
	return profile.SpeedscopeType(unit)
}

// unlessOff returns a limit, or what nothing exceeds if it is switched off.
func unlessOff(limit int64) int64 {
	if limit <= 0 {
		return math.MaxInt64
	}
	return limit
}

// tooLarge says of what took more memory than it was allowed whether that was the limit, or more than its size explains.
func (g *Ingester) tooLarge(allowed int64, err error) error {
	if allowed < unlessOff(g.limits.DecodedBytes) {
		return invalid("%v: no profile of this size does", err)
	}
	return limits.Count(limits.DecodedBytes, math.MaxInt64, allowed, "%v", err)
}

// within reads a body in the memory that it may take, and stores what it holds.
func (g *Ingester) within(ctx context.Context, cost int64, u *upload, read func(room int64) (*profile.Batch, error)) error {
	allowed := min(leastCost+cost, unlessOff(g.limits.DecodedBytes))
	release, err := g.gate.room.enter(ctx, allowed)
	if err != nil {
		return err
	}
	defer release()
	b, err := read(allowed)
	switch {
	case errors.Is(err, profile.ErrTooLarge):
		return g.tooLarge(allowed, err)
	case errors.Is(err, profile.ErrTooDeep):
		return limits.Count(limits.FramesPerStack, math.MaxInt64, g.limits.FramesPerStack, "%v", err)
	case err != nil:
		return invalid("%v", err)
	}
	at, now, taken := &place{"body", -1, nil}, g.now().UnixNano(), int64(0)
	for i := range b.Profiles {
		p := &b.Profiles[i]
		taken = b.Profiles[i].TimeNanos
		u.span.give(p)
		if err := g.checkProfile(p, now, at); err != nil {
			return err
		}
		p.Samples = slices.DeleteFunc(p.Samples, func(s profile.Sample) bool { return s.Value == 0 })
	}
	b.Profiles = slices.DeleteFunc(b.Profiles, func(p profile.Profile) bool { return len(p.Samples) == 0 })
	if err := g.checkBatch(b); err != nil {
		return err
	}
	id, unsure := u.sent.known(taken)
	for i := range b.Profiles {
		b.Profiles[i].ID = id
	}
	return g.deliver(ctx, b, unsure)
}

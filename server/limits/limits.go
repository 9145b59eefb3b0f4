// Package limits holds the one table of what the server takes and what it answers: sizes, counts, depths and
// times, each with a default, a name, a setting that changes it and a metric that counts refusals.
//
// A limit is exceeded in one way only: the request is refused as a whole with an [*Error] that names the
// limit, its value and the setting. Nothing is cut silently.
//
//	limits:                      environment
//	  body_bytes: 33554432       PERFUSE_LIMITS_BODY_BYTES
//	  future: 10m                PERFUSE_LIMITS_FUTURE
package limits

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Name is a limit's name, as in the configuration file.
type Name string

// The limits of the doors through which profiles and debug information come in.
const (
	BodyBytes         Name = "body_bytes"
	DecompressedBytes Name = "decompressed_bytes"
	UploadBytes       Name = "upload_bytes"
	DecodedBytes      Name = "decoded_bytes"
	InFlightBytes     Name = "in_flight_bytes"
	ConcurrentIngests Name = "concurrent_ingests"
	SamplesPerRequest Name = "samples_per_request"
	SeriesPerRequest  Name = "series_per_request"
	FramesPerStack    Name = "frames_per_stack"
	LabelsPerSeries   Name = "labels_per_series"
	LabelNameBytes    Name = "label_name_bytes"
	LabelValueBytes   Name = "label_value_bytes"
	Future            Name = "future"
	Past              Name = "past"
)

// The limits of queries.
const (
	QueryTime         Name = "query_time"
	QueryBytes        Name = "query_bytes"
	ConcurrentQueries Name = "concurrent_queries"
	FlameNodes        Name = "flame_nodes"
	AnswerFrames      Name = "answer_frames"
	AnswerValues      Name = "answer_values"
	SeriesPoints      Name = "series_points"
	QueryTerms        Name = "query_terms"
	PatternBytes      Name = "pattern_bytes"
	SelectorBytes     Name = "selector_bytes"
)

// Limits are the values in force. A field that is 0 takes its default; a negative one switches the limit off.
type Limits struct {
	// BodyBytes bounds a request's body as it came over the wire. Default 32 MiB.
	BodyBytes int64 `yaml:"body_bytes"`
	// DecompressedBytes bounds one message after decompression. Default 64 MiB.
	DecompressedBytes int64 `yaml:"decompressed_bytes"`
	// UploadBytes bounds one uploaded file of debug information, before and after decompression.
	// Default 2 GiB.
	UploadBytes int64 `yaml:"upload_bytes"`
	// DecodedBytes bounds the memory that one message of profiles needs once it is decoded, as estimated
	// before: an empty sample is two bytes on the wire and about 170 in memory. All messages that are
	// decoded at one time share it; those that find no room wait. Default 512 MiB.
	DecodedBytes int64 `yaml:"decoded_bytes"`
	// InFlightBytes bounds the bodies of requests with profiles that are held at one time, all together, as
	// they came over the wire; what comes beyond is told to come again. Default 256 MiB.
	InFlightBytes int64 `yaml:"in_flight_bytes"`
	// ConcurrentIngests is how many requests with profiles are unpacked, decoded and stored at once; others
	// wait for their turn. Default 8.
	ConcurrentIngests int64 `yaml:"concurrent_ingests"`
	// SamplesPerRequest bounds the observations in one request; a sample with ten timestamps counts as
	// ten. Default 1 000 000.
	SamplesPerRequest int64 `yaml:"samples_per_request"`
	// SeriesPerRequest bounds the distinct label sets in one request. Default 10 000.
	SeriesPerRequest int64 `yaml:"series_per_request"`
	// FramesPerStack bounds a stack's depth. Default 4096.
	FramesPerStack int64 `yaml:"frames_per_stack"`
	// LabelsPerSeries bounds the labels of one series, and those that a question groups by. Default 64.
	LabelsPerSeries int64 `yaml:"labels_per_series"`
	// LabelNameBytes bounds a label's name. Default 256.
	LabelNameBytes int64 `yaml:"label_name_bytes"`
	// LabelValueBytes bounds a label's value, and each word of a profile type. Default 4096.
	LabelValueBytes int64 `yaml:"label_value_bytes"`
	// Future is how far ahead of the server's clock a sample may lie. Default 10 minutes.
	Future time.Duration `yaml:"future"`
	// Past is how old a sample may be when it arrives. Default: any age.
	Past time.Duration `yaml:"past"`

	// QueryTime bounds one query. Default 60 s.
	QueryTime time.Duration `yaml:"query_time"`
	// QueryBytes bounds a query's own text. Default 1 MiB.
	QueryBytes int64 `yaml:"query_bytes"`
	// ConcurrentQueries is how many queries run at once; others wait for their turn. Default 16.
	ConcurrentQueries int64 `yaml:"concurrent_queries"`
	// FlameNodes bounds the nodes of one flame graph: more are cut, the smallest first, and the answer says how many.
	// Grafana's datasources, whose protocols cannot say that, get an error. Default 1 000 000.
	FlameNodes int64 `yaml:"flame_nodes"`
	// AnswerFrames is how many frames the stacks have that one answer is made of: it takes 16 bytes of memory for each.
	// Those of the least values beyond it become one, "(small)", and the answer says so. Default 20 000 000.
	AnswerFrames int64 `yaml:"answer_frames"`
	// AnswerValues is how many label values or label sets one answer holds; longer ones are cut and say
	// so. Default 10 000.
	AnswerValues int64 `yaml:"answer_values"`
	// SeriesPoints bounds the steps of one time series. Default 11 000.
	SeriesPoints int64 `yaml:"series_points"`
	// QueryTerms bounds each list in a query: ids and names of spans, functions of a path or a call site.
	// Default 10 000.
	QueryTerms int64 `yaml:"query_terms"`
	// PatternBytes bounds a regular expression in a filter of stacks. Default 1024.
	PatternBytes int64 `yaml:"pattern_bytes"`
	// SelectorBytes bounds a selector of labels, whose regular expressions may take 4 kB of memory for each byte, and a
	// step for each byte on each byte of a label's value. Default 8192.
	SelectorBytes int64 `yaml:"selector_bytes"`
}

// Default returns the limits that hold where nothing is set.
func Default() Limits {
	return Limits{
		BodyBytes:         32 << 20,
		DecompressedBytes: 64 << 20,
		UploadBytes:       2 << 30,
		DecodedBytes:      512 << 20,
		InFlightBytes:     256 << 20,
		ConcurrentIngests: 8,
		SamplesPerRequest: 1_000_000,
		SeriesPerRequest:  10_000,
		FramesPerStack:    4096,
		LabelsPerSeries:   64,
		LabelNameBytes:    256,
		LabelValueBytes:   4096,
		Future:            10 * time.Minute,
		QueryTime:         time.Minute,
		QueryBytes:        1 << 20,
		ConcurrentQueries: 16,
		FlameNodes:        1_000_000,
		AnswerFrames:      20_000_000,
		AnswerValues:      10_000,
		SeriesPoints:      11_000,
		QueryTerms:        10_000,
		PatternBytes:      1024,
		SelectorBytes:     8192,
	}
}

// OrDefault returns l with every 0 replaced by its default.
func (l Limits) OrDefault() Limits {
	set, def := reflect.ValueOf(&l).Elem(), reflect.ValueOf(Default())
	for i := range set.NumField() {
		if set.Field(i).IsZero() {
			set.Field(i).Set(def.Field(i))
		}
	}
	return l
}

// Error says that a limit was exceeded.
type Error struct {
	Limit Name
	// What was too much, as the beginning of a sentence: "the request body".
	What string
	// Max is the limit's value, as people read it.
	Max string
}

// Error names what was too much, the limit and the setting that changes it.
func (e *Error) Error() string {
	return fmt.Sprintf("%s: limit %s is %s (to change it: limits.%s in the configuration file, or PERFUSE_LIMITS_%s)",
		e.What, e.Limit, e.Max, e.Limit, strings.ToUpper(string(e.Limit)))
}

// Count returns an *Error if n is more than a positive max. what is only formatted then.
func Count(name Name, n, max int64, what string, args ...any) error {
	if max <= 0 || n <= max {
		return nil
	}
	return &Error{Limit: name, What: fmt.Sprintf(what, args...), Max: strconv.FormatInt(max, 10)}
}

// Refusals counts refused requests by limit.
type Refusals struct{ total *prometheus.CounterVec }

// NewRefusals registers perfuse_limits_refusals_total with reg, which may be nil.
func NewRefusals(reg prometheus.Registerer) *Refusals {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "perfuse_limits_refusals_total",
		Help: "Requests that were refused because they exceeded a limit, by the limit's name.",
	}, []string{"limit"})
	if reg != nil {
		reg.MustRegister(c)
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Limits]()) {
		c.WithLabelValues(f.Tag.Get("yaml"))
	}
	return &Refusals{c}
}

// Add counts one refusal.
func (r *Refusals) Add(name Name) { r.total.WithLabelValues(string(name)).Inc() }

package limits

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/perfuse/perfuse/server/limits/limitstest"
)

// TestOrDefault: every field that is 0 gets its default, every other stays.
func TestOrDefault(t *testing.T) {
	if got, want := (Limits{}).OrDefault(), Default(); got != want {
		t.Errorf("of nothing: %+v, want %+v", got, want)
	}
	var off Limits
	v := reflect.ValueOf(&off).Elem()
	for i := range v.NumField() {
		v.Field(i).SetInt(-1)
	}
	if got := off.OrDefault(); got != off {
		t.Errorf("of limits that are off: %+v", got)
	}
	// What a message says about a setting is a key of the file.
	keys := map[string]bool{}
	for i := range v.NumField() {
		keys[v.Type().Field(i).Tag.Get("yaml")] = true
	}
	for _, n := range []Name{
		BodyBytes, DecompressedBytes, UploadBytes, DecodedBytes, InFlightBytes, ConcurrentIngests, SamplesPerRequest, SeriesPerRequest, FramesPerStack, LabelsPerSeries,
		LabelNameBytes, LabelValueBytes, Future, Past, QueryTime, QueryBytes, ConcurrentQueries, FlameNodes, AnswerFrames, AnswerValues, SeriesPoints,
		QueryTerms, PatternBytes, SelectorBytes,
	} {
		if !keys[string(n)] {
			t.Errorf("limit %s is no key", n)
		}
		delete(keys, string(n))
	}
	if len(keys) > 0 {
		t.Errorf("keys without a name: %v", keys)
	}
}

// TestReader: as many bytes as are allowed pass, one more is an error that both rooms and Connect understand.
func TestReader(t *testing.T) {
	f := func(have, max int, fails bool) {
		t.Helper()
		refused := 0
		r := Reader(iotestOneByte{strings.NewReader(strings.Repeat("x", have))}, BodyBytes, int64(max), "the body", func(error) { refused++ })
		b, err := io.ReadAll(r)
		var le *Error
		switch {
		case !fails && (err != nil || len(b) != have || refused != 0):
			t.Errorf("%d of %d: %d bytes, %v", have, max, len(b), err)
		case fails && (!errors.As(err, &le) || le.Limit != BodyBytes || connect.CodeOf(err) != connect.CodeResourceExhausted || len(b) > max || refused != 1):
			t.Errorf("%d of %d: %d bytes, %v, refused %d times", have, max, len(b), err, refused)
		}
		if fails {
			if _, err := r.Read(make([]byte, 1)); err == nil {
				t.Errorf("%d of %d: it goes on after the error", have, max)
			}
		}
	}
	f(0, 5, false)
	f(5, 5, false)
	f(6, 5, true)
	f(1000, 5, true)
	f(1000, 0, false)
	f(1000, -1, false)
}

type iotestOneByte struct{ io.Reader }

func (r iotestOneByte) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(len(p), 1)]) }

// TestDecompressor: one decompressor unpacks many messages, good and bad ones in any order, and never more
// than it may, also of what lies in a buffer.
func TestDecompressor(t *testing.T) {
	const max = 1 << 10
	for _, encoding := range Encodings {
		t.Run(encoding, func(t *testing.T) {
			d := NewDecompressor(encoding, DecompressedBytes, max, nil)
			f := func(in []byte, wantLen int, limit bool) {
				t.Helper()
				var out []byte
				err := d.Reset(bytes.NewBuffer(in))
				if err == nil {
					out, err = io.ReadAll(d)
				}
				var le *Error
				switch {
				case wantLen >= 0 && (err != nil || len(out) != wantLen):
					t.Errorf("got %d bytes, %v, want %d", len(out), err, wantLen)
				case wantLen < 0 && (err == nil || errors.As(err, &le) != limit || len(out) > max):
					t.Errorf("got %d bytes, %v, want an error, from the limit: %v", len(out), err, limit)
				}
				if err := d.Close(); err != nil {
					t.Errorf("closing: %v", err)
				}
				if err := d.Reset(http.NoBody); err != nil {
					t.Errorf("resting: %v", err)
				}
			}
			packed := func(n int) []byte { return limitstest.Pack(t, encoding, make([]byte, n)) }
			f(packed(100), 100, false)
			f([]byte("this is not packed at all"), -1, false)
			f(packed(max), max, false)
			f(packed(max+1), -1, true)
			f(packed(20<<20), -1, true)
			f(packed(100)[:10], -1, false)
			f(packed(100), 100, false)
		})
	}
	if NewDecompressor("br", DecompressedBytes, max, nil) != nil {
		t.Error("there is a decompressor for br")
	}
}

// FuzzDecompressor: no input unpacks to more than the limit.
func FuzzDecompressor(f *testing.F) {
	for i, encoding := range Encodings {
		f.Add(limitstest.Pack(f, encoding, make([]byte, 5000)), i)
	}
	f.Fuzz(func(t *testing.T, in []byte, which int) {
		d := NewDecompressor(Encodings[uint(which)%uint(len(Encodings))], DecompressedBytes, 1000, nil)
		if d.Reset(bytes.NewBuffer(in)) != nil {
			return
		}
		n, _ := io.Copy(io.Discard, d)
		if n > 1000 {
			t.Fatalf("%d bytes", n)
		}
	})
}

func TestError(t *testing.T) {
	err := &Error{Limit: Future, What: "profile 3 lies 1h in the future", Max: (10 * time.Minute).String()}
	const want = "profile 3 lies 1h in the future: limit future is 10m0s (to change it: limits.future in the configuration file, or PERFUSE_LIMITS_FUTURE)"
	if err.Error() != want {
		t.Errorf("got %q", err)
	}
}

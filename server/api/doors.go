package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/storage"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// What is exported here is for the doors that answer the same questions in the peers' protocols
// (server/pyroscope, server/parca): they share the limits and the turns of queries, the codes of errors and
// the metrics.

// Handle mounts a service of questions. A procedure that it does not have is answered Unimplemented, with the names of
// those that it has.
func (a *API) Handle(mux *http.ServeMux, service protoreflect.ServiceDescriptor, newHandler func(...connect.HandlerOption) (string, http.Handler)) {
	// A question is decoded before it has its turn: unpacked it may be no larger than as it comes.
	opts := a.handlerOptions(limits.QueryBytes, a.limits.QueryBytes)
	path, h := newHandler(opts...)
	var served []string
	for i := range service.Methods().Len() {
		served = append(served, string(service.Methods().Get(i).Name()))
	}
	unserved := connect.NewErrorWriter(opts...)
	h = a.limitBody(h, limits.QueryBytes, a.limits.QueryBytes)
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		method := strings.TrimPrefix(r.URL.Path, path)
		if slices.Contains(served, method) {
			h.ServeHTTP(w, r)
			return
		}
		writeUnserved(w, r, unserved, Unserved("%.100s of %s is not served; served are %s", method, service.FullName(), strings.Join(served, ", ")))
	})
}

// HandleUnknown mounts what answers other calls of procedures, which nothing is mounted for, and leaves the rest to next.
func (a *API) HandleUnknown(mux *http.ServeMux, next http.Handler) {
	unserved := connect.NewErrorWriter()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		service, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		if r.Method != http.MethodPost || !strings.Contains(service, ".") {
			next.ServeHTTP(w, r)
			return
		}
		writeUnserved(w, r, unserved, Unserved("%.200s is not served: this server has no such procedure", r.URL.Path))
	})
}

// writeUnserved answers in the protocol of the request, or as Connect does.
func writeUnserved(w http.ResponseWriter, r *http.Request, in *connect.ErrorWriter, err error) {
	if !in.IsSupported(r) {
		writeError(w, err)
		return
	}
	in.Write(w, r, err)
}

// HandleGet mounts a path that is asked by GET. answer runs as a query does, within its limits.
func (a *API) HandleGet(mux *http.ServeMux, path string, answer func(ctx context.Context, in url.Values) (http.Header, []byte, error)) {
	mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		var header http.Header
		var body []byte
		err := limits.Count(limits.QueryBytes, int64(len(r.URL.RawQuery)), a.limits.QueryBytes, "the request's query has %d bytes", len(r.URL.RawQuery))
		if err == nil {
			err = a.query(r.Context(), func(ctx context.Context) (err error) {
				in, err := url.ParseQuery(r.URL.RawQuery)
				if err != nil {
					return invalid("reading the parameters: %v", err)
				}
				header, body, err = answer(ctx, in)
				return err
			})
		}
		if err = (edge{a}).finish(path, start, err); err != nil {
			writeError(w, err)
			return
		}
		for name, values := range header {
			w.Header()[name] = values
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.Write(body)
	})
}

var statuses = map[connect.Code]int{
	connect.CodeInvalidArgument:   http.StatusBadRequest,
	connect.CodeNotFound:          http.StatusNotFound,
	connect.CodeCanceled:          499, // what proxies log when the client has left
	connect.CodeResourceExhausted: http.StatusTooManyRequests,
	connect.CodeUnimplemented:     http.StatusNotImplemented,
	connect.CodeUnavailable:       http.StatusServiceUnavailable,
	connect.CodeDeadlineExceeded:  http.StatusGatewayTimeout,
}

// writeError answers as Connect does: the code as a status and, with the words, as JSON.
func writeError(w http.ResponseWriter, err error) {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		ce = connect.NewError(codeOf(err), err)
	}
	status, ok := statuses[ce.Code()]
	if !ok {
		status = http.StatusInternalServerError
	}
	body, err := json.Marshal(struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}{ce.Code().String(), ce.Message()})
	if err != nil {
		panic("BUG: encoding two strings: " + err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(body)
}

// CodeOf returns the code that an error gets at the border of RPC.
func CodeOf(err error) connect.Code { return codeOf(err) }

// Invalid is an error of the request itself.
func Invalid(format string, args ...any) error { return invalid(format, args...) }

// Unserved says that what is asked for is not served, and what is.
func Unserved(format string, args ...any) error {
	return connect.NewError(connect.CodeUnimplemented, fmt.Errorf(format, args...))
}

// Query waits for its turn and runs f within the limit of time.
func (a *API) Query(ctx context.Context, f func(ctx context.Context) error) error {
	return a.query(ctx, f)
}

// Types hands the profile types of a range to take, as a query.
func (a *API) Types(ctx context.Context, start, end time.Time, take func(profile.Type)) error {
	return a.query(ctx, func(ctx context.Context) error {
		types, err := a.opts.Store.Types(ctx, start, end)
		if err != nil {
			return fmt.Errorf("listing profile types: %w", err)
		}
		for _, t := range types {
			take(t)
		}
		return nil
	})
}

// Selection reads what every question has. An empty typ means all types if anyType, and is an error if not.
// The peers leave ":delta" out of a type where ours has it, or the other way round: what is stored is meant.
func (a *API) Selection(ctx context.Context, typ, selector string, start, end time.Time, anyType bool) (sel storage.Selection, err error) {
	if sel.Start, sel.End, err = Between(start, end); err != nil {
		return sel, err
	}
	if sel.Selector, err = a.Selector(selector); err != nil {
		return sel, err
	}
	if typ == "" && anyType {
		return sel, nil
	}
	t, err := a.opts.Engine.ResolveType(ctx, typ)
	if err != nil {
		return sel, err
	}
	types, err := a.opts.Store.Types(ctx, time.Time{}, time.Time{})
	if err != nil {
		return sel, fmt.Errorf("listing profile types: %w", err)
	}
	if !slices.Contains(types, t) {
		sibling := t
		sibling.Delta = !t.Delta
		if slices.Contains(types, sibling) {
			t = sibling
		}
	}
	sel.Type = &t
	return sel, nil
}

// Selector reads a selector of labels.
func (a *API) Selector(text string) (profile.Selector, error) {
	if err := limits.Count(limits.SelectorBytes, int64(len(text)), a.limits.SelectorBytes, "the selector has %d bytes", len(text)); err != nil {
		return nil, err
	}
	return profile.ParseSelector(text)
}

// Terms bounds a list in a question.
func (a *API) Terms(field string, n int) error {
	return limits.Count(limits.QueryTerms, int64(n), a.limits.QueryTerms, "%s has %d entries", field, n)
}

// GroupBy checks names of labels to group by. Each costs a node for every series of a flame graph, whether the series has
// that label or not; more than a series may have tell nothing apart.
func (a *API) GroupBy(field string, names []string) error {
	if err := limits.Count(limits.LabelsPerSeries, int64(len(names)), a.limits.LabelsPerSeries, "%s has %d entries", field, len(names)); err != nil {
		return err
	}
	seen := make(map[string]bool, len(names))
	for _, name := range names {
		switch {
		case name == "":
			return invalid("%s has an empty name: want names of labels", field)
		case seen[name]:
			return invalid("%s has %.100s twice", field, name)
		}
		seen[name] = true
	}
	return nil
}

// SplitQuery takes TYPE{selector} apart; the selector may be missing.
func SplitQuery(query string) (typ, selector string) {
	if i := strings.IndexByte(query, '{'); i >= 0 {
		return strings.TrimSpace(query[:i]), query[i:]
	}
	return strings.TrimSpace(query), ""
}

// Between returns the range that two moments mean, the zero time being none: what lies beyond the moments
// that samples can have is unbounded.
func Between(start, end time.Time) (from, until time.Time, err error) {
	first, last := time.Unix(0, 0), time.Unix(0, math.MaxInt64)
	if !start.IsZero() && !end.IsZero() && !end.After(start) {
		return from, until, invalid("the time range ends (%s) before it begins (%s)", end.UTC().Format(time.RFC3339Nano), start.UTC().Format(time.RFC3339Nano))
	}
	if !end.IsZero() && end.Before(first) || !start.IsZero() && start.After(last) {
		return from, until, invalid("the time range lies before 1970 or after 2262, where no profile can be")
	}
	if start.After(first) {
		from = start.UTC()
	}
	if !end.IsZero() && end.Before(last) {
		until = end.UTC()
	}
	return from, until, nil
}

// MaxValues is how many values an answer may have.
func (a *API) MaxValues() int {
	n, err := a.atMost(0)
	if err != nil {
		panic("BUG: no limit is in order: " + err.Error())
	}
	return n
}

// Steps returns how wide the steps of a time series are: step or, if that is 0, a nice width that cuts the
// range into at most about points steps (0: 200). Too many steps are an error.
func (a *API) Steps(ctx context.Context, sel storage.Selection, step time.Duration, points int) (time.Duration, error) {
	if step < 0 || points < 0 {
		return 0, invalid("step is %s and limit %d: want 0 or more", step, points)
	}
	if points == 0 {
		points = defaultSteps
	}
	width, err := queryService{a}.width(ctx, sel)
	if err != nil {
		return 0, err
	}
	if step == 0 {
		want := width / time.Duration(points)
		i, _ := slices.BinarySearch(niceSteps, want)
		if i < len(niceSteps) {
			step = niceSteps[i]
		} else {
			const day = 24 * time.Hour
			step = (want + day - 1) / day * day
		}
	}
	n := int64(width / step)
	return step, limits.Count(limits.SeriesPoints, n, a.limits.SeriesPoints,
		"a time series of %d steps of %s; ask for wider steps or less time", n, step)
}

package datasource

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"

	"connectrpc.com/connect"
	"github.com/grafana/grafana-plugin-sdk-go/backend"
)

// asked is an error in the question, found before it was sent.
type asked struct {
	error
	status int // HTTP's
}

func invalid(format string, args ...any) error {
	return asked{fmt.Errorf(format, args...), http.StatusBadRequest}
}

// explanation is what becomes of an error at Grafana's side.
type explanation struct {
	status  int // HTTP's
	message string
	// ours says that neither the question nor the server is to blame.
	ours bool
}

// statuses are those of Connect's own table, but for what the server refuses because it is too much: that is no
// reason to ask again, and names its limit.
var statuses = map[connect.Code]int{
	connect.CodeCanceled:           499,
	connect.CodeInvalidArgument:    http.StatusBadRequest,
	connect.CodeDeadlineExceeded:   http.StatusGatewayTimeout,
	connect.CodeNotFound:           http.StatusNotFound,
	connect.CodePermissionDenied:   http.StatusForbidden,
	connect.CodeResourceExhausted:  http.StatusTooManyRequests,
	connect.CodeFailedPrecondition: http.StatusBadRequest,
	connect.CodeOutOfRange:         http.StatusBadRequest,
	connect.CodeUnimplemented:      http.StatusNotImplemented,
	connect.CodeUnavailable:        http.StatusBadGateway,
	connect.CodeUnauthenticated:    http.StatusUnauthorized,
}

// explain says what went wrong and what to do about it. Messages of the server come as they are: they point at
// the place in a selector, and name the limit.
func (ds *Datasource) explain(err error) explanation {
	if q, ok := errors.AsType[asked](err); ok {
		return explanation{status: q.status, message: q.Error()}
	}
	wire, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return explanation{status: http.StatusInternalServerError, message: err.Error(), ours: true}
	}
	status, ok := statuses[wire.Code()]
	if !ok {
		status = http.StatusInternalServerError
	}
	e := explanation{status: status, message: wire.Message()}
	where := ds.settings.url
	switch {
	case connect.IsWireError(err): // the server's own words
	case wire.Code() == connect.CodeResourceExhausted:
		e.status = http.StatusRequestEntityTooLarge
		e.message = fmt.Sprintf("the answer has more than %d MiB: ask for less time, group by fewer labels, leave out smaller frames, or let the data source's settings allow more",
			ds.settings.answerBytes>>20)
	case wire.Code() == connect.CodeDeadlineExceeded || isTimeout(err):
		e.status = http.StatusGatewayTimeout
		e.message = fmt.Sprintf("%s did not answer in time: ask for less time, or raise the timeout in the data source's settings", where)
	case wire.Code() == connect.CodeCanceled:
	case wire.Code() == connect.CodePermissionDenied:
		e.message = fmt.Sprintf("%s refuses (%s): check the credentials in the data source's settings; a server on loopback answers to the names in its allowed_hosts only", where, wire.Message())
	case wire.Code() == connect.CodeUnauthenticated:
		e.message = fmt.Sprintf("%s wants other credentials (%s): check them in the data source's settings", where, wire.Message())
	case wire.Code() == connect.CodeUnavailable && statusLine.MatchString(wire.Message()):
		e.message = fmt.Sprintf("%s is there, but not ready (%s): try again in a moment", where, wire.Message())
	case wire.Code() == connect.CodeUnavailable:
		e.message = fmt.Sprintf("%s cannot be reached (%s): is a Perfuse server running there, and is the URL in the data source's settings right?", where, wire.Message())
	default:
		e.status = http.StatusBadGateway
		e.message = fmt.Sprintf("what %s answers is not Perfuse's (%s): check the URL in the data source's settings", where, wire.Message())
	}
	return e
}

// statusLine is what Connect says of an answer that is none of its own, as in "503 Service Unavailable".
var statusLine = regexp.MustCompile(`^[1-5][0-9][0-9] `)

func isTimeout(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &n) && n.Timeout()
}

func (ds *Datasource) failure(err error) backend.DataResponse {
	e := ds.explain(err)
	out := backend.DataResponse{Error: errors.New(e.message), Status: backend.Status(e.status), ErrorSource: backend.ErrorSourceDownstream}
	if e.ours {
		out.ErrorSource = backend.ErrorSourcePlugin
	}
	return out
}

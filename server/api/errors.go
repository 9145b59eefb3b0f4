package api

import (
	"context"
	"errors"

	"connectrpc.com/connect"
	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/server/query"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/symbolize/debuginfo"
)

// codeOf translates our errors into RPC codes; it is the only place that does.
//
//	InvalidArgument    mend the question: selector, time range, profile type, path
//	NotFound           there is no such type here
//	AlreadyExists      that debug information is here: do not send it again
//	ResourceExhausted  ask for less: a limit, named in the error
//	DeadlineExceeded   the query ran into the client's own deadline
//	Canceled           the client left
//	Unavailable        ask again later: the store is closing or cannot read
func codeOf(err error) connect.Code {
	var coded *connect.Error
	var limit *limits.Error
	var selector *profile.SelectorError
	var typ *profile.TypeError
	switch {
	case errors.As(err, &coded):
		return coded.Code()
	case errors.As(err, &limit), errors.Is(err, storage.ErrLimit):
		return connect.CodeResourceExhausted
	case errors.As(err, &selector), errors.Is(err, errInvalid), errors.Is(err, storage.ErrInvalid),
		errors.Is(err, query.ErrUnits), errors.Is(err, query.ErrNoDuration):
		return connect.CodeInvalidArgument
	case errors.As(err, &typ) && (typ.Query == "" || len(typ.Candidates) > 0):
		return connect.CodeInvalidArgument
	case typ != nil:
		return connect.CodeNotFound
	case errors.Is(err, debuginfo.ErrTooLarge), errors.Is(err, debuginfo.ErrFull):
		return connect.CodeResourceExhausted
	case errors.Is(err, debuginfo.ErrBuildID), errors.Is(err, debuginfo.ErrUpload):
		return connect.CodeInvalidArgument
	case errors.Is(err, debuginfo.ErrKnown):
		return connect.CodeAlreadyExists
	case errors.Is(err, context.Canceled):
		return connect.CodeCanceled
	case errors.Is(err, context.DeadlineExceeded):
		return connect.CodeDeadlineExceeded
	case errors.Is(err, storage.ErrClosed), errors.Is(err, storage.ErrReadOnly):
		return connect.CodeUnavailable
	}
	return connect.CodeInternal
}

// errInvalid: the request itself makes no sense.
var errInvalid = errors.New("invalid request")

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"connectrpc.com/connect"

	"github.com/perfuse/perfuse/proto/perfuse/query/v1/queryv1connect"
)

// maxAnswerBytes bounds one answer of the server.
const maxAnswerBytes = 512 << 20

// serverURL returns the server's URL without a slash at its end; a bare host:port means http.
func (a *app) serverURL() (string, error) {
	s := a.server
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", usage("--server %q: want a URL like %s", a.server, defaultServer)
	}
	return strings.TrimSuffix(u.String(), "/"), nil
}

// ask calls f with a client and a context that ends with the timeout, and explains its error.
func (a *app) ask(ctx context.Context, what string, f func(context.Context, queryv1connect.QueryServiceClient) error) error {
	server, err := a.serverURL()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	client := queryv1connect.NewQueryServiceClient(a.http, server, connect.WithReadMaxBytes(maxAnswerBytes))
	return a.explain(what, server, f(ctx, client))
}

// explain turns an RPC's error into one that says what to do next.
func (a *app) explain(what, server string, err error) error {
	var rpc *connect.Error
	if !errors.As(err, &rpc) {
		return err
	}
	text := strings.TrimPrefix(rpc.Message(), what+": ")
	switch rpc.Code() {
	case connect.CodeUnavailable:
		if connect.IsWireError(rpc) {
			return fmt.Errorf("%s: the server at %s is not ready: %s", what, server, text)
		}
		// net/http's words for an answer that is not HTTP/2.
		if strings.Contains(text, "HTTP/1.1") || strings.Contains(text, "client conn could not be established") {
			return &hintError{
				fmt.Errorf("%s: %s answers, but does not speak gRPC", what, server),
				"Is it a Perfuse server? A proxy in front of one must let HTTP/2 through.",
			}
		}
		return &hintError{
			fmt.Errorf("%s: the server at %s cannot be reached: %s", what, server, text),
			"Start one with 'perfuse up', or name another with --server URL or " + serverEnv + ".",
		}
	case connect.CodeUnimplemented:
		return &hintError{
			fmt.Errorf("%s: %s answers, but does not know this call: %s", what, server, text),
			"Is it a Perfuse server, and as new as this profilectl?",
		}
	case connect.CodeDeadlineExceeded:
		return &hintError{
			fmt.Errorf("%s: no answer from %s within %s", what, server, a.timeout),
			"Is the server well? If it only takes long: ask for less, or wait longer with --timeout.",
		}
	case connect.CodeResourceExhausted:
		err := fmt.Errorf("%s: %s", what, text)
		if strings.HasPrefix(what, "querying") {
			return &hintError{err, "Ask for less: a narrower selector or a shorter range."}
		}
		return err
	case connect.CodeUnauthenticated, connect.CodePermissionDenied:
		return fmt.Errorf("%s: %s refuses: %s", what, server, text)
	case connect.CodeInvalidArgument, connect.CodeNotFound:
		return fmt.Errorf("%s: %s", what, text)
	}
	return fmt.Errorf("%s: the server at %s answers: %s: %s", what, server, rpc.Code(), text)
}

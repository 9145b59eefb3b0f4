package ingest

import (
	"context"
	"errors"
	"io"
	"net/http"

	"connectrpc.com/connect"

	profilestorev1alpha1 "github.com/perfuse/perfuse/proto/parca/profilestore/v1alpha1"
	"github.com/perfuse/perfuse/server/limits"
)

// Write returns the handler of WriteProcedure, a stream of Parca's agents:
//
//	agent   a record of samples, their stacks by id ▶
//	server                                          ◀ the ids
//	agent   a record of what these stand for        ▶
//	server                                          ◀ nothing: all is stored
//
// Ids are asked for every time, since nothing is remembered of an agent. Where stacks are with the samples, the server
// answers the first record as it does the second.
func (g *Ingester) Write() http.Handler {
	opts := append(limits.HandlerOptions(limits.DecompressedBytes, g.limits.DecompressedBytes, nil),
		connect.WithCodec(rawCodec{name: "proto"}), connect.WithCodec(rawCodec{name: "json"}))
	h := connect.NewBidiStreamHandler(WriteProcedure, func(ctx context.Context, stream *connect.BidiStream[rawRequest, rawAnswer]) error {
		s := writeStream{g: g, stream: stream, held: ctx.Value(heldKey{}).(*heldReader)}
		err := s.run(ctx)
		g.done(doorWrite, s.bytes, err)
		if err != nil {
			return connect.NewError(codeOf(err), err)
		}
		return nil
	}, opts...)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		held := g.gate.hold(r.Body)
		defer held.release()
		r = r.WithContext(context.WithValue(r.Context(), heldKey{}, held))
		r.Body = struct {
			io.Reader
			io.Closer
		}{held, r.Body}
		h.ServeHTTP(w, r)
	})
}

// heldKey is the context's key of a stream's body.
type heldKey struct{}

type writeStream struct {
	g      *Ingester
	stream *connect.BidiStream[rawRequest, rawAnswer]
	held   *heldReader
	bytes  int
}

func (s *writeStream) run(ctx context.Context) error {
	for n := 0; ; n++ {
		samples, err := s.receive()
		switch {
		case errors.Is(err, io.EOF) && n > 0:
			return nil
		case errors.Is(err, io.EOF):
			return invalid("the stream has no records")
		case err != nil:
			return err
		}
		var wanted []byte
		if err := s.inTurn(ctx, func() (err error) {
			if wanted, err = s.g.wantedStacks(ctx, samples); err == nil && wanted == nil {
				err = s.g.storeArrow(ctx, samples, nil)
			}
			return err
		}); err != nil {
			return err
		}
		if wanted != nil {
			if err := s.stream.Send(&rawAnswer{&profilestorev1alpha1.WriteResponse{Record: wanted}}); err != nil {
				return err
			}
			stacks, err := s.receive()
			if errors.Is(err, io.EOF) {
				return invalid("the stream ends before the stacks that samples refer to by id")
			}
			if err == nil {
				err = s.inTurn(ctx, func() error { return s.g.storeArrow(ctx, samples, stacks) })
			}
			if err != nil {
				return err
			}
		}
		// It is stored, whether the agent still listens or not.
		if s.stream.Send(&rawAnswer{&profilestorev1alpha1.WriteResponse{}}) != nil {
			return nil
		}
	}
}

// inTurn calls f when it is this stream's turn. An agent that is waited for takes nobody's.
func (s *writeStream) inTurn(ctx context.Context, f func() error) error {
	end, err := s.g.gate.turns.enter(ctx, 1)
	if err != nil {
		return err
	}
	defer end()
	return f()
}

// receive returns the next record.
func (s *writeStream) receive() ([]byte, error) {
	raw, err := s.stream.Receive()
	var le *limits.Error
	switch {
	case err == nil:
	case s.held.err != nil:
		return nil, s.held.err
	case errors.As(err, &le):
		return nil, le
	case errors.Is(err, io.EOF), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return nil, err
	case connect.CodeOf(err) == connect.CodeCanceled:
		return nil, context.Canceled
	default:
		return nil, invalid("reading the stream: %v", err)
	}
	s.bytes += len(raw.body)
	var req profilestorev1alpha1.WriteRequest
	if err := raw.decode(&req); err != nil {
		return nil, err
	}
	if len(req.GetRecord()) == 0 {
		return nil, invalid("the record is empty: want an Arrow IPC stream")
	}
	return req.GetRecord(), nil
}

package ingest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"

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
	opts := append(limits.Compressions(func(encoding string) connect.Decompressor { return &stillPacked{encoding: encoding} }),
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
		if err := s.inTurn(ctx, func(records ...[]byte) (err error) {
			if wanted, err = s.g.wantedStacks(ctx, records[0]); err == nil && wanted == nil {
				err = s.g.storeArrow(ctx, records[0], nil)
			}
			return err
		}, samples); err != nil {
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
				err = s.inTurn(ctx, func(records ...[]byte) error { return s.g.storeArrow(ctx, records[0], records[1]) }, samples, stacks)
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

// inTurn unpacks records, of which the last is new, and calls f with them when it is this stream's turn. An agent that is
// waited for takes nobody's.
func (s *writeStream) inTurn(ctx context.Context, f func(records ...[]byte) error, packed ...*rawRequest) error {
	end, err := s.g.gate.turns.enter(ctx, 1)
	if err != nil {
		return err
	}
	defer end()
	records, size := make([][]byte, len(packed)), 0
	for i, raw := range packed {
		if records[i], size, err = s.g.record(raw); err != nil {
			return err
		}
	}
	s.bytes += size
	return f(records...)
}

// record returns what is in a message of the stream, and the message's size.
func (g *Ingester) record(packed *rawRequest) (record []byte, size int, err error) {
	raw := *packed
	if len(raw.body) > 0 && raw.body[0] == packedMark {
		encoding, body, _ := bytes.Cut(raw.body[1:], []byte{packedMark})
		if raw.body, err = g.unpack(body, string(encoding)); err != nil {
			return nil, 0, err
		}
	}
	var req profilestorev1alpha1.WriteRequest
	if err := raw.decode(&req); err != nil {
		return nil, 0, err
	}
	if len(req.GetRecord()) == 0 {
		return nil, 0, invalid("the record is empty: want an Arrow IPC stream")
	}
	return req.GetRecord(), len(raw.body), nil
}

// stillPacked leaves a message as it is, behind how it is packed between two marks: unpacked it takes memory, which only
// who has a turn may. No message begins with a mark.
type stillPacked struct {
	io.Reader
	encoding string
}

const packedMark = 0

func (p *stillPacked) Reset(r io.Reader) error {
	p.Reader = io.MultiReader(bytes.NewReader(slices.Concat([]byte{packedMark}, []byte(p.encoding), []byte{packedMark})), r)
	return nil
}

func (*stillPacked) Close() error { return nil }

// receive returns the next record's message.
func (s *writeStream) receive() (*rawRequest, error) {
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
	return raw, nil
}

package api

import (
	"context"
	"errors"
	"io"
	"math"

	"connectrpc.com/connect"
	debuginfov1 "github.com/perfuse/perfuse/proto/perfuse/debuginfo/v1"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/symbolize/debuginfo"
)

// Debuginfo keeps files with debug information by build id; *debuginfo.Store does.
type Debuginfo interface {
	// Put keeps what r gives until io.EOF and returns its size; any error leaves nothing behind.
	Put(ctx context.Context, buildID, file string, r io.Reader) (sizeBytes int64, err error)
	// Wanted returns the build ids among those given whose files would be welcome.
	Wanted(buildIDs []string) []string
	// List tells what is there, sorted by build id.
	List() []debuginfo.Info
}

// debuginfoService is debuginfov1connect.DebuginfoServiceHandler.
type debuginfoService struct{ *API }

const (
	maxBuildIDs     = 10_000
	maxBuildIDBytes = 256
	maxFileBytes    = 4096
)

func (s debuginfoService) available() error {
	if s.opts.Debuginfo == nil {
		return connect.NewError(connect.CodeUnimplemented, errors.New("this server keeps no debug information"))
	}
	return nil
}

func checkBuildID(id string) error {
	if id == "" || len(id) > maxBuildIDBytes {
		return invalid("build_id has %d bytes: want 1 to %d", len(id), maxBuildIDBytes)
	}
	return nil
}

func (s debuginfoService) Wanted(ctx context.Context, req *debuginfov1.WantedRequest) (*debuginfov1.WantedResponse, error) {
	if err := s.available(); err != nil {
		return nil, err
	}
	if n := len(req.GetBuildIds()); n > maxBuildIDs {
		return nil, invalid("build_ids has %d entries: want at most %d; ask in parts", n, maxBuildIDs)
	}
	for _, id := range req.GetBuildIds() {
		if err := checkBuildID(id); err != nil {
			return nil, err
		}
	}
	return &debuginfov1.WantedResponse{BuildIds: s.opts.Debuginfo.Wanted(req.GetBuildIds())}, nil
}

func (s debuginfoService) Upload(ctx context.Context, stream *connect.ClientStream[debuginfov1.UploadRequest]) (*debuginfov1.UploadResponse, error) {
	if err := s.available(); err != nil {
		return nil, err
	}
	if !stream.Receive() {
		if err := stream.Err(); err != nil {
			return nil, s.streamError(err)
		}
		return nil, invalid("the stream is empty: want a message with info, then chunks")
	}
	info := stream.Msg().GetInfo()
	if info == nil {
		return nil, invalid("the first message has no info")
	}
	if err := checkBuildID(info.GetBuildId()); err != nil {
		return nil, err
	}
	if n := len(info.GetFile()); n > maxFileBytes {
		return nil, invalid("info.file has %d bytes: want at most %d", n, maxFileBytes)
	}
	chunks := &chunkReader{service: s, stream: stream}
	var body io.Reader = chunks
	if info.GetZstd() {
		d := limits.NewDecompressor("zstd", limits.UploadBytes, s.limits.UploadBytes, nil)
		defer d.Close()
		if err := d.Reset(chunks); err != nil {
			return nil, invalid("unpacking the file (zstd): %v", err)
		}
		body = d
	}
	read := &readErrors{r: body}
	size, err := s.opts.Debuginfo.Put(ctx, info.GetBuildId(), info.GetFile(), read)
	switch {
	case read.err != nil && chunks.err != nil: // the client's or the line's fault
		return nil, chunks.err
	case read.err != nil:
		var le *limits.Error
		if errors.As(read.err, &le) {
			return nil, le
		}
		return nil, invalid("unpacking the file (zstd): %v", read.err)
	case err != nil:
		return nil, err
	}
	s.opts.Engine.Forget(info.GetBuildId())
	return &debuginfov1.UploadResponse{SizeBytes: uint64(size)}, nil
}

// chunkReader reads the chunks of an upload one after the other.
type chunkReader struct {
	service debuginfoService
	stream  *connect.ClientStream[debuginfov1.UploadRequest]
	chunk   []byte
	bytes   int64
	err     error
}

func (c *chunkReader) Read(p []byte) (int, error) {
	for len(c.chunk) == 0 {
		if c.err != nil {
			return 0, c.err
		}
		if !c.stream.Receive() {
			if err := c.stream.Err(); err != nil {
				c.err = c.service.streamError(err)
				return 0, c.err
			}
			if c.bytes == 0 {
				c.err = invalid("the file is empty")
				return 0, c.err
			}
			return 0, io.EOF
		}
		if c.stream.Msg().GetInfo() != nil {
			c.err = invalid("info came twice: want one message with info, then chunks")
			return 0, c.err
		}
		c.chunk = c.stream.Msg().GetChunk()
	}
	n := copy(p, c.chunk)
	c.chunk = c.chunk[n:]
	c.bytes += int64(n)
	return n, nil
}

// streamError blames the client for a stream that cannot be read to its end, where Connect blames us.
func (s debuginfoService) streamError(err error) error {
	var le *limits.Error
	switch connect.CodeOf(err) {
	case connect.CodeResourceExhausted:
		if !errors.As(err, &le) { // Connect's own words about its limit, which is ours
			return limits.Count(limits.BodyBytes, math.MaxInt64, s.limits.BodyBytes, "a message of the upload is too large")
		}
	case connect.CodeInternal, connect.CodeUnknown:
		return invalid("reading the stream: %v", err)
	}
	return err
}

// readErrors remembers why reading ended, to tell a bad upload from a store that fails.
type readErrors struct {
	r   io.Reader
	err error
}

func (r *readErrors) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

func (s debuginfoService) List(ctx context.Context, _ *debuginfov1.ListRequest) (*debuginfov1.ListResponse, error) {
	if err := s.available(); err != nil {
		return nil, err
	}
	resp := &debuginfov1.ListResponse{}
	for _, d := range s.opts.Debuginfo.List() {
		resp.Debuginfo = append(resp.Debuginfo, &debuginfov1.Debuginfo{
			BuildId: d.BuildID, File: d.File, State: string(d.State), Error: d.Error,
			SizeBytes: uint64(d.Bytes), IndexBytes: uint64(d.TableBytes), UploadedUnixNano: d.Uploaded.UnixNano(),
		})
	}
	return resp, nil
}

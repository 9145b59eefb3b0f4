package ship

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/klauspost/compress/zstd"
	debuginfov1 "github.com/perfuse/perfuse/proto/perfuse/debuginfo/v1"
	"github.com/perfuse/perfuse/proto/perfuse/debuginfo/v1/debuginfov1connect"
	"github.com/perfuse/perfuse/symbolize/debuginfo"
	"github.com/perfuse/perfuse/symbolize/elf"
	"github.com/prometheus/client_golang/prometheus"
)

// DebuginfoOptions of NewDebuginfo. Address is required.
type DebuginfoOptions struct {
	// Address, Insecure, TLS and Headers are as in Options.
	Address  string
	Insecure bool
	TLS      *tls.Config
	Headers  map[string]string
	// BytesPerSecond bounds what uploads take of the line, compressed. Default 8 MiB.
	BytesPerSecond int64
	// Recheck is how often the server is asked again for what it had or did not want: it may have lost it.
	// Default 10 minutes.
	Recheck time.Duration
	// OnError is told what goes wrong, and must not block. Default: nobody is.
	OnError func(error)
	// Logger and Registerer: default none.
	Logger     log.Logger
	Registerer prometheus.Registerer
}

// Debuginfo hands the server what naming of frames takes: once per build id, if the server wants it, one
// file at a time. Its methods are safe for concurrent use, Run is called once.
//
//	Found ─▶ queued ─▶ Wanted? ─ no ──▶ known ──(Recheck)─▶ queued
//	           ▲          └ yes ─▶ upload ─▶ known
//	           └──── later ─────────┘ the server is away
type Debuginfo struct {
	opts    DebuginfoOptions
	client  debuginfov1connect.DebuginfoServiceClient
	headers http.Header
	metrics debuginfoMetrics

	mu     sync.Mutex
	files  map[string]*executable // by build id
	order  []string               // build ids by their first appearance
	queued []*executable
	held   int // open files
	wake   chan struct{}
	closed bool
	away   bool
	since  time.Time
	counts DebuginfoStats
}

// DebuginfoStats are the uploads' own numbers.
type DebuginfoStats struct {
	// Pending files wait to be asked about or uploaded.
	Pending int
	// Uploaded, Failed and Gone count since the start: as the metrics of these names.
	Uploaded, Failed, Gone uint64
	// LastError is the newest reason why something was not uploaded.
	LastError string
}

// executable is one file that may have to be uploaded.
type executable struct {
	buildID string
	path    string // as its processes see it
	root    string // below which that is, "" for the host's
	file    *os.File
	content []byte // of what is not a file (vDSO)
	queued  bool
	useless bool // nothing in it names anything, or the server refused it for good
}

const (
	maxExecutables  = 32768
	maxHeldFiles    = 128
	maxContentBytes = 1 << 20
	askAtOnce       = 256
	chunkBytes      = 1 << 20
)

// Executable is an opened file.
type Executable interface {
	io.ReaderAt
	Size() int64
}

type debuginfoMetrics struct {
	all                          []prometheus.Collector
	uploads, bytes, failed, gone prometheus.Counter
}

// NewDebuginfo does not connect.
func NewDebuginfo(opts DebuginfoOptions) (*Debuginfo, error) {
	opts.BytesPerSecond = cmp.Or(opts.BytesPerSecond, 8<<20)
	opts.Recheck = cmp.Or(opts.Recheck, 10*time.Minute)
	if opts.Logger == nil {
		opts.Logger = log.NewNopLogger()
	}
	if opts.OnError == nil {
		opts.OnError = func(error) {}
	}
	url, err := serverURL(opts.Address, opts.Insecure)
	if err != nil {
		return nil, fmt.Errorf("setting up uploads of debug information: %w", err)
	}
	headers := http.Header{}
	for k, v := range opts.Headers {
		headers.Set(k, v)
	}
	d := &Debuginfo{
		opts: opts, headers: headers,
		client: debuginfov1connect.NewDebuginfoServiceClient(newHTTPClient(opts.Insecure, opts.TLS), url, connect.WithGRPC()),
		files:  map[string]*executable{},
		wake:   make(chan struct{}, 1),
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "perfuse_ship_debuginfo_" + name + "_total", Help: help})
		d.metrics.all = append(d.metrics.all, c)
		return c
	}
	d.metrics.uploads = counter("uploads", "Files whose debug information was uploaded.")
	d.metrics.bytes = counter("bytes", "Compressed bytes of debug information that were uploaded.")
	d.metrics.failed = counter("failures", "Uploads that failed, those that are tried again included.")
	d.metrics.gone = counter("gone", "Files that the server wanted and that could not be opened any more.")
	if opts.Registerer != nil {
		opts.Registerer.MustRegister(d.metrics.all...)
	}
	return d, nil
}

// Found takes note of an executable: its build id, its path below root (root is "" or /proc/PID/root), and
// the opened file, of which it keeps a descriptor of its own while there are few. It never blocks.
func (d *Debuginfo) Found(buildID, path, root string, f Executable) {
	if buildID == "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.files[buildID] != nil {
		return
	}
	e := &executable{buildID: buildID, path: strings.TrimSuffix(path, " (deleted)"), root: root}
	if fd, ok := f.(interface{ Fd() uintptr }); ok {
		if d.held < maxHeldFiles {
			if h, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd.Fd())); err == nil {
				e.file = h
				d.held++
			}
		}
	} else if size := f.Size(); size > 0 && size <= maxContentBytes {
		b := make([]byte, size)
		if n, err := f.ReadAt(b, 0); int64(n) == size || err == nil {
			e.content = b
		}
	}
	if len(d.order) >= maxExecutables {
		old := d.files[d.order[0]]
		d.release(old)
		delete(d.files, old.buildID)
		d.order = d.order[1:]
	}
	d.files[buildID] = e
	d.order = append(d.order, buildID)
	d.enqueue(e)
}

func (d *Debuginfo) enqueue(e *executable) {
	if e.queued || e.useless {
		return
	}
	e.queued = true
	d.queued = append(d.queued, e)
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// release closes the descriptor of a file.
func (d *Debuginfo) release(e *executable) {
	if e.file != nil {
		e.file.Close()
		e.file = nil
		d.held--
	}
}

// Run uploads until ctx ends, then returns nil.
func (d *Debuginfo) Run(ctx context.Context) error {
	recheck := time.NewTicker(d.opts.Recheck)
	defer recheck.Stop()
	var wait backoff
	for ctx.Err() == nil {
		batch := d.next()
		if len(batch) == 0 {
			select {
			case <-ctx.Done():
			case <-d.wake:
			case <-recheck.C:
				d.requeueAll()
			}
			continue
		}
		err := d.process(ctx, batch)
		d.note(err)
		if err == nil {
			wait.reset()
			continue
		}
		pause := wait.wait(judge(err))
		if connect.CodeOf(err) == connect.CodeUnimplemented {
			pause = d.opts.Recheck // this server keeps none
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return nil
}

// next takes some files out of the queue.
func (d *Debuginfo) next() []*executable {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := min(len(d.queued), askAtOnce)
	batch := d.queued[:n:n]
	d.queued = d.queued[n:]
	return batch
}

func (d *Debuginfo) requeueAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range d.order {
		d.enqueue(d.files[id])
	}
}

func (d *Debuginfo) note(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case err != nil && !d.away && !errors.Is(err, context.Canceled):
		level.Warn(d.opts.Logger).Log("msg", "the server does not take debug information; trying again later", "err", err)
	case err == nil && d.away:
		level.Info(d.opts.Logger).Log("msg", "the server takes debug information again")
	}
	switch {
	case err == nil || errors.Is(err, context.Canceled):
	case !d.away:
		d.since = time.Now()
	case time.Since(d.since) > patience:
		d.counts.LastError = err.Error()
		d.opts.OnError(err)
	}
	d.away = err != nil
}

// Stats reads them.
func (d *Debuginfo) Stats() DebuginfoStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	st := d.counts
	for _, e := range d.files {
		if e.queued {
			st.Pending++
		}
	}
	return st
}

// happened counts in the metrics and here; err may be nil.
func (d *Debuginfo) happened(metric prometheus.Counter, count *uint64, err error) {
	metric.Inc()
	d.mu.Lock()
	defer d.mu.Unlock()
	*count++
	if err != nil {
		d.counts.LastError = err.Error()
	}
}

// process asks for a batch and uploads what is wanted. What was not finished goes back into the queue.
func (d *Debuginfo) process(ctx context.Context, batch []*executable) (err error) {
	done := 0
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.queued = append(append([]*executable(nil), batch[done:]...), d.queued...)
	}()
	ids := make([]string, len(batch))
	for i, e := range batch {
		ids[i] = e.buildID
	}
	ask, cancel := context.WithTimeout(withHeaders(ctx, d.headers), 30*time.Second)
	defer cancel()
	res, err := d.client.Wanted(ask, &debuginfov1.WantedRequest{BuildIds: ids})
	if err != nil {
		return fmt.Errorf("asking %s for wanted build ids: %w", d.opts.Address, err)
	}
	wanted := map[string]bool{}
	for _, id := range res.GetBuildIds() {
		wanted[id] = true
	}
	for _, e := range batch {
		useless := false
		if wanted[e.buildID] {
			useless, err = d.upload(ctx, e)
			if err != nil {
				d.happened(d.metrics.failed, &d.counts.Failed, err)
				if !judge(err).permanent {
					return err
				}
				useless = true
				level.Warn(d.opts.Logger).Log("msg", "the server refuses debug information", "file", e.path, "build_id", e.buildID, "err", err)
				d.opts.OnError(err)
			}
		}
		done++
		d.mu.Lock()
		e.queued, e.useless = false, useless
		d.release(e)
		d.mu.Unlock()
	}
	return nil
}

// upload sends what one file has. useless says that it has nothing.
func (d *Debuginfo) upload(ctx context.Context, e *executable) (useless bool, err error) {
	x, err := d.extract(e)
	if errors.Is(err, elf.ErrFormat) {
		return true, nil
	}
	if err != nil {
		d.happened(d.metrics.gone, &d.counts.Gone, fmt.Errorf("reading debug information: %w", err))
		level.Debug(d.opts.Logger).Log("msg", "a file is gone before its debug information was read", "file", e.path, "err", err)
		return false, nil
	}
	defer x.Close()
	if !x.Needed() {
		return true, nil
	}
	ctx, cancel := context.WithCancel(withHeaders(ctx, d.headers))
	defer cancel() // gives up a stream that was not closed
	stream, err := d.client.Upload(ctx)
	if err != nil {
		return false, fmt.Errorf("uploading debug information of %s: %w", e.path, err)
	}
	file := text(e.path)
	err = stream.Send(&debuginfov1.UploadRequest{Data: &debuginfov1.UploadRequest_Info{Info: &debuginfov1.UploadInfo{
		BuildId: e.buildID, File: file[:min(len(file), 4096)], Zstd: true,
	}}})
	w := &chunks{ctx: ctx, bytesPerSecond: d.opts.BytesPerSecond, start: time.Now(), send: func(b []byte) error {
		return stream.Send(&debuginfov1.UploadRequest{Data: &debuginfov1.UploadRequest_Chunk{Chunk: b}})
	}}
	if err == nil {
		err = w.copy(x)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("uploading debug information of %s: %w", e.path, err)
	}
	// io.EOF: the server has answered already, and here is its answer.
	if _, err := stream.CloseAndReceive(); err != nil {
		return false, fmt.Errorf("uploading debug information of %s: %w", e.path, err)
	}
	if err != nil {
		return false, fmt.Errorf("uploading debug information of %s: the server did not read it all", e.path)
	}
	d.happened(d.metrics.uploads, &d.counts.Uploaded, nil)
	d.metrics.bytes.Add(float64(w.sent))
	level.Debug(d.opts.Logger).Log("msg", "uploaded debug information", "file", e.path, "build_id", e.buildID, "bytes", w.sent)
	return false, nil
}

// extract reads the debug information of a file: by its path if that still leads to the same build id, for
// there a split debug file may be found too; else from the descriptor that was kept.
func (d *Debuginfo) extract(e *executable) (*debuginfo.Extraction, error) {
	if e.content != nil {
		return debuginfo.Extract(strings.NewReader(string(e.content)), int64(len(e.content)))
	}
	for _, root := range []string{e.root, ""} {
		if sameBuildID(root+e.path, e.buildID) {
			if x, err := debuginfo.ExtractFile(e.path, root); err == nil {
				return x, nil
			}
		}
		if e.root == "" {
			break
		}
	}
	if e.file == nil {
		return nil, fmt.Errorf("opening %s: no file with its build id is there", e.path)
	}
	info, err := e.file.Stat()
	if err != nil {
		return nil, err
	}
	return debuginfo.Extract(e.file, info.Size())
}

func sameBuildID(path, buildID string) bool {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	id, err := elf.BuildID(f)
	return err == nil && id == buildID
}

// Close forgets everything. Call it after Run has returned.
func (d *Debuginfo) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	for _, e := range d.files {
		d.release(e)
	}
	if d.opts.Registerer != nil {
		for _, c := range d.metrics.all {
			d.opts.Registerer.Unregister(c)
		}
	}
	return nil
}

// chunks compresses a file and sends it in pieces, not faster than it may.
type chunks struct {
	ctx            context.Context
	send           func([]byte) error
	bytesPerSecond int64
	start          time.Time
	sent           int64
	buf            []byte
}

func (c *chunks) copy(x io.WriterTo) error {
	zw, err := zstd.NewWriter(c, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(1<<20),
		zstd.WithEncoderLevel(zstd.SpeedFastest)) // a start sends all at once, and the node has other things to do
	if err != nil {
		panic("BUG: zstd refuses our options: " + err.Error())
	}
	if _, err := x.WriteTo(zw); err != nil {
		zw.Reset(nil)
		return err
	}
	if err := zw.Close(); err != nil {
		return err
	}
	return c.flush()
}

// Write implements io.Writer for the compressor.
func (c *chunks) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		k := min(len(b), chunkBytes-len(c.buf))
		c.buf = append(c.buf, b[:k]...)
		b = b[k:]
		if len(c.buf) == chunkBytes {
			if err := c.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (c *chunks) flush() error {
	if len(c.buf) == 0 {
		return nil
	}
	if err := c.send(c.buf); err != nil {
		return err
	}
	c.sent += int64(len(c.buf))
	c.buf = c.buf[:0]
	due := c.start.Add(time.Duration(float64(c.sent) / float64(c.bytesPerSecond) * float64(time.Second)))
	if d := time.Until(due); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-c.ctx.Done():
			return c.ctx.Err()
		case <-t.C:
		}
	}
	return nil
}

// Package ship brings what the agent measured to the server: profiles as OTLP (v1development) over gRPC, and
// once per build id the debug information that naming their frames takes.
//
//	Send ─▶ encode ─▶ memory queue ─▶ gRPC, zstd ──▶ server
//	                     │  server away, or queue full        ▲
//	                     └─▶ spool on disk (bounded, in order) ┘
//
// It promises: what Send took is delivered in the order of Send, exactly once in effect (every OTLP profile
// has an id, and the server knows it again), unless the server refuses it for good, or more piles up than
// the spool may hold: then the oldest goes first. Whatever is lost is counted in perfuse_ship_dropped_*.
package ship

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/klauspost/compress/zstd"
	"github.com/perfuse/perfuse/profile"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
)

// Options of New. Address is required.
type Options struct {
	// Address is the server's HOST:PORT (or http:// or https:// URL).
	Address string
	// Insecure: plain HTTP/2 instead of TLS.
	Insecure bool
	// TLS is the configuration without Insecure. Default: the system's roots.
	TLS *tls.Config
	// Headers are sent with every request, for instance Authorization.
	Headers map[string]string
	// SpoolDir is where profiles wait while the server is away. Empty: in memory only, at most QueueBytes.
	SpoolDir string
	// SpoolMaxBytes bounds the spool. Default 256 MiB.
	SpoolMaxBytes int64
	// QueueBytes bounds what waits in memory, encoded and compressed. Default 8 MiB.
	QueueBytes int64
	// Timeout bounds one request. Default 30 seconds.
	Timeout time.Duration
	// OnError is told what goes wrong, and must not block. Default: nobody is.
	OnError func(error)
	// Logger and Registerer: default none.
	Logger     log.Logger
	Registerer prometheus.Registerer
}

// patience is how long a server may be away before that is told as an error: it may just start.
const patience = 10 * time.Second

// DefaultSpoolMaxBytes bounds the spool where nothing else does.
const DefaultSpoolMaxBytes = 256 << 20

// T sends profiles to a server. Its methods are safe for concurrent use, Run is called once.
type T struct {
	opts     Options
	logger   log.Logger
	metrics  *metrics
	client   *http.Client
	url      string
	headers  http.Header
	exporter *exporter
	limits   messageLimits
	zw       *zstd.Encoder
	zr       *zstd.Decoder

	mu     sync.Mutex
	queue  [][]byte // compressed requests; only if the spool is empty, or if there is none
	queued int64    // bytes in queue
	busy   bool     // queue[0] is being sent
	spool  *spool
	closed bool
	away   bool // the last try failed: what comes goes to the spool
	since  time.Time
	wake   chan struct{}
	idle   []chan struct{} // of those who wait for an empty queue
}

// ErrClosed: Send came after Close.
var ErrClosed = errors.New("the shipper is closed")

// New opens the spool. What it still holds is sent first. It does not connect.
func New(opts Options) (*T, error) {
	if opts.SpoolMaxBytes == 0 {
		opts.SpoolMaxBytes = DefaultSpoolMaxBytes
	}
	if opts.QueueBytes == 0 {
		opts.QueueBytes = 8 << 20
	}
	if opts.Timeout == 0 {
		opts.Timeout = 30 * time.Second
	}
	if opts.Logger == nil {
		opts.Logger = log.NewNopLogger()
	}
	if opts.OnError == nil {
		opts.OnError = func(error) {}
	}
	url, err := serverURL(opts.Address, opts.Insecure)
	if err != nil {
		return nil, fmt.Errorf("setting up shipping: %w", err)
	}
	client := newHTTPClient(opts.Insecure, opts.TLS)
	headers := http.Header{}
	for k, v := range opts.Headers {
		headers.Set(k, v)
	}
	t := &T{
		opts: opts, logger: opts.Logger, limits: defaultMessageLimits, wake: make(chan struct{}, 1),
		client: client, url: url, headers: headers, exporter: newExporter(client, url, headers),
	}
	if t.zw, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(1<<20)); err != nil {
		panic("BUG: zstd refuses our options: " + err.Error())
	}
	if t.zr, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxRecordBytes)); err != nil {
		panic("BUG: zstd refuses our options: " + err.Error())
	}
	t.metrics = newMetrics(opts.Registerer, t)
	if opts.SpoolDir != "" {
		var cut int64
		t.spool, cut, err = openSpool(opts.SpoolDir, opts.SpoolMaxBytes, func(records int, bytes int64) {
			t.metrics.drop("spool_full", records)
			level.Warn(t.logger).Log("msg", "dropped the oldest profiles from the spool", "batches", records, "bytes", bytes)
			t.opts.OnError(fmt.Errorf("dropping %d messages from the spool: it is full", records))
		})
		if err != nil {
			t.metrics.unregister()
			return nil, err
		}
		if cut > 0 {
			t.metrics.cut.Add(float64(cut))
			level.Warn(t.logger).Log("msg", "cut a torn end from the spool", "bytes", cut)
		}
		if n, bytes := t.spool.size(); n > 0 {
			level.Info(t.logger).Log("msg", "found profiles in the spool", "batches", n, "bytes", bytes)
		}
	}
	return t, nil
}

// Send takes a batch over: it is queued or on disk when Send returns. It does not keep b, and does not wait
// for the server. An error means that nothing of b was taken.
func (t *T) Send(ctx context.Context, b *profile.Batch) error {
	reqs, err := requests(b, t.limits)
	if err != nil {
		return err
	}
	for _, r := range reqs {
		body, err := proto.Marshal(r)
		if err != nil {
			return fmt.Errorf("encoding profiles: %w", err)
		}
		if len(body) > maxRecordBytes {
			return fmt.Errorf("encoding profiles: a message of %d bytes", len(body))
		}
		if err := t.enqueue(body); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (t *T) enqueue(body []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return ErrClosed
	}
	b := t.zw.EncodeAll(body, nil)
	t.metrics.batches.Inc()
	t.metrics.bytes.Add(float64(len(b)))
	t.queue = append(t.queue, b)
	t.queued += int64(len(b))
	if t.spool != nil && (t.away || !t.spool.empty() || t.queued > t.opts.QueueBytes) {
		t.spill()
	}
	for t.queued > t.opts.QueueBytes && len(t.queue) > 1 {
		t.metrics.drop("queue_full", 1)
		t.pop(0)
	}
	select {
	case t.wake <- struct{}{}:
	default:
	}
	return nil
}

// pop takes an element out of the queue; the one that is being sent (index 0 while busy) stays.
func (t *T) pop(i int) {
	if t.busy && i == 0 {
		i = 1
	}
	t.queued -= int64(len(t.queue[i]))
	t.queue = append(t.queue[:i], t.queue[i+1:]...)
}

// spill moves the queue to the spool, in order. While its first element is being sent it stays, and so do
// those behind it: the outcome will tell.
func (t *T) spill() {
	if t.busy && t.queued <= t.opts.QueueBytes {
		return
	}
	if t.busy {
		// Too much behind a slow request: write all of it. Should the one on its way arrive, the server knows
		// it again when it comes from the spool.
		t.busy = false
	}
	for _, b := range t.queue {
		if err := t.spool.append(b); err != nil {
			t.metrics.drop("spool_failed", 1)
			level.Error(t.logger).Log("msg", "dropped profiles", "err", err)
			t.opts.OnError(err)
		}
	}
	t.queue, t.queued = nil, 0
}

// Run sends until ctx ends, then returns nil. What is left stays for Close.
func (t *T) Run(ctx context.Context) error {
	var wait backoff
	for {
		b, at, fromSpool := t.take()
		if b == nil {
			select {
			case <-ctx.Done():
				return nil
			case <-t.wake:
			case <-time.After(syncEvery):
				t.sync()
			}
			continue
		}
		err := t.deliver(ctx, b)
		if ctx.Err() != nil && err != nil {
			t.untake()
			return nil
		}
		v := judge(err)
		if err == nil || v.permanent {
			if err != nil {
				t.metrics.drop("refused", 1)
				level.Error(t.logger).Log("msg", "the server refuses profiles", "err", err)
				t.opts.OnError(err)
			}
			t.done(b, at, fromSpool)
			wait.reset()
			continue
		}
		t.failed(err)
		pause := time.NewTimer(wait.wait(v))
		for paused := true; paused; {
			select {
			case <-ctx.Done():
				pause.Stop()
				return nil
			case <-pause.C:
				paused = false
			case <-time.After(syncEvery):
				t.sync()
			}
		}
	}
}

// take returns what is to be sent next, nil if there is nothing.
func (t *T) take() (b []byte, at cursor, fromSpool bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.spool != nil && !t.spool.empty() {
		b, at, err := t.spool.first()
		if err == nil {
			return b, at, true
		}
		if !errors.Is(err, io.EOF) {
			level.Error(t.logger).Log("msg", "reading the spool", "err", err)
			return nil, cursor{}, false
		}
	}
	if len(t.queue) > 0 {
		t.busy = true
		return t.queue[0], cursor{}, false
	}
	return nil, cursor{}, false
}

func (t *T) untake() {
	t.mu.Lock()
	t.busy = false
	t.mu.Unlock()
}

// done takes out of the queue or the spool what was delivered or refused.
func (t *T) done(b []byte, at cursor, fromSpool bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.away {
		t.away = false
		level.Info(t.logger).Log("msg", "the server takes profiles again")
	}
	switch {
	case fromSpool:
		if err := t.spool.delivered(b, at); err != nil {
			level.Error(t.logger).Log("msg", "moving on in the spool", "err", err)
		}
	case t.busy:
		t.busy = false
		t.pop(0)
	}
	t.tellIdle()
}

func (t *T) failed(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.metrics.failures.Inc()
	if t.away && time.Since(t.since) > patience {
		t.opts.OnError(err)
	}
	if !t.away {
		t.away, t.since = true, time.Now()
		level.Warn(t.logger).Log("msg", "the server does not take profiles; they wait", "spool", t.opts.SpoolDir, "err", err)
	}
	t.busy = false
	if t.spool != nil {
		t.spill()
	}
}

func (t *T) sync() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.spool != nil {
		if err := t.spool.syncIfDue(); err != nil {
			level.Error(t.logger).Log("msg", "syncing the spool", "err", err)
		}
	}
}

// deliver sends one compressed request.
func (t *T) deliver(ctx context.Context, b []byte) error {
	body, err := t.zr.DecodeAll(b, nil)
	if err != nil {
		t.metrics.drop("damaged", 1)
		level.Error(t.logger).Log("msg", "dropped profiles that cannot be unpacked", "err", err)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, t.opts.Timeout)
	defer cancel()
	start := time.Now()
	rejected, reason, err := t.exporter.send(ctx, body)
	if err != nil {
		return fmt.Errorf("sending profiles to %s: %w", t.opts.Address, err)
	}
	t.metrics.seconds.Observe(time.Since(start).Seconds())
	if rejected > 0 {
		t.metrics.rejected.Add(float64(rejected))
		level.Warn(t.logger).Log("msg", "the server rejected profiles", "profiles", rejected, "reason", reason)
		t.opts.OnError(fmt.Errorf("sending profiles to %s: it rejected %d of them: %s", t.opts.Address, rejected, reason))
	}
	return nil
}

// Flush waits until nothing waits for delivery any more, or ctx ends.
func (t *T) Flush(ctx context.Context) error {
	t.mu.Lock()
	idle := make(chan struct{})
	t.idle = append(t.idle, idle)
	t.tellIdle()
	t.mu.Unlock()
	select {
	case <-ctx.Done():
		return fmt.Errorf("waiting for profiles to be delivered: %w", ctx.Err())
	case <-idle:
		return nil
	}
}

func (t *T) tellIdle() {
	if len(t.queue) == 0 && (t.spool == nil || t.spool.empty()) {
		for _, c := range t.idle {
			close(c)
		}
		t.idle = nil
	}
}

// Close writes what was not delivered to the spool. Call it after Run has returned.
func (t *T) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed, t.busy = true, false
	t.metrics.unregister()
	t.zr.Close()
	if t.spool == nil {
		t.metrics.drop("closed", len(t.queue))
		return nil
	}
	t.spill()
	return t.spool.close()
}

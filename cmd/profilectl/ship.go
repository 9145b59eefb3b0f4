package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"connectrpc.com/connect"
	"github.com/go-kit/log"

	"github.com/perfuse/perfuse/agent/ship"
	"github.com/perfuse/perfuse/profile"
)

// ship sends one batch to the server's OTLP door, as an agent does, and returns when it is stored. What an agent
// would try again and again, or count and drop, is an error here.
func (a *app) ship(ctx context.Context, what string, b *profile.Batch) error {
	server, err := a.serverURL()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	watch := shipWatch{stop: cancel}
	s, err := ship.New(ship.Options{
		Address: server, Insecure: strings.HasPrefix(server, "http:"),
		QueueBytes: 1 << 40, // nothing is dropped for lack of room
		Timeout:    a.timeout,
		Logger:     &watch,
	})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := s.Send(ctx, b); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	var run sync.WaitGroup
	run.Go(func() { err = s.Run(ctx) })
	flushErr := s.Flush(ctx)
	cancel()
	run.Wait()
	closeErr := s.Close()
	failed := watch.failure()
	if failed == nil && errors.Is(flushErr, context.DeadlineExceeded) {
		failed = connect.NewError(connect.CodeDeadlineExceeded, flushErr)
	}
	if failed != nil {
		return a.explain(what, server, failed)
	}
	return errors.Join(flushErr, err, closeErr)
}

// shipWatch is the sender's log: the first thing that goes wrong ends the upload. Its sender reports with the
// key "err" what failed or was refused, and with "reason" what the server took only in part.
type shipWatch struct {
	stop context.CancelFunc
	mu   sync.Mutex
	err  error
}

var _ log.Logger = (*shipWatch)(nil)

func (w *shipWatch) Log(keyvals ...any) error {
	for i := 0; i+1 < len(keyvals); i += 2 {
		var err error
		switch keyvals[i] {
		case "err":
			err, _ = keyvals[i+1].(error)
		case "reason":
			err = fmt.Errorf("the server took it only in part: %v", keyvals[i+1])
		}
		if err != nil {
			w.mu.Lock()
			if w.err == nil {
				w.err = err
			}
			w.mu.Unlock()
			w.stop()
		}
	}
	return nil
}

func (w *shipWatch) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

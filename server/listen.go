package server

import (
	"context"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// defaultOTLPAddresses are OpenTelemetry's own ports.
var defaultOTLPAddresses = []string{"127.0.0.1:4317", "127.0.0.1:4318"}

// listen takes the ports.
func (s *Server) listen() error {
	l, err := net.Listen("tcp", s.opts.HTTPAddress)
	if err != nil {
		return listenError(s.opts.HTTPAddress, "--http-address", err)
	}
	s.main = l
	optional := s.opts.OTLPAddresses == nil
	addresses := s.opts.OTLPAddresses
	if optional {
		addresses = defaultOTLPAddresses
	}
	for _, a := range addresses {
		l, err := net.Listen("tcp", a)
		switch {
		case err == nil:
			s.otlp = append(s.otlp, l)
		case optional:
			level.Info(s.logger).Log("msg", "not listening for OTLP here, it goes on on the main port", "address", a, "reason", reason(err))
		default:
			return listenError(a, "otlp_addresses", err)
		}
	}
	return nil
}

// listenError says which address cannot be had and what to do.
func listenError(address, setting string, err error) error {
	advice := "choose another address with " + setting
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		_, port, _ := net.SplitHostPort(address)
		advice = fmt.Sprintf("another process has port %s (ss -ltnp 'sport = :%s' shows which); stop it or choose another with %s", port, port, setting)
	case errors.Is(err, syscall.EACCES):
		advice = "ports below 1024 need root or CAP_NET_BIND_SERVICE; choose a higher one with " + setting
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		advice = "this machine has no such address; choose one of its own, or :PORT for all, with " + setting
	}
	return fmt.Errorf("listening on %s: %w: %s", address, reason(err), advice)
}

// reason is the innermost error: the outer ones repeat the address.
func reason(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}

// pageURL turns a listening address into something that a browser opens.
func pageURL(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return "http://" + a.String()
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

func isLoopback(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}

const (
	headerTime = 10 * time.Second // for a request's head to arrive
	idleTime   = 2 * time.Minute  // between requests of a connection
	stallTime  = time.Minute      // between two pieces of a request's body
	writeTime  = 2 * time.Minute  // for the client to take one piece of an answer
)

// httpServer speaks HTTP/1.1 and HTTP/2 without TLS, which is what gRPC on one port needs.
func (s *Server) httpServer(base context.Context, h http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           h,
		Protocols:         protocols,
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    64 << 10,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 128,
			SendPingTimeout:      30 * time.Second,
			PingTimeout:          15 * time.Second,
			WriteByteTimeout:     writeTime,
		},
		BaseContext: func(net.Listener) context.Context { return base },
		ErrorLog:    stdlog.New(httpLog{s.logger}, "", 0),
	}
}

// httpLog puts net/http's own lines, which tell of broken connections, among the debugging ones.
type httpLog struct{ log.Logger }

func (l httpLog) Write(p []byte) (int, error) {
	level.Debug(l.Logger).Log("msg", strings.TrimSpace(string(p)))
	return len(p), nil
}

// writeDeadlines gives every write a deadline: a client that stops reading loses its connection.
type writeDeadlines struct{ net.Listener }

func (l writeDeadlines) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return deadlineConn{c}, nil
}

type deadlineConn struct{ net.Conn }

func (c deadlineConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

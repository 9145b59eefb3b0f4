package server

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// handler is everything on the one port.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) { plain(w, http.StatusOK, "ok") })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, r *http.Request) {
		if !s.Ready() {
			plain(w, http.StatusServiceUnavailable, "starting: the store is not open")
			return
		}
		plain(w, http.StatusOK, "ok")
	})
	mux.Handle("/metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	mux.HandleFunc("/debug/{$}", s.debugPage)
	mux.Handle("/debug/", http.NotFoundHandler()) // also makes /debug lead there
	mux.HandleFunc("/debug/config", s.debugConfig)
	mux.HandleFunc("/debug/status", s.debugStatus)
	mux.HandleFunc("/debug/storage", s.debugStorage)
	mux.HandleFunc("/debug/errors", s.debugErrors)
	mux.HandleFunc("/debug/targets", s.debugTargets)
	mux.HandleFunc("/debug/build", debugBuild)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		b := s.backend.Load()
		if b == nil {
			unavailable(w)
			return
		}
		b.http.ServeHTTP(w, r)
	})
	return s.guard(mux, true)
}

// otlpHandler is what OpenTelemetry's own ports serve.
func (s *Server) otlpHandler() http.Handler {
	return s.guard(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := s.backend.Load()
		if b == nil {
			unavailable(w)
			return
		}
		b.otlp.ServeHTTP(w, r)
	}), false)
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	io.WriteString(w, text+"\n")
}

// unavailable is what every client, gRPC's too, takes for "send it again later".
func unavailable(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "1")
	plain(w, http.StatusServiceUnavailable, "the server is starting or stopping; try again in a moment")
}

// guard is what every request passes first.
func (s *Server) guard(next http.Handler, page bool) http.Handler {
	// A browser may only change something, or ask anything by POST, from the server's own page.
	crossOrigin := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.inFlight.begin()
		defer s.inFlight.end()
		defer s.recover(w, r)
		if page {
			securityHeaders(w.Header())
		}
		if err := s.checkHost(r); err != nil {
			plain(w, http.StatusForbidden, err.Error())
			return
		}
		if err := crossOrigin.Check(r); err != nil {
			plain(w, http.StatusForbidden, "a page of another site may not ask this server: "+err.Error())
			return
		}
		// A copy: net/http looks at the body of its own request to see whether all of it was read, and
		// would take the rest of one that a limit cut off for the next request.
		r = r.WithContext(r.Context())
		r.Body = &patientBody{ReadCloser: r.Body, control: http.NewResponseController(w)}
		next.ServeHTTP(w, r)
	})
}

// securityHeaders let the page load only what this server serves, and nobody frame it.
func securityHeaders(h http.Header) {
	// The page has a policy of its own; this one is for the pages below /debug/.
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self'; img-src 'self' data:; "+
		"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
}

// checkHost keeps other people's web pages from reading a server on loopback by giving their own name our
// address (DNS rebinding): such a request comes with their name. On other interfaces people use names that
// we cannot know.
func (s *Server) checkHost(r *http.Request) error {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok || !isLoopback(local) {
		return nil
	}
	if r.ProtoMajor == 2 && r.TLS == nil {
		return nil // no browser speaks HTTP/2 without TLS; agents do, and call us by any name
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	if host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") || net.ParseIP(host) != nil ||
		strings.EqualFold(host, s.hostname) ||
		slices.ContainsFunc(s.opts.AllowedHosts, func(a string) bool { return strings.EqualFold(a, host) }) {
		return nil
	}
	return fmt.Errorf("host %.100q is not a name of this server, which listens on loopback; allow it with allowed_hosts in the configuration file", host)
}

// recover ends a request that panicked and leaves the process alive.
func (s *Server) recover(w http.ResponseWriter, r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(v)
	}
	s.panics.Inc()
	s.errors.add(r.URL.Path, fmt.Errorf("panic: %v", v))
	level.Error(s.logger).Log("msg", "panic", "path", r.URL.Path, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	// If the answer has begun, cutting the connection is the only way to say that it is not whole.
	panic(http.ErrAbortHandler)
}

// patientBody waits for the next piece of a body as long as pieces come, and no longer.
type patientBody struct {
	io.ReadCloser
	control *http.ResponseController
	done    bool
}

func (b *patientBody) Read(p []byte) (int, error) {
	if b.done {
		return b.ReadCloser.Read(p)
	}
	b.control.SetReadDeadline(time.Now().Add(stallTime)) // not supported: then there is none
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		// While the answer is computed, nothing is expected from the client.
		b.done = true
		b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

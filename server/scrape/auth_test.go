package scrape

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestAuthentication asks a target over TLS with each kind of credentials, and with wrong ones; no secret gets
// into an error.
func TestAuthentication(t *testing.T) {
	dir := t.TempDir()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if r.Header.Get("User-Agent") != userAgent || user+password != "mehush" && r.Header.Get("Authorization") != "Bearer hush" && r.Header.Get("X-Key") != "hush" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		w.Write(encode("goroutine/count", time.Now(), "main 1"))
	}))
	defer server.Close()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("token", "hush")
	write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	const tls = "tls_config: {ca_file: ca.pem}"
	f := func(wantErr string, settings ...string) {
		t.Helper()
		text := fmt.Sprintf("- job_name: a\n  scheme: https\n  profiling_config: {pprof_config: {process_cpu: {enabled: false}, memory: {enabled: false}, mutex: {enabled: false}, block: {enabled: false}}}\n"+
			"  static_configs: [{targets: [%q]}]\n", strings.TrimPrefix(server.URL, "https://"))
		for _, s := range settings {
			text += "  " + s + "\n"
		}
		c, err := parse(text)
		if err != nil {
			t.Fatal(err)
		}
		c[0].SetDirectory(dir)
		k := &keeper{}
		m, err := New(Options{Ingester: k, Configs: c})
		if err != nil {
			t.Fatal(err)
		}
		j := m.jobs[0]
		defer j.client.CloseIdleConnections()
		tgt, err := newTarget(j.config, j.rules, expand(c[0].Static)[0])
		if err != nil {
			t.Fatal(err)
		}
		l := &loop{job: j, target: tgt, profiles: make([]profileState, len(j.fetches))}
		l.round(t.Context())
		got := l.status().Profiles[0].Error
		if wantErr == "" && (got != "" || len(k.batches) != 1) || !strings.Contains(got, wantErr) || strings.Contains(got, "hush") {
			t.Errorf("%v: %q, want %q", settings, got, wantErr)
		}
	}
	f("", tls, "basic_auth: {username: me, password: hush}")
	f("", tls, "basic_auth: {username: me, password_file: token}")
	f("", tls, "authorization: {credentials: hush}")
	f("", tls, "authorization: {credentials_file: token}")
	f("", tls, "http_headers: {X-Key: {secrets: [hush]}}")
	f("", "tls_config: {insecure_skip_verify: true}", "bearer_token: hush")
	f("the target answers 401 Unauthorized: who are you?", tls)
	f("the target answers 401 Unauthorized: who are you?", tls, "basic_auth: {username: you, password: hush}")
	f("certificate signed by unknown authority", "authorization: {credentials: hush}")
	f("no such file or directory", tls, "authorization: {credentials_file: nowhere}")
}

package web

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func get(t *testing.T, target string, header ...string) *http.Response {
	t.Helper()
	return do(t, http.MethodGet, target, header...)
}

func do(t *testing.T, method, target string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r *http.Response) []byte {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// assets returns the paths that index.html loads.
func assets(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, m := range regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllSubmatch(body(t, get(t, "/")), -1) {
		out = append(out, string(m[1]))
	}
	if len(out) < 3 {
		t.Fatalf("index.html loads %q: want a script, a style sheet and an icon", out)
	}
	return out
}

func TestPaths(t *testing.T) {
	f := func(method, target string, status int, contentType, cache string) {
		t.Helper()
		r := do(t, method, target)
		if r.StatusCode != status {
			t.Errorf("%s %s: status %d, want %d", method, target, r.StatusCode, status)
		}
		if got := r.Header.Get("Content-Type"); !strings.HasPrefix(got, contentType) {
			t.Errorf("%s %s: content type %q, want %q", method, target, got, contentType)
		}
		if got := r.Header.Get("Cache-Control"); got != cache {
			t.Errorf("%s %s: cache control %q, want %q", method, target, got, cache)
		}
	}
	const html = "text/html; charset=utf-8"
	f("GET", "/", 200, html, "no-cache")
	f("GET", "/?type=cpu&q=%7B%7D", 200, html, "no-cache")
	f("GET", "/index.html", 200, html, "no-cache")
	f("HEAD", "/", 200, html, "no-cache")
	f("GET", "/explore/one", 200, html, "no-cache")
	f("GET", "/icon.svg", 200, "image/svg+xml", "no-cache")
	f("GET", "/nothing.js", 404, "text/plain", "")
	f("GET", "/assets/index-gone.js", 404, "text/plain", "")
	f("GET", "/../embed.go", 404, "text/plain", "")
	f("POST", "/", 405, "text/plain", "")
	for _, a := range assets(t) {
		if strings.HasPrefix(a, "/assets/") {
			f("GET", a, 200, "text/", "public, max-age=31536000, immutable")
		}
	}
}

func TestSecurityHeaders(t *testing.T) {
	h := get(t, "/").Header
	for name, want := range map[string]string{
		"Content-Security-Policy":    contentSecurityPolicy,
		"X-Content-Type-Options":     "nosniff",
		"X-Frame-Options":            "DENY",
		"Referrer-Policy":            "no-referrer",
		"Cross-Origin-Opener-Policy": "same-origin",
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	// The policy forbids inline scripts and styles: the page must not have any.
	page := string(body(t, get(t, "/")))
	for _, bad := range []string{"<style", "style=", "onload=", "javascript:"} {
		if strings.Contains(page, bad) {
			t.Errorf("index.html has %q, which its own policy forbids", bad)
		}
	}
	if regexp.MustCompile(`<script(?:\s[^>]*)?>\s*[^<\s]`).MatchString(page) {
		t.Error("index.html has an inline script, which its own policy forbids")
	}
}

func TestEncodings(t *testing.T) {
	for _, a := range append(assets(t), "/") {
		plain := get(t, a)
		if e := plain.Header.Get("Content-Encoding"); e != "" {
			t.Errorf("%s: encoded as %q without being asked", a, e)
		}
		zipped := get(t, a, "Accept-Encoding", "br, gzip;q=0.8")
		if zipped.Header.Get("Content-Encoding") != "gzip" {
			t.Errorf("%s: not gzipped", a)
			continue
		}
		if plain.Header.Get("ETag") == zipped.Header.Get("ETag") {
			t.Errorf("%s: two encodings share the tag %s", a, plain.Header.Get("ETag"))
		}
		z, err := gzip.NewReader(zipped.Body)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, body(t, plain)) {
			t.Errorf("%s: gzipped content differs", a)
		}
	}
}

func TestAcceptsGzip(t *testing.T) {
	f := func(header string, want bool) {
		t.Helper()
		if got := acceptsGzip(header); got != want {
			t.Errorf("%q: %v, want %v", header, got, want)
		}
	}
	f("", false)
	f("gzip", true)
	f("GZIP", true)
	f("br, deflate", false)
	f("gzip;q=0", false)
	f("gzip; q=0.5", true)
	f("gzip;q=x", false)
	f("*", true)
	f("*;q=0", false)
	f("*, gzip;q=0", false)
	f("identity, gzip", true)
}

func TestNotModified(t *testing.T) {
	for _, encoding := range []string{"", "gzip"} {
		tag := get(t, "/", "Accept-Encoding", encoding).Header.Get("ETag")
		f := func(header string, want int) {
			t.Helper()
			if got := get(t, "/", "Accept-Encoding", encoding, "If-None-Match", header).StatusCode; got != want {
				t.Errorf("If-None-Match %s: status %d, want %d", header, got, want)
			}
		}
		f(tag, 304)
		f("W/"+tag, 304)
		f(`"other", `+tag, 304)
		f("*", 304)
		f(`"other"`, 200)
	}
}

package sources

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestText(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	write := func(file, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(dir, "net/http/server.go"), "package http\n")
	write(filepath.Join(dir, "large.c"), strings.Repeat("x", MaxBytes+1))
	write(filepath.Join(dir, "full.c"), strings.Repeat("x", MaxBytes))
	write(filepath.Join(dir, "binary.c"), "a\x00b")
	write(filepath.Join(outside, "secret"), "secret")
	if err := os.Symlink(filepath.Join(outside, "secret"), filepath.Join(dir, "link.c")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe.c"), 0o644); err != nil {
		t.Fatal(err)
	}

	f, err := New([]Rule{{Prefix: "/build/go/src/", Directory: dir}, {Directory: dir}})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, c := range []struct{ file, text, err string }{
		{"/build/go/src/net/http/server.go", "package http\n", ""},
		{"/build/go/src/./net//http/server.go", "package http\n", ""},
		{"net/http/server.go", "package http\n", ""},
		{filepath.Join(dir, "net/http/server.go"), "package http\n", ""},
		{"full.c", strings.Repeat("x", MaxBytes), ""},
		{"net/http/client.go", "", "the server's sources do not have this file"},
		{"/build/go/srcs/net/http/server.go", "", "--source-path"},
		{"/etc/passwd", "", "--source-path"},
		{"../" + filepath.Base(outside) + "/secret", "", "opening the source file"},
		{"/build/go/src/../../../" + outside + "/secret", "", "--source-path"},
		{"link.c", "", "opening the source file"},
		{"pipe.c", "", "no regular file"},
		{"net", "", "no regular file"},
		{"large.c", "", "larger than"},
		{"binary.c", "", "no text"},
		{"", "", "names no source file"},
	} {
		text, err := f.Text(c.file)
		if c.err == "" && (err != nil || text != c.text) || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %.40q, %v; want %.40q, %q", c.file, text, err, c.text, c.err)
		}
	}
	if _, err := (&Files{}).Text("a.c"); !errors.Is(err, ErrNone) {
		t.Errorf("without rules: %v", err)
	}
	if _, err := New([]Rule{{Directory: filepath.Join(dir, "nowhere")}}); err == nil {
		t.Error("a directory that is not there was opened")
	}
	if _, err := New([]Rule{{Prefix: "/a"}}); err == nil {
		t.Error("a rule without a directory was taken")
	}
}

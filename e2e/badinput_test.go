package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	profilestorev1alpha1 "github.com/perfuse/perfuse/proto/parca/profilestore/v1alpha1"
	pushv1 "github.com/perfuse/perfuse/proto/push/v1"
)

// TestBadBodies sends what no client should: each gets a 4xx with words in it, and the server lives on, small.
func TestBadBodies(t *testing.T) {
	t.Parallel()
	in := start(t, "server", freeAddress(t), t.TempDir())
	good := export(t, "good", time.Now(), "one", "two")
	gzipBomb, zstdBomb := bombs(t)
	pushed, err := proto.Marshal(&pushv1.PushRequest{Series: []*pushv1.RawProfileSeries{{Samples: []*pushv1.RawSample{{RawProfile: gzipBomb}}}}})
	if err != nil {
		t.Fatal(err)
	}
	written, err := proto.Marshal(&profilestorev1alpha1.WriteRawRequest{Series: []*profilestorev1alpha1.RawProfileSeries{{Samples: []*profilestorev1alpha1.RawSample{{RawProfile: gzipBomb}}}}})
	if err != nil {
		t.Fatal(err)
	}
	const rpc = "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export"
	const gzipped, zstded = "gzip", "zstd"
	for _, c := range []struct {
		name, path, contentType, encoding string
		body                              []byte
		status                            int
		says                              string // in the answer, in any case
	}{
		{"garbage", "/v1development/profiles", "application/x-protobuf", "", []byte("\xff\xfe garbage \x00\x01\x02"), 400, ""},
		{"garbage for JSON", "/v1development/profiles", "application/json", "", []byte("{not json"), 400, ""},
		{"truncated", "/v1development/profiles", "application/x-protobuf", "", good[:len(good)/2], 400, ""},
		{"empty", "/v1development/profiles", "application/x-protobuf", "", nil, 400, ""},
		{"not gzip", "/v1development/profiles", "application/x-protobuf", gzipped, good, 400, "gzip"},
		{"an encoding of its own", "/v1development/profiles", "application/x-protobuf", "rot13", good, 415, "rot13"},
		{"a media type of its own", "/v1development/profiles", "text/plain", "", good, 415, "text/plain"},
		{"1 GiB as gzip", "/v1development/profiles", "application/x-protobuf", gzipped, gzipBomb, 413, "limit"},
		{"1 GiB as zstd", "/v1development/profiles", "application/x-protobuf", zstded, zstdBomb, 413, "limit"},
		{"64 MiB plain", "/v1development/profiles", "application/x-protobuf", "", make([]byte, 64<<20), 413, "limit"},
		{"garbage by Connect", rpc, "application/proto", "", []byte("\xff\xfe garbage"), 400, ""},
		{"1 GiB as gzip by Connect", rpc, "application/proto", gzipped, gzipBomb, 429, "limit"},
		{"1 GiB within a push", "/push.v1.PusherService/Push", "application/proto", "", pushed, 429, "limit"},
		{"1 GiB within a write", "/parca.profilestore.v1alpha1.ProfileStoreService/WriteRaw", "application/proto", "", written, 429, "limit"},
		{"garbage as a record", "/parca.profilestore.v1alpha1.ProfileStoreService/WriteArrow", "application/proto", "", []byte("\xff\xfe garbage"), 400, ""},
		{"1 GiB as a pprof", "/ingest?name=good&format=pprof", "", "", gzipBomb, 413, "limit"},
		{"1 GiB as a recording", "/ingest?name=good&format=jfr", "", "", gzipBomb, 413, "limit"},
		{"1 GiB as folded text", "/ingest?name=good", "", gzipped, gzipBomb, 413, "limit"},
		{"a binary tree", "/ingest?name=good&format=tree", "", "", []byte("\x00\x01"), 415, "folded"},
		{"a procedure that is none", "/parca.debuginfo.v1alpha1.DebuginfoService/ShouldInitiateUpload", "application/json", "", []byte("{}"), 501, "is not served"},
		{"1 GiB for a query", "/perfuse.query.v1.QueryService/FlameGraph", "application/proto", zstded, zstdBomb, 429, "limit"},
		{"a regular expression that takes 250 MiB", "/perfuse.query.v1.QueryService/FlameGraph", "application/json", "",
			[]byte(`{"selection":{"profileType":"cpu","selector":"{a=~\"` + strings.Repeat(`\\\\pL`, 20_000) + `\"}"}}`), 429, "limit selector_bytes"},
		{"a query that is none", "/perfuse.query.v1.QueryService/FlameGraph", "application/json", "", []byte(`{"selection":{"profileType":"cpu","selector":"{a="}}`), 400, ""},
		{"a query of nothing", "/perfuse.query.v1.QueryService/FlameGraph", "application/json", "", []byte(`[1,2`), 400, ""},
	} {
		header := []string{"Content-Type", c.contentType}
		if c.encoding != "" {
			header = append(header, "Content-Encoding", c.encoding)
		}
		status, answer := in.post(c.path, bytes.NewReader(c.body), header...)
		if status != c.status {
			t.Errorf("%s: answers %d, want %d: %.300q", c.name, status, c.status, answer)
		}
		if len(strings.TrimSpace(answer)) < 10 || !strings.Contains(strings.ToLower(answer), c.says) {
			t.Errorf("%s: the answer %.300q does not say %q", c.name, answer, c.says)
		}
		in.alive(t)
	}
	// 64 MiB unpacked up to the limit, once, and what a server has anyway: 137 MiB, five times of five.
	const most = 256 << 20
	rss := in.rss(t)
	t.Logf("the server holds %d MiB after that", rss>>20)
	if rss > most {
		t.Errorf("the server holds %d MiB after that", rss>>20)
	}
	if status, answer := in.export(good); status != http.StatusOK {
		t.Errorf("a good request after the bad ones answers %d: %s", status, answer)
	}
	if got := in.value(t, "good", "process_cpu:samples"); got != 2 {
		t.Errorf("the good request's samples sum up to %d, want 2", got)
	}
}

// bombs are a few kilobytes that unpack to 1 GiB.
func bombs(t *testing.T) (gz, zst []byte) {
	t.Helper()
	var g, z bytes.Buffer
	gw := gzip.NewWriter(&g)
	zw, err := zstd.NewWriter(&z)
	if err != nil {
		t.Fatal(err)
	}
	zeroes := make([]byte, 1<<20)
	for range 1 << 10 {
		if _, err := io.MultiWriter(gw, zw).Write(zeroes); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(gw.Close(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	return g.Bytes(), z.Bytes()
}

// TestLyingELF gives `profilectl debuginfo upload` executables that lie about their offsets: an error or a file without use,
// and a server that lives.
func TestLyingELF(t *testing.T) {
	t.Parallel()
	in := start(t, "server", freeAddress(t), t.TempDir())
	own, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	own = own[:min(len(own), 8<<20)] // itself cut off: the section headers that follow are missing
	lie := func(offset int, value uint64) []byte {
		out := bytes.Clone(own)
		binary.LittleEndian.PutUint64(out[offset:], value)
		return out
	}
	const programHeaders, sectionHeaders = 0x20, 0x28 // e_phoff, e_shoff
	for name, content := range map[string][]byte{
		"cut":             own,
		"sections-beyond": lie(sectionHeaders, 1<<62),
		"sections-inside": lie(sectionHeaders, 1),
		"programs-beyond": lie(programHeaders, ^uint64(0)-8),
		"programs-inside": lie(programHeaders, 3),
		"empty":           nil,
		"magic-only":      []byte("\x7fELF"),
		"text":            []byte("#!/bin/sh\necho no\n"),
	} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), program(t, "profilectl"), "--server", in.url(""), "debuginfo", "upload", path)
		out, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); err != nil && code != 1 && code != 2 {
			t.Errorf("%s: profilectl ended with status %d:\n%s", name, code, out)
		}
		if bytes.Contains(out, []byte("goroutine ")) {
			t.Errorf("%s: profilectl panicked:\n%s", name, out)
		}
		if len(bytes.TrimSpace(out)) == 0 {
			t.Errorf("%s: profilectl said nothing", name)
		}
		in.alive(t)
	}
}

// TestBadStart starts perfuse where it cannot work: it says why, names the thing, and ends by itself.
func TestBadStart(t *testing.T) {
	t.Parallel()
	taken := start(t, "server", freeAddress(t), t.TempDir())
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("http_address: [unfinished\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	unknown := filepath.Join(t.TempDir(), "unknown.yaml")
	if err := os.WriteFile(unknown, []byte("http_adress: 127.0.0.1:1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		says string
	}{
		{"a taken port", []string{"server", "--http-address", taken.address, "--storage-path", t.TempDir()}, taken.address},
		{"a taken storage", []string{"server", "--http-address", freeAddress(t), "--storage-path", storagePath(taken)}, storagePath(taken)},
		{"a storage that is a file", []string{"server", "--http-address", freeAddress(t), "--storage-path", file}, file},
		{"a storage that cannot be made", []string{"server", "--http-address", freeAddress(t), "--storage-path", "/proc/perfuse"}, "/proc/perfuse"},
		{"a missing configuration", []string{"server", "--config-path", file + ".missing"}, file + ".missing"},
		{"a broken configuration", []string{"server", "--config-path", file}, file},
		{"a folder as configuration", []string{"server", "--config-path", filepath.Dir(file)}, filepath.Dir(file)},
		{"a misspelt key", []string{"server", "--config-path", unknown}, "http_adress"},
		{"an address that is none", []string{"server", "--http-address", "nonsense"}, "nonsense"},
		{"a rate that is none", []string{"up", "--sampling-rate", "0"}, "sampling-rate"},
		{"an agent without a server", []string{"agent"}, "--remote-store-address"},
		{"a command that is none", []string{"sever"}, "sever"},
	} {
		in := launch(t, c.args...)
		in.waitEnd(t, 20*time.Second)
		said := in.said.String()
		if code := in.cmd.ProcessState.ExitCode(); code <= 0 {
			t.Errorf("%s: ended with status %d", c.name, code)
		}
		if !strings.Contains(said, c.says) || strings.Contains(said, "goroutine ") {
			t.Errorf("%s: said %q, want words about %q", c.name, said, c.says)
		}
	}
	taken.alive(t)
}

func storagePath(in *instance) string {
	args := in.cmd.Args
	return args[len(args)-1]
}

// TestFullDisk fills the file system below a running server: writes are refused with a reason, questions are answered, and
// writes work again when there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	storage := t.TempDir()
	mount(t, storage, "size=48m", 0)
	in := start(t, "server", freeAddress(t), storage)
	if status, answer := in.export(export(t, "full", time.Now(), "before")); status != http.StatusOK {
		t.Fatalf("sending to an empty store answers %d: %s", status, answer)
	}
	filler := filepath.Join(storage, "filler")
	fill(t, filler)
	status, answer := 0, ""
	// A log may have room left in blocks that it already has: send until it is full.
	eventually(t, time.Minute, "a full disk refuses writes", func() bool {
		status, answer = in.export(export(t, "full", time.Now(), numbered("during", 0, 2000)...))
		return status != http.StatusOK
	})
	if status != http.StatusServiceUnavailable || !strings.Contains(answer, "no space left") {
		t.Errorf("a full disk answers %d: %q", status, answer)
	}
	in.alive(t)
	if got := in.value(t, "full", "process_cpu:samples"); got < 1 {
		t.Errorf("a query on a full disk finds %d samples", got)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "writes work again when there is room", func() bool {
		status, answer = in.export(export(t, "after", time.Now(), "after"))
		return status == http.StatusOK
	})
	if got := in.folded(t, "after", "process_cpu:samples"); got["main;after"] != 1 || len(got) != 1 {
		t.Errorf("after a full disk the store has %v", got)
	}
}

// TestReadOnlyStorage starts a server on a file system that cannot be written.
func TestReadOnlyStorage(t *testing.T) {
	t.Parallel()
	storage := t.TempDir()
	mount(t, storage, "size=1m", syscall.MS_RDONLY)
	in := launch(t, "server", "--http-address", freeAddress(t), "--storage-path", storage)
	in.waitEnd(t, 20*time.Second)
	if said := in.said.String(); in.cmd.ProcessState.ExitCode() <= 0 || !strings.Contains(said, storage) || !strings.Contains(said, "read-only") {
		t.Errorf("ended with status %d and said %q", in.cmd.ProcessState.ExitCode(), said)
	}
}

// mount gives a test a small file system of its own.
func mount(t *testing.T, folder, options string, flags uintptr) {
	t.Helper()
	if err := syscall.Mount("perfuse-test", folder, "tmpfs", flags, options); err != nil {
		t.Skipf("mounting a file system is not possible here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(folder, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
}

// fill writes a file until nothing goes any more.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 64<<10)
	for {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			if len(block) == 1 {
				return
			}
			block = block[:len(block)/2]
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// TestVanishingProcess asks for a process that is gone, and for one that goes while it is recorded.
func TestVanishingProcess(t *testing.T) {
	needSampler(t)
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	run := func(pid string) (int, string) {
		cmd := exec.CommandContext(t.Context(), program(t, "profilectl"), "record", "--pid", pid, "--duration", "3s", "-o", "folded")
		out, _ := cmd.CombinedOutput()
		return cmd.ProcessState.ExitCode(), string(out)
	}
	pid := itoa(gone.Process.Pid)
	if code, out := run(pid); code != 2 || !strings.Contains(out, pid) {
		t.Errorf("recording process %s, which is gone, ended with status %d: %s", pid, code, out)
	}
	going := exec.Command("sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
	if err := going.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- going.Wait() }()
	if code, out := run(itoa(going.Process.Pid)); code != 0 && code != 1 || strings.Contains(out, "goroutine ") {
		t.Errorf("recording a process that ended on the way ended with status %d: %s", code, out)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

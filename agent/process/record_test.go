package process

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// encode writes a record as the kernel does.
func encode(kind uint32, misc uint16, time uint64, body ...any) []byte {
	var b []byte
	ne := binary.NativeEndian
	put := func(v any) {
		switch v := v.(type) {
		case int:
			b = ne.AppendUint32(b, uint32(v))
		case uint64:
			b = ne.AppendUint64(b, v)
		case string: // padded to 8 bytes, at least one zero
			b = append(b, v...)
			b = append(b, make([]byte, 8-len(v)%8)...)
		}
	}
	put(int(kind))
	b = ne.AppendUint16(b, misc)
	b = append(b, 0, 0)
	for _, v := range body {
		put(v)
	}
	put(1)
	put(1)
	put(time)
	put(uint64(0))
	ne.PutUint16(b[6:], uint16(len(b)))
	return b
}

func encodeMap(time uint64, pid int, start, size, offset, inode uint64, prot int, path string) []byte {
	return encode(unix.PERF_RECORD_MMAP2, unix.PERF_RECORD_MISC_USER, time, pid, pid, start, size, offset, 8, 1, inode, uint64(77), prot, 2, path)
}

func TestParseRecord(t *testing.T) {
	f := func(b []byte, want record) {
		t.Helper()
		got, err := parseRecord(b)
		if err != nil {
			t.Fatal(err)
		}
		got.text, got.name = string(got.name), nil
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
	f(encode(unix.PERF_RECORD_COMM, 0, 5, 10, 11, "thread"), record{kind: recordComm, time: 5, pid: 10, tid: 11, text: "thread"})
	f(encode(unix.PERF_RECORD_COMM, unix.PERF_RECORD_MISC_COMM_EXEC, 5, 10, 10, "123456789012345"), record{kind: recordExec, time: 5, pid: 10, tid: 10, text: "123456789012345"})
	f(encode(unix.PERF_RECORD_COMM, 0, 5, 10, 10, ""), record{kind: recordComm, time: 5, pid: 10, tid: 10})
	f(encode(unix.PERF_RECORD_FORK, 0, 6, 20, 10, 20, 10, uint64(6)), record{kind: recordFork, time: 6, pid: 20, ppid: 10, tid: 20, ptid: 10})
	f(encode(unix.PERF_RECORD_EXIT, 0, 7, 20, 10, 21, 10, uint64(7)), record{kind: recordExit, time: 7, pid: 20, ppid: 10, tid: 21, ptid: 10})
	f(encode(unix.PERF_RECORD_LOST, 0, 8, uint64(3), uint64(42)), record{kind: recordLost, time: 8, lost: 42})
	f(encodeMap(9, 30, 0x1000, 0x2000, 0x3000, 55, unix.PROT_READ|unix.PROT_EXEC, "/a b"),
		record{kind: recordMap, time: 9, pid: 30, tid: 30, text: "/a b", mapping: Mapping{Start: 0x1000, End: 0x3000, Offset: 0x3000, File: FileID{8<<20 | 1, 55, 77}}})
	f(encodeMap(9, 30, 0x1000, 0x2000, 0x1, 0, unix.PROT_EXEC, "//anon"),
		record{kind: recordMap, time: 9, pid: 30, tid: 30, text: "//anon", mapping: Mapping{Start: 0x1000, End: 0x3000}})
	f(encodeMap(9, 30, 0x1000, 0x2000, 0, 5, unix.PROT_READ, "/data"), record{time: 9, pid: 30, tid: 30, text: "/data"})
	f(encodeMap(9, 30, 1<<63, 1<<63+1, 0, 5, unix.PROT_EXEC, "/overflow"), record{time: 9, pid: 30, tid: 30, text: "/overflow"})
	f(encode(unix.PERF_RECORD_SAMPLE, 0, 3, uint64(1)), record{time: 3})

	whole := encodeMap(9, 30, 0x1000, 0x2000, 0x3000, 55, unix.PROT_EXEC, "/lib/x")
	for n := range whole {
		if _, err := parseRecord(whole[:n]); err == nil && n < 96 {
			t.Errorf("%d bytes of a mapping were taken", n)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add(encode(unix.PERF_RECORD_COMM, unix.PERF_RECORD_MISC_COMM_EXEC, 5, 10, 10, "x"))
	f.Add(encode(unix.PERF_RECORD_FORK, 0, 6, 20, 10, 20, 10, uint64(6)))
	f.Add(encode(unix.PERF_RECORD_LOST, 0, 8, uint64(3), uint64(42)))
	f.Add(encodeMap(9, 30, 0x1000, 0x2000, 0x3000, 55, unix.PROT_EXEC, "/a"))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 8, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err == nil && r.kind == recordMap && r.mapping.Start >= r.mapping.End {
			t.Errorf("the range %#x-%#x", r.mapping.Start, r.mapping.End)
		}
	})
}

// fakeRing is a ring in ordinary memory, with the kernel's side of it.
type fakeRing struct {
	*ring
}

func newFakeRing(pages int) *fakeRing {
	return &fakeRing{ring: newRing(make([]byte, os.Getpagesize()*(1+pages)))}
}

// write does what the kernel does: nothing if there is no room.
func (r *fakeRing) write(b []byte) bool {
	size := uint64(len(r.data))
	if size-(*r.head-*r.tail) < uint64(len(b)) {
		return false
	}
	for i, c := range b {
		r.data[(*r.head+uint64(i))%size] = c
	}
	*r.head += uint64(len(b))
	return true
}

// What goes in comes out, wherever it wraps.
func TestRing(t *testing.T) {
	r := newFakeRing(1)
	*r.head, *r.tail = 1<<40-64, 1<<40-64
	rng := rand.New(rand.NewPCG(1, 1))
	var in, out [][]byte
	for range 2000 {
		b := encode(unix.PERF_RECORD_COMM, 0, uint64(len(in)), 1, 1, string(bytes.Repeat([]byte{'a' + byte(len(in)%26)}, rng.IntN(300))))
		if r.write(b) {
			in = append(in, b)
		}
		if rng.IntN(5) == 0 && !r.read(func(b []byte) { out = append(out, bytes.Clone(b)) }) {
			t.Fatal("the ring made no sense")
		}
	}
	r.read(func(b []byte) { out = append(out, bytes.Clone(b)) })
	if !slices.EqualFunc(in, out, bytes.Equal) {
		t.Errorf("%d records in, %d out, or different ones", len(in), len(out))
	}
	// Sizes that lie.
	for _, size := range []uint16{0, 7, 9999} {
		b := encode(unix.PERF_RECORD_COMM, 0, 1, 1, 1, "x")
		binary.NativeEndian.PutUint16(b[6:], size)
		r.write(b)
		if r.read(func([]byte) { t.Errorf("a record of %d bytes was read", size) }) || *r.head != *r.tail {
			t.Errorf("a record of %d bytes: the ring goes on", size)
		}
	}
	*r.head += 1 << 20
	if r.read(func([]byte) {}) || *r.head != *r.tail {
		t.Error("a head beyond the ring was taken")
	}
}

// Records of several CPUs come out in order of time, those of the future stay.
func TestMerge(t *testing.T) {
	e := &events{names: interner{max: 4}}
	for range 5 {
		e.rings = append(e.rings, newFakeRing(4).ring)
	}
	e.queues, e.at = make([][]record, 5), make([]int, 5)
	rng := rand.New(rand.NewPCG(3, 4))
	now := monotonic()
	var want []uint64
	for i := range e.rings {
		r := &fakeRing{ring: e.rings[i]}
		at := now - 1000
		for range rng.IntN(20) {
			at += rng.Uint64N(100)
			r.write(encode(unix.PERF_RECORD_COMM, 0, at, 1, 1, fmt.Sprint(i)))
			want = append(want, at)
		}
	}
	future := now + 1<<40
	(&fakeRing{ring: e.rings[2]}).write(encode(unix.PERF_RECORD_COMM, 0, future, 1, 1, "future"))
	slices.Sort(want)
	var got []uint64
	n, held := e.drain(func(r *record) { got = append(got, r.time) })
	if !slices.Equal(got, want) || n != len(want) || !held {
		t.Errorf("%d records, held %v\n%v\nwant\n%v", n, held, got, want)
	}
	if n, held = e.drain(func(r *record) { t.Error("the future came") }); n != 0 || !held {
		t.Errorf("%d records, held %v", n, held)
	}
	if len(e.queues[2]) != 1 || e.queues[2][0].text != "future" {
		t.Errorf("what waits: %v", e.queues)
	}
}

func TestParseCPUList(t *testing.T) {
	f := func(s string, want string) {
		t.Helper()
		got, err := parseCPUList(s)
		if err != nil {
			got = nil
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%q: %v %v", s, got, err)
		}
	}
	f("0\n", "[0]")
	f("0-3\n", "[0 1 2 3]")
	f("0-1,4,6-7", "[0 1 4 6 7]")
	f("\n", "[]")
	f("a", "[]")
	f("0-", "[]")
	f("5-2", "[]")
	f("99999999", "[]")
}

// CPUs come and go.
func TestFollowCPUs(t *testing.T) {
	online := filepath.Join(t.TempDir(), "online")
	list := func(s string) {
		if err := os.WriteFile(online, []byte(s+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	list("0")
	e, err := openEvents(4096, online)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	f := func(online string, wantChanged bool, want ...int) {
		t.Helper()
		list(online)
		changed, err := e.followCPUs()
		var got []int
		for _, r := range e.rings {
			got = append(got, r.cpu)
		}
		if err != nil || changed != wantChanged || !slices.Equal(got, want) || len(e.bells) != len(want) || len(e.queues) != len(want) || len(e.at) != len(want) {
			t.Errorf("%s: %v, changed %v, %v", online, got, changed, err)
		}
		e.drain(func(*record) {})
	}
	f("0", false, 0)
	if cpus, err := os.ReadFile(onlineCPUs); err != nil || strings.TrimSpace(string(cpus)) == "0" {
		t.Skip("needs a second CPU")
	}
	f("0-1", true, 0, 1)
	e.mute(true)
	f("1", true, 1)
	f("0-1", true, 1, 0)
	e.ringBell()
	if err := e.wait(time.Minute); err != nil {
		t.Error(err)
	}
	list("rubbish")
	if _, err := e.followCPUs(); err == nil || len(e.rings) != 2 {
		t.Errorf("rubbish: %v, %d rings", err, len(e.rings))
	}
	list("")
	if _, err := e.followCPUs(); err == nil {
		t.Error("no CPU at all is no error")
	}
}

func FuzzParseCPUList(f *testing.F) {
	f.Add("0-3,7\n")
	f.Add("0-65535,0-65535")
	f.Add("3-1,-,18446744073709551615")
	f.Fuzz(func(t *testing.T, s string) {
		cpus, err := parseCPUList(s)
		if err == nil && len(cpus) > (1+strings.Count(s, ","))<<16 {
			t.Errorf("%d CPUs", len(cpus))
		}
	})
}

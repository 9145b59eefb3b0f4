package limits

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// pack packs zeros in one of Encodings, as a sender does that does not know their number before.
func pack(t testing.TB, encoding string, n int) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	switch encoding {
	case "gzip":
		w = gzip.NewWriter(&out)
	case "deflate":
		w = zlib.NewWriter(&out)
	case "zstd":
		zw, err := zstd.NewWriter(&out)
		if err != nil {
			t.Fatal(err)
		}
		w = zw
	}
	for part := make([]byte, 1<<16); n > 0; n -= len(part) {
		w.Write(part[:min(n, len(part))])
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestReadAll: all that is read comes back, in memory of its size, however the reader cuts it and wherever the pieces end.
func TestReadAll(t *testing.T) {
	for _, n := range []int{0, 1, firstBytes - 1, firstBytes, firstBytes + 1, firstBytes + pieceBytes, firstBytes + 3*pieceBytes + 7} {
		text := strings.Repeat("0123456789abcdef", n/16+1)[:n]
		for name, r := range map[string]io.Reader{
			"whole": strings.NewReader(text), "halves": iotest.HalfReader(strings.NewReader(text)), "end with data": iotest.DataErrReader(strings.NewReader(text)),
		} {
			got, err := ReadAll(r)
			if err != nil || string(got) != text || cap(got) > n+n/4+64 {
				t.Errorf("%s: %d bytes in %d, %v, want %d", name, len(got), cap(got), err, n)
			}
		}
		broken := errors.New("broken")
		if got, err := ReadAll(io.MultiReader(strings.NewReader(text), iotest.ErrReader(broken))); !errors.Is(err, broken) || got != nil {
			t.Errorf("broken after %d: %d bytes, %v", n, len(got), err)
		}
	}
}

// allocated returns how many bytes f allocates once what is used again is there.
func allocated(f func()) int64 {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	f()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// TestUnpackAllocates: what is unpacked takes memory of its size once; what is refused takes none to speak of.
func TestUnpackAllocates(t *testing.T) {
	const max = 16 << 20
	u := NewUnpacker(DecompressedBytes, max)
	for _, encoding := range Encodings {
		fits, bomb := pack(t, encoding, max), pack(t, encoding, 2*max)
		n := allocated(func() {
			if out, err := u.Unpack(encoding, fits); err != nil || len(out) != max {
				t.Errorf("%s: %d bytes, %v", encoding, len(out), err)
			}
		})
		// Under the race detector a pool forgets a quarter of what it is given.
		if n > max+max/2 {
			t.Errorf("%s: unpacking %d bytes allocates %d", encoding, max, n)
		}
		n = allocated(func() {
			var le *Error
			if _, err := u.Unpack(encoding, bomb); !errors.As(err, &le) || le.Limit != DecompressedBytes {
				t.Errorf("%s: %v", encoding, err)
			}
		})
		if n > max/2 {
			t.Errorf("%s: refusing %d bytes allocates %d", encoding, 2*max, n)
		}
	}
}

// TestUnpackSaysSize: a zstd frame that says that it is too large is refused before it is unpacked, even if nothing
// follows; what gzip says at its end is not believed.
func TestUnpackSaysSize(t *testing.T) {
	u := NewUnpacker(DecompressedBytes, 1000)
	zw, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var le *Error
	if _, err := u.Unpack("zstd", zw.EncodeAll(make([]byte, 1<<20), nil)[:20]); !errors.As(err, &le) || le.Limit != DecompressedBytes {
		t.Errorf("zstd: %v", err)
	}
	lies := pack(t, "gzip", 100)
	copy(lies[len(lies)-4:], "\xff\xff\xff\xff")
	if _, err := u.Unpack("gzip", lies); !errors.Is(err, gzip.ErrChecksum) {
		t.Errorf("gzip: %v", err)
	}
	if b, err := u.Unpack("", lies); err != nil || !bytes.Equal(b, lies) {
		t.Errorf("what is not packed: %d bytes, %v", len(b), err)
	}
}

func BenchmarkUnpack(b *testing.B) {
	u := NewUnpacker(DecompressedBytes, 64<<20)
	for _, encoding := range Encodings {
		for name, n := range map[string]int{"64KiB": 64 << 10, "bomb": 128 << 20} {
			packed := pack(b, encoding, n)
			b.Run(encoding+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					u.Unpack(encoding, packed)
				}
			})
		}
	}
}

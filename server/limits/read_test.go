package limits

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"

	"github.com/perfuse/perfuse/server/limits/limitstest"
)

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

// TestUnpackAllocates: what is unpacked takes memory of its size once; what is refused takes none to speak of.
func TestUnpackAllocates(t *testing.T) {
	const max = 4 << 20
	u := NewUnpacker(DecompressedBytes, max)
	for _, encoding := range Encodings {
		fits, bomb := limitstest.Pack(t, encoding, make([]byte, max)), limitstest.Pack(t, encoding, make([]byte, 2*max))
		n := limitstest.Allocated(func() {
			if out, err := u.Unpack(encoding, fits); err != nil || len(out) != max {
				t.Errorf("%s: %d bytes, %v", encoding, len(out), err)
			}
		})
		if n > max+max/2 {
			t.Errorf("%s: unpacking %d bytes allocates %d", encoding, max, n)
		}
		n = limitstest.Allocated(func() {
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
	lies := limitstest.Pack(t, "gzip", make([]byte, 100))
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
			packed := limitstest.Pack(b, encoding, make([]byte, n))
			b.Run(encoding+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					u.Unpack(encoding, packed)
				}
			})
		}
	}
}

// Package limitstest is what tests of limits have in common: bodies in every encoding, and what taking them in costs.
package limitstest

import (
	"bytes"
	"io"
	"math"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// Pack compresses b as gzip, deflate or zstd, as a sender does that writes piece by piece.
func Pack(tb testing.TB, encoding string, b []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch encoding {
	case "gzip":
		w = gzip.NewWriter(&out)
	case "deflate":
		w = zlib.NewWriter(&out)
	case "zstd":
		w, err = zstd.NewWriter(&out)
	default:
		tb.Fatalf("no encoding is called %q", encoding)
	}
	if err == nil {
		_, err = w.Write(b)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

// Allocated returns how many bytes f allocates at the least, once what it keeps for the next time is there. The race
// detector makes a sync.Pool lose a quarter of what it is given.
func Allocated(f func()) int64 {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	least := int64(math.MaxInt64)
	for range 5 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		least = min(least, int64(after.TotalAlloc-before.TotalAlloc))
	}
	return least
}

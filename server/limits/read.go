package limits

import (
	"bytes"
	"io"
	"math"
	"sync"

	"github.com/klauspost/compress/zstd"
)

const (
	// firstBytes is the memory of a reader from which nothing has come yet: there may be thousands.
	firstBytes = 4 << 10
	pieceBytes = 64 << 10
)

var pieces = sync.Pool{New: func() any { return new([pieceBytes]byte) }}

// ReadAll reads to the end. Until that is known, what came lies in pieces that are used again, and is copied once to
// memory of its own size: growing by copying would make garbage of several times that, and of all that a limit
// refuses.
func ReadAll(r io.Reader) ([]byte, error) {
	var used []*[pieceBytes]byte
	defer func() {
		for _, p := range used {
			pieces.Put(p)
		}
	}()
	var full [][]byte
	space := make([]byte, firstBytes)
	for n := 0; ; {
		m, err := r.Read(space[n:])
		n += m
		if err == io.EOF {
			return bytes.Join(append(full, space[:n]), nil), nil
		}
		if err != nil {
			return nil, err
		}
		if n == len(space) {
			p := pieces.Get().(*[pieceBytes]byte)
			used, full = append(used, p), append(full, space)
			space, n = p[:], 0
		}
	}
}

// Unpacker unpacks messages that lie in memory. It is safe for concurrent use.
type Unpacker struct {
	name  Name
	max   int64
	pools map[string]*sync.Pool // by encoding
}

// NewUnpacker returns one for all Encodings that makes no more than max bytes of a message.
func NewUnpacker(name Name, max int64) *Unpacker {
	u := &Unpacker{name: name, max: max, pools: map[string]*sync.Pool{}}
	for _, encoding := range Encodings {
		u.pools[encoding] = &sync.Pool{New: func() any { return NewDecompressor(encoding, name, max, nil) }}
	}
	return u
}

// Unpack returns b unpacked, or b itself if it is empty or the encoding is none of Encodings. The error is the
// decompressor's; beyond the limit an *Error is in its chain.
func (u *Unpacker) Unpack(encoding string, b []byte) ([]byte, error) {
	pool := u.pools[encoding]
	if pool == nil || len(b) == 0 {
		return b, nil
	}
	// zstd may say the size in front, and is held to it. What gzip says lies behind, and may be anything if it is torn.
	var head zstd.Header
	if encoding == "zstd" && head.Decode(b) == nil && head.HasFCS {
		n := int64(min(head.FrameContentSize, math.MaxInt64))
		if err := Count(u.name, n, u.max, "%s is too large", unpackedBody); err != nil {
			return nil, err
		}
	}
	d := pool.Get().(*Decompressor)
	defer pool.Put(d)
	defer d.Close()
	if err := d.Reset(bytes.NewReader(b)); err != nil {
		return nil, err
	}
	return ReadAll(d)
}

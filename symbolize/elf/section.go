package elf

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// MaxUncompressed bounds what one compressed section may unpack to. The largest real one known to us,
// chromium's .debug_info, has about 4 GiB.
const MaxUncompressed = 8 << 30

// spillBytes is from where on an unpacked section lives in an unlinked temporary file instead of the heap.
const spillBytes = 16 << 20

// Raw returns the section's bytes as they stand in the file, nil for one without content.
func (f *File) Raw(s *Section) ([]byte, error) {
	if s.Type == SectionNobits || s.Type == SectionNull {
		return nil, nil
	}
	b, err := f.bytesAt(s.Offset, s.Size)
	if err != nil {
		return nil, fmt.Errorf("reading section %s: %w", s.Name, err)
	}
	return b, nil
}

// Compressed says whether the content is compressed, in either of the two conventions.
func (s *Section) Compressed() bool {
	return s.Flags&SectionCompressed != 0 || len(s.Name) > 7 && s.Name[:7] == ".zdebug"
}

// Content is what a section holds, unpacked.
type Content struct {
	Bytes   []byte
	release func()
}

// Release frees what Bytes needed; Bytes is not valid after it.
func (c *Content) Release() {
	if c.release != nil {
		c.release()
		c.release = nil
	}
	c.Bytes = nil
}

// Content returns a section's bytes, unpacked if they are compressed (zlib or zstd, SHF_COMPRESSED or the
// older .zdebug_ names). Big ones are unpacked into a temporary file, so that they do not weigh on the heap.
func (f *File) Content(s *Section) (Content, error) {
	raw, err := f.Raw(s)
	if err != nil || raw == nil || !s.Compressed() {
		return Content{Bytes: raw}, err
	}
	c, err := f.unpack(s, raw)
	if err != nil {
		return Content{}, fmt.Errorf("unpacking section %s: %w", s.Name, err)
	}
	return c, nil
}

func (f *File) unpack(s *Section, raw []byte) (Content, error) {
	var size uint64
	kind := uint32(1) // ELFCOMPRESS_ZLIB
	switch {
	case s.Flags&SectionCompressed != 0 && f.Is64:
		if len(raw) < 24 {
			return Content{}, malformed("no compression header")
		}
		kind, size, raw = f.Order.Uint32(raw), f.Order.Uint64(raw[8:]), raw[24:]
	case s.Flags&SectionCompressed != 0:
		if len(raw) < 12 {
			return Content{}, malformed("no compression header")
		}
		kind, size, raw = f.Order.Uint32(raw), uint64(f.Order.Uint32(raw[4:])), raw[12:]
	default:
		if len(raw) < 12 || string(raw[:4]) != "ZLIB" {
			return Content{Bytes: raw}, nil // a .zdebug section may be left uncompressed
		}
		for _, c := range raw[4:12] {
			size = size<<8 | uint64(c)
		}
		raw = raw[12:]
	}
	if size > MaxUncompressed {
		return Content{}, malformed("%d bytes uncompressed", size)
	}
	var r io.Reader
	switch kind {
	case 1:
		z, err := zlib.NewReader(bytes.NewReader(raw))
		if err != nil {
			return Content{}, malformed("zlib: %v", err)
		}
		defer z.Close()
		r = z
	case 2:
		z, err := zstd.NewReader(bytes.NewReader(raw), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecoderLowmem(true))
		if err != nil {
			return Content{}, malformed("zstd: %v", err)
		}
		defer z.Close()
		r = z
	default:
		return Content{}, malformed("compression kind %d", kind)
	}
	if size < spillBytes {
		// Grow with what really comes, the size may lie.
		var b bytes.Buffer
		b.Grow(int(min(size+1, 1<<20)))
		n, err := b.ReadFrom(io.LimitReader(r, int64(size)+1))
		if err != nil || uint64(n) != size {
			return Content{}, malformed("%d bytes uncompressed where %d are promised (%v)", n, size, err)
		}
		return Content{Bytes: b.Bytes()}, nil
	}
	return spill(r, size)
}

// spill writes size bytes of r to an unlinked temporary file and maps it.
func spill(r io.Reader, size uint64) (Content, error) {
	t, err := os.CreateTemp("", "perfuse-section-")
	if err != nil {
		return Content{}, err
	}
	defer t.Close()
	if err := os.Remove(t.Name()); err != nil {
		return Content{}, err
	}
	w := bufio.NewWriterSize(t, 256<<10)
	n, err := io.Copy(w, io.LimitReader(r, int64(size)+1))
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		return Content{}, err
	}
	if uint64(n) != size {
		return Content{}, malformed("%d bytes uncompressed where %d are promised", n, size)
	}
	m, err := unix.Mmap(int(t.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return Content{}, err
	}
	return Content{Bytes: m, release: func() { _ = unix.Munmap(m) }}, nil
}

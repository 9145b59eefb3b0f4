package elf

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// Limits of .gnu_debugdata. Fedora's largest has some 10 MB unpacked and a dictionary of 8 MiB.
const (
	maxMiniDebug = 512 << 20
	maxXZDict    = 64 << 20
)

// MiniDebug returns the ELF file that a section .gnu_debugdata holds: an xz-compressed symbol table of the
// functions that the dynamic one lacks. It returns nil without an error if there is no such section.
func (f *File) MiniDebug() (*File, error) {
	s := f.Section(".gnu_debugdata")
	if s == nil {
		return nil, nil
	}
	raw, err := f.Raw(s)
	if err != nil {
		return nil, err
	}
	b, err := unxz(raw, maxMiniDebug)
	if err != nil {
		return nil, fmt.Errorf("unpacking section %s: %w", s.Name, err)
	}
	mini, err := NewBytes(b)
	if err != nil {
		return nil, fmt.Errorf("reading section %s: %w", s.Name, err)
	}
	return mini, nil
}

// unxz unpacks the blocks of one xz stream. The container is read here (The .xz File Format 1.2.1) because
// the module's own reader would allocate whatever dictionary a block's header asks for, up to 4 GiB.
// Checksums are not verified: what comes out is distrusted anyway.
func unxz(b []byte, limit int64) ([]byte, error) {
	if len(b) < 12 || string(b[:6]) != "\xfd7zXZ\x00" {
		return nil, malformed("no xz stream")
	}
	check, ok := map[byte]int{0: 0, 1: 4, 4: 8, 10: 32}[b[7]&0xf]
	if !ok {
		return nil, malformed("xz check %d", b[7]&0xf)
	}
	var out bytes.Buffer
	dicts := int64(0)
	r := bytes.NewReader(b[12:])
	for {
		at := len(b) - r.Len()
		if at >= len(b) || b[at] == 0 { // the index
			return out.Bytes(), nil
		}
		headSize := (int(b[at]) + 1) * 4
		if headSize > r.Len() {
			return nil, malformed("xz block header beyond the end")
		}
		dict, err := xzDict(b[at+1 : at+headSize-4])
		if err != nil {
			return nil, err
		}
		// Each block has a dictionary of its own to clear, which a block of nothing could ask for a million times.
		if dicts += int64(dict); dicts > maxXZDict+int64(out.Len()) {
			return nil, malformed("xz blocks of less than their dictionaries")
		}
		if _, err := r.Seek(int64(headSize), io.SeekCurrent); err != nil {
			return nil, err
		}
		body := r.Len()
		z, err := lzma.Reader2Config{DictCap: max(dict, lzma.MinDictCap)}.NewReader2(r)
		if err != nil {
			return nil, malformed("xz block: %v", err)
		}
		if _, err := io.Copy(&out, io.LimitReader(z, limit-int64(out.Len())+1)); err != nil {
			return nil, malformed("xz block: %v", err)
		}
		if int64(out.Len()) > limit {
			return nil, malformed("more than %d bytes unpacked", limit)
		}
		skip := -(body-r.Len())&3 + check
		if skip > r.Len() {
			return nil, malformed("xz block without its check")
		}
		if _, err := r.Seek(int64(skip), io.SeekCurrent); err != nil {
			return nil, err
		}
	}
}

// xzDict reads the dictionary size out of a block header (without its size byte and checksum).
func xzDict(h []byte) (int, error) {
	if len(h) < 1 {
		return 0, malformed("xz block header too short")
	}
	flags := h[0]
	h = h[1:]
	next := func() uint64 {
		v, n := binary.Uvarint(h)
		if n <= 0 {
			h = nil
			return ^uint64(0)
		}
		h = h[n:]
		return v
	}
	if flags&0x40 != 0 {
		next()
	}
	if flags&0x80 != 0 {
		next()
	}
	if id, size := next(), next(); flags&3 != 0 || id != 0x21 || size != 1 || len(h) < 1 {
		return 0, malformed("xz filters other than LZMA2")
	}
	if h[0] > 40 {
		return 0, malformed("xz dictionary size %d", h[0])
	}
	size := uint64(2|h[0]&1) << (h[0]/2 + 11)
	if size > maxXZDict {
		return 0, malformed("an xz dictionary of %d bytes", size)
	}
	return int(size), nil
}

// DebugLink returns the name and the CRC of the split debug file that .gnu_debuglink points to, or false.
// A name with a slash is none.
func (f *File) DebugLink() (name string, crc uint32, ok bool) {
	s := f.Section(".gnu_debuglink")
	if s == nil || s.Size > 4096 {
		return "", 0, false
	}
	b, err := f.Raw(s)
	if err != nil {
		return "", 0, false
	}
	i := bytes.IndexByte(b, 0)
	at := (i + 4) &^ 3
	if i <= 0 || at+4 > len(b) || bytes.IndexByte(b[:i], '/') >= 0 || string(b[:i]) == "." || string(b[:i]) == ".." {
		return "", 0, false
	}
	return string(b[:i]), f.Order.Uint32(b[at:]), true
}

// DebugAltLink returns the path and the build id of the supplementary debug file (DWZ) that
// .gnu_debugaltlink points to, or false.
func (f *File) DebugAltLink() (path, buildID string, ok bool) {
	s := f.Section(".gnu_debugaltlink")
	if s == nil || s.Size > 4096 {
		return "", "", false
	}
	b, err := f.Raw(s)
	if err != nil {
		return "", "", false
	}
	i := bytes.IndexByte(b, 0)
	if i <= 0 || i+1 == len(b) {
		return "", "", false
	}
	return string(b[:i]), hex.EncodeToString(b[i+1:]), true
}

// DebugLinkCRC computes the CRC that a .gnu_debuglink gives for the debug file r.
func DebugLinkCRC(r io.Reader) (uint32, error) {
	h := crc32.NewIEEE()
	if _, err := io.Copy(h, r); err != nil {
		return 0, fmt.Errorf("reading a debug file: %w", err)
	}
	return h.Sum32(), nil
}

package unwind

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrNone says that a file has no unwind information at all.
var ErrNone = errors.New("no unwind information")

// Compile reads the unwind information of the ELF file r. What cannot be read costs rows and is counted
// in [Stats]; an error means that there is no table: r is no ELF file for a machine we know, it says
// nothing about unwinding ([ErrNone]), or it says more than anyone could mean.
func Compile(r io.ReaderAt) (*Table, error) {
	im, err := openImage(r)
	if err != nil {
		return nil, err
	}
	b := newBuilder()
	info, chains, err := compileGo(im, b)
	if err != nil {
		return nil, fmt.Errorf("reading pclntab: %w", err)
	}
	// What Go's linker alone has written has no .eh_frame, and its .debug_frame says what pclntab says.
	if _, ok := im.section(".eh_frame"); ok || info == nil {
		if err := compileFrames(im, b); err != nil {
			return nil, err
		}
	}
	t := b.table(im.machine)
	t.Go, t.FramePointers = info, chains
	analyze(im, t)
	if len(t.Rows) == 0 {
		return nil, ErrNone
	}
	closeGaps(im, t)
	return t, nil
}

// compileFrames reads .eh_frame, then .debug_frame.
func compileFrames(im *image, b *builder) error {
	if err := compileEhFrame(im, b); err != nil && errors.Is(err, errTooLarge) {
		return fmt.Errorf("reading .eh_frame: %w", err)
	}
	s, ok := im.section(".debug_frame")
	if !ok {
		return nil
	}
	r, n, err := im.open(s)
	if err != nil {
		b.stats.Bad++
		return nil
	}
	if err := newFrames(im, b, r, n, s.addr, false).read(); err != nil && errors.Is(err, errTooLarge) {
		return fmt.Errorf("reading .debug_frame: %w", err)
	}
	return nil
}

func compileEhFrame(im *image, b *builder) error {
	if s, ok := im.section(".eh_frame"); ok {
		r, n, err := im.open(s)
		if err != nil {
			b.stats.Bad++
			return err
		}
		b.expect(n)
		return newFrames(im, b, r, n, s.addr, true).read()
	}
	addr, ok := ehFrameFromHeader(im)
	if !ok {
		return nil
	}
	off, n, ok := im.at(addr)
	if !ok {
		return nil
	}
	r, n, err := im.open(section{off: off, len: min(n, maxSectionBytes)})
	if err != nil {
		b.stats.Bad++
		return err
	}
	f := newFrames(im, b, r, n, addr, true)
	f.once = true
	return f.read()
}

// ehFrameFromHeader finds .eh_frame in a file without section headers through .eh_frame_hdr:
//
//	version u8 = 1, encodings of the pointer, the count and the table u8 × 3, pointer to .eh_frame, ...
func ehFrameFromHeader(im *image) (uint64, bool) {
	var h [12]byte
	if im.hdr.size < 8 || im.readAt(h[:], im.hdr.addr) < 8 || h[0] != 1 {
		return 0, false
	}
	switch h[1] {
	case encPcrel | encSdata4:
		return im.hdr.addr + 4 + uint64(int64(int32(binary.LittleEndian.Uint32(h[4:])))), true
	case encDatarel | encSdata4:
		return im.hdr.addr + uint64(int64(int32(binary.LittleEndian.Uint32(h[4:])))), true
	case encUdata4:
		return uint64(binary.LittleEndian.Uint32(h[4:])), true
	case encAbsptr, encUdata8:
		return binary.LittleEndian.Uint64(h[4:]), true
	}
	return 0, false
}

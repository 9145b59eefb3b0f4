package elf

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func ranges(t testing.TB, f *File) []region {
	t.Helper()
	var out []region
	err := f.FunctionRanges(func(start, end uint64) bool {
		out = append(out, region{start, end})
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// The ranges are those of the entries in .eh_frame, as readelf prints them.
func TestFunctionRangesAgainstReadelf(t *testing.T) {
	readelf, err := exec.LookPath("readelf")
	if err != nil {
		t.Skip(err)
	}
	re := regexp.MustCompile(`FDE .* pc=([0-9a-f]+)\.\.([0-9a-f]+)`)
	paths := samples(t)
	for _, pattern := range []string{"/bin/dash", "/usr/bin/ld", "/usr/lib/*-linux-gnu/libd*.so.?", "/usr/lib/*-linux-gnu/libcrypto.so.3", "/usr/lib/postgresql/*/bin/postgres"} {
		more, _ := filepath.Glob(pattern)
		paths = append(paths, more[:min(len(more), 12)]...)
	}
	found := 0
	for _, path := range paths {
		f, err := Open(path)
		if err != nil {
			continue
		}
		defer f.Close()
		if f.Section(".eh_frame_hdr") == nil {
			continue
		}
		t.Run(filepath.Base(path), func(t *testing.T) {
			// It fails, having said all, where it knows not every instruction.
			out, err := exec.Command(readelf, "--debug-dump=frames", path).Output()
			if len(out) == 0 {
				t.Fatal(err)
			}
			var want []region
			regions := f.functionRegions()
			for _, m := range re.FindAllSubmatch(out, -1) {
				start, _ := strconv.ParseUint(string(m[1]), 16, 64)
				end, _ := strconv.ParseUint(string(m[2]), 16, 64)
				inCode := slices.ContainsFunc(regions, func(r region) bool { return start >= r.start && start < r.end })
				if inCode && start < end {
					want = append(want, region{start, end})
				}
			}
			slices.SortFunc(want, func(a, b region) int { return cmp.Compare(a.start, b.start) })
			for i := range want[:max(len(want)-1, 0)] {
				want[i].end = min(want[i].end, want[i+1].start)
			}
			got := ranges(t, f)
			if !slices.Equal(got, want) {
				for i := range min(len(got), len(want)) {
					if got[i] != want[i] {
						t.Fatalf("%d of %d: got %#x, want %#x", i, len(want), got[i], want[i])
					}
				}
				t.Fatalf("%d ranges, want %d", len(got), len(want))
			}
			found += len(got)

			// Without sections it is found by the segments, by which linkage stubs are code like any other.
			bare := *f
			bare.Sections = nil
			bareRanges := ranges(t, &bare)
			for _, r := range got {
				i, _ := slices.BinarySearchFunc(bareRanges, r.start, func(r region, a uint64) int { return cmp.Compare(r.start, a) })
				if i == len(bareRanges) || bareRanges[i] != r {
					t.Fatalf("without sections %#x is missing", r)
				}
			}
		})
	}
	if found == 0 {
		t.Skip("no file here has an .eh_frame_hdr")
	}
	t.Logf("%d functions", found)
}

// unwound is a file of 0x400 bytes loaded at address 0: two executable sections and one of stubs, the given
// .eh_frame_hdr at 0x200 and .eh_frame at 0x300.
func unwound(head, frame []byte) *File {
	b := make([]byte, 0x400)
	copy(b[0x200:0x300], head)
	copy(b[0x300:], frame)
	code := func(name string, addr, size uint64) Section {
		return Section{Name: name, Type: SectionProgbits, Flags: SectionAlloc | SectionExec, Addr: addr, Offset: addr, Size: size}
	}
	return &File{Is64: true, Order: binary.LittleEndian, mapped: b, size: int64(len(b)),
		Segments: []Segment{{Type: SegmentLoad, Flags: FlagExec, Filesz: 0x400, Memsz: 0x400}},
		Sections: []Section{{}, code(".text.b", 0x100, 0x80), code(".plt", 0x80, 0x80), code(".text.a", 0x10, 0x70),
			{Name: ".eh_frame_hdr", Type: SectionProgbits, Flags: SectionAlloc, Addr: 0x200, Offset: 0x200, Size: uint64(len(head))}}}
}

func words(values ...int32) []byte {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, uint32(v))
	}
	return b
}

// header makes an .eh_frame_hdr for 0x200 with the FDEs of starts where frames puts them.
func header(starts ...int32) []byte {
	b := append([]byte{1, 0x1b, 3, 0x3b}, words(0x300-0x204, int32(len(starts)))...)
	for i, s := range starts {
		b = append(b, words(s-0x200, 0x100+0x20+int32(i)*16)...)
	}
	return b
}

// frames makes a CIE of 32 bytes and FDEs of the sizes.
func frames(cie string, sizes ...int32) []byte {
	b := append(words(0x1c, 0), cie...)
	b = append(b, make([]byte, 0x20-len(b))...)
	for i, n := range sizes {
		b = append(b, words(12, int32(0x24+i*16), 0, n)...)
	}
	return b
}

// walked is unwound without .eh_frame_hdr.
func walked(frame []byte) *File {
	file := unwound(nil, frame)
	s := &file.Sections[4]
	s.Name, s.Addr, s.Offset, s.Size = ".eh_frame", 0x300, 0x300, uint64(min(len(frame), 0x100))
	return file
}

func TestFunctionRanges(t *testing.T) {
	f := func(name string, file *File, want, wantErr string) {
		t.Helper()
		var got []string
		err := file.FunctionRanges(func(start, end uint64) bool {
			got = append(got, fmt.Sprintf("%x-%x", start, end))
			return true
		})
		if g := strings.Join(got, " "); g != want {
			t.Errorf("%s: got %s, want %s", name, g, want)
		}
		if (err == nil) != (wantErr == "") || err != nil && !strings.Contains(err.Error(), wantErr) {
			t.Errorf("%s: got error %v, want %q", name, err, wantErr)
		}
	}
	const plain = "\x01zR\x00\x01\x78\x10\x01\x1b"
	f("plain", unwound(header(0x10, 0x20, 0x100), frames(plain, 8, 16, 4)), "10-18 20-30 100-104", "")
	f("they overlap", unwound(header(0x10, 0x20), frames(plain, 0x40, 0x1000)), "10-20 20-80", "")
	f("in stubs, in data, in nothing", unwound(header(0x0, 0x10, 0x90, 0x100, 0x200, 0x7fffff), frames(plain, 8, 8, 8, 8, 8, 8)), "10-18 100-108", "")
	f("twice the same start", unwound(header(0x10, 0x10, 0x20), frames(plain, 0, 8, 8)), "10-18 20-28", "")
	f("no size", unwound(header(0x10, 0x20), frames(plain, 0, 8)), "10-20 20-28", "")
	f("no frames", unwound(header(0x10, 0x20, 0x120), nil), "10-20 20-80 120-180", "")
	f("personality, LSDA", unwound(header(0x10), frames("\x01zPLR\x00\x01\x78\x10\x07\x9b\x11\x22\x33\x44\x1b\x1b", 8)), "10-18", "")
	f("personality beyond the end", unwound(header(0x10), frames("\x01zPPPPR\x00\x01\x78\x10\x07", 8)), "10-80", "")
	f("signal frame", unwound(header(0x10), frames("\x01zRS\x00\x01\x78\x10\x01\x1b", 8)), "10-18", "")
	f("version 3", unwound(header(0x10), frames("\x03zR\x00\x01\x78\x80\x01\x01\x1b", 8)), "10-18", "")
	f("unknown augmentation", unwound(header(0x10), frames("\x01zX\x00\x01\x78\x10\x01\x1b", 8)), "10-80", "")
	f("variable width", unwound(header(0x10), frames("\x01zR\x00\x01\x78\x10\x01\x01", 8)), "10-80", "")
	f("none", unwound(nil, nil), "", "")
	f("no table", unwound([]byte{1, 0x1b, 0xff, 0xff}, nil), "", "")
	f("too short", unwound([]byte{1, 0x1b}, nil), "", "begins with 01 1b instead")
	f("too short for a count", unwound([]byte{1, 0x1b, 3, 0x3b, 0, 0}, nil), "", "begins with 01 1b 03 3b")
	f("another version", unwound(append([]byte{2}, header(0x10)[1:]...), nil), "", "begins with 02")
	f("another encoding", unwound(append([]byte{1, 0x1b, 3, 0x3c}, header(0x10)[4:]...), nil), "", "begins with 01 1b 03 3c")
	f("not sorted", unwound(header(0x10, 0x30, 0x20), frames(plain, 8, 8, 8)), "10-18", "0x30 comes before 0x20")
	lying := header(0x10)
	binary.LittleEndian.PutUint32(lying[8:], 1<<30)
	f("a lying count", unwound(lying, frames(plain, 8)), "", "1073741824 functions in 8 bytes")

	// Without the table: the section's entries, here not in order.
	placed := frames(plain, 8, 16, 4, 8)
	for i, start := range []int32{0x100, 0x10, 0x20, 0x30} {
		at := 0x20 + i*16 + 8
		binary.LittleEndian.PutUint32(placed[at:], uint32(start-0x300-int32(at)))
	}
	f("no table, entries", walked(placed), "10-20 20-24 30-38 100-108", "")
	f("no table, entries, cut", walked(placed[:len(placed)-9]), "10-20 20-24 100-108", "")
	f("no table, two objects", walked(append(append(slices.Clone(placed), 0, 0, 0, 0), placed...)), "10-20 20-24 30-38 74-80 100-108 164-16c", "")

	kept := func(b ...byte) *File {
		return &File{Order: binary.LittleEndian, mapped: b, size: int64(len(b)), Sections: []Section{{Name: FunctionsSection, Type: SectionProgbits, Size: uint64(len(b))}}}
	}
	all := AppendFunctionRange(AppendFunctionRange(AppendFunctionRange(nil, 0, 0x1000, 0x1010), 0x1010, 0x1010, 0x1234), 0x1234, 1<<40, 1<<40+1)
	f("kept", kept(all...), "1000-1010 1010-1234 10000000000-10000000001", "")
	f("kept, cut", kept(all[:len(all)-1]...), "1000-1010 1010-1234", "behind 0x1234")
	f("kept, empty range", kept(1, 0), "", "behind 0x0")
	f("kept, around the end", kept(append(bytes.Repeat([]byte{0xff}, 9), 1, 2)...), "", "behind 0x0")
}

func FuzzFunctionRanges(f *testing.F) {
	f.Add(header(0x10, 0x20, 0x100), frames("\x01zR\x00\x01\x78\x10\x01\x1b", 8, 16, 4), true)
	f.Add(header(0x10, 0x10, 0x90), frames("\x03zPLRS\x00\x01\x78\x80\x01\x07\x9b\x00\x00\x00\x00\x1b\x1b", 8), false)
	f.Add([]byte{1, 0x1b, 0xff, 0xff}, []byte(nil), true)
	f.Add([]byte(nil), frames("\x01zR\x00\x01\x78\x10\x01\x1b", 8, 16), true)
	f.Fuzz(func(t *testing.T, head, frame []byte, sections bool) {
		file := unwound(head[:min(len(head), 0x100)], frame)
		if sections && len(head) == 0 {
			file = walked(frame)
		} else if !sections {
			file.Segments = append(file.Segments, Segment{Type: segmentFrameHeader, Offset: 0x200, Vaddr: 0x200, Filesz: uint64(len(head))})
			file.Sections = nil
		}
		var content []byte
		var first []region
		at := uint64(0)
		_ = file.FunctionRanges(func(start, end uint64) bool {
			if start < at || end <= start || end > 0x400 {
				t.Fatalf("%#x to %#x behind %#x", start, end, at)
			}
			content = AppendFunctionRange(content, at, start, end)
			first, at = append(first, region{start, end}), end
			return true
		})
		again := &File{r: bytes.NewReader(content), size: int64(len(content)), Sections: []Section{{Name: FunctionsSection, Type: SectionProgbits, Size: uint64(len(content))}}}
		if got := ranges(t, again); !slices.Equal(got, first) {
			t.Fatalf("kept as %#x, read %#x", first, got)
		}
	})
}

package debuginfo

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/symbolize/elf"
	"github.com/perfuse/perfuse/symbolize/index"
)

// defaultDebugDir is where distributions put split debug files.
const defaultDebugDir = "/usr/lib/debug"

// findSplit looks for the split debug file of f, which is at path below root ("" for our own root): by
// build id in the debug directories, then by the name in .gnu_debuglink beside the file, in .debug, and
// under the debug directories. A file is taken if its build id is the same, or, found by name and without
// a build id, if its CRC is the one that the link states. It returns nil if there is none. The caller
// closes it.
func findSplit(f *elf.File, path, root string, debugDirs []string) *elf.File {
	roots := []string{root}
	if root != "" {
		roots = append(roots, "") // the host may have what a container lacks
	}
	id := f.BuildID()
	name, crc, linked := f.DebugLink()
	for _, r := range roots {
		if len(id) > 2 && isBuildID(id) {
			for _, d := range debugDirs {
				if s := openSplit(filepath.Join(r, d, ".build-id", id[:2], id[2:]+".debug"), id, nil); s != nil {
					return s
				}
			}
		}
		if !linked || path == "" {
			continue
		}
		dir := filepath.Dir(path)
		at := []string{filepath.Join(dir, name), filepath.Join(dir, ".debug", name)}
		for _, d := range debugDirs {
			at = append(at, filepath.Join(d, dir, name))
		}
		for _, p := range at {
			if p == path {
				continue
			}
			if s := openSplit(filepath.Join(r, p), id, &crc); s != nil {
				return s
			}
		}
	}
	return nil
}

// findFiles finds all that belongs to f, which becomes part of the result.
func findFiles(f *elf.File, path, root string, debugDirs []string) index.Files {
	files := index.Files{File: f}
	// Somebody may truncate f meanwhile; building from it will say so.
	_ = elf.Guard(func() error {
		files.Split = findSplit(f, path, root, debugDirs)
		for _, from := range []*elf.File{files.Split, f} {
			if from != nil && files.Supplement == nil {
				files.Supplement = findSupplement(from, path, root, debugDirs)
			}
		}
		return nil
	})
	return files
}

// findSupplement looks for the supplementary file (DWZ) that f names: by its build id, then by its path, which
// may be relative to the executable or to a debug directory's copy of its directory. It returns nil if f names
// none or it is not there.
func findSupplement(f *elf.File, path, root string, debugDirs []string) *elf.File {
	name, id, ok := f.DebugAltLink()
	if !ok || !isBuildID(id) {
		return nil
	}
	var at []string
	for _, d := range debugDirs {
		at = append(at, filepath.Join(d, ".build-id", id[:2], id[2:]+".debug"))
	}
	if filepath.IsAbs(name) {
		at = append(at, filepath.Clean(name))
	} else {
		at = append(at, filepath.Join(filepath.Dir(path), name))
		for _, d := range debugDirs {
			at = append(at, filepath.Join(d, filepath.Dir(path), name), filepath.Join(d, ".build-id", id[:2], name))
		}
	}
	for _, r := range []string{root, ""} {
		for _, p := range at {
			if s := openSplit(filepath.Join(r, p), id, nil); s != nil {
				return s
			}
		}
		if root == "" {
			break
		}
	}
	return nil
}

func openSplit(path, buildID string, crc *uint32) *elf.File {
	h, err := openRegular(path)
	if err != nil {
		return nil
	}
	defer h.Close()
	s, err := elf.OpenFile(h)
	if err != nil {
		return nil
	}
	ok := false
	_ = elf.Guard(func() error {
		switch got := s.BuildID(); {
		case buildID != "" && got != "":
			ok = got == buildID
		case crc != nil:
			sum, err := elf.DebugLinkCRC(h)
			ok = err == nil && sum == *crc
		}
		return nil
	})
	if !ok {
		s.Close()
		return nil
	}
	return s
}

// openRegular opens a file without ever waiting for somebody else, as a pipe would make us.
func openRegular(path string) (*os.File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("not a regular file")}
	}
	h, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if st, err := h.Stat(); err != nil || !st.Mode().IsRegular() {
		h.Close()
		return nil, &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("not a regular file")}
	}
	return h, nil
}

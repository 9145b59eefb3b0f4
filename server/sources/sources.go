// Package sources finds the text of source files that debug information names, below directories that the server's
// configuration gives away for reading. Paths come from whoever sends profiles: nothing outside of those directories
// is opened, also not through a symbolic link, and what is within can be read by everybody who may ask the server.
package sources

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"unicode/utf8"
)

// Rule says where files are whose path in debug information begins with Prefix.
//
//	{prefix: /build/api, directory: /srv/src/api}   # what was built elsewhere
//	{prefix: "", directory: /srv/go/src}            # paths that are relative: Go's with -trimpath
type Rule struct {
	// Prefix is whole parts of a path. Empty stands for paths that do not begin with a slash, and for those in Directory.
	Prefix    string `yaml:"prefix"`
	Directory string `yaml:"directory"`
}

// Parse reads a rule as --source-path has it: [PREFIX=]DIRECTORY.
func Parse(text string) Rule {
	if prefix, dir, ok := strings.Cut(text, "="); ok {
		return Rule{Prefix: prefix, Directory: dir}
	}
	return Rule{Directory: text}
}

// Rules are tried in order.
type Rules []Rule

// UnmarshalText reads rules as --source-path has them, separated by commas, from an environment variable.
func (rs *Rules) UnmarshalText(b []byte) error {
	*rs = nil
	for text := range strings.SplitSeq(string(b), ",") {
		if text = strings.TrimSpace(text); text != "" {
			*rs = append(*rs, Parse(text))
		}
	}
	return nil
}

// MaxBytes bounds a file.
const MaxBytes = 4 << 20

// Files reads by rules. The zero Files has none. It is safe for concurrent use.
type Files struct {
	rules []rule
}

type rule struct {
	prefix string
	dir    string
	root   *os.Root
}

// New opens the directories.
func New(rules Rules) (*Files, error) {
	f := &Files{}
	for i, r := range rules {
		if r.Directory == "" {
			f.Close()
			return nil, fmt.Errorf("sources[%d] has no directory", i)
		}
		root, err := os.OpenRoot(r.Directory)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("opening the directory of sources[%d]: %w", i, err)
		}
		f.rules = append(f.rules, rule{prefix: strings.TrimRight(r.Prefix, "/"), dir: path.Clean(r.Directory), root: root})
	}
	return f, nil
}

// Close closes the directories.
func (f *Files) Close() error {
	var errs []error
	for _, r := range f.rules {
		errs = append(errs, r.root.Close())
	}
	return errors.Join(errs...)
}

// ErrNone: no rule leads to such a file.
var ErrNone = errors.New("the server has no sources for it: start it with --source-path DIRECTORY, or with sources in its configuration")

var errMissing = errors.New("the server's sources do not have this file")

// Text returns the text of the file of that path in debug information. If several rules hold, the first whose file is
// there answers. Errors are [ErrNone] or say what is wrong with the file.
func (f *Files) Text(file string) (string, error) {
	if file == "" {
		return "", errors.New("debug information names no source file for it")
	}
	var last error
	for _, r := range f.rules {
		name, ok := r.within(file)
		if !ok {
			continue
		}
		text, err := read(r.root, name)
		if err == nil {
			return text, nil
		}
		if last == nil || err != errMissing {
			last = err
		}
	}
	if last != nil {
		return "", last
	}
	return "", ErrNone
}

// within returns the name of a file relative to the rule's directory.
func (r *rule) within(file string) (string, bool) {
	clean := path.Clean(file)
	prefix := r.prefix
	if prefix == "" {
		if !path.IsAbs(clean) {
			return clean, true
		}
		prefix = r.dir
	}
	rest, ok := strings.CutPrefix(clean, prefix)
	if !ok || prefix != "/" && !strings.HasPrefix(rest, "/") {
		return "", false
	}
	return strings.TrimPrefix(rest, "/"), true
}

func read(root *os.Root, name string) (string, error) {
	// Nothing that is no regular file may block us.
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "", errMissing
	}
	if err != nil {
		return "", fmt.Errorf("opening the source file: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return "", fmt.Errorf("opening the source file: %w", err)
	case !info.Mode().IsRegular():
		return "", errors.New("the source path leads to something that is no regular file")
	}
	text, err := io.ReadAll(io.LimitReader(file, MaxBytes+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("reading the source file: %w", err)
	case len(text) > MaxBytes:
		return "", fmt.Errorf("the source file is larger than %d bytes", MaxBytes)
	case bytes.IndexByte(text, 0) >= 0 || !utf8.Valid(text):
		return "", errors.New("the source file is no text in UTF-8")
	}
	return string(text), nil
}

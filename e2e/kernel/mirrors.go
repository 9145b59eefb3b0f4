package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

const archiveKeys = "/usr/share/keyrings/debian-archive-keyring.gpg"

// ErrNoMirror says that this machine's apt knows no mirror of Debian.
var ErrNoMirror = errors.New("apt has no Debian mirror configured here")

// mirrors reads the Debian mirrors of an apt configuration (etc is /etc), in either of its formats, and returns
// sources of one line each for release. Where a mirror is is the machine's business, never the repository's.
func mirrors(etc fs.FS, release string) (string, error) {
	var lines []string
	add := func(uri string, suites []string) {
		for _, s := range rewrite(suites, release) {
			line := fmt.Sprintf("deb [signed-by=%s] %s %s main\n", archiveKeys, uri, s)
			if !slices.Contains(lines, line) {
				lines = append(lines, line)
			}
		}
	}
	files := []string{"apt/sources.list"}
	for _, pattern := range []string{"apt/sources.list.d/*.list", "apt/sources.list.d/*.sources"} {
		more, err := fs.Glob(etc, pattern)
		if err != nil {
			return "", err
		}
		files = append(files, more...)
	}
	for _, file := range files {
		data, err := fs.ReadFile(etc, file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("reading apt's sources: %w", err)
		}
		if path.Ext(file) == ".sources" {
			readStanzas(string(data), add)
		} else {
			readLines(string(data), add)
		}
	}
	if len(lines) == 0 {
		return "", ErrNoMirror
	}
	return strings.Join(lines, ""), nil
}

// readLines reads sources.list(5)'s one-line format: deb [options] URI suite components.
func readLines(text string, add func(uri string, suites []string)) {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		if before, rest, ok := strings.Cut(line, "["); ok {
			_, after, _ := strings.Cut(rest, "]")
			line = before + after
		}
		if fields := strings.Fields(line); len(fields) >= 3 && fields[0] == "deb" {
			add(fields[1], fields[2:3])
		}
	}
}

// readStanzas reads the deb822 format. A field may go on in lines that begin with a space.
func readStanzas(text string, add func(uri string, suites []string)) {
	for stanza := range strings.SplitSeq(text, "\n\n") {
		fields := map[string][]string{}
		key := ""
		for line := range strings.Lines(stanza) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			if name, value, ok := strings.Cut(line, ":"); ok && line[0] != ' ' && line[0] != '\t' {
				key = strings.ToLower(name)
				fields[key] = append(fields[key], strings.Fields(value)...)
			} else {
				fields[key] = append(fields[key], strings.Fields(line)...)
			}
		}
		if !slices.Contains(fields["types"], "deb") || slices.Equal(fields["enabled"], []string{"no"}) {
			continue
		}
		for _, uri := range fields["uris"] {
			add(uri, fields["suites"])
		}
	}
}

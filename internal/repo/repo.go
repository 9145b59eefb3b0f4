// Package repo reads this repository and reports what breaks the rules of the house: the direction of
// imports, a package comment everywhere, no folder that holds "the rest", no file that names the machine it
// was written on. It is the design as a test: a line that changes in [Rooms] changes the architecture, and
// docs/architecture.md with it.
//
//	cmd → {agent, server} and all below      agent → bpf, symbolize, proto, profile
//	server → storage, symbolize, proto, web, profile
//	storage, symbolize → profile             bpf, proto, web, profile → nothing of ours
//	web/grafana → proto, profile             (a module of its own)
//
// It uses the standard library only and takes well under a second, so that it can run before everything else.
package repo

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Module is the import path of the repository's root.
const Module = "github.com/perfuse/perfuse"

// maxGoLines is the length above which a hand-written Go file holds more than one noun.
const maxGoLines = 800

// Rooms says which rooms (first-level folders, and what is a module of its own) a room may import. A room may always
// import itself; a room that is not listed may hold no Go code.
var Rooms = map[string][]string{
	"profile":   {},
	"bpf":       {},
	"proto":     {},
	"web":       {},
	"storage":   {"profile"},
	"symbolize": {"profile"},
	// Grafana's plugin is a client of the server like any other.
	"web/grafana": {"proto", "profile"},
	"agent":       {"bpf", "symbolize", "proto", "profile"},
	"server":      {"storage", "symbolize", "proto", "web", "profile"},
	// The programs compose the two sides, so they see what those are built from.
	"cmd": {"agent", "server", "bpf", "storage", "symbolize", "proto", "web", "profile"},
	// What drives the product from outside. Nothing imports these.
	"e2e":      {"cmd", "agent", "server", "bpf", "storage", "symbolize", "proto", "web", "profile"},
	"bench":    {"e2e", "cmd", "agent", "server", "bpf", "storage", "symbolize", "proto", "web", "profile"},
	"internal": {},
	"tools":    {},
}

// pure lists rooms that do no I/O, and what they therefore never import outside their tests.
var pure = map[string][]string{
	"profile": {"net", "net/http", "os", "os/exec", "syscall", "golang.org/x/sys/unix"},
}

// vagueNames are folders that say nothing about what is in them.
var vagueNames = []string{"util", "utils", "common", "pkg", "helpers", "helper", "types", "misc"}

// machine finds absolute paths of somebody's machine and the registries that it was pointed at. The
// patterns are put together so that this file does not match itself.
var machine = regexp.MustCompile(`(?:^|[\s"'` + "`" + `(=:,])/(?:wo` + `rk|ro` + `ot|fa` + `rm|home/[a-z0-9_]+)/[A-Za-z0-9_.@-]` +
	`|proxy\.gol` + `ang\.org|registry\.npm` + `js\.org|deb\.deb` + `ian\.org|snapshot\.deb` + `ian\.org`)

// Check returns one line a violation among files of tree, sorted by file; none when the house is in order.
func Check(tree fs.FS, files []string) ([]string, error) {
	var out []string
	report := func(file, format string, args ...any) {
		out = append(out, file+": "+fmt.Sprintf(format, args...))
	}
	documented := map[string]bool{} // folder and package name → has a package comment
	for _, file := range files {
		data, err := fs.ReadFile(tree, file)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		checkFolder(file, report)
		checkText(file, data, report)
		if path.Ext(file) == ".go" && !strings.Contains("/"+file, "/testdata/") {
			if err := checkGo(file, data, documented, report); err != nil {
				return nil, err
			}
		}
	}
	for pkg, ok := range documented {
		if !ok {
			folder, name, _ := strings.Cut(pkg, " ")
			report(folder, "package %s has no package comment", name)
		}
	}
	slices.Sort(out)
	return out, nil
}

func checkFolder(file string, report func(string, string, ...any)) {
	folder := path.Dir(file)
	// The peers' protos and test data keep the paths they came with.
	if strings.HasPrefix(folder, "proto/") || strings.Contains(folder, "testdata") {
		return
	}
	for _, part := range strings.Split(folder, "/") {
		if slices.Contains(vagueNames, part) {
			report(file, "a folder named %q says nothing: name it after its one idea", part)
		}
	}
}

// checkText looks for traces of a machine in text files, and in objects that a compiler may have written
// its folder into.
func checkText(file string, data []byte, report func(string, string, ...any)) {
	binary := bytes.IndexByte(data[:min(len(data), 8192)], 0) >= 0
	if binary && path.Ext(file) != ".o" {
		return
	}
	if binary {
		data = bytes.ReplaceAll(data, []byte{0}, []byte{'\n'}) // strings end where their terminator was
	}
	for len(data) > 0 {
		at := machine.FindIndex(data)
		if at == nil {
			return
		}
		report(file, "names a machine or a registry: %q", strings.TrimSpace(string(data[at[0]:at[1]])))
		data = data[at[1]:]
	}
}

func checkGo(file string, data []byte, documented map[string]bool, report func(string, string, ...any)) error {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, data, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		return fmt.Errorf("parsing %s: %w", file, err)
	}
	generated := ast.IsGenerated(parsed)
	test := strings.HasSuffix(file, "_test.go")
	if lines := bytes.Count(data, []byte{'\n'}); lines > maxGoLines && !generated {
		report(file, "%d lines, more than %d: more than one noun inside", lines, maxGoLines)
	}

	// An external test package and a package of generated code alone need no comment of their own.
	if name := parsed.Name.Name; !strings.HasSuffix(name, "_test") && !generated {
		key := path.Dir(file) + " " + name
		documented[key] = documented[key] || parsed.Doc != nil
	}

	room := roomOf(file)
	allowed, known := Rooms[room]
	if !known {
		report(file, "Go code in %q, which is no room: add it to the table or move it", room)
		return nil
	}
	for _, spec := range parsed.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return fmt.Errorf("reading an import of %s: %w", file, err)
		}
		if !test && slices.Contains(pure[room], imported) {
			report(file, "%s does no I/O and so does not import %s", room, imported)
		}
		rest, ours := strings.CutPrefix(imported, Module+"/")
		if !ours {
			continue
		}
		if to := roomOf(rest + "/"); to != room && !slices.Contains(allowed, to) {
			report(file, "%s does not import %s (it imports %s)", room, to, imported)
		}
	}
	return nil
}

// roomOf is the room that a path lies in: a listed folder of the second level, else the first level's.
func roomOf(file string) string {
	first, rest, _ := strings.Cut(file, "/")
	second, _, _ := strings.Cut(rest, "/")
	if _, known := Rooms[first+"/"+second]; known {
		return first + "/" + second
	}
	return first
}

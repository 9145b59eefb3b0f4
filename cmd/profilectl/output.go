package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/perfuse/perfuse/profile"
)

// output is where an answer goes and in which form: the flag -o, which is the name of a form (to standard
// output) or of a file (whose end tells the form).
type output struct {
	form string
	file string // "" is standard output
}

const (
	formTable  = "table"
	formJSON   = "json"
	formFolded = "folded"
	formPprof  = "pprof"
	formTop    = "top"
	formTree   = "tree"
	formSVG    = "svg"
	formHTML   = "html"
)

// profileForms are the forms of a merged profile.
var profileForms = []string{formFolded, formPprof, formJSON, formTop, formTree, formSVG}

// parseOutput reads the flag.
func parseOutput(s string, forms []string) (output, error) {
	if slices.Contains(forms, s) {
		return output{form: s}, nil
	}
	for _, e := range []struct{ end, form string }{
		{".pb.gz", formPprof}, {".pprof", formPprof}, {".prof", formPprof}, {".folded", formFolded}, {".collapsed", formFolded},
		{".json", formJSON}, {".svg", formSVG}, {".txt", formTree}, {".html", formHTML},
	} {
		if strings.HasSuffix(s, e.end) && slices.Contains(forms, e.form) {
			return output{form: e.form, file: s}, nil
		}
	}
	ends := ".pb.gz, .folded, .json, .svg or .txt"
	if slices.Contains(forms, formHTML) {
		ends = ".pb.gz, .folded, .json, .svg, .html or .txt"
	}
	return output{}, usage("-o %q: want one of %s, or a file that ends in %s", s, strings.Join(forms, ", "), ends)
}

// write calls f with the place where the answer goes. A file appears whole or not at all. Binary output is
// not written to a terminal.
func (o output) write(a *app, f func(io.Writer) error) error {
	if o.file == "" {
		if o.form == formPprof && a.outTerm.is {
			return usage("pprof is binary, it would garble the terminal: give a file (-o out.pb.gz) or redirect standard output")
		}
		return f(a.out)
	}
	var buf bytes.Buffer
	if err := f(&buf); err != nil {
		return err
	}
	if err := writeFile(o.file, buf.Bytes()); err != nil {
		return err
	}
	fmt.Fprintf(a.err, "wrote %s, %s\n", o.file, profile.FormatValue(int64(buf.Len()), "bytes"))
	return nil
}

// check says whether the file can be written, for those who would find out after a long time only.
func (o output) check() error {
	if o.file == "" {
		return nil
	}
	tmp, err := createBeside(o.file)
	if err != nil {
		return err
	}
	tmp.Close()
	return os.Remove(tmp.Name())
}

func createBeside(path string) (*os.File, error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err // the temporary file's name says nothing to anybody
	}
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", path, err)
	}
	return tmp, nil
}

// writeFile writes a file whole or not at all.
func writeFile(path string, data []byte) error {
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		return os.WriteFile(path, data, 0o644) // /dev/null, a pipe
	}
	tmp, err := createBeside(path)
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if e := tmp.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

package scrape

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/server/limits"
)

// FileConfig finds targets in files that others write: lists of what static_configs has, as YAML or JSON.
type FileConfig struct {
	// Files are paths or patterns that end in .yaml, .yml or .json.
	Files []string `yaml:"files"`
	// RefreshInterval is when files are read again that look unchanged. Default 5m.
	RefreshInterval time.Duration `yaml:"refresh_interval,omitempty"`
}

// lookInterval is how often files are looked at for changes.
const lookInterval = 5 * time.Second

func (c *FileConfig) check() error {
	if c.RefreshInterval == 0 {
		c.RefreshInterval = 5 * time.Minute
	}
	if c.RefreshInterval < time.Second {
		return fmt.Errorf("refresh_interval is %s: want 1s or more", c.RefreshInterval)
	}
	if len(c.Files) == 0 {
		return errors.New("files is missing")
	}
	for _, f := range c.Files {
		if !slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(filepath.Ext(f))) {
			return fmt.Errorf("file %q: want a name that ends in .yaml, .yml or .json", f)
		}
		if _, err := filepath.Match(f, ""); err != nil {
			return fmt.Errorf("file %q: %w", f, err)
		}
	}
	return nil
}

// fileDiscovery tells what is in files. A file that cannot be read or understood keeps the targets that it had.
type fileDiscovery struct {
	config   FileConfig
	maxBytes int64
	files    map[string]*knownFile
}

type knownFile struct {
	info os.FileInfo
	err  error
}

func (d *fileDiscovery) name() string { return "file " + strings.Join(d.config.Files, " ") }

func (d *fileDiscovery) run(ctx context.Context, emit emitFunc, report func(error)) {
	d.files = map[string]*knownFile{}
	look := time.NewTicker(min(lookInterval, d.config.RefreshInterval))
	defer look.Stop()
	last := time.Now()
	for again := true; ; {
		report(d.look(again, emit))
		select {
		case <-ctx.Done():
			return
		case now := <-look.C:
			if again = now.Sub(last) >= d.config.RefreshInterval; again {
				last = now
			}
		}
	}
}

// look reads the files that changed, or all, and returns what is wrong with any of them.
func (d *fileDiscovery) look(all bool, emit emitFunc) error {
	found := map[string]bool{}
	for _, pattern := range d.config.Files {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return fmt.Errorf("looking for %s: %w", pattern, err)
		}
		for _, p := range paths {
			found[p] = true
		}
	}
	for p := range d.files {
		if !found[p] {
			delete(d.files, p)
			emit(p, nil)
		}
	}
	var errs []error
	for _, p := range slices.Sorted(maps.Keys(found)) {
		known := d.files[p]
		info, err := os.Stat(p)
		if err == nil && known != nil && !all && known.info != nil && os.SameFile(info, known.info) &&
			info.ModTime().Equal(known.info.ModTime()) && info.Size() == known.info.Size() {
			if known.err != nil {
				errs = append(errs, known.err)
			}
			continue
		}
		var targets []profile.Labels
		if err == nil {
			targets, err = d.read(p)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went while we looked; the next look sees it
		}
		if err != nil {
			err = fmt.Errorf("reading targets from %s: %w; the last good ones stay", p, err)
			errs = append(errs, err)
		} else {
			emit(p, targets)
		}
		d.files[p] = &knownFile{info, err}
	}
	return errors.Join(errs...)
}

func (d *fileDiscovery) read(path string) ([]profile.Labels, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(limits.Reader(f, limits.BodyBytes, d.maxBytes, "the file", nil))
	if err != nil {
		return nil, limitError(err)
	}
	groups, err := parseGroups(data, strings.EqualFold(filepath.Ext(path), ".json"))
	if err != nil {
		return nil, err
	}
	return expand(groups, profile.Label{Name: labelMetaPrefix + "filepath", Value: path}), nil
}

// limitError leaves out what Connect wants to know of an exceeded limit.
func limitError(err error) error {
	var le *limits.Error
	if errors.As(err, &le) {
		return le
	}
	return err
}

// parseGroups reads a list of groups. An empty file has none.
func parseGroups(data []byte, isJSON bool) ([]StaticConfig, error) {
	var groups []StaticConfig
	var err error
	if isJSON {
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		if err = dec.Decode(&groups); err == nil && dec.More() {
			err = errors.New("there is more than one list in it")
		}
	} else {
		dec := yaml.NewDecoder(bytes.NewReader(data))
		dec.KnownFields(true)
		err = dec.Decode(&groups)
	}
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("want a list of {targets: [...], labels: {...}}: %w", err)
	}
	return groups, checkGroups(groups)
}

// expand lists the targets of groups, each with its group's labels and those given.
func expand(groups []StaticConfig, extra ...profile.Label) []profile.Labels {
	var out []profile.Labels
	for _, g := range groups {
		for _, address := range g.Targets {
			ls := slices.Clone(extra)
			for name, value := range g.Labels {
				ls = append(ls, profile.Label{Name: name, Value: strings.ToValidUTF8(value, "\uFFFD")})
			}
			out = append(out, profile.NewLabels(append(ls, profile.Label{Name: labelAddress, Value: address})...))
		}
	}
	return out
}

package scrape

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perfuse/perfuse/profile"
)

// found is what a discoverer told.
type found struct {
	mu      sync.Mutex
	sources map[string][]profile.Labels
	err     error
	changed chan struct{} // gets one entry a change, if there is room
}

func (f *found) emit(source string, targets []profile.Labels) {
	f.mu.Lock()
	if f.sources == nil {
		f.sources = map[string][]profile.Labels{}
	}
	if len(targets) == 0 {
		delete(f.sources, source)
	} else {
		f.sources[source] = targets
	}
	f.mu.Unlock()
	f.tell()
}

func (f *found) report(err error) {
	f.mu.Lock()
	f.err = err
	f.mu.Unlock()
	f.tell()
}

func (f *found) tell() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// String lists addresses, then the error.
func (f *found) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, targets := range f.sources {
		for _, ls := range targets {
			out = append(out, ls.Get(labelAddress))
		}
	}
	slices.Sort(out)
	if f.err != nil {
		out = append(out, "error: "+f.err.Error())
	}
	return strings.Join(out, " ")
}

// Files are followed as they come, change, break and go.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		// As tools do: a new file in the place of the old one.
		if err := os.WriteFile(filepath.Join(dir, "new"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		var got found
		d := &fileDiscovery{config: FileConfig{Files: []string{filepath.Join(dir, "*.yaml"), filepath.Join(dir, "*.json")}, RefreshInterval: time.Minute}, maxBytes: 1000}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		write("a.yaml", "- targets: [a:1, a:2]\n  labels: {zone: z}\n")
		go d.run(ctx, got.emit, got.report)
		f := func(after time.Duration, want string) {
			t.Helper()
			<-time.After(after)
			synctest.Wait()
			if g := strings.ReplaceAll(got.String(), dir+"/", ""); g != want {
				t.Errorf("\n got %s\nwant %s", g, want)
			}
		}
		f(time.Millisecond, "a:1 a:2")
		if ls := got.sources[filepath.Join(dir, "a.yaml")][0]; ls.String() != fmt.Sprintf(`{__address__="a:1", __meta_filepath=%q, zone="z"}`, filepath.Join(dir, "a.yaml")) {
			t.Error(ls)
		}
		write("b.json", `[{"targets": ["b:1"]}]`)
		f(lookInterval, "a:1 a:2 b:1")
		write("a.yaml", "- targets: [a:3]\n")
		f(lookInterval, "a:3 b:1")
		write("b.json", `[{"targets": ["b:1"], "lables": {}}]`)
		const broken = `error: reading targets from b.json: want a list of {targets: [...], labels: {...}}: json: unknown field "lables"; the last good ones stay`
		f(lookInterval, "a:3 b:1 "+broken)
		f(lookInterval, "a:3 b:1 "+broken)
		f(time.Minute, "a:3 b:1 "+broken)
		write("b.json", `[{"targets": ["http://b"]}]`)
		f(lookInterval, `a:3 b:1 error: reading targets from b.json: entry 1: "http://b" is no address: want host:port, without a scheme or a path; the last good ones stay`)
		write("b.json", `[{"targets": ["`+strings.Repeat("b", 1000)+`"]}]`)
		<-time.After(lookInterval)
		synctest.Wait()
		if g := got.String(); !strings.Contains(g, "b.json: the file is too large: limit body_bytes is 1000") || !strings.Contains(g, "b:1") {
			t.Error(g)
		}
		write("b.json", "")
		f(lookInterval, "a:3")
		if err := os.Remove(filepath.Join(dir, "a.yaml")); err != nil {
			t.Fatal(err)
		}
		f(lookInterval, "")
		cancel()
		synctest.Wait()
	})
}

// FuzzFile: whatever is in a file, it is targets with an address each, or an error.
func FuzzFile(f *testing.F) {
	f.Add([]byte("- targets: [a:1]\n  labels: {zone: z}\n"), false)
	f.Add([]byte(`[{"targets": ["b:1"], "labels": {"a": "b"}}]`), true)
	f.Add([]byte("- &a {targets: [x]}\n- *a\n"), false)
	f.Fuzz(func(t *testing.T, data []byte, isJSON bool) {
		groups, err := parseGroups(data, isJSON)
		if err != nil {
			return
		}
		for _, ls := range expand(groups) {
			if err := checkAddress(ls.Get(labelAddress)); err != nil && ls.Get(labelAddress) != "" {
				t.Fatal(err)
			}
		}
	})
}

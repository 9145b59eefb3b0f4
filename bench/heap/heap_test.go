package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/perfuse/perfuse/agent"
)

// TestConfigs holds the configurations to what the agent reads.
func TestConfigs(t *testing.T) {
	f := func(name, text string) agent.Config {
		t.Helper()
		file := filepath.Join(t.TempDir(), "agent.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := agent.LoadConfig(file)
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
		return c
	}
	for _, s := range states {
		f(s.name, s.config+"heap: {go: false}\n")
	}
	for _, part := range parts[1:] {
		for _, p := range profilers(part, 3*time.Second) {
			c := f(p.name, p.config)
			if off := c.Heap.Go != nil && !*c.Heap.Go; off != (p.name == "none" || part != "go") {
				t.Errorf("%s, %s: Go heaps are off: %v", part, p.name, off)
			}
			if (p.on == nil) != (p.name == "none") {
				t.Errorf("%s, %s: nobody looks whether it is on", part, p.name)
			}
			if want := p.name == "native, alloc_only"; c.Heap.Native.AllocOnly != want {
				t.Errorf("%s, %s: alloc_only is %v", part, p.name, !want)
			}
			if want := p.name == "jvm, live"; c.Heap.JVM.Live != want {
				t.Errorf("%s, %s: live is %v", part, p.name, !want)
			}
			if part == "jvm" && p.on != nil && c.Heap.Interval != 3*time.Second {
				t.Errorf("%s, %s: interval %s", part, p.name, c.Heap.Interval)
			}
		}
	}
}

func TestSpread(t *testing.T) {
	f := func(want spread, values ...float64) {
		t.Helper()
		if got := spreadOf(values); got != want {
			t.Errorf("%v: got %v, want %v", values, got, want)
		}
	}
	f(spread{2, 2, 2}, 2)
	f(spread{2, 1, 3}, 3, 1, 2)
	f(spread{2.5, 1, 9}, 9, 1, 2, 3)
	if got, want := ratios([]float64{2, 9}, []float64{4, 3}), []float64{0.5, 3}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := (spread{111.37, 100, 120.04}).times() + " " + (spread{1, 0.98, 1.02}).times(); got != "×111.4 (100.0 to 120.0) ×1.000 (0.980 to 1.020)" {
		t.Error(got)
	}
}

func TestCheck(t *testing.T) {
	good := config{only: parts, rounds: 1, duration: time.Second, interval: time.Second, packages: []string{"std"}}
	if err := good.check(); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*config){
		"an unknown part": func(c *config) { c.only = []string{"go", "rust"} },
		"no round":        func(c *config) { c.rounds = 0 },
		"no package":      func(c *config) { c.packages = nil },
		"no time":         func(c *config) { c.duration = 0 },
		"no interval":     func(c *config) { c.interval = time.Millisecond },
	} {
		c := good
		spoil(&c)
		if c.check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

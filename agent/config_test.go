package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/perfuse/perfuse/bpf/memory"
	"github.com/perfuse/perfuse/profile"
)

// TestHeapConfig reads the section that chooses whose memory is profiled: nobody is chosen by accident.
func TestHeapConfig(t *testing.T) {
	java := profile.NewLabels(profile.Label{Name: "comm", Value: "java"}, profile.Label{Name: "executable", Value: "java"})
	f := func(text string, native, jvm bool) {
		t.Helper()
		c, err := parseConfig([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			return
		}
		chosen := func(s Selector) bool { return s.selects() != nil && s.Match(java) }
		if got := chosen(c.Heap.Native.Selector); got != native {
			t.Errorf("%s: native chooses it: %v", text, got)
		}
		if got := chosen(c.Heap.JVM.Selector); got != jvm {
			t.Errorf("%s: jvm chooses it: %v", text, got)
		}
	}
	f("", false, false)
	f("heap: {native: {selector: }}", false, false)
	f("heap: {native: {selector: null}, jvm: {selector: ~}}", false, false)
	f("heap: {native: {selector: '{}'}}", true, false)
	f("heap: {native: {selector: ' {} '}}", true, false)
	f("heap: {jvm: {selector: '{comm=\"java\"}'}}", false, true)
	f("heap: {native: {selector: '{executable=~\"j.*\"}'}, jvm: {selector: '{comm!=\"java\"}'}}", true, false)
	f("heap: {interval: 1h, go: false, goroutines: false, native: {sample_bytes: 1024, alloc_only: true}, jvm: {live: true, cpu: false}}", false, false)
	f("heap: {native: {sample_bytes: 1099511627776}}", false, false)

	refused := func(text, want string) {
		t.Helper()
		if _, err := parseConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want it to say %q", text, err, want)
		}
	}
	refused("heap: {native: {selector: ''}}", "it is empty")
	refused("heap: {jvm: {selector: \"\"}}", "it is empty")
	refused("heap: {native: {selector: ' '}}", "it is empty")
	refused("heap: {native: {selector: '{comm'}}", "selector")
	refused("heap: {native: {selector: [a]}}", "cannot unmarshal")
	refused("heap: {native: {sample_bytes: 1023}}", "want 1024 to 1099511627776")
	refused("heap: {native: {sample_bytes: 1099511627777}}", "want 1024 to 1099511627776")
	refused("heap: {native: {sample_bytes: -1}}", "cannot unmarshal")
	refused("heap: {native: {samples: 1}}", "not found")
	refused("heap: {interval: 1ms}", "want 1s to 1h")
	refused("heap: {interval: 61m}", "want 1s to 1h")
}

// FuzzConfig: what is in the file is settings that keep their bounds, or an error.
func FuzzConfig(f *testing.F) {
	f.Add([]byte("interval: 10s\nrelabel_configs:\n  - {source_labels: [comm], regex: 'a.*', action: drop}\n"))
	f.Add([]byte("bpf_fs: sys\n"))
	f.Add([]byte("&a [*a]"))
	f.Add([]byte("heap:\n  interval: 15s\n  native: {selector: '{comm=~\"a.*\"}', sample_bytes: 524288}\n  jvm: {selector: '{}', live: true}\n"))
	f.Add([]byte("heap: {native: {selector: ''}}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseConfig(b)
		if err != nil {
			return
		}
		if c.Interval < 0 || c.BPFFS != "" && c.BPFFS[0] != '/' {
			t.Errorf("%+v", c)
		}
		if h := c.Heap; h.Interval < 0 || h.Interval > time.Hour || h.Native.SampleBytes > memory.MaxRate {
			t.Errorf("%+v", h)
		}
		for _, s := range []Selector{c.Heap.Native.Selector, c.Heap.JVM.Selector} {
			if choose := s.selects(); choose != nil && !strings.ContainsAny(string(b), `{\`) {
				t.Errorf("%q chooses processes", b)
			}
		}
	})
}

package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/bpf/memory"
	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/profile/relabel"
)

// Config is the agent's configuration file, and the section "agent" of that of `perfuse up`. Every key may
// be left out.
//
//	node: worker-7            # the label node; default: the host's name
//	interval: 10s             # the time between two batches
//	off_cpu: true             # measure what threads wait for, where the kernel can (Linux 5.18)
//	wakers: false             # also measure who ends the waits
//	page_faults: true         # measure who makes memory resident
//	heap:
//	  interval: 15s           # the time between two looks at memory profiles
//	  go: true                # Go programs, which keep their profile by themselves
//	  goroutines: true        # also count their goroutines by stack
//	  native:                 # C, C++ and Rust: probes on allocators, 0.6 µs a call
//	    selector: '{executable="postgres"}'   # which processes, by their labels; without: none
//	    sample_bytes: 524288  # bytes allocated to a sample, on average
//	    alloc_only: false     # leave out what is in use, for half of the cost
//	    max_calls: 500000     # calls of its allocator in a second at which a process is left alone; -1: none
//	  jvm:                    # JVMs, by their Flight Recorder
//	    selector: '{comm="java"}'
//	    live: false           # also what is in use: a full collection every interval
//	    cpu: true             # also CPU time by method, of JVMs that keep no frame pointers (of others the methods' names)
//	bpf_fs: /sys/fs/bpf       # where agents on a node share which request a thread serves
//	relabel_configs:          # Prometheus' rules over the labels of each process
//	  - source_labels: [executable]
//	    regex: sshd|cron
//	    action: drop
type Config struct {
	Node           string         `yaml:"node"`
	Interval       time.Duration  `yaml:"interval"`
	OffCPU         *bool          `yaml:"off_cpu"`
	Wakers         bool           `yaml:"wakers"`
	PageFaults     *bool          `yaml:"page_faults"`
	Heap           HeapConfig     `yaml:"heap"`
	BPFFS          string         `yaml:"bpf_fs"`
	RelabelConfigs []relabel.Rule `yaml:"relabel_configs"`
}

// HeapConfig says whose memory profiles are collected.
type HeapConfig struct {
	Interval   time.Duration `yaml:"interval"`
	Go         *bool         `yaml:"go"`
	Goroutines *bool         `yaml:"goroutines"`
	Native     struct {
		Selector    Selector `yaml:"selector"`
		SampleBytes uint64   `yaml:"sample_bytes"`
		AllocOnly   bool     `yaml:"alloc_only"`
		MaxCalls    float64  `yaml:"max_calls"`
	} `yaml:"native"`
	JVM struct {
		Selector Selector `yaml:"selector"`
		Live     bool     `yaml:"live"`
		CPU      *bool    `yaml:"cpu"`
	} `yaml:"jvm"`
}

// Selector chooses processes by their labels. The zero Selector chooses none.
type Selector struct {
	profile.Selector
	set bool
}

// UnmarshalText reads a selector as queries have it. Only "{}" chooses all: an empty text is a variable that was not set.
func (s *Selector) UnmarshalText(text []byte) (err error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return errors.New("it is empty: leave it out to choose no process, or write '{}' to choose all")
	}
	s.Selector, err = profile.ParseSelector(string(text))
	s.set = true
	return err
}

// selects returns the choice as a function, nil for none.
func (s Selector) selects() func(*process.Process) bool {
	if !s.set {
		return nil
	}
	return func(p *process.Process) bool { return keep(p) && s.Match(p.Labels()) }
}

const maxConfigBytes = 1 << 20

// LoadConfig reads a file. An empty path gives the zero Config.
func LoadConfig(path string) (Config, error) {
	if path == "" {
		return Config{}, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("reading configuration: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return Config{}, fmt.Errorf("reading configuration %s: %w", path, err)
	}
	if len(b) > maxConfigBytes {
		return Config{}, fmt.Errorf("reading configuration %s: it is larger than %d bytes; is it the right file?", path, maxConfigBytes)
	}
	c, err := parseConfig(b)
	if err != nil {
		return Config{}, fmt.Errorf("reading configuration %s: %w", path, err)
	}
	return c, nil
}

// ParseConfig reads a section of another file. The zero node gives the zero Config.
func ParseConfig(n yaml.Node) (Config, error) {
	if n.IsZero() {
		return Config{}, nil
	}
	// Only a decoder over bytes refuses unknown keys.
	b, err := yaml.Marshal(&n)
	if err != nil {
		return Config{}, err
	}
	return parseConfig(b)
}

func parseConfig(b []byte) (Config, error) {
	var c Config
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return Config{}, err
	}
	if c.BPFFS != "" && !filepath.IsAbs(c.BPFFS) {
		return Config{}, fmt.Errorf("bpf_fs %s: want an absolute path", c.BPFFS)
	}
	if c.Interval != 0 && (c.Interval < time.Second || c.Interval > 5*time.Minute) {
		return Config{}, fmt.Errorf("interval %s: want 1s to 5m", c.Interval)
	}
	if h := c.Heap.Interval; h != 0 && (h < time.Second || h > time.Hour) {
		return Config{}, fmt.Errorf("heap: interval %s: want 1s to 1h", h)
	}
	if n := c.Heap.Native.SampleBytes; n != 0 && (n < 1024 || n > memory.MaxRate) {
		return Config{}, fmt.Errorf("heap: native: sample_bytes %d: want 1024 to %d", n, uint64(memory.MaxRate))
	}
	if err := relabel.Check(c.RelabelConfigs); err != nil {
		return Config{}, err
	}
	return c, nil
}

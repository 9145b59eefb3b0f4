package cpu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// spansMap is where agents on a node tell each other which span a thread serves: an LRU hash from pid_tgid to a trace id
// (16 bytes) and a span id (8 bytes), pinned in a BPF file system. OpenTelemetry's proposal 4855 fixes name, type and size;
// who comes first makes it.
const (
	spansMap   = "traces_ctx_v1"
	spansCount = 1 << 14
)

// DefaultBPFFS is where systems mount the BPF file system.
const DefaultBPFFS = "/sys/fs/bpf"

// OpenSpans opens the map of spans in the folder "otel" of a BPF file system, or makes it if create says so. The error is
// fs.ErrNotExist if there is none.
func OpenSpans(bpffs string, create bool) (*ebpf.Map, error) {
	path := filepath.Join(bpffs, "otel", spansMap)
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err == nil {
		if (m.Type() != ebpf.LRUHash && m.Type() != ebpf.Hash) || m.KeySize() != 8 || m.ValueSize() < 24 {
			err := fmt.Errorf("the map %s is a %s with keys of %d and values of %d bytes: it is not one of spans", path, m.Type(), m.KeySize(), m.ValueSize())
			m.Close()
			return nil, err
		}
		return m, nil
	}
	if !errors.Is(err, fs.ErrNotExist) || !create {
		return nil, fmt.Errorf("opening the map of spans: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(bpffs, &st); err != nil {
		return nil, fmt.Errorf("looking for a BPF file system at %s: %w", bpffs, err)
	}
	if st.Type != unix.BPF_FS_MAGIC {
		return nil, fmt.Errorf("no BPF file system is mounted at %s: %w", bpffs, fs.ErrNotExist)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the map of spans: %w", err)
	}
	if m, err = ebpf.NewMap(&ebpf.MapSpec{Name: spansMap, Type: ebpf.LRUHash, KeySize: 8, ValueSize: 24, MaxEntries: spansCount}); err != nil {
		return nil, fmt.Errorf("making the map of spans: %w", err)
	}
	if err := m.Pin(path); err != nil {
		m.Close()
		return nil, fmt.Errorf("making the map of spans known as %s: %w", path, err)
	}
	return m, nil
}

// useSpans makes the programs look into m.
func useSpans(spec *ebpf.CollectionSpec, o *ebpf.CollectionOptions, m *ebpf.Map) error {
	s := spec.Maps[spansMap]
	s.Type, s.ValueSize, s.MaxEntries, s.Flags = m.Type(), m.ValueSize(), m.MaxEntries(), m.Flags()
	s.Key, s.Value = nil, nil // a later version may have more in its values
	o.MapReplacements = map[string]*ebpf.Map{spansMap: m}
	return spec.Variables["spans_enabled"].Set(true)
}

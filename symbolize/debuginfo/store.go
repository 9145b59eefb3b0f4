package debuginfo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/symbolize"
	"github.com/perfuse/perfuse/symbolize/elf"
	"github.com/perfuse/perfuse/symbolize/table"
)

// What Put refuses.
var (
	ErrBuildID  = errors.New("invalid build id")
	ErrTooLarge = errors.New("debug information is too large")
	ErrFull     = errors.New("the store of debug information is full")
	ErrKnown    = errors.New("debug information is there already")
	ErrUpload   = errors.New("unusable debug information")
)

// StoreOptions configure a Store; all but Dir may be left zero.
type StoreOptions struct {
	// Dir is where everything lies; it is made if it is not there.
	Dir string
	// MaxFileBytes bounds one upload after decompression; the default is 2 GiB.
	MaxFileBytes int64
	// MaxBytes bounds all uploads and tables together; the default is 64 GiB.
	MaxBytes int64
	// Workers is how many tables are built at the same time; the default is half the processors.
	Workers int
	// MaxOpenTables and MaxOpenBytes bound the tables that are kept mapped; the defaults are 256 and 4 GiB
	// (of address space: the kernel keeps in memory what is used).
	MaxOpenTables int
	MaxOpenBytes  int64
	// DropUploads deletes an upload once its table is built. Otherwise it stays, so that the table can be
	// built again by a later version of the program.
	DropUploads bool

	Logger   log.Logger
	Registry prometheus.Registerer
	// Now tells the time; the default is time.Now.
	Now func() time.Time
}

// State says how far a build id has come.
type State string

// An upload is stored first, then its table is built, which may fail for good.
const (
	Uploaded State = "uploaded"
	Indexed  State = "indexed"
	Failed   State = "failed"
)

// Info is what the store knows about a build id.
type Info struct {
	BuildID    string    `json:"build_id"`
	File       string    `json:"file"` // its name as the process saw it
	State      State     `json:"state"`
	Error      string    `json:"error,omitempty"` // why it failed, or what of it could not be read
	Bytes      int64     `json:"bytes"`
	TableBytes int64     `json:"table_bytes,omitempty"`
	Uploaded   time.Time `json:"uploaded"`
	// Version is that of the table's format.
	Version int `json:"version,omitempty"`
}

// Store keeps uploaded debug information and its symbol tables in a directory:
//
//	DIR/ab/cdef….elf     what was uploaded, for build id abcdef…
//	DIR/ab/cdef….symtab  the table
//	DIR/ab/cdef….json    Info
//
// Every file is written under a temporary name, synced and renamed; what was begun is gone after a crash.
// A Store implements symbolize.Resolver and may be used by several goroutines at once.
type Store struct {
	options StoreOptions
	metrics storeMetrics

	mu      sync.Mutex
	infos   map[string]*Info
	busy    map[string]bool // build ids that are being uploaded
	bytes   int64
	pending []string
	wake    chan struct{}

	tables tableCache
}

// NewStore opens the store in a directory. Run builds the tables.
func NewStore(o StoreOptions) (*Store, error) {
	if o.MaxFileBytes == 0 {
		o.MaxFileBytes = 2 << 30
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 64 << 30
	}
	if o.Workers == 0 {
		o.Workers = max(runtime.GOMAXPROCS(0)/2, 1)
	}
	if o.MaxOpenTables == 0 {
		o.MaxOpenTables = 256
	}
	if o.MaxOpenBytes == 0 {
		o.MaxOpenBytes = 4 << 30
	}
	if o.Logger == nil {
		o.Logger = log.NewNopLogger()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Store{options: o, infos: map[string]*Info{}, busy: map[string]bool{}, wake: make(chan struct{}, 1)}
	s.tables = tableCache{maxTables: o.MaxOpenTables, maxBytes: o.MaxOpenBytes, open: s.openTable}
	s.metrics = newStoreMetrics(o.Registry)
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("opening the store of debug information: %w", err)
	}
	if err := s.scan(); err != nil {
		return nil, fmt.Errorf("opening the store of debug information in %s: %w", o.Dir, err)
	}
	return s, nil
}

func (s *Store) path(buildID, suffix string) string {
	return filepath.Join(s.options.Dir, buildID[:2], buildID[2:]+suffix)
}

// scan reads what is there, removes what a crash has left, and puts what has no table yet into the queue.
func (s *Store) scan() error {
	dirs, err := os.ReadDir(s.options.Dir)
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if !d.IsDir() || len(d.Name()) != 2 {
			continue
		}
		dir := filepath.Join(s.options.Dir, d.Name())
		files, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, f := range files {
			name := f.Name()
			if strings.HasSuffix(name, ".tmp") {
				_ = os.Remove(filepath.Join(dir, name))
				continue
			}
			rest, ok := strings.CutSuffix(name, ".json")
			if id := d.Name() + rest; ok && isBuildID(id) {
				if err := s.load(id); err != nil {
					level.Warn(s.options.Logger).Log("msg", "ignoring debug information", "build_id", id, "err", err)
				}
			}
		}
	}
	slices.Sort(s.pending)
	return s.removeOrphans(dirs)
}

// removeOrphans removes uploads and tables without a state: a crash came between the two.
func (s *Store) removeOrphans(dirs []os.DirEntry) error {
	for _, d := range dirs {
		if !d.IsDir() || len(d.Name()) != 2 {
			continue
		}
		dir := filepath.Join(s.options.Dir, d.Name())
		files, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, f := range files {
			rest, isUpload := strings.CutSuffix(f.Name(), ".elf")
			rest, isTable := strings.CutSuffix(rest, ".symtab")
			if id := d.Name() + rest; (isUpload || isTable) && isBuildID(id) && s.infos[id] == nil {
				_ = os.Remove(filepath.Join(dir, f.Name()))
			}
		}
	}
	return nil
}

func (s *Store) load(id string) error {
	info, err := readInfo(s.path(id, ".json"))
	if err != nil {
		return err
	}
	info.BuildID = id
	_, noTable := os.Stat(s.path(id, ".symtab"))
	_, noUpload := os.Stat(s.path(id, ".elf"))
	old := info.Version != table.Version
	switch {
	case info.State == Indexed && noTable == nil && !old:
	case noUpload == nil && (info.State != Failed || old):
		info.State, info.Error = Uploaded, ""
		s.pending = append(s.pending, id)
	case info.State == Failed:
	default:
		// Neither table nor upload: forget it, so that it is wanted again.
		return os.Remove(s.path(id, ".json"))
	}
	if noUpload != nil {
		info.Bytes = 0
	}
	if noTable != nil {
		info.TableBytes = 0
	}
	s.infos[id] = info
	s.bytes += info.Bytes + info.TableBytes
	return nil
}

// Put stores what r gives as the debug information of a build id: an ELF file, as it is or compressed with
// zstd. It returns the size after decompression. file is the executable's name, for people. On an error
// nothing is left behind.
func (s *Store) Put(ctx context.Context, buildID, file string, r io.Reader) (int64, error) {
	n, err := s.put(ctx, buildID, file, r)
	if err != nil {
		s.metrics.refused.Inc()
		return 0, fmt.Errorf("storing debug information of %.140q: %w", buildID, err)
	}
	s.metrics.uploads.Inc()
	s.metrics.uploadBytes.Add(float64(n))
	return n, nil
}

func (s *Store) put(ctx context.Context, id, file string, r io.Reader) (int64, error) {
	if !isBuildID(id) {
		return 0, fmt.Errorf("%w: %w", ErrBuildID, badBuildID(id))
	}
	s.mu.Lock()
	info, room := s.infos[id], s.options.MaxBytes-s.bytes
	switch {
	case s.busy[id], info != nil && info.State != Failed:
		s.mu.Unlock()
		return 0, ErrKnown
	case room <= 0:
		s.mu.Unlock()
		return 0, ErrFull
	}
	s.busy[id] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.busy, id)
		s.mu.Unlock()
	}()

	if err := os.MkdirAll(filepath.Dir(s.path(id, "")), 0o755); err != nil {
		return 0, err
	}
	t, err := os.CreateTemp(filepath.Dir(s.path(id, "")), "upload-*.tmp")
	if err != nil {
		return 0, err
	}
	kept := false
	defer func() {
		t.Close()
		if !kept {
			os.Remove(t.Name())
		}
	}()
	n, err := s.receive(ctx, t, r, room)
	if err != nil {
		return 0, err
	}
	if err := checkUpload(t, id); err != nil {
		return 0, err
	}
	if err := t.Sync(); err != nil {
		return 0, err
	}
	if err := os.Rename(t.Name(), s.path(id, ".elf")); err != nil {
		return 0, err
	}
	kept = true
	info = &Info{BuildID: id, File: strings.ToValidUTF8(file[:min(len(file), 4096)], "\uFFFD"), State: Uploaded, Bytes: n, Uploaded: s.options.Now().UTC(), Version: table.Version}
	if err := writeInfo(s.path(id, ".json"), info); err != nil {
		os.Remove(s.path(id, ".elf"))
		return 0, err
	}
	s.mu.Lock()
	if old := s.infos[id]; old != nil {
		s.bytes -= old.Bytes + old.TableBytes
	}
	s.infos[id] = info
	s.bytes += n
	s.mu.Unlock()
	s.enqueue(id)
	return n, nil
}

// receive copies the upload to t, unpacked, within the limits.
func (s *Store) receive(ctx context.Context, t *os.File, r io.Reader, room int64) (int64, error) {
	limit, tooMuch := s.options.MaxFileBytes, ErrTooLarge
	if room < limit {
		limit, tooMuch = room, ErrFull
	}
	b := bufio.NewReaderSize(&contextReader{ctx, r}, 64<<10)
	var in io.Reader = b
	if head, _ := b.Peek(4); string(head) == "\x28\xb5\x2f\xfd" {
		// The window is what a bomb would have us allocate.
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(64<<20), zstd.WithDecoderMaxMemory(uint64(limit)+64<<20))
		if err != nil {
			return 0, fmt.Errorf("%w: %w", ErrUpload, err)
		}
		defer z.Close()
		in = z
	}
	n, err := io.Copy(t, io.LimitReader(in, limit+1))
	switch {
	case n > limit:
		return 0, fmt.Errorf("%w: more than %d bytes", tooMuch, limit)
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeExceeded):
		return 0, fmt.Errorf("%w: %w", tooMuch, err)
	}
	return n, err
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// checkUpload refuses what is no ELF file, and a file that says that it is another one.
func checkUpload(t *os.File, id string) error {
	f, err := elf.OpenFile(t)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUpload, err)
	}
	defer f.Close()
	if own := f.BuildID(); own != "" && own != id {
		return fmt.Errorf("%w: its own build id is %s", ErrUpload, own)
	}
	return nil
}

// Wanted returns those of the build ids that should be uploaded. What cannot be a build id is not wanted,
// nor is what has failed: it would fail again.
func (s *Store) Wanted(buildIDs []string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	if s.bytes >= s.options.MaxBytes {
		return nil
	}
	for _, id := range buildIDs {
		if isBuildID(id) && s.infos[id] == nil && !s.busy[id] {
			out = append(out, id)
		}
	}
	return out
}

// List returns what is known, sorted by build id.
func (s *Store) List() []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Info, 0, len(s.infos))
	for _, i := range s.infos {
		out = append(out, *i)
	}
	slices.SortFunc(out, func(a, b Info) int { return strings.Compare(a.BuildID, b.BuildID) })
	return out
}

// Resolve implements symbolize.Resolver.
func (s *Store) Resolve(ctx context.Context, buildID string, addrs []profile.Addr) ([][]symbolize.Source, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	info := s.infos[buildID]
	var state State
	var reason string
	if info != nil {
		state, reason = info.State, info.Error
	}
	s.mu.Unlock()
	switch state {
	case Indexed:
	case Uploaded:
		return nil, fmt.Errorf("resolving addresses of %s: its table is not built yet: %w", buildID, symbolize.ErrNoDebugInfo)
	case Failed:
		return nil, fmt.Errorf("resolving addresses of %s: %w (%s)", buildID, symbolize.ErrNoDebugInfo, reason)
	default:
		return nil, fmt.Errorf("resolving addresses of %.140s: %w", buildID, symbolize.ErrNoDebugInfo)
	}
	t, release, err := s.tables.acquire(buildID)
	if err != nil {
		s.rebuild(buildID, err)
		return nil, fmt.Errorf("resolving addresses of %s: %w", buildID, errors.Join(symbolize.ErrNoDebugInfo, err))
	}
	defer release()
	return lookup(t, addrs), nil
}

func (s *Store) openTable(id string) (*table.Table, error) {
	s.metrics.opens.Inc()
	return table.Open(s.path(id, ".symtab"))
}

// Close unmaps all tables. Run must have returned.
func (s *Store) Close() error { return s.tables.close() }

package query

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/go-kit/log/level"
	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/symbolize"
	"golang.org/x/sync/errgroup"
)

// Symbolize names the native frames of b that have none, in place: it asks for every address of a build id
// once. What stays unknown stays without lines, so that it is shown by file and address and never thrown
// together. Only a cancelled context is an error: a file that cannot be read costs names, not the answer.
func (e *Engine) Symbolize(ctx context.Context, b *profile.Batch) error {
	groups := symbolize.FindUnnamed(b.Dictionary)
	if e.opts.Resolver == nil || len(groups) == 0 {
		return nil
	}
	found := make([][][]symbolize.Source, len(groups))
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(4)
	for i, u := range groups {
		work.Go(func() (err error) {
			found[i], err = e.resolve(ctx, u)
			return err
		})
	}
	if err := work.Wait(); err != nil {
		return fmt.Errorf("symbolizing: %w", err)
	}
	for i, u := range groups {
		u.Name(b.Dictionary, found[i])
	}
	return nil
}

// resolve returns the sources by address, empty where there are none.
func (e *Engine) resolve(ctx context.Context, u *symbolize.Unnamed) ([][]symbolize.Source, error) {
	sources := make([][]symbolize.Source, len(u.Addrs))
	missing := e.cache.get(u.BuildID, u.Addrs, sources)
	if len(missing) > 0 {
		ask := make([]profile.Addr, len(missing))
		for i, m := range missing {
			ask[i] = u.Addrs[m]
		}
		generation := e.cache.generation(u.BuildID)
		got, err := e.opts.Resolver.Resolve(ctx, u.BuildID, ask)
		if err == nil && len(got) != len(ask) {
			err = fmt.Errorf("got %d answers for %d addresses", len(got), len(ask))
		}
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.Is(err, symbolize.ErrNoDebugInfo):
			e.metrics.unresolved.WithLabelValues("no_debuginfo").Add(float64(len(ask)))
			return sources, nil
		case err != nil:
			e.metrics.unresolved.WithLabelValues("error").Add(float64(len(ask)))
			level.Warn(e.logger).Log("msg", "cannot symbolize", "build_id", u.BuildID, "err", err)
			if e.opts.OnError != nil {
				e.opts.OnError("symbolize "+u.BuildID, err)
			}
			return sources, nil
		}
		e.metrics.resolved.Add(float64(len(ask)))
		for i, m := range missing {
			valid(got[i])
			sources[m] = got[i]
			if len(got[i]) == 0 {
				e.metrics.unresolved.WithLabelValues("not_covered").Inc()
			}
		}
		e.cache.put(u.BuildID, generation, ask, got)
	}
	return sources, nil
}

// valid makes the names text that every answer can carry: a symbol table may hold any bytes.
func valid(sources []symbolize.Source) {
	for i := range sources {
		s := &sources[i]
		for _, p := range []*string{&s.Name, &s.SystemName, &s.File} {
			if !utf8.ValidString(*p) {
				*p = strings.ToValidUTF8(*p, "\uFFFD")
			}
		}
	}
}

// Forget drops what is cached about a build id, because its debug information changed.
func (e *Engine) Forget(buildID string) { e.cache.forget(buildID) }

// cache keeps resolved addresses by build id. When it holds too many, it lets go of the build ids that were
// not asked for the longest.
type cache struct {
	mu      sync.Mutex
	max     int // addresses
	size    int
	clock   uint64
	files   map[string]*cachedFile
	forgets map[string]uint64 // by build id: how often it was forgotten
}

type cachedFile struct {
	used    uint64
	sources map[profile.Addr][]symbolize.Source
}

func newCache(max int) *cache {
	return &cache{max: max, files: map[string]*cachedFile{}, forgets: map[string]uint64{}}
}

// get fills in what is known and returns the positions of what is not.
func (c *cache) get(buildID string, addrs []profile.Addr, sources [][]symbolize.Source) (missing []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clock++
	f := c.files[buildID]
	if f != nil {
		f.used = c.clock
	}
	for i, a := range addrs {
		var ok bool
		if f != nil {
			sources[i], ok = f.sources[a]
		}
		if !ok {
			missing = append(missing, i)
		}
	}
	return missing
}

// generation changes when a build id is forgotten: an answer from before must not be put after it.
func (c *cache) generation(buildID string) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.forgets[buildID]
}

func (c *cache) put(buildID string, generation uint64, addrs []profile.Addr, sources [][]symbolize.Source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.forgets[buildID] != generation || len(addrs) > c.max {
		return
	}
	c.clock++
	f := c.files[buildID]
	if f == nil {
		f = &cachedFile{sources: make(map[profile.Addr][]symbolize.Source, len(addrs))}
		c.files[buildID] = f
	}
	f.used = c.clock
	before := len(f.sources)
	for i, a := range addrs {
		f.sources[a] = sources[i]
	}
	c.size += len(f.sources) - before
	for c.size > c.max {
		oldest := ""
		for id, f := range c.files {
			if oldest == "" || f.used < c.files[oldest].used {
				oldest = id
			}
		}
		c.drop(oldest)
	}
}

func (c *cache) forget(buildID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(buildID)
	c.forgets[buildID]++
}

func (c *cache) drop(buildID string) {
	if f := c.files[buildID]; f != nil {
		c.size -= len(f.sources)
		delete(c.files, buildID)
	}
}

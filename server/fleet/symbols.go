package fleet

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/perfuse/perfuse/profile"
	fleetv1 "github.com/perfuse/perfuse/proto/perfuse/fleet/v1"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/symbolize"
	"github.com/perfuse/perfuse/symbolize/debuginfo"
)

const (
	// symbolsSpan is how far back the answer about symbols looks, symbolsFresh how old an answer may be: it costs a
	// flame graph of everything.
	symbolsSpan  = 15 * time.Minute
	symbolsFresh = 30 * time.Second
	// maxFiles bounds the list of executable files.
	maxFiles = 1000
)

// symbols keeps the last answer; turn holds a token while somebody makes one.
type symbols struct {
	turn   chan struct{}
	answer *fleetv1.SymbolsResponse // not changed once it is here
	made   time.Time
}

func (s service) Symbols(ctx context.Context, _ *fleetv1.SymbolsRequest) (*fleetv1.SymbolsResponse, error) {
	select {
	case s.symbols.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-s.symbols.turn }()
	now := s.opts.Now()
	if s.symbols.answer != nil && now.Sub(s.symbols.made) < symbolsFresh {
		return s.symbols.answer, nil
	}
	var answer *fleetv1.SymbolsResponse
	err := s.opts.API.Query(ctx, func(ctx context.Context) (err error) {
		answer, err = s.look(ctx, now.Add(-symbolsSpan), now)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.symbols.answer, s.symbols.made = answer, now
	return answer, nil
}

// look reads a range's CPU profiles, or those of the first type that there is.
func (s service) look(ctx context.Context, start, end time.Time) (*fleetv1.SymbolsResponse, error) {
	resp := &fleetv1.SymbolsResponse{StartUnixNano: start.UnixNano(), EndUnixNano: end.UnixNano()}
	types, err := s.opts.Store.Types(ctx, start, end)
	if err != nil {
		return nil, fmt.Errorf("listing profile types: %w", err)
	}
	if len(types) == 0 {
		return resp, nil
	}
	typ := types[max(slices.Index(types, profile.TypeCPU), 0)]
	resp.ProfileType = typ.String()
	b, err := s.opts.Store.Merge(ctx, storage.Selection{Type: &typ, Start: start, End: end}, nil)
	if err != nil {
		return nil, fmt.Errorf("merging profiles: %w", err)
	}
	before := unnamed(b.Dictionary)
	if err := s.opts.Engine.Symbolize(ctx, b); err != nil {
		return nil, err
	}
	count(b, before, unnamed(b.Dictionary)).answer(s.stored(), s.opts.Debuginfo != nil, resp)
	return resp, nil
}

// stored is what the store of symbols has, by build id.
func (s service) stored() map[string]debuginfo.Info {
	infos := map[string]debuginfo.Info{}
	if s.opts.Debuginfo != nil {
		for _, i := range s.opts.Debuginfo.List() {
			infos[i.BuildID] = i
		}
	}
	return infos
}

// place is an address in an executable file.
type place struct {
	buildID string
	addr    profile.Addr
}

// unnamed are the native addresses without a function's name.
func unnamed(d *profile.Dictionary) map[place]bool {
	places := map[place]bool{}
	for _, u := range symbolize.FindUnnamed(d) {
		for _, a := range u.Addrs {
			places[place{u.BuildID, a}] = true
		}
	}
	return places
}

// counted is the weight of frames by file: a sample counts its value for each native frame of its stack.
type counted struct {
	files map[string]*countedFile
	all   float64
}

// countedFile is known by its build id or, if it has none, by its name.
type countedFile struct {
	buildID, name string
	// arrived frames had a name when they came, found got theirs from the store, bare have none.
	arrived, found, bare float64
}

func count(b *profile.Batch, before, after map[place]bool) *counted {
	d := b.Dictionary
	stacks := make([]float64, len(d.Stacks))
	for i := range b.Profiles {
		for _, s := range b.Profiles[i].Samples {
			stacks[s.Stack] += float64(max(s.Value, 0))
		}
	}
	frames := make([]float64, len(d.Frames))
	for i, weight := range stacks {
		for _, f := range d.Stacks[i] {
			frames[f] += weight
		}
	}
	c := &counted{files: map[string]*countedFile{}}
	for i, weight := range frames {
		f := &d.Frames[i]
		m := d.Mappings[f.Mapping]
		if f.Kind != profile.KindNative || weight == 0 || m == (profile.Mapping{}) {
			continue
		}
		file := c.files[cmp.Or(m.BuildID, m.File)]
		if file == nil {
			file = &countedFile{buildID: m.BuildID, name: m.File}
			c.files[cmp.Or(m.BuildID, m.File)] = file
		}
		c.all += weight
		at := place{m.BuildID, f.Addr}
		switch {
		case after[at], len(f.Lines) == 0:
			file.bare += weight
		case before[at]:
			file.found += weight
		default:
			file.arrived += weight
		}
	}
	return c
}

// answer writes what was counted.
func (c *counted) answer(infos map[string]debuginfo.Info, kept bool, resp *fleetv1.SymbolsResponse) {
	files := make([]*countedFile, 0, len(c.files))
	var bare float64
	for _, f := range c.files {
		files = append(files, f)
		bare += f.bare
	}
	slices.SortFunc(files, func(a, b *countedFile) int {
		return cmp.Or(cmp.Compare(b.bare, a.bare), cmp.Compare(b.weight(), a.weight()), cmp.Compare(a.name, b.name), cmp.Compare(a.buildID, b.buildID))
	})
	resp.Total = uint32(len(files))
	if c.all > 0 {
		resp.UnnamedShare = bare / c.all
	}
	for _, f := range files[:min(len(files), maxFiles)] {
		info, has := infos[f.buildID]
		s := &fleetv1.Symbols{
			BuildId: f.buildID, File: cmp.Or(f.name, info.File), FramesShare: f.weight() / c.all, UnnamedShare: f.bare / f.weight(),
		}
		s.Source, s.Reason = f.judge(info, has, kept)
		resp.Files = append(resp.Files, s)
	}
}

func (f *countedFile) weight() float64 { return f.arrived + f.found + f.bare }

// judge says where a file's names are from, and if some are missing, why and what to do.
func (f *countedFile) judge(info debuginfo.Info, has, kept bool) (fleetv1.Symbols_Source, string) {
	switch {
	case f.bare == 0 && f.found > 0:
		return fleetv1.Symbols_STORE, ""
	case f.bare == 0:
		return fleetv1.Symbols_PROFILES, ""
	case f.buildID == "" && (strings.HasPrefix(f.name, "//") || strings.HasPrefix(f.name, "[")):
		return fleetv1.Symbols_MISSING, "code that programs make while they run: a perf map names it, as node --perf-basic-prof writes one"
	case f.buildID == "":
		return fleetv1.Symbols_MISSING, "the file has no build id, by which its symbols would be found: link it with --build-id"
	case !kept:
		return fleetv1.Symbols_MISSING, "this server keeps no symbols"
	case !has:
		return fleetv1.Symbols_MISSING, "no symbols have come: the file was gone before an agent could read it, or it has none; profilectl debuginfo upload FILE, of the executable with symbols or its debug file"
	case info.State == debuginfo.Uploaded:
		return fleetv1.Symbols_INDEXING, "its symbols have come and are being indexed"
	case info.State == debuginfo.Failed:
		return fleetv1.Symbols_FAILED, "its symbols cannot be read: " + info.Error + "; profilectl debuginfo upload FILE, of the executable with symbols or its debug file"
	}
	return fleetv1.Symbols_PARTIAL, "its symbols do not cover all of its code, as those of a stripped file"
}

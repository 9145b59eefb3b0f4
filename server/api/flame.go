package api

import (
	"context"
	"math"

	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/server/query"
)

// minShare is what a node needs to be seen: half a pixel of a window 2000 pixels wide.
const minShare = 1.0 / 4000

// share reads a min_share.
func share(asked float64) (float64, error) {
	switch {
	case asked == 0:
		return minShare, nil
	case !(asked < 1): // also NaN
		return 0, invalid("min_share is %g: want a share below 1, 0 for the default, negative to cut nothing", asked)
	}
	return asked, nil
}

func (s queryService) FlameGraph(ctx context.Context, req *queryv1.FlameGraphRequest) (*queryv1.FlameGraphResponse, error) {
	resp := &queryv1.FlameGraphResponse{}
	return resp, s.query(ctx, func(ctx context.Context) error {
		share, err := share(req.GetMinShare())
		if err != nil {
			return err
		}
		if err := s.Terms("path", len(req.GetPath())); err != nil {
			return err
		}
		m, tree, err := s.tree(ctx, req.GetSelection(), req.GetFilter(), req.GetGroupBy())
		if err != nil {
			return err
		}
		cut, err := s.cut(tree, req.GetPath(), share)
		if err != nil {
			return err
		}
		resp.Unit, resp.Total, resp.UnfilteredTotal = tree.Unit, cut.total, m.Unfiltered
		resp.Strings, resp.Frames, resp.Nodes = cut.wire.Strings, cut.wire.Frames, cut.wire.Nodes
		resp.NodeCount, resp.CutCount = cut.wire.NodeCount, cut.wire.CutCount
		resp.StackCount, resp.SeriesCount = int64(m.Stacks()), int64(m.Series)
		resp.StacksCut = m.StacksCut
		return nil
	})
}

// tree answers a question with one tree.
func (s queryService) tree(ctx context.Context, sel *queryv1.Selection, filter *queryv1.StackFilter, by []string) (*query.Merged, *profile.Tree, error) {
	q, err := s.question(ctx, sel, filter, by)
	if err != nil {
		return nil, nil, err
	}
	m, err := s.opts.Engine.Ask(ctx, q)
	if err != nil {
		return nil, nil, err
	}
	tree, err := profile.GroupTree(ctx, m.Batch, by)
	return m, tree, err
}

type cutTree struct {
	total int64
	wire  *queryv1.FlameTree
}

// cut makes of the subtree below path what travels.
func (s queryService) cut(tree *profile.Tree, path []string, share float64) (cutTree, error) {
	if len(path) > 0 {
		tree = tree.Subtree(path)
	}
	wire := &queryv1.FlameTree{NodeCount: int64(tree.Len())}
	wire.CutCount = int64(tree.Cut(share) + tree.CutTo(s.mostNodes()))
	wire.Strings, wire.Frames, wire.Nodes = tree.Strings, wireFrames(tree), tree.AppendNodes(nil)
	return cutTree{tree.Total[0], wire}, nil
}

// mostNodes is how many nodes a tree may have; what is smaller than they is cut.
func (s queryService) mostNodes() int {
	if s.limits.FlameNodes < 0 {
		return math.MaxInt
	}
	return max(int(s.limits.FlameNodes), 2)
}

func wireFrames(tree *profile.Tree) []*queryv1.FlameFrame {
	frames := make([]*queryv1.FlameFrame, len(tree.Frames))
	backing := make([]queryv1.FlameFrame, len(tree.Frames))
	for i, f := range tree.Frames {
		b := &backing[i]
		b.Name, b.File, b.Mapping, b.Inlined, b.StartLine = f.Name, f.File, f.Mapping, f.Inlined, f.StartLine
		b.Kind = frameKind(f.Kind)
		frames[i] = b
	}
	return frames
}

func frameKind(k profile.Kind) queryv1.FrameKind {
	switch k {
	case profile.KindKernel:
		return queryv1.FrameKind_FRAME_KIND_KERNEL
	case profile.KindJIT:
		return queryv1.FrameKind_FRAME_KIND_JIT
	case profile.KindInterpreted:
		return queryv1.FrameKind_FRAME_KIND_INTERPRETED
	case profile.KindUnwind:
		return queryv1.FrameKind_FRAME_KIND_UNWIND
	case profile.KindCut:
		return queryv1.FrameKind_FRAME_KIND_CUT
	case profile.KindRoot:
		return queryv1.FrameKind_FRAME_KIND_ROOT
	case profile.KindLabel:
		return queryv1.FrameKind_FRAME_KIND_LABEL
	}
	return queryv1.FrameKind_FRAME_KIND_NATIVE
}

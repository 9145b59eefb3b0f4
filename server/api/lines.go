package api

import (
	"context"

	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
)

// Functions of one name, such as main, are in many files: so many are answered, so many of them with their text.
const (
	maxSourceFiles = 100
	maxSourceTexts = 4
)

func (s queryService) Lines(ctx context.Context, req *queryv1.LinesRequest) (*queryv1.LinesResponse, error) {
	resp := &queryv1.LinesResponse{}
	return resp, s.query(ctx, func(ctx context.Context) error {
		if req.GetFunction() == "" {
			return invalid("function is empty: want a function's name, as Top lists them")
		}
		q, err := s.question(ctx, req.GetSelection(), req.GetFilter(), nil)
		if err != nil {
			return err
		}
		m, err := s.opts.Engine.Ask(ctx, q)
		if err != nil {
			return err
		}
		files, err := profile.Lines(ctx, m.Batch, m.Profile, req.GetFunction())
		if err != nil {
			return err
		}
		resp.Unit, resp.UnfilteredTotal, resp.SeriesCount, resp.StacksCut = m.Profile.Type.SampleUnit, m.Unfiltered, int64(m.Series), m.StacksCut
		texts := 0
		for _, f := range files[:min(len(files), maxSourceFiles)] {
			out := &queryv1.SourceFile{Path: f.File, Mapping: f.Mapping, StartLine: f.StartLine, Self: f.Self, Total: f.Total}
			for _, l := range f.Lines {
				out.Lines = append(out.Lines, &queryv1.SourceLine{Line: l.Line, Self: l.Self, Total: l.Total})
			}
			if texts == maxSourceTexts {
				out.NoText = "several files have a function of this name; those of larger values come with their text"
			} else if out.Text, err = s.opts.Sources.Text(f.File); err != nil {
				out.NoText = err.Error()
			} else {
				texts++
			}
			resp.Files = append(resp.Files, out)
		}
		return nil
	})
}

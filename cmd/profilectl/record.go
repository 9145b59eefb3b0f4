package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/spf13/cobra"

	"github.com/perfuse/perfuse/agent"
	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/symbolize/debuginfo"
)

// defaultDuration is how long a recording takes that no command ends.
const defaultDuration = 30 * time.Second

func (a *app) recordCommand() *cobra.Command {
	var (
		o       agent.RecordOptions
		draw    drawing
		typ     string
		outFlag string
	)
	cmd := &cobra.Command{
		Use:   "record [--pid N | -- COMMAND...]",
		Short: "Record a command, a process or the whole machine, without any server",
		Long: `Record a command with all that it starts, a process, or the whole machine, without any server.

A command is recorded until it ends (or --duration is over), everything else for 30 seconds or --duration;
Ctrl-C ends a recording early and keeps what there is. Recording needs root or CAP_BPF and CAP_PERFMON.
What a command prints to standard output goes to standard error if the recording itself goes to standard output.`,
		Example: `  profilectl record -o out.pb.gz -- go build ./...
  profilectl record --pid 4711 --duration 10s -o flame.svg
  profilectl record --sampling-rate 19 -o tree`,
		RunE: func(cmd *cobra.Command, args []string) error {
			out, err := parseOutput(outFlag, profileForms)
			if err != nil {
				return err
			}
			switch {
			case len(args) > 0 && cmd.ArgsLenAtDash() != 0:
				return usage("unexpected argument %q: a command to record comes after --", args[0])
			case len(args) > 0 && o.PID != 0:
				return usage("give --pid or a command, not both")
			case o.PID < 0:
				return usage("--pid %d: want a process id", o.PID)
			case o.Rate < 1 || o.Rate > 10000:
				return usage("--sampling-rate %d: want 1 to 10000 samples per second and CPU", o.Rate)
			case o.SampleBytes < 1 || o.SampleBytes > agent.MaxSampleBytes:
				return usage("--sample-bytes %d: want 1 to %d", o.SampleBytes, uint64(agent.MaxSampleBytes))
			case o.Duration < 0 || o.Duration == 0 && cmd.Flags().Changed("duration"):
				return usage("--duration %s: want a duration above 0", o.Duration)
			}
			if err := draw.check(out.form); err != nil {
				return err
			}
			if out.form == formPprof && out.file == "" && a.outTerm.is {
				return out.write(a, nil) // refuse before it is recorded
			}
			o.Command = args
			return a.recordAndShow(cmd.Context(), o, typ, draw, out)
		},
	}
	cmd.Flags().DurationVar(&o.Duration, "duration", 0, "how long; without a command 30s")
	cmd.Flags().IntVar(&o.PID, "pid", 0, "record this process and what it starts")
	cmd.Flags().IntVar(&o.Rate, "sampling-rate", 97, "samples per second and CPU")
	cmd.Flags().Uint64Var(&o.SampleBytes, "sample-bytes", 64<<10, "bytes allocated to a sample, on average, in C, C++ and Rust programs")
	cmd.Flags().StringVar(&typ, "type", "cpu", "what to show: cpu, samples, off_cpu (waits), wakers (who ends them), wall (both times), page_faults, inuse_space, inuse_objects, alloc_space,\nalloc_objects, goroutine, java_cpu")
	draw.flags(cmd)
	cmd.Flags().StringVarP(&outFlag, "output", "o", formTop, "form ("+strings.Join(profileForms, ", ")+") or a file whose end says it (out.pb.gz, out.svg, ...)")
	return cmd
}

func (a *app) recordAndShow(ctx context.Context, o agent.RecordOptions, typ string, draw drawing, out output) error {
	what := "the machine"
	switch {
	case len(o.Command) > 0:
		what = strings.Join(o.Command, " ")
	case o.PID != 0:
		what = fmt.Sprintf("pid %d", o.PID)
	}
	t, err := profile.ResolveType(typ, recordedTypes)
	if err != nil {
		return fmt.Errorf("--type: %w", err)
	}
	recordType(&o, t)
	if err := out.check(); err != nil {
		return err
	}
	start := a.now()
	if out.file == "" && a.out == io.Writer(os.Stdout) {
		o.Stdout = os.Stderr // what the command prints must not run into the answer
	}
	rec, err := a.runRecording(ctx, o)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EPERM) {
			err = &hintError{err, "Recording needs root, or CAP_BPF and CAP_PERFMON; 'perfuse doctor' says what is missing."}
		}
		return err
	}
	v := recordingView(rec, what, t)
	v.from, v.to = start, start.Add(rec.Duration)
	reasons := unfinished(v.tree)
	err = out.write(a, func(w io.Writer) error { return v.drawBatch(w, rec.Batch, out, draw, a.outTerm) })
	if err != nil {
		return err
	}
	a.recordSummary(rec, o, v, reasons)
	if o.Heap {
		for _, what := range slices.Sorted(maps.Keys(rec.Heap.Incomplete)) {
			fmt.Fprintf(a.err, "incomplete: %s\n", what)
		}
	}
	switch {
	case len(o.Command) > 0 && rec.ExitCode > 0:
		return nothing("the command exited with %d; the recording is whole.", rec.ExitCode)
	case len(o.Command) > 0 && rec.ExitCode < 0:
		return nothing("the command was killed; the recording goes up to there.")
	case v.total() == 0 && o.OffCPU:
		return nothing("nothing waited: record longer, or look at --type cpu.")
	case v.total() == 0 && t == profile.TypePageFaults:
		return nothing("there were no page faults: record longer.")
	case v.total() == 0 && (o.Heap || o.JavaCPU || o.Goroutines):
		if reasons := rec.Heap.Reasons(); reasons != "" {
			return nothing("no process has a memory profile: %s", reasons)
		}
		if o.PID == 0 && len(o.Command) == 0 {
			return nothing("no Go program has a memory profile: C, C++, Rust and Java programs are looked at if --pid or a command names them.")
		}
		return nothing("nothing was seen: what was allocated before the recording is known of Go and Java programs only, and a program should run for some seconds.")
	case v.total() == 0:
		return nothing("nothing ran on a CPU long enough to be sampled: record longer, or at a higher --sampling-rate.")
	}
	return nil
}

// recordType asks for what profiles of a type need.
func recordType(o *agent.RecordOptions, t profile.Type) {
	o.Wakers = t == profile.TypeWakers
	o.OffCPU = t == profile.TypeOffCPU || t == profile.TypeWall || o.Wakers
	o.JavaCPU = t == profile.TypeJavaCPU
	o.Goroutines = t == profile.TypeGoroutines
	o.Heap = t.Name == profile.TypeInuseSpace.Name && t != profile.TypePageFaults
}

// runRecording adds to the options what a terminal user expects: symbols, signals, progress.
func (a *app) runRecording(ctx context.Context, o agent.RecordOptions) (*agent.Recording, error) {
	symbols, err := debuginfo.NewLocal(debuginfo.LocalOptions{})
	if err != nil {
		return nil, fmt.Errorf("recording: %w", err)
	}
	defer symbols.Close()
	o.Symbols = symbols
	o.Logger = level.NewFilter(log.NewLogfmtLogger(log.NewSyncWriter(a.err)), level.AllowWarn())

	if len(o.Command) == 0 {
		if o.Duration == 0 {
			o.Duration = defaultDuration
		}
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
		context.AfterFunc(ctx, stop) // a second Ctrl-C ends us at once
	} else {
		signals := make(chan os.Signal, 16)
		signal.Notify(signals, a.forwarded()...)
		defer signal.Stop(signals)
		o.Signals = signals
		if a.inTerm.is {
			// The terminal sends these to the command, too; all that we have to do is to outlive it.
			ignored := make(chan os.Signal, 1)
			signal.Notify(ignored, os.Interrupt, syscall.SIGQUIT)
			defer signal.Stop(ignored)
		}
	}
	if a.errTerm.is {
		o.Progress = func(samples int64, elapsed time.Duration) {
			left := ""
			if o.Duration > 0 {
				left = " of " + o.Duration.String()
			}
			fmt.Fprintf(a.err, "\r\x1b[Krecording: %s%s, %s", elapsed.Truncate(time.Second), left, plural(samples, "sample"))
		}
	}
	rec, err := a.record(ctx, o)
	if a.errTerm.is {
		fmt.Fprint(a.err, "\r\x1b[K")
	}
	return rec, err
}

// forwarded are the signals that the command gets from us.
func (a *app) forwarded() []os.Signal {
	s := []os.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2}
	if !a.inTerm.is {
		s = append(s, os.Interrupt, syscall.SIGQUIT)
	}
	return s
}

// recordedTypes are what a recording can show.
var recordedTypes = []profile.Type{
	profile.TypeCPU, profile.TypeCPUSamples, profile.TypeOffCPU, profile.TypeWakers, profile.TypeWall,
	profile.TypePageFaults,
	profile.TypeInuseSpace, profile.TypeInuseObjects, profile.TypeAllocSpace, profile.TypeAllocObjects, profile.TypeGoroutines, profile.TypeJavaCPU,
}

// partOf says whether profiles of type p are part of what type t shows.
func partOf(t, p profile.Type) bool {
	return p == t || t == profile.TypeWall && (p == profile.TypeCPU || p == profile.TypeOffCPU)
}

// recordingView merges what was recorded of one type.
func recordingView(rec *agent.Recording, title string, t profile.Type) *view {
	all := profile.Profile{Type: t}
	v := &view{title: title, typ: t}
	for _, p := range rec.Batch.Profiles {
		if partOf(t, p.Type) {
			all.Samples = append(all.Samples, p.Samples...)
			v.series++
		}
	}
	stacks := map[profile.StackIndex]bool{}
	for _, s := range all.Samples {
		stacks[s.Stack] = true
	}
	v.stacks = int64(len(stacks))
	v.tree = profile.NewTree(rec.Batch, &all)
	return v
}

// drawBatch writes the recording in any form.
func (v *view) drawBatch(w io.Writer, b *profile.Batch, out output, draw drawing, term terminal) error {
	switch out.form {
	case formPprof:
		return profile.WritePprof(w, ofType(b, v.typ))
	case formFolded:
		return v.tree.WriteFolded(w)
	case formTop:
		tree := v.tree
		if v.typ.Memory() && !draw.allocators {
			tree = tree.FoldAllocators()
		}
		rows := tree.Top()
		v.atMost = draw.limit
		t := topTable{view: *v, sum: v.total(), count: int64(len(rows))}
		if draw.sort == "total" {
			profile.SortByTotal(rows)
		}
		if draw.limit > 0 {
			rows = rows[:min(len(rows), draw.limit)]
		}
		t.rows = rows
		return t.write(w, term)
	}
	share, err := draw.share(out.form)
	if err != nil {
		return err
	}
	if share > 0 && out.form == formJSON {
		v.cut = int64(v.tree.Cut(share))
	}
	return v.draw(w, out, term, share)
}

// ofType returns what of a recording goes into a file of type t: CPU time and samples together, else the type alone.
func ofType(b *profile.Batch, t profile.Type) *profile.Batch {
	out := &profile.Batch{Dictionary: b.Dictionary}
	for _, p := range b.Profiles {
		switch {
		case !partOf(t, p.Type) && (t.Name != profile.TypeCPU.Name || p.Type.Name != t.Name):
			continue
		case t == profile.TypeWall:
			p.Type = t
		}
		out.Profiles = append(out.Profiles, p)
	}
	return out
}

// recordSummary tells how good the recording is.
func (a *app) recordSummary(rec *agent.Recording, o agent.RecordOptions, v *view, reasons []reason) {
	s := fmt.Sprintf("recorded %s for %s: %s at %d Hz", v.title, rec.Duration.Round(time.Millisecond), plural(rec.Samples, "sample"), o.Rate)
	if rec.Event != "" {
		s += " (" + rec.Event + ")"
	}
	s += fmt.Sprintf(", %d lost", rec.Lost)
	var sum int64
	for _, r := range reasons {
		sum += r.value
	}
	if v.total() > 0 {
		s += ", " + profile.FormatShare(sum, v.total()) + " in unfinished stacks"
	}
	fmt.Fprintln(a.err, s)
	for _, r := range reasons {
		fmt.Fprintf(a.err, "  %7s  %s\n", profile.FormatShare(r.value, v.total()), r.name)
	}
	if len(o.Command) > 0 && rec.ExitCode == 0 {
		fmt.Fprintln(a.err, "the command exited with 0")
	}
}

type reason struct {
	name  string
	value int64
}

// unfinished returns the values of unfinished stacks by reason, the largest first.
func unfinished(t *profile.Tree) (reasons []reason) {
	for c := range t.Children(0) {
		if t.Frames[t.Frame[c]].Kind == profile.KindUnwind {
			reasons = append(reasons, reason{t.Name(c), t.Total[c]})
		}
	}
	slices.SortStableFunc(reasons, func(a, b reason) int { return cmp.Compare(b.value, a.value) })
	return reasons
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/perfuse/perfuse/agent"
	"github.com/perfuse/perfuse/profile"
)

// outPlace is where a command line takes the name of the profile that it writes.
const outPlace = "{out}"

// trial is the flags of 'gate run'.
type trial struct {
	commands     [2]string
	runs, warmup int
	keep         string
	rate         int
	folder       string // where profiles are
}

func (a *app) gateRun() *cobra.Command {
	g, t := &gating{}, &trial{}
	cmd := &cobra.Command{
		Use:   "run --baseline COMMAND --candidate COMMAND",
		Short: "Run both commands on this machine in turns, and judge their profiles",
		Long: `Run both commands in turns and judge their profiles as 'profilectl gate' does, in pairs: what the machine does in the
meantime meets both of a pair. Which one comes first is drawn anew for every two pairs, once each.

A command that contains ` + outPlace + ` writes its profile itself, to the file of that name, as Go's tests do with -cpuprofile or
-memprofile. Any other command is recorded with all that it starts, which needs root or CAP_BPF and CAP_PERFMON.
Commands are run by sh; one that fails ends everything, with what it printed.

If a command prints the line of one Go benchmark, values are compared per operation. The profile has the benchmark's attempts
to find its length in it, so -benchtime 500x (a number of your own) is steadier than a time.`,
		Example: `  profilectl gate run --baseline './old -once' --candidate './new -once'
  profilectl gate run --baseline './old.test -test.bench Encode -test.benchtime 500x -test.cpuprofile {out}' \
      --candidate './new.test -test.bench Encode -test.benchtime 500x -test.cpuprofile {out}' --runs 10
  profilectl gate run --baseline 'old.test -test.bench . -test.benchtime 100x -test.memprofile {out} -test.memprofilerate 1' \
      --candidate 'new.test -test.bench . -test.benchtime 100x -test.memprofile {out} -test.memprofilerate 1' --type alloc_space`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := g.check(cmd); err != nil {
				return err
			}
			g.o.Paired = true
			if err := t.check(g.o.LeastRuns()); err != nil {
				return err
			}
			return couldNot(a.runTrial(cmd.Context(), g, t))
		},
	}
	g.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&t.commands[0], "baseline", "", "the command that is known")
	f.StringVar(&t.commands[1], "candidate", "", "the command that is judged")
	f.IntVar(&t.runs, "runs", 10, "how often each is run")
	f.IntVar(&t.warmup, "warmup", 1, "runs of each before that count for nothing")
	f.StringVar(&t.keep, "keep", "", "keep the profiles in this folder, so that they can be judged again")
	f.IntVar(&t.rate, "sampling-rate", 97, "samples per second and CPU of commands that are recorded")
	return cmd
}

func (t *trial) check(least int) error {
	for i, flag := range []string{"baseline", "candidate"} {
		if strings.TrimSpace(t.commands[i]) == "" {
			return usage("--%s is missing: a command, as './old -once'", flag)
		}
	}
	switch {
	case strings.Contains(t.commands[0], outPlace) != strings.Contains(t.commands[1], outPlace):
		return usage("%s stands in one command only: want both to write their profiles, or none", outPlace)
	case t.runs < least:
		return usage("--runs %d: so few pairs of runs cannot tell anything: want %d at least, better 10", t.runs, least)
	case t.runs > maxRuns:
		return usage("--runs %d: want %d at most", t.runs, maxRuns)
	case t.warmup < 0:
		return usage("--warmup %d: want 0 or more", t.warmup)
	case t.rate < 1 || t.rate > 10000:
		return usage("--sampling-rate %d: want 1 to 10000 samples per second and CPU", t.rate)
	}
	return nil
}

// plan returns which side runs first in each pair: of every two pairs each side is first in one, so that what drifts steadily
// meets both sides alike; chance says in which.
func plan(pairs int, random *rand.Rand) []int {
	first := make([]int, pairs)
	for i := range first {
		if i%2 == 1 {
			first[i] = 1 - first[i-1]
		} else {
			first[i] = random.IntN(2)
		}
	}
	return first
}

func (a *app) runTrial(ctx context.Context, g *gating, t *trial) (err error) {
	t.folder = t.keep
	if t.keep == "" {
		if t.folder, err = os.MkdirTemp("", "profilectl-gate-"); err != nil {
			return fmt.Errorf("making a folder for profiles: %w", err)
		}
		defer os.RemoveAll(t.folder)
	} else if err := t.prepare(); err != nil {
		return err
	}
	for i, name := range []string{"baseline", "candidate"} {
		g.sides[i] = &gateSide{name: name, title: t.commands[i]}
	}
	seed := g.o.Seed
	if seed == 0 {
		seed = rand.Uint64() // the order of runs is no part of the judgement
	}
	order := plan(t.warmup+t.runs, rand.New(rand.NewPCG(seed, 1)))
	if err := a.trialRuns(ctx, g, t, order); err != nil {
		return err
	}
	if a.errTerm.is {
		fmt.Fprint(a.err, "\r\x1b[K")
	}
	var answer *answerError
	if err := a.readRuns(ctx, g, nil); errors.As(err, &answer) {
		return &hintError{err, "Does each run take long enough to be sampled, and is it of that --type?"}
	} else if err != nil {
		return err
	}
	if t.keep != "" {
		fmt.Fprintf(a.err, "kept the profiles; to judge them again: profilectl gate --paired --baseline '%s' --candidate '%s'\n",
			filepath.Join(t.keep, "baseline-*"), filepath.Join(t.keep, "candidate-*"))
	}
	return a.judge(ctx, g)
}

// trialRuns runs all pairs. An interrupt ends the command that runs, and all of this; later ones end us as usual.
func (a *app) trialRuns(ctx context.Context, g *gating, t *trial, order []int) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	for pair, first := range order {
		for _, at := range []int{first, 1 - first} {
			if err := a.trialRun(ctx, g, t, g.sides[at], at, pair-t.warmup+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// prepare makes the folder for profiles, and refuses one that has some: they would be judged as well the next time.
func (t *trial) prepare() error {
	if err := os.MkdirAll(t.folder, 0o755); err != nil {
		return fmt.Errorf("--keep: %w", err)
	}
	for _, name := range []string{"baseline", "candidate"} {
		found, err := filepath.Glob(filepath.Join(t.folder, name+"-*"))
		if err != nil {
			return usage("--keep %q: %s", t.keep, err)
		}
		if len(found) > 0 {
			return usage("--keep %s: the folder has profiles of another trial: want an empty one", t.keep)
		}
	}
	return nil
}

// trialRun runs one command once, and adds its profile to the side's runs unless it is to warm up.
func (a *app) trialRun(ctx context.Context, g *gating, t *trial, s *gateSide, at, number int) error {
	what := fmt.Sprintf("%s, run %d of %d", s.name, number, t.runs)
	file := filepath.Join(t.folder, fmt.Sprintf("%s-%03d.pb.gz", s.name, number))
	if number < 1 {
		what, file = s.name+", warming up", filepath.Join(t.folder, "warmup.pb.gz")
		defer os.Remove(file)
	}
	if a.errTerm.is {
		fmt.Fprintf(a.err, "\r\x1b[K%s", what)
	}
	run := a.recordCommandOnce
	if strings.Contains(t.commands[at], outPlace) {
		run = a.runCommandOnce
	}
	said, err := run(ctx, g, t, t.commands[at], file)
	if a.errTerm.is && err != nil {
		fmt.Fprint(a.err, "\r\x1b[K")
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: interrupted", what)
	case err != nil:
		return describeFailure(what, t.commands[at], said, err)
	case number < 1:
		return nil
	}
	operations := g.operations[at+1]
	if operations == 0 {
		operations = benchmarkOperations(said)
	}
	if operations > 0 {
		if err := noteOperations(file, operations); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	s.runs = append(s.runs, &gateRun{side: side{name: s.name, file: file, title: filepath.Base(file)}})
	return nil
}

// lastBytes of what a command that failed printed are shown.
const lastBytes = 8 << 10

func describeFailure(what, command string, said []byte, err error) error {
	var exit *exec.ExitError
	var answer *answerError
	if !errors.As(err, &exit) && !errors.As(err, &answer) {
		return fmt.Errorf("%s: %w", what, err)
	}
	text := strings.TrimRight(string(said[max(0, len(said)-lastBytes):]), "\n")
	if text == "" {
		text = "(it printed nothing)"
	}
	return &hintError{fmt.Errorf("%s: %s: %w", what, command, err), "It printed:\n" + text}
}

// runCommandOnce runs a command that writes its profile itself, and returns what it printed.
func (a *app) runCommandOnce(ctx context.Context, _ *gating, _ *trial, command, file string) ([]byte, error) {
	quoted := "'" + strings.ReplaceAll(file, "'", `'\''`) + "'"
	cmd := exec.CommandContext(ctx, "sh", "-c", strings.ReplaceAll(command, outPlace, quoted))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	// All that it started ends with it, and the terminal's interrupt comes to us alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		return said.Bytes(), err
	}
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return said.Bytes(), nothing("it ended well, but wrote no profile to %s", outPlace)
	}
	return said.Bytes(), nil
}

// recordCommandOnce records a command as 'profilectl record' does, and returns what it printed to standard output.
func (a *app) recordCommandOnce(ctx context.Context, g *gating, t *trial, command, file string) ([]byte, error) {
	typ, err := profile.ResolveType(g.d.typ, recordedTypes)
	if err != nil {
		return nil, fmt.Errorf("--type: %w", err)
	}
	stdout, err := os.CreateTemp(t.folder, "stdout-")
	if err != nil {
		return nil, fmt.Errorf("making a file for what the command prints: %w", err)
	}
	defer os.Remove(stdout.Name())
	defer stdout.Close()
	o := agent.RecordOptions{Command: []string{"sh", "-c", command}, Rate: t.rate, Stdout: stdout, SampleBytes: 64 << 10}
	recordType(&o, typ)
	rec, err := a.runRecording(ctx, o)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EPERM) {
		return nil, &hintError{err, "Recording needs root, or CAP_BPF and CAP_PERFMON; 'perfuse doctor' says what is missing. A command that writes its profile itself needs neither: put " + outPlace + " where it takes the file's name."}
	}
	if err != nil {
		return nil, err
	}
	said, err := os.ReadFile(stdout.Name())
	if err != nil {
		return nil, fmt.Errorf("reading what the command printed: %w", err)
	}
	if rec.ExitCode != 0 {
		return said, nothing("it ended with %d", rec.ExitCode)
	}
	var buf bytes.Buffer
	if err := profile.WritePprof(&buf, ofType(rec.Batch, typ)); err != nil {
		return said, err
	}
	return said, writeFile(file, buf.Bytes())
}

// noteOperations writes into a profile how many operations it had, for whoever judges it again.
func noteOperations(file string, operations float64) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if data, err = withOperations(data, operations); err != nil {
		return err
	}
	return writeFile(file, data)
}

package workloads

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// truth is how the hot functions share the CPU time between them, in percent.
var truth = map[string]float64{"hot70": 70, "hot20": 20, "hot10": 10}

// Verdict is what a recording says of a workload. Shares are percentages of Total's unit.
type Verdict struct {
	Total      int64              // the sum of all values
	Whole      float64            // stacks that are not cut off
	Hot        float64            // stacks that end in a hot function (or in what it calls)
	Split      map[string]float64 // hot function → its share of Hot
	OffChain   float64            // hot stacks that miss a caller, of the hot ones
	Nameless   float64            // stacks with a frame of the workload's own file that has no name
	Unfinished map[string]float64 // reason → share
	Example    string             // of a stack that is off the chain, nameless or cut off
	Faults     []string           // what is not as it should be; empty is a pass
}

// Judge holds a recording of w, as folded text, against the truth. Kernel frames on top of a user stack belong to the
// function that called the kernel or was interrupted.
func Judge(w Workload, folded string) (Verdict, error) {
	v := Verdict{Split: map[string]float64{}, Unfinished: map[string]float64{}}
	var whole, hot, off, nameless int64
	chain := make([]*regexp.Regexp, len(w.Chain))
	for i, name := range w.Chain {
		chain[i] = word(name)
	}
	leaving := regexp.MustCompile(`^entry_SYSCALL_64_after_hwframe_\[k\];(do_syscall_64_\[k\];)?syscall_exit_to_user_mode_\[k\];`) // on the way out of it
	atExec := regexp.MustCompile(`^bpf_prog_[0-9a-f]+_process_exec_\[k\]$`)                                                        // our own program there; the kernel's part of the stack is cut
	own := regexp.MustCompile(`^` + regexp.QuoteMeta(w.Name) + `(\.so)?\+0x[0-9a-f]+$`)
	hots := map[string]*regexp.Regexp{}
	for name := range truth {
		hots[name] = word(name)
	}
	values := map[string]int64{}
	reasons := map[string]int64{}

	for line := range strings.Lines(folded) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		space := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseInt(line[space+1:], 10, 64)
		if space < 0 || err != nil {
			return v, fmt.Errorf("reading a recording: %q is no folded stack", line)
		}
		frames := strings.Split(line[:space], ";")
		v.Total += value
		// While execve ends, the program stands before its first instruction (docs/plan.md).
		starting := len(frames) > 1 && own.MatchString(frames[0]) && (strings.Contains(line, "_execve_[k];") || atExec.MatchString(frames[1]) || leaving.MatchString(strings.Join(frames[1:], ";")))
		if slices.ContainsFunc(frames, own.MatchString) && !starting {
			nameless += value
			v.Example = line
		}
		cut := frames[0] == "[no stack]" || strings.HasPrefix(frames[0], "[unwind: ")
		if cut {
			reasons[frames[0]] += value
			v.Example = line
		} else {
			whole += value
		}
		for name, pattern := range hots {
			if !slices.ContainsFunc(frames, pattern.MatchString) {
				continue
			}
			values[name] += value
			hot += value
			if !cut && !passes(frames, chain, w.Depth) {
				off += value
				v.Example = line
			}
			break
		}
	}
	share := func(part, of int64) float64 { return 100 * float64(part) / float64(max(of, 1)) }
	v.Whole, v.Hot, v.Nameless, v.OffChain = share(whole, v.Total), share(hot, v.Total), share(nameless, v.Total), share(off, hot)
	for name := range truth {
		v.Split[name] = share(values[name], hot)
	}
	for reason, value := range reasons {
		v.Unfinished[reason] = share(value, v.Total)
	}
	v.judge(w)
	return v, nil
}

func (v *Verdict) judge(w Workload) {
	fault := func(format string, args ...any) { v.Faults = append(v.Faults, fmt.Sprintf(format, args...)) }
	others := w.Others
	if others == 0 {
		others = 3
	}
	tolerance := w.Tolerance
	if tolerance == 0 {
		tolerance = 3
	}
	if v.Total == 0 {
		fault("nothing was recorded")
		return
	}
	if v.Whole < w.Reach {
		fault("%.2f %% of the samples reach the root, want %.0f: %v", v.Whole, w.Reach, v.Unfinished)
	}
	if v.Hot < 100-others {
		fault("%.2f %% of the samples are in the hot functions, want %.0f", v.Hot, 100-others)
	}
	if v.OffChain > 100-w.Reach {
		fault("%.2f %% of the hot samples miss a caller (%s)", v.OffChain, strings.Join(w.Chain, " → "))
	}
	for _, name := range []string{"hot70", "hot20", "hot10"} {
		if diff := v.Split[name] - truth[name]; diff > tolerance || diff < -tolerance {
			fault("%s has %.2f %%, want %.0f ± %.0f", name, v.Split[name], truth[name], tolerance)
		}
	}
	if v.Nameless > 0 && !w.Nameless {
		fault("%.2f %% of the samples have a frame of the workload without a name", v.Nameless)
	}
}

// passes says whether frames, root first, go through the whole chain in order and are as many as they should be.
func passes(frames []string, chain []*regexp.Regexp, depth int) bool {
	at, user := 0, 0
	for _, frame := range frames {
		if strings.HasSuffix(frame, "_[k]") {
			continue
		}
		user++
		if at < len(chain) && chain[at].MatchString(frame) {
			at++
		}
	}
	return at == len(chain) && user >= depth
}

// word matches name as whole words: "main" is in main.main and main::run, not in __libc_start_main.
func word(name string) *regexp.Regexp {
	pattern := regexp.QuoteMeta(name)
	if isWord(name[0]) {
		pattern = `\b` + pattern
	}
	if isWord(name[len(name)-1]) {
		pattern += `\b`
	}
	return regexp.MustCompile(pattern)
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

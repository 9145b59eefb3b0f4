// Package workloads holds programs whose CPU time is known: below a chain of calls, hot70, hot20 and hot10 split it
// 70/20/10 by iterations of identical work. Each program is one way in which code is built or run that a profiler
// has to get right. A program prints nothing and runs until it has used as many CPU seconds as its first argument
// says, or for ever.
//
// The programs are built when they are asked for, with the compilers of this machine, into a folder below .tools
// of the repository that is keyed by source, command and compiler.
package workloads

import (
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

//go:embed src
var sources embed.FS

// Workload is a program and what is true of it.
type Workload struct {
	Name string
	// Compiler is the program that builds it. Without it, building fails with ErrNoCompiler.
	Compiler string
	// Steps are commands, run in a folder that holds src; OUT is the path of the result, NAME its name.
	Steps [][]string

	// Chain is what every stack that ends in a hot function passes through, root first. Each is a substring of a frame's
	// name; frames may lie between.
	Chain []string
	// Depth is the least number of frames of such a stack.
	Depth int
	// Reach is the share of the program's samples, in percent, that must come out whole.
	Reach float64
	// Others is the share of samples, in percent, that may lie outside of the hot functions: what the
	// workload itself needs.
	Others float64
	// Tolerance is by how many points the split may be off; 0 means 3.
	Tolerance float64
	// Cgo says that the Go compiler needs a C compiler for it.
	Cgo bool
	// Nameless says that frames without a name are to be expected (the program has no symbols at all).
	Nameless bool
}

// ErrNoCompiler says that the compiler of a workload is not installed.
var ErrNoCompiler = errors.New("is not installed")

const optimised = "-O2 -fomit-frame-pointer -std=gnu11 -Wall -Wextra -Werror"

func command(line string) [][]string { return [][]string{strings.Fields(line)} }

var chain = []string{"main", "alpha", "bravo", "charlie", "delta", "echo"}

// All lists the workloads.
var All = []Workload{
	{Name: "c-gcc", Compiler: "gcc", Steps: command("gcc " + optimised + " src/split.c -o OUT"), Chain: chain, Depth: 8},
	{Name: "c-clang", Compiler: "clang-19", Steps: command("clang-19 " + optimised + " src/split.c -o OUT"), Chain: chain, Depth: 8},
	{Name: "c-static", Compiler: "gcc", Steps: command("gcc -static " + optimised + " src/split.c -o OUT"), Chain: chain, Depth: 8},
	{Name: "c-inline", Compiler: "gcc", Steps: command("gcc -g " + optimised + " src/inline.c -o OUT"), Chain: append(chain[:6:6], "spin"), Depth: 9},
	{Name: "c-inline-clang", Compiler: "clang-19", Steps: command("clang-19 -g " + optimised + " src/inline.c -o OUT"), Chain: append(chain[:6:6], "spin"), Depth: 9},
	// gcc gives a leaf no frame even so: its caller is found by following the leaf's instructions.
	{Name: "c-frame-pointers", Compiler: "gcc", Steps: command("gcc -O2 -fno-omit-frame-pointer -fno-asynchronous-unwind-tables -fno-unwind-tables src/split.c -o OUT"), Chain: chain, Depth: 8},
	{Name: "c-frame-pointers-clang", Compiler: "clang-19", Steps: command("clang-19 -O2 -fno-omit-frame-pointer -fno-asynchronous-unwind-tables -fno-unwind-tables src/split.c -o OUT"), Chain: chain, Depth: 8},
	{Name: "c-recursion", Compiler: "gcc", Steps: command("gcc " + optimised + " src/recursion.c -o OUT"), Chain: []string{"main", "down", "down", "echo"}, Depth: 504},
	{Name: "c-signal", Compiler: "gcc", Steps: command("gcc " + optimised + " src/signal.c -o OUT"), Chain: []string{"main", "alpha", "bravo", "spin", "handler", "echo"}, Depth: 9, Others: 30},
	{Name: "c-signal-onstack", Compiler: "gcc", Steps: command("gcc -DONSTACK " + optimised + " src/signal.c -o OUT"), Chain: []string{"main", "alpha", "bravo", "spin", "handler", "echo"}, Depth: 9, Others: 30},
	{Name: "c-dlopen", Compiler: "gcc", Steps: [][]string{
		strings.Fields("gcc " + optimised + " -shared -fPIC src/plugin.c -o OUT.so"),
		strings.Fields("gcc " + optimised + " src/dlopen.c -o OUT"),
	}, Chain: []string{"main", "alpha", "bravo", "plugin_run", "echo"}, Depth: 8},
	{Name: "c-plt", Compiler: "gcc", Steps: [][]string{
		strings.Fields("gcc " + optimised + " -shared -fPIC -Wl,-soname,NAME.so src/tiny.c -o OUT.so"),
		strings.Fields("gcc " + optimised + " -fplt -Wl,-z,lazy,-rpath,$ORIGIN src/plt.c OUT.so -o OUT"),
	}, Chain: chain, Depth: 8},
	{Name: "c-vdso", Compiler: "gcc", Steps: command("gcc " + optimised + " src/vdso.c -o OUT"), Chain: chain, Depth: 8},
	{Name: "c-threads", Compiler: "gcc", Steps: command("gcc " + optimised + " -pthread src/threads.c -o OUT"), Chain: []string{"thread", "alpha", "bravo"}, Depth: 5},
	{Name: "c-aligned", Compiler: "gcc", Steps: command("gcc " + optimised + " src/aligned.c -o OUT"), Chain: chain, Depth: 8},
	{Name: "c-aligned-clang", Compiler: "clang-19", Steps: command("clang-19 " + optimised + " src/aligned.c -o OUT"), Chain: chain, Depth: 8},
	{Name: "c-jit", Compiler: "gcc", Steps: command("gcc " + optimised + " src/jit.c -o OUT"), Chain: []string{"main", "alpha", "compiled_loop", "echo"}, Depth: 6},
	// Its perf map changes while it is read: the name may be missing or wrong, the stack may not.
	{Name: "c-jit-churn", Compiler: "gcc", Steps: command("gcc -DCHURN " + optimised + " src/jit.c -o OUT"), Chain: []string{"main", "alpha", "echo"}, Depth: 6, Others: 8},
	// A process of 6 ms is sampled while the kernel still maps it and the agent has just heard of it. Its round is so
	// short that chance has more to say.
	{Name: "c-storm", Compiler: "gcc", Steps: command("gcc " + optimised + " src/storm.c -o OUT"), Chain: []string{"main", "alpha", "bravo", "echo"}, Depth: 6, Reach: 90, Others: 30, Tolerance: 5},
	{Name: "cpp", Compiler: "g++", Steps: command("g++ -O2 -fomit-frame-pointer src/split.cpp -o OUT"),
		Chain: []string{"main", "demo::alpha", "demo::Throwing::serve", "demo::Engine<demo::Fast>::turn", "demo::Fast::work"}, Depth: 7},
	{Name: "rust", Compiler: "rustc", Steps: command("rustc -O --edition 2021 src/split.rs -o OUT"),
		Chain: []string{"main", "split::alpha", "split::bravo", "turn"}, Depth: 8},
	{Name: "go", Compiler: "go", Steps: command("go build -o OUT ./e2e/workloads/src/gosplit"), Chain: goChain, Depth: 7},
	{Name: "go-stripped", Compiler: "go", Steps: [][]string{{"go", "build", "-ldflags=-s -w", "-o", "OUT", "./e2e/workloads/src/gosplit"}}, Chain: goChain, Depth: 7},
	{Name: "go-pie", Compiler: "go", Steps: command("go build -buildmode=pie -o OUT ./e2e/workloads/src/gosplit"), Chain: goChain, Depth: 7},
	{Name: "go-cgo", Compiler: "go", Cgo: true, Steps: command("go build -o OUT ./e2e/workloads/src/gocgo"),
		Chain: []string{"main.", "main.alpha", "asmcgocall", "bravo", "charlie", "cgocallback", "main.delta", "main.echo"}, Depth: 14},
}

// Labelled are programs whose CPU time the labels of goroutines split 75/25 (route="/heavy", user.id="7"; "/light", "8").
var Labelled = []Workload{
	{Name: "go-labels", Compiler: "go", Steps: command("go build -o OUT ./e2e/workloads/src/golabels")},
	{Name: "go-labels-stripped", Compiler: "go", Steps: [][]string{{"go", "build", "-buildmode=pie", "-ldflags=-s -w", "-o", "OUT", "./e2e/workloads/src/golabels"}}},
}

// Telling are programs that measure themselves: they print lines of a function's name and what it took or did.
// Those of Java are folders of classes.
var Telling = []Workload{
	{Name: "waits", Compiler: "gcc", Steps: command("gcc -pthread " + optimised + " src/waits.c -o OUT")},
	{Name: "faults", Compiler: "gcc", Steps: command("gcc " + optimised + " src/faults.c -o OUT")},
	{Name: "heap-c", Compiler: "gcc", Steps: command("gcc " + optimised + " src/heap.c -o OUT")},
	{Name: "heap-static", Compiler: "gcc", Steps: command("gcc -static " + optimised + " src/heap.c -o OUT")},
	{Name: "heap-cpp", Compiler: "g++", Steps: command("g++ -O2 -fomit-frame-pointer -std=c++17 src/heap.cpp -o OUT")},
	{Name: "heap-rust", Compiler: "rustc", Steps: command("rustc -O --edition 2021 src/heap.rs -o OUT")},
	{Name: "heap-go", Compiler: "go", Steps: command("go build -o OUT ./e2e/workloads/src/goheap")},
	{Name: "heap-go-stripped", Compiler: "go", Steps: [][]string{{"go", "build", "-ldflags=-s -w", "-o", "OUT", "./e2e/workloads/src/goheap"}}},
	{Name: "heap-java", Compiler: "javac", Steps: command("javac -d OUT src/Heap.java")},
	{Name: "hot-java", Compiler: "javac", Steps: command("javac -d OUT src/Hot.java")},
}

// Leaking are programs whose function remember keeps 1 MB more each second. That of leak-java is a folder of classes.
var Leaking = []Workload{
	{Name: "leak-c", Compiler: "gcc", Steps: command("gcc " + optimised + " src/leak.c -o OUT")},
	{Name: "leak-go", Compiler: "go", Steps: [][]string{{"go", "build", "-ldflags=-s -w", "-o", "OUT", "./e2e/workloads/src/goleak"}}},
	{Name: "leak-java", Compiler: "javac", Steps: command("javac -d OUT src/Leak.java")},
}

// bravo and delta are inlined: a Go stack names them all the same.
var goChain = []string{"main.", "main.alpha", "main.bravo", "main.charlie", "main.delta", "main.echo"}

// Named returns the workload of that name.
func Named(name string) (Workload, bool) {
	for _, w := range slices.Concat(All, Labelled, Telling, Leaking) {
		if w.Name == name {
			if w.Reach == 0 {
				w.Reach = 99
			}
			return w, true
		}
	}
	return Workload{}, false
}

// Build builds the named workload, unless it is built already, and returns the path of its executable.
func Build(name string) (string, error) {
	w, ok := Named(name)
	if !ok {
		return "", fmt.Errorf("building workload %s: there is no such workload", name)
	}
	path, err := w.build()
	if err != nil {
		return "", fmt.Errorf("building workload %s: %w", name, err)
	}
	return path, nil
}

func (w Workload) build() (string, error) {
	compiler, err := find(w.Compiler)
	if err != nil {
		return "", err
	}
	if w.Cgo {
		if _, err := find("gcc"); err != nil {
			return "", err
		}
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	key, err := w.key(compiler)
	if err != nil {
		return "", err
	}
	folder := filepath.Join(root, ".tools", "workloads", key)
	done := filepath.Join(folder, w.Name)
	if _, err := os.Stat(done); err == nil {
		return done, nil
	}
	// Two test processes may build the same thing: each has a folder of its own until it is whole.
	if err := os.MkdirAll(filepath.Dir(folder), 0o755); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(filepath.Dir(folder), w.Name+".")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	if err := os.CopyFS(work, sources); err != nil {
		return "", fmt.Errorf("writing its sources: %w", err)
	}
	for _, step := range w.Steps {
		if err := w.step(root, work, compiler, step); err != nil {
			return "", err
		}
	}
	if err := os.Chmod(work, 0o755); err != nil {
		return "", err
	}
	if err := os.RemoveAll(filepath.Join(work, "src")); err != nil {
		return "", err
	}
	if err := os.Rename(work, folder); err != nil {
		if _, statErr := os.Stat(done); statErr == nil {
			return done, nil // another process was quicker
		}
		return "", err
	}
	return done, nil
}

func (w Workload) step(root, work, compiler string, step []string) error {
	args := make([]string, len(step)-1)
	names := strings.NewReplacer("OUT", "./"+w.Name, "NAME", w.Name)
	if w.Compiler == "go" { // which builds from the module's root
		names = strings.NewReplacer("OUT", filepath.Join(work, w.Name))
	}
	for i, arg := range step[1:] {
		args[i] = names.Replace(arg)
	}
	cmd := exec.Command(compiler, args...)
	cmd.Dir = work
	if w.Compiler == "go" {
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
		if w.Cgo {
			cmd.Env = append(cmd.Env, "CGO_ENABLED=1")
		}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running %s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

// key names what the executable depends on.
func (w Workload) key(compiler string) (string, error) {
	version := "-v"
	switch w.Compiler {
	case "go":
		version = "version"
	case "rustc":
		version = "-V"
	case "javac":
		version = "-version"
	}
	out, err := exec.Command(compiler, version).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("asking %s for its version: %w", compiler, err)
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%q\n%s\n", out, w.Steps, runtime.GOARCH)
	err = fs.WalkDir(sources, "src", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := sources.ReadFile(path)
		fmt.Fprintf(sum, "%s %d\n%s", path, len(data), data)
		return err
	})
	return fmt.Sprintf("%s-%x", w.Name, sum.Sum(nil)[:8]), err
}

// find returns the compiler's path; rustup's folder need not be in PATH.
func find(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	if home, homeErr := os.UserHomeDir(); homeErr == nil {
		path = filepath.Join(home, ".cargo", "bin", name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s %w", name, ErrNoCompiler)
}

func moduleRoot() (string, error) {
	_, file, _, ok := runtime.Caller(0)
	if root := filepath.Join(filepath.Dir(file), "..", ".."); ok {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			return root, nil
		}
	}
	folder, err := os.Getwd() // built with -trimpath: look above the test's folder
	if err != nil {
		return "", err
	}
	for ; folder != filepath.Dir(folder); folder = filepath.Dir(folder) {
		if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
			return folder, nil
		}
	}
	return "", errors.New("finding the repository: there is no go.mod above this folder")
}

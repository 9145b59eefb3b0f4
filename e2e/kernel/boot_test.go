package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perfuse/perfuse/e2e/workloads"
)

// TestBoot boots every kernel and runs there what must work on it: the tests of every BPF package (which load each
// program), and a recording of a workload, whose stacks must come out whole. It needs QEMU and a Debian mirror, and about
// a minute: PERFUSE_TEST_KERNELS names the kernels ("all", or "5.10,6.12").
func TestBoot(t *testing.T) {
	wanted := os.Getenv("PERFUSE_TEST_KERNELS")
	if wanted == "" {
		t.Skip("PERFUSE_TEST_KERNELS is not set (./task test:kernel sets it)")
	}
	for _, tool := range []string{"qemu-system-x86_64", "apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	if _, err := findBusybox(); err != nil {
		t.Skip(err)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(root, ".tools", "kernels")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	files, jobs := payload(t, root)

	for _, k := range All {
		if wanted != "all" && !slices.Contains(strings.Split(wanted, ","), k.Name) {
			continue
		}
		t.Run(k.Name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
			defer cancel()
			image, err := k.Image(ctx, cache)
			if errors.Is(err, ErrNoMirror) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatalf("fetching kernel %s: %v", k.Name, err)
			}
			started := time.Now()
			guest := Guest{Image: image, Files: files, Jobs: jobs, Folder: filepath.Join(cache, k.Name)}
			results, err := guest.Boot(ctx)
			for _, r := range results {
				judge(t, k, r)
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("booted, ran %d jobs and powered off in %s", len(results), time.Since(started).Round(time.Second/10))
		})
	}
}

func judge(t *testing.T, k Kernel, r Result) {
	t.Helper()
	if r.Job.Name == "uname" {
		if !strings.HasPrefix(r.Output, k.Name+".") {
			t.Errorf("this is kernel %q, want %s", r.Output, k.Name)
		}
		t.Logf("kernel %s", strings.TrimSpace(r.Output))
		return
	}
	if r.Job.Name == recordJob && r.Status == 0 {
		judgeRecording(t, r.Output)
		return
	}
	if r.Status != 0 {
		t.Errorf("%s: exit status %d\n%s", r.Job.Name, r.Status, r.Output)
		return
	}
	for line := range strings.Lines(r.Output) {
		if strings.Contains(line, "instructions verified") || strings.Contains(line, "SKIP") {
			t.Logf("%s: %s", r.Job.Name, strings.TrimSpace(line))
			// The oldest one lacks bpf_loop and more; on the others what is skipped would be lost without a word.
			if strings.Contains(line, "SKIP") && k.Name != "5.10" {
				t.Errorf("%s is skipped:\n%s", r.Job.Name, r.Output)
			}
		}
	}
}

// judgeRecording holds what `profilectl record` saw of the workload in the guest against the truth.
func judgeRecording(t *testing.T, folded string) {
	t.Helper()
	w, _ := workloads.Named(guestWorkload)
	w.Others = 10 // an emulated processor is slow at starting a program
	v, err := workloads.Judge(w, folded)
	if err != nil {
		t.Error(err)
		return
	}
	t.Logf("%s: %.2f %% of the stacks whole, hot %.1f %% = %.1f/%.1f/%.1f, %.2f %% off the chain", w.Name, v.Whole, v.Hot,
		v.Split["hot70"], v.Split["hot20"], v.Split["hot10"], v.OffChain)
	for _, fault := range v.Faults {
		t.Errorf("%s: %s", w.Name, fault)
	}
	if len(v.Faults) > 0 {
		t.Logf("for example: %s", v.Example)
	}
}

// The guest has no libraries, so its workload is a static one.
const (
	guestWorkload = "c-static"
	recordJob     = "record"
)

// payload builds what the guests run: static test binaries of the BPF packages, profilectl and a workload.
func payload(t *testing.T, root string) (files map[string]string, jobs []Job) {
	t.Helper()
	folder := t.TempDir()
	files = map[string]string{}
	jobs = []Job{{Name: "uname", Command: "uname -r"}}
	out, err := goTool(root, "list", "-f", "{{if .TestGoFiles}}{{.ImportPath}}{{end}}", "./bpf/...")
	if err != nil {
		t.Fatalf("listing the BPF packages: %v", err)
	}
	for _, pkg := range strings.Fields(out) {
		name := "bpf-" + path.Base(pkg)
		binary := filepath.Join(folder, name)
		if _, err := goTool(root, "test", "-c", "-o", binary, pkg); err != nil {
			t.Fatalf("building the tests of %s: %v", pkg, err)
		}
		files["/tests/"+name] = binary
		jobs = append(jobs, Job{Name: name, Command: "cd /tmp && /tests/" + name + " -test.v -test.timeout 3m"})
	}
	if len(jobs) < 2 {
		t.Fatal("there is no BPF package with tests")
	}

	workload, err := workloads.Build(guestWorkload)
	if errors.Is(err, workloads.ErrNoCompiler) {
		t.Logf("no recording in the guests: %v", err)
		return files, jobs
	}
	if err != nil {
		t.Fatal(err)
	}
	profilectl := filepath.Join(folder, "profilectl")
	if _, err := goTool(root, "build", "-o", profilectl, "./cmd/profilectl"); err != nil {
		t.Fatalf("building profilectl: %v", err)
	}
	files["/tests/profilectl"], files["/tests/"+guestWorkload] = profilectl, workload
	jobs = append(jobs, Job{Name: recordJob, Command: "/tests/profilectl record --sampling-rate 499 -o folded -- /tests/" + guestWorkload +
		" 6 2>/tmp/said || { status=$?; cat /tmp/said; exit $status; }"})
	return files, jobs
}

func goTool(root string, args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("running go %s: %w\n%s", args[0], err, stderr.Bytes())
	}
	return string(out), nil
}

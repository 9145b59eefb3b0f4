// Package kernel boots Debian kernels in QEMU and runs programs there: what the product says of kernels that this
// machine does not run is tried on them. There is no disk and no network; all that a guest needs is in its
// initramfs, and what it says comes back over a serial line of its own, apart from the kernel's console.
//
//	initramfs (cpio, newc): busybox, /init, the caller's files
//	ttyS0 → console.log: what the kernel says          ttyS1 → results: one block a job
//
//	=== BEGIN name
//	(what the job printed)
//	=== END name 0          its exit status
//	=== DONE                all jobs ran
package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Kernel is a kernel that Debian packages.
type Kernel struct {
	Name     string // its version, as people say it
	Release  string // the Debian release to take it from
	Metapack string // the package that depends on the newest of its kind
}

// All are the kernels that the product is tested against.
var All = []Kernel{
	{Name: "5.10", Release: "bullseye", Metapack: "linux-image-cloud-amd64"},
	{Name: "6.1", Release: "bookworm", Metapack: "linux-image-cloud-amd64"},
	{Name: "6.12", Release: "bookworm", Metapack: "linux-image-6.12-cloud-amd64"},
}

// Job is a shell command to run in the guest.
type Job struct {
	Name    string // one word
	Command string
}

// Result is what a job printed, and its exit status.
type Result struct {
	Job    Job
	Output string
	Status int
}

// Guest is what to boot and what to run there.
type Guest struct {
	Image  string            // the kernel
	Files  map[string]string // path in the guest → path here; executable
	Jobs   []Job
	Folder string // keeps initrd, console.log and results
	// Timeout bounds the whole run. 0 means 4 minutes: emulated processors are slow ones.
	Timeout time.Duration
}

// ErrIncomplete says that a guest went down before all its jobs had run.
var ErrIncomplete = errors.New("the guest ended before its jobs did")

// Boot runs a guest to its end. With ErrIncomplete it returns the jobs that ended; the console is in Folder.
func (g Guest) Boot(ctx context.Context) ([]Result, error) {
	timeout := g.Timeout
	if timeout == 0 {
		timeout = 4 * time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := os.MkdirAll(g.Folder, 0o755); err != nil {
		return nil, err
	}
	initrd := filepath.Join(g.Folder, "initrd")
	console := filepath.Join(g.Folder, "console.log")
	results := filepath.Join(g.Folder, "results")
	if err := g.writeInitrd(initrd); err != nil {
		return nil, fmt.Errorf("writing the initramfs: %w", err)
	}
	defer os.Remove(initrd) // large, and quickly made again
	if err := os.RemoveAll(results); err != nil {
		return nil, err
	}
	// One host thread runs both processors. With a thread for each, QEMU 7.2 now and then runs an instruction that the other processor has
	// already patched back: "Oops: int3" where a tracepoint on the scheduler's way is attached.
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-accel", "tcg,thread=single", "-cpu", "max", "-m", "1536", "-smp", "2",
		"-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot",
		"-serial", "file:"+console, "-serial", "file:"+results,
		"-kernel", g.Image, "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1 lsm=lockdown,capability,landlock,yama,bpf")
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("running qemu: %w\n%s", err, out)
	}
	text, readErr := os.ReadFile(results)
	if readErr != nil {
		return nil, fmt.Errorf("reading the guest's results: %w", readErr)
	}
	done, complete := parse(text, g.Jobs)
	if !complete {
		log, _ := os.ReadFile(console)
		return done, fmt.Errorf("%w (after %d of %d, time-out %s); results:\n%s\nconsole:\n%s",
			ErrIncomplete, len(done), len(g.Jobs), timeout, tail(text), tail(log))
	}
	return done, nil
}

// parse reads the blocks of the results' line.
func parse(text []byte, jobs []Job) (results []Result, complete bool) {
	lines := strings.Split(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n")
	for _, job := range jobs {
		begin, end := "=== BEGIN "+job.Name, "=== END "+job.Name+" "
		var output strings.Builder
		inside := false
		for _, line := range lines {
			if line == begin {
				inside = true
				continue
			}
			if !inside {
				continue
			}
			// What a job prints last may lack its newline.
			if at := strings.Index(line, end); at >= 0 {
				status, err := strconv.Atoi(line[at+len(end):])
				if err == nil {
					output.WriteString(line[:at])
					results = append(results, Result{Job: job, Output: output.String(), Status: status})
					break
				}
			}
			output.WriteString(line + "\n")
		}
	}
	complete = bytes.Contains(text, []byte("=== DONE")) && len(results) == len(jobs)
	return results, complete
}

func tail(text []byte) []byte {
	const keep = 4096
	return bytes.TrimSpace(text[max(0, len(text)-keep):])
}

// init is the guest's first process.
func (g Guest) init() string {
	var b strings.Builder
	b.WriteString(`#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
stty -F /dev/ttyS1 raw -echo
exec </dev/null >/dev/ttyS1 2>&1
`)
	for _, job := range g.Jobs {
		fmt.Fprintf(&b, "echo '=== BEGIN %s'\n(%s)\necho \"=== END %s $?\"\n", job.Name, job.Command, job.Name)
	}
	b.WriteString("echo '=== DONE'\nsync\npoweroff -f\n")
	return b.String()
}

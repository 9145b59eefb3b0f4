package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// nameless matches a frame of which only the address is known, or not even that.
var nameless = regexp.MustCompile(`\+0x[0-9a-f]+(;|$)|(^|;)0x[0-9a-f]+(;|$)|\[unknown\]|^\[no stack\]`)

// TestGoBuild records the build of Go's standard library, hundreds of short processes of two programs: the compiler's and
// the linker's functions have their names, so has the kernel, and less than 1 % is unknown. Without cgo, since Debian's C
// compiler has no symbols.
func TestGoBuild(t *testing.T) {
	needSampler(t)
	folder := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t, "profilectl"), "record", "-o", "folded", "--",
		"sh", "-c", "go build std && go build -o "+filepath.Join(folder, "gofmt")+" cmd/gofmt")
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "GOCACHE="+filepath.Join(folder, "cache"), "CGO_ENABLED=0", "GOFLAGS=")
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		t.Fatalf("profilectl record -- go build std: %v\n%s", err, said.Bytes())
	}
	var total, unfinished, unknown, kernel, compiler, linker int64
	for line := range strings.Lines(out.String()) {
		stack, value, _ := cutLast(strings.TrimSpace(line))
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			t.Fatalf("%q is no folded stack", line)
		}
		total += n
		if strings.HasPrefix(stack, "[unwind: ") {
			unfinished += n
		} else if nameless.MatchString(stack) {
			unknown += n
		}
		if strings.HasSuffix(stack, "_[k]") {
			kernel += n
		}
		if strings.Contains(stack, ";cmd/compile/internal/ssa.") {
			compiler += n
		}
		if strings.Contains(stack, ";cmd/link/internal/ld.") {
			linker += n
		}
	}
	share := func(n int64) float64 { return 100 * float64(n) / float64(max(total, 1)) }
	t.Logf("%s of CPU: %.2f %% unfinished, %.2f %% with a frame without a name, %.1f %% in the kernel, %.1f %% below the compiler's SSA, %.2f %% in the linker",
		time.Duration(total).Round(time.Second/10), share(unfinished), share(unknown), share(kernel), share(compiler), share(linker))
	if share(unknown) >= 1 || share(unfinished) >= 2 {
		t.Errorf("%.2f %% unknown and %.2f %% unfinished, want less than 1 and 2", share(unknown), share(unfinished))
	}
	if share(compiler) < 5 || linker == 0 || share(kernel) < 1 {
		t.Errorf("compiler, linker or kernel are missing; the heaviest stacks:\n%s", heaviest(out.String(), 20))
	}
}

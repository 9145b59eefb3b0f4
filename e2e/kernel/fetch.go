package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
)

// Image returns the path of k's kernel image in cache, fetched with apt when it is not there yet. It asks the mirrors
// that this machine's apt is configured with, for the release that k comes from, in an apt state of its own:
// nothing is installed and the machine's package lists stay as they are.
func (k Kernel) Image(ctx context.Context, cache string) (string, error) {
	image := filepath.Join(cache, k.Name, "vmlinuz")
	if _, err := os.Stat(image); err == nil {
		return image, nil
	}
	a, err := newApt(filepath.Join(cache, "apt-"+k.Release), k.Release)
	if err != nil {
		return "", err
	}
	if err := a.update(ctx); err != nil {
		return "", err
	}
	name, err := a.newest(ctx, k.Metapack)
	if err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(cache, k.Name+".")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	if _, err := a.run(ctx, work, "apt-get", "download", name); err != nil {
		return "", fmt.Errorf("downloading %s: %w", name, err)
	}
	packages, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(packages) != 1 {
		return "", fmt.Errorf("downloading %s: %d packages came", name, len(packages))
	}
	if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", packages[0], filepath.Join(work, "x")).CombinedOutput(); err != nil {
		return "", fmt.Errorf("unpacking %s: %w\n%s", name, err, out)
	}
	found, err := filepath.Glob(filepath.Join(work, "x", "boot", "vmlinuz-*"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("unpacking %s: %d kernel images in it", name, len(found))
	}
	if err := os.MkdirAll(filepath.Dir(image), 0o755); err != nil {
		return "", err
	}
	return image, os.Rename(found[0], image)
}

// apt is apt with its state in a folder of ours.
type apt struct{ options []string }

func newApt(folder, release string) (*apt, error) {
	sources, err := mirrors(os.DirFS("/etc"), release)
	if err != nil {
		return nil, err
	}
	folder, err = filepath.Abs(folder)
	if err != nil {
		return nil, err
	}
	for _, sub := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(folder, sub), 0o755); err != nil {
			return nil, err
		}
	}
	list, status := filepath.Join(folder, "sources.list"), filepath.Join(folder, "status")
	if err := os.WriteFile(list, []byte(sources), 0o644); err != nil {
		return nil, err
	}
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		return nil, err
	}
	return &apt{options: []string{
		"-o", "Dir::Etc::sourcelist=" + list,
		"-o", "Dir::Etc::sourceparts=-",
		"-o", "Dir::Etc::preferences=-", "-o", "Dir::Etc::preferencesparts=-",
		"-o", "Dir::State=" + filepath.Join(folder, "state"),
		"-o", "Dir::State::status=" + status,
		"-o", "Dir::Cache=" + filepath.Join(folder, "cache"),
		"-o", "APT::Architecture=amd64", "-o", "APT::Architectures::=amd64",
		"-o", "APT::Sandbox::User=", // our folders need not be readable by apt's own user
		"-o", "Acquire::Languages=none",
		"-o", "Acquire::Check-Valid-Until=false", // an old release's lists are no longer renewed
	}}, nil
}

func (a *apt) run(ctx context.Context, folder, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, append(append([]string{}, a.options...), args...)...)
	cmd.Dir = folder
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("running %s %s: %w\n%s", program, args[0], err, stderr.Bytes())
	}
	return out, nil
}

// update fetches the package lists. A suite that a mirror does not have (an old release's updates) is no
// reason to stop: what is missing shows when a package is asked for.
func (a *apt) update(ctx context.Context) error {
	_, err := a.run(ctx, "/", "apt-get", "-qq", "update")
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil
	}
	return err
}

var imagePackage = regexp.MustCompile(`Depends: (linux-image-\S+)`)

// newest returns the package that a metapackage stands for.
func (a *apt) newest(ctx context.Context, metapackage string) (string, error) {
	out, err := a.run(ctx, "/", "apt-cache", "depends", metapackage)
	if err != nil {
		return "", fmt.Errorf("looking up %s: %w", metapackage, err)
	}
	m := imagePackage.FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("looking up %s: it depends on no kernel image: %s", metapackage, out)
	}
	return string(m[1]), nil
}

// suite matches the suites of a Debian mirror, and finds what follows the release.
var suite = regexp.MustCompile(`^(bullseye|bookworm|trixie|stable|testing|forky|sid)(-security|-updates)?$`)

// rewrite turns the suites that a Debian mirror is asked for into those of release; others are dropped.
func rewrite(suites []string, release string) []string {
	var out []string
	for _, s := range suites {
		if m := suite.FindStringSubmatch(s); m != nil {
			out = append(out, release+m[2])
		}
	}
	return out
}

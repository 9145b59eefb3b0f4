package hotspot

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// maxCodeMap bounds a list of compiled methods: some 500 000.
const maxCodeMap = 64 << 20

// ErrNoCodeMap: the JVM does not tell what code it has compiled.
var ErrNoCodeMap = errors.New("the JVM does not tell where its compiled methods are: it needs Java 17, or an agent that writes a perf map")

// CodeMap returns the code that the JVM has compiled, in the lines of a perf map: "START SIZE NAME". The JVM writes it to the place
// where such maps are looked for; it is taken from there. A map that is there already is somebody else's and stays: then
// the error is os.ErrExist.
func (j *JVM) CodeMap(ctx context.Context) (data []byte, err error) {
	temp, err := j.temp()
	if err != nil {
		return nil, err
	}
	defer temp.Close()
	name := fmt.Sprintf("perf-%d.map", j.NamespacePID)
	var st unix.Stat_t
	switch err := unix.Fstatat(int(temp.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err {
	case unix.ENOENT:
	case nil:
		return nil, fmt.Errorf("%s of process %d: %w", name, j.PID, os.ErrExist)
	default:
		return nil, fmt.Errorf("looking for %s of process %d: %w", name, j.PID, err)
	}
	defer func() {
		left := j.asOwner(func() error { return unix.Unlinkat(int(temp.Fd()), name, 0) })
		if left != nil && left != unix.ENOENT && j.alive() == nil {
			data, err = nil, errors.Join(err, fmt.Errorf("removing %s of process %d: %w", name, j.PID, left))
		}
	}()
	if _, err := j.command(ctx, "Compiler.perfmap"); err != nil {
		if errors.Is(err, errUnknownCommand) {
			err = fmt.Errorf("%w (%w)", ErrNoCodeMap, err)
		}
		return nil, err
	}
	if data, err = j.readOwn(temp, name, maxCodeMap); err != nil {
		return nil, fmt.Errorf("reading %s of process %d: %w", name, j.PID, err)
	}
	return data, nil
}

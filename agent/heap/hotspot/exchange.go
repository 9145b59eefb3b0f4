package hotspot

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	settingsFile  = "settings.jfc"
	recordingFile = "recording.jfr"

	// exchangePrefix begins the names of our directories in a JVM's /tmp; one that is older than staleAfter is of somebody who was killed.
	exchangePrefix = ".perfuse-jvm-"
	staleAfter     = 15 * time.Minute
)

// exchange is a directory in the JVM's /tmp for the files of one command. It belongs to the JVM's user, and nobody else can look into it.
type exchange struct {
	j    *JVM
	temp *os.File
	dir  *os.File
	name string
}

// randomName tells whose it is, for those who find it in a JVM.
func randomName() string {
	var b [8]byte
	rand.Read(b[:])
	return fmt.Sprintf("%d-%x", os.Getpid(), b)
}

func (j *JVM) newExchange() (*exchange, error) {
	temp, err := j.temp()
	if err != nil {
		return nil, err
	}
	x := &exchange{j: j, temp: temp, name: exchangePrefix + randomName()}
	if err := j.asOwner(func() error {
		if err := unix.Mkdirat(int(temp.Fd()), x.name, 0o700); err != nil {
			return err
		}
		x.dir, err = openIn(temp, x.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH)
		return err
	}); err != nil {
		temp.Close()
		if errors.Is(err, unix.EROFS) {
			err = fmt.Errorf("%w: mount an emptyDir at /tmp in its container", err)
		}
		return nil, fmt.Errorf("making a directory in the /tmp of process %d: %w", j.PID, err)
	}
	return x, nil
}

// path is where the JVM finds a file of the exchange.
func (x *exchange) path(file string) string { return "/tmp/" + x.name + "/" + file }

// close removes the directory.
func (x *exchange) close() error {
	err := x.j.asOwner(func() error { return removeExchange(x.temp, x.dir, x.name) })
	x.dir.Close()
	x.temp.Close()
	if err != nil {
		return fmt.Errorf("removing %s of process %d: %w", x.name, x.j.PID, err)
	}
	return nil
}

func removeExchange(temp, dir *os.File, name string) error {
	for _, file := range []string{settingsFile, recordingFile} {
		if err := unix.Unlinkat(int(dir.Fd()), file, 0); err != nil && err != unix.ENOENT {
			return err
		}
	}
	return unix.Unlinkat(int(temp.Fd()), name, unix.AT_REMOVEDIR)
}

// write makes a file.
func (x *exchange) write(file, text string) error {
	return x.j.asOwner(func() error {
		f, err := openIn(x.dir, file, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH)
		if err != nil {
			return err
		}
		_, err = io.WriteString(f, text)
		return errors.Join(err, f.Close())
	})
}

// read returns the content of a file that the JVM wrote.
func (x *exchange) read(file string, limit int64) ([]byte, error) {
	data, err := x.j.readOwn(x.dir, file, limit)
	if errors.Is(err, errTooLarge) {
		err = fmt.Errorf("%w: lower the recording's maximum or the interval", err)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the recording of process %d: %w", x.j.PID, err)
	}
	return data, nil
}

var errTooLarge = errors.New("the file is too large")

// readOwn returns the content of a file that must be the JVM's own.
func (j *JVM) readOwn(dir *os.File, file string, limit int64) (data []byte, err error) {
	err = j.asOwner(func() error {
		f, err := openIn(dir, file, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_XDEV)
		if err != nil {
			return err
		}
		defer f.Close()
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return err
		}
		switch {
		case st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != j.uid || st.Nlink > 1:
			return errors.New("it is not a file that the JVM wrote")
		case st.Size > limit:
			return fmt.Errorf("%w: it has %d bytes, more than %d", errTooLarge, st.Size, limit)
		}
		data = make([]byte, 0, st.Size+1)
		for int64(len(data)) <= limit {
			n, err := f.Read(data[len(data):cap(data)])
			data = data[:len(data)+n]
			switch {
			case err == io.EOF:
				return nil
			case err != nil:
				return err
			case len(data) == cap(data):
				return errors.New("it grew while it was read")
			}
		}
		return nil
	})
	return data, err
}

// maxListed bounds how much of a foreign /tmp is looked at.
const maxListed = 10_000

// sweep removes directories of exchanges whose owner was killed.
func (j *JVM) sweep(now time.Time) error {
	temp, err := j.temp()
	if err != nil {
		return err
	}
	defer temp.Close()
	return j.asOwner(func() error {
		list, err := openIn(temp, ".", unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_BENEATH)
		if err != nil {
			return err
		}
		defer list.Close()
		names, err := list.Readdirnames(maxListed)
		if err != nil && err != io.EOF {
			return err
		}
		for _, name := range names {
			if !strings.HasPrefix(name, exchangePrefix) {
				continue
			}
			dir, err := openIn(temp, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH)
			if err != nil {
				continue // another user's
			}
			if info, err := dir.Stat(); err == nil && now.Sub(info.ModTime()) > staleAfter {
				removeExchange(temp, dir, name)
			}
			dir.Close()
		}
		return nil
	})
}

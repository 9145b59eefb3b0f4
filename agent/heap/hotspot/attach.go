package hotspot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// listenTimeout is how long a JVM may take to begin to listen, answerTimeout to answer a command.
	listenTimeout = 10 * time.Second
	answerTimeout = 60 * time.Second

	// maxAnswer bounds an answer: the histogram of 200 000 classes.
	maxAnswer = 32 << 20
	// maxArguments is what HotSpot takes, older ones by cutting the rest off.
	maxArguments = 1024

	sigquitCaught = 1 << (unix.SIGQUIT - 1)
)

// command has the JVM execute a command as jcmd does and returns what it printed.
//
//	request  1 NUL jcmd NUL command NUL NUL NUL      version, operation, exactly three arguments (all of JDK 11 to 25)
//	answer   0 LF text, until the end                a number other than 0: an error, with its text
func (j *JVM) command(ctx context.Context, command string) (string, error) {
	if len(command) > maxArguments || strings.ContainsRune(command, 0) {
		return "", fmt.Errorf("a command of %d bytes: HotSpot takes %d, without NUL", len(command), maxArguments)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(j.timeout, answerTimeout))
	defer cancel()
	text, err := j.converse(ctx, "1\x00jcmd\x00"+command+"\x00\x00\x00")
	if err == nil {
		return text, nil
	}
	if errors.Is(err, ErrRefused) && ctx.Err() == nil {
		j.awaitEnd() // a process that ends closes its sockets first
	}
	if gone := j.alive(); gone != nil {
		err = gone
	}
	name, _, _ := strings.Cut(command, " ")
	if errors.Is(err, errUnknownCommand) && strings.HasPrefix(name, "JFR.") {
		err = fmt.Errorf("%w (%w)", ErrNoRecorder, err)
	}
	return text, fmt.Errorf("%s in process %d: %w", name, j.PID, err)
}

// awaitEnd waits a moment for the process to end.
func (j *JVM) awaitEnd() {
	process, err := unix.PidfdOpen(j.PID, 0)
	if err != nil {
		return
	}
	defer unix.Close(process)
	unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, 500)
}

func (j *JVM) converse(ctx context.Context, request string) (string, error) {
	conn, err := j.connect(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	answer, err := func() ([]byte, error) {
		if _, err := io.WriteString(conn, request); err != nil {
			return nil, err
		}
		return io.ReadAll(io.LimitReader(conn, maxAnswer+1))
	}()
	switch {
	case err != nil && ctx.Err() != nil:
		return "", fmt.Errorf("%w: it accepts connections but does not answer: is it stopped, or in a long safepoint? (%w)", ErrRefused, ctx.Err())
	case err != nil:
		return "", fmt.Errorf("%w: asking it: %w", ErrRefused, err)
	case len(answer) > maxAnswer:
		return "", fmt.Errorf("an answer of more than %d bytes", maxAnswer)
	}
	return parseAnswer(string(answer))
}

// parseAnswer takes the code off an answer.
func parseAnswer(answer string) (string, error) {
	code, text, ok := strings.Cut(answer, "\n")
	n, err := strconv.Atoi(strings.TrimSpace(code))
	switch {
	case answer == "":
		return "", fmt.Errorf("%w: it closed the connection without an answer: it takes us for another user", ErrRefused)
	case !ok || err != nil:
		return "", fmt.Errorf("%w: its answer begins with %.40q and not with a number", ErrRefused, code)
	case n == 0:
		return text, nil
	case n == 101:
		return "", fmt.Errorf("%w: it does not speak version 1 of the attach protocol", ErrRefused)
	}
	return text, commandError(text)
}

// commandError makes an error of what a command printed.
func commandError(text string) error {
	line := firstLine(text)
	switch {
	case strings.Contains(text, "Unknown diagnostic command"):
		return fmt.Errorf("%w (it says %q)", errUnknownCommand, line)
	case strings.Contains(text, "jdk.jfr not found"),
		strings.Contains(text, "Flight Recorder can not be enabled"), strings.Contains(text, "Flight Recorder is disabled"):
		return fmt.Errorf("%w (it says %q)", ErrNoRecorder, line)
	}
	return fmt.Errorf("it says %q", line)
}

// errUnknownCommand: of those that are used here, what old JVMs and such without the recorder lack.
var errUnknownCommand = errors.New("it does not know the command")

// firstLine is the first line of a text that says something, at most 200 bytes of it.
func firstLine(text string) string {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			return strings.ToValidUTF8(line[:min(len(line), 200)], "")
		}
	}
	return ""
}

// connect connects to the JVM's socket, and has it listen before if it does not.
func (j *JVM) connect(ctx context.Context) (net.Conn, error) {
	if j.disabled != "" {
		return nil, fmt.Errorf("%w: it runs with %s", ErrRefused, j.disabled)
	}
	if err := j.alive(); err != nil {
		return nil, err
	}
	temp, err := j.temp()
	if err != nil {
		return nil, err
	}
	defer temp.Close()
	conn, err := j.dial(ctx, temp)
	if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ECONNREFUSED) {
		return conn, err
	}
	if err := j.wake(ctx, temp); err != nil {
		return nil, err
	}
	return j.dial(ctx, temp)
}

// wake has the JVM begin to listen: a file that it looks for on SIGQUIT, and then SIGQUIT.
func (j *JVM) wake(ctx context.Context, temp *os.File) error {
	if j.silent {
		return fmt.Errorf("%w: it did not begin to listen when it was asked before", ErrRefused)
	}
	// A pidfd, so that the signal cannot reach another process that has got the pid meanwhile.
	process, err := unix.PidfdOpen(j.PID, 0)
	if err != nil {
		return procError(err)
	}
	defer unix.Close(process)
	s, err := readStatus(j.PID)
	if err != nil {
		return err
	}
	start, state, err := startTime(j.PID)
	switch {
	case err != nil:
		return err
	case start != j.start:
		return ErrGone
	case s.uid != j.uid || s.gid != j.gid:
		return fmt.Errorf("%w: it has changed its user meanwhile: find it again", ErrRefused)
	case state == 'T' || state == 't':
		return fmt.Errorf("%w: it is stopped; continue it first", ErrRefused)
	case s.catches&sigquitCaught == 0 || !j.dispatches():
		return fmt.Errorf("%w: it does not handle SIGQUIT as a running JVM does, so it could end it: it is starting, runs with -Xrs, or only loads the library", ErrRefused)
	}

	name := fmt.Sprintf(".attach_pid%d", j.NamespacePID)
	if err := j.asOwner(func() error {
		f, err := openIn(temp, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH)
		if err == nil {
			return f.Close()
		}
		return err
	}); err != nil && !errors.Is(err, os.ErrExist) { // another tool may be attaching
		if errors.Is(err, unix.EROFS) {
			err = fmt.Errorf("%w: mount an emptyDir at /tmp in its container", err)
		}
		return fmt.Errorf("%w: asking it to listen: %w", ErrRefused, err)
	}
	defer j.asOwner(func() error { return unix.Unlinkat(int(temp.Fd()), name, 0) })
	if err := unix.PidfdSendSignal(process, unix.SIGQUIT, nil, 0); err != nil {
		return procError(err)
	}

	ctx, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			j.silent = true
			return fmt.Errorf("%w: it had its SIGQUIT and did not begin to listen: is it started with -XX:+DisableAttachMechanism, or too busy? (%w)",
				ErrRefused, ctx.Err())
		}
		if err := j.alive(); err != nil {
			return err
		}
		if f, err := j.socket(temp); err == nil {
			f.Close()
			return nil
		}
	}
}

// dispatches says whether the process has the thread to which HotSpot gives its signals, by the name that the kernel keeps of it.
func (j *JVM) dispatches() bool {
	tasks, err := os.Open(j.proc("task"))
	if err != nil {
		return false
	}
	defer tasks.Close()
	names, _ := tasks.Readdirnames(maxThreads)
	for _, name := range names {
		comm, err := readProc(j.proc("task/"+name+"/comm"), 64)
		if err == nil && strings.TrimSpace(string(comm)) == "Signal Dispatch" {
			return true
		}
	}
	return false
}

// socket opens the JVM's socket file, without following what may lie in its place.
func (j *JVM) socket(temp *os.File) (*os.File, error) {
	f, err := openIn(temp, fmt.Sprintf(".java_pid%d", j.NamespacePID), unix.O_PATH|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK || int(st.Uid) != j.uid {
		f.Close()
		return nil, fmt.Errorf("%w: what is in the place of its socket is not its", ErrRefused)
	}
	return f, nil
}

// dial connects to the JVM's socket if there is one.
func (j *JVM) dial(ctx context.Context, temp *os.File) (net.Conn, error) {
	f, err := j.socket(temp)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(s), "attach socket")
	defer file.Close() // the connection has a copy
	address := &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d", f.Fd())}
	if err := j.asOwner(func() error {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			err := unix.Connect(s, address)
			if err != unix.EAGAIN && err != unix.EINTR { // EAGAIN: its queue is full
				return err
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return fmt.Errorf("%w: its queue of connections is full: is it stopped? (%w)", ErrRefused, ctx.Err())
			}
		}
	}); err != nil {
		if errors.Is(err, unix.EACCES) {
			return nil, fmt.Errorf("%w: connecting to its socket: %w", ErrPermission, err)
		}
		return nil, err
	}
	peer, err := unix.GetsockoptUcred(s, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, err
	}
	if int(peer.Pid) != j.PID {
		return nil, fmt.Errorf("%w: process %d listens at its socket in its place", ErrRefused, peer.Pid)
	}
	return net.FileConn(file)
}

// Package hotspot asks running HotSpot JVMs, JDK 11 and later, where their memory goes and where their CPU time is spent. It speaks to
// the JVM's own attach socket, as jcmd does, and has its Flight Recorder record: no agent is loaded, no flag is needed, and
// nothing is left in the JVM or in its file system.
//
//	Find ── /proc: is it HotSpot, whose is it, which is its pid in its own namespace
//	Start ─ .attach_pid and SIGQUIT, if the JVM does not listen yet ─▶ .java_pid socket ─▶ JFR.start
//	Dump ── (GC.class_histogram) ─▶ JFR.start of the next ─▶ JFR.stop of this one ─▶ file in the JVM's /tmp ─▶ profile.Batch
//	Stop ── the same without a next one
//
// Recordings follow each other with an overlap, and a chunk that lies in two of them is read once: nothing is lost or doubled
// between two dumps. Each has a time limit and a size limit of its own, so that it ends by itself if nobody stops it.
//
// The JVM and all that it writes are foreign. What this package does in the JVM's file system it does with the rights of the JVM's
// user and by file descriptors that no symbolic link can lead out of the JVM's root; the process that answers must be the
// JVM, by its socket's credentials; texts and files are bounded.
//
// A JVM that does not listen yet gets a SIGQUIT, and only if it maps libjvm.so and handles that signal. A JVM that
// was started with -XX:+DisableAttachMechanism in a way that cannot be seen prints a thread dump on it, once.
package hotspot

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// What callers branch on.
var (
	// ErrNotJVM: the process is no HotSpot JVM; OpenJ9 and native images are none either.
	ErrNotJVM = errors.New("not a HotSpot JVM")
	// ErrRefused: the JVM does not let anybody attach, or does not answer.
	ErrRefused = errors.New("the JVM cannot be attached to")
	// ErrPermission: it is another user's JVM, and this process may not act for that user.
	ErrPermission = errors.New("no permission to attach: run as the JVM's user or as root")
	// ErrNoRecorder: this JVM has no Flight Recorder.
	ErrNoRecorder = errors.New("this JVM has no Flight Recorder: it needs a Java runtime with the module jdk.jfr")
	// ErrGone: the process has ended.
	ErrGone = errors.New("the process has ended")
)

// maxMapsBytes bounds what is read of a process's list of mappings.
const maxMapsBytes = 64 << 20

// JVM is a running JVM. Its methods are safe for concurrent use; the JVM serves one at a time.
type JVM struct {
	// PID is the process as this process sees it, NamespacePID as it sees itself.
	PID, NamespacePID int
	// Version is the Java version, such as "17.0.15", by the file "release" beside the JVM; "" if there is none.
	Version string

	uid, gid int    // effective
	start    uint64 // when it started: a pid that is used again has another
	disabled string // the option by which it does not let anybody attach

	timeout time.Duration // of an answer; 0: answerTimeout

	mu     sync.Mutex
	silent bool // it had its signal and did not begin to listen: no second one
}

// Find looks at a process and sends it nothing.
func Find(pid int) (*JVM, error) {
	jvm := &JVM{PID: pid}
	if err := jvm.inspect(); err != nil {
		return nil, fmt.Errorf("looking at process %d: %w", pid, err)
	}
	return jvm, nil
}

func (j *JVM) inspect() error {
	s, err := readStatus(j.PID)
	if err != nil {
		return err
	}
	if j.start, _, err = startTime(j.PID); err != nil {
		return err
	}
	j.NamespacePID, j.uid, j.gid = s.namespacePID, s.uid, s.gid
	library, err := j.library()
	if err != nil {
		return err
	}
	j.Version = j.releaseVersion(library)
	j.disabled = j.attachOption()
	return nil
}

// procError turns what /proc says into what callers know.
func procError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ESRCH):
		return ErrGone
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w (%w)", ErrPermission, err)
	}
	return err
}

func (j *JVM) proc(file string) string { return fmt.Sprintf("/proc/%d/%s", j.PID, file) }

// status is what matters of /proc/PID/status.
type status struct {
	namespacePID, uid, gid int
	catches                uint64
}

func readStatus(pid int) (s status, err error) {
	data, err := readProc(fmt.Sprintf("/proc/%d/status", pid), 64<<10)
	if err != nil {
		return s, err
	}
	return parseStatus(data)
}

func parseStatus(data []byte) (s status, err error) {
	s.namespacePID, s.uid, s.gid = -1, -1, -1
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(line, ":")
		f := strings.Fields(value)
		number := func(i int) int {
			if i < 0 || i >= len(f) {
				return -1
			}
			n, err := strconv.ParseInt(f[i], 10, 32)
			if err != nil {
				return -1
			}
			return int(n)
		}
		switch key {
		case "Uid":
			s.uid = number(1)
		case "Gid":
			s.gid = number(1)
		case "NSpid":
			s.namespacePID = number(len(f) - 1)
		case "SigCgt":
			if len(f) == 1 {
				s.catches, _ = strconv.ParseUint(f[0], 16, 64)
			}
		}
	}
	if s.namespacePID <= 0 || s.uid < 0 || s.gid < 0 {
		return s, errors.New("its status lacks Uid, Gid or NSpid: Linux 4.1 or later is needed")
	}
	return s, nil
}

// startTime reads when a process started, in ticks since boot, and its state.
func startTime(pid int) (ticks uint64, state byte, err error) {
	f, err := readStat(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	return f.start, f.state, nil
}

// stat is what matters of /proc/PID/stat and of a thread's.
type stat struct {
	name                string
	state               byte
	user, system, start uint64 // in ticks
}

func readStat(file string) (stat, error) {
	data, err := readProc(file, 4096)
	if err != nil {
		return stat{}, err
	}
	return parseStat(data)
}

// parseStat reads a line of stat; the name in it may hold anything.
func parseStat(data []byte) (s stat, err error) {
	open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if open < 0 || end < open {
		return s, errors.New("a line of stat without a name")
	}
	s.name = string(data[open+1 : end])
	f := strings.Fields(string(data[end+1:]))
	if len(f) < 20 || len(f[0]) != 1 {
		return s, errors.New("a line of stat that is too short")
	}
	s.state = f[0][0]
	for _, n := range []struct {
		to *uint64
		at int
	}{{&s.user, 11}, {&s.system, 12}, {&s.start, 19}} {
		if *n.to, err = strconv.ParseUint(f[n.at], 10, 64); err != nil {
			return s, fmt.Errorf("a line of stat: %w", err)
		}
	}
	return s, nil
}

func readProc(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, procError(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit))
	return data, procError(err)
}

// alive says whether it is still the process that was found.
func (j *JVM) alive() error {
	start, state, err := startTime(j.PID)
	switch {
	case err != nil:
		return err
	case start != j.start, state == 'Z', state == 'X':
		return ErrGone
	}
	return nil
}

// library returns the path of the process's libjvm.so.
func (j *JVM) library() (string, error) {
	f, err := os.Open(j.proc("maps"))
	if err != nil {
		return "", procError(err)
	}
	defer f.Close()
	var library string
	lines := bufio.NewReader(io.LimitReader(f, maxMapsBytes))
	for {
		line, err := lines.ReadSlice('\n')
		if len(line) == 0 {
			if err == nil || err == io.EOF || errors.Is(err, bufio.ErrBufferFull) {
				break
			}
			return "", procError(err)
		}
		_, file, ok := bytes.Cut(line, []byte("/"))
		if !ok {
			continue
		}
		name := strings.TrimSuffix("/"+string(bytes.TrimSuffix(file, []byte("\n"))), " (deleted)")
		switch base := path.Base(name); {
		case base == "libjvm.so":
			library = name
		case strings.HasPrefix(base, "libj9vm"):
			return "", fmt.Errorf("%w but OpenJ9, which has no Flight Recorder: profile it by its perf map", ErrNotJVM)
		}
	}
	if library == "" {
		return "", fmt.Errorf("%w: it maps no libjvm.so", ErrNotJVM)
	}
	return library, nil
}

// releaseVersion reads JAVA_VERSION from the file release of the Java runtime that a libjvm.so belongs to.
func (j *JVM) releaseVersion(library string) string {
	root, err := j.root()
	if err != nil {
		return ""
	}
	defer root.Close()
	release := path.Join(path.Dir(path.Dir(path.Dir(library))), "release")
	f, err := openIn(root, release, unix.O_RDONLY|unix.O_NONBLOCK, unix.RESOLVE_IN_ROOT)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	data, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), `JAVA_VERSION="`); ok {
			v = strings.TrimSuffix(v, `"`)
			if majorVersion(v) > 0 && len(v) < 64 {
				return v
			}
		}
	}
	return ""
}

// majorVersion is 17 for "17.0.15" and 8 for "1.8.0_402"; 0 for anything else.
func majorVersion(v string) int {
	v = strings.TrimPrefix(v, "1.")
	end := strings.IndexFunc(v, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(v)
	}
	n, err := strconv.Atoi(v[:end])
	if err != nil || n > 999 {
		return 0
	}
	return n
}

// attachOption looks for an option that forbids attaching, where options are given by most: the command line and
// the variables that the JVM and its launcher read.
func (j *JVM) attachOption() (found string) {
	look := func(text string) {
		for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r == 0 || r == ' ' || r == '\t' || r == '\n' }) {
			switch strings.Trim(word, `"'`) {
			case "-XX:+DisableAttachMechanism":
				found = "-XX:+DisableAttachMechanism"
			case "-XX:-DisableAttachMechanism":
				found = ""
			}
		}
	}
	environ, _ := readProc(j.proc("environ"), 1<<20)
	variables := map[string]string{}
	for v := range strings.SplitSeq(string(environ), "\x00") {
		name, value, _ := strings.Cut(v, "=")
		variables[name] = value
	}
	line, _ := readProc(j.proc("cmdline"), 1<<20)
	// In the order in which the JVM reads them: the last word counts.
	look(variables["JAVA_TOOL_OPTIONS"])
	look(variables["JDK_JAVA_OPTIONS"])
	look(string(line))
	look(variables["_JAVA_OPTIONS"])
	return found
}

func (j *JVM) String() string {
	return fmt.Sprintf("process %d (Java %s)", j.PID, cmp.Or(j.Version, "of unknown version"))
}

package hotspot

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// cpuTimes is user CPU time that a JVM has used: all of it, and that of the JVM's own threads, which run no Java code.
type cpuTimes struct{ process, internal time.Duration }

// java is what remains for threads that run Java code.
func (c cpuTimes) java() time.Duration { return max(c.process-c.internal, 0) }

func (c cpuTimes) since(old cpuTimes) cpuTimes {
	return cpuTimes{max(c.process-old.process, 0), max(c.internal-old.internal, 0)}
}

// tick is the unit of times in /proc, the same on all of Linux's architectures that Go has.
const tick = 10 * time.Millisecond

// internalThreads begin the names of the JVM's own threads, which the kernel cuts off after 15 bytes.
var internalThreads = []string{
	"GC Thread#", "G1 ", "ParGC Thread", "Concurrent Mark", "CMS ", "Shenandoah", "ZWorker", "ZDriver", "ZDirector", "ZStat", "ZUnmapper",
	"ZUncommitter", "ZServiceability", "XWorker", "XDriver", "XDirector", "VM Thread", "VM Periodic Tas", "VM JFR", "C1 CompilerThre",
	"C2 CompilerThre", "JVMCI Compiler", "Sweeper thread", "StringDedup", "JFR Sampler Thr", "JFR CPU Sampler", "JFR Recorder Th", "GC Locker",
}

// maxThreads bounds how many threads are asked for their CPU time; the JVM's own are among the first.
const maxThreads = 4096

// cpuTimes reads them from /proc. Threads of the JVM's that have ended count as Java's.
func (j *JVM) cpuTimes() (cpuTimes, error) {
	s, err := readStat(j.proc("stat"))
	if err != nil {
		return cpuTimes{}, err
	}
	c := cpuTimes{process: time.Duration(s.user) * tick}
	tasks, err := os.Open(j.proc("task"))
	if err != nil {
		return cpuTimes{}, procError(err)
	}
	defer tasks.Close()
	names, err := tasks.Readdirnames(maxThreads)
	if err != nil && err != io.EOF {
		return cpuTimes{}, procError(err)
	}
	for _, name := range names {
		t, err := readStat(fmt.Sprintf("%s/%s/stat", j.proc("task"), name))
		if err != nil {
			continue // it has ended
		}
		for _, prefix := range internalThreads {
			if strings.HasPrefix(t.name, prefix) {
				c.internal += time.Duration(t.user) * tick
				break
			}
		}
	}
	return c, nil
}

package process

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Ahead makes run go before ordinary work on a busy machine: a process that the agent learns of late is a
// process whose first samples are worse. It is for what hardly ever runs, and then for milliseconds. The
// goroutine's thread keeps its priority, so nothing else may follow run on it. Without the privilege
// (CAP_SYS_NICE) it changes nothing.
func Ahead(run func() error) error {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, -10)
	return run()
}

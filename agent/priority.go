package agent

import (
	"context"
	"runtime"

	"golang.org/x/sys/unix"
)

// ahead makes run go before ordinary work on a busy machine: a process that the table learns of late is a
// process whose first samples are worse. It costs others nothing noticeable, because run hardly ever runs.
// Without the privilege (CAP_SYS_NICE) it changes nothing.
func ahead(run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		// The thread keeps its priority, so it is not unlocked: it ends with the goroutine.
		runtime.LockOSThread()
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, -10)
		return run(ctx)
	}
}

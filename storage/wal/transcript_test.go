package wal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/perfuse/perfuse/storage/disk/disktest"
)

// TestTranscript plays testdata/log: what the log does to the disk, step by step.
//
//	open [segment-bytes=N]    closes nothing: a process that was killed does not either
//	append                    one record a line of input
//	cut, free before=N, close
//	fail op=NAME [err=full]   every operation of that name fails from now on; "fail" alone ends it
//	kill, crash, torn         go on with the disk as the end of the process, or of the power, leaves it
//	damage segment=N at=OFFSET
//	disk                      lists it
func TestTranscript(t *testing.T) {
	fsys := disktest.New()
	var l *Log
	now := time.Unix(0, 0)
	datadriven.RunTest(t, "testdata/log", func(t *testing.T, d *datadriven.TestData) string {
		var out strings.Builder
		report := func(err error) {
			if err != nil {
				fmt.Fprintf(&out, "error: %v\n", err)
			}
		}
		switch d.Cmd {
		case "open":
			o := Options{FS: fsys, Dir: dir, Now: func() time.Time { return now }}
			d.MaybeScanArgs(t, "segment-bytes", &o.SegmentBytes)
			d.MaybeScanArgs(t, "from", &o.From)
			var r Replayed
			var err error
			l, r, err = Open(o, func(segment uint64, p []byte) error {
				_, err := fmt.Fprintf(&out, "%d: %s\n", segment, p)
				return err
			})
			report(err)
			for _, loss := range r.Losses {
				fmt.Fprintf(&out, "lost: %s (cut: %v)\n", loss, loss.Cut)
			}
		case "append":
			for _, line := range strings.Split(d.Input, "\n") {
				segment, err := l.Append([]byte(line))
				if err == nil {
					fmt.Fprintf(&out, "in segment %d\n", segment)
				}
				report(err)
			}
		case "cut":
			last, err := l.Cut()
			fmt.Fprintf(&out, "last %d\n", last)
			report(err)
		case "free":
			var before uint64
			d.ScanArgs(t, "before", &before)
			report(l.Free(before))
		case "close":
			report(l.Close())
		case "wait":
			now = now.Add(time.Minute)
		case "fail":
			if len(d.CmdArgs) == 0 {
				fsys.Fail(nil)
				break
			}
			var name string
			d.ScanArgs(t, "op", &name)
			err := error(syscall.EIO)
			if d.HasArg("full") {
				err = syscall.ENOSPC
			}
			fsys.Fail(func(op disktest.Op, _ string) error {
				if string(op) == name {
					return err
				}
				return nil
			})
		case "kill":
			fsys = fsys.Kill()
		case "crash":
			fsys = fsys.Crash(nil)
		case "torn":
			var seed uint64
			d.ScanArgs(t, "seed", &seed)
			fsys = fsys.Crash(rand.New(rand.NewPCG(seed, 0)))
		case "damage":
			var segment uint64
			var at int
			d.ScanArgs(t, "segment", &segment)
			d.ScanArgs(t, "at", &at)
			data := fsys.Bytes(l.path(segment))
			data[at] ^= 0xff
			fsys.Set(l.path(segment), data)
		case "disk":
			out.WriteString(fsys.String())
		default:
			report(errors.New("unknown command " + d.Cmd))
		}
		return out.String()
	})
}

package fleet

import (
	"errors"
	"fmt"
	"math"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/perfuse/perfuse/proto/perfuse/fleet/v1"
)

// What a report may have. An agent that says what it should stays far below.
const (
	MaxReportBytes   = 16 << 10
	MaxInstanceBytes = 64
	MaxNameBytes     = 256
	MaxTextBytes     = 1024
	MaxEntries       = 64
	maxCPUs          = 1 << 16
)

// ErrReport: the report makes no sense, or is more than a report may be.
var ErrReport = errors.New("refusing a report")

// Check says what is wrong with a report from outside.
func Check(r *fleetv1.Report) error {
	c := checker{}
	c.atMost("the report's bytes", proto.Size(r), MaxReportBytes)
	if r.GetInstance() == "" {
		c.fail("instance is missing")
	}
	if r.GetNode() == "" {
		c.fail("node is missing")
	}
	c.atMost("instance's bytes", len(r.GetInstance()), MaxInstanceBytes)
	c.atMost("cpus", int(r.GetCpus()), maxCPUs)
	c.names("node", r.GetNode(), "version", r.GetVersion(), "kernel", r.GetKernel(), "architecture", r.GetArchitecture())
	c.atMost("settings' entries", len(r.GetSettings()), MaxEntries)
	for _, s := range r.GetSettings() {
		c.names("settings.name", s.GetName())
		c.texts("settings.value", s.GetValue())
	}
	c.atMost("off's entries", len(r.GetOff()), MaxEntries)
	for _, o := range r.GetOff() {
		c.names("off.what", o.GetWhat())
		c.texts("off.why", o.GetWhy())
	}
	c.names("sampling.event", r.GetSampling().GetEvent())
	c.endings("sampling.stacks", r.GetSampling().GetStacks())
	c.texts("unwinding.last_error", r.GetUnwinding().GetLastError())
	c.endings("heaps.without", r.GetHeaps().GetWithout())
	c.texts("debuginfo.last_error", r.GetDebuginfo().GetLastError())
	c.atMost("losses' entries", len(r.GetLosses()), MaxEntries)
	for _, l := range r.GetLosses() {
		c.names("losses.reason", l.GetReason())
	}
	c.names("last_error.where", r.GetLastError().GetWhere())
	c.texts("last_error.text", r.GetLastError().GetText())
	if n := r.GetCost().GetCpuNano(); n < 0 {
		c.fail("cost.cpu_nano is %d: want 0 or more", n)
	}
	if v := r.GetCost().GetBpfCores(); math.IsNaN(v) || v > maxCPUs || v < 0 && v != -1 {
		c.fail("cost.bpf_cores is %v: want a number of processors, or -1", v)
	}
	return c.err
}

// checker keeps the first thing that is wrong.
type checker struct{ err error }

func (c *checker) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: %s", ErrReport, fmt.Sprintf(format, args...))
	}
}

func (c *checker) atMost(what string, n, max int) {
	if n > max {
		c.fail("%s are %d: want at most %d", what, n, max)
	}
}

func (c *checker) names(pairs ...string) {
	for i := 0; i < len(pairs); i += 2 {
		c.atMost(pairs[i]+"'s bytes", len(pairs[i+1]), MaxNameBytes)
	}
}

func (c *checker) texts(what, text string) { c.atMost(what+"'s bytes", len(text), MaxTextBytes) }

func (c *checker) endings(what string, list []*fleetv1.Ending) {
	c.atMost(what+"'s entries", len(list), MaxEntries)
	for _, e := range list {
		c.names(what+".end", e.GetEnd())
	}
}

package process

import (
	"sync"
	"time"

	"github.com/perfuse/perfuse/profile"
)

// youngAge is how long an execution must live before its environment and cgroup are read without anyone
// having asked: most of the hundreds of processes a second that a build makes do not live that long.
const youngAge = 50 * time.Millisecond

// identity is what the environment and the cgroup say of an execution. Forks share their parent's.
type identity struct {
	mu        sync.Mutex
	read      bool
	inherited *identity // of what ran before the exec: the fallback if this was never read
}

func (id *identity) fork() *identity { return id }

// Labels returns the labels of section "Labels" of the design, relabelled.
func (p *Process) Labels() profile.Labels {
	return profile.NewLabels(
		profile.Label{Name: profile.LabelNode, Value: p.table.opts.Node},
		profile.Label{Name: profile.LabelComm, Value: p.currentComm()},
		profile.Label{Name: profile.LabelExecutable, Value: p.Executable},
		profile.Label{Name: profile.LabelServiceName, Value: p.name()},
	)
}

// readYoung reads the identities of executions that have lived long enough.
func (t *Table) readYoung(budget time.Duration) { t.young = t.young[:0] }

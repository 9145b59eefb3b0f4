package scrape

import (
	"context"

	"github.com/perfuse/perfuse/profile"
)

// emitFunc tells all targets that a source (a file, a pod) has now; none if it is gone.
type emitFunc func(source string, targets []profile.Labels)

// discoverer finds targets until its context ends. It reports what is wrong at the moment, nil when it is mended;
// it does not take targets away because it cannot ask.
type discoverer interface {
	name() string
	run(ctx context.Context, emit emitFunc, report func(error))
}

// staticDiscovery is what the configuration itself lists.
type staticDiscovery struct{ groups []StaticConfig }

func (d *staticDiscovery) name() string { return "static" }

func (d *staticDiscovery) run(_ context.Context, emit emitFunc, _ func(error)) {
	emit("", expand(d.groups))
}

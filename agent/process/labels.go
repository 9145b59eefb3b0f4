package process

import (
	"bytes"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/perfuse/perfuse/agent/container"
	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/profile/relabel"
	"golang.org/x/sys/unix"
)

// Labels that only relabelling sees; like all that begin with "__" they are gone after it.
const (
	metaContainerID      = "__meta_container_id"
	metaContainerRuntime = "__meta_container_runtime"
	metaPodUID           = "__meta_pod_uid"
	metaUnit             = "__meta_systemd_unit"
	metaExecutablePath   = "__meta_executable_path"
	metaPID              = "__meta_pid"
)

// kernelService is the service_name of the kernel's own threads.
const kernelService = "kernel"

// youngAge is how long an execution must live before its environment and cgroup are read without anyone
// having asked: most of the hundreds of processes a second that a build makes do not live that long.
const youngAge = 100 * time.Millisecond

// identity is what the environment and the cgroup say of an execution. Forks share their parent's. It is
// read once, when it is first asked for or when the process has reached youngAge; if the process ends before
// that, what it inherited counts: environment and cgroup rarely change on the way from parent to child.
type identity struct {
	mu        sync.Mutex
	read      bool
	inherited *identity
	depth     int // of inheritance

	service    string
	attributes []profile.Label // with our names
	hostname   string
	namespace  string // of the pod, from the service account that Kubernetes mounts
	container  container.Info
}

// maxInherited bounds the chain of identities that nobody read, as of a program that execs itself in a loop.
const maxInherited = 8

func (id *identity) fork() *identity { return id }

// exec makes the identity of a new image.
func (id *identity) exec() *identity {
	id.mu.Lock()
	defer id.mu.Unlock()
	next := &identity{inherited: id, depth: id.depth + 1}
	if next.depth > maxInherited {
		next.inherited, next.depth = nil, 0
	}
	return next
}

// facts returns what is known: read now if possible, else inherited.
func (id *identity) facts(p *Process) *identity {
	for id != nil {
		id.mu.Lock()
		if !id.read && p != nil {
			id.load(p)
		}
		read, inherited := id.read, id.inherited
		id.mu.Unlock()
		if read {
			return id
		}
		id, p = inherited, nil // what ran before is not there to be read any more
	}
	return &identity{}
}

// load reads environment and cgroup of a live process. id.mu is held.
func (id *identity) load(p *Process) {
	if p.Kernel {
		id.read = true
		return
	}
	t := p.table
	if p.Exited() {
		t.metrics.identitiesUnread.Inc()
		return
	}
	d, err := openProcDir(t.opts.Proc, p.PID)
	if err != nil {
		return
	}
	defer d.close()
	environ, _ := d.read("environ", nil, maxEnvironBytes) // not ours to see: as if it were empty
	cgroup, _ := d.read("cgroup", nil, 64<<10)            // without it the container stays unknown
	exe, err := d.readlink("exe")
	if err != nil && len(environ) == 0 {
		return // it has ended: its memory is gone
	}
	if err == nil && path.Base(strings.TrimSuffix(exe, " (deleted)")) != path.Base(p.Executable) {
		return // it has exec'ed meanwhile
	}
	// In the middle of an exec the kernel has mapped the program and not yet said where its arguments are.
	for tries := 0; err == nil && len(environ) == 0 && tries < 20; tries++ {
		if arguments, _ := d.read("cmdline", nil, 64); len(arguments) > 0 {
			environ, _ = d.read("environ", nil, maxEnvironBytes)
			break
		}
		time.Sleep(500 * time.Microsecond)
	}
	id.read, id.inherited, id.depth = true, nil, 0
	id.service, id.attributes, id.hostname = parseEnviron(environ)
	id.container = t.containers.parse(cgroup)
	if id.container.PodUID != "" {
		id.namespace = d.podNamespace()
	}
	t.metrics.identities.Inc()
}

// attributeLabels are the labels that OpenTelemetry's resource attributes become, in rising order of
// preference where several give one label.
var attributeLabels = map[string]struct {
	label string
	rank  int
}{
	"service.name":          {profile.LabelServiceName, 1},
	"service.version":       {profile.LabelVersion, 1},
	"service.namespace":     {profile.LabelNamespace, 1},
	"k8s.namespace.name":    {profile.LabelNamespace, 2},
	"k8s.pod.name":          {profile.LabelPod, 1},
	"container.name":        {profile.LabelContainer, 1},
	"k8s.container.name":    {profile.LabelContainer, 2},
	"k8s.node.name":         {profile.LabelNode, 1},
	"service.instance.id":   {},
	"container.id":          {},
	"host.name":             {},
	"host.id":               {},
	"k8s.pod.uid":           {},
	"k8s.pod.start_time":    {},
	"k8s.replicaset.uid":    {},
	"k8s.deployment.uid":    {},
	"telemetry.sdk.name":    {},
	"telemetry.sdk.version": {},
}

// Limits of what an environment may add to labels.
const (
	maxAttributes     = 32
	maxAttributeBytes = 512
)

// parseEnviron reads the bytes of /proc/PID/environ: NAME=VALUE, each ended by a zero. Of a name that is
// there twice the first counts, as for getenv.
func parseEnviron(environ []byte) (service string, attributes []profile.Label, hostname string) {
	var resource string
	for len(environ) > 0 {
		entry := environ
		if i := bytes.IndexByte(environ, 0); i >= 0 {
			entry, environ = environ[:i], environ[i+1:]
		} else {
			environ = nil
		}
		name, value, ok := bytes.Cut(entry, []byte{'='})
		if !ok || len(value) == 0 || len(value) > 64<<10 {
			continue
		}
		switch string(name) {
		case "OTEL_SERVICE_NAME":
			if service == "" {
				service = labelValue(string(value))
			}
		case "OTEL_RESOURCE_ATTRIBUTES":
			if resource == "" {
				resource = string(value)
			}
		case "HOSTNAME":
			if hostname == "" {
				hostname = labelValue(string(value))
			}
		}
	}
	attributes = parseResourceAttributes(resource)
	if service == "" {
		for _, a := range attributes {
			if a.Name == profile.LabelServiceName {
				service = a.Value
			}
		}
	}
	return service, attributes, hostname
}

// parseResourceAttributes reads key=value,key=value with percent-encoded values (OpenTelemetry's resource
// SDK specification; commas and equal signs in values must be encoded). Pairs that make no sense are left
// out. What names one instance makes no label.
func parseResourceAttributes(s string) (ls []profile.Label) {
	ranks := map[string]int{}
	for pair := range strings.SplitSeq(s, ",") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || len(ls) >= maxAttributes {
			continue
		}
		key, value = decode(key), labelValue(decode(value))
		if key == "" || value == "" || len(key) > 128 || strings.HasPrefix(key, "process.") {
			continue
		}
		rank := 0
		name := labelName(key)
		if known, ok := attributeLabels[key]; ok {
			if known.label == "" {
				continue
			}
			name, rank = known.label, known.rank
		}
		if name == "" {
			continue
		}
		if old, ok := ranks[name]; ok && old > rank {
			continue
		}
		ranks[name] = rank
		ls = append(ls, profile.Label{Name: name, Value: value})
	}
	return ls
}

// decode undoes percent-encoding; what is not well-formed stays as it is.
func decode(s string) string {
	s = strings.TrimSpace(s)
	if d, err := url.PathUnescape(s); err == nil {
		return d
	}
	return s
}

// labelName makes a label's name of an attribute's.
func labelName(key string) string {
	b := []byte(key)
	for i, c := range b {
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			b[i] = '_'
		}
	}
	if bytes.HasPrefix(b, []byte("__")) {
		return "" // reserved
	}
	return string(b)
}

// labelValue bounds a value and makes it valid UTF-8.
func labelValue(s string) string {
	if len(s) > maxAttributeBytes {
		s = s[:maxAttributeBytes]
	}
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// podNamespace reads the file that Kubernetes mounts into each container unless told otherwise. The path is
// resolved within the container's root, wherever its links point.
func (d procDir) podNamespace() string {
	root, err := unix.Openat(d.fd, "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(root)
	f := openRegular(root, "var/run/secrets/kubernetes.io/serviceaccount/namespace", unix.RESOLVE_IN_ROOT)
	if f == nil {
		return ""
	}
	defer f.Close()
	var b [256]byte
	n, _ := f.ReadAt(b[:], 0) // shorter than b: an end of file, as expected
	return labelValue(strings.TrimSpace(string(b[:n])))
}

// containers remembers what cgroup files say: a node has many processes and few groups.
type containers struct {
	mu sync.Mutex
	m  map[string]container.Info
}

const maxContainers = 4096

func (c *containers) parse(cgroup []byte) container.Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i, ok := c.m[string(cgroup)]; ok {
		return i
	}
	if c.m == nil || len(c.m) >= maxContainers {
		c.m = map[string]container.Info{}
	}
	i := container.Parse(string(cgroup))
	c.m[string(cgroup)] = i
	return i
}

// Labels returns what describes the process, relabelled; the caller must not change them. They are made
// once, when they are first asked for: a name that the process gives itself later does not count. They are
// nil if a rule drops the process.
//
//	service_name  OTEL_SERVICE_NAME, else service.name of OTEL_RESOURCE_ATTRIBUTES, else the executable's name
//	executable    the base name of the main program
//	comm          the kernel's name of the main thread
//	node          Options.Node
//	container     its name from the attributes, else the first 12 digits of its id
//	pod           its name from the attributes, else the container's host name if it is in a pod
//	namespace     from the attributes, else from the pod's service account
//	version       service.version
//
// and every other resource attribute under its own name, dots as underscores.
func (p *Process) Labels() profile.Labels {
	p.describe()
	return p.labels
}

// Profiled says whether the relabelling rules want the process.
func (p *Process) Profiled() bool {
	p.describe()
	return !p.dropped
}

// Container returns what the control group says.
func (p *Process) Container() container.Info { return p.identity.facts(p).container }

func (p *Process) describe() {
	p.described.Do(func() {
		ls, keep := p.table.relabel.Apply(profile.NewLabels(p.allLabels()...))
		if p.dropped = !keep; keep {
			p.labels = relabel.Public(ls)
		}
	})
}

// allLabels returns the labels before relabelling, those for relabelling only included.
func (p *Process) allLabels() []profile.Label {
	id := p.identity.facts(p)
	comm := p.currentComm()
	service := id.service
	executable := ""
	if p.Executable != "" {
		executable = path.Base(p.Executable)
	}
	switch {
	case p.Kernel:
		service, comm = kernelService, kernelThread(comm)
	case service != "":
	case executable != "":
		service = executable
	default:
		service = comm
	}
	ls := []profile.Label{
		{Name: profile.LabelNode, Value: p.table.opts.Node},
		{Name: metaContainerID, Value: id.container.ID},
		{Name: metaContainerRuntime, Value: id.container.Runtime},
		{Name: metaPodUID, Value: id.container.PodUID},
		{Name: metaUnit, Value: id.container.Unit},
		{Name: metaExecutablePath, Value: labelValue(p.Executable)},
		{Name: metaPID, Value: strconv.FormatUint(uint64(p.PID), 10)},
		{Name: profile.LabelContainer, Value: id.container.ID[:min(12, len(id.container.ID))]},
	}
	if id.container.PodUID != "" {
		ls = append(ls, profile.Label{Name: profile.LabelNamespace, Value: id.namespace})
		if id.hostname != p.table.opts.Node { // a pod in the host's network has the host's name
			ls = append(ls, profile.Label{Name: profile.LabelPod, Value: id.hostname})
		}
	}
	ls = append(ls, id.attributes...)
	// What is known better than any attribute says it.
	return append(ls,
		profile.Label{Name: profile.LabelServiceName, Value: labelValue(service)},
		profile.Label{Name: profile.LabelComm, Value: labelValue(comm)},
		profile.Label{Name: profile.LabelExecutable, Value: labelValue(executable)},
	)
}

// kernelThread is what kind of thread it is: behind that stand its CPU, its device, or what it works on now.
func kernelThread(comm string) string {
	if i := strings.IndexAny(comm, "/:.+-"); i > 0 {
		return comm[:i]
	}
	return comm
}

// readYoung reads the identities of executions that have lived long enough, for about the given time.
func (t *Table) readYoung(budget time.Duration) {
	if len(t.young) == 0 {
		return
	}
	now := monotonic()
	deadline := now + uint64(budget)
	n := 0
	for n < len(t.young) {
		p := t.young[n]
		if p.end == 0 {
			if p.start+uint64(youngAge) > now || monotonic() > deadline {
				break
			}
			p.identity.facts(p)
		}
		t.young[n] = nil
		n++
	}
	t.young = t.young[n:]
}

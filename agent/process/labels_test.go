package process

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/profile/relabel"
)

func labels(kv ...string) profile.Labels {
	var ls []profile.Label
	for i := 0; i < len(kv); i += 2 {
		ls = append(ls, profile.Label{Name: kv[i], Value: kv[i+1]})
	}
	return profile.NewLabels(ls...)
}

func TestParseEnviron(t *testing.T) {
	f := func(environ, wantService string, want ...string) {
		t.Helper()
		service, attrs, _ := parseEnviron([]byte(strings.ReplaceAll(environ, "|", "\x00")))
		got := profile.NewLabels(attrs...)
		if w := labels(want...); service != wantService || got.String() != w.String() {
			t.Errorf("%s\n got %q %v\nwant %q %v", environ, service, got, wantService, w)
		}
	}
	f("", "")
	f("|||", "")
	f("A=b|OTEL_SERVICE_NAME=api|C", "api")
	f("OTEL_SERVICE_NAME=|OTEL_RESOURCE_ATTRIBUTES=service.name=a", "a", "service_name", "a")
	f("OTEL_SERVICE_NAME=first|OTEL_SERVICE_NAME=second|", "first")
	f("OTEL_RESOURCE_ATTRIBUTES=service.name=a%20b%2Cc,service.version=1.2", "a b,c", "service_name", "a b,c", "version", "1.2")
	f("OTEL_RESOURCE_ATTRIBUTES=k8s.namespace.name=prod,service.namespace=shop,k8s.pod.name=web-1", "", "namespace", "prod", "pod", "web-1")
	f("OTEL_RESOURCE_ATTRIBUTES=service.namespace=shop,k8s.namespace.name=prod", "", "namespace", "prod")
	f("OTEL_RESOURCE_ATTRIBUTES= deployment.environment = live ,9x=y,,=z,q", "", "deployment_environment", "live", "_x", "y")
	f("OTEL_RESOURCE_ATTRIBUTES=service.instance.id=77,process.pid=3,__meta=x,bad=%zz", "", "bad", "%zz")
	f("OTEL_SERVICE_NAME=\xff\xfe!", "\uFFFD!")
	f("OTEL_SERVICE_NAME="+strings.Repeat("x", 5000), strings.Repeat("x", maxAttributeBytes))
	f("OTEL_SERVICE_NAME="+strings.Repeat("x", 70000), "")
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprintf("k%d=v", i))
	}
	if got := parseResourceAttributes(strings.Join(many, ",")); len(got) != maxAttributes {
		t.Errorf("%d attributes", len(got))
	}
}

func FuzzParseEnviron(f *testing.F) {
	f.Add([]byte("OTEL_SERVICE_NAME=a\x00OTEL_RESOURCE_ATTRIBUTES=b=c%20,d\x00"))
	f.Add([]byte("OTEL_RESOURCE_ATTRIBUTES=%=%,=\x00HOSTNAME=x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		service, attrs, host := parseEnviron(b)
		for _, l := range append(attrs, profile.Label{Name: "a", Value: service}, profile.Label{Name: "a", Value: host}) {
			if len(l.Value) > 3*maxAttributeBytes || strings.HasPrefix(l.Name, "__") {
				t.Errorf("%q", l)
			}
		}
	})
}

// The labels of real processes.
func TestLabels(t *testing.T) {
	w := newWatcher(t)
	table := startTable(t, Options{Observers: []Observer{w}, Node: "n1", Relabel: []relabel.Rule{
		{SourceLabels: []string{"service_name"}, Regex: "unwanted", Action: "drop"},
	}})
	start := func(env ...string) *Process {
		t.Helper()
		cmd := exec.Command("/bin/cat")
		cmd.Env = env
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { in.Close(); cmd.Wait() })
		return w.find("cat", func(o *watched) bool {
			return o.p.PID == PID(cmd.Process.Pid) && filepath.Base(o.p.Executable) == "cat"
		}).p
	}
	f := func(p *Process, want ...string) {
		t.Helper()
		want = append(want, "node", "n1", "comm", "cat", "executable", "cat", "container", p.Labels().Get("container"))
		if got := p.Labels().String(); got != labels(want...).String() {
			t.Errorf("got %s\nwant %s", got, labels(want...))
		}
	}
	f(start(), "service_name", "cat")
	f(start("OTEL_SERVICE_NAME=api", "HOME=/"), "service_name", "api")
	f(start("BIG="+strings.Repeat("x", 100000), "OTEL_RESOURCE_ATTRIBUTES=service.name=shop,service.version=3"), "service_name", "shop", "version", "3")
	if p := start("OTEL_SERVICE_NAME=unwanted"); p.Profiled() || p.Labels() != nil {
		t.Errorf("a dropped process has the labels %v", p.Labels())
	}
	// A short-lived child that nobody asked for in time has what its parent has.
	out, err := exec.Command("/bin/sh", "-c", "OTEL_SERVICE_NAME=parent /bin/sh -c '/bin/sleep 1; /bin/true & echo $!; wait'").Output()
	if err != nil {
		t.Fatal(err)
	}
	child := w.find("true", func(o *watched) bool {
		return fmt.Sprintln(o.p.PID) == string(out) && filepath.Base(o.p.Executable) == "true" && o.exited
	})
	if got := child.p.Labels(); got.Get("service_name") != "parent" || got.Get("executable") != "true" || !child.p.Profiled() {
		t.Errorf("the short-lived child has %v", got)
	}
	// The kernel's own threads.
	if kthreadd := table.Lookup(2, child.p.StartTime); kthreadd != nil && kthreadd.Kernel {
		if got := kthreadd.Labels().String(); got != `{comm="kthreadd", node="n1", service_name="kernel"}` {
			t.Errorf("kthreadd has %s", got)
		}
	}
	if self := table.Lookup(PID(os.Getpid()), child.p.StartTime); self == nil || self.Labels().Get("executable") != filepath.Base(os.Args[0]) {
		t.Errorf("this test is %v", self)
	}
}

func TestKernelThread(t *testing.T) {
	f := func(comm, want string) {
		t.Helper()
		if got := kernelThread(comm); got != want {
			t.Errorf("kernelThread(%q) = %q, want %q", comm, got, want)
		}
	}
	f("kworker/u8:0-ext4-rsv-conversion", "kworker")
	f("ksoftirqd/1", "ksoftirqd")
	f("kdamond.0", "kdamond")
	f("jbd2/vda-8", "jbd2")
	f("rcu_preempt", "rcu_preempt")
	f("/odd", "/odd")
}

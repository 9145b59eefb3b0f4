package container

import (
	"strings"
	"testing"
)

const (
	id  = "3f4e2d1c0b9a88776655443322110fedcba9876543210fedcba9876543210abc"
	id2 = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff00"
	uid = "9a5b0e4c-6f3d-4c2a-8f0e-0c1d2e3f4a5b"
)

func TestParsePath(t *testing.T) {
	under := strings.ReplaceAll(uid, "-", "_")
	f := func(path string, want Info) {
		t.Helper()
		if got := ParsePath(path); got != want {
			t.Errorf("%s\n got %+v\nwant %+v", path, got, want)
		}
	}
	f("/", Info{})
	f("", Info{})
	f("/docker/"+id, Info{ID: id, Runtime: "docker"})
	f("/system.slice/docker-"+id+".scope", Info{ID: id, Runtime: "docker"})
	f("/system.slice/docker-"+id+".scope/init.scope", Info{ID: id, Runtime: "docker", Unit: "init.scope"})
	f("/docker/"+id+"/docker/"+id2, Info{ID: id2, Runtime: "docker"}) // docker in docker
	f("/docker/"+id+"/kubepods/besteffort/pod"+uid+"/"+id2, Info{ID: id2, PodUID: uid})
	f("/kubepods/burstable/pod"+uid+"/"+id, Info{ID: id, PodUID: uid})
	f("/kubepods/pod"+uid+"/"+id, Info{ID: id, PodUID: uid}) // guaranteed
	f("/kubepods/burstable/pod"+uid, Info{PodUID: uid})
	f("/kubepods/besteffort/pod0123456789abcdef0123456789abcdef/"+id, Info{ID: id, PodUID: "0123456789abcdef0123456789abcdef"})
	f("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod"+under+".slice/cri-containerd-"+id+".scope",
		Info{ID: id, Runtime: "containerd", PodUID: uid})
	f("/kubepods.slice/kubepods-pod"+under+".slice/crio-"+id+".scope", Info{ID: id, Runtime: "crio", PodUID: uid})
	f("/kubepods.slice/kubepods-pod"+under+".slice/crio-"+id+".scope/container", Info{ID: id, Runtime: "crio", PodUID: uid})
	f("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod"+under+".slice/docker-"+id+".scope",
		Info{ID: id, Runtime: "docker", PodUID: uid})
	f("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod"+under+".slice/crio-conmon-"+id+".scope",
		Info{PodUID: uid, Unit: "crio-conmon-" + id + ".scope"})
	f("/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod"+under+".slice/cri-containerd-"+id+".scope",
		Info{ID: id, Runtime: "containerd", PodUID: uid}) // kind
	f("/system.slice/containerd.service/kubepods-burstable-pod"+under+".slice:cri-containerd:"+id,
		Info{ID: id, Runtime: "containerd", PodUID: uid, Unit: "containerd.service"})
	f("/kubepods-besteffort-pod"+under+".slice:cri-containerd:"+id, Info{ID: id, Runtime: "containerd", PodUID: uid})
	f("/../../pod"+uid+"/"+id, Info{ID: id, PodUID: uid})
	f("/default/"+id, Info{ID: id, Runtime: "containerd"})
	f("/k8s.io/"+id, Info{ID: id, Runtime: "containerd"})
	f("/system.slice/nerdctl-"+id+".scope", Info{ID: id, Runtime: "containerd"})
	f("/machine.slice/libpod-"+id+".scope", Info{ID: id, Runtime: "podman"})
	f("/machine.slice/libpod-"+id+".scope/container", Info{ID: id, Runtime: "podman"})
	f("/machine.slice/libpod-conmon-"+id+".scope", Info{Unit: "libpod-conmon-" + id + ".scope"})
	f("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-"+id+".scope",
		Info{ID: id, Runtime: "podman", Unit: "user@1000.service"})
	f("/libpod_parent/libpod-"+id, Info{})
	f("/libpod_parent/"+id, Info{ID: id, Runtime: "podman"})
	f("/lxc/web", Info{ID: "web", Runtime: "lxc"})
	f("/lxc.payload.web/system.slice/nginx.service", Info{ID: "web", Runtime: "lxc", Unit: "nginx.service"})
	f("/lxc.monitor.web", Info{})
	f(`/machine.slice/machine-my\x2dbox.scope/payload`, Info{ID: "my-box", Runtime: "nspawn"})
	f("/machine.slice/systemd-nspawn@deb.service/payload/system.slice/cron.service", Info{ID: "deb", Runtime: "nspawn", Unit: "cron.service"})
	f("/ecs/0123456789abcdef0123456789abcdef/"+id, Info{ID: id})
	f("/ecs/0123456789abcdef0123456789abcdef/0123456789abcdef0123456789abcdef-1234567890",
		Info{ID: "0123456789abcdef0123456789abcdef-1234567890", Runtime: "ecs"})
	f("/system.slice/nginx.service", Info{Unit: "nginx.service"})
	f("/system.slice/system-getty.slice/getty@tty1.service", Info{Unit: "getty@tty1.service"})
	f("/user.slice/user-1000.slice/session-3.scope", Info{Unit: "session-3.scope"})
	f("/user.slice/user-1000.slice/user@1000.service/app.slice/app-firefox-1234.scope", Info{Unit: "app-firefox-1234.scope"})
	f("/init.scope", Info{Unit: "init.scope"})
	f("/system.slice/docker.service", Info{Unit: "docker.service"})
	f("/docker/"+strings.ToUpper(id), Info{})
	f("/docker/"+id[:63], Info{})
	f("/system.slice/docker-"+id+".scope (deleted)", Info{ID: id, Runtime: "docker"})
	f("/podman", Info{})
	f("/podcast.slice/pod"+uid+"x", Info{})
	f(strings.Repeat("/a", 5000), Info{})
}

func TestParse(t *testing.T) {
	f := func(text string, want Info) {
		t.Helper()
		if got := Parse(text); got != want {
			t.Errorf("%s\n got %+v\nwant %+v", text, got, want)
		}
	}
	f("", Info{})
	f("0::/\n", Info{})
	f("0::/system.slice/cron.service\n", Info{Unit: "cron.service"})
	f("0::/system.slice/cron.service", Info{Unit: "cron.service"})
	f("12:pids:/docker/"+id+"\n11:memory:/docker/"+id+"\n1:name=systemd:/docker/"+id+"\n0::/system.slice/containerd.service\n",
		Info{ID: id, Runtime: "docker", Unit: "containerd.service"})
	f("9:name=systemd:/\n4:memory:/process_api/78c71ce6b668fae7459bc849434e0299\n0::/\n", Info{})
	f("11:cpu:/kubepods/burstable/pod"+uid+"/"+id+"\n1:name=systemd:/\n", Info{ID: id, PodUID: uid})
	f("nonsense\n:::\n1:a\n0::/lxc/web\n", Info{ID: "web", Runtime: "lxc"})
}

func FuzzParse(f *testing.F) {
	f.Add("0::/system.slice/docker-" + id + ".scope\n")
	f.Add("1:name=systemd:/kubepods/burstable/pod" + uid + "/" + id + "\n")
	f.Add(`0::/machine.slice/machine-a\x2db\x.scope`)
	f.Add("0::/kubepods-pod.slice:x:y\n::::\n")
	f.Fuzz(func(t *testing.T, s string) {
		i := Parse(s)
		for _, v := range []string{i.ID, i.Runtime, i.PodUID, i.Unit} {
			if len(v) > len(s) && v != "containerd" && v != "podman" && v != "nspawn" {
				t.Errorf("%q gives %+v", s, i)
			}
			if strings.Contains(v, "/") && !strings.Contains(s, `\x2f`) {
				t.Errorf("%q gives %+v", s, i)
			}
		}
	})
}

// Package container tells from a process's control group which container, pod or systemd unit it belongs to.
// It only parses names; nobody is asked.
//
// The names that the runtimes give to control groups (v1: in each hierarchy alike; v2: in the one):
//
//	docker, cgroupfs driver    /docker/ID
//	docker, systemd driver     /system.slice/docker-ID.scope
//	containerd (ctr)           /NAMESPACE/ID
//	nerdctl, systemd driver    /system.slice/nerdctl-ID.scope
//	podman                     /machine.slice/libpod-ID.scope[/container], /user.slice/.../libpod-ID.scope
//	LXC                        /lxc.payload.NAME, /lxc/NAME
//	systemd-nspawn             /machine.slice/machine-NAME.scope, systemd-nspawn@NAME.service
//	Kubernetes, cgroupfs       /kubepods/burstable/podUID/ID
//	Kubernetes, systemd        /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice/RUNTIME-ID.scope
//	Kubernetes, containerd     /system.slice/containerd.service/kubepods-burstable-podUID.slice:RUNTIME:ID
//	systemd                    /system.slice/NAME.service, /user.slice/user-1000.slice/session-1.scope
//	ECS                        /ecs/TASK/ID, /ecs/TASK/ID-NUMBER
//
// where ID is 64 hexadecimal digits (ECS: also 32, a dash and decimals) and RUNTIME is docker,
// cri-containerd, crio or libpod.
package container

import (
	"strings"
)

// Info is what a control group says. Fields that it does not say are empty.
type Info struct {
	// ID is the container's, as the runtime names it; for LXC and nspawn it is the container's name.
	ID string
	// Runtime is docker, containerd, crio, podman, lxc, nspawn or ecs; empty if the name does not tell.
	Runtime string
	// PodUID is Kubernetes' id of the pod, with dashes (static pods have one without).
	PodUID string
	// Unit is the systemd service, scope or slice-level unit that the process runs in, outside of containers
	// or, for a container, the one that holds it if that is not the container's own scope.
	Unit string
}

// maxPath bounds a path that is looked at; the kernel's own limit is 4096.
const maxPath = 4096

// Parse reads the content of /proc/PID/cgroup: lines HIERARCHY:CONTROLLERS:PATH (cgroups(7)). It takes the
// line that says most: the hierarchies of v1 name the same container, but need not all name it.
func Parse(cgroup string) Info {
	var best Info
	score := 0
	for line := range strings.Lines(cgroup) {
		_, rest, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		if !ok {
			continue
		}
		_, path, ok := strings.Cut(rest, ":")
		if !ok || path == "/" || path == "" {
			continue
		}
		i := ParsePath(path)
		if best.Unit == "" {
			best.Unit = i.Unit
		}
		s := 0
		if i.ID != "" {
			s += 2
		}
		if i.PodUID != "" {
			s++
		}
		if s > score {
			if i.Unit == "" {
				i.Unit = best.Unit
			}
			best, score = i, s
		}
	}
	return best
}

// ParsePath reads one control group's path. Of nested containers the innermost counts.
func ParsePath(path string) Info {
	if len(path) > maxPath {
		path = path[:maxPath]
	}
	// A namespaced reader sees "/../.." before the path of its neighbours; a removed group has a suffix.
	path = strings.TrimSuffix(path, " (deleted)")
	var info Info
	var unit string // the last systemd unit that is not a container's scope
	parent := ""
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == ".." {
			continue
		}
		// containerd's systemd names that end up in a cgroupfs driver: SLICE:RUNTIME:ID.
		if slice, rest, ok := strings.Cut(part, ":"); ok {
			if runtime, id, ok := strings.Cut(rest, ":"); ok && isID(id) {
				info.ID, info.Runtime = id, runtimeName(runtime)
				if uid := podUID(slice); uid != "" {
					info.PodUID = uid
				}
				parent = part
				continue
			}
		}
		if uid := podUID(part); uid != "" {
			info.PodUID, info.ID, info.Runtime = uid, "", ""
			parent = part
			continue
		}
		name, isScope := strings.CutSuffix(part, ".scope")
		switch {
		case isScope:
			if id, runtime := scopeID(name); id != "" {
				info.ID, info.Runtime = id, runtime
			} else if machine, ok := strings.CutPrefix(name, "machine-"); ok {
				info.ID, info.Runtime = unescape(machine), "nspawn"
			} else {
				unit = part
			}
		case strings.HasSuffix(part, ".service"):
			if machine, ok := strings.CutPrefix(strings.TrimSuffix(part, ".service"), "systemd-nspawn@"); ok {
				info.ID, info.Runtime = unescape(machine), "nspawn"
			} else {
				unit = part
			}
		case strings.HasSuffix(part, ".slice"):
		case isID(part):
			info.ID, info.Runtime = part, parentRuntime(parent)
		case parent == "lxc":
			info.ID, info.Runtime = part, "lxc"
		case strings.HasPrefix(part, "lxc.payload."):
			info.ID, info.Runtime = strings.TrimPrefix(part, "lxc.payload."), "lxc"
		case ecsID(part) && info.Runtime != "docker":
			info.ID, info.Runtime = part, "ecs"
		}
		parent = part
	}
	info.Unit = unit
	return info
}

// isID says whether s is 64 hexadecimal digits.
func isID(s string) bool { return len(s) == 64 && isHex(s) }

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// ecsID: 32 hexadecimal digits, a dash, decimals.
func ecsID(s string) bool {
	hex, number, ok := strings.Cut(s, "-")
	if !ok || len(hex) != 32 || !isHex(hex) || number == "" || len(number) > 20 {
		return false
	}
	return strings.Trim(number, "0123456789") == ""
}

// scopeID reads RUNTIME-ID, also crio-conmon-ID (the monitor beside the container, not in it).
func scopeID(name string) (id, runtime string) {
	if isID(name) {
		return name, ""
	}
	i := strings.LastIndexByte(name, '-')
	if i < 0 || !isID(name[i+1:]) || strings.HasSuffix(name[:i], "-conmon") {
		return "", ""
	}
	return name[i+1:], runtimeName(name[:i])
}

func runtimeName(prefix string) string {
	switch prefix {
	case "cri-containerd", "nerdctl", "containerd":
		return "containerd"
	case "crio", "cri-o":
		return "crio"
	case "libpod", "podman":
		return "podman"
	}
	return prefix
}

// parentRuntime names the runtime by the group above a bare id.
func parentRuntime(parent string) string {
	switch parent {
	case "docker", "lxc":
		return parent
	case "libpod_parent", "libpod":
		return "podman"
	case "default", "moby", "k8s.io", "buildkit":
		return "containerd"
	}
	return ""
}

// podUID reads kubepods-QOS-podUID.slice and podUID.
func podUID(part string) string {
	s, isSlice := strings.CutSuffix(part, ".slice")
	if i := strings.LastIndex(s, "-pod"); i >= 0 && strings.Contains(s[:i], "kubepods") {
		s = s[i+1:]
	} else if isSlice {
		return ""
	}
	uid, ok := strings.CutPrefix(s, "pod")
	if !ok {
		return ""
	}
	uid = strings.ReplaceAll(uid, "_", "-")
	switch {
	case len(uid) == 32 && isHex(uid): // a static pod's: the hash of its manifest
		return uid
	case len(uid) == 36 && isHex(strings.ReplaceAll(uid, "-", "")) && strings.Count(uid, "-") == 4:
		return uid
	}
	return ""
}

// unescape undoes systemd's escaping of unit names: \x2d is '-'.
func unescape(s string) string {
	if !strings.Contains(s, `\x`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if i+3 < len(s) && s[i] == '\\' && s[i+1] == 'x' {
			hi, lo := hexDigit(s[i+2]), hexDigit(s[i+3])
			if hi >= 0 && lo >= 0 {
				b.WriteByte(byte(hi<<4 | lo))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

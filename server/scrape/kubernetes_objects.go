package scrape

import (
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/perfuse/perfuse/profile"
)

// What we read of Kubernetes' API, by its own names.

type objectMeta struct {
	Name            string            `json:"name"`
	Namespace       string            `json:"namespace"`
	UID             string            `json:"uid"`
	ResourceVersion string            `json:"resourceVersion"`
	Labels          map[string]string `json:"labels"`
	Annotations     map[string]string `json:"annotations"`
	OwnerReferences []struct {
		Kind       string `json:"kind"`
		Name       string `json:"name"`
		Controller bool   `json:"controller"`
	} `json:"ownerReferences"`
}

type container struct {
	Name  string `json:"name"`
	Image string `json:"image"`
	Ports []struct {
		Name          string `json:"name"`
		ContainerPort uint16 `json:"containerPort"`
		Protocol      string `json:"protocol"`
	} `json:"ports"`
}

type containerStatus struct {
	Name        string `json:"name"`
	ContainerID string `json:"containerID"`
}

type pod struct {
	Metadata objectMeta `json:"metadata"`
	Spec     struct {
		NodeName       string      `json:"nodeName"`
		Containers     []container `json:"containers"`
		InitContainers []container `json:"initContainers"`
	} `json:"spec"`
	Status struct {
		Phase      string `json:"phase"`
		PodIP      string `json:"podIP"`
		HostIP     string `json:"hostIP"`
		Conditions []struct {
			Type   string `json:"type"`
			Status string `json:"status"`
		} `json:"conditions"`
		ContainerStatuses     []containerStatus `json:"containerStatuses"`
		InitContainerStatuses []containerStatus `json:"initContainerStatuses"`
	} `json:"status"`
}

type podList struct {
	Metadata struct {
		ResourceVersion string `json:"resourceVersion"`
		Continue        string `json:"continue"`
	} `json:"metadata"`
	Items []pod `json:"items"`
}

type watchEvent struct {
	Type   string          `json:"type"`
	Object json.RawMessage `json:"object"`
}

// apiStatus is how Kubernetes says that something is wrong.
type apiStatus struct {
	Code    int    `json:"code"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// maxPodLabels bounds what a pod's author can make us hold: each port is a target that has all labels.
const maxPodLabels = 100_000

func (p *pod) source() string { return p.Metadata.Namespace + "/" + p.Metadata.Name }

// targets lists a pod's ports, with the labels that Prometheus gives to them; a container without ports is one
// target with the pod's address alone.
func (p *pod) targets() ([]profile.Labels, error) {
	if p.Status.PodIP == "" {
		return nil, nil
	}
	const prefix = labelMetaPrefix + "kubernetes_pod_"
	common := []profile.Label{
		{Name: labelMetaPrefix + "kubernetes_namespace", Value: p.Metadata.Namespace},
		{Name: prefix + "name", Value: p.Metadata.Name},
		{Name: prefix + "uid", Value: p.Metadata.UID},
		{Name: prefix + "ip", Value: p.Status.PodIP},
		{Name: prefix + "host_ip", Value: p.Status.HostIP},
		{Name: prefix + "node_name", Value: p.Spec.NodeName},
		{Name: prefix + "phase", Value: p.Status.Phase},
		{Name: prefix + "ready", Value: p.ready()},
	}
	for _, o := range p.Metadata.OwnerReferences {
		if o.Controller {
			common = append(common, profile.Label{Name: prefix + "controller_kind", Value: o.Kind}, profile.Label{Name: prefix + "controller_name", Value: o.Name})
		}
	}
	for kind, m := range map[string]map[string]string{"label": p.Metadata.Labels, "annotation": p.Metadata.Annotations} {
		for name, value := range m {
			name = profile.LabelName("x" + name)[1:] // as the end of a name it may begin with a digit
			common = append(common,
				profile.Label{Name: prefix + kind + "_" + name, Value: value},
				profile.Label{Name: prefix + kind + "present_" + name, Value: "true"})
		}
	}
	ports := 0
	for _, c := range append(p.Spec.Containers[:len(p.Spec.Containers):len(p.Spec.Containers)], p.Spec.InitContainers...) {
		ports += max(len(c.Ports), 1)
	}
	if n := ports * len(common); n > maxPodLabels {
		return nil, fmt.Errorf("pod %s has %d ports and %d labels and annotations, too many together: the limit is %d", p.source(), ports, len(common), maxPodLabels)
	}
	var out []profile.Labels
	add := func(address string, ls ...profile.Label) {
		all := append(append(ls, common...), profile.Label{Name: labelAddress, Value: address})
		for i := range all {
			all[i].Value = strings.ToValidUTF8(all[i].Value, "\uFFFD")
		}
		out = append(out, profile.NewLabels(all...))
	}
	for _, kind := range []struct {
		containers []container
		statuses   []containerStatus
		init       bool
	}{{p.Spec.Containers, p.Status.ContainerStatuses, false}, {p.Spec.InitContainers, p.Status.InitContainerStatuses, true}} {
		for _, c := range kind.containers {
			own := func() []profile.Label {
				ls := []profile.Label{
					{Name: prefix + "container_name", Value: c.Name},
					{Name: prefix + "container_image", Value: c.Image},
					{Name: prefix + "container_init", Value: strconv.FormatBool(kind.init)},
				}
				for _, s := range kind.statuses {
					if s.Name == c.Name {
						ls = append(ls, profile.Label{Name: prefix + "container_id", Value: s.ContainerID})
					}
				}
				return ls
			}
			if len(c.Ports) == 0 {
				address := p.Status.PodIP
				if strings.Contains(address, ":") {
					address = "[" + address + "]"
				}
				add(address, own()...)
			}
			for _, port := range c.Ports {
				number := strconv.Itoa(int(port.ContainerPort))
				add(net.JoinHostPort(p.Status.PodIP, number), append(own(),
					profile.Label{Name: prefix + "container_port_name", Value: port.Name},
					profile.Label{Name: prefix + "container_port_number", Value: number},
					profile.Label{Name: prefix + "container_port_protocol", Value: port.Protocol})...)
			}
		}
	}
	return out, nil
}

func (p *pod) ready() string {
	for _, c := range p.Status.Conditions {
		if c.Type == "Ready" {
			return strings.ToLower(c.Status)
		}
	}
	return "unknown"
}

// podEvent decodes what a watch says. For a bookmark the pod has a resource version only.
func podEvent(e watchEvent) (pod, error) {
	var p pod
	switch e.Type {
	case "ADDED", "MODIFIED", "DELETED", "BOOKMARK":
		if err := json.Unmarshal(e.Object, &p); err != nil {
			return p, fmt.Errorf("decoding an event %s: %w", e.Type, err)
		}
		if p.Metadata.Name == "" && e.Type != "BOOKMARK" {
			return p, fmt.Errorf("an event %s has no object", e.Type)
		}
		return p, nil
	case "ERROR":
		var s apiStatus
		if err := json.Unmarshal(e.Object, &s); err != nil {
			return p, fmt.Errorf("decoding an event ERROR: %w", err)
		}
		return p, &apiError{s.Code, s.Message}
	}
	return p, fmt.Errorf("unknown event %.40q", e.Type)
}

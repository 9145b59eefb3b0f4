package scrape

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	commonconfig "github.com/prometheus/common/config"

	"github.com/perfuse/perfuse/server/limits"
)

// cluster is an API server whose requests a test answers one by one: it sees each as the query's text.
type cluster struct {
	*httptest.Server
	requests chan string
	answers  chan func(http.ResponseWriter)
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{requests: make(chan string), answers: make(chan func(http.ResponseWriter))}
	ctx := t.Context()
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case c.requests <- r.URL.Path + " " + r.URL.RawQuery + " " + r.Header.Get("Authorization"):
		case <-ctx.Done():
			return
		}
		select {
		case answer := <-c.answers:
			answer(w)
		case <-ctx.Done():
		}
	}))
	return c
}

// expect waits for a request and answers it.
func (c *cluster) expect(t *testing.T, want string, answer func(http.ResponseWriter)) {
	t.Helper()
	select {
	case got := <-c.requests:
		if got = strings.TrimSpace(got); got != want {
			t.Fatalf("asked for %s\nwant %s", got, want)
		}
	case <-time.After(time.Minute):
		t.Fatalf("nobody asks for %s", want)
	}
	c.answers <- answer
}

func text(status int, body string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

// stream is a watch that a test writes to; it ends with close.
func stream(lines <-chan string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.(http.Flusher).Flush()
		for line := range lines {
			fmt.Fprintln(w, line)
			w.(http.Flusher).Flush()
		}
	}
}

func podJSON(name, ip, version string, ports ...string) string {
	return fmt.Sprintf(`{"metadata":{"name":%q,"namespace":"prod","uid":"u-%s","resourceVersion":%q,"labels":{"app":%q}},
"spec":{"containers":[{"name":"main","ports":[%s]}]},"status":{"podIP":%q,"phase":"Running"}}`, name, name, version, name, strings.Join(ports, ","), ip)
}

func port(n int) string {
	return fmt.Sprintf(`{"name":"p%d","containerPort":%d,"protocol":"TCP"}`, n, n)
}

// event puts a pod into one line, as the API server writes it.
func event(typ, object string) string {
	return strings.ReplaceAll(fmt.Sprintf(`{"type":%q,"object":%s}`, typ, object), "\n", "")
}

// await waits until what was found is as wanted.
func (f *found) await(t *testing.T, want string) {
	t.Helper()
	timeout := time.After(time.Minute)
	for f.String() != want {
		select {
		case <-f.changed:
		case <-timeout:
			t.Fatalf("found %s\nwant %s", f, want)
		}
	}
}

// Pods are listed by pages, watched with bookmarks, and listed again when the version is gone; what is known stays
// while the API server cannot be asked.
func TestKubernetes(t *testing.T) {
	c := newCluster(t)
	defer c.Close()
	found := &found{changed: make(chan struct{}, 1)}
	d := &kubernetesDiscovery{
		config: KubernetesConfig{APIServer: c.URL, Selectors: []Selector{{Role: "pod", Label: "app in (a,b)"}}}, namespace: "prod",
		client: c.Client(), maxBytes: 10_000, backoff: time.Microsecond,
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.run(ctx, found.emit, found.report)
	}()
	const (
		where    = "/api/v1/namespaces/prod/pods "
		selector = "labelSelector=app+in+%28a%2Cb%29"
		list     = where + selector + "&limit=500"
	)
	watch := func(version string) string {
		return where + "allowWatchBookmarks=true&" + selector + "&resourceVersion=" + version + "&timeoutSeconds=300&watch=1"
	}
	c.expect(t, list, text(403, `{"kind":"Status","code":403,"message":"pods is forbidden"}`))
	found.await(t, "error: listing pods: the API server answers 403: pods is forbidden; give the service account get, list and watch on pods; the last known pods stay")
	c.expect(t, list, text(200, `{"metadata":{"resourceVersion":"10","continue":"more"},"items":[`+podJSON("a", "10.0.0.1", "3", port(80), port(81))+`]}`))
	c.expect(t, where+"continue=more&"+selector+"&limit=500", text(200, `{"metadata":{"resourceVersion":"10"},"items":[`+podJSON("b", "10.0.0.2", "4")+`,`+podJSON("nowhere", "", "5")+`]}`))
	found.await(t, "10.0.0.1:80 10.0.0.1:81 10.0.0.2")

	lines := make(chan string)
	c.expect(t, watch("10"), stream(lines))
	lines <- event("ADDED", podJSON("v6", "fd00::1", "11", port(80)))
	found.await(t, "10.0.0.1:80 10.0.0.1:81 10.0.0.2 [fd00::1]:80")
	lines <- event("MODIFIED", podJSON("a", "10.0.0.1", "12", port(82)))
	lines <- event("DELETED", podJSON("b", "10.0.0.2", "13"))
	found.await(t, "10.0.0.1:82 [fd00::1]:80")
	lines <- event("BOOKMARK", `{"kind":"Pod","metadata":{"resourceVersion":"20"}}`)
	close(lines)

	// From the bookmark on, also after a failure; the error goes once it works again.
	c.expect(t, watch("20"), text(500, "oops\nmore"))
	found.await(t, "10.0.0.1:82 [fd00::1]:80 error: watching pods: the API server answers 500: oops; the last known pods stay")
	lines = make(chan string)
	c.expect(t, watch("20"), stream(lines))
	found.await(t, "10.0.0.1:82 [fd00::1]:80")

	// The version is gone: as an event, then as an answer.
	lines <- event("ERROR", `{"kind":"Status","code":410,"message":"too old resource version"}`)
	close(lines)
	c.expect(t, list, text(200, `{"metadata":{"resourceVersion":"40"},"items":[`+podJSON("c", "10.0.0.3", "39", port(80))+`]}`))
	found.await(t, "10.0.0.3:80")
	c.expect(t, watch("40"), text(410, `{"code":410}`))
	c.expect(t, list, text(200, `{"metadata":{"resourceVersion":"50"},"items":[`+podJSON("c", "10.0.0.4", "49", port(80))+`]}`))
	found.await(t, "10.0.0.4:80")

	// What is too large, or no event, ends the watch and not the discovery.
	c.expect(t, watch("50"), text(200, event("ADDED", podJSON(strings.Repeat("x", 20_000), "10.0.0.9", "51"))))
	found.await(t, "10.0.0.4:80 error: watching pods: an event of the watch is too large: limit body_bytes is 10000 "+
		"(to change it: limits.body_bytes in the configuration file, or PERFUSE_LIMITS_BODY_BYTES); the last known pods stay")
	c.expect(t, watch("50"), text(200, `{"type":"SHOUT"}`))
	found.await(t, `10.0.0.4:80 error: watching pods: unknown event "SHOUT"; the last known pods stay`)
	lines = make(chan string)
	c.expect(t, watch("50"), stream(lines))
	found.await(t, "10.0.0.4:80")
	cancel()
	<-done
	close(lines)
}

// TestPodTargets prints the labels of a pod with everything, as Prometheus documents them.
func TestPodTargets(t *testing.T) {
	var p pod
	if err := json.Unmarshal([]byte(`{
		"metadata": {"name": "api-0", "namespace": "prod", "uid": "u", "labels": {"app.kubernetes.io/name": "api", "9": "nine"},
			"annotations": {"profiles.io/port": "6060"}, "ownerReferences": [{"kind": "StatefulSet", "name": "api", "controller": true}, {"kind": "X", "name": "y"}]},
		"spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "api:1", "ports": [{"name": "pprof", "containerPort": 6060, "protocol": "TCP"}]}],
			"initContainers": [{"name": "init"}]},
		"status": {"phase": "Running", "podIP": "10.0.0.1", "hostIP": "192.168.0.1", "conditions": [{"type": "Ready", "status": "True"}],
			"containerStatuses": [{"name": "main", "containerID": "containerd://abc"}]}}`), &p); err != nil {
		t.Fatal(err)
	}
	targets, err := p.targets()
	if err != nil || len(targets) != 2 {
		t.Fatal(targets, err)
	}
	want := map[string]string{
		"__address__":                                               "10.0.0.1:6060",
		"__meta_kubernetes_namespace":                               "prod",
		"__meta_kubernetes_pod_name":                                "api-0",
		"__meta_kubernetes_pod_uid":                                 "u",
		"__meta_kubernetes_pod_ip":                                  "10.0.0.1",
		"__meta_kubernetes_pod_host_ip":                             "192.168.0.1",
		"__meta_kubernetes_pod_node_name":                           "n1",
		"__meta_kubernetes_pod_phase":                               "Running",
		"__meta_kubernetes_pod_ready":                               "true",
		"__meta_kubernetes_pod_controller_kind":                     "StatefulSet",
		"__meta_kubernetes_pod_controller_name":                     "api",
		"__meta_kubernetes_pod_label_app_kubernetes_io_name":        "api",
		"__meta_kubernetes_pod_labelpresent_app_kubernetes_io_name": "true",
		"__meta_kubernetes_pod_label_9":                             "nine",
		"__meta_kubernetes_pod_labelpresent_9":                      "true",
		"__meta_kubernetes_pod_annotation_profiles_io_port":         "6060",
		"__meta_kubernetes_pod_annotationpresent_profiles_io_port":  "true",
		"__meta_kubernetes_pod_container_name":                      "main",
		"__meta_kubernetes_pod_container_image":                     "api:1",
		"__meta_kubernetes_pod_container_init":                      "false",
		"__meta_kubernetes_pod_container_id":                        "containerd://abc",
		"__meta_kubernetes_pod_container_port_name":                 "pprof",
		"__meta_kubernetes_pod_container_port_number":               "6060",
		"__meta_kubernetes_pod_container_port_protocol":             "TCP",
	}
	got := labelMap(targets[0])
	for name, v := range want {
		if got[name] != v {
			t.Errorf("%s is %q, want %q", name, got[name], v)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("too many: %v", got)
	}
	if init := targets[1]; init.Get("__address__") != "10.0.0.1" || init.Get("__meta_kubernetes_pod_container_init") != "true" {
		t.Error(init)
	}
	for i := range 1000 {
		p.Metadata.Labels[fmt.Sprint("l", i)] = "x"
	}
	for range 100 {
		p.Spec.Containers = append(p.Spec.Containers, container{Name: "c"})
	}
	if _, err := p.targets(); err == nil || !strings.Contains(err.Error(), "pod prod/api-0 has 102 ports") {
		t.Error(err)
	}
}

// In a pod, the API server, the token and the authority are where Kubernetes puts them; the token is read again.
func TestInCluster(t *testing.T) {
	dir := t.TempDir()
	env := map[string]string{"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
	getenv := func(k string) string { return env[k] }
	for name, content := range map[string]string{"namespace": "here\n", "token": "first"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := KubernetesConfig{Role: "pod", Namespaces: Namespaces{Own: true, Names: []string{"there"}}}.inCluster(dir, getenv)
	if err != nil {
		t.Fatal(err)
	}
	if c.APIServer != "https://[fd00::1]:443" || fmt.Sprint(c.Namespaces.Names) != "[here there]" || c.HTTP.TLSConfig.CAFile != filepath.Join(dir, "ca.crt") {
		t.Errorf("%+v", c)
	}
	if _, err := (KubernetesConfig{Role: "pod"}).inCluster(dir, func(string) string { return "" }); err == nil || !strings.Contains(err.Error(), "set api_server") {
		t.Error(err)
	}

	cl := newCluster(t)
	defer cl.Close()
	client, err := commonconfig.NewClientFromConfig(commonconfig.HTTPClientConfig{Authorization: c.HTTP.Authorization}, "test")
	if err != nil {
		t.Fatal(err)
	}
	d := &kubernetesDiscovery{config: KubernetesConfig{APIServer: cl.URL}, client: client, maxBytes: limits.Default().BodyBytes}
	for _, token := range []string{"first", "second"} {
		if err := os.WriteFile(filepath.Join(dir, "token"), []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := d.page(t.Context(), map[string][]string{})
			done <- err
		}()
		cl.expect(t, "/api/v1/pods  Bearer "+token, text(200, "{}"))
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// FuzzWatch: whatever the API server says, it is pods with addresses, or an error.
func FuzzWatch(f *testing.F) {
	f.Add([]byte(event("ADDED", podJSON("a", "10.0.0.1", "3", port(80)))))
	f.Add([]byte(event("BOOKMARK", `{"metadata":{"resourceVersion":"20"}}`)))
	f.Add([]byte(event("ERROR", `{"code":410}`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		var e watchEvent
		if json.Unmarshal(data, &e) != nil {
			return
		}
		p, err := podEvent(e)
		if err != nil {
			return
		}
		targets, err := p.targets()
		if err != nil {
			return
		}
		for _, ls := range targets {
			if ls.Get(labelAddress) == "" {
				t.Fatal(ls)
			}
		}
	})
}

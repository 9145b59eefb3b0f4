package scrape

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	commonconfig "github.com/prometheus/common/config"

	"github.com/perfuse/perfuse/server/limits"
)

// KubernetesConfig finds pods by Kubernetes' API: it lists them once and then watches. Without api_server the
// service account of the pod that this server runs in is used; it needs get, list and watch on pods.
type KubernetesConfig struct {
	// Role: pod is the only one.
	Role       string                        `yaml:"role"`
	APIServer  string                        `yaml:"api_server,omitempty"`
	Namespaces Namespaces                    `yaml:"namespaces,omitempty"`
	Selectors  []Selector                    `yaml:"selectors,omitempty"`
	HTTP       commonconfig.HTTPClientConfig `yaml:",inline"`
}

// Namespaces to look in. Default: all.
type Namespaces struct {
	Own   bool     `yaml:"own_namespace,omitempty"`
	Names []string `yaml:"names,omitempty"`
}

// Selector narrows what the API server tells.
type Selector struct {
	Role  string `yaml:"role"`
	Label string `yaml:"label,omitempty"`
	Field string `yaml:"field,omitempty"`
}

type plainKubernetes KubernetesConfig

// UnmarshalYAML sets the defaults of what is inlined; see [Config.UnmarshalYAML].
func (c *KubernetesConfig) UnmarshalYAML(unmarshal func(any) error) error {
	*c = KubernetesConfig{HTTP: commonconfig.DefaultHTTPClientConfig}
	return unmarshal((*plainKubernetes)(c))
}

// MarshalYAML hides the values of headers.
func (c KubernetesConfig) MarshalYAML() (any, error) {
	c.HTTP.HTTPHeaders = hideHeaders(c.HTTP.HTTPHeaders)
	return plainKubernetes(c), nil
}

func (c *KubernetesConfig) check() error {
	if c.Role != "pod" {
		return fmt.Errorf("role is %q: want pod, the only one that is known here", c.Role)
	}
	if c.APIServer != "" {
		u, err := url.Parse(c.APIServer)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("api_server is %q: want a URL as in https://10.0.0.1:6443", c.APIServer)
		}
	}
	for _, s := range c.Selectors {
		if s.Role != c.Role {
			return fmt.Errorf("a selector has role %q: want that of its entry, %s", s.Role, c.Role)
		}
	}
	if len(c.Selectors) > 1 {
		return errors.New("more than one selector for a role: join them with commas in one")
	}
	for _, n := range c.Namespaces.Names {
		if n == "" || strings.ContainsAny(n, "/?#%") {
			return fmt.Errorf("namespaces: %q is no name of a namespace", n)
		}
	}
	return c.HTTP.Validate()
}

// serviceAccount is where Kubernetes mounts a pod's credentials.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

// inCluster fills in what a pod knows of its cluster.
func (c KubernetesConfig) inCluster(dir string, getenv func(string) string) (KubernetesConfig, error) {
	if c.Namespaces.Own {
		b, err := os.ReadFile(filepath.Join(dir, "namespace"))
		if err != nil {
			return c, fmt.Errorf("reading the pod's own namespace: %w; name it in namespaces.names", err)
		}
		c.Namespaces.Names = append([]string{strings.TrimSpace(string(b))}, c.Namespaces.Names...)
	}
	if c.APIServer != "" {
		return c, nil
	}
	host, port := getenv("KUBERNETES_SERVICE_HOST"), getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return c, errors.New("this server does not run in a pod of Kubernetes (KUBERNETES_SERVICE_HOST is not set): set api_server")
	}
	c.APIServer = "https://" + net.JoinHostPort(host, port)
	c.HTTP.TLSConfig.CAFile = filepath.Join(dir, "ca.crt")
	// The token is renewed while we run; files are read at every request.
	c.HTTP.Authorization = &commonconfig.Authorization{Type: "Bearer", CredentialsFile: filepath.Join(dir, "token")}
	return c, nil
}

// kubernetesDiscovery follows the pods of one namespace, or of all:
//
//	list, page by page ──▶ watch from there ──▶ (connection ends) ──▶ watch from the last version seen
//	      ▲                      │ 410: that version is gone
//	      └──────────────────────┘
//
// What was known stays until the next complete list.
type kubernetesDiscovery struct {
	config    KubernetesConfig
	namespace string // empty: all
	client    *http.Client
	maxBytes  int64         // of a page or an event
	backoff   time.Duration // after the first failure in a row; doubled up to maxBackoff

	report func(error)
	known  map[string]bool  // by source
	bad    map[string]error // pods that cannot be targets, by source
}

const (
	maxBackoff = time.Minute
	listPage   = 500
	// watchTime is how long the API server is asked to keep a watch open. A connection that died without a
	// word is given up a little later.
	watchTime = 5 * time.Minute
)

func (d *kubernetesDiscovery) name() string {
	if d.namespace == "" {
		return "kubernetes pods"
	}
	return "kubernetes pods in " + d.namespace
}

func (d *kubernetesDiscovery) run(ctx context.Context, emit emitFunc, report func(error)) {
	d.report, d.known, d.bad = report, map[string]bool{}, map[string]error{}
	version, failures := "", 0
	for ctx.Err() == nil {
		var err error
		if version == "" {
			version, err = d.list(ctx, emit)
		} else {
			began := time.Now()
			version, err = d.watch(ctx, version, emit)
			if err == nil && time.Since(began) < d.backoff {
				err = errEndsAtOnce // and must not be asked again in a tight loop
			}
		}
		var ae *apiError
		switch {
		case ctx.Err() != nil:
			return
		case errors.As(err, &ae) && ae.code == http.StatusGone:
			version, err = "", nil
			failures++ // lists are dear: wait if it happens again and again
			if failures == 1 {
				continue
			}
		case err == nil:
			failures = 0
			continue
		default:
			failures++
			if !errors.Is(err, errEndsAtOnce) {
				report(fmt.Errorf("%w; the last known pods stay", err))
			}
		}
		wait := min(d.backoff<<min(failures-1, 16), maxBackoff)
		select {
		case <-ctx.Done():
		case <-time.After(wait/2 + rand.N(wait/2+1)):
		}
	}
}

var errEndsAtOnce = errors.New("the watch ends at once")

// apiError is what the API server answered.
type apiError struct {
	code    int
	message string
}

func (e *apiError) Error() string {
	hint := ""
	if e.code == http.StatusUnauthorized || e.code == http.StatusForbidden {
		hint = "; give the service account get, list and watch on pods"
	}
	return fmt.Sprintf("the API server answers %d: %.300s%s", e.code, e.message, hint)
}

func (d *kubernetesDiscovery) get(ctx context.Context, query url.Values) (*http.Response, error) {
	u, err := url.Parse(d.config.APIServer)
	if err != nil {
		return nil, err
	}
	if d.namespace == "" {
		u = u.JoinPath("api/v1/pods")
	} else {
		u = u.JoinPath("api/v1/namespaces", d.namespace, "pods")
	}
	for _, s := range d.config.Selectors {
		if s.Label != "" {
			query.Set("labelSelector", s.Label)
		}
		if s.Field != "" {
			query.Set("fieldSelector", s.Field)
		}
	}
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := d.client.Do(req)
	if err != nil {
		return nil, plainError(err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		var s apiStatus
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		if json.Unmarshal(b, &s) != nil || s.Message == "" {
			s.Message = firstLine(b)
		}
		return nil, &apiError{resp.StatusCode, s.Message}
	}
	return resp, nil
}

// list tells all pods, and that those that are gone are gone. It returns the version to watch from.
func (d *kubernetesDiscovery) list(ctx context.Context, emit emitFunc) (version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, watchTime)
	defer cancel()
	found := map[string]bool{}
	token := ""
	for {
		query := url.Values{"limit": {fmt.Sprint(listPage)}}
		if token != "" {
			query.Set("continue", token)
		}
		page, err := d.page(ctx, query)
		if err != nil {
			return "", fmt.Errorf("listing pods: %w", err)
		}
		for i := range page.Items {
			p := &page.Items[i]
			d.tell(p, emit)
			found[p.source()] = true
		}
		if token = page.Metadata.Continue; token == "" {
			version = page.Metadata.ResourceVersion
			break
		}
	}
	for source := range d.known {
		if !found[source] {
			d.forget(source, emit)
		}
	}
	d.known = found
	if version == "" {
		return "", errors.New("listing pods: the answer has no resourceVersion; is api_server Kubernetes?")
	}
	d.report(d.badPods())
	return version, nil
}

func (d *kubernetesDiscovery) page(ctx context.Context, query url.Values) (*podList, error) {
	resp, err := d.get(ctx, query)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var page podList
	if err := json.NewDecoder(limits.Reader(resp.Body, limits.BodyBytes, d.maxBytes, "a page of pods", nil)).Decode(&page); err != nil {
		return nil, fmt.Errorf("decoding the answer: %w", limitError(err))
	}
	return &page, nil
}

func (d *kubernetesDiscovery) tell(p *pod, emit emitFunc) {
	source := p.source()
	targets, err := p.targets()
	delete(d.bad, source)
	if err != nil {
		d.bad[source] = err
	}
	d.known[source] = true
	emit(source, targets)
}

func (d *kubernetesDiscovery) forget(source string, emit emitFunc) {
	delete(d.known, source)
	delete(d.bad, source)
	emit(source, nil)
}

func (d *kubernetesDiscovery) badPods() error {
	var errs []error
	for _, source := range slices.Sorted(maps.Keys(d.bad)) {
		errs = append(errs, d.bad[source])
	}
	return errors.Join(errs...)
}

// watch follows changes until the connection ends and returns the last version that it saw.
func (d *kubernetesDiscovery) watch(ctx context.Context, version string, emit emitFunc) (last string, err error) {
	ctx, cancel := context.WithTimeout(ctx, watchTime+30*time.Second)
	defer cancel()
	resp, err := d.get(ctx, url.Values{
		"watch": {"1"}, "resourceVersion": {version}, "allowWatchBookmarks": {"true"},
		"timeoutSeconds": {fmt.Sprint(int(watchTime / time.Second))},
	})
	if err != nil {
		return version, fmt.Errorf("watching pods: %w", err)
	}
	defer resp.Body.Close()
	d.report(d.badPods())
	body := &eventReader{r: resp.Body, max: d.maxBytes}
	for dec := json.NewDecoder(body); ; {
		body.read = 0
		var e watchEvent
		err := dec.Decode(&e)
		if errors.Is(err, io.EOF) || errors.Is(err, context.DeadlineExceeded) {
			return version, nil
		}
		if err != nil {
			return version, fmt.Errorf("watching pods: %w", err)
		}
		p, err := podEvent(e)
		if err != nil {
			return version, fmt.Errorf("watching pods: %w", err)
		}
		switch e.Type {
		case "ADDED", "MODIFIED":
			bad := len(d.bad)
			if d.tell(&p, emit); len(d.bad) != bad {
				d.report(d.badPods())
			}
		case "DELETED":
			d.forget(p.source(), emit)
		}
		if p.Metadata.ResourceVersion != "" {
			version = p.Metadata.ResourceVersion
		}
	}
}

// eventReader bounds what is read for one event.
type eventReader struct {
	r         io.Reader
	read, max int64
}

func (r *eventReader) Read(b []byte) (int, error) {
	if err := limits.Count(limits.BodyBytes, r.read, r.max, "an event of the watch is too large"); err != nil {
		return 0, err
	}
	n, err := r.r.Read(b)
	r.read += int64(n)
	return n, err
}

// newKubernetes returns one discovery a namespace.
func newKubernetes(c KubernetesConfig, lim limits.Limits) ([]*kubernetesDiscovery, error) {
	c, err := c.inCluster(serviceAccount, os.Getenv)
	if err != nil {
		return nil, err
	}
	client, err := commonconfig.NewClientFromConfig(c.HTTP, "kubernetes", commonconfig.WithUserAgent(userAgent))
	if err != nil {
		return nil, err
	}
	namespaces := c.Namespaces.Names
	if len(namespaces) == 0 {
		namespaces = []string{""}
	}
	var out []*kubernetesDiscovery
	for _, n := range namespaces {
		out = append(out, &kubernetesDiscovery{config: c, namespace: n, client: client, maxBytes: lim.BodyBytes, backoff: time.Second})
	}
	return out, nil
}

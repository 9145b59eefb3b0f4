package scrape

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	commonconfig "github.com/prometheus/common/config"

	"github.com/perfuse/perfuse/profile/relabel"
)

// Config is a job: an entry of scrape_configs, with the keys that Prometheus and Parca document.
//
//   - job_name: api
//     scrape_interval: 10s                 # 1s to 24h
//     scrape_timeout: 10s                  # beside the time that a profile itself takes
//     scheme: http
//     params: {tenant: [a]}
//     target_limit: 10000                  # 0: 10000; more targets are an error, the last good ones stay
//     profiling_config:                    # left out: process_cpu, memory, goroutine, mutex, block
//     path_prefix: /admin
//     pprof_config:
//     memory: {path: /debug/pprof/heap}
//     block: {enabled: false}
//     fgprof: {path: /debug/fgprof, delta: true, seconds: 5}
//     static_configs: [{targets: ["10.0.0.1:6060"], labels: {zone: a}}]
//     file_sd_configs: [{files: ["targets/*.yaml"], refresh_interval: 5m}]
//     kubernetes_sd_configs: [{role: pod, namespaces: {names: [prod]}}]
//     relabel_configs: []
//     basic_auth: {}                       # or authorization, oauth2; tls_config, proxy_url, http_headers, …
type Config struct {
	JobName        string                        `yaml:"job_name"`
	ScrapeInterval time.Duration                 `yaml:"scrape_interval"`
	ScrapeTimeout  time.Duration                 `yaml:"scrape_timeout"`
	Scheme         string                        `yaml:"scheme"`
	Params         url.Values                    `yaml:"params,omitempty"`
	TargetLimit    int                           `yaml:"target_limit,omitempty"`
	Profiling      ProfilingConfig               `yaml:"profiling_config"`
	Static         []StaticConfig                `yaml:"static_configs,omitempty"`
	File           []FileConfig                  `yaml:"file_sd_configs,omitempty"`
	Kubernetes     []KubernetesConfig            `yaml:"kubernetes_sd_configs,omitempty"`
	Relabel        []relabel.Rule                `yaml:"relabel_configs,omitempty"`
	HTTP           commonconfig.HTTPClientConfig `yaml:",inline"`
	// Normalized is Parca's and changes nothing: addresses are taken as they are.
	Normalized bool `yaml:"normalized_addresses,omitempty"`
}

// ProfilingConfig says what to fetch from each target.
type ProfilingConfig struct {
	// PathPrefix goes before all paths.
	PathPrefix string `yaml:"path_prefix,omitempty"`
	// Pprof is by name, the first part of the profile types.
	Pprof map[string]*PprofConfig `yaml:"pprof_config,omitempty"`
}

// PprofConfig is one profile of each target.
type PprofConfig struct {
	Enabled *bool  `yaml:"enabled,omitempty"`
	Path    string `yaml:"path,omitempty"`
	// Delta asks the target to measure for Seconds, in Go's net/http/pprof also for memory, mutex and block.
	// Without it, counters since the target's start become differences here.
	Delta bool `yaml:"delta,omitempty"`
	// Seconds to measure. Default with Delta: the interval less a second, but at least one.
	Seconds int `yaml:"seconds,omitempty"`
	// KeepSampleType leaves out all others. Default: all are kept.
	KeepSampleType []SampleType `yaml:"keep_sample_type,omitempty"`
}

// SampleType is a value column of a pprof.
type SampleType struct {
	Type string `yaml:"type"`
	Unit string `yaml:"unit"`
}

// StaticConfig is a list of targets with the labels that they share.
type StaticConfig struct {
	Targets []string          `yaml:"targets" json:"targets"`
	Labels  map[string]string `yaml:"labels,omitempty" json:"labels,omitempty"`
}

const (
	defaultInterval    = 10 * time.Second
	defaultTimeout     = 10 * time.Second
	defaultTargetLimit = 10_000
)

// defaultProfiles are fetched unless they are switched off, as in Parca.
func defaultProfiles() map[string]*PprofConfig {
	return map[string]*PprofConfig{
		"process_cpu": {Path: "/debug/pprof/profile", Delta: true},
		"memory":      {Path: "/debug/pprof/allocs"},
		"goroutine":   {Path: "/debug/pprof/goroutine"},
		"mutex":       {Path: "/debug/pprof/mutex"},
		"block":       {Path: "/debug/pprof/block"},
	}
}

// plain is Config without its methods.
type plain Config

// UnmarshalYAML reads a job and checks it. It is the older of the two forms that the YAML package knows, because
// only that goes on refusing unknown keys.
func (c *Config) UnmarshalYAML(unmarshal func(any) error) error {
	*c = Config{
		ScrapeInterval: defaultInterval, ScrapeTimeout: defaultTimeout, Scheme: "http", TargetLimit: defaultTargetLimit,
		HTTP: commonconfig.DefaultHTTPClientConfig,
	}
	if err := unmarshal((*plain)(c)); err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return fmt.Errorf("scrape_configs: job %q: %w", c.JobName, err)
	}
	return nil
}

// MarshalYAML leaves out the values of headers and parameters, which may be secrets; passwords and tokens
// hide themselves.
func (c Config) MarshalYAML() (any, error) {
	c.HTTP.HTTPHeaders = hideHeaders(c.HTTP.HTTPHeaders)
	c.Params = maps.Clone(c.Params)
	for name, v := range c.Params {
		c.Params[name] = slices.Repeat([]string{"<secret>"}, len(v))
	}
	return plain(c), nil
}

func hideHeaders(h *commonconfig.Headers) *commonconfig.Headers {
	if h == nil {
		return nil
	}
	hidden := &commonconfig.Headers{Headers: maps.Clone(h.Headers)}
	for name, v := range hidden.Headers {
		v.Values = slices.Repeat([]string{"<secret>"}, len(v.Values))
		hidden.Headers[name] = v
	}
	return hidden
}

// check sets what depends on other settings, and says what is wrong.
func (c *Config) check() error {
	switch {
	case c.JobName == "":
		return errors.New("job_name is missing")
	case c.ScrapeInterval < time.Second || c.ScrapeInterval > 24*time.Hour:
		return fmt.Errorf("scrape_interval is %s: want 1s to 24h", c.ScrapeInterval)
	case c.ScrapeTimeout <= 0:
		return fmt.Errorf("scrape_timeout is %s: want more than 0", c.ScrapeTimeout)
	case c.Scheme != "http" && c.Scheme != "https":
		return fmt.Errorf("scheme is %q: want http or https", c.Scheme)
	case c.TargetLimit < 0:
		return fmt.Errorf("target_limit is %d: want 0 (%d) or more", c.TargetLimit, defaultTargetLimit)
	case c.TargetLimit == 0:
		c.TargetLimit = defaultTargetLimit
	}
	if err := c.checkProfiles(); err != nil {
		return fmt.Errorf("profiling_config: %w", err)
	}
	if err := relabel.Check(c.Relabel); err != nil {
		return fmt.Errorf("relabel_configs: %w", err)
	}
	if err := checkGroups(c.Static); err != nil {
		return fmt.Errorf("static_configs: %w", err)
	}
	for i := range c.File {
		if err := c.File[i].check(); err != nil {
			return fmt.Errorf("file_sd_configs[%d]: %w", i, err)
		}
	}
	for i := range c.Kubernetes {
		if err := c.Kubernetes[i].check(); err != nil {
			return fmt.Errorf("kubernetes_sd_configs[%d]: %w", i, err)
		}
	}
	// The inlined part's own method is not called.
	return c.HTTP.Validate()
}

func (c *Config) checkProfiles() error {
	all := map[string]*PprofConfig{}
	for name, p := range c.Profiling.Pprof {
		if p == nil {
			p = &PprofConfig{}
		}
		all[name] = p
	}
	for name, d := range defaultProfiles() {
		p := all[name]
		if p == nil {
			p = &PprofConfig{}
			all[name] = p
		}
		if p.Path == "" {
			p.Path = d.Path
		}
		p.Delta = p.Delta || d.Delta // there is no CPU profile that is not measured for a time
	}
	for name, p := range all {
		switch {
		case name == "" || strings.ContainsAny(name, ":/ \t\n"):
			return fmt.Errorf("%q is no name of a profile", name)
		case p.Path == "":
			return fmt.Errorf("%s has no path", name)
		case !strings.HasPrefix(p.Path, "/"):
			return fmt.Errorf("the path of %s is %q: want one that begins with /", name, p.Path)
		case name == "goroutine" && (p.Delta || p.Seconds > 0):
			return errors.New("goroutine says how many there are, a difference of which says nothing: leave out delta and seconds")
		case p.Seconds < 0 || time.Duration(p.Seconds) > 24*time.Hour/time.Second:
			return fmt.Errorf("%s measures for %d seconds: want 0 to 86400", name, p.Seconds)
		}
		if p.Enabled == nil {
			yes := true
			p.Enabled = &yes
		}
		if p.Seconds > 0 {
			p.Delta = true
		}
		if p.Delta && p.Seconds == 0 {
			p.Seconds = max(int(c.ScrapeInterval/time.Second)-1, 1)
		}
		if total := time.Duration(p.Seconds) * time.Second; *p.Enabled && total > c.ScrapeInterval {
			return fmt.Errorf("%s measures for %s, longer than scrape_interval (%s); make the interval longer or seconds fewer", name, total, c.ScrapeInterval)
		}
	}
	c.Profiling.Pprof = all
	return nil
}

// fetch is a profile to fetch of every target of a job.
type fetch struct {
	name    string
	path    string
	seconds int
	keep    []SampleType
}

// fetches lists what is enabled, what the target measures for a time last.
func (c *Config) fetches() []fetch {
	var out []fetch
	for name, p := range c.Profiling.Pprof {
		if !*p.Enabled {
			continue
		}
		f := fetch{name: name, path: p.Path, keep: p.KeepSampleType}
		if c.Profiling.PathPrefix != "" {
			f.path = path.Join("/", c.Profiling.PathPrefix, p.Path)
		}
		if p.Delta {
			f.seconds = p.Seconds
		}
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b fetch) int {
		if a.seconds != b.seconds {
			return a.seconds - b.seconds
		}
		return strings.Compare(a.name, b.name)
	})
	return out
}

// Check says what is wrong between jobs.
func Check(configs []Config) error {
	seen := map[string]bool{}
	for i := range configs {
		if configs[i].JobName == "" {
			return fmt.Errorf("scrape_configs: entry %d is empty", i+1)
		}
		if seen[configs[i].JobName] {
			return fmt.Errorf("scrape_configs: two jobs are named %q; give each its own job_name", configs[i].JobName)
		}
		seen[configs[i].JobName] = true
	}
	return nil
}

// SetDirectory makes relative paths of files relative to dir, that of the configuration file.
func (c *Config) SetDirectory(dir string) {
	c.HTTP.SetDirectory(dir)
	for i := range c.File {
		for j, f := range c.File[i].Files {
			if !filepath.IsAbs(f) {
				c.File[i].Files[j] = filepath.Join(dir, f)
			}
		}
	}
	for i := range c.Kubernetes {
		c.Kubernetes[i].HTTP.SetDirectory(dir)
	}
}

func checkGroups(groups []StaticConfig) error {
	for i, g := range groups {
		for _, t := range g.Targets {
			if err := checkAddress(t); err != nil {
				return fmt.Errorf("entry %d: %w", i+1, err)
			}
		}
		for name := range g.Labels {
			if !labelName.MatchString(name) {
				return fmt.Errorf("entry %d: %q is no label name", i+1, name)
			}
		}
	}
	return nil
}

// Keys lists the keys of one of this package's types by its name in Go, for messages about unknown ones.
func Keys(typeName string) []string {
	for _, t := range []reflect.Type{
		reflect.TypeFor[plain](), reflect.TypeFor[ProfilingConfig](), reflect.TypeFor[PprofConfig](), reflect.TypeFor[SampleType](),
		reflect.TypeFor[StaticConfig](), reflect.TypeFor[FileConfig](), reflect.TypeFor[plainKubernetes](),
		reflect.TypeFor[Namespaces](), reflect.TypeFor[Selector](), reflect.TypeFor[relabel.Rule](),
	} {
		if t.String() == typeName {
			return keysOf(t)
		}
	}
	return nil
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		switch key, options, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ","); {
		case options == "inline":
			keys = append(keys, keysOf(t.Field(i).Type)...)
		case key != "" && key != "-":
			keys = append(keys, key)
		}
	}
	return keys
}

package server

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/perfuse/perfuse/server/fleet"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/server/scrape"
	"github.com/perfuse/perfuse/server/sources"
	"go.yaml.in/yaml/v3"
)

// Config is the server's configuration file. Every key may be left out; what is left out has its default.
//
//	http_address: 127.0.0.1:7070
//	otlp_addresses: [127.0.0.1:4317, 127.0.0.1:4318]   # left out: these two, each if it is free
//	allowed_hosts: [perfuse.example.com]               # names for a server on loopback behind a proxy
//	storage:
//	  path: /var/lib/perfuse
//	  retention: 30d                                   # left out: the store's default; 0: for ever
//	  retention_rules:                                 # the first that matches a series goes before retention
//	    - {selector: '{namespace="dev"}', age: 3d}
//	  max_bytes: 0                                     # of all blocks; 0: until the disk is full
//	  head_bytes: 67108864                             # what is kept in memory until it becomes a block, at most
//	  head_age: 2h                                     # and for how long
//	  bucket:                                          # a copy in object storage; see package storage/bucket
//	    type: S3                                       # or FILESYSTEM, GCS, AZURE
//	    config: {bucket: profiles, endpoint: s3.example.com, access_key: ..., secret_key: ...}
//	ingest:
//	  drop_attributes: [thread.id]                     # OTLP attributes that never become labels
//	limits:                                            # see package limits
//	  body_bytes: 33554432
//	fleet:                                             # how agents are remembered, see package fleet
//	  interval: 15s                                    # how often they report
//	  forget_after: 24h
//	  max_agents: 10000
//	scrape_configs: []                                 # see package scrape
//	sources: [{prefix: /build/api, directory: /srv/api}] # source files that whoever may ask may read; package sources
//	agent:                                             # for the agent of perfuse up, see package agent
//	  relabel_configs: []
//
// Each key has an environment variable that goes before it: PERFUSE_ and the key in capitals, as in
// PERFUSE_HTTP_ADDRESS, PERFUSE_STORAGE_PATH, PERFUSE_LIMITS_BODY_BYTES. Lists are separated by commas;
// PERFUSE_STORAGE_RETENTION_RULES and PERFUSE_STORAGE_BUCKET hold YAML, PERFUSE_SOURCES [PREFIX=]DIRECTORY.
type Config struct {
	HTTPAddress   string        `yaml:"http_address"`
	OTLPAddresses []string      `yaml:"otlp_addresses"`
	AllowedHosts  []string      `yaml:"allowed_hosts"`
	Storage       StorageConfig `yaml:"storage"`
	Ingest        IngestConfig  `yaml:"ingest"`
	Limits        limits.Limits `yaml:"limits"`
	Fleet         fleet.Config  `yaml:"fleet"`
	// ScrapeConfigs are jobs that fetch profiles.
	ScrapeConfigs []scrape.Config `yaml:"scrape_configs,omitempty"`
	// Sources says where source files are.
	Sources sources.Rules `yaml:"sources,omitempty"`
	// Agent is the section of the agent's own, which knows what may be in it.
	Agent yaml.Node `yaml:"agent,omitempty"`
}

// Options returns the options that the configuration sets; the caller adds what a file cannot say.
func (c Config) Options() Options {
	return Options{
		HTTPAddress: c.HTTPAddress, OTLPAddresses: c.OTLPAddresses, AllowedHosts: c.AllowedHosts,
		Limits: c.Limits, DropAttributes: c.Ingest.DropAttributes, Scrape: c.ScrapeConfigs, Sources: c.Sources, Fleet: c.Fleet, Settings: c,
	}
}

// IngestConfig is about profiles on their way in.
type IngestConfig struct {
	DropAttributes []string `yaml:"drop_attributes"`
}

// maxConfigBytes bounds the configuration file.
const maxConfigBytes = 1 << 20

// LoadConfig reads a configuration file and the environment. An empty path means: only the environment.
// Errors name the file, the line and the key, and say what is expected.
func LoadConfig(path string) (Config, error) { return loadConfig(path, os.Environ()) }

func loadConfig(path string, environ []string) (Config, error) {
	var c Config
	if path != "" {
		data, err := readConfig(path)
		if err != nil {
			return Config{}, fmt.Errorf("reading configuration %s: %w", path, err)
		}
		if err := parseConfig(data, &c); err != nil {
			return Config{}, fmt.Errorf("reading configuration %s: %w", path, err)
		}
		for i := range c.ScrapeConfigs {
			c.ScrapeConfigs[i].SetDirectory(filepath.Dir(path))
		}
	}
	if err := applyEnvironment(&c, environ); err != nil {
		return Config{}, err
	}
	if err := c.check(); err != nil {
		return Config{}, fmt.Errorf("checking the configuration: %w", err)
	}
	return c, nil
}

func readConfig(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errors.New("there is no such file")
	}
	if errors.Is(err, os.ErrPermission) {
		return nil, errors.New("this user may not read it; mend its permissions (chmod, chown) or run as its owner")
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, errors.New("it is a directory; want a file")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxConfigBytes {
		return nil, fmt.Errorf("it is larger than %d bytes; is it the right file?", maxConfigBytes)
	}
	return data, nil
}

var (
	unknownKey = regexp.MustCompile(`line (\d+): field (\S+) not found in type (\S+)`)
	wrongType  = regexp.MustCompile("line (\\d+): cannot unmarshal \\S+(?: `(.*)`)? into (\\S+)")
)

func parseConfig(data []byte, c *Config) error {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	err := dec.Decode(c)
	if errors.Is(err, io.EOF) {
		return nil // empty, or only comments
	}
	var typeErr *yaml.TypeError
	if errors.As(err, &typeErr) && len(typeErr.Errors) > 0 {
		return errors.New(explain(typeErr.Errors[0]))
	}
	if err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("there is more than one document in it; want one")
	}
	return nil
}

// explain says in the words of the file what the YAML package says in those of Go.
func explain(text string) string {
	if m := unknownKey.FindStringSubmatch(text); m != nil {
		known := keysOf(m[3])
		return fmt.Sprintf("line %s: unknown key %q; known here are %s", m[1], m[2], strings.Join(known, ", "))
	}
	if m := wrongType.FindStringSubmatch(text); m != nil {
		want := m[3]
		switch {
		case strings.HasPrefix(want, "int"):
			want = "a whole number"
		case want == "time.Duration":
			want = "a duration as in 10m"
		case want == "string":
			want = "text"
		case want == "[]string":
			want = "a list of texts"
		case want == "[]server.RetentionRule" || want == "server.RetentionRules":
			want = "a list of {selector, age}"
		case want == "sources.Rules" || want == "[]sources.Rule":
			want = "a list of {prefix, directory}"
		default:
			want = "keys and values"
		}
		if m[2] == "" {
			return fmt.Sprintf("line %s: want %s", m[1], want)
		}
		return fmt.Sprintf("line %s: want %s, not %q", m[1], want, m[2])
	}
	return text
}

// keysOf lists the keys of a type of ours by its name.
func keysOf(name string) []string {
	for _, t := range []reflect.Type{
		reflect.TypeFor[Config](), reflect.TypeFor[StorageConfig](), reflect.TypeFor[RetentionRule](), reflect.TypeFor[IngestConfig](), reflect.TypeFor[limits.Limits](),
		reflect.TypeFor[sources.Rule](),
		reflect.TypeFor[fleet.Config](),
	} {
		if t.String() != name {
			continue
		}
		var keys []string
		for i := range t.NumField() {
			keys = append(keys, yamlKey(t.Field(i)))
		}
		return keys
	}
	return scrape.Keys(name)
}

func yamlKey(f reflect.StructField) string {
	key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return key
}

// applyEnvironment sets fields from PERFUSE_ variables. Other parts of the program have variables of their
// own; a variable that begins like a section of this file and is no key of it is a mistake.
func applyEnvironment(c *Config, environ []string) error {
	fields := map[string]reflect.Value{}
	collectFields("PERFUSE", reflect.ValueOf(c).Elem(), fields)
	environ = slices.Sorted(slices.Values(environ))
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if f, ok := fields[name]; ok {
			if err := setField(f, value); err != nil {
				return fmt.Errorf("reading the environment variable %s: %w", name, err)
			}
			continue
		}
		for _, section := range []string{"PERFUSE_STORAGE_", "PERFUSE_INGEST_", "PERFUSE_LIMITS_", "PERFUSE_FLEET_"} {
			if strings.HasPrefix(name, section) {
				return fmt.Errorf("reading the environment variable %s: there is no such setting", name)
			}
		}
	}
	return nil
}

func collectFields(prefix string, v reflect.Value, out map[string]reflect.Value) {
	for i := range v.NumField() {
		name := prefix + "_" + strings.ToUpper(yamlKey(v.Type().Field(i)))
		switch f := v.Field(i); {
		case f.Type() == reflect.TypeFor[yaml.Node](): // somebody else's
		case f.Type() == reflect.TypeFor[[]scrape.Config](): // too much for a variable
		case reflect.PointerTo(f.Type()).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
			out[name] = f
		case f.Kind() == reflect.Struct:
			collectFields(name, f, out)
		default:
			out[name] = f
		}
	}
}

func setField(f reflect.Value, text string) error {
	if u, ok := f.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch p := f.Addr().Interface().(type) {
	case *string:
		*p = text
	case *int64:
		v, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("want a whole number, not %q", text)
		}
		*p = v
	case *time.Duration:
		v, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("want a duration as in 10m, not %q", text)
		}
		*p = v
	case *[]string:
		*p = []string{}
		for s := range strings.SplitSeq(text, ",") {
			if s = strings.TrimSpace(s); s != "" {
				*p = append(*p, s)
			}
		}
	default:
		panic("BUG: no way to set a " + f.Type().String() + " from the environment")
	}
	return nil
}

func (c *Config) check() error {
	if err := scrape.Check(c.ScrapeConfigs); err != nil {
		return err
	}
	if err := c.Fleet.Check(); err != nil {
		return err
	}
	addresses := slices.Clone(c.OTLPAddresses)
	if c.HTTPAddress != "" {
		addresses = append(addresses, c.HTTPAddress)
	}
	for _, a := range addresses {
		_, port, err := net.SplitHostPort(a)
		if err != nil {
			return fmt.Errorf("address %q: want host:port or :port, as in 127.0.0.1:7070", a)
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return fmt.Errorf("address %q: port %q is no number from 0 to 65535", a, port)
		}
	}
	return c.Storage.check()
}

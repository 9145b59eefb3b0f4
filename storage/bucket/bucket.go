// Package bucket makes object storage of configuration in the words of thanos-io/objstore, which many people
// have already:
//
//	type: S3                      # or FILESYSTEM, GCS, AZURE
//	prefix: perfuse               # optional: everything lies below it
//	config:                       # what that type takes: https://thanos.io/tip/thanos/storage.md
//	  bucket: profiles
//	  endpoint: s3.eu-central-1.amazonaws.com
//	  access_key: ...
//	  secret_key: ...
//
// Secrets stay inside: what a [Config] shows of itself has none.
package bucket

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/go-kit/log"
	"github.com/thanos-io/objstore"
	"github.com/thanos-io/objstore/providers/azure"
	"github.com/thanos-io/objstore/providers/filesystem"
	"github.com/thanos-io/objstore/providers/gcs"
	"github.com/thanos-io/objstore/providers/s3"
	"go.yaml.in/yaml/v3"
)

// Config says where objects are kept. The zero Config is none.
type Config struct {
	typ, prefix string
	settings    *yaml.Node
}

// IsZero says that there is no object storage.
func (c Config) IsZero() bool { return c.typ == "" }

// component is what requests say of who sends them.
const component = "perfuse"

var providers = map[string]func(log.Logger, []byte) (objstore.Bucket, error){
	"FILESYSTEM": func(_ log.Logger, b []byte) (objstore.Bucket, error) { return filesystem.NewBucketFromConfig(b) },
	"S3":         func(l log.Logger, b []byte) (objstore.Bucket, error) { return s3.NewBucket(l, b, component, nil) },
	"GCS": func(l log.Logger, b []byte) (objstore.Bucket, error) {
		return gcs.NewBucket(context.Background(), l, b, component, nil)
	},
	"AZURE": func(l log.Logger, b []byte) (objstore.Bucket, error) { return azure.NewBucket(l, b, component, nil) },
}

const wantType = "want FILESYSTEM, S3, GCS or AZURE"

// Open makes the bucket. The caller closes it.
func (c Config) Open(logger log.Logger) (objstore.Bucket, error) {
	open, ok := providers[c.typ]
	if !ok {
		return nil, fmt.Errorf("opening the bucket: type %q: %s", c.typ, wantType)
	}
	settings, err := yaml.Marshal(c.settings)
	if err != nil {
		return nil, fmt.Errorf("opening the bucket: %w", err)
	}
	b, err := open(logger, settings)
	if err != nil {
		return nil, fmt.Errorf("opening the bucket of type %s: %w; what its config may have is at https://thanos.io/tip/thanos/storage.md", c.typ, err)
	}
	return objstore.NewPrefixedBucket(b, c.prefix), nil
}

// UnmarshalText reads YAML, as it is in a file or an environment variable. Nothing is the zero Config.
func (c *Config) UnmarshalText(b []byte) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(doc.Content) == 0 {
		*c = Config{}
		return nil
	}
	return c.UnmarshalYAML(doc.Content[0])
}

// UnmarshalYAML reads a mapping. Errors have the line.
func (c *Config) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		*c = Config{}
		return nil
	}
	n, err := plain(n)
	if err != nil {
		return err
	}
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: want keys type, config and prefix", n.Line)
	}
	out := Config{}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if seen[key.Value] {
			return fmt.Errorf("line %d: %s is there twice", key.Line, key.Value)
		}
		seen[key.Value] = true
		switch key.Value {
		case "type", "prefix":
			if value.Kind != yaml.ScalarNode {
				return fmt.Errorf("line %d: want text for %s", value.Line, key.Value)
			}
			if key.Value == "prefix" {
				out.prefix = value.Value
				continue
			}
			if out.typ = strings.ToUpper(value.Value); providers[out.typ] == nil {
				return fmt.Errorf("line %d: unknown type %q; %s", value.Line, value.Value, wantType)
			}
		case "config":
			if value.Kind != yaml.MappingNode {
				return fmt.Errorf("line %d: want keys and values for config", value.Line)
			}
			out.settings = value
		default:
			return fmt.Errorf("line %d: unknown key %q; known here are type, config, prefix", key.Line, key.Value)
		}
	}
	switch {
	case out.typ == "":
		return fmt.Errorf("line %d: the type is missing; %s", n.Line, wantType)
	case out.settings == nil:
		return fmt.Errorf("line %d: config is missing: what type %s takes, see https://thanos.io/tip/thanos/storage.md", n.Line, out.typ)
	}
	*c = out
	return nil
}

var plainTags = []string{"!!str", "!!int", "!!float", "!!bool", "!!null", "!!timestamp", "!!map", "!!seq"}

// plain returns a copy of a node that means the same by itself: without comments and without references.
func plain(n *yaml.Node) (*yaml.Node, error) {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		return nil, fmt.Errorf("line %d: anchors and aliases (& and *) cannot be used here; write it out", n.Line)
	}
	if !slices.Contains(plainTags, n.ShortTag()) {
		return nil, fmt.Errorf("line %d: the tag %s cannot be used here", n.Line, n.Tag)
	}
	out := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Value: n.Value, Line: n.Line, Style: n.Style & (yaml.DoubleQuotedStyle | yaml.SingleQuotedStyle)}
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && child.Kind != yaml.ScalarNode {
			return nil, fmt.Errorf("line %d: want text as a key", child.Line)
		}
		c, err := plain(child)
		if err != nil {
			return nil, err
		}
		out.Content = append(out.Content, c)
	}
	return out, nil
}

// MarshalYAML is for showing: secrets are left out.
func (c Config) MarshalYAML() (any, error) {
	if c.IsZero() {
		return nil, nil
	}
	text := func(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s} }
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Content: []*yaml.Node{text("type"), text(c.typ)}}
	if c.prefix != "" {
		n.Content = append(n.Content, text("prefix"), text(c.prefix))
	}
	n.Content = append(n.Content, text("config"), hide(c.settings))
	return n, nil
}

// String is the YAML without secrets.
func (c Config) String() string {
	b, err := yaml.Marshal(c)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

var secret = regexp.MustCompile(`(?i)secret|key|token|password|credential|connection_string|service_account|authorization`)

// hidden stands for a secret.
const hidden = "<hidden>"

func hide(n *yaml.Node) *yaml.Node {
	out := *n
	out.Content = slices.Clone(n.Content)
	for i := range out.Content {
		key := n.Kind == yaml.MappingNode && i%2 == 0
		switch {
		case key:
		case n.Kind == yaml.MappingNode && secret.MatchString(n.Content[i-1].Value) && !(out.Content[i].Kind == yaml.ScalarNode && out.Content[i].Value == ""):
			out.Content[i] = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: hidden}
		default:
			out.Content[i] = hide(out.Content[i])
		}
	}
	return &out
}

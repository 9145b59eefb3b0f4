package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage/bucket"
	"github.com/perfuse/perfuse/storage/frost"
	"go.yaml.in/yaml/v3"
)

// StorageConfig says where profiles are kept and for how long.
type StorageConfig struct {
	Path           string         `yaml:"path"`
	Retention      Retention      `yaml:"retention"`
	RetentionRules RetentionRules `yaml:"retention_rules"`
	MaxBytes       int64          `yaml:"max_bytes"`
	HeadBytes      int64          `yaml:"head_bytes"`
	HeadAge        time.Duration  `yaml:"head_age"`
	Bucket         bucket.Config  `yaml:"bucket"`
}

// Options returns the store's options that the configuration sets; the caller adds where it is, its bucket, and
// who hears of it.
func (c StorageConfig) Options() (frost.Options, error) {
	rules, err := c.RetentionRules.rules()
	return frost.Options{
		Retention: c.Retention.Retention(), Rules: rules, RetentionBytes: c.MaxBytes, HeadBytes: c.HeadBytes, HeadAge: c.HeadAge,
	}, err
}

func (c *StorageConfig) check() error {
	for _, v := range []struct {
		key      string
		negative bool
		value    any
		zero     string
	}{
		{"max_bytes", c.MaxBytes < 0, c.MaxBytes, "no bound"},
		{"head_bytes", c.HeadBytes < 0, c.HeadBytes, "the default"},
		{"head_age", c.HeadAge < 0, c.HeadAge, "the default"},
	} {
		if v.negative {
			return fmt.Errorf("storage.%s is %v: want 0 (%s) or more", v.key, v.value, v.zero)
		}
	}
	_, err := c.RetentionRules.rules()
	return err
}

// LoadBucket reads a file that says only which object storage to use.
func LoadBucket(path string) (bucket.Config, error) {
	var c bucket.Config
	b, err := readConfig(path)
	if err == nil {
		err = c.UnmarshalText(b)
	}
	if err != nil {
		return c, fmt.Errorf("reading the bucket's configuration %s: %w", path, err)
	}
	return c, nil
}

// RetentionRule says how long the profiles of the series are kept that a selector matches.
type RetentionRule struct {
	Selector string    `yaml:"selector"`
	Age      Retention `yaml:"age"`
}

// RetentionRules are asked in order: the first that matches a series counts.
type RetentionRules []RetentionRule

func (rs RetentionRules) rules() ([]frost.Rule, error) {
	var out []frost.Rule
	for i, r := range rs {
		sel, err := profile.ParseSelector(r.Selector)
		switch {
		case err != nil:
			return nil, fmt.Errorf("storage.retention_rules[%d]: selector %s: %w", i, r.Selector, err)
		case len(sel) == 0:
			return nil, fmt.Errorf("storage.retention_rules[%d] selects everything: want a selector as in {namespace=\"dev\"}; storage.retention is for all others", i)
		case r.Age == 0:
			return nil, fmt.Errorf("storage.retention_rules[%d]: want an age as in 36h, 30d or 2w, or 0 for ever", i)
		}
		out = append(out, frost.Rule{Selector: sel, Age: r.Age.Retention()})
	}
	return out, nil
}

// UnmarshalText reads YAML, from an environment variable.
func (rs *RetentionRules) UnmarshalText(b []byte) error {
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	var list []RetentionRule
	err := dec.Decode(&list)
	var typeErr *yaml.TypeError
	switch {
	case errors.Is(err, io.EOF):
	case errors.As(err, &typeErr) && len(typeErr.Errors) > 0:
		return errors.New(explain(typeErr.Errors[0]))
	case err != nil:
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	*rs = list
	return nil
}

// Retention is written as in Go (90m, 36h), or in days (30d) or weeks (2w); 0 means for ever, and nothing the
// store's default. Its number is what stores take: 0 for the default, negative for ever.
type Retention time.Duration

const forEver = Retention(-1)

// Retention returns r as stores take it.
func (r Retention) Retention() time.Duration { return time.Duration(r) }

// UnmarshalText reads what MarshalText writes.
func (r *Retention) UnmarshalText(b []byte) error {
	s := string(b)
	if s == "" {
		*r = 0
		return nil
	}
	v, err := time.ParseDuration(s)
	for suffix, unit := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if n, ok := strings.CutSuffix(s, suffix); ok {
			count, e := strconv.ParseInt(n, 10, 64)
			if e == nil && count <= math.MaxInt64/int64(unit) {
				v, err = time.Duration(count)*unit, nil
			}
		}
	}
	switch {
	case err != nil || v < 0:
		return fmt.Errorf("want a duration as in 36h, 30d or 2w, or 0 for ever, not %q", s)
	case v == 0:
		*r = forEver
	default:
		*r = Retention(v)
	}
	return nil
}

// UnmarshalYAML is UnmarshalText with the line in its errors.
func (r *Retention) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: want a duration as in 36h, 30d or 2w, or 0 for ever", n.Line)
	}
	if err := r.UnmarshalText([]byte(n.Value)); err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	return nil
}

// MarshalText writes whole days as days.
func (r Retention) MarshalText() ([]byte, error) {
	const day = 24 * time.Hour
	v := time.Duration(r)
	switch {
	case v == 0:
		return nil, nil
	case v < 0:
		return []byte("0"), nil
	case v%day == 0:
		return fmt.Appendf(nil, "%dd", v/day), nil
	}
	return []byte(v.String()), nil
}

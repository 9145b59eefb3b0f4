package process

import (
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/perfuse/perfuse/profile"
)

// RelabelRule is one step of relabelling, with the fields, defaults and meaning of Prometheus'
// relabel_config. Regular expressions are anchored at both ends. keep and drop decide whether a process is
// profiled. Labels that begin with "__" are there for rules only and are removed at the end:
// __meta_container_id, __meta_container_runtime, __meta_pod_uid, __meta_systemd_unit,
// __meta_executable_path and __meta_pid.
type RelabelRule struct {
	// SourceLabels are the labels whose values, joined by Separator, are matched.
	SourceLabels []string `yaml:"source_labels,omitempty"`
	// Separator: default ";".
	Separator *string `yaml:"separator,omitempty"`
	// Regex: default "(.*)".
	Regex string `yaml:"regex,omitempty"`
	// Modulus of action hashmod.
	Modulus uint64 `yaml:"modulus,omitempty"`
	// TargetLabel is set by replace, hashmod, lowercase and uppercase.
	TargetLabel string `yaml:"target_label,omitempty"`
	// Replacement: default "$1".
	Replacement *string `yaml:"replacement,omitempty"`
	// Action: replace (the default), keep, drop, hashmod, labelmap, labeldrop, labelkeep, lowercase, uppercase.
	Action string `yaml:"action,omitempty"`
}

// relabeller is a list of checked rules.
type relabeller struct{ rules []relabelRule }

type relabelRule struct {
	RelabelRule
	separator, replacement string
	re                     *regexp.Regexp
}

var labelNamePattern = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// newRelabeller checks rules. Its errors name the rule by its position, from 1, and action.
func newRelabeller(rules []RelabelRule) (*relabeller, error) {
	r := &relabeller{}
	for i, rule := range rules {
		c, err := checkRule(rule)
		if err != nil {
			return nil, fmt.Errorf("relabel rule %d (action %s): %w", i+1, c.Action, err)
		}
		r.rules = append(r.rules, c)
	}
	return r, nil
}

// CheckRelabelRules says what is wrong with rules before a table is made of them.
func CheckRelabelRules(rules []RelabelRule) error {
	_, err := newRelabeller(rules)
	return err
}

func checkRule(rule RelabelRule) (relabelRule, error) {
	c := relabelRule{RelabelRule: rule, separator: ";", replacement: "$1"}
	c.Action = strings.ToLower(rule.Action)
	if c.Action == "" {
		c.Action = "replace"
	}
	if rule.Separator != nil {
		c.separator = *rule.Separator
	}
	if rule.Replacement != nil {
		c.replacement = *rule.Replacement
	}
	if c.Regex == "" {
		c.Regex = "(.*)"
	}
	re, err := regexp.Compile("^(?s:" + c.Regex + ")$")
	if err != nil {
		return c, fmt.Errorf("regex: %w", err)
	}
	c.re = re
	for _, n := range c.SourceLabels {
		if !labelNamePattern.MatchString(n) {
			return c, fmt.Errorf("source_labels: %q is no label name", n)
		}
	}
	switch c.Action {
	case "replace":
		if c.TargetLabel == "" {
			return c, errors.New("target_label is missing")
		}
		if !labelNamePattern.MatchString(c.TargetLabel) && !strings.Contains(c.TargetLabel, "$") {
			return c, fmt.Errorf("target_label: %q is no label name", c.TargetLabel)
		}
	case "hashmod", "lowercase", "uppercase":
		if !labelNamePattern.MatchString(c.TargetLabel) {
			return c, fmt.Errorf("target_label: %q is no label name", c.TargetLabel)
		}
		if len(c.SourceLabels) == 0 {
			return c, errors.New("source_labels is missing")
		}
		if c.Action == "hashmod" && c.Modulus == 0 {
			return c, errors.New("modulus is missing")
		}
	case "keep", "drop":
		if len(c.SourceLabels) == 0 {
			return c, errors.New("source_labels is missing")
		}
	case "labelmap":
		if len(c.SourceLabels) > 0 || c.TargetLabel != "" {
			return c, errors.New("only regex and replacement may be set")
		}
	case "labeldrop", "labelkeep":
		if len(c.SourceLabels) > 0 || c.TargetLabel != "" || c.Modulus != 0 || rule.Separator != nil || rule.Replacement != nil {
			return c, errors.New("only regex may be set")
		}
	default:
		return c, errors.New("unknown; want replace, keep, drop, hashmod, labelmap, labeldrop, labelkeep, lowercase or uppercase")
	}
	return c, nil
}

// apply returns the labels after all rules; keep is false if one of them drops the process. It changes ls.
func (r *relabeller) apply(ls []profile.Label) (out profile.Labels, keep bool) {
	labels := profile.NewLabels(ls...)
	for i := range r.rules {
		if labels, keep = r.rules[i].apply(labels); !keep {
			return nil, false
		}
	}
	out = make(profile.Labels, 0, len(labels))
	for _, l := range labels {
		if !strings.HasPrefix(l.Name, "__") {
			out = append(out, l)
		}
	}
	return out, true
}

func (c *relabelRule) apply(ls profile.Labels) (profile.Labels, bool) {
	values := make([]string, len(c.SourceLabels))
	for i, n := range c.SourceLabels {
		values[i] = ls.Get(n)
	}
	value := strings.Join(values, c.separator)
	switch c.Action {
	case "keep":
		return ls, c.re.MatchString(value)
	case "drop":
		return ls, !c.re.MatchString(value)
	case "replace":
		match := c.re.FindStringSubmatchIndex(value)
		if match == nil {
			return ls, true
		}
		target := string(c.re.ExpandString(nil, c.TargetLabel, value, match))
		if !labelNamePattern.MatchString(target) {
			return ls, true
		}
		return set(ls, target, string(c.re.ExpandString(nil, c.replacement, value, match))), true
	case "lowercase":
		return set(ls, c.TargetLabel, strings.ToLower(value)), true
	case "uppercase":
		return set(ls, c.TargetLabel, strings.ToUpper(value)), true
	case "hashmod":
		sum := md5.Sum([]byte(value))
		return set(ls, c.TargetLabel, strconv.FormatUint(binary.BigEndian.Uint64(sum[8:])%c.Modulus, 10)), true
	case "labelmap":
		out := append([]profile.Label(nil), ls...)
		for _, l := range ls {
			if c.re.MatchString(l.Name) {
				if name := c.re.ReplaceAllString(l.Name, c.replacement); labelNamePattern.MatchString(name) {
					out = append(out, profile.Label{Name: name, Value: l.Value})
				}
			}
		}
		return profile.NewLabels(out...), true
	case "labeldrop", "labelkeep":
		out := make(profile.Labels, 0, len(ls))
		for _, l := range ls {
			if c.re.MatchString(l.Name) == (c.Action == "labelkeep") {
				out = append(out, l)
			}
		}
		return out, true
	}
	panic("BUG: unchecked action " + c.Action)
}

// set returns the labels with one of them changed, or removed by an empty value.
func set(ls profile.Labels, name, value string) profile.Labels {
	out := append(make([]profile.Label, 0, len(ls)+1), ls...)
	return profile.NewLabels(append(out, profile.Label{Name: name, Value: labelValue(value)})...)
}

// Package relabel changes and chooses label sets by rules with the fields, the defaults and the meaning of
// Prometheus' relabel_config, so that people can bring the rules that they have. The agent applies it to
// processes, the server to targets that it scrapes. Pure, as all of profile is.
package relabel

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

// Rule is one step of relabelling. Regular expressions are anchored at both ends. keep, drop, keepequal and
// dropequal decide whether the whole set stays. Labels that begin with "__" are there for rules only; see
// [Public].
type Rule struct {
	// SourceLabels are the labels whose values, joined by Separator, are matched.
	SourceLabels []string `yaml:"source_labels,omitempty"`
	// Separator: default ";".
	Separator *string `yaml:"separator,omitempty"`
	// Regex: default "(.*)".
	Regex string `yaml:"regex,omitempty"`
	// Modulus of action hashmod.
	Modulus uint64 `yaml:"modulus,omitempty"`
	// TargetLabel is set by replace, hashmod, lowercase and uppercase, and compared by keepequal and dropequal.
	TargetLabel string `yaml:"target_label,omitempty"`
	// Replacement: default "$1".
	Replacement *string `yaml:"replacement,omitempty"`
	// Action: replace (the default), keep, drop, keepequal, dropequal, hashmod, labelmap, labeldrop, labelkeep,
	// lowercase, uppercase.
	Action string `yaml:"action,omitempty"`
}

// Rules are checked and ready to be applied, by many at a time.
type Rules struct{ rules []checked }

type checked struct {
	Rule
	separator, replacement string
	re                     *regexp.Regexp
	maxValueBytes          int
}

var namePattern = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// New checks rules. Values that they make are cut at maxValueBytes, since a replacement may repeat what it
// matched. Errors name the rule by its position, from 1, and action.
func New(rules []Rule, maxValueBytes int) (*Rules, error) {
	r := &Rules{}
	for i, rule := range rules {
		c, err := check(rule)
		if err != nil {
			return nil, fmt.Errorf("relabel rule %d (action %s): %w", i+1, c.Action, err)
		}
		c.maxValueBytes = maxValueBytes
		r.rules = append(r.rules, c)
	}
	return r, nil
}

// Check says what is wrong with rules.
func Check(rules []Rule) error {
	_, err := New(rules, 0)
	return err
}

func check(rule Rule) (checked, error) {
	c := checked{Rule: rule, separator: ";", replacement: "$1"}
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
		if !namePattern.MatchString(n) {
			return c, fmt.Errorf("source_labels: %q is no label name", n)
		}
	}
	switch c.Action {
	case "replace":
		if c.TargetLabel == "" {
			return c, errors.New("target_label is missing")
		}
		if !namePattern.MatchString(c.TargetLabel) && !strings.Contains(c.TargetLabel, "$") {
			return c, fmt.Errorf("target_label: %q is no label name", c.TargetLabel)
		}
	case "hashmod", "lowercase", "uppercase", "keepequal", "dropequal":
		if !namePattern.MatchString(c.TargetLabel) {
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
		return c, errors.New("unknown; want replace, keep, drop, keepequal, dropequal, hashmod, labelmap, labeldrop, labelkeep, lowercase or uppercase")
	}
	return c, nil
}

// Apply returns the labels after all rules, those for rules only included; keep is false if one of them
// drops the set. ls stays as it is.
func (r *Rules) Apply(ls profile.Labels) (out profile.Labels, keep bool) {
	for i := range r.rules {
		if ls, keep = r.rules[i].apply(ls); !keep {
			return nil, false
		}
	}
	return ls, true
}

// Public returns the labels that do not begin with "__".
func Public(ls profile.Labels) profile.Labels {
	out := make(profile.Labels, 0, len(ls))
	for _, l := range ls {
		if !strings.HasPrefix(l.Name, "__") {
			out = append(out, l)
		}
	}
	return out
}

func (c *checked) apply(ls profile.Labels) (profile.Labels, bool) {
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
	case "keepequal":
		return ls, value == ls.Get(c.TargetLabel)
	case "dropequal":
		return ls, value != ls.Get(c.TargetLabel)
	case "replace":
		match := c.re.FindStringSubmatchIndex(value)
		if match == nil {
			return ls, true
		}
		target := string(c.re.ExpandString(nil, c.TargetLabel, value, match))
		if !namePattern.MatchString(target) {
			return ls, true
		}
		return c.set(ls, target, string(c.re.ExpandString(nil, c.replacement, value, match))), true
	case "lowercase":
		return c.set(ls, c.TargetLabel, strings.ToLower(value)), true
	case "uppercase":
		return c.set(ls, c.TargetLabel, strings.ToUpper(value)), true
	case "hashmod":
		sum := md5.Sum([]byte(value))
		return c.set(ls, c.TargetLabel, strconv.FormatUint(binary.BigEndian.Uint64(sum[8:])%c.Modulus, 10)), true
	case "labelmap":
		out := append([]profile.Label(nil), ls...)
		for _, l := range ls {
			if c.re.MatchString(l.Name) {
				if name := c.re.ReplaceAllString(l.Name, c.replacement); namePattern.MatchString(name) {
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
func (c *checked) set(ls profile.Labels, name, value string) profile.Labels {
	if len(value) > c.maxValueBytes {
		value = value[:c.maxValueBytes]
	}
	out := append(make([]profile.Label, 0, len(ls)+1), ls...)
	return profile.NewLabels(append(out, profile.Label{Name: name, Value: strings.ToValidUTF8(value, "\uFFFD")})...)
}

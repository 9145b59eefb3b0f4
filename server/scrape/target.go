package scrape

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/profile/relabel"
)

// Labels that a target has for relabelling, beside those of its discovery.
const (
	labelAddress     = "__address__"
	labelScheme      = "__scheme__"
	labelParamPrefix = "__param_"
	labelMetaPrefix  = "__meta_"
	labelJob         = "job"
	labelInstance    = "instance"
)

// maxLabelBytes bounds the values that relabelling makes.
const maxLabelBytes = 4096

var labelName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// target is where to scrape from, after relabelling.
type target struct {
	key        uint64
	labels     profile.Labels // what its profiles get
	discovered profile.Labels // before relabelling
	scheme     string
	address    string
	params     url.Values
}

// newTarget relabels what was discovered; it returns nil if a rule drops it.
func newTarget(c *Config, rules *relabel.Rules, discovered profile.Labels) (*target, error) {
	ls := []profile.Label{{Name: labelJob, Value: c.JobName}, {Name: labelScheme, Value: c.Scheme}}
	for name, values := range c.Params {
		if len(values) > 0 {
			ls = append(ls, profile.Label{Name: labelParamPrefix + name, Value: values[0]})
		}
	}
	before := profile.NewLabels(append(ls, discovered...)...)
	after, keep := rules.Apply(before)
	if !keep {
		return nil, nil
	}
	t := &target{discovered: before, scheme: after.Get(labelScheme), address: after.Get(labelAddress), params: url.Values{}}
	if t.scheme != "http" && t.scheme != "https" {
		return nil, fmt.Errorf("%s is %q after relabelling: want http or https", labelScheme, t.scheme)
	}
	if err := checkAddress(t.address); err != nil {
		return nil, err
	}
	for name, values := range c.Params {
		t.params[name] = append([]string(nil), values...)
	}
	for _, l := range after {
		if name, ok := strings.CutPrefix(l.Name, labelParamPrefix); ok {
			t.params[name] = append([]string{l.Value}, t.params[name][min(len(t.params[name]), 1):]...)
		}
	}
	public := append([]profile.Label{{Name: labelInstance, Value: t.address}}, relabel.Public(after)...)
	if after.Get(profile.LabelServiceName) == "" {
		service := after.Get(labelJob)
		if service == "" {
			service = c.JobName
		}
		public = append(public, profile.Label{Name: profile.LabelServiceName, Value: service})
	}
	t.labels = profile.NewLabels(public...)
	t.key = xxh3.HashString(t.labels.String() + "\x00" + t.scheme + "\x00" + t.address + "\x00" + t.params.Encode())
	return t, nil
}

func checkAddress(a string) error {
	switch {
	case a == "":
		return errors.New("a target has no address")
	case strings.ContainsAny(a, "/?#@ \t\r\n"):
		return fmt.Errorf("%.100q is no address: want host:port, without a scheme or a path", a)
	}
	return nil
}

// url returns where a profile is.
func (t *target) url(f fetch) *url.URL {
	params := url.Values{}
	for name, values := range t.params {
		params[name] = values
	}
	if f.seconds > 0 {
		params.Set("seconds", fmt.Sprint(f.seconds))
	}
	return &url.URL{Scheme: t.scheme, Host: t.address, Path: f.path, RawQuery: params.Encode()}
}

// next returns the first moment after now at which the target is due: each has its place in the interval by its
// hash, the same at every start, so that targets are spread and their times comparable.
func (t *target) next(now time.Time, interval time.Duration) time.Time {
	place := int64(t.key % uint64(interval))
	into := (now.UnixNano() - place) % int64(interval)
	if into < 0 {
		into += int64(interval)
	}
	return now.Add(interval - time.Duration(into))
}

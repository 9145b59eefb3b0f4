package relabel

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/perfuse/perfuse/profile"
)

func labels(kv ...string) profile.Labels {
	var ls []profile.Label
	for i := 0; i < len(kv); i += 2 {
		ls = append(ls, profile.Label{Name: kv[i], Value: kv[i+1]})
	}
	return profile.NewLabels(ls...)
}

func TestRelabel(t *testing.T) {
	str := func(s string) *string { return &s }
	in := labels("service_name", "api", "namespace", "prod", "comm", "Main", "__meta_pid", "7", "__meta_systemd_unit", "api.service")
	f := func(want string, rules ...Rule) {
		t.Helper()
		r, err := New(rules, 512)
		if err != nil {
			t.Fatal(err)
		}
		got := "dropped"
		if ls, keep := r.Apply(slices.Clone(in)); keep {
			got = Public(ls).String()
		}
		if got != want {
			t.Errorf("%+v\n got %s\nwant %s", rules, got, want)
		}
	}
	all := `{comm="Main", namespace="prod", service_name="api"}`
	f(all)
	f(`{comm="Main", namespace="prod", service_name="api", unit="api"}`,
		Rule{SourceLabels: []string{"__meta_systemd_unit"}, Regex: `(.+)\.service`, TargetLabel: "unit"})
	f(all, Rule{SourceLabels: []string{"__meta_systemd_unit"}, Regex: `api`, TargetLabel: "unit"}) // anchored
	f(`{comm="Main", namespace="prod", service_name="prod/api"}`,
		Rule{SourceLabels: []string{"namespace", "service_name"}, Separator: str("/"), TargetLabel: "service_name"})
	f(`{comm="Main", namespace="prod", service_name="prod;api"}`,
		Rule{SourceLabels: []string{"namespace", "service_name"}, TargetLabel: "service_name", Action: "Replace"})
	f(`{comm="Main", service_name="api"}`, Rule{TargetLabel: "namespace", Replacement: str("")})
	f(`{comm="Main", namespace="prod", prod_x="api", service_name="api"}`,
		Rule{SourceLabels: []string{"namespace", "service_name"}, Regex: "(.*);(.*)", TargetLabel: "${1}_x", Replacement: str("$2")})
	f(all, Rule{SourceLabels: []string{"namespace"}, Action: "keep", Regex: "prod|live"})
	f("dropped", Rule{SourceLabels: []string{"namespace"}, Action: "keep", Regex: "pro"})
	f("dropped", Rule{SourceLabels: []string{"namespace"}, Action: "drop", Regex: "pr.*"})
	f(all, Rule{SourceLabels: []string{"absent"}, Action: "drop", Regex: ".+"})
	f(`{comm="Main", service_name="api"}`, Rule{Action: "labeldrop", Regex: "name.*"})
	f(`{comm="Main"}`, Rule{Action: "labelkeep", Regex: "comm"})
	f(`{comm="Main", namespace="prod", pid="7", service_name="api"}`, Rule{Action: "labelmap", Regex: "__meta_(pid)"})
	f(`{comm="main", namespace="prod", service_name="api"}`, Rule{SourceLabels: []string{"comm"}, TargetLabel: "comm", Action: "lowercase"})
	f(`{comm="MAIN", namespace="prod", service_name="api"}`, Rule{SourceLabels: []string{"comm"}, TargetLabel: "comm", Action: "uppercase"})
	// Prometheus takes the last eight bytes of the MD5, big-endian: printf api | md5sum.
	f(`{comm="Main", namespace="prod", service_name="api", shard="658"}`,
		Rule{SourceLabels: []string{"service_name"}, TargetLabel: "shard", Action: "hashmod", Modulus: 1000})
	f("dropped",
		Rule{SourceLabels: []string{"service_name"}, TargetLabel: "__tmp", Action: "hashmod", Modulus: 1},
		Rule{SourceLabels: []string{"__tmp"}, Action: "keep", Regex: "1"})

	f(all, Rule{SourceLabels: []string{"comm"}, TargetLabel: "comm", Action: "keepequal"})
	f("dropped", Rule{SourceLabels: []string{"comm"}, TargetLabel: "namespace", Action: "keepequal"})
	f("dropped", Rule{SourceLabels: []string{"comm"}, TargetLabel: "comm", Action: "dropequal"})
	f(`{comm="`+strings.Repeat("Main", 128)+`"}`, Rule{Action: "labelkeep", Regex: "comm"},
		Rule{SourceLabels: []string{"comm"}, TargetLabel: "comm", Replacement: str(strings.Repeat("$1", 200))})

	bad := func(want string, rule Rule) {
		t.Helper()
		err := Check([]Rule{{TargetLabel: "a"}, rule})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "relabel rule 2 (action ") {
			t.Errorf("%+v: %v, want %q", rule, err, want)
		}
	}
	bad("target_label is missing", Rule{})
	bad("no label name", Rule{TargetLabel: "a-b"})
	bad("no label name", Rule{TargetLabel: "a", SourceLabels: []string{"x.y"}})
	bad("regex: error parsing", Rule{TargetLabel: "a", Regex: "("})
	bad("modulus is missing", Rule{TargetLabel: "a", SourceLabels: []string{"b"}, Action: "hashmod"})
	bad("source_labels is missing", Rule{Action: "keep"})
	bad("only regex may be set", Rule{Action: "labeldrop", TargetLabel: "a"})
	bad("only regex and replacement", Rule{Action: "labelmap", TargetLabel: "a"})
	bad("unknown; want replace", Rule{Action: "rename"})
}

// FuzzRules: rules are refused, or make of any labels what is in order and no longer than it may be.
func FuzzRules(f *testing.F) {
	f.Add("replace", "a", "(.*)", "$1-$1", "t_${1}", uint64(0), "x\xff")
	f.Add("labelmap", "", "__meta_(.+)", "$1", "", uint64(0), "v")
	f.Add("hashmod", "a", "", "", "shard", uint64(7), "")
	f.Add("labeldrop", "", "a|b", "", "", uint64(0), "v")
	f.Add("keepequal", "a", "", "", "b", uint64(0), "v")
	f.Add("drop", "a", "v+", "", "", uint64(0), "vv")
	f.Fuzz(func(t *testing.T, action, source, regex, replacement, target string, modulus uint64, value string) {
		if len(regex) > 1<<10 {
			return
		}
		rule := Rule{Regex: regex, Modulus: modulus, TargetLabel: target, Action: action}
		if source != "" {
			rule.SourceLabels = []string{source, "b"}
		}
		if replacement != "" {
			rule.Replacement = &replacement
		}
		const most = 20
		r, err := New([]Rule{rule, {SourceLabels: []string{"a"}, TargetLabel: "c"}}, most)
		if err != nil {
			return
		}
		value = value[:min(len(value), most)]
		out, keep := r.Apply(labels("a", strings.ToValidUTF8(value, ""), "b", "v", "__meta_x", "1"))
		if !keep {
			return
		}
		for i, l := range out {
			if l.Name == "" || l.Value == "" || i > 0 && out[i-1].Name >= l.Name || !utf8.ValidString(l.Value) || len(l.Value) > most+2 {
				t.Fatalf("label %d of %s", i, out)
			}
		}
	})
}

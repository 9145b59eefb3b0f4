package profile

import (
	"errors"
	"strings"
	"testing"
)

func TestParseSelector(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		got, err := ParseSelector(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			return
		}
		if got.String() != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
	f(``, `{}`)
	f(`{}`, `{}`)
	f(` { } `, `{}`)
	f(`{service_name="api"}`, `{service_name="api"}`)
	f(`service_name="api"`, `{service_name="api"}`)
	f(`{ a = "1" , b != "2", c=~"x|y", d!~"z" , }`, `{a="1", b!="2", c=~"x|y", d!~"z"}`)
	f("{a=`back\\slash`}", `{a="back\\slash"}`)
	f(`{a="with \"quotes\" and ünïcode"}`, `{a="with \"quotes\" and ünïcode"}`)
	f(`{k8s.pod-name="x"}`, `{k8s.pod-name="x"}`)
}

func TestSelectorErrors(t *testing.T) {
	f := func(in string, offset int, reason string) {
		t.Helper()
		_, err := ParseSelector(in)
		var se *SelectorError
		if !errors.As(err, &se) {
			t.Errorf("%s: got %v, want a *SelectorError", in, err)
			return
		}
		if se.Offset != offset || !strings.Contains(se.Reason, reason) {
			t.Errorf("%s: got %q at %d, want %q at %d", in, se.Reason, se.Offset, reason, offset)
		}
	}
	f(`{a="1"`, 6, "want ',' or '}'")
	f(`{a="1" b="2"}`, 7, "want ',' or '}'")
	f(`a="1" b`, 6, "nothing may follow")
	f(`{a="1"} x`, 8, "nothing may follow")
	f(`{9="1"}`, 1, "want a label name")
	f(`{a}`, 2, "want one of = != =~ !~ after a")
	f(`{a~"1"}`, 2, "want one of")
	f(`{a=1}`, 3, "want a quoted value")
	f(`{a='1'}`, 3, "want a quoted value")
	f(`{a="1}`, 3, "want a quoted value")
	f(`{a=~"("}`, 4, "parsing the regular expression for label a")

	_, err := ParseSelector(`{a="1", b}`)
	const want = "parsing selector at column 10: want one of = != =~ !~ after b\n  {a=\"1\", b}\n           ^"
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	_, err = ParseSelector("{a=\"äö\",\tb}")
	if err == nil || !strings.HasSuffix(err.Error(), "\n  {a=\"äö\", b}\n            ^") {
		t.Errorf("the mark is at the wrong place:\n%v", err)
	}
}

func TestSelectorMatch(t *testing.T) {
	ls := NewLabels(Label{"pod", "api-1"}, Label{"empty", ""}, Label{"service_name", "api"})
	f := func(selector string, want bool) {
		t.Helper()
		s, err := ParseSelector(selector)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Match(ls); got != want {
			t.Errorf("%s: got %t", selector, got)
		}
	}
	f(`{}`, true)
	f(`{service_name="api"}`, true)
	f(`{service_name="ap"}`, false)
	f(`{service_name!="ap"}`, true)
	f(`{pod=~"api-.*"}`, true)
	f(`{pod=~"api"}`, false)
	f(`{pod=~"x|api-1"}`, true)
	f(`{pod!~"api-[2-9]"}`, true)
	f(`{absent=""}`, true)
	f(`{absent!=""}`, false)
	f(`{empty=""}`, true)
	f(`{absent=~".*"}`, true)
	f(`{service_name="api", pod="api-2"}`, false)
}

func TestLabels(t *testing.T) {
	ls := NewLabels(Label{"b", "1"}, Label{"a", "x"}, Label{"c", ""}, Label{"b", "2"})
	if got, want := ls.String(), `{a="x", b="2"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if LabelsFromMap(map[string]string{"b": "2", "a": "x"}).Compare(ls) != 0 {
		t.Error("not equal to those of a map")
	}
	if ls.Get("c") != "" || ls.Get("b") != "2" {
		t.Error("Get does not find values")
	}
	if ls.Compare(ls[:1]) <= 0 || ls.Compare(NewLabels(Label{"a", "y"})) >= 0 {
		t.Error("labels are not in order")
	}
}

// A selector that parses is written so that it parses to the same again, and matching does not panic.
func FuzzParseSelector(f *testing.F) {
	f.Add(`{service_name="api", namespace=~"prod.*", pod!~"x|y", b!="\u00e9"}`)
	f.Add("a=`x`, ")
	f.Add(`{a="1" b`)
	f.Fuzz(func(t *testing.T, in string) {
		s, err := ParseSelector(in)
		if err != nil {
			var se *SelectorError
			if !errors.As(err, &se) || se.Offset < 0 || se.Offset > len(in) {
				t.Fatalf("%q: error %v", in, err)
			}
			_ = err.Error()
			return
		}
		again, err := ParseSelector(s.String())
		if err != nil || again.String() != s.String() {
			t.Fatalf("%q: written as %q, read as %q, %v", in, s, again, err)
		}
		s.Match(NewLabels(Label{"a", "1"}))
	})
}

func FuzzParseType(f *testing.F) {
	f.Add(TypeCPU.String())
	f.Add("a:b:c:d:e:delta")
	f.Fuzz(func(t *testing.T, in string) {
		typ, err := ParseType(in)
		if err == nil && typ.String() != in {
			t.Fatalf("%q is written as %q", in, typ)
		}
	})
}

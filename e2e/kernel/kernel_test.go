package kernel

import (
	"reflect"
	"testing"
	"testing/fstest"
)

func TestMirrors(t *testing.T) {
	f := func(name, text, want string) {
		t.Helper()
		got, err := mirrors(fstest.MapFS{name: {Data: []byte(text)}}, "bullseye")
		if err != nil {
			got = err.Error() + "\n"
		}
		if got != want {
			t.Errorf("%s: got\n%swant\n%s", name, got, want)
		}
	}
	const sig = "deb [signed-by=" + archiveKeys + "] "
	f("apt/sources.list", "# old\ndeb http://a.example/debian bookworm main\ndeb-src http://a.example/debian bookworm main\n",
		sig+"http://a.example/debian bullseye main\n")
	f("apt/sources.list", "deb [arch=amd64 signed-by=/x] http://a.example/security bookworm-security main contrib # c\n",
		sig+"http://a.example/security bullseye-security main\n")
	f("apt/sources.list.d/other.list", "deb http://b.example/apt cloud-sdk-bookworm main\n", ErrNoMirror.Error()+"\n")
	f("apt/sources.list.d/debian.sources", "Types: deb\n# a comment\nURIs: http://a.example/debian\nSuites: bookworm\n bookworm-updates\nComponents: main\n\n"+
		"Types: deb-src\nURIs: http://a.example/debian\nSuites: bookworm\n\nTypes: deb\nEnabled: no\nURIs: http://c.example/debian\nSuites: bookworm\n",
		sig+"http://a.example/debian bullseye main\n"+sig+"http://a.example/debian bullseye-updates main\n")
	f("apt/nothing", "", ErrNoMirror.Error()+"\n")
}

func TestParse(t *testing.T) {
	jobs := []Job{{Name: "one"}, {Name: "two"}}
	f := func(text string, want []Result, wantComplete bool) {
		t.Helper()
		got, complete := parse([]byte(text), jobs)
		if !reflect.DeepEqual(got, want) || complete != wantComplete {
			t.Errorf("%q: got %+v, %v", text, got, complete)
		}
	}
	whole := []Result{{Job: jobs[0], Output: "a\nb\n"}, {Job: jobs[1], Output: "no newline", Status: 3}}
	f("=== BEGIN one\r\na\r\nb\r\n=== END one 0\r\n=== BEGIN two\nno newline=== END two 3\n=== DONE\n", whole, true)
	f("=== BEGIN one\na\nb\n=== END one 0\n=== BEGIN two\nno newline=== END two 3\n", whole, false)
	f("=== BEGIN one\na\nb\n=== END one 0\n=== BEGIN two\ncut", whole[:1], false)
	f("=== BEGIN one\na\nb\n=== END one", nil, false)
	f("", nil, false)
}

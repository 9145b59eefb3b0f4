package symbolize

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/perfuse/perfuse/profile"
)

// byHundreds resolves the addresses of every build id alike: by the hundreds.
type byHundreds struct{}

func (byHundreds) Resolve(_ context.Context, _ string, addrs []profile.Addr) ([][]Source, error) {
	out := make([][]Source, len(addrs))
	for i, a := range addrs {
		switch a / 0x100 {
		case 1:
			out[i] = []Source{{Name: "inner", File: "a.c", Line: int32(a)}, {Name: "outer", File: "a.c"}}
		case 2:
			out[i] = []Source{{Name: "+0x200"}}
		case 3:
			out[i] = []Source{{Name: "+0x300"}}
		}
	}
	return out, nil
}

// Names follow the file that a frame's mapping shows; addresses of one nameless function become one.
func TestBatchNames(t *testing.T) {
	d := profile.NewDictionary()
	stack := func(file string, addrs ...profile.Addr) profile.StackIndex {
		m := d.Mapping(profile.Mapping{BuildID: "0011", File: file})
		var s profile.Stack
		for _, a := range addrs {
			s = append(s, d.Frame(profile.Frame{Kind: profile.KindNative, Mapping: m, Addr: a}))
		}
		return d.Stack(s)
	}
	b := &profile.Batch{Dictionary: d, Profiles: []profile.Profile{{Type: profile.TypeCPU, Samples: []profile.Sample{
		{Stack: stack("/bin/dash", 0x210, 0x310), Value: 1},
		{Stack: stack("/bin/dash", 0x2f0, 0x300), Value: 10},
		{Stack: stack("/bin/dash", 0x110, 0x3ff), Value: 100},
		{Stack: stack("/usr/bin/sh", 0x210), Value: 1000},
		{Stack: stack("", 0x210), Value: 10000},
		{Stack: stack("/bin/dash", 0x410), Value: 100000},
	}}}}
	f := func(r Resolver, want ...string) {
		t.Helper()
		if err := Batch(t.Context(), r, b); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		if err := profile.WriteFolded(&out, b, &b.Profiles[0]); err != nil {
			t.Fatal(err)
		}
		got := strings.Split(strings.TrimSpace(out.String()), "\n")
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	shown := []string{
		"0x200 10000",
		"dash+0x300;dash+0x200 11",
		"dash+0x300;outer;inner 100",
		"dash+0x410 100000",
		"sh+0x200 1000",
	}
	f(byHundreds{}, shown...)
	// Who knows less changes nothing, who knows more has names for what has none.
	f(knows{}, shown...)
	f(knows{0x210: "cat", 0x310: "main", 0x110: "never asked for", 0x410: "echo"},
		"0x200 10000",
		"cat 1000",
		"dash+0x300;dash+0x200 10",
		"dash+0x300;outer;inner 100",
		"echo 100000",
		"main;cat 1")
}

// knows resolves by exact address.
type knows map[profile.Addr]string

func (k knows) Resolve(_ context.Context, _ string, addrs []profile.Addr) ([][]Source, error) {
	out := make([][]Source, len(addrs))
	for i, a := range addrs {
		if k[a] != "" {
			out[i] = []Source{{Name: k[a]}}
		}
	}
	return out, nil
}

package debuginfo

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/perfuse/perfuse/symbolize"
)

// DWZ moves what units share into partial units; the answers stay.
func TestDWZ(t *testing.T) {
	dwz := needs(t, "dwz")
	gpp := needs(t, "g++")
	dir := t.TempDir()
	second := `#include <string>
#include <vector>
std::vector<std::string> more(int n) { std::vector<std::string> v; for (int i = 0; i < n; i++) v.push_back(std::string(i, 'x')); return v; }
`
	for name, text := range map[string]string{"a.cc": cppProgram, "b.cc": second} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, dir, gpp, "-g", "-O2", "-ffile-prefix-map="+dir+"=/src", "-Wl,--build-id", "-o", "whole", "a.cc", "b.cc")
	whole := filepath.Join(dir, "whole")
	addrs := textAddrs(t, whole, 3)
	content, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	want := answers(t, content, addrs)

	t.Run("one-file", func(t *testing.T) {
		run(t, dir, dwz, "-o", "packed", "whole")
		packed, err := os.ReadFile(filepath.Join(dir, "packed"))
		if err != nil {
			t.Fatal(err)
		}
		if len(packed) >= len(content) {
			t.Skip("dwz found nothing to share")
		}
		sameAnswersButScopes(t, want, answers(t, packed, addrs))
	})

	// What two files share goes into a third one. If that is not there names may be missing, none may be wrong, and
	// the functions themselves are still named.
	t.Run("supplementary-file", func(t *testing.T) {
		run(t, dir, gpp, "-g", "-O2", "-ffile-prefix-map="+dir+"=/src", "-DOTHER", "-Wl,--build-id", "-o", "other", "b.cc", "a.cc")
		run(t, dir, "cp", "whole", "one")
		run(t, dir, dwz, "-m", "common.debug", "one", "other")
		one := filepath.Join(dir, "one")
		id := buildID(t, one)
		resolve := func() [][]symbolize.Source {
			l := newLocal(t)
			if err := l.Add(id, one, ""); err != nil {
				t.Fatal(err)
			}
			got, err := l.Resolve(context.Background(), id, addrs)
			if err != nil {
				t.Fatal(err)
			}
			if w := l.Warning(id); w != nil {
				t.Errorf("warning: %v", w)
			}
			return got
		}
		sameAnswersButScopes(t, want, resolve())
		x, err := ExtractFile(one, "")
		if err != nil {
			t.Fatal(err)
		}
		sameAnswersButScopes(t, want, answers(t, extract(t, x), addrs))

		if err := os.Remove(filepath.Join(dir, "common.debug")); err != nil {
			t.Fatal(err)
		}
		got := resolve()
		missing := 0
		for i := range want {
			if len(want[i]) == 0 {
				continue
			}
			if len(got[i]) == 0 {
				t.Errorf("%#x: nothing, want %v", uint64(addrs[i]), want[i])
				continue
			}
			w, g := want[i][len(want[i])-1], got[i][len(got[i])-1]
			if w.Name != g.Name && w.Name+".cold" != g.Name {
				t.Errorf("%#x: got %s, want %s", uint64(addrs[i]), g.Name, w.Name)
			}
			if len(got[i]) < len(want[i]) {
				missing++
			}
		}
		if missing == 0 {
			t.Error("nothing is missing without the supplementary file: it was not used")
		}
	})
}

// sameAnswersButScopes compares names by their ends: the scope of a function is known in its own unit only.
func sameAnswersButScopes(t *testing.T, want, got [][]symbolize.Source) {
	t.Helper()
	differ := 0
	for i := range want {
		same := len(want[i]) == len(got[i])
		for k := 0; same && k < len(want[i]); k++ {
			w, g := want[i][k], got[i][k]
			same = w.File == g.File && w.Line == g.Line && (w.Name == g.Name || w.SystemName == "" && len(g.Name) <= len(w.Name) && w.Name[len(w.Name)-len(g.Name):] == g.Name)
		}
		if !same {
			if differ++; differ < 4 {
				t.Errorf("got  %+v\nwant %+v", got[i], want[i])
			}
		}
	}
	t.Logf("%d answers, %d differ", len(want), differ)
}

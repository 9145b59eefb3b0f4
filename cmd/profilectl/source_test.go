package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
)

// TestSourceText: lines that have a value, with those around them, of the file on this machine.
func TestSourceText(t *testing.T) {
	text := "package work\n\nfunc work(n int) (sum int) {\n"
	for i := range 30 {
		text += "\tsum += n // " + strings.Repeat("x", i) + "\n"
	}
	text += "\treturn \x1b[31msum\n}\n"
	path := filepath.Join(t.TempDir(), "work.go")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 3, 4, 5, 6, 0, 0, time.UTC)
	s := sourceView{view: view{title: "{}", typ: profile.TypeCPU, from: at, to: at.Add(time.Hour), all: 1000e6}, function: "work"}
	s.files = []sourceFile{readSource(&queryv1.SourceFile{
		Path: path, Mapping: "/bin/app", StartLine: 3, Self: 350e6, Total: 400e6, NoText: "the server has none",
		Lines: []*queryv1.SourceLine{{Line: 0, Self: 1e6, Total: 1e6}, {Line: 7, Self: 49e6, Total: 99e6}, {Line: 9, Self: 200e6, Total: 200e6}, {Line: 34, Self: 100e6, Total: 100e6}, {Line: 99, Total: 1e6}},
	})}
	want := `process_cpu:cpu:nanoseconds:cpu:nanoseconds work in {}, 2026-03-04T05:06:00Z to 2026-03-04T06:06:00Z

PATH of app: 400ms (400000000 nanoseconds), 40.0% of all 1s, self 350ms
text of this machine's file
     SELF     TOTAL    ALL%   LINE
      1ms       1ms   0.10%      ?
                                 4      sum += n //
                                 5      sum += n // x
                                 6      sum += n // xx
     49ms      99ms    9.9%      7      sum += n // xxx
                                 8      sum += n // xxxx
    200ms     200ms   20.0%      9      sum += n // xxxxx
                                10      sum += n // xxxxxx
                                11      sum += n // xxxxxxx
                                12      sum += n // xxxxxxxx
                                 ⋮
                                31      sum += n // xxxxxxxxxxxxxxxxxxxxxxxxxxx
                                32      sum += n // xxxxxxxxxxxxxxxxxxxxxxxxxxxx
                                33      sum += n // xxxxxxxxxxxxxxxxxxxxxxxxxxxxx
    100ms     100ms   10.0%     34      return �[31msum
                                35  }
                                 ⋮
                1ms   0.10%     99
`
	if got := strings.ReplaceAll(s.text(terminal{}), path, "PATH"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, line := range strings.Split(s.text(terminal{is: true, width: 60}), "\n")[5:] {
		if n := len([]rune(line)); n > 60 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

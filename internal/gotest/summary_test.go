package main

import (
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		var out strings.Builder
		s := newSummary(&out)
		if err := s.read(strings.NewReader(in)); err != nil {
			t.Fatal(err)
		}
		s.close()
		if got := out.String(); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}

	// A package whose table has a row that skips: the parent is not counted.
	f(`{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestA/x"}
{"Action":"output","Package":"p","Test":"TestA/x","Output":"    a_test.go:7: clang-19 is not here\n"}
{"Action":"output","Package":"p","Test":"TestA/x","Output":"    --- SKIP: TestA/x (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestA/x"}
{"Action":"run","Package":"p","Test":"TestA/y"}
{"Action":"pass","Package":"p","Test":"TestA/y"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Elapsed":1.5}
`, `ok    p  1.5s  3 tests
skipped: clang-19 is not here
    p.TestA/x
1 passed, 0 failed, 1 skipped
`)

	// A failure shows its output; a passing test's is dropped.
	f(`{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"noise\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:1: got 1, want 2\n"}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"fail","Package":"p","Elapsed":0.1}
`, `    b_test.go:1: got 1, want 2
FAIL  p  0.1s
1 passed, 1 failed, 0 skipped
`)

	// A package that does not build, and one without tests.
	f(`{"Action":"build-output","ImportPath":"p","Output":"a.go:1: undefined: x\n"}
{"Action":"build-fail","ImportPath":"p"}
{"Action":"fail","Package":"p","Elapsed":0}
{"Action":"output","Package":"q","Output":"?   q [no test files]\n"}
{"Action":"skip","Package":"q","Elapsed":0}
`, `a.go:1: undefined: x
FAIL  p  0.0s
0 passed, 1 failed, 0 skipped
`)

	// A process that dies under a test, and a line that is no event.
	f(`{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"panic: BUG\n"}
{"Action":"fail","Package":"p","Elapsed":2}
go: something else
`, `panic: BUG
FAIL  p  2.0s
go: something else
0 passed, 1 failed, 0 skipped
`)

	// go test itself is cut short.
	f(`{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN TestA\n"}
`, `=== RUN TestA
FAIL  p  0.0s
0 passed, 1 failed, 0 skipped
`)
}

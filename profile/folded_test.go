package profile

import (
	"errors"
	"strings"
	"testing"
)

func TestFoldedRoundTrip(t *testing.T) {
	f := func(in string, want ...string) {
		t.Helper()
		if len(want) == 0 {
			want = []string{in}
		}
		b, p := folded(t, in)
		var out strings.Builder
		if err := WriteFolded(&out, b, p); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSuffix(out.String(), "\n"); got != want[0] {
			t.Errorf("%s\n got  %s\n want %s", in, got, want[0])
		}
	}
	f("main;b;c 1")
	f("main 3\nmain;b 2\nmain;c 1")
	f("main;b 2\nmain 3\nmain;b 5", "main 3\nmain;b 7")
	f("main;read;vfs_read_[k] 7")
	f("[unwind: no unwind information];memcpy 3")
	f("[no stack] 1\nmain 1")
	f("operator new(unsigned long);std::map<int, int>::operator[](int const&) 5")
	f(`A\x3bB;C:\dir\file;App\Foo 1`)
	f(`a\x5cx3b 1`)
	f(`\x23 not a comment 1`)
	f(`main;\x5bunwind: in the middle] 1`)
	f(`main;fake_\x5bk] 1`)
	f("main;x -5")
	f("# a comment\n\nmain 1\r\n", "main 1")
	f(";a 1", "[unknown];a 1")
	f("main;x 0", "")
}

// Names that hold the text's own marks come back as they were.
func TestFoldedEscapes(t *testing.T) {
	for _, name := range []string{"a;b", `a\x3bb`, "a\nb\r", "#a", "[unwind: fake]", "[no stack]", "f_[k]", `\`, `\x`, `\x5c`, " a  b ", "é"} {
		for _, kind := range []Kind{KindNative, KindKernel} {
			d := NewDictionary()
			fn := d.Function(Function{Name: name})
			stack := d.Stack(Stack{d.Frame(Frame{Kind: kind, Lines: []Line{{Function: fn}}})})
			b := &Batch{Dictionary: d, Profiles: []Profile{{Type: TypeCPU, Samples: []Sample{{Stack: stack, Value: 2}}}}}
			var text strings.Builder
			if err := WriteFolded(&text, b, &b.Profiles[0]); err != nil {
				t.Fatal(err)
			}
			got, err := ParseFolded(strings.NewReader(text.String()), TypeCPU, nil)
			if err != nil {
				t.Fatalf("%q: %v", text.String(), err)
			}
			if len(got.Dictionary.Functions) != 2 || got.Dictionary.Functions[1].Name != name || got.Dictionary.Frames[1].Kind != kind {
				t.Errorf("%q as %q came back as %+v %+v", name, text.String(), got.Dictionary.Functions[1:], got.Dictionary.Frames[1:])
			}
		}
	}
}

func TestParseFoldedErrors(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		if _, err := ParseFolded(strings.NewReader(in), TypeCPU, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", in, err, want)
		}
	}
	f("main;a 1\nmain", "line 2: want \"a;b;c VALUE\"")
	f("main x", `line 1: want a whole number after the last space, not "x"`)
	f("main 1.5", "not \"1.5\"")
	f("main 99999999999999999999", "line 1")
}

func TestWriteFoldedReportsErrors(t *testing.T) {
	b, p := folded(t, "main 1")
	if err := WriteFolded(broken{}, b, p); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
}

var errBroken = errors.New("broken")

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errBroken }

func FuzzParseFolded(f *testing.F) {
	f.Add("main;b;c 1\nmain;read;vfs_read_[k] 7\n[unwind: no unwind information];memcpy 3\n[no stack] 1\n")
	f.Add("a\\x3b;\\x5cx3b;;_[k] 9223372036854775807\n#x\n\r\n")
	f.Fuzz(func(t *testing.T, in string) {
		b, err := ParseFolded(strings.NewReader(in), TypeCPU, nil)
		if err != nil {
			return
		}
		if err := b.Check(); err != nil {
			t.Fatal(err)
		}
		var once, twice strings.Builder
		if err := WriteFolded(&once, b, &b.Profiles[0]); err != nil {
			t.Fatal(err)
		}
		again, err := ParseFolded(strings.NewReader(once.String()), TypeCPU, nil)
		if err != nil {
			t.Fatalf("%q: %v", once.String(), err)
		}
		if err := WriteFolded(&twice, again, &again.Profiles[0]); err != nil {
			t.Fatal(err)
		}
		if once.String() != twice.String() {
			t.Fatalf("%q\nis not stable\n%q", once.String(), twice.String())
		}
	})
}

package profile

import (
	"math/rand/v2"
	"testing"
)

// Interning gives equal things one index and different things different ones, however many there are.
func TestDictionary(t *testing.T) {
	d := NewDictionary()
	r := rand.New(rand.NewPCG(3, 4))
	frames := map[Addr]FrameIndex{}
	for range 20000 {
		addr := Addr(r.IntN(5000))
		got := d.Frame(Frame{Addr: addr, Lines: []Line{{Function: 0, Line: int32(addr % 3)}}})
		if want, ok := frames[addr]; ok && got != want {
			t.Fatalf("frame %d: index %d, was %d", addr, got, want)
		}
		frames[addr] = got
	}
	if len(d.Frames) != len(frames)+1 {
		t.Errorf("%d frames for %d different ones", len(d.Frames)-1, len(frames))
	}
	stacks := map[[3]FrameIndex]StackIndex{}
	for range 50000 {
		key := [3]FrameIndex{FrameIndex(r.IntN(30)), FrameIndex(r.IntN(30)), FrameIndex(r.IntN(30))}
		got := d.Stack(key[:])
		if want, ok := stacks[key]; ok && got != want {
			t.Fatalf("stack %v: index %d, was %d", key, got, want)
		}
		stacks[key] = got
	}
	if len(d.Stacks) != len(stacks)+1 {
		t.Errorf("%d stacks for %d different ones", len(d.Stacks)-1, len(stacks))
	}
	for key, i := range stacks {
		if [3]FrameIndex(d.Stacks[i]) != key {
			t.Fatalf("stack %d is %v, want %v", i, d.Stacks[i], key)
		}
	}
}

// Frames that differ in one thing only are different; a stack that is its own beginning is, too; one that is longer
// than what is allocated at a time is kept whole.
func TestDictionaryDistinguishes(t *testing.T) {
	d := NewDictionary()
	seen := map[FrameIndex]int{}
	for n, f := range []Frame{
		{Addr: 1}, {Addr: 1, Kind: KindKernel}, {Addr: 1, Mapping: 1}, {Addr: 1, Lines: []Line{{}}},
		{Addr: 1, Lines: []Line{{Line: 1}}}, {Addr: 1, Lines: []Line{{Column: 1}}}, {Addr: 1, Lines: []Line{{Function: 1}}}, {Addr: 1, Lines: []Line{{}, {}}},
	} {
		i := d.Frame(f)
		if other, ok := seen[i]; ok {
			t.Errorf("frames %d and %d are one", other, n)
		}
		seen[i] = n
	}
	long := make(Stack, 3*arenaFrames)
	a, b := d.Stack(long), d.Stack(long[:len(long)-1])
	if a == b || len(d.Stacks[a]) != len(long) || d.Stack(long) != a {
		t.Error("a long stack is not kept")
	}
	long[0] = 1
	if d.Stacks[a][0] != 0 {
		t.Error("the dictionary keeps the caller's stack")
	}
	if d.Stack(nil) != 0 {
		t.Error("the empty stack is not 0")
	}
}

// What was added without being looked up is found by content afterwards.
func TestDictionaryCatchesUp(t *testing.T) {
	d := NewDictionary()
	d.Function(Function{Name: "a"})
	d.Functions = append(d.Functions, Function{Name: "b"}, Function{Name: "c"})
	for want, name := range []string{"", "a", "b", "c", "d"} {
		if got := d.Function(Function{Name: name}); got != FunctionIndex(want) {
			t.Errorf("function %q is %d, want %d", name, got, want)
		}
	}
	one := d.Frame(Frame{Addr: 1})
	d.Frames = append(d.Frames, Frame{Addr: 2, Lines: []Line{{Function: 1}}})
	two, three := d.Frame(Frame{Addr: 2, Lines: []Line{{Function: 1}}}), d.Frame(Frame{Addr: 2})
	if one != 1 || two != 2 || three != 3 {
		t.Errorf("frames are %d, %d and %d", one, two, three)
	}
	if i := d.AddStack(Stack{one, two}); i != 1 || d.Stack(Stack{two}) != 2 || d.Stack(Stack{one, two}) != 1 || d.AddStack(Stack{three}) != 3 || d.Stack(Stack{three}) != 3 {
		t.Errorf("stacks are %v", d.Stacks)
	}
}

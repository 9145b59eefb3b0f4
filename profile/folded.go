package profile

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// Folded text is one line per stack: the frames' names from the root to the leaf, joined by ';', a space, and
// the value in the type's unit.
//
//	main;handler;md5 60
//	main;read;vfs_read_[k] 7
//	[unwind: no unwind information];memcpy 3
//	[no stack] 1
//
// Inlined functions are frames of their own. Kernel frames end in "_[k]"; an unfinished stack begins with
// "[unwind: reason]". Names keep their spaces: the value is what follows a line's last space. What would
// be misread is written as \x and two hex digits: ';' as \x3b, line breaks as \x0a and \x0d, a backslash
// before an x as \x5c, the '[' of a name that only looks like one of the marks above as \x5b, a '#' at the
// beginning of a line as \x23. Empty lines and lines that begin with '#' are comments.
const (
	foldedKernel  = "_[k]"
	foldedUnwind  = "[unwind: "
	foldedNoStack = "[no stack]"
	foldedEmpty   = "[unknown]"

	maxFoldedLine = 16 << 20
)

// KernelFile is the name of the mapping that kernel frames lie in.
const KernelFile = "[kernel.kallsyms]"

// WriteFolded writes p, a profile of b, as folded text: stacks of equal names are one line, lines are in
// the order of a depth-first walk.
func WriteFolded(w io.Writer, b *Batch, p *Profile) error { return NewTree(b, p).WriteFolded(w) }

// WriteFolded writes the tree as folded text.
func (t *Tree) WriteFolded(w io.Writer) error { return t.byText().writeFolded(w, nil) }

// writeFolded writes a tree that [Tree.byText] made; with before, if it is not nil, in front of each value.
func (t *Tree) writeFolded(w io.Writer, before []int64) error {
	bw := bufio.NewWriterSize(w, 64<<10)
	var line []byte
	starts := make([]int, 0, 64) // by depth: where its line's end was
	var ends []uint32
	for i := range uint32(t.Len()) {
		for len(ends) > 0 && ends[len(ends)-1] <= i {
			ends = ends[:len(ends)-1]
			line = line[:starts[len(starts)-1]]
			starts = starts[:len(starts)-1]
		}
		if i > 0 {
			starts, ends = append(starts, len(line)), append(ends, t.End[i])
			name := t.Name(i)
			if len(line) > 0 {
				line = append(line, ';')
			} else if name[0] == '#' {
				name = `\x23` + name[1:]
			}
			line = append(line, name...)
		}
		if t.Self[i] == 0 && (before == nil || before[i] == 0) {
			continue
		}
		if i == 0 {
			bw.WriteString(foldedNoStack)
		} else {
			bw.Write(line)
		}
		if before != nil {
			bw.WriteByte(' ')
			bw.Write(strconv.AppendInt(bw.AvailableBuffer(), before[i], 10))
		}
		bw.WriteByte(' ')
		bw.Write(strconv.AppendInt(bw.AvailableBuffer(), t.Self[i], 10))
		if err := bw.WriteByte('\n'); err != nil {
			return fmt.Errorf("writing folded text: %w", err)
		}
	}
	if err := bw.Flush(); err != nil {
		return fmt.Errorf("writing folded text: %w", err)
	}
	return nil
}

// byText returns the tree of what folded text shows of the frames of t.
func (t *Tree) byText() *Tree {
	frames := make([]TreeFrame, len(t.Frames))
	strs := []string{""}
	ids := map[string]uint32{}
	same := make([]uint32, 1, len(t.Frames)) // by string: the one frame with it
	rename := make([]uint32, len(t.Frames))
	for i := 1; i < len(t.Frames); i++ {
		text := foldedName(t.Strings[t.Frames[i].Name], t.Frames[i].Kind)
		id, ok := ids[text]
		if !ok {
			id = uint32(len(strs))
			strs = append(strs, text)
			same = append(same, uint32(i))
			ids[text] = id
		}
		frames[i].Name = id
		rename[i] = same[id]
	}
	tb := newTreeBuilder(t.Len())
	tb.self[0] = t.Self[0]
	for c := range t.Children(0) {
		tb.graft(0, t, c, rename)
	}
	return tb.tree(frames, strs)
}

var foldedEscaper = strings.NewReplacer(";", `\x3b`, "\n", `\x0a`, "\r", `\x0d`, `\x`, `\x5cx`)

func foldedName(name string, kind Kind) string {
	marked := strings.HasSuffix(name, foldedKernel)
	name = foldedEscaper.Replace(name)
	switch {
	case kind == KindUnwind:
		if !strings.HasPrefix(name, foldedUnwind) {
			name = foldedUnwind + strings.Trim(name, "[]") + "]"
		}
		return name
	case name == "":
		name = foldedEmpty
	case strings.HasPrefix(name, foldedUnwind), name == foldedNoStack:
		name = `\x5b` + name[1:]
	}
	if kind == KindKernel {
		return name + foldedKernel
	}
	if marked {
		name = name[:len(name)-3] + `\x5b` + "k]"
	}
	return name
}

// unfoldName undoes the escapes; what looks like one but is none that foldedName makes stays as it is.
func unfoldName(s string) string {
	if !strings.Contains(s, `\x`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if i+3 < len(s) && s[i] == '\\' && s[i+1] == 'x' {
			c := byte(0)
			switch s[i+2 : i+4] {
			case "0a":
				c = '\n'
			case "0d":
				c = '\r'
			case "23":
				c = '#'
			case "3b":
				c = ';'
			case "5b":
				c = '['
			case "5c":
				c = '\\'
			}
			if c != 0 {
				b.WriteByte(c)
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// FoldedOptions says how folded text becomes a profile. The zero value works.
type FoldedOptions struct {
	// Labels are those of the series.
	Labels Labels
	// Lines says that lines are stacks without a value: each is one.
	Lines bool
	// MaxBytes bounds the memory that reading takes; 0: not bounded.
	MaxBytes int64
}

// ParseFolded reads folded text as one profile of that type with these labels. Lines with equal stacks are
// summed. An error names the line. It reads lines of up to 16 MiB; how much there may be in all is for the
// caller to bound.
func ParseFolded(r io.Reader, t Type, labels Labels) (*Batch, error) {
	return ReadFolded(r, t, FoldedOptions{Labels: labels})
}

// ReadFolded is ParseFolded with options. What takes more memory than MaxBytes is ErrTooLarge.
func ReadFolded(r io.Reader, t Type, o FoldedOptions) (*Batch, error) {
	d := NewDictionary()
	p := Profile{Type: t, Labels: o.Labels}
	kernel := d.Mapping(Mapping{File: KernelFile})
	at := map[StackIndex]int{} // where in p.Samples
	frames := map[string]FrameIndex{}
	left := newBudget(o.MaxBytes)
	var stack Stack
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 64<<10), maxFoldedLine)
	n := 0
	for sc.Scan() {
		n++
		line := strings.TrimSuffix(sc.Text(), "\r")
		if line == "" || line[0] == '#' {
			continue
		}
		rest, v := line, int64(1)
		if !o.Lines {
			space := strings.LastIndexByte(line, ' ')
			if space < 0 {
				return nil, fmt.Errorf("parsing folded text: line %d: want \"a;b;c VALUE\", there is no space", n)
			}
			var err error
			if v, err = strconv.ParseInt(line[space+1:], 10, 64); err != nil {
				return nil, fmt.Errorf("parsing folded text: line %d: want a whole number after the last space, not %.40q", n, line[space+1:])
			}
			rest = line[:space]
		}
		stack = stack[:0]
		if rest != foldedNoStack {
			for more := true; more; {
				var name string
				if name, rest, more = strings.Cut(rest, ";"); len(stack) == 0 && strings.HasPrefix(name, foldedUnwind) {
					stack = append(stack, d.Frame(Frame{Kind: KindUnwind, Lines: []Line{{Function: d.Function(Function{Name: strings.Clone(validText(unfoldName(name)))})}}}))
					continue
				}
				f, ok := frames[name]
				if !ok {
					f = d.foldedFrame(name, kernel)
					frames[strings.Clone(name)] = f
					left.bytes -= namedFrameCost + 3*int64(len(name))
				}
				stack = append(stack, f)
			}
		}
		for i, j := 0, len(stack)-1; i < j; i, j = i+1, j-1 {
			stack[i], stack[j] = stack[j], stack[i]
		}
		si := d.Stack(stack)
		i, ok := at[si]
		if !ok {
			i = len(p.Samples)
			at[si] = i
			p.Samples = append(p.Samples, Sample{Stack: si})
			left.bytes -= stackCost + 4*int64(len(stack))
		}
		if total := p.Samples[i].Value; v > 0 && total > math.MaxInt64-v || v < 0 && total < math.MinInt64-v {
			return nil, fmt.Errorf("parsing folded text: line %d: the sum of this stack's values is more than a number can hold", n)
		}
		p.Samples[i].Value += v
		if err := left.spend(0, 0); err != nil {
			return nil, fmt.Errorf("parsing folded text: line %d: %w", n, err)
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("reading folded text: line %d: %w", n+1, err)
	}
	return &Batch{Dictionary: d, Profiles: []Profile{p}}, nil
}

func (d *Dictionary) foldedFrame(name string, kernel MappingIndex) FrameIndex {
	f := Frame{Kind: KindNative}
	if n, ok := strings.CutSuffix(name, foldedKernel); ok {
		name, f.Kind, f.Mapping = n, KindKernel, kernel
	}
	if name == "" {
		name = foldedEmpty
	}
	f.Lines = []Line{{Function: d.Function(Function{Name: strings.Clone(validText(unfoldName(name)))})}}
	return d.Frame(f)
}

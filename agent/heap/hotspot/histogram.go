package hotspot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/perfuse/perfuse/profile"
)

// Class is what a class has on the heap.
type Class struct {
	// Name is as in Java's source: "java.util.HashMap$Node[]". Hidden classes lose the number that differs from run to run, and those
	// of one name are one.
	Name           string
	Objects, Bytes int64
}

// Histogram asks for the classes on the heap, the largest first. If live, the JVM makes a full collection first and counts what is alive;
// else it counts garbage too. Both stop the program's threads: measured with 100 MB in 1.5 million objects, 73 ms with the collection
// and 21 ms without.
func (j *JVM) Histogram(ctx context.Context, live bool) ([]Class, error) {
	command := "GC.class_histogram"
	if !live {
		command += " -all"
	}
	text, err := j.command(ctx, command)
	if err != nil {
		return nil, err
	}
	classes, err := parseHistogram(text)
	if err != nil {
		return nil, fmt.Errorf("%s in process %d: %w", command, j.PID, err)
	}
	return classes, nil
}

// parseHistogram reads what GC.class_histogram prints:
//
//	 num     #instances         #bytes  class name (module)
//	-------------------------------------------------------
//	   1:          5142         518456  [B (java.base@17.0.15)
//	Total         25142        1518456
func parseHistogram(text string) ([]Class, error) {
	byName := map[string]int{}
	var classes []Class
	total := false
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "Total" {
			total = true
			break
		}
		if len(f) < 4 || !strings.HasSuffix(f[0], ":") {
			continue
		}
		objects, err1 := strconv.ParseInt(f[1], 10, 64)
		bytes, err2 := strconv.ParseInt(f[2], 10, 64)
		if err1 != nil || err2 != nil || objects < 0 || bytes < 0 || objects > maxHeap || bytes > maxHeap {
			continue
		}
		// A class's name may have spaces in it, the module behind it has none.
		name := strings.TrimSpace(line)
		for range 3 {
			_, name, _ = strings.Cut(name, " ")
			name = strings.TrimLeft(name, " \t")
		}
		if before, module, ok := cutLast(name, " ("); ok && strings.HasSuffix(module, ")") {
			name = before
		}
		name = className(name)
		if name == "" {
			continue
		}
		i, ok := byName[name]
		if !ok {
			i = len(classes)
			byName[name] = i
			classes = append(classes, Class{Name: name})
		}
		c := &classes[i]
		c.Objects, c.Bytes = min(c.Objects+objects, maxHeap), min(c.Bytes+bytes, maxHeap)
	}
	if !total {
		return nil, errors.New("the histogram has no end; it begins with " + strconv.Quote(firstLine(text)))
	}
	slices.SortStableFunc(classes, func(a, b Class) int { return int(min(max(b.Bytes-a.Bytes, -1), 1)) })
	return classes, nil
}

// maxHeap bounds numbers of bytes, so that sums of them stay numbers: 256 TiB.
const maxHeap = 1 << 48

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

var primitives = map[byte]string{
	'B': "byte", 'C': "char", 'D': "double", 'F': "float", 'I': "int", 'J': "long", 'S': "short", 'Z': "boolean",
}

// className turns the JVM's name of a class into that of Java's source: "[Ljava/lang/String;" is "java.lang.String[]".
func className(name string) string {
	dimensions := 0
	for dimensions < len(name) && dimensions < 255 && name[dimensions] == '[' {
		dimensions++
	}
	if dimensions > 0 {
		element := name[dimensions:]
		switch {
		case len(element) == 1 && primitives[element[0]] != "":
			name = primitives[element[0]]
		case len(element) > 2 && element[0] == 'L' && strings.HasSuffix(element, ";"):
			name = element[1 : len(element)-1]
		default:
			return "" // no name of a class
		}
	}
	name = strings.ToValidUTF8(name[:min(len(name), 1024)], "�")
	return profile.JavaClass(name) + strings.Repeat("[]", dimensions)
}

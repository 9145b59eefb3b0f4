// Command heap allocates what it is told at sites that are known, and says what its own runtime has counted.
//
// Its arguments are the profiling rate and "off" if the collector is to stay off. Every line on its standard
// input is an order, every answer a line:
//
//	site N SIZE   keeps N objects of SIZE bytes, allocated in main.keep
//	drop          forgets all of them
//	gc            collects twice, so that what was freed is counted
//	wide N        allocates an object at each of N stacks that differ
//	deep N SIZE   allocates one below N calls
//	storm N       allocates in N goroutines from now on
//	profile       answers with runtime.MemProfile, in JSON
//	frames        answers with the heap profile of runtime/pprof, as its samples' functions and values
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
)

// Record is a bucket as the program sees it.
type Record struct {
	AllocBytes, FreeBytes, AllocObjects, FreeObjects int64
	Stack                                            []uintptr
	Frames                                           []string
}

var (
	kept    [][]byte
	sink    interface{}
	records = make([]runtime.MemProfileRecord, 64<<10)
)

func main() {
	rate, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	runtime.MemProfileRate = rate
	if len(os.Args) > 2 && os.Args[2] == "off" {
		debug.SetGCPercent(-1)
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		order := strings.Fields(in.Text())
		n := 0
		if len(order) > 1 {
			n, _ = strconv.Atoi(order[1])
		}
		switch order[0] {
		case "site":
			size, _ := strconv.Atoi(order[2])
			keep(n, size)
		case "drop":
			kept = nil
		case "gc":
			runtime.GC()
			runtime.GC()
		case "wide":
			for i := 0; i < n; i++ {
				wide(i, 16)
			}
		case "deep":
			size, _ := strconv.Atoi(order[2])
			deep(n, size)
		case "storm":
			for i := 0; i < n; i++ {
				go storm()
			}
		case "profile":
			profile()
			continue
		case "frames":
			frames()
			continue
		}
		fmt.Println("done")
	}
}

//go:noinline
func keep(n, size int) {
	for i := 0; i < n; i++ {
		kept = append(kept, outer(size))
	}
}

// outer is inlined, and what it calls, too: one machine frame for three functions.
func outer(size int) []byte { return middle(size) }

func middle(size int) []byte { return inner(size) }

func inner(size int) []byte { return make([]byte, size) }

// wide goes one of two ways at each bit of i.
//
//go:noinline
func wide(i, bits int) {
	if bits == 0 {
		sink = new([32]int)
		return
	}
	if i&1 == 0 {
		wide(i>>1, bits-1)
	} else {
		wide(i>>1, bits-1)
	}
}

//go:noinline
func deep(n, size int) {
	if n == 0 {
		sink = make([]byte, size)
		return
	}
	deep(n-1, size)
}

func storm() {
	for i := 0; ; i++ {
		local := make([][]byte, 0, 16)
		for j := 0; j < 16; j++ {
			local = append(local, make([]byte, 1<<uint(i%16)))
			wide(i*16+j, 12)
		}
		_ = local
	}
}

func profile() {
	n, ok := runtime.MemProfile(records, true)
	if !ok {
		panic("more records than expected")
	}
	var out []Record
	for _, r := range records[:n] {
		rec := Record{r.AllocBytes, r.FreeBytes, r.AllocObjects, r.FreeObjects, r.Stack(), nil}
		frames := runtime.CallersFrames(r.Stack())
		for {
			f, more := frames.Next()
			rec.Frames = append(rec.Frames, f.Function)
			if !more {
				break
			}
		}
		out = append(out, rec)
	}
	b, err := json.Marshal(out)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(b))
}

// frames answers in base-16, for the profile is binary.
func frames() {
	var b bytes.Buffer
	if err := pprof.Lookup("heap").WriteTo(&b, 0); err != nil {
		panic(err)
	}
	fmt.Printf("%x\n", b.Bytes())
}

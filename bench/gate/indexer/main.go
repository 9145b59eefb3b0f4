// Command indexer is a program to be judged: it makes documents, counts and sorts their words, packs them and sums them
// up, always the same ones. -slower makes one function do more, -sort chooses between two versions of another. It writes
// profiles of itself.
package main

import (
	"flag"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
)

// sampleRate is what timers of threads do at most with the kernel's usual 250 ticks a second.
const sampleRate = 250

func main() {
	documents := flag.Int("documents", 300, "how many")
	slower := flag.Float64("slower", 0, "by how many percent digest is slower")
	version := flag.String("sort", "quick", "quick, or heap")
	cpu := flag.String("cpuprofile", "", "write a profile of the CPU time to this file")
	memory := flag.String("memprofile", "", "write a profile of allocations to this file")
	flag.Parse()
	if err := run(*documents, *slower, *version, *cpu, *memory); err != nil {
		fmt.Fprintln(os.Stderr, "indexer:", err)
		os.Exit(1)
	}
}

func run(documents int, slower float64, version, cpu, memory string) error {
	sort, ok := map[string]func([]word){"quick": quickSort, "heap": heapSort}[version]
	if !ok {
		return fmt.Errorf("-sort %q: want quick or heap", version)
	}
	if memory != "" {
		runtime.MemProfileRate = 512
	}
	if cpu != "" {
		f, err := os.Create(cpu)
		if err != nil {
			return err
		}
		defer f.Close()
		runtime.SetCPUProfileRate(sampleRate) // pprof finds it set, and says so on standard error
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	fmt.Printf("%016x\n", index(documents, slower, sort))
	if memory == "" {
		return nil
	}
	f, err := os.Create(memory)
	if err != nil {
		return err
	}
	defer f.Close()
	return pprof.Lookup("allocs").WriteTo(f, 0)
}

// index does it all and returns a sum of what came out.
func index(documents int, slower float64, sort func([]word)) (sum uint64) {
	random := rand.New(rand.NewPCG(1, 2))
	vocabulary := makeVocabulary(random, 4000)
	for range documents {
		text := write(random, vocabulary, 12000)
		words := count(text)
		sortWords(words, sort)
		packed := pack(text)
		sum += uint64(len(packed)) + digest(text, slower) + uint64(crc32.ChecksumIEEE(packed)) + uint64(words[0].count)
	}
	return sum
}

func makeVocabulary(random *rand.Rand, n int) []string {
	words := make([]string, n)
	for i := range words {
		word := make([]byte, 3+random.IntN(9))
		for k := range word {
			word[k] = byte('a' + random.IntN(26))
		}
		words[i] = string(word)
	}
	return words
}

//go:noinline
func write(random *rand.Rand, vocabulary []string, n int) []byte {
	var b strings.Builder
	for range n {
		at := random.Float64() * random.Float64() // some words are more frequent than others
		b.WriteString(vocabulary[int(at*float64(len(vocabulary)))])
		b.WriteByte(' ')
	}
	return []byte(b.String())
}

type word struct {
	text  string
	count int
}

//go:noinline
func count(text []byte) []word {
	counts := map[string]int{}
	for len(text) > 0 {
		end := 0
		for text[end] != ' ' {
			end++
		}
		counts[string(text[:end])]++
		text = text[end+1:]
	}
	words := make([]word, 0, len(counts))
	for text, n := range counts {
		words = append(words, word{text, n})
	}
	return words
}

// less orders words by their count, and those of one by text.
//
//go:noinline
func less(a, b *word) bool {
	if a.count != b.count {
		return a.count > b.count
	}
	return a.text < b.text
}

// sortWords sorts by text and by count several times, as somebody who shows the list in several orders.
//
//go:noinline
func sortWords(words []word, sort func([]word)) {
	for range 4 {
		for i := range words { // back to an order that has nothing to do with the wanted one
			k := int(crc32.ChecksumIEEE([]byte(words[i].text))) % len(words)
			words[i], words[k] = words[k], words[i]
		}
		sort(words)
	}
}

// quickSort is the first version: the middle one of three, the rest by insertion.
//
//go:noinline
func quickSort(w []word) {
	for len(w) > 12 {
		first, middle, last := 0, len(w)/2, len(w)-1
		if less(&w[middle], &w[first]) {
			w[middle], w[first] = w[first], w[middle]
		}
		if less(&w[last], &w[middle]) {
			w[last], w[middle] = w[middle], w[last]
			if less(&w[middle], &w[first]) {
				w[middle], w[first] = w[first], w[middle]
			}
		}
		pivot, i, k := w[middle], first, last
		for i <= k {
			for less(&w[i], &pivot) {
				i++
			}
			for less(&pivot, &w[k]) {
				k--
			}
			if i <= k {
				w[i], w[k] = w[k], w[i]
				i++
				k--
			}
		}
		quickSort(w[:k+1])
		w = w[i:]
	}
	for i := 1; i < len(w); i++ {
		for k := i; k > 0 && less(&w[k], &w[k-1]); k-- {
			w[k], w[k-1] = w[k-1], w[k]
		}
	}
}

// heapSort is the second version: it needs no stack, and is never quadratic.
//
//go:noinline
func heapSort(w []word) {
	for i := len(w)/2 - 1; i >= 0; i-- {
		siftDown(w, i)
	}
	for end := len(w) - 1; end > 0; end-- {
		w[0], w[end] = w[end], w[0]
		siftDown(w[:end], 0)
	}
}

//go:noinline
func siftDown(w []word, at int) {
	for {
		child := 2*at + 1
		if child >= len(w) {
			return
		}
		if child+1 < len(w) && less(&w[child], &w[child+1]) {
			child++
		}
		if !less(&w[at], &w[child]) {
			return
		}
		w[at], w[child] = w[child], w[at]
		at = child
	}
}

// pack replaces what came before by a distance and a length, found by a table of the last place of every four bytes.
//
//go:noinline
func pack(text []byte) (out []byte) {
	var last [1 << 14]int
	for at := 0; at < len(text); {
		if at+4 > len(text) {
			return append(out, text[at:]...)
		}
		four := uint32(text[at]) | uint32(text[at+1])<<8 | uint32(text[at+2])<<16 | uint32(text[at+3])<<24
		slot := four * 2654435761 >> 18
		before := last[slot] - 1
		last[slot] = at + 1
		n := 0
		if before >= 0 && at-before < 1<<16 {
			n = common(text[before:], text[at:])
		}
		if n < 4 {
			out = append(out, text[at])
			at++
			continue
		}
		out = append(out, 0, byte(at-before), byte((at-before)>>8), byte(n))
		at += n
	}
	return out
}

//go:noinline
func common(a, b []byte) (n int) {
	for n < len(b) && n < 255 && a[n] == b[n] {
		n++
	}
	return n
}

// digest mixes all bytes several times, and so many percent more.
//
//go:noinline
func digest(text []byte, slower float64) uint64 {
	const rounds = 48
	var h uint64 = 14695981039346656037
	for left := int(float64(rounds*len(text)) * (1 + slower/100)); left > 0; left -= len(text) {
		for _, b := range text[:min(left, len(text))] {
			h = (h ^ uint64(b)) * 1099511628211
		}
	}
	return h
}

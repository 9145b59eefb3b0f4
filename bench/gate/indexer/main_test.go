package main

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestVersionsAgree says that both ways of sorting, and the slower digest, are versions of one program.
func TestVersionsAgree(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	words := count(write(random, makeVocabulary(random, 500), 5000))
	quick, heap := slices.Clone(words), slices.Clone(words)
	quickSort(quick)
	heapSort(heap)
	if !slices.Equal(quick, heap) {
		t.Error("the versions sort differently")
	}
	if !slices.IsSortedFunc(quick, func(a, b word) int {
		if less(&a, &b) {
			return -1
		}
		return 1
	}) {
		t.Error("it is not sorted")
	}
	if a, b := index(2, 0, quickSort), index(2, 0, heapSort); a != b {
		t.Errorf("the sums are %x and %x", a, b)
	}
	text := []byte("a text that is long enough")
	if digest(text, 0) == digest(text, 10) {
		t.Error("a slower digest does no more")
	}
}

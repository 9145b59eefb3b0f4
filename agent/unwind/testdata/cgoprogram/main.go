// A program of C and Go, whose unwind information tests read.
package main

/*
#include <stdlib.h>

extern int back(int);

static int compare(const void *a, const void *b) { return back(*(const int *)a - *(const int *)b); }

static int sorted(int n) {
	int v[16];
	for (int i = 0; i < 16; i++)
		v[i] = (i * 7 + n) % 16;
	qsort(v, 16, sizeof *v, compare);
	return v[3];
}
*/
import "C"

import (
	"fmt"
	"os"
)

//export back
func back(n C.int) C.int {
	for range 100 {
		n = n*7 - n>>1*13
	}
	return n
}

func main() {
	fmt.Println(C.sorted(3))
	for len(os.Args) > 1 {
		C.sorted(5)
	}
}

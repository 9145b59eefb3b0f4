package elf

import (
	"fmt"
	"runtime/debug"
)

// Guard runs f. A fault on memory that f reads (a mapped file that somebody truncated) becomes an error,
// where it would end the process. It covers f's own goroutine only.
func Guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch r := recover().(type) {
		case nil:
		case interface{ Addr() uintptr }: // runtime's error for a memory fault
			err = fmt.Errorf("reading a mapped file: it shrank at address %#x", r.Addr())
		default:
			panic(r)
		}
	}()
	return f()
}

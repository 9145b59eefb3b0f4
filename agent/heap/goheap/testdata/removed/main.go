// Command removed cannot read its own memory profile, so that the linker takes profiling out.
package main

import "os"

func main() {
	var b [1]byte
	os.Stdout.WriteString("ready\n")
	os.Stdin.Read(b[:])
}

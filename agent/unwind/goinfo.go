package unwind

// GoInfo is what following a Go program's stacks needs beyond rows.
type GoInfo struct {
	// Version is the toolchain's, as in "go1.26.1"; empty if the file does not tell.
	Version string
	// Text is the Go code. Other code in the file (cgo) lies outside.
	Text Range
	// Switches are the functions that change stacks, by name without "runtime.": systemstack, mcall,
	// morestack, asmcgocall, cgocallback, gogo and their like. Those that the file lacks are absent.
	Switches map[string]Range
	// Labels is nil for a program that cannot set labels.
	Labels *GoLabels
}

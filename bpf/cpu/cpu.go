// Package cpu holds the kernel side of CPU sampling: perf_event programs that walk kernel and user stacks
// and count them, and the tracepoints that keep their process table true. Package agent/sampler runs them.
package cpu

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target amd64,arm64 -go-package cpu -type stack_record -type sample_key -type frame -type process -type mapping -type object -type block -type rule -type stop -type drop -type frame_kind cpu cpu.bpf.c -- -O2 -g -Wall -Wextra -Werror -Wno-unused-parameter -I../include

// What the C and C++ workloads share: the unit of work, and how long to go on.
//
// The unit is a chain of dependent multiplications, about four cycles a step wherever the loop lies and whatever
// surrounds it, so that iterations are CPU time. Each hot function has a multiplier of its own, else a compiler
// may merge equal bodies. A round is ten units, some 50 ms: seven in hot70, two in hot20, one in hot10. It is long beside
// the time between two samples, so that chance moves the split little, and only whole rounds are made.
#pragma once
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#define UNIT 4000000UL

// KEEP: neither inlined, nor cloned, nor merged, nor specialised for its arguments.
#if defined(__clang__)
#define KEEP __attribute__((noinline))
#else
#define KEEP __attribute__((noipa))
#endif

#define WORK(x, n, multiplier)                            \
	do {                                              \
		for (uint64_t left = (n); left > 0; left--) \
			(x) = ((x) * (multiplier)) ^ ((x) >> 13); \
	} while (0)

#define HOT70 0x9e3779b97f4a7c15UL
#define HOT20 0xc2b2ae3d27d4eb4fUL
#define HOT10 0x165667b19e3779f9UL

// until returns the CPU seconds after which the program ends: its first argument, or never.
static inline double until(int argc, char **argv)
{
	double seconds = argc > 1 ? atof(argv[1]) : 0;
	return seconds > 0 ? seconds : 1e18;
}

// burnt returns the CPU seconds that this process has used.
static inline double burnt(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

// sink keeps the compiler from dropping the work.
static volatile uint64_t sink;

// TURNS is a round for work whose steps cost what the machine makes of them (calls, branches, clocks): each of ten turns
// goes to the function that is furthest behind its share of the CPU time spent so far.
#define TURNS(x, steps)                                                                                            \
	for (int turn = 0; turn < 10; turn++) {                                                                    \
		static double spent[3];                                                                            \
		double before = burnt();                                                                           \
		int next = spent[0] / 7 <= spent[1] / 2 ? 0 : 1;                                                   \
		next = spent[2] < spent[next] / (next == 0 ? 7 : 2) ? 2 : next;                                    \
		(x) += next == 0 ? hot70((x), (steps)) : next == 1 ? hot20((x), (steps)) : hot10((x), (steps)); \
		spent[next] += burnt() - before;                                                                   \
	}

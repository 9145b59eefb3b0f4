// As split.c, with bravo and delta inlined into their callers and the loop of each hot function in an inlined
// spin. Built with -g: inlined functions are frames of their own.
#include "work.h"

#define INLINED static inline __attribute__((always_inline))

INLINED uint64_t spin(uint64_t x, uint64_t n, uint64_t multiplier) { WORK(x, n, multiplier); return x; }

KEEP uint64_t hot70(uint64_t x, uint64_t n) { return spin(x, n, HOT70); }
KEEP uint64_t hot20(uint64_t x, uint64_t n) { return spin(x, n, HOT20); }
KEEP uint64_t hot10(uint64_t x, uint64_t n) { return spin(x, n, HOT10); }

KEEP uint64_t echo(uint64_t x)
{
	x += hot70(x, 7 * UNIT);
	x += hot20(x, 2 * UNIT);
	x += hot10(x, 1 * UNIT);
	return x;
}
INLINED uint64_t delta(uint64_t x) { return echo(x + 1) ^ x; }
KEEP uint64_t charlie(uint64_t x) { return delta(x + 2) ^ x; }
INLINED uint64_t bravo(uint64_t x) { return charlie(x + 3) ^ x; }
KEEP uint64_t alpha(uint64_t x) { return bravo(x + 4) ^ x; }

int main(int argc, char **argv)
{
	for (double end = until(argc, argv); burnt() < end;)
		sink = alpha(sink);
	return 0;
}

// As split.c, but the work is asking for the time: most samples lie in the vDSO, a mapping without a file.
#include "work.h"

#define ASK(x, n)                                                  \
	for (uint64_t left = (n); left > 0; left--) {              \
		struct timespec now;                               \
		clock_gettime(CLOCK_MONOTONIC, &now);              \
		(x) += (uint64_t)now.tv_nsec;                      \
	}

KEEP uint64_t hot70(uint64_t x, uint64_t n) { ASK(x, n); return x ^ HOT70; }
KEEP uint64_t hot20(uint64_t x, uint64_t n) { ASK(x, n); return x ^ HOT20; }
KEEP uint64_t hot10(uint64_t x, uint64_t n) { ASK(x, n); return x ^ HOT10; }

KEEP uint64_t echo(uint64_t x)
{
	TURNS(x, UNIT / 20);
	return x;
}
KEEP uint64_t delta(uint64_t x) { return echo(x + 1) ^ x; }
KEEP uint64_t charlie(uint64_t x) { return delta(x + 2) ^ x; }
KEEP uint64_t bravo(uint64_t x) { return charlie(x + 3) ^ x; }
KEEP uint64_t alpha(uint64_t x) { return bravo(x + 4) ^ x; }

int main(int argc, char **argv)
{
	for (double end = until(argc, argv); burnt() < end;)
		sink = alpha(sink);
	return 0;
}

// As split.c, but each step of the work is a call through the procedure linkage table: many samples lie in its
// stubs, before any frame stands.
#include "work.h"

extern uint64_t tiny(uint64_t x);

#define CALLS(x, n) \
	for (uint64_t left = (n); left > 0; left--) \
		(x) = tiny((x) + left)

KEEP uint64_t hot70(uint64_t x, uint64_t n) { CALLS(x, n); return x ^ HOT70; }
KEEP uint64_t hot20(uint64_t x, uint64_t n) { CALLS(x, n); return x ^ HOT20; }
KEEP uint64_t hot10(uint64_t x, uint64_t n) { CALLS(x, n); return x ^ HOT10; }

KEEP uint64_t echo(uint64_t x)
{
	TURNS(x, UNIT / 2);
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

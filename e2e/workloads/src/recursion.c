// main → down × 500 → echo → hot70, hot20, hot10: deeper than most profilers look.
#include "work.h"

#define DEPTH 500

KEEP uint64_t hot70(uint64_t x, uint64_t n) { WORK(x, n, HOT70); return x; }
KEEP uint64_t hot20(uint64_t x, uint64_t n) { WORK(x, n, HOT20); return x; }
KEEP uint64_t hot10(uint64_t x, uint64_t n) { WORK(x, n, HOT10); return x; }

KEEP uint64_t echo(uint64_t x)
{
	x += hot70(x, 7 * UNIT);
	x += hot20(x, 2 * UNIT);
	x += hot10(x, 1 * UNIT);
	return x;
}

KEEP uint64_t down(uint64_t x, int depth)
{
	if (depth == 1)
		return echo(x) ^ x;
	return down(x + 1, depth - 1) ^ x;
}

int main(int argc, char **argv)
{
	for (double end = until(argc, argv); burnt() < end;)
		sink = down(sink, DEPTH);
	return 0;
}

// main → alpha → bravo → charlie → delta → echo → hot70, hot20, hot10. Nothing after a call is a tail call.
#include "work.h"

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

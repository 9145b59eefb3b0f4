// The library that dlopen.c opens at run time: plugin_run → echo → hot70, hot20, hot10.
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
KEEP uint64_t plugin_run(uint64_t x) { return echo(x + 1) ^ x; }

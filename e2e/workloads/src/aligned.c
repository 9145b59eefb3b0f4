// As split.c, with frames that a compiler lays out in unusual ways: over-aligned locals beside alloca (gcc finds the
// caller by an expression, DW_CFA_def_cfa_expression), and a frame too large for one page.
#include "work.h"
#include <alloca.h>
#include <string.h>

KEEP void touch(void *p, size_t n) { memset(p, 1, n); }

KEEP uint64_t hot70(uint64_t x, uint64_t n) { WORK(x, n, HOT70); return x; }
KEEP uint64_t hot20(uint64_t x, uint64_t n) { WORK(x, n, HOT20); return x; }
KEEP uint64_t hot10(uint64_t x, uint64_t n) { WORK(x, n, HOT10); return x; }

// echo works from inside its own over-aligned frame, too.
KEEP uint64_t echo(uint64_t x)
{
	_Alignas(64) char local[128];
	touch(local, sizeof local);
	x += hot70(x + (uint64_t)local[1], 7 * UNIT);
	x += hot20(x + (uint64_t)local[2], 2 * UNIT);
	x += hot10(x + (uint64_t)local[3], 1 * UNIT);
	return x;
}
KEEP uint64_t delta(uint64_t x, size_t n)
{
	_Alignas(64) char local[64];
	char *more = alloca(n);
	touch(local, sizeof local);
	touch(more, n);
	return echo(x + (uint64_t)local[1]) ^ (uint64_t)more[n - 1];
}
KEEP uint64_t charlie(uint64_t x, size_t n)
{
	char *more = alloca(n);
	touch(more, n);
	return delta(x + 2, n) ^ (uint64_t)more[0];
}
KEEP uint64_t bravo(uint64_t x)
{
	char local[32 << 10];
	touch(local, sizeof local);
	return charlie(x + 3, 100 + (x & 63)) ^ (uint64_t)local[7];
}
KEEP uint64_t alpha(uint64_t x) { return bravo(x + 4) ^ x; }

int main(int argc, char **argv)
{
	for (double end = until(argc, argv); burnt() < end;)
		sink = alpha(sink);
	return 0;
}

/* A library with an allocator of its own, under the usual names. */
#include <stddef.h>

static char area[64 << 20] __attribute__((aligned(16)));
static size_t used;

__attribute__((noinline)) void *malloc(size_t n)
{
	void *p = area + used;

	used += (n + 15) / 16 * 16;
	return used <= sizeof(area) ? p : NULL;
}

__attribute__((noinline)) void *calloc(size_t n, size_t m) { return malloc(n * m); }

void free(void *p) { (void)p; }

void site_plugin(double mb)
{
	for (double n = mb * 1048576 / 2000 / 2; n > 0; n--) {
		*(volatile char *)malloc(2000) = 1;
		*(volatile char *)calloc(2, 1000) = 1;
	}
}

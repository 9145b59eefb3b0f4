/* Prints what lives at each site, or what was allocated there if its argument is "alloc". With "free" nothing lives. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "heap.h"

#define SITE __attribute__((noinline, noclone)) static void *
#define PART __attribute__((noinline, noclone)) static void

static void *volatile kept[BLOCKS];
static void *volatile gone[BLOCKS];
static long live[3], all[3];

static void *touched(void *p, long n)
{
	if (!p)
		exit(1);
	return memset(p, 1, n);
}

SITE keep70(long n)
{
	live[0] += n;
	all[0] += n;
	return touched(malloc(n), n);
}

SITE keep20(long n)
{
	void *p = touched(calloc(1, n / 2), n / 2);

	live[1] += n;
	all[1] += n + n / 2;
	return touched(realloc(p, n), n);
}

SITE keep10(long n)
{
	void *p;

	live[2] += n;
	all[2] += n;
	return posix_memalign(&p, 64, n) ? NULL : touched(p, n);
}

/* Half of what a site makes is freed again. */
PART make(void *volatile *to)
{
	for (long i = 0; i < BLOCKS; i++) {
		long n = size_of(i);

		to[i] = i % 10 < 7 ? keep70(n) : i % 10 < 9 ? keep20(n) : keep10(n);
	}
}

PART drop(void *volatile *from)
{
	for (long i = 0; i < BLOCKS; i++) {
		live[i % 10 < 7 ? 0 : i % 10 < 9 ? 1 : 2] -= size_of(i);
		free(from[i]);
	}
}

int main(int argc, char **argv)
{
	long *told = argc > 1 && !strcmp(argv[1], "alloc") ? all : live;
	struct timespec ready = { 2, 0 }, look = { 3, 0 };

	nanosleep(&ready, NULL);
	make(kept);
	make(gone);
	drop(gone);
	if (argc > 1 && !strcmp(argv[1], "free")) {
		nanosleep(&ready, NULL);
		drop(kept);
	}
	nanosleep(&look, NULL);
	printf("keep70 %ld\nkeep20 %ld\nkeep10 %ld\n", told[0], told[1], told[2]);
	return 0;
}

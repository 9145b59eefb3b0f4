/* Touches fresh pages, 70/20/10 by function, in step with itself; prints how many by function. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define PAGE 4096
#define TOUCH __attribute__((noinline, noclone)) static void

TOUCH touch(long pages)
{
	volatile char *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || madvise((void *)p, pages * PAGE, MADV_NOHUGEPAGE))
		exit(1);
	for (long i = 0; i < pages; i++)
		p[i * PAGE] = 1;
	munmap((void *)p, pages * PAGE);
}

static long sums[3];

TOUCH touch70(void)
{
	touch(700);
	sums[0] += 700;
}

TOUCH touch20(void)
{
	touch(200);
	sums[1] += 200;
}

TOUCH touch10(void)
{
	touch(100);
	sums[2] += 100;
}

int main(int argc, char **argv)
{
	for (long i = 0; i < (argc > 1 ? atol(argv[1]) : 1) * 500; i++) {
		touch70();
		touch20();
		touch10();
	}
	printf("touch70 %ld\ntouch20 %ld\ntouch10 %ld\n", sums[0], sums[1], sums[2]);
	return 0;
}

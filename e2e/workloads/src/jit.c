// Code that no file holds, as a JIT compiler makes it: main → alpha → (machine code in anonymous memory, with a frame
// pointer) → echo → hot70, hot20, hot10. Only the frame pointer leads through it; its name is in the perf map. With -DCHURN
// the map is rewritten all the time, shorter, longer, torn and with lies in it.
#include "work.h"
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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

typedef uint64_t compiled(uint64_t x, uint64_t (*callee)(uint64_t));
KEEP uint64_t alpha(compiled *code, uint64_t x) { return code(x + 4, echo) ^ x; }

// write_map writes the perf map, each time another way; only one in four is a whole one.
static int write_map(const char *path, const void *page, size_t size, unsigned round)
{
	FILE *map = fopen(path, "w");
	if (map == NULL)
		return -1;
	switch (round % 4) {
	case 1:
		fprintf(map, "%lx %zx torn_in_the_mid", (unsigned long)page, size);
		break;
	case 2:
		fprintf(map, "ffffffffffffffff ffffffffffffffff everything\n%lx 0 nothing\nno map at all\n\n 1 2\n", (unsigned long)page);
		break;
	case 3:
		for (int i = 0; i < 10000; i++)
			fprintf(map, "%lx %zx %0*d\n", (unsigned long)page + (unsigned long)i, size, i % 200 + 1, i);
		break;
	default:
		fprintf(map, "%lx %zx compiled_loop\n", (unsigned long)page, size);
	}
	return fclose(map);
}

int main(int argc, char **argv)
{
#if defined(__x86_64__)
	// push %rbp; mov %rsp,%rbp; call *%rsi; pop %rbp; ret
	static const unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd6, 0x5d, 0xc3};
#elif defined(__aarch64__)
	// stp x29,x30,[sp,#-16]!; mov x29,sp; blr x1; ldp x29,x30,[sp],#16; ret
	static const uint32_t code[] = {0xa9bf7bfd, 0x910003fd, 0xd63f0020, 0xa8c17bfd, 0xd65f03c0};
#endif
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return 1;
	memcpy(page, code, sizeof code);
	if (mprotect(page, 4096, PROT_READ | PROT_EXEC) != 0)
		return 1;
	char path[64];
	snprintf(path, sizeof path, "/tmp/perf-%d.map", getpid());
	if (write_map(path, page, sizeof code, 0) != 0)
		return 1;
	compiled *run;
	memcpy(&run, &page, sizeof run);
#ifdef CHURN
	unsigned rounds = 0;
#endif
	for (double end = until(argc, argv); burnt() < end;) {
		sink = alpha(run, sink);
#ifdef CHURN
		if (write_map(path, page, sizeof code, ++rounds) != 0)
			return 1;
#endif
	}
	unlink(path);
	return 0;
}

// Allocates known amounts by C++'s means. The same protocol as truth.c.
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <sys/resource.h>
#include <vector>

#define SITE __attribute__((noinline))
static std::map<std::string, std::pair<unsigned long, unsigned long>> sites;
static std::vector<void *> kept;

struct block {
	char bytes[900];
};
struct alignas(128) wide {
	char bytes[2048];
};

static void count(const char *name, unsigned long live, unsigned long allocated)
{
	sites[name].first += live;
	sites[name].second += allocated;
}

SITE void site_new(double mb)
{
	for (double n = mb * 1048576 / sizeof(block); n > 0; n--) {
		kept.push_back(new block());
		count("site_new", sizeof(block), sizeof(block));
	}
}
SITE void site_new_array(double mb)
{
	for (double n = mb * 1048576 / 10000; n > 0; n--) {
		kept.push_back(new char[10000]());
		count("site_new_array", 10000, 10000);
	}
}
SITE void site_aligned_new(double mb)
{
	for (double n = mb * 1048576 / sizeof(wide); n > 0; n--) {
		kept.push_back(new wide());
		count("site_aligned_new", sizeof(wide), sizeof(wide));
	}
}
/* Grows by doubling: what it left behind is freed. */
SITE void site_vector(double mb)
{
	auto *v = new std::vector<long>();
	unsigned long at = 0;

	for (double n = mb * 1048576 / 8; n > 0; n--) {
		v->push_back(1);
		if (v->capacity() != at) {
			at = v->capacity();
			sites["site_vector"].second += at * 8;
		}
	}
	sites["site_vector"].first += at * 8;
}
/* An exception leaves operator new. */
SITE void site_throws(double n)
{
	for (; n > 0; n--) {
		try {
			char *volatile p = new char[1UL << 60];
			delete[] p;
		} catch (const std::bad_alloc &) {
		}
	}
}

/* The same, with a limit that comes while the program runs. */
SITE void site_limited(double n)
{
	std::vector<char *> all;
	rlimit before, limit;

	all.reserve(n);
	getrlimit(RLIMIT_AS, &before);
	limit = before;
	limit.rlim_cur = 1 << 20;
	setrlimit(RLIMIT_AS, &limit);
	for (; n > 0; n--) {
		try {
			all.push_back(new char[1 << 20]);
		} catch (const std::bad_alloc &) {
			count("caught", 1, 1);
		}
	}
	setrlimit(RLIMIT_AS, &before);
	for (char *p : all)
		delete[] p;
}

int main()
{
	char word[32];
	double mb;

	setvbuf(stdout, nullptr, _IOLBF, 0);
	kept.reserve(1 << 20);
	while (scanf("%31s %lf", word, &mb) == 2) {
		if (!strcmp(word, "live")) {
			site_new(mb / 4);
			site_new_array(mb / 4);
			site_aligned_new(mb / 4);
			site_vector(mb / 4);
		} else if (!strcmp(word, "throws")) {
			site_throws(mb);
		} else if (!strcmp(word, "limited")) {
			site_limited(mb);
		}
		for (auto &s : sites)
			printf("%s %lu %lu\n", s.first.c_str(), s.second.first, s.second.second);
		printf("truth 0 0\nend 0 0\n");
	}
}

// Allocates and frees, and does little else. For each line of standard input, a number of milliseconds, it works that
// long and prints how many pairs of malloc and free it has made, its processor time and the time in nanoseconds.
//
//   churn pairs   blocks of 16 to 527 bytes, 64 of them live; half of each is written
//   churn tree    a search tree of 20 000 strings is built, with lists of values that grow, searched, and dropped
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t seed = 88172645463325252ull;

static uint64_t draw(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	return seed ^= seed << 17;
}

static int64_t now(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void *need(void *p)
{
	if (!p)
		abort();
	return p;
}

static void *live[64];

static uint64_t pairs(void)
{
	for (int i = 0; i < 256; i++) {
		uint64_t x = draw();
		void **at = &live[x >> 58];
		size_t size = 16 + (x & 511);
		free(*at);
		*at = need(malloc(size));
		memset(*at, (int)x, size / 2);
	}
	return 256;
}

enum { NODES = 20000 };

struct node {
	struct node *left, *right;
	char *name;
	uint32_t *values;
	uint32_t n, room;
};

static uint64_t made;

static struct node **find(struct node **at, const char *name)
{
	int d;
	while (*at && (d = strcmp(name, (*at)->name)))
		at = d < 0 ? &(*at)->left : &(*at)->right;
	return at;
}

static void add(struct node **root)
{
	char name[32];
	uint64_t x = draw();
	snprintf(name, sizeof(name), "%llx", (unsigned long long)(x % (NODES / 2)) * 0x9e3779b9ull);
	struct node **at = find(root, name);
	if (!*at) {
		*at = need(calloc(1, sizeof(**at)));
		(*at)->name = need(strdup(name));
		made += 2;
	}
	struct node *n = *at;
	if (n->n == n->room) {
		made++; // a growing realloc frees what was there before, if anything was
		n->room = n->room ? 2 * n->room : 2;
		n->values = need(realloc(n->values, n->room * sizeof(*n->values)));
	}
	n->values[n->n++] = (uint32_t)x;
}

static void drop(struct node *n)
{
	if (!n)
		return;
	drop(n->left);
	drop(n->right);
	free(n->values);
	free(n->name);
	free(n);
}

static uint64_t tree(void)
{
	static struct node *root;
	static int added;
	made = 0;
	for (int i = 0; i < 256; i++) {
		add(&root);
		if (++added == NODES) {
			drop(root);
			root = NULL;
			added = 0;
		}
	}
	return made;
}

int main(int argc, char **argv)
{
	if (argc != 2 || (strcmp(argv[1], "pairs") && strcmp(argv[1], "tree"))) {
		fprintf(stderr, "usage: churn pairs|tree\n");
		return 2;
	}
	uint64_t (*work)(void) = strcmp(argv[1], "tree") ? pairs : tree;
	long ms;
	while (scanf("%ld", &ms) == 1) {
		int64_t used = now(CLOCK_PROCESS_CPUTIME_ID), began = now(CLOCK_MONOTONIC), until = began + ms * 1000000;
		uint64_t n = 0;
		while (now(CLOCK_MONOTONIC) < until)
			n += work();
		printf("%llu %lld %lld\n", (unsigned long long)n, (long long)(now(CLOCK_PROCESS_CPUTIME_ID) - used),
		       (long long)(now(CLOCK_MONOTONIC) - began));
		fflush(stdout);
	}
	return 0;
}

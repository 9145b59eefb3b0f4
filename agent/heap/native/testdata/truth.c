/* Allocates known amounts at known places. Reads commands, answers each with lines "SITE LIVE ALLOCATED" and "end". */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#define SITE __attribute__((noinline, noclone))
#define SITES 16
#define MB (1024.0 * 1024)

static struct { const char *name; unsigned long live, allocated; } sites[SITES];
static int site_count;

static int site(const char *name)
{
	for (int i = 0; i < site_count; i++)
		if (!strcmp(sites[i].name, name))
			return i;
	sites[site_count].name = name;
	return site_count++;
}

static void *kept[1 << 20];
static int kept_count;

static void keep(const char *name, void *p, unsigned long bytes)
{
	int i = site(name);

	if (!p)
		abort();
	memset(p, 1, bytes < 16 ? bytes : 16);
	sites[i].live += bytes;
	sites[i].allocated += bytes;
	kept[kept_count++] = p;
}

SITE void site_small(double mb) { for (double n = mb * MB / 64; n > 0; n--) keep("site_small", malloc(64), 64); }
SITE void site_medium(double mb) { for (double n = mb * MB / 5000; n > 0; n--) keep("site_medium", malloc(5000), 5000); }
SITE void site_large(double mb) { for (double n = mb; n > 0; n--) keep("site_large", malloc(1 << 20), 1 << 20); }
SITE void site_calloc(double mb) { for (double n = mb * MB / 3000; n > 0; n--) keep("site_calloc", calloc(30, 100), 3000); }
SITE void site_aligned(double mb)
{
	for (double n = mb * MB / 4096 / 2; n > 0; n--) {
		void *p = NULL;

		if (posix_memalign(&p, 64, 4096))
			abort();
		keep("site_aligned", p, 4096);
		keep("site_aligned", aligned_alloc(256, 4096), 4096);
	}
}
/* Grows step by step: only the last one lives. */
SITE void site_realloc(double mb)
{
	int at = site("site_realloc");

	for (double n = mb * MB / 8000; n > 0; n--) {
		char *p = NULL;

		for (int size = 1000; size <= 8000; size += 1000) {
			p = realloc(p, size);
			if (!p)
				abort();
			p[size - 1] = 1;
			sites[at].allocated += size;
		}
		/* One that fails leaves the old one as it is. */
		if (realloc(p, (unsigned long)-1 / 4))
			abort();
		sites[at].live += 8000;
		kept[kept_count++] = p;
	}
}
SITE void site_freed(double mb)
{
	int at = site("site_freed"), n = mb * MB / 2000;
	void **all = malloc(n * sizeof(*all));

	for (int i = 0; i < n; i++) {
		all[i] = malloc(2000);
		memset(all[i], 1, 16);
	}
	for (int i = 0; i < n; i++)
		free(all[i]);
	free(all);
	sites[at].allocated += n * (2000UL + sizeof(*all));
}
SITE void site_churn(double mb)
{
	int at = site("site_churn");

	for (double n = mb * MB / 1024; n > 0; n--) {
		char *volatile p = malloc(1024);

		p[0] = 1;
		free(p);
		sites[at].allocated += 1024;
	}
}

/* Threads that hand each other what they allocate. */
#define THREADS 8
#define EACH 4000
static void *handed[THREADS][EACH];
static pthread_barrier_t barrier;

SITE void site_thread(int me)
{
	for (int i = 0; i < EACH; i++) {
		handed[me][i] = malloc(700);
		memset(handed[me][i], 1, 16);
	}
	pthread_barrier_wait(&barrier);
	/* Three of four of the next thread's are freed here. */
	for (int i = 0; i < EACH; i++)
		if (i % 4)
			free(handed[(me + 1) % THREADS][i]);
}
static void *thread(void *arg)
{
	site_thread((int)(long)arg);
	return NULL;
}
static void threads(void)
{
	pthread_t t[THREADS];
	int at = site("site_thread");

	pthread_barrier_init(&barrier, NULL, THREADS);
	for (long i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, thread, (void *)i);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	sites[at].allocated += THREADS * EACH * 700UL;
	sites[at].live += THREADS * EACH / 4 * 700UL;
}

/*
 * Threads deep in one function, and threads of a higher class that wake up all the time, in another function: they take the
 * processor from the former wherever those are, also in the kernel.
 */
static volatile int stormy, hurried;
static volatile long rounds;

SITE int site_calm(int depth)
{
	if (depth)
		return site_calm(depth - 1) + 1;
	free(malloc(900));
	return 0;
}
SITE int site_hurry(int depth)
{
	if (depth)
		return site_hurry(depth - 1) + 1;
	free(malloc(900));
	return 0;
}
static void *calm(void *arg)
{
	while (stormy)
		site_calm(100);
	return arg;
}
static void *hurry(void *arg)
{
	struct sched_param p = { .sched_priority = 1 };
	struct timespec t = { .tv_nsec = 20000 };

	if (pthread_setschedparam(pthread_self(), SCHED_FIFO, &p))
		return NULL;
	hurried = 1;
	for (long n = rounds; n > 0; n--) {
		nanosleep(&t, NULL);
		site_hurry(20);
	}
	return NULL;
}
static void storm(long n)
{
	pthread_t a[4], b[2];

	stormy = 1;
	rounds = n;
	for (int i = 0; i < 4; i++)
		pthread_create(&a[i], NULL, calm, NULL);
	for (int i = 0; i < 2; i++)
		pthread_create(&b[i], NULL, hurry, NULL);
	for (int i = 0; i < 2; i++)
		pthread_join(b[i], NULL);
	stormy = 0;
	for (int i = 0; i < 4; i++)
		pthread_join(a[i], NULL);
	sites[site("hurried")].live = hurried;
}

/* What the allocator itself says, 0: it does not. */
static double truth(void)
{
	int (*mallctl)(const char *, void *, size_t *, void *, size_t) = dlsym(RTLD_DEFAULT, "mallctl");

	if (mallctl) {
		size_t n = 0, bytes = sizeof(n);
		unsigned long epoch = 1;

		mallctl("epoch", NULL, NULL, &epoch, sizeof(epoch));
		mallctl("stats.allocated", &n, &bytes, NULL, 0);
		return n;
	}
#ifdef __GLIBC__
	struct mallinfo2 m = mallinfo2();

	return m.uordblks + m.hblkhd;
#endif
	return 0;
}

static void (*plugin)(double mb);

static double cpu(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(void)
{
	char word[32];
	double mb;

	setvbuf(stdout, NULL, _IOLBF, 0);
	setvbuf(stdin, NULL, _IONBF, 0); /* what comes after exec is the new program's */
	while (scanf("%31s %lf", word, &mb) == 2) {
		if (!strcmp(word, "live")) {
			site_small(mb / 6);
			site_medium(mb / 6);
			site_large(mb / 6);
			site_calloc(mb / 6);
			site_aligned(mb / 6);
			site_realloc(mb / 6);
		} else if (!strcmp(word, "freed")) {
			site_freed(mb);
		} else if (!strcmp(word, "churn")) {
			site_churn(mb);
		} else if (!strcmp(word, "threads")) {
			threads();
		} else if (!strcmp(word, "storm")) {
			storm(mb);
		} else if (!strcmp(word, "fork")) {
			int status = 1;
			pid_t child = fork();

			if (!child) { /* which has the probes' instructions in its copy of the memory */
				site_freed(mb);
				site_small(mb);
				_exit(0);
			}
			if (waitpid(child, &status, 0) != child || status)
				abort();
		} else if (!strcmp(word, "exec")) {
			execl("/proc/self/exe", "truth", NULL);
		} else if (!strcmp(word, "dlopen")) {
			/* A library with an allocator of its own. */
			void *l = dlopen(getenv("PLUGIN"), RTLD_NOW | RTLD_LOCAL);

			plugin = l ? (void (*)(double))dlsym(l, "site_plugin") : NULL;
			if (!plugin)
				fprintf(stderr, "%s\n", dlerror());
		} else if (!strcmp(word, "plugin")) {
			plugin(mb);
		} else if (!strcmp(word, "pairs")) {
			double t = cpu();

			for (double n = mb; n > 0; n--) {
				char *volatile p = malloc(64);

				free(p);
			}
			printf("pairs %.0f 0\n", (cpu() - t) / mb * 1000);
		} else if (!strcmp(word, "drop")) {
			while (kept_count)
				free(kept[--kept_count]);
			for (int i = 0; i < site_count; i++)
				sites[i].live = strcmp(sites[i].name, "site_thread") ? 0 : sites[i].live;
		}
		for (int i = 0; i < site_count; i++)
			printf("%s %lu %lu\n", sites[i].name, sites[i].live, sites[i].allocated);
		printf("truth %.0f 0\n", truth());
		printf("end 0 0\n");
	}
	return 0;
}

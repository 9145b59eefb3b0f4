// Three threads, named after what they do, meet after each round; their CPU time splits 70/20/10.
// thread → alpha → bravo → hot70 (or hot20, or hot10).
#include "work.h"
#include <pthread.h>

static pthread_barrier_t round_end;
static double end;
static volatile int over;

KEEP uint64_t hot70(uint64_t x, uint64_t n) { WORK(x, n, HOT70); return x; }
KEEP uint64_t hot20(uint64_t x, uint64_t n) { WORK(x, n, HOT20); return x; }
KEEP uint64_t hot10(uint64_t x, uint64_t n) { WORK(x, n, HOT10); return x; }

typedef uint64_t work(uint64_t, uint64_t);
struct part {
	const char *name;
	work *work;
	uint64_t units;
	uint64_t x;
};

KEEP uint64_t bravo(struct part *p, uint64_t x) { return p->work(x + 3, p->units * UNIT) ^ x; }
KEEP uint64_t alpha(struct part *p, uint64_t x) { return bravo(p, x + 4) ^ x; }

KEEP void *thread(void *arg)
{
	struct part *p = arg;
	pthread_setname_np(pthread_self(), p->name);
	while (!over) {
		p->x = alpha(p, p->x);
		pthread_barrier_wait(&round_end);
		if (p->units == 7)
			over = burnt() >= end;
		pthread_barrier_wait(&round_end);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	static struct part parts[] = {{"seventy", hot70, 7, 0}, {"twenty", hot20, 2, 0}, {"ten", hot10, 1, 0}};
	pthread_t threads[3];
	end = until(argc, argv);
	pthread_barrier_init(&round_end, NULL, 3);
	for (int i = 0; i < 3; i++)
		if (pthread_create(&threads[i], NULL, thread, &parts[i]) != 0)
			return 1;
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	return 0;
}

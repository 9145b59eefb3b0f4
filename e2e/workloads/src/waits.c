/*
 * Waits in known ways: each function measures what it took itself, and the program prints the sums, in nanoseconds, with a
 * second argument less the CPU time in them.
 * Many short waits and few long ones come from the same thread, so that a profiler that draws some of them is put to the
 * test.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int line[2], file;

static long on(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

static long now(void)
{
	return on(CLOCK_MONOTONIC);
}

static void rest(long nanos)
{
	struct timespec t = { nanos / 1000000000, nanos % 1000000000 };

	nanosleep(&t, NULL);
}

static void say(int to, char what)
{
	if (write(to, &what, 1) != 1)
		exit(1);
}

static char hear(int from)
{
	char what = 0;

	if (read(from, &what, 1) != 1)
		exit(0);
	return what;
}

/* Keeps the other thread waiting: for the lock, or for a byte. */
static void *other(void *unused)
{
	for (;;) {
		if (hear(line[1]) == 'l') {
			pthread_mutex_lock(&lock);
			say(line[1], 'l');
			rest(200000000);
			pthread_mutex_unlock(&lock);
		} else {
			rest(150000000);
			say(line[1], 'r');
		}
	}
	return unused;
}

#define WAIT __attribute__((noinline, noclone)) static void

WAIT resting(void)
{
	for (int i = 0; i < 2000; i++)
		rest(50000);
}

WAIT sleeping(void)
{
	rest(300000000);
}

WAIT locking(void)
{
	pthread_mutex_lock(&lock);
	pthread_mutex_unlock(&lock);
}

WAIT receiving(void)
{
	hear(line[0]);
}

WAIT syncing(void)
{
	static char block[1 << 16];
	long until = now() + 200000000;

	while (now() < until) {
		if (pwrite(file, block, sizeof(block), 0) < 0 || fsync(file) < 0)
			exit(1);
	}
}

static long sums[5], used[5];

WAIT timed(int i, void (*wait)(void))
{
	long before = now(), cpu = on(CLOCK_THREAD_CPUTIME_ID);

	wait();
	used[i] += on(CLOCK_THREAD_CPUTIME_ID) - cpu;
	sums[i] += now() - before;
}

int main(int argc, char **argv)
{
	const char *names[] = { "resting", "sleeping", "locking", "receiving", "syncing" };
	char path[] = "waits-XXXXXX";
	long until = now() + (argc > 1 ? atol(argv[1]) : 1) * 1000000000L;
	pthread_t thread;

	file = mkstemp(path);
	if (file < 0 || unlink(path) || socketpair(AF_UNIX, SOCK_STREAM, 0, line))
		return 1;
	pthread_create(&thread, NULL, other, NULL);
	while (now() < until) {
		timed(0, resting);
		timed(1, sleeping);
		say(line[0], 'l');
		hear(line[0]);
		timed(2, locking);
		say(line[0], 'r');
		timed(3, receiving);
		timed(4, syncing);
	}
	for (int i = 0; i < 5; i++)
		printf("%s %ld\n", names[i], sums[i] - (argc > 2 ? used[i] : 0));
	return 0;
}

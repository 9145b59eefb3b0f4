// One process after the other, each for a few milliseconds, as `ls` and `ps` are: the program starts itself again
// and again; the short-lived one does main → alpha → bravo → echo → hot70, hot20, hot10 once and exits.
#include "work.h"
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

KEEP uint64_t hot70(uint64_t x, uint64_t n) { WORK(x, n, HOT70); return x; }
KEEP uint64_t hot20(uint64_t x, uint64_t n) { WORK(x, n, HOT20); return x; }
KEEP uint64_t hot10(uint64_t x, uint64_t n) { WORK(x, n, HOT10); return x; }

KEEP uint64_t echo(uint64_t x)
{
	x += hot70(x, 7 * UNIT / 8);
	x += hot20(x, 2 * UNIT / 8);
	x += hot10(x, 1 * UNIT / 8);
	return x;
}
KEEP uint64_t bravo(uint64_t x) { return echo(x + 3) ^ x; }
KEEP uint64_t alpha(uint64_t x) { return bravo(x + 4) ^ x; }

static double burnt_by_children(void)
{
	struct rusage u;
	getrusage(RUSAGE_CHILDREN, &u);
	return (double)u.ru_utime.tv_sec + (double)u.ru_utime.tv_usec / 1e6;
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "once") == 0) {
		sink = alpha(sink);
		return 0;
	}
	for (double end = until(argc, argv); burnt_by_children() < end;) {
		pid_t child = vfork();
		if (child == 0) {
			execl("/proc/self/exe", argv[0], "once", (char *)NULL);
			_exit(1);
		}
		int status;
		if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0)
			return 1;
	}
	return 0;
}

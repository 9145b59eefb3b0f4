// main → alpha → bravo → spin, a leaf without a frame that a timer interrupts; there handler → echo → hot70, hot20,
// hot10. The stack goes on below the signal frame. With -DONSTACK the handler has a stack of its own.
#include "work.h"
#include <sys/mman.h>
#include <signal.h>
#include <sys/time.h>

static volatile sig_atomic_t served;

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

static void handler(int number)
{
	sink = echo(sink + (uint64_t)number);
	served = 1;
}

KEEP uint64_t spin(uint64_t x)
{
	while (!served)
		x = (x * HOT70) ^ (x >> 13);
	return x;
}
KEEP uint64_t bravo(uint64_t x) { return spin(x + 3) ^ x; }
KEEP uint64_t alpha(uint64_t x) { return bravo(x + 4) ^ x; }

int main(int argc, char **argv)
{
	/* What nobody touches for seconds, as the stack below the handler's, may be swapped out: that is not what is tried here. */
	mlockall(MCL_CURRENT | MCL_FUTURE);
	struct sigaction action = {.sa_handler = handler};
#ifdef ONSTACK
	static char stack[64 << 10];
	stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
	if (sigaltstack(&other, NULL) != 0)
		return 1;
	action.sa_flags = SA_ONSTACK;
#endif
	if (sigaction(SIGALRM, &action, NULL) != 0)
		return 1;
	for (double end = until(argc, argv); burnt() < end;) {
		struct itimerval soon = {.it_value = {.tv_usec = 500}};
		served = 0;
		if (setitimer(ITIMER_REAL, &soon, NULL) != 0)
			return 1;
		sink = alpha(sink);
	}
	return 0;
}

// main → alpha → bravo → plugin_run of a library (the executable's path with .so) that comes after the program has
// run for a while: its mapping is new to whoever looked at the process when it started.
#include "work.h"
#include <dlfcn.h>
#include <stdio.h>

typedef uint64_t run(uint64_t);

KEEP uint64_t bravo(run *plugin, uint64_t x) { return plugin(x + 3) ^ x; }
KEEP uint64_t alpha(run *plugin, uint64_t x) { return bravo(plugin, x + 4) ^ x; }

int main(int argc, char **argv)
{
	struct timespec pause = {.tv_nsec = 200000000};
	nanosleep(&pause, NULL);
	char path[4096];
	snprintf(path, sizeof path, "%s.so", argv[0]);
	void *library = dlopen(path, RTLD_NOW);
	if (library == NULL)
		return 1;
	run *plugin = (run *)dlsym(library, "plugin_run");
	if (plugin == NULL)
		return 1;
	for (double end = until(argc, argv); burnt() < end;)
		sink = alpha(plugin, sink);
	return 0;
}

// Loads the Go library that is given, allocates in it, and waits.
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv) {
	void *library = dlopen(argv[1], RTLD_NOW);
	if (!library) {
		puts(dlerror());
		return 1;
	}
	long (*keep)(int) = (long (*)(int))dlsym(library, "Keep");
	keep(1600);
	puts("ready");
	fflush(stdout);
	getchar();
	return 0;
}

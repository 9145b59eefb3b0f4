// A program that is built without unwind information: recursion, callbacks, a switch, variable arrays,
// arguments on the stack, tail calls, a destructor and calls that do not return.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long u64;

__attribute__((noinline)) static u64 mix(u64 a, u64 b) {
	for (int i = 0; i < 200; i++)
		a = a * 6364136223846793005UL + b;
	return a;
}

__attribute__((noinline)) static u64 many(u64 a, u64 b, u64 c, u64 d, u64 e, u64 f, u64 g, u64 h, u64 i) {
	return mix(a + b + c, d + e) + mix(f + g, h + i);
}

__attribute__((noinline)) static u64 variable(int n) {
	u64 a[n + 1];
	memset(a, n, sizeof a);
	for (int i = 0; i < n; i++)
		a[i + 1] = mix(a[i], i);
	return a[n];
}

__attribute__((noinline)) static u64 choose(int n) {
	switch (n) {
	case 0: return mix(1, 2) + 1;
	case 1: return many(1, 2, 3, 4, 5, 6, 7, 8, n) + 2;
	case 2: return variable(n) + 3;
	case 3: return mix(n, n) * 4;
	case 4: return variable(3) ^ 5;
	case 5: return variable(n * 3) ^ many(n, n, n, n, n, n, n, n, 3);
	case 6: return mix(7, 7) - 6;
	default: return 0;
	}
}

__attribute__((noinline)) static u64 deep(int n) {
	if (n > 1000)
		abort();
	return n == 0 ? choose(3) : deep(n - 1) + choose(n % 8);
}

static int compare(const void *a, const void *b) {
	u64 x = mix(*(const u64 *)a, 3), y = mix(*(const u64 *)b, 3);
	return x < y ? -1 : x > y;
}

__attribute__((noinline)) static u64 (*volatile tail)(int) = deep;
__attribute__((noinline)) static u64 jump(int n) { return tail(n); }

int main(void) {
	u64 sum = 0, v[32];
	for (int n = 0;; n++) {
		for (int i = 0; i < 32; i++)
			v[i] = (i * 37 + n) % 101;
		qsort(v, 32, sizeof *v, compare);
		sum += v[0] + jump(n % 20);
		if (sum == 1)
			exit(1);
	}
}

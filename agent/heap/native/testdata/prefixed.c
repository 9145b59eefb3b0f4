/* The names that jemalloc has in Rust programs. */
#include <stddef.h>

static char area[64];

int _rjem_mallctl(const char *name, void *a, size_t *b, void *c, size_t d) { return !name + !a + !b + !c + !d; }
__attribute__((noinline)) void *_rjem_mallocx(size_t n, int flags) { return n < sizeof(area) ? area + (flags & 1) : NULL; }
void *_rjem_calloc(size_t n, size_t m) { return n * m < sizeof(area) ? area : NULL; }
void *_rjem_rallocx(void *p, size_t n, int flags) { return n < sizeof(area) + (flags & 1) ? p : NULL; }
void _rjem_sdallocx(void *p, size_t n, int flags) { *(volatile char *)p = (char)(n + flags); }
/* Of an interface by the same words. */
void *new(size_t n) { return n < sizeof(area) ? area : NULL; }
void my_free(void *p) { *(volatile char *)p = 0; }

// The library that plt.c calls: as little as possible behind each entry of the procedure linkage table.
#include "work.h"

KEEP uint64_t tiny(uint64_t x) { return (x * HOT70) ^ (x >> 13); }

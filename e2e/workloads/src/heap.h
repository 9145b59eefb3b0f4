/*
 * What the heap workloads do: 90 MB live at three sites, 63/18/9, and as much again given back, in blocks of sizes that
 * differ; after a while in which a profiler can get ready, and before one in which it can look.
 */
#define BLOCKS 10000 /* of 1 to 17 kB, 9 kB on average */

static long size_of(long i)
{
	return 1000 + i * 7919 % 16001;
}

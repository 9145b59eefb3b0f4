// The same as heap.c with operator new, new[] and a vector.
#include <cstdio>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include "heap.h"

namespace demo {

struct Block {
	long bytes;
	char *array = nullptr;
	std::vector<char> *list = nullptr;
	~Block()
	{
		delete[] array;
		delete list;
	}
};

static std::vector<Block *> kept, gone;
static long live[3], all[3];

#define SITE __attribute__((noinline)) static Block *

SITE keep70(long n)
{
	Block *b = new Block{ n };

	b->array = new char[n - sizeof(Block)];
	memset(b->array, 1, n - sizeof(Block));
	live[0] += n;
	all[0] += n;
	return b;
}

SITE keep20(long n)
{
	Block *b = new Block{ n };

	b->list = new std::vector<char>(n - sizeof(Block) - sizeof(std::vector<char>), 'x');
	live[1] += n;
	all[1] += n;
	return b;
}

SITE keep10(long n)
{
	Block *b = new Block{ n };

	b->array = new (std::align_val_t(16)) char[n - sizeof(Block)];
	memset(b->array, 1, n - sizeof(Block));
	live[2] += n;
	all[2] += n;
	return b;
}

static void make(std::vector<Block *> &to)
{
	to.reserve(BLOCKS);
	for (long i = 0; i < BLOCKS; i++) {
		long n = size_of(i);

		to.push_back(i % 10 < 7 ? keep70(n) : i % 10 < 9 ? keep20(n) : keep10(n));
	}
}

static void drop(std::vector<Block *> &from)
{
	for (long i = 0; i < BLOCKS; i++) {
		live[i % 10 < 7 ? 0 : i % 10 < 9 ? 1 : 2] -= from[i]->bytes;
		delete from[i];
	}
	from.clear();
}

} // namespace demo

int main(int argc, char **argv)
{
	long *told = argc > 1 && std::string(argv[1]) == "alloc" ? demo::all : demo::live;
	timespec ready = { 2, 0 }, look = { 3, 0 };

	nanosleep(&ready, nullptr);
	demo::make(demo::kept);
	demo::make(demo::gone);
	demo::drop(demo::gone);
	nanosleep(&look, nullptr);
	printf("keep70 %ld\nkeep20 %ld\nkeep10 %ld\n", told[0], told[1], told[2]);
}

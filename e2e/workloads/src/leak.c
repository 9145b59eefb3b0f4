/* A list that grows by 1 MB/s, beside memory that is given back. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define OWN __attribute__((noinline, noclone)) static void

struct node {
	struct node *next;
	char payload[2032];
};

static struct node *volatile list;
static void *volatile scrap[64];

OWN remember(void)
{
	struct node *n = malloc(sizeof(*n));

	if (!n)
		exit(1);
	memset(n->payload, 1, sizeof(n->payload));
	n->next = list;
	list = n;
}

OWN forget(int i)
{
	free(scrap[i % 64]);
	scrap[i % 64] = malloc(8192);
}

int main(void)
{
	struct timespec pause = { 0, 1000000 };

	for (int i = 0;; i++) {
		if (i % 2)
			remember();
		forget(i);
		nanosleep(&pause, NULL);
	}
}

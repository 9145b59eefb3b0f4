/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Counting by key, in two maps of which the agent drains one while programs write the other, and telling the agent
 * of a stack when its key is new in an epoch.
 */
#ifndef PERFUSE_COUNT_H
#define PERFUSE_COUNT_H

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "unwind.h"

/* Types that no map mentions but the agent needs. */
const enum drop *export_drop __attribute__((unused));
const enum stop *export_stop __attribute__((unused));
const enum event *export_event __attribute__((unused));
const enum state *export_state __attribute__((unused));
const enum record_kind *export_record_kind __attribute__((unused));
const enum frame_kind *export_frame_kind __attribute__((unused));

/* Settings, fixed at load time. */
const volatile __u32 ring_wakeup_bytes = 1 << 18; /* wake the agent early beyond this much unread data */
const volatile __u32 thread_size = 16384;         /* the kernel's stack size, where it has no helper for it */

/* Which of the two count maps is written; the agent flips it and drains the other one. */
volatile __u32 epoch = 0;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct sample_key);
	__type(value, __u64);
	__uint(max_entries, 16384);
} counts_even SEC(".maps"), counts_odd SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} stacks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, DROP_KINDS);
} drops SEC(".maps");

/* How many user stacks ended for each reason. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, STOP_KINDS);
} stops SEC(".maps");

static __always_inline void count(void *map, __u32 i)
{
	__u64 *n = bpf_map_lookup_elem(map, &i);

	if (n)
		*n += 1;
}

static __always_inline __u64 wakeup(void)
{
	return bpf_ringbuf_query(&stacks, BPF_RB_AVAIL_DATA) > ring_wakeup_bytes ? BPF_RB_FORCE_WAKEUP :
										  BPF_RB_NO_WAKEUP;
}

/* The count of a key in epoch e, NULL: there is none. */
static __always_inline __u64 *counted(struct sample_key *key, __u32 e)
{
	return e ? bpf_map_lookup_elem(&counts_odd, key) : bpf_map_lookup_elem(&counts_even, key);
}

/* Adds to the count of a key whose stack the agent has been told. */
static __always_inline void add(struct sample_key *key, __u64 value, __u32 e)
{
	__u64 *n = counted(key, e);
	long err;

	if (n) {
		__sync_fetch_and_add(n, value);
		return;
	}
	err = e ? bpf_map_update_elem(&counts_odd, key, &value, BPF_NOEXIST) :
		  bpf_map_update_elem(&counts_even, key, &value, BPF_NOEXIST);
	if (!err)
		return;
	n = counted(key, e); /* another CPU was faster */
	if (n)
		__sync_fetch_and_add(n, value);
	else
		count(&drops, DROP_COUNTS_FULL);
}

/* Sends the record with its frames. False if there is no room. */
static __always_inline bool send(struct stack_record *rec)
{
	__u32 frames = rec->frame_count;

	if (frames > MAX_FRAMES)
		frames = MAX_FRAMES;
	if (!bpf_ringbuf_output(&stacks, rec, sizeof(*rec) + frames * sizeof(struct frame), wakeup()))
		return true;
	count(&drops, DROP_RING_FULL);
	return false;
}

/* Puts the end of the walk into stack and key. */
static __always_inline void conclude(struct scratch *s)
{
	if (s->unwind.stop != STOP_COMPLETE)
		push(s, s->unwind.stop, 0, FRAME_STOPPED);
	count(&stops, s->unwind.stop);
	s->record.key.stack = s->unwind.hash;
}

/* Empties the scratch for a walk that begins now, in a task that the key names. */
static __always_inline void reset(struct scratch *s, __u32 event, __u32 tgid, __u64 value)
{
	struct unwind *u = &s->unwind;
	struct stack_record *rec = &s->record;

	__builtin_memset(&rec->key, 0, sizeof(rec->key));
	rec->key.event = event;
	rec->key.tgid = tgid;
	rec->time = bpf_ktime_get_ns();
	rec->frame_count = 0;
	rec->kind = RECORD_STACK;
	rec->weight = value;
	u->value = value;
	u->hash = 0xcbf29ce484222325ULL;
	u->stop = STOP_COMPLETE;
	u->count = 0;
	u->running = 0;
	u->kernel_frames = 0;
	u->labels = 0;
}

/* Takes over n bytes of kernel addresses. */
static __always_inline void push_kernel(struct scratch *s, long n)
{
	if (n > 0) {
		n /= sizeof(__u64);
		for (int i = 0; i < MAX_KERNEL_FRAMES; i++) {
			if (i >= n)
				break;
			/* Callers: inside the call, as for user frames. */
			push(s, s->kernel[i] - (i > 0), 0, FRAME_KERNEL);
		}
	}
	s->unwind.kernel_frames = s->record.frame_count;
}

/* Readies the walk of a user stack whose registers are known. Returns the process's executable, 0 if it is not known. */
static __always_inline __u32 ready(struct scratch *s)
{
	struct unwind *u = &s->unwind;
	struct process *p = bpf_map_lookup_elem(&processes, &s->record.key.tgid);
	__u32 executable = 0;

	u->first = 0;
	u->mappings = 0;
	if (p) {
		s->record.key.generation = p->generation;
		u->first = p->first;
		u->mappings = p->count;
		executable = p->executable;
	}
	u->process_known = p != NULL;
	u->start = 0;
	u->end = 0;
	u->running = 1;
	return executable;
}

#endif

/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * How long a thread waits, in two parts. Some waits are drawn when they begin, with a chance of 1 to weight; of those
 * the first nanoseconds, up to a limit, count weight times. What a wait lasts beyond the limit is sampled by time,
 * drawn or not: whoever is found waiting at a tick is credited the time since the last tick. Both parts are right on
 * average, whatever the waits. Drawing errs by sqrt(weight) times the wait, ticks by sqrt(wait times tick): they meet
 * where wait times weight is a tick, and there the limit is. So no short wait can pretend to be a long one. A thread all
 * of whose waits are drawn is counted exactly for the first second of each.
 */
#ifndef PERFUSE_WAIT_H
#define PERFUSE_WAIT_H

#include "wire.h"

#define SECOND 1000000000ULL
#define MAX_SHIFT 8 /* one wait in 256 at least is drawn */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32); /* thread id */
	__type(value, struct thread);
	__uint(max_entries, 1);
} threads SEC(".maps");

/* When measuring began, CLOCK_MONOTONIC: what was before is in no count. */
volatile __u64 begun_at = 0;

/* What of a wait counts by drawing, up to a moment. */
static __always_inline __u64 first_part(__u64 since, __u64 limit, __u64 now)
{
	__u64 from = since < begun_at ? begun_at : since, to = now - since < limit ? now : since + limit;

	return to > from ? to - from : 0;
}

/* What a task's state says of how it left the CPU. Stopped and traced tasks wait. */
static __always_inline __u32 state_of(__u32 state)
{
	return !state ? STATE_RUNNABLE : state & TASK_UNINTERRUPTIBLE ? STATE_UNINTERRUPTIBLE : STATE_INTERRUPTIBLE;
}

/* Whether the agent was only behind: the same stack walked again may be whole. */
static __always_inline bool may_complete(__u32 stop)
{
	return stop == STOP_NO_PROCESS || stop == STOP_NO_MAPPING || stop == STOP_PENDING;
}

#endif

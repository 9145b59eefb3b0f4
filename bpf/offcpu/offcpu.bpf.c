//go:build ignore

// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Time off the CPU: what threads wait for.
 *
 * Hook: tp_btf/sched_switch, in the context of the thread that leaves, interrupts off.
 * Cost: two lookups a switch; a wait that is drawn also has its stack walked. A CPU has `draws` waits drawn in a
 * second before the chance halves, and halves again after as many; a thread likewise. The next second goes on from there.
 * May not: sleep, or page in user memory: what is not there is a stack that ends early.
 *
 * See wait.h for what counts, and waiting.bpf.c for the ticks.
 *
 * Who ends the waits, if it is asked for: tp_btf/sched_waking, in the context of the thread that wakes the other one, or of
 * whatever an interrupt interrupted; interrupts off. By then it is known how long the wait was, so that waits are drawn
 * in proportion to that: one for every WAKE of waiting.
 */
#include "../include/sample.h"
#include "../include/wait.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

const volatile __u32 draws = 96; /* waits of a CPU in a second before the chance halves */
#define THREAD_DRAWS (draws * 2 / 3) /* the same of a thread */

#define WAKE (SECOND / 50)

/* The time between two ticks, about. */
volatile __u64 tick = SECOND / 16;

struct cpu {
	__u64 second;
	__u32 drawn;
	__u32 shift;
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct cpu);
	__uint(max_entries, 1);
} cpus SEC(".maps");

/* A thread that is met for the first time; not on the stack, of which Linux 6.1 has too little. */
static const struct thread nobody;

static long walk_step(__u32 i, void *unused)
{
	__u32 zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);

	return !s || step(NULL, s);
}

/* Walks the stack of the thread that leaves and makes it the wait's. */
static __always_inline bool draw(void *ctx, struct thread *t, __u32 state)
{
	__u32 zero = 0, e = epoch & 1;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);

	if (!s || !begin(ctx, NULL, s, EVENT_WAIT, 0))
		return false;
	s->record.key.state = state;
	if (s->unwind.running)
		bpf_loop(MAX_USER_FRAMES + 1, walk_step, NULL, 0);
	conclude(s);
	/* The time is counted later, perhaps in a later epoch: the agent keeps the stack until then. */
	if (!counted(&s->record.key, e)) {
		if (!tell(s, e))
			return false;
		add(&s->record.key, 0, e);
	}
	t->key = s->record.key;
	t->known = !may_complete(s->unwind.stop);
	return true;
}

/*
 * The shift with which a second begins: one less than the one before ended with, so that all of a second is drawn from
 * alike, and not its beginning most.
 */
static __always_inline __u32 begun(__u32 ended, __u64 seconds)
{
	if (ended > MAX_SHIFT)
		ended = MAX_SHIFT;
	return seconds < ended ? ended - seconds : 0;
}

static __always_inline void leave(void *ctx, struct task_struct *task, __u32 state, __u64 now)
{
	__u32 tid = task->pid, zero = 0, shift;
	struct thread *t = bpf_map_lookup_elem(&threads, &tid);
	struct cpu *c = bpf_map_lookup_elem(&cpus, &zero);
	__u64 second = now / SECOND;

	if (!t) {
		if (bpf_map_update_elem(&threads, &tid, &nobody, BPF_NOEXIST)) {
			count(&drops, DROP_THREADS);
			return;
		}
		t = bpf_map_lookup_elem(&threads, &tid);
	}
	if (!t || !c)
		return;
	if (t->second != second) {
		t->shift = begun(t->shift + t->drawn / THREAD_DRAWS, second - t->second);
		t->second = second;
		t->drawn = 0;
	}
	if (c->second != second) {
		c->shift = begun(c->shift + c->drawn / draws, second - c->second);
		c->second = second;
		c->drawn = 0;
	}
	shift = t->shift + t->drawn / THREAD_DRAWS + c->shift + c->drawn / draws;
	if (shift > MAX_SHIFT)
		shift = MAX_SHIFT;
	t->limit = shift ? tick >> shift : tick > SECOND ? tick : SECOND;
	t->weight = 0;
	t->known = 0;
	t->since = now;
	if (shift && bpf_get_prandom_u32() & ((1U << shift) - 1))
		return;
	t->drawn++;
	c->drawn++;
	if (draw(ctx, t, state))
		t->weight = 1U << shift;
}

static __always_inline void arrive(struct task_struct *task, __u64 now)
{
	__u32 tid = task->pid, weight;
	struct thread *t = bpf_map_lookup_elem(&threads, &tid);

	if (!t || !t->since)
		return;
	weight = __sync_lock_test_and_set(&t->weight, 0); /* a tick may be about to count it, too */
	if (weight)
		add(&t->key, first_part(t->since, t->limit, now) * weight, epoch & 1);
	t->since = 0;
}

SEC("tp_btf/sched_switch")
int sched_switch(__u64 *ctx)
{
	struct task_struct *prev = (void *)ctx[1], *next = (void *)ctx[2];
	__u32 left = ctx[3];
	__u64 now = bpf_ktime_get_ns();

	if (next->pid && !(next->flags & PF_KTHREAD))
		arrive(next, now);
	if (!prev->pid || prev->flags & PF_KTHREAD)
		return 0;
	if (left & TASK_DEAD) {
		__u32 tid = prev->pid;

		bpf_map_delete_elem(&threads, &tid);
		return 0;
	}
	leave(ctx, prev, ctx[0] ? STATE_RUNNABLE : state_of(left), now);
	return 0;
}

/* A thread that is not its process's first takes the first one's id when it execs: its own is nobody's any more. */
SEC("tp_btf/sched_process_exec")
int sched_process_exec(__u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	__u32 before = ctx[1];

	if (before != (__u32)task->pid)
		bpf_map_delete_elem(&threads, &before);
	return 0;
}

SEC("tp_btf/sched_waking")
int sched_waking(__u64 *ctx)
{
	struct task_struct *woken = (void *)ctx[0];
	__u32 tid = woken->pid, tgid = woken->tgid, zero = 0;
	struct thread *t = bpf_map_lookup_elem(&threads, &tid);
	struct waiter waiter = { .tgid = tgid };
	__u64 since, waited, value = WAKE;
	struct process *p;
	struct scratch *s;

	if (!t)
		return 0;
	since = t->since;
	if (!since || t->woken == since)
		return 0; /* it runs, or was woken by another already */
	t->woken = since;
	waited = bpf_ktime_get_ns() - since;
	if (waited >= WAKE)
		value = waited;
	else if ((__u64)bpf_get_prandom_u32() * WAKE >> 32 >= waited)
		return 0;

	s = bpf_map_lookup_elem(&scratches, &zero);
	if (!s || !begin(ctx, NULL, s, EVENT_WAKE, value))
		return 0;
	p = bpf_map_lookup_elem(&processes, &tgid);
	if (p)
		waiter.generation = p->generation;
	bpf_probe_read_kernel_str(waiter.comm, sizeof(waiter.comm), woken->comm);
	__builtin_memcpy(s->record.key.trace_id, &waiter, sizeof(s->record.key.trace_id));
	__builtin_memcpy(s->record.key.span_id, (char *)&waiter + sizeof(s->record.key.trace_id),
			 sizeof(s->record.key.span_id));
	if (s->unwind.running)
		bpf_loop(MAX_USER_FRAMES + 1, walk_step, NULL, 0);
	conclude(s);
	count_sample(s);
	return 0;
}

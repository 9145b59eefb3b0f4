//go:build ignore

// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Threads that have waited for long, found at a tick.
 *
 * Hook: an iterator over all tasks, run by the agent; it may sleep. Only one runs at a time.
 * Cost: a lookup a thread, and for each wait that it meets for the first time a walk of its stack. The thread does not
 * run, so its stack and its registers are as it left them; should it wake meanwhile, the walk is thrown away.
 * May not: write anything but its own maps. It may page in user memory, but only such without a file: what serves a
 * file's pages (FUSE) may take as long as it likes, meanwhile the process's address space is locked, and everybody who
 * waits for that lock waits with us.
 */
#include "../include/kernel.h"

static long page_in(struct task_struct *task, void *to, __u32 size, const void *from);

#define READ_USER(task, to, size, from) page_in(task, to, size, from)
#define TASK_REGS(task) bpf_task_pt_regs(task)
#define SCRATCH_MAP BPF_MAP_TYPE_ARRAY

#include "../include/count.h"
#include "../include/wait.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* Set before each run. */
volatile __u64 elapsed = 0; /* nanoseconds since the run before: what a wait is credited that is met */
volatile bool last = false; /* count what was drawn and has not ended, too */

/* Set by a run. */
volatile __u64 visited = 0; /* threads */

/* The waits that were not drawn but met here. */
struct met {
	__u64 since;
	struct sample_key key;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, __u32); /* thread id */
	__type(value, struct met);
	__uint(max_entries, 1);
} waits SEC(".maps");

struct walk {
	struct task_struct *task;
};

/*
 * Only one iterator runs at a time, so what it works on need not be on the stack, of which Linux 6.1 has too little: the
 * wait's key, what is remembered of it, and a thread that was not known.
 */
static struct sample_key wait_key;
static struct met new_wait;
static struct thread new_thread;

/* Where the stack lies that is being walked, if it is memory without a file. */
static __u64 stack_start, stack_end;

static long found(struct task_struct *task, struct vm_area_struct *vma, void *unused)
{
	if (!vma->vm_file) {
		stack_start = vma->vm_start;
		stack_end = vma->vm_end;
	}
	return 0;
}

static long page_in(struct task_struct *task, void *to, __u32 size, const void *from)
{
	__u64 start = (__u64)from, end = start + size;

	if (start < stack_start || end > stack_end || end < start) {
		stack_start = stack_end = 0;
		bpf_find_vma(task, start, found, NULL, 0);
		if (start < stack_start || end > stack_end || end < start)
			return -1;
	}
	return bpf_copy_from_user_task(to, size, from, task, 0);
}

static long walk_step(__u32 i, struct walk *w)
{
	__u32 zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);

	return !s || step(w->task, s);
}

/* Finds the key of a wait that was not drawn, by a walk if it is met for the first time. */
static __always_inline bool find(struct task_struct *task, __u32 tid, __u64 since)
{
	struct met *m = bpf_map_lookup_elem(&waits, &tid);
	__u32 zero = 0, e = epoch & 1;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);
	struct walk w = { .task = task };

	if (m && m->since == since) {
		wait_key = m->key;
		return true;
	}
	if (!s)
		return false;
	stack_start = stack_end = 0;
	reset(s, EVENT_WAIT, task->tgid, 0);
	bpf_probe_read_kernel_str(s->record.key.comm, sizeof(s->record.key.comm), task->comm);
	s->record.key.state = state_of(task->__state);
	push_kernel(s, bpf_get_task_stack(task, s->kernel, sizeof(s->kernel), 0));
	if (user_registers(NULL, task, &s->unwind, thread_size)) {
		ready(s);
		bpf_loop(MAX_USER_FRAMES + 1, walk_step, &w, 0);
	}
	conclude(s);
	s->record.epoch = e;
	if (!counted(&s->record.key, e) && !send(&s->record))
		return false;
	wait_key = s->record.key;
	if (may_complete(s->unwind.stop))
		return true;
	new_wait.since = since;
	new_wait.key = wait_key;
	if (bpf_map_update_elem(&waits, &tid, &new_wait, BPF_ANY))
		count(&drops, DROP_THREADS);
	return true;
}

/* A thread that was there before we were and has not run since. */
static __always_inline struct thread *adopt(struct task_struct *task, __u32 tid)
{
	struct thread *t;

	new_thread.since = bpf_ktime_get_ns(); /* all else of it stays 0 */
	if (task->on_cpu)
		return NULL;
	if (bpf_map_update_elem(&threads, &tid, &new_thread, BPF_NOEXIST))
		return NULL;
	t = bpf_map_lookup_elem(&threads, &tid);
	if (t && task->on_cpu) {
		t->since = 0; /* it woke up before it was known */
		return NULL;
	}
	return t;
}

SEC("iter.s/task")
int waiting(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct thread *t;
	__u64 since, waited, now;
	__u32 tid, weight, known;

	if (!task)
		return 0;
	if (task->flags & PF_KTHREAD || !task->mm)
		return 0;
	visited++;
	tid = task->pid;
	t = bpf_map_lookup_elem(&threads, &tid);
	if (!t) {
		t = adopt(task, tid);
		if (!t)
			return 0;
	}
	since = t->since;
	if (!since)
		return 0;
	now = bpf_ktime_get_ns();
	waited = now - since;
	if ((__s64)waited < 0 || (waited <= t->limit && !last))
		return 0;
	known = t->known;
	wait_key = t->key;
	if (t->since != since)
		return 0;
	/* The first part is counted now if it has ended: such a wait can last for days. */
	weight = __sync_lock_test_and_set(&t->weight, 0);
	if (weight)
		add(&wait_key, first_part(since, t->limit, now) * weight, epoch & 1);
	if (waited <= t->limit)
		return 0;
	if (!known && !find(task, tid, since))
		return 0;
	if (t->since == since) /* else it ran while its stack was walked */
		add(&wait_key, elapsed, epoch & 1);
	return 0;
}

//go:build ignore

// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * CPU sampling, and page faults by the same means.
 *
 * Hooks: a perf event per CPU (cpu-clock or cycles) that ticks SLOTS times per sampling period; one tick in
 * SLOTS, drawn at random, takes a sample, so that a program that works in step with the clock cannot hide.
 * Context: hard interrupt or NMI: nothing may sleep, user memory is read without faulting pages in.
 * Cost: an idle tick is a handful of instructions; a sample walks kernel and user stack (see the
 * benchmark), counts in a hash map, and crosses to the agent only when its key is new in this epoch.
 * May not: write anything but its own maps.
 *
 * Page faults: the software event page-faults, whose period the kernel adapts so that there are not too many samples;
 * of FAULT_SLOTS events one, drawn at random, is taken.
 *
 * Two programs each share the code: *_loop walks with bpf_loop (5.17+), *_tail with tail calls. The kernel lets no
 * program of a perf event interrupt another one, so they can share the scratch memory too.
 */
#include "../include/sample.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define SLOTS 4
#define FAULT_SLOTS 8
#define TAIL_FRAMES 32 /* frames per tail call; 33 calls are allowed */

/* Settings, fixed at load time. */
const volatile bool verify = false; /* send registers and stack of every sample too, for tests */

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct deferred);
	__uint(max_entries, 1);
} deferreds SEC(".maps");

struct tick {
	__u32 now;
	__u32 chosen;
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct tick);
	__uint(max_entries, 2); /* by event */
} ticks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} tail SEC(".maps");

/* Whether this tick is the one of its period that samples. */
static __always_inline bool due(__u32 event, __u32 slots)
{
	struct tick *t = bpf_map_lookup_elem(&ticks, &event);

	if (!t)
		return false;
	if (t->now == 0)
		t->chosen = bpf_get_prandom_u32() % slots;
	bool yes = t->now == t->chosen;

	t->now = (t->now + 1) % slots;
	return yes;
}

/* Whether the task is replacing its program: its registers are the old one's, its memory is gone. */
static __always_inline bool executing(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return bpf_core_field_exists(task->in_execve) && BPF_CORE_READ_BITFIELD_PROBED(task, in_execve);
}

/* Sends registers and stack for the agent to walk. False if that is not possible. */
static __always_inline bool defer(struct scratch *s, __u32 kind, __u32 e)
{
	__u32 zero = 0;
	struct unwind *u = &s->unwind;
	struct deferred *d = bpf_map_lookup_elem(&deferreds, &zero);

	/* These records are large: when the agent is slow to read, the others need the room more. */
	if (!d || bpf_ringbuf_query(&stacks, BPF_RB_AVAIL_DATA) > ring_wakeup_bytes)
		return false;
	s->record.kind = kind;
	s->record.epoch = e;
	s->record.frame_count = u->kernel_frames;
	if (bpf_probe_read_kernel(&d->record, sizeof(d->record) + sizeof(d->kernel), &s->record) ||
	    bpf_probe_read_kernel(d->regs, sizeof(d->regs), u->entry_regs))
		return false;
	d->ip = u->entry_ip;
	if (read_user(NULL, &d->code, sizeof(d->code), d->ip))
		d->code = 0;
	d->exact = u->entry_exact;

	/* The end of the stack is not known here: take the largest number of pages that can be read. */
	__u64 sp = u->entry_regs[REG_SP];
	__u32 got = 0;

	for (int pages = DEFERRED_STACK / 4096; pages > 0; pages--) {
		__u32 bytes = pages * 4096 - (sp & 4095);

		if (!read_user(NULL, d->stack, bytes, sp)) {
			got = bytes;
			break;
		}
	}
	if (got > DEFERRED_STACK)
		got = DEFERRED_STACK;

	/* Beyond the copy, large frames of code with frame pointers (Go) can still be crossed. */
	__u64 fp = u->entry_regs[REG_FP];

	for (int i = 0; i < DEFERRED_CHAIN; i++) {
		struct chain_link *l = &d->chain[i];

		l->at = 0; /* the end, unless there is one more */
		if (!fp || fp & 7 || fp < sp || read_user(NULL, &l->fp, 16, fp))
			break;
		l->at = fp;
		fp = l->fp > fp ? l->fp : 0;
	}
	d->stack_bytes = got;
	return !bpf_ringbuf_output(&stacks, d, __builtin_offsetof(struct deferred, stack) + got, wakeup());
}

/* Counts the sample, or leaves its walk to the agent. */
static __always_inline void finish(struct scratch *s)
{
	struct stack_record *rec = &s->record;
	__u32 e = epoch & 1, stop = s->unwind.stop;

	if ((stop == STOP_NO_PROCESS || stop == STOP_NO_MAPPING || stop == STOP_PENDING) &&
	    send_labels(s, e) && defer(s, RECORD_WALK, e))
		return;
	rec->kind = RECORD_STACK;
	if (stop == STOP_READ && executing())
		s->unwind.stop = STOP_EXEC;
	conclude(s);
	if (verify && s->unwind.running) {
		__u32 all = rec->frame_count;

		defer(s, RECORD_VERIFY, e);
		rec->kind = RECORD_STACK;
		rec->frame_count = all;
	}
	count_sample(s);
}

static long loop_step(__u32 i, void *unused)
{
	__u32 zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);

	return !s || step(NULL, s);
}

/* A sample by bpf_loop, and by tail calls. */
static __always_inline int sample_loop(struct bpf_perf_event_data *ctx, __u32 event, __u64 value)
{
	__u32 zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);

	if (!s) {
		count(&drops, DROP_SCRATCH);
		return 0;
	}
	if (!begin(ctx, ctx, s, event, value))
		return 0;
	if (s->unwind.running)
		bpf_loop(MAX_USER_FRAMES + 1, loop_step, NULL, 0);
	finish(s);
	return 0;
}

static __always_inline int sample_tail(struct bpf_perf_event_data *ctx, __u32 event, __u64 value)
{
	__u32 zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);

	if (!s) {
		count(&drops, DROP_SCRATCH);
		return 0;
	}
	if (!begin(ctx, ctx, s, event, value))
		return 0;
	if (s->unwind.running) {
		bpf_tail_call(ctx, &tail, 0);
		count(&drops, DROP_TAIL_CALL);
	}
	finish(s);
	return 0;
}

SEC("perf_event")
int cpu_loop(struct bpf_perf_event_data *ctx)
{
	return due(EVENT_CPU, SLOTS) ? sample_loop(ctx, EVENT_CPU, 1) : 0;
}

SEC("perf_event")
int cpu_tail(struct bpf_perf_event_data *ctx)
{
	return due(EVENT_CPU, SLOTS) ? sample_tail(ctx, EVENT_CPU, 1) : 0;
}

/*
 * Each event stands for as many page faults as there were since the one before it on this CPU, and each sample for
 * FAULT_SLOTS events: programs that fault in step with the counter are told from others by chance only.
 */
SEC("perf_event")
int fault_loop(struct bpf_perf_event_data *ctx)
{
	return due(EVENT_FAULT, FAULT_SLOTS) ? sample_loop(ctx, EVENT_FAULT, ctx->sample_period * FAULT_SLOTS) : 0;
}

SEC("perf_event")
int fault_tail(struct bpf_perf_event_data *ctx)
{
	return due(EVENT_FAULT, FAULT_SLOTS) ? sample_tail(ctx, EVENT_FAULT, ctx->sample_period * FAULT_SLOTS) : 0;
}

/* Walks TAIL_FRAMES frames, then calls itself again or finishes. */
SEC("perf_event")
int tail_step(struct bpf_perf_event_data *ctx)
{
	__u32 zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);

	if (!s)
		return 0;
	for (int i = 0; i < TAIL_FRAMES; i++) {
		if (step(NULL, s))
			goto done;
	}
	bpf_tail_call(ctx, &tail, 0);
	s->unwind.stop = STOP_TOO_DEEP;
done:
	finish(s);
	return 0;
}

/*
 * The process table's kernel side. Between an event and the agent's answer a millisecond or more passes; so
 * the kernel itself forgets an image at exec, hands the parent's mappings to a forked child, and
 * forgets a process when its last thread is gone.
 */
SEC("raw_tracepoint/sched_process_exec")
int process_exec(void *ctx)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;

	bpf_map_delete_elem(&processes, &tgid);
	return 0;
}

struct raw_args {
	__u64 args[3];
};

SEC("raw_tracepoint/sched_process_fork")
int process_fork(struct raw_args *ctx)
{
	struct task_struct *parent = (void *)ctx->args[0];
	struct task_struct *child = (void *)ctx->args[1];
	__u32 from = BPF_CORE_READ(parent, tgid), to = BPF_CORE_READ(child, tgid);
	struct process *p, copy;

	if (from == to)
		return 0; /* a thread */
	p = bpf_map_lookup_elem(&processes, &from);
	if (!p)
		return 0;
	copy = *p;
	bpf_map_update_elem(&processes, &to, &copy, BPF_ANY);
	return 0;
}

SEC("raw_tracepoint/sched_process_exit")
int process_exit(struct raw_args *ctx)
{
	struct task_struct *task = (void *)ctx->args[0];
	__u32 tgid = BPF_CORE_READ(task, tgid);

	if (BPF_CORE_READ(task, signal, live.counter) == 0)
		bpf_map_delete_elem(&processes, &tgid);
	return 0;
}

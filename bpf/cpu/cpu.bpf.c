//go:build ignore

// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * CPU sampling.
 *
 * Hook: a perf event per CPU (cpu-clock or cycles) that ticks SLOTS times per sampling period; one tick in
 * SLOTS, drawn at random, takes a sample, so that a program that works in step with the clock cannot hide.
 * Context: hard interrupt or NMI: nothing may sleep, user memory is read without faulting pages in.
 * Cost: an idle tick is a handful of instructions; a sample walks kernel and user stack (see the
 * benchmark), counts in a hash map, and crosses to the agent only when its key is new in this epoch.
 * May not: write anything but its own maps.
 *
 * Two programs share the code: cpu_loop walks with bpf_loop (5.17+), cpu_tail with tail calls.
 */
#include "../include/kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "../include/unwind.h"
#include "../include/golabels.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* Types that no map mentions but the agent needs. */
const enum drop *export_drop __attribute__((unused));
const enum stop *export_stop __attribute__((unused));
const enum record_kind *export_record_kind __attribute__((unused));
const enum frame_kind *export_frame_kind __attribute__((unused));

#define SLOTS 4
#define PF_KTHREAD 0x00200000
#define TAIL_FRAMES 32 /* frames per tail call; 33 calls are allowed */

/* Settings, fixed at load time. */
const volatile __u32 ring_wakeup_bytes = 1 << 18; /* wake the agent early beyond this much unread data */
const volatile __u32 self_tgid = 0;               /* do not sample this process; 0: sample all */
const volatile __u32 only_tgid = 0;               /* sample only this process; 0: all */
const volatile __u32 thread_size = 16384;         /* the kernel's stack size, where it has no helper for it */
const volatile bool spans_enabled = false;
const volatile bool verify = false; /* send registers and stack of every sample too, for tests */

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

/* Which span a thread serves; other agents read and write it too. */
struct span {
	__u8 trace_id[16];
	__u8 span_id[8];
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, __u64); /* pid_tgid */
	__type(value, struct span);
	__uint(max_entries, 1);
} traces_ctx_v1 SEC(".maps");

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
	__uint(max_entries, 1);
} ticks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} tail SEC(".maps");

static __always_inline void count(void *map, __u32 i)
{
	__u64 *n = bpf_map_lookup_elem(map, &i);

	if (n)
		*n += 1;
}

/* Whether this tick is the one of its period that samples. */
static __always_inline bool due(void)
{
	__u32 zero = 0;
	struct tick *t = bpf_map_lookup_elem(&ticks, &zero);

	if (!t)
		return false;
	if (t->now == 0)
		t->chosen = bpf_get_prandom_u32() % SLOTS;
	bool yes = t->now == t->chosen;

	t->now = (t->now + 1) % SLOTS;
	return yes;
}

static __always_inline __u64 wakeup(void)
{
	return bpf_ringbuf_query(&stacks, BPF_RB_AVAIL_DATA) > ring_wakeup_bytes ? BPF_RB_FORCE_WAKEUP :
										  BPF_RB_NO_WAKEUP;
}

/* Adds the labels of a Go program to the key. */
static __always_inline void find_labels(struct scratch *s, struct task_struct *task, __u32 executable)
{
	__u32 zero = 0;
	struct label_scratch *l = bpf_map_lookup_elem(&label_scratches, &zero);
#if defined(__TARGET_ARCH_x86)
	__u64 thread = BPF_CORE_READ(task, thread.fsbase), g = 0;
#else
	__u64 thread = 0, g = s->unwind.regs[28];
#endif
	int n = go_labels(executable, thread, g);

	if (n < 0)
		count(&drops, DROP_LABELS);
	if (n <= 0 || n > MAX_LABELS || !l)
		return;
	s->unwind.labels = n;
	s->record.key.labels = l->out.record.key.labels;
}

/* Sends what the labels in the key stand for, if it has any. */
static __always_inline bool send_labels(struct scratch *s, __u32 e)
{
	__u32 zero = 0, n = s->unwind.labels;
	struct label_scratch *l = bpf_map_lookup_elem(&label_scratches, &zero);

	if (!n)
		return true;
	if (!l || n > MAX_LABELS)
		return false;
	l->out.record.time = s->record.time;
	l->out.record.epoch = e;
	l->out.record.kind = RECORD_LABELS;
	return !bpf_ringbuf_output(&stacks, &l->out, sizeof(l->out.record) + n * sizeof(struct label), wakeup());
}

/* Fills in key and kernel frames and readies the walk of the user stack. */
static __always_inline bool begin(struct bpf_perf_event_data *ctx, struct scratch *s)
{
	struct unwind *u = &s->unwind;
	struct stack_record *rec = &s->record;
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 tgid = pid_tgid >> 32;

	if (tgid == 0 || (self_tgid && tgid == self_tgid) || (only_tgid && tgid != only_tgid))
		return false;

	__builtin_memset(&rec->key, 0, sizeof(rec->key));
	rec->key.tgid = tgid;
	bpf_get_current_comm(rec->key.comm, sizeof(rec->key.comm));
	if (spans_enabled) {
		struct span *span = bpf_map_lookup_elem(&traces_ctx_v1, &pid_tgid);

		if (span) {
			__builtin_memcpy(rec->key.trace_id, span->trace_id, sizeof(span->trace_id));
			__builtin_memcpy(rec->key.span_id, span->span_id, sizeof(span->span_id));
		}
	}
	rec->time = bpf_ktime_get_ns();
	rec->frame_count = 0;
	rec->kind = RECORD_STACK;
	rec->pad = 0;
	u->hash = 0xcbf29ce484222325ULL;
	u->stop = STOP_COMPLETE;
	u->count = 0;
	u->running = 0;
	u->kernel_frames = 0;
	u->labels = 0;

	long n = bpf_get_stack(ctx, s->kernel, sizeof(s->kernel), 0);

	if (n > 0) {
		n /= sizeof(__u64);
		for (int i = 0; i < MAX_KERNEL_FRAMES; i++) {
			if (i >= n)
				break;
			/* Callers: inside the call, as for user frames. */
			push(s, s->kernel[i] - (i > 0), 0, FRAME_KERNEL);
		}
	}

	u->kernel_frames = rec->frame_count;
	if (BPF_CORE_READ(task, flags) & PF_KTHREAD || !BPF_CORE_READ(task, mm))
		return true;
	if (!user_registers(ctx, task, u, thread_size))
		return true;

	struct process *p = bpf_map_lookup_elem(&processes, &tgid);

	if (p) {
		rec->key.generation = p->generation;
		u->first = p->first;
		u->mappings = p->count;
		if (p->executable)
			find_labels(s, task, p->executable);
	} else {
		u->first = 0;
		u->mappings = 0;
	}
	u->process_known = p != NULL;
	u->start = 0;
	u->end = 0;
	u->running = 1;
	return true;
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
	if (read_user(&d->code, sizeof(d->code), d->ip))
		d->code = 0;
	d->exact = u->entry_exact;

	/* The end of the stack is not known here: take the largest number of pages that can be read. */
	__u64 sp = u->entry_regs[REG_SP];
	__u32 got = 0;

	for (int pages = DEFERRED_STACK / 4096; pages > 0; pages--) {
		__u32 bytes = pages * 4096 - (sp & 4095);

		if (!read_user(d->stack, bytes, sp)) {
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
		if (!fp || fp & 7 || fp < sp || read_user(&l->fp, 16, fp))
			break;
		l->at = fp;
		fp = l->fp > fp ? l->fp : 0;
	}
	d->stack_bytes = got;
	return !bpf_ringbuf_output(&stacks, d, __builtin_offsetof(struct deferred, stack) + got, wakeup());
}

/* Counts the sample, and sends its stack if the key is new in this epoch. */
static __always_inline void finish(struct scratch *s)
{
	struct stack_record *rec = &s->record;
	__u32 e = epoch & 1;
	__u64 one = 1, *n;

	__u32 stop = s->unwind.stop;

	if ((stop == STOP_NO_PROCESS || stop == STOP_NO_MAPPING || stop == STOP_PENDING) &&
	    send_labels(s, e) && defer(s, RECORD_WALK, e))
		return;
	rec->kind = RECORD_STACK;
	if (stop == STOP_READ && executing())
		s->unwind.stop = STOP_EXEC;
	if (s->unwind.stop != STOP_COMPLETE)
		push(s, s->unwind.stop, 0, FRAME_STOPPED);
	count(&stops, s->unwind.stop);
	rec->key.stack = s->unwind.hash;
	rec->epoch = e;
	if (verify && s->unwind.running) {
		__u32 all = rec->frame_count;

		defer(s, RECORD_VERIFY, e);
		rec->kind = RECORD_STACK;
		rec->frame_count = all;
	}

	n = e ? bpf_map_lookup_elem(&counts_odd, &rec->key) : bpf_map_lookup_elem(&counts_even, &rec->key);
	if (n) {
		__sync_fetch_and_add(n, 1);
		return;
	}
	/* The record first: a count without its stack would be a loss. A second CPU may send it too. */
	__u32 frames = rec->frame_count;

	if (frames > MAX_FRAMES)
		frames = MAX_FRAMES;

	if (!send_labels(s, e) ||
	    bpf_ringbuf_output(&stacks, rec, sizeof(*rec) + frames * sizeof(struct frame), wakeup())) {
		count(&drops, DROP_RING_FULL);
		return;
	}
	long err = e ? bpf_map_update_elem(&counts_odd, &rec->key, &one, BPF_NOEXIST) :
		       bpf_map_update_elem(&counts_even, &rec->key, &one, BPF_NOEXIST);

	if (!err)
		return;
	n = e ? bpf_map_lookup_elem(&counts_odd, &rec->key) : bpf_map_lookup_elem(&counts_even, &rec->key);
	if (n)
		__sync_fetch_and_add(n, 1);
	else
		count(&drops, DROP_COUNTS_FULL);
}

static long loop_step(__u32 i, void *unused)
{
	__u32 zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);

	return !s || step(s);
}

SEC("perf_event")
int cpu_loop(struct bpf_perf_event_data *ctx)
{
	__u32 zero = 0;
	struct scratch *s;

	if (!due())
		return 0;
	s = bpf_map_lookup_elem(&scratches, &zero);
	if (!s) {
		count(&drops, DROP_SCRATCH);
		return 0;
	}
	if (!begin(ctx, s))
		return 0;
	if (s->unwind.running)
		bpf_loop(MAX_USER_FRAMES + 1, loop_step, NULL, 0);
	finish(s);
	return 0;
}

/* Walks TAIL_FRAMES frames, then calls itself again or finishes. */
SEC("perf_event")
int cpu_tail_step(struct bpf_perf_event_data *ctx)
{
	__u32 zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);

	if (!s)
		return 0;
	for (int i = 0; i < TAIL_FRAMES; i++) {
		if (step(s))
			goto done;
	}
	bpf_tail_call(ctx, &tail, 0);
	s->unwind.stop = STOP_TOO_DEEP;
done:
	finish(s);
	return 0;
}

SEC("perf_event")
int cpu_tail(struct bpf_perf_event_data *ctx)
{
	__u32 zero = 0;
	struct scratch *s;

	if (!due())
		return 0;
	s = bpf_map_lookup_elem(&scratches, &zero);
	if (!s) {
		count(&drops, DROP_SCRATCH);
		return 0;
	}
	if (!begin(ctx, s))
		return 0;
	if (s->unwind.running) {
		bpf_tail_call(ctx, &tail, 0);
		count(&drops, DROP_TAIL_CALL);
	}
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

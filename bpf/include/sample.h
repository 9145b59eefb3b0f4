/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * A sample of the current task: kernel stack, user registers, labels and span.
 */
#ifndef PERFUSE_SAMPLE_H
#define PERFUSE_SAMPLE_H

#include "count.h"
#include "golabels.h"

/* Settings, fixed at load time. */
const volatile bool spans_enabled = false;

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

/*
 * Fills in key and kernel frames and readies the walk of the user stack. False: this task is not sampled. ctx is the
 * program's own, regs the interrupted registers or NULL.
 */
static __always_inline bool begin(void *ctx, struct bpf_perf_event_data *regs, struct scratch *s, __u32 event,
				  __u64 value)
{
	struct stack_record *rec = &s->record;
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 tgid = pid_tgid >> 32, executable;

	/* Whoever wakes another may be anyone, an interrupt of the idle task too. */
	if (event != EVENT_WAKE && tgid == 0)
		return false;
	reset(s, event, tgid, value);
	bpf_get_current_comm(rec->key.comm, sizeof(rec->key.comm));
	if (spans_enabled && event != EVENT_WAKE) {
		struct span *span = bpf_map_lookup_elem(&traces_ctx_v1, &pid_tgid);

		if (span) {
			__builtin_memcpy(rec->key.trace_id, span->trace_id, sizeof(span->trace_id));
			__builtin_memcpy(rec->key.span_id, span->span_id, sizeof(span->span_id));
		}
	}
	push_kernel(s, bpf_get_stack(ctx, s->kernel, sizeof(s->kernel), 0));
	if (BPF_CORE_READ(task, flags) & PF_KTHREAD || !BPF_CORE_READ(task, mm))
		return true;
	if (!user_registers(regs, task, &s->unwind, thread_size))
		return true;
	executable = ready(s);
	if (executable && event != EVENT_WAKE)
		find_labels(s, task, executable);
	return true;
}

/* Tells the agent of stack and labels. False if there is no room. */
static __always_inline bool tell(struct scratch *s, __u32 e)
{
	s->record.epoch = e;
	if (!send_labels(s, e)) {
		count(&drops, DROP_RING_FULL);
		return false;
	}
	return send(&s->record);
}

/* Adds the value to the sample's key, and tells the agent of its stack first if it is new in this epoch. */
static __always_inline void count_sample(struct scratch *s)
{
	struct sample_key *key = &s->record.key;
	__u32 e = epoch & 1;

	/* The record first: a count without its stack would be a loss. A second CPU may send it too. */
	if (counted(key, e) || tell(s, e))
		add(key, s->unwind.value, e);
}

#endif

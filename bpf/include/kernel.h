/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The kernel's types as far as our programs look into them. Fields are found by CO-RE at load time: the
 * order and the neighbours here mean nothing. Declared by hand instead of a generated vmlinux.h so that the
 * list says what we depend on.
 */
#ifndef PERFUSE_KERNEL_H
#define PERFUSE_KERNEL_H

typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)

/* From the kernel's stable interface (uapi/linux/bpf.h). */
enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PROG_ARRAY = 3,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_ARRAY_OF_MAPS = 12,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_F_MMAPABLE = 1 << 10,
	BPF_RB_NO_WAKEUP = 1,
	BPF_RB_FORCE_WAKEUP = 2,
	BPF_RB_AVAIL_DATA = 0,
};

/* Of a task. */
#define PF_KTHREAD 0x00200000
#define TASK_UNINTERRUPTIBLE 2
#define TASK_DEAD 0x80

/* Helper numbers, to ask the running kernel's BTF whether it has them. */
enum bpf_func_id {
	BPF_FUNC_task_pt_regs = 175,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct mm_struct;

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

struct signal_struct {
	struct {
		int counter;
	} live;
};

struct thread_struct {
	unsigned long fsbase;
};

struct file;

struct vm_area_struct {
	unsigned long vm_start;
	unsigned long vm_end;
	struct file *vm_file;
};

struct task_struct {
	void *stack;
	unsigned int flags;
	unsigned int __state;
	int on_cpu;
	int pid;
	int tgid;
	char comm[16];
	struct mm_struct *mm;
	struct signal_struct *signal;
	struct task_struct *group_leader;
	unsigned int in_execve : 1;
	struct thread_struct thread;
};

#pragma clang attribute pop

/* Registers as perf_event programs get them: a stable interface, not relocated. */
#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
typedef struct pt_regs bpf_user_pt_regs_t;
#elif defined(__TARGET_ARCH_arm64)
struct user_pt_regs {
	__u64 regs[31], sp, pc, pstate;
};
struct pt_regs {
	struct user_pt_regs user_regs;
};
typedef struct user_pt_regs bpf_user_pt_regs_t;
#else
#error "unknown target architecture"
#endif

struct bpf_perf_event_data {
	bpf_user_pt_regs_t regs;
	__u64 sample_period;
	__u64 addr;
};

#endif

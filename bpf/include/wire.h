/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Records that cross between the kernel and the agent, defined once. Fixed width, explicit padding. The
 * agent's Go types are generated from these by bpf2go.
 */
#ifndef PERFUSE_WIRE_H
#define PERFUSE_WIRE_H

#include "kernel.h"

#define MAX_USER_FRAMES 1024
#define MAX_KERNEL_FRAMES 127
#define MAX_FRAMES (MAX_USER_FRAMES + MAX_KERNEL_FRAMES + 1)

/* What a frame's address means. */
enum frame_kind {
	FRAME_USER = 0,    /* addr: file address if object != 0, else the process's own address */
	FRAME_KERNEL = 1,  /* addr: kernel address */
	FRAME_STOPPED = 2, /* not code: the unwinder gave up; addr is an enum stop */
};

/* One frame. For a caller's frame addr lies inside the call (return address minus one). */
struct frame {
	__u64 addr;
	__u32 object; /* the agent's number of the executable file, 0: none */
	__u32 kind;
};
_Static_assert(sizeof(struct frame) == 16, "frame");

/* Why a user stack could not be finished. The order is part of the interface with agent/sampler. */
enum stop {
	STOP_COMPLETE = 0,
	STOP_NO_PROCESS = 1,   /* the agent has not told us this process's mappings */
	STOP_NO_MAPPING = 2,   /* the address lies in no executable mapping */
	STOP_NO_UNWIND = 3,    /* no unwind information, and no frame pointer that proves itself */
	STOP_READ = 4,         /* the stack could not be read */
	STOP_REGISTER = 5,     /* the rule needs a register that is not known in this frame */
	STOP_UNSUPPORTED = 6,  /* unwind information that no rule expresses */
	STOP_NO_PROGRESS = 7,  /* the stack pointer did not move towards the root */
	STOP_TOO_DEEP = 8,     /* more than MAX_USER_FRAMES frames */
	STOP_PENDING = 9,      /* the file's table is being compiled */
	STOP_EXEC = 10,        /* the task is replacing its program */
	STOP_KINDS = 11,
};

/* What is counted. */
enum event {
	EVENT_CPU = 0,   /* samples */
	EVENT_FAULT = 1, /* page faults */
	EVENT_WAIT = 2,  /* nanoseconds off the CPU */
	EVENT_WAKE = 3,  /* the same, at the stack of who ended the wait; trace_id and span_id are a struct waiter */
};

/* Who waited. */
struct waiter {
	__u32 tgid;
	__u32 generation;
	char comm[16];
};
_Static_assert(sizeof(struct waiter) == 24, "waiter");

/* What distinguishes one counted thing from another. */
struct sample_key {
	__u32 event; /* enum event */
	__u32 state; /* of a wait: how the thread left the CPU, enum state; else 0 */
	__u32 tgid;
	__u32 generation; /* the agent's number of this execution, 0: not told yet */
	char comm[16];    /* the thread's name */
	__u64 stack;      /* hash over the frames */
	__u8 trace_id[16];
	__u8 span_id[8];
	__u64 labels; /* hash of the labels, 0: none */
};
_Static_assert(sizeof(struct sample_key) == 72, "sample_key");

/* How a thread left the CPU. */
enum state {
	STATE_NONE = 0,
	STATE_RUNNABLE = 1,        /* another thread got the CPU */
	STATE_INTERRUPTIBLE = 2,   /* it waits, and a signal would wake it */
	STATE_UNINTERRUPTIBLE = 3, /* it waits for something that will come soon, as a disk */
};

/* What comes through the ring of stacks. */
enum record_kind {
	RECORD_STACK = 0,  /* the first sight of a key in an epoch: frame_count frames follow, leaf first, kernel before user */
	RECORD_WALK = 1,   /* a struct deferred: the agent walks the user stack, and the sample is counted nowhere else */
	RECORD_VERIFY = 2, /* a struct deferred: a copy of what was walked and counted in the kernel */
	RECORD_LABELS = 3, /* a struct label_record: what key.labels of the record that comes next stands for */
};

struct stack_record {
	struct sample_key key;
	__u64 time; /* CLOCK_MONOTONIC nanoseconds */
	__u32 epoch;
	__u32 frame_count;
	__u32 kind;   /* enum record_kind */
	__u32 weight; /* of a RECORD_WALK: what it counts, as in the maps of counts */
};
_Static_assert(sizeof(struct stack_record) == 96, "stack_record");

#if defined(__TARGET_ARCH_x86)
#define REGS 16
#else
#define REGS 32
#endif

/*
 * The labels that a program gave to its goroutine. key.labels is the sum of the labels' hashes, so that the order
 * does not matter. Only frame_count labels are sent.
 */
#define MAX_LABELS 16
#define LABEL_KEY 64
#define LABEL_VALUE 128
struct label {
	__u32 key_bytes; /* what there is, of which LABEL_KEY and LABEL_VALUE at most are here */
	__u32 value_bytes;
	char key[LABEL_KEY];
	char value[LABEL_VALUE];
};
_Static_assert(sizeof(struct label) == 200, "label");

struct label_record {
	struct stack_record record;
	struct label labels[MAX_LABELS];
};
_Static_assert(__builtin_offsetof(struct label_record, labels) == 96, "label_record");

/*
 * A sample whose user stack the agent must walk itself, because the kernel side did not know the process or
 * the file yet: a copy of the registers and of the top of the stack. It is not counted in a map.
 */
#define DEFERRED_STACK 28672
#define DEFERRED_CHAIN 64

/* Two words of the stack beyond the copy: what a frame pointer points to. */
struct chain_link {
	__u64 at;
	__u64 fp;
	__u64 ip;
};

struct deferred {
	struct stack_record record;
	struct frame kernel[MAX_KERNEL_FRAMES];
	__u64 regs[REGS]; /* by DWARF number */
	__u64 ip;
	__u64 code;  /* the first bytes at ip, 0 if they cannot be read */
	__u32 exact; /* 1: ip is the interrupted instruction, 0: a return address */
	__u32 stack_bytes;
	struct chain_link chain[DEFERRED_CHAIN]; /* by frame pointers, as far as they lead; ends with at == 0 */
	__u8 stack[DEFERRED_STACK]; /* from the stack pointer on; the record ends after stack_bytes */
};
_Static_assert(__builtin_offsetof(struct deferred, stack) == 96 + MAX_KERNEL_FRAMES * 16 + REGS * 8 + 24 +
		       DEFERRED_CHAIN * 24,
	       "deferred");

/* A process's executable mappings are a span of the array `mappings`, sorted by start. */
struct process {
	__u32 first;
	__u32 count;
	__u32 generation;
	__u32 executable; /* the main program's object, 0: not known */
};
_Static_assert(sizeof(struct process) == 16, "process");

struct mapping {
	__u64 start;
	__u64 end;
	__u64 bias; /* address minus bias = file address */
	__u32 object;
	__u32 flags;
};
_Static_assert(sizeof(struct mapping) == 32, "mapping");

/* One executable file's unwind table: its 64 KiB blocks are blocks[first_block ...]. */
struct object {
	__u64 fp_start; /* file addresses whose callers are walked by frame pointers (Go) ... */
	__u64 fp_end;
	__u64 rows_start; /* ... but for those in here: functions that switch stacks are among them */
	__u64 rows_end;
	__u32 address_block; /* file address >> 16 of the first block */
	__u32 block_count;   /* 0: no table, BLOCKS_PENDING: not yet */
	__u32 first_block;
	__u32 first_rule;
	/* Where a thread of a Go program finds its goroutine's labels; see agent/unwind. */
	__s32 go_tls;
	__u16 go_m;
	__u16 go_curg;
	__u16 go_labels; /* 0: no labels are read */
	__u8 go_labels_map;
	__u8 pad[5];
};
_Static_assert(sizeof(struct object) == 64, "object");
#define BLOCKS_PENDING 0xffffffff

/* The rows of a block lie in one chunk: chunk = row >> CHUNK_SHIFT. */
#define CHUNK_SHIFT 18
#define CHUNK_ROWS (1 << CHUNK_SHIFT)
struct block {
	__u32 row;
	__u32 count;
};
_Static_assert(sizeof(struct block) == 8, "block");

struct row_chunk {
	__u32 rows[CHUNK_ROWS]; /* low 16 bits: address within the block; high 16 bits: rule */
};

/* See agent/unwind for the meaning of the fields; the numbers are the same. */
enum cfa {
	CFA_NONE = 0,
	CFA_REGISTER = 1,
	CFA_DEREF = 2,
	CFA_PLT = 3,
	CFA_SIGNAL = 4,
	CFA_END = 5,
	CFA_FRAME_POINTER = 6,
	CFA_UNSUPPORTED = 7,
};
enum save {
	SAVE_SAME = 0,
	SAVE_OFFSET = 1,
	SAVE_UNDEFINED = 2,
	SAVE_AT_FP = 3,
	SAVE_REGISTER = 4,
};
struct rule {
	__u8 cfa;
	__u8 reg;
	__u8 fp;
	__u8 ra;
	__s32 offset;
	__s32 extra;
	__s16 fp_off;
	__s16 ra_off;
};
_Static_assert(sizeof(struct rule) == 16, "rule");

/* A thread, since it was first seen to leave the CPU. See bpf/offcpu. */
struct thread {
	__u64 since;  /* when it left the CPU, CLOCK_MONOTONIC; 0: it runs */
	__u64 limit;  /* what of this wait counts by drawing: its first nanoseconds */
	__u64 second; /* the second in which `drawn` waits were drawn */
	__u32 drawn;
	__u32 weight; /* of this wait, whose key is then set, if it was drawn and has not been counted yet, else 0 */
	__u32 known;  /* 1: key is this wait's, and its stack is as good as it will be */
	__u32 shift; /* with which that second began: a wait is drawn with a chance of 1 to 2^shift */
	__u64 woken; /* since, of the last wait whose end was looked at */
	struct sample_key key;
};
_Static_assert(sizeof(struct thread) == 48 + 72, "thread");

/* Losses, counted per CPU in `drops`. */
enum drop {
	DROP_NONE = 0,
	DROP_SCRATCH = 1, /* no scratch memory: cannot happen */
	DROP_COUNTS_FULL = 2,
	DROP_RING_FULL = 3,
	DROP_TAIL_CALL = 4,
	DROP_LABELS = 5, /* not a sample: its labels, which could not be read */
	DROP_THREADS = 6, /* a wait of a thread for which there was no room */
	DROP_KINDS = 7,
};

#endif

/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Walking a user stack: one step finds the mapping of an address, the rule of its unwind table, and from the
 * rule the caller's registers. Where a mapping has no unwind information the frame pointer is followed,
 * if it proves itself: aligned, towards the root, and its return address lies in executable memory.
 *
 * Everything lives in the per-CPU scratch: a BPF stack holds 512 bytes.
 */
#ifndef PERFUSE_UNWIND_H
#define PERFUSE_UNWIND_H

#include "wire.h"

#define DEFAULT_MAPPINGS (1 << 18)
#define DEFAULT_BLOCKS (1 << 18)
#define DEFAULT_RULES (1 << 18)
#define DEFAULT_OBJECTS (1 << 15)
#define DEFAULT_CHUNKS 1024

#define MAPPING_STEPS 14 /* 16383 executable mappings a process */
#define ROW_STEPS 17     /* 65536 rows a block */

#if defined(__TARGET_ARCH_x86)
#define REG_FP 6
#define REG_SP 7
#else
#define REG_FP 29
#define REG_SP 31
#define REG_LR 30
#endif
/* Where the kernel keeps a task's user registers. */
#ifndef TASK_REGS
#define TASK_REGS(task) bpf_task_pt_regs((void *)bpf_get_current_task_btf())
#endif
#define ALL_REGS ((__u32)((1ULL << REGS) - 1))
#define WALKED_REGS (1U << REG_FP | 1U << REG_SP)

struct unwind {
	__u64 regs[REGS]; /* by DWARF number */
	__u64 ip;
	__u64 hash;
	/* The mapping that was found last: most callers lie in the same one. */
	__u64 start, end, bias;
	__u32 object;
	__u32 known; /* bit set of the registers whose value in this frame is known */
	__u32 first, mappings;
	__u32 count; /* user frames so far */
	__u32 stop;
	__u32 kernel_frames;
	__u8 exact; /* ip is the interrupted instruction, not a return address */
	__u8 running;
	__u8 process_known;
	__u8 pad[1];
	__u64 words[24]; /* what was read from the stack */
	/* The registers with which the walk began. */
	__u64 entry_regs[REGS];
	__u64 entry_ip;
	__u32 entry_exact;
	__u32 labels; /* how many wait in their scratch */
	__u64 value;  /* what the key counts */
};

struct scratch {
	struct unwind unwind;
	__u64 kernel[MAX_KERNEL_FRAMES];
	struct stack_record record; /* goes out together with the frames behind it */
	struct frame frames[MAX_FRAMES];
};
_Static_assert(__builtin_offsetof(struct scratch, frames) ==
		       __builtin_offsetof(struct scratch, record) + sizeof(struct stack_record),
	       "the frames follow the record");

/* A program that may lose the CPU while it walks has a scratch of another kind. */
#ifndef SCRATCH_MAP
#define SCRATCH_MAP BPF_MAP_TYPE_PERCPU_ARRAY
#endif
struct {
	__uint(type, SCRATCH_MAP);
	__type(key, __u32);
	__type(value, struct scratch);
	__uint(max_entries, 1);
} scratches SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32); /* tgid */
	__type(value, struct process);
	__uint(max_entries, 32768);
} processes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct mapping);
	__uint(max_entries, DEFAULT_MAPPINGS);
} mappings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct object);
	__uint(max_entries, DEFAULT_OBJECTS);
} objects SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct block);
	__uint(max_entries, DEFAULT_BLOCKS);
} blocks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct rule);
	__uint(max_entries, DEFAULT_RULES);
} rules SEC(".maps");

struct chunk_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__uint(value_size, sizeof(struct row_chunk));
	__uint(max_entries, 1);
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__type(key, __u32);
	__uint(max_entries, DEFAULT_CHUNKS);
	__array(values, struct chunk_map);
} chunks SEC(".maps");

static __always_inline void push(struct scratch *s, __u64 addr, __u32 object, __u32 kind)
{
	__u32 i = s->record.frame_count;

	if (i >= MAX_FRAMES)
		return;
	s->frames[i].addr = addr;
	s->frames[i].object = object;
	s->frames[i].kind = kind;
	s->record.frame_count = i + 1;

	__u64 h = s->unwind.hash ^ (addr + ((__u64)object << 48) + ((__u64)kind << 62));

	h *= 0x9e3779b97f4a7c15ULL;
	s->unwind.hash = h ^ (h >> 32);
}

/*
 * Puts the registers with which the task left user space into u; false if there are none. ctx are those of the
 * interrupt, NULL: there was none, the task called the kernel.
 */
static __always_inline bool user_registers(struct bpf_perf_event_data *ctx, struct task_struct *task,
					   struct unwind *u, __u32 stack_bytes)
{
#if defined(__TARGET_ARCH_x86)
	struct pt_regs r;

	if (ctx && (ctx->regs.cs & 3) == 3) {
		r = ctx->regs;
		u->exact = 1;
	} else {
		unsigned long at;

		if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs))
			at = TASK_REGS(task);
		else
			at = (unsigned long)BPF_CORE_READ(task, stack) + stack_bytes - sizeof(r);
		if (bpf_probe_read_kernel(&r, sizeof(r), (void *)at))
			return false;
		if ((r.cs & 3) != 3)
			return false;
		/* In a system call ip is behind the instruction: a return address. An interrupt or fault left it
		 * at the instruction. The kernel tells them apart by orig_ax itself. */
		u->exact = (long)r.orig_ax < 0;
	}
	if (!r.ip)
		return false;
	u->regs[0] = r.ax;
	u->regs[1] = r.dx;
	u->regs[2] = r.cx;
	u->regs[3] = r.bx;
	u->regs[4] = r.si;
	u->regs[5] = r.di;
	u->regs[6] = r.bp;
	u->regs[7] = r.sp;
	u->regs[8] = r.r8;
	u->regs[9] = r.r9;
	u->regs[10] = r.r10;
	u->regs[11] = r.r11;
	u->regs[12] = r.r12;
	u->regs[13] = r.r13;
	u->regs[14] = r.r14;
	u->regs[15] = r.r15;
	u->ip = r.ip;
#else
	struct user_pt_regs r;

	if (ctx && !(ctx->regs.pstate & 0xf)) {
		r = ctx->regs;
		u->exact = 1;
	} else {
		unsigned long at;

		if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs))
			at = TASK_REGS(task);
		else
			return false;
		if (bpf_probe_read_kernel(&r, sizeof(r), (void *)at))
			return false;
		if (r.pstate & 0xf)
			return false;
		u->exact = 0;
	}
	for (int i = 0; i < 31; i++)
		u->regs[i] = r.regs[i];
	u->regs[REG_SP] = r.sp;
	u->ip = r.pc;
#endif
	u->known = ALL_REGS;
	__builtin_memcpy(u->entry_regs, u->regs, sizeof(u->regs));
	u->entry_ip = u->ip;
	u->entry_exact = u->exact;
	return true;
}

/*
 * The two searches are global functions: the verifier walks each once, instead of once per frame and path.
 */

/* The index of the last mapping of a span that begins at or before addr. The span is not empty. */
__noinline __u32 search_mappings(__u32 at, __u32 n, __u64 addr)
{
	for (int i = 0; i < MAPPING_STEPS && n > 1; i++) {
		__u32 half = n / 2, mid = at + half;
		struct mapping *m = bpf_map_lookup_elem(&mappings, &mid);

		if (m && m->start <= addr)
			at = mid;
		n -= half;
	}
	return at;
}

/* The rule number of the last row of a block that begins at or before the low 16 bits of an address. */
__noinline __u32 search_rows(__u32 at, __u32 n, __u32 low)
{
	__u32 chunk = at >> CHUNK_SHIFT, zero = 0;
	void *inner = bpf_map_lookup_elem(&chunks, &chunk);
	struct row_chunk *c;

	if (!inner)
		return 0;
	c = bpf_map_lookup_elem(inner, &zero);
	if (!c)
		return 0;
	for (int k = 0; k < ROW_STEPS && n > 1; k++) {
		__u32 half = n / 2;

		if ((c->rows[(at + half) & (CHUNK_ROWS - 1)] & 0xffff) <= low)
			at += half;
		n -= half;
	}
	return c->rows[at & (CHUNK_ROWS - 1)] >> 16;
}

/* Finds the executable mapping of an address; the last one is remembered in u. */
static __always_inline bool find_mapping(struct unwind *u, __u64 addr)
{
	if (addr >= u->start && addr < u->end)
		return true;
	if (!u->mappings)
		return false;

	__u32 at = search_mappings(u->first, u->mappings, addr);
	struct mapping *m = bpf_map_lookup_elem(&mappings, &at);

	if (!m || addr < m->start || addr >= m->end)
		return false;
	u->start = m->start;
	u->end = m->end;
	u->bias = m->bias;
	u->object = m->object;
	return true;
}

/* Finds the rule of a file address, or NULL where the file has no table. */
static __always_inline struct rule *find_rule(struct object *o, __u64 addr)
{
	__u64 b = (addr >> 16) - o->address_block;

	if (b >= o->block_count)
		return NULL;

	__u32 i = o->first_block + (__u32)b;
	struct block *block = bpf_map_lookup_elem(&blocks, &i);

	if (!block || !block->count)
		return NULL;

	__u32 rule = o->first_rule + search_rows(block->row, block->count, addr & 0xffff);

	return bpf_map_lookup_elem(&rules, &rule);
}

/* Memory of a task, NULL: the current one, of which nothing is paged in. */
#ifndef READ_USER
#define READ_USER(task, to, size, from) bpf_probe_read_user(to, size, from)
#endif
static __always_inline long read_user(struct task_struct *task, void *to, __u32 size, __u64 from)
{
	return READ_USER(task, to, size, (void *)from);
}

static __always_inline __u64 strip(__u64 ip)
{
#if defined(__TARGET_ARCH_arm64)
	return ip & ((1ULL << 48) - 1); /* the pointer's signature */
#else
	return ip;
#endif
}

/* Goes to the caller. */
static __always_inline int moved(struct unwind *u, __u64 ip, __u64 sp, __u64 fp)
{
	if (!ip)
		return 1; /* the thread's first frame */
	u->ip = ip;
	u->regs[REG_SP] = sp;
	u->regs[REG_FP] = fp;
	u->known = WALKED_REGS;
	u->exact = 0;
	return 0;
}

static __always_inline int stopped(struct unwind *u, __u32 why)
{
	u->stop = why;
	return 1;
}

/* All registers come from the signal frame that the kernel put on the stack. */
static __always_inline int walk_signal(struct task_struct *task, struct unwind *u)
{
#if defined(__TARGET_ARCH_x86)
	/* struct ucontext: flags, link, stack (40 bytes), then the registers. */
	if (read_user(task, u->words, 17 * 8, u->regs[REG_SP] + 40))
		return stopped(u, STOP_READ);
	for (int i = 0; i < 8; i++)
		u->regs[8 + i] = u->words[i];
	u->regs[5] = u->words[8];
	u->regs[4] = u->words[9];
	u->regs[6] = u->words[10];
	u->regs[3] = u->words[11];
	u->regs[1] = u->words[12];
	u->regs[0] = u->words[13];
	u->regs[2] = u->words[14];
	u->regs[7] = u->words[15];
	u->ip = u->words[16];
#else
	/* struct rt_sigframe: siginfo (128), ucontext up to the registers (184). */
	__u64 at = u->regs[REG_SP] + 312, last[2];

	if (read_user(task, u->regs, 31 * 8, at) || read_user(task, last, sizeof(last), at + 31 * 8))
		return stopped(u, STOP_READ);
	u->regs[REG_SP] = last[0];
	u->ip = last[1];
#endif
	u->known = ALL_REGS;
	u->exact = 1;
	return u->ip == 0;
}

/* Follows the frame pointer, if it proves itself. */
static __always_inline int walk_frame_pointer(struct task_struct *task, struct unwind *u, bool trusted)
{
	__u64 fp = u->regs[REG_FP], sp = u->regs[REG_SP];

#if defined(__TARGET_ARCH_x86)
	if (u->exact && !trusted) {
		/* The frame may not be set up yet, or be gone already: look at the instruction. */
		__u8 *code = (__u8 *)&u->words[4];

		if (!read_user(task, code, 4, u->ip)) {
			__u64 at = 0;

			if (code[0] == 0x55 || code[0] == 0xc3 || code[0] == 0xc2 ||
			    (code[0] == 0xf3 && code[1] == 0x0f && code[2] == 0x1e && code[3] == 0xfa))
				at = sp; /* push rbp, ret, endbr64 */
			else if (code[0] == 0x48 && code[1] == 0x89 && code[2] == 0xe5)
				at = sp + 8; /* mov rbp, rsp */
			if (at && !read_user(task, u->words, 8, at) && find_mapping(u, u->words[0] - 1))
				return moved(u, u->words[0], at + 8, fp);
		}
	}
#endif
	if (!fp)
		/* The entry code clears it: whoever was called from there is the root. */
		return u->exact && !trusted ? stopped(u, STOP_NO_UNWIND) : 1;
	if (fp & 7 || (fp < sp && !trusted))
		return stopped(u, STOP_NO_UNWIND);
	if (read_user(task, u->words, 16, fp))
		return stopped(u, trusted ? STOP_READ : STOP_NO_UNWIND);

	__u64 ip = strip(u->words[1]);

	if (ip && !find_mapping(u, ip - 1))
		return stopped(u, trusted ? STOP_NO_MAPPING : STOP_NO_UNWIND);
	return moved(u, ip, fp + 16, u->words[0]);
}

static __always_inline int walk_rule(struct task_struct *task, struct unwind *u, struct rule *r, bool switches)
{
	__u32 reg = r->reg & (REGS - 1);
	__u64 sp = u->regs[REG_SP], cfa, ip, fp = u->regs[REG_FP];

	if (r->cfa == CFA_PLT) {
		cfa = sp + 8 + ((u->ip & 15) >= (__u32)r->extra ? 8 : 0);
	} else {
		if (!(u->known >> reg & 1))
			return stopped(u, STOP_REGISTER);
		cfa = u->regs[reg] + (__s64)r->offset;
		if (r->cfa == CFA_DEREF) {
			if (read_user(task, u->words, 8, cfa))
				return stopped(u, STOP_READ);
			cfa = u->words[0] + (__s64)r->extra;
		}
	}
	/*
	 * Towards the root; only the first function may have no frame at all. But where stacks are
	 * switched (Go), another stack may lie anywhere: a frame found by another register says where.
	 */
	if ((cfa < sp || (cfa == sp && !u->exact && u->count > 1)) && !(switches && reg != REG_SP))
		return stopped(u, STOP_NO_PROGRESS);

	if (r->ra == SAVE_OFFSET) {
		if (read_user(task, &u->words[0], 8, cfa + (__s64)r->ra_off))
			return stopped(u, STOP_READ);
		ip = u->words[0];
	} else if (r->ra == SAVE_UNDEFINED) {
		return 1;
	} else if (r->ra == SAVE_REGISTER) {
		__u32 in = (__u32)r->ra_off & (REGS - 1);

		if (!(u->known >> in & 1))
			return stopped(u, STOP_REGISTER);
		ip = u->regs[in];
	} else {
#if defined(__TARGET_ARCH_arm64)
		if (!(u->known >> REG_LR & 1))
			return stopped(u, STOP_REGISTER);
		ip = u->regs[REG_LR];
#else
		return stopped(u, STOP_UNSUPPORTED);
#endif
	}
	if (r->fp == SAVE_OFFSET || r->fp == SAVE_AT_FP) {
		if (read_user(task, &u->words[1], 8, (r->fp == SAVE_OFFSET ? cfa : fp) + (__s64)r->fp_off))
			return stopped(u, STOP_READ);
		fp = u->words[1];
	} else if (r->fp == SAVE_UNDEFINED) {
		fp = 0;
	}
	return moved(u, strip(ip), cfa, fp);
}

/* One frame: records it and goes to its caller. Returns 1 when the walk has ended, for the reason in stop. */
static __always_inline int step(struct task_struct *task, struct scratch *s)
{
	struct unwind *u = &s->unwind;
	__u64 pc = u->exact ? u->ip : u->ip - 1;

	if (u->count >= MAX_USER_FRAMES)
		return stopped(u, STOP_TOO_DEEP);
	u->count++;
	if (!find_mapping(u, pc)) {
		push(s, pc, 0, FRAME_USER);
		return stopped(u, u->process_known ? STOP_NO_MAPPING : STOP_NO_PROCESS);
	}

	__u32 object = u->object;
	__u64 addr = object ? pc - u->bias : pc;

	push(s, addr, object, FRAME_USER);

	struct object *o = object ? bpf_map_lookup_elem(&objects, &object) : NULL;

	if (!o)
		return walk_frame_pointer(task, u, false);
	if (o->block_count == BLOCKS_PENDING)
		return stopped(u, STOP_PENDING);
	if (!u->exact && addr >= o->fp_start && addr < o->fp_end && !(addr >= o->rows_start && addr < o->rows_end))
		return walk_frame_pointer(task, u, true);

	struct rule *r = find_rule(o, addr);

	if (!r || r->cfa == CFA_NONE)
		return walk_frame_pointer(task, u, false);
	switch (r->cfa) {
	case CFA_END:
		return 1;
	case CFA_SIGNAL:
		return walk_signal(task, u);
	case CFA_FRAME_POINTER:
		return walk_frame_pointer(task, u, true);
	case CFA_UNSUPPORTED:
		return stopped(u, STOP_UNSUPPORTED);
	default:
		return walk_rule(task, u, r, o->fp_end != 0);
	}
}

#endif

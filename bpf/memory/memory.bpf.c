//go:build ignore

// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Heap sampling.
 *
 * Hook: uprobes on the functions of allocators, in chosen processes only. What a function's arguments mean and in which
 * registers they are at the probe comes in the probe's cookie. Where the kernel has sessions (6.13) one program serves a
 * call's beginning and end, and asks for the end only when it needs it; else the end is a probe of its own.
 * Context: a process's own, preemptible: another thread's program may run in between on the same CPU. So what belongs to
 * a call is in its thread's storage, and memory for a walk is claimed with an atomic instruction.
 * Cost: a trap (0.5 us) and some 50 ns for each call that is hooked, 0.3 us more where the end matters; a sample, one per
 * `rate` bytes, walks the user stack. Nobody is woken up: the agent looks into the ring.
 * May not: write anything but its own maps. The profiled process sees the traps' time, and where a call's end is probed
 * a return address of the kernel's: an exception that came by would end the process. So where one may, nothing is put that
 * could ask for the end: what was allocated is known, but not where. A session would not do, whatever it asks for: the
 * kernel takes those of other processes at the same place for ones that ask.
 *
 * Needs bpf_loop (5.17).
 */
#include "../include/kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "../include/unwind.h"

/* From the kernel's stable interface. */
enum {
	BPF_MAP_TYPE_TASK_STORAGE = 29,
	BPF_F_NO_PREALLOC = 1,
	BPF_LOCAL_STORAGE_GET_F_CREATE = 1,
};

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* What an allocator's function does. The numbers are part of the cookie that agent/heap/native makes. */
enum form {
	FORM_SIZE = 0,            /* returns size bytes */
	FORM_PRODUCT = 1,         /* returns size * count bytes */
	FORM_REALLOC = 2,         /* frees pointer, returns size bytes; or does neither and returns NULL */
	FORM_REALLOC_PRODUCT = 3, /* the same with size * count */
	FORM_OUT = 4,             /* puts size bytes' address where pointer points, returns 0 */
	FORM_FREE = 5,            /* frees pointer */
};

/* The cookie: what the agent calls this process, and the low 32 bits as follows. */
#define COOKIE_FORM 0xf
#define COOKIE_LEAF 0x10 /* calls no other function that is hooked */
#define COOKIE_THROWS 0x20 /* may be left by an exception, which cannot pass a return that is probed */
#define COOKIE_POINTER 8 /* registers, four bits each */
#define COOKIE_SIZE 12
#define COOKIE_COUNT 16

enum memory_kind {
	MEMORY_ALLOC = 0, /* a struct memory_alloc and its frames */
	MEMORY_FREE = 1,  /* a struct memory_event */
};

struct memory_event {
	__u32 kind; /* enum memory_kind */
	__u32 watch;
	__u64 time; /* CLOCK_MONOTONIC nanoseconds */
	__u64 id;   /* of the sample */
	__u64 addr;
};
_Static_assert(sizeof(struct memory_event) == 32, "memory_event");

struct memory_alloc {
	struct memory_event event;
	__u64 size;
	__u32 tgid;
	__u32 generation; /* 0: not told yet */
	__u32 frame_count;
	__u32 untracked; /* 1: there was no room to remember it until it is freed */
	char comm[16];   /* the thread's name */
};
_Static_assert(sizeof(struct memory_alloc) == 72, "memory_alloc");
_Static_assert(sizeof(struct memory_alloc) <= sizeof(struct stack_record), "a record goes where a stack_record is");

struct live_key {
	__u64 addr;
	__u32 watch;
	__u32 pad;
};
_Static_assert(sizeof(struct live_key) == 16, "live_key");

struct live {
	__u64 id;
	__u64 size;
};
_Static_assert(sizeof(struct live) == 16, "live");

enum memory_drop {
	MEMORY_DROP_NONE = 0,
	MEMORY_DROP_STATE = 1,     /* no storage for the thread: its call was not counted */
	MEMORY_DROP_WALKS = 2,     /* more threads of one CPU in a walk than there is memory for */
	MEMORY_DROP_RING = 3,      /* a sample found no room in the ring */
	MEMORY_DROP_LIVE = 4,      /* not a sample: it is not remembered until it is freed */
	MEMORY_DROP_FREE_RING = 5, /* not a sample: a free found no room in the ring */
	MEMORY_DROP_THROWS = 6,    /* a sample so large that its allocation well may throw */
	MEMORY_DROP_BLIND = 7,     /* not a sample: it may throw, and is not remembered until it is freed */
	MEMORY_DROP_KINDS = 8,
};

const enum memory_kind *export_memory_kind __attribute__((unused));
const enum memory_drop *export_memory_drop __attribute__((unused));
const enum form *export_form __attribute__((unused));
const struct memory_event *export_memory_event __attribute__((unused));
const struct memory_alloc *export_memory_alloc __attribute__((unused));

/* Settings, fixed at load time. */
const volatile __u64 rate_ln2 = 363409; /* bytes per sample times ln 2 */
const volatile __u64 throw_limit = 1 << 30; /* sizes above may make functions throw that can */
const volatile bool frees = true;

__u64 next_id = 1;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct live_key);
	__type(value, struct live);
	__uint(max_entries, 65536);
} live_samples SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} samples SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, MEMORY_DROP_KINDS);
} memory_drops SEC(".maps");

/*
 * By the agent's number of a process modulo WATCHES: which one is watched, and how many calls came by. Probes take long to go
 * away, and go on at what the process becomes by exec: their numbers are no longer watched.
 */
#define WATCHES 1024
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, WATCHES);
} watches SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, WATCHES);
} call_counts SEC(".maps");

/* The call that a thread is in. */
struct call {
	__u64 left; /* bytes until the next sample */
	__u64 sp;   /* stack pointer at the call's beginning, 0: in no call whose end matters */
	__u64 ret;  /* where it returns to */
	__u64 entry;
	__u64 size;
	__u64 pointer; /* what realloc frees, or where FORM_OUT puts the address */
	struct live old; /* the sample that realloc frees; id 0: it frees none */
	__u32 form;
	__u32 watch;
	__u8 drawn; /* left is valid */
	__u8 sampled;
	__u8 nested; /* calls in it so far */
	__u8 pad[5];
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct call);
} calls SEC(".maps");

#define WALKS 4
struct walk {
	__u32 taken;
	__u32 pad;
	struct scratch scratch;
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct walk);
	__uint(max_entries, WALKS);
} walks SEC(".maps");

static __always_inline void drop(__u32 why)
{
	__u64 *n = bpf_map_lookup_elem(&memory_drops, &why);

	if (n)
		__sync_fetch_and_add(n, 1);
}

/*
 * How many bytes to the next sample: exponentially distributed with mean `rate`, as -log2(u) * rate * ln 2 for u uniform
 * in (0, 1]. The logarithm has FRACTION bits behind the point, found one by one by squaring. A global function: the
 * verifier walks it once.
 */
#define FRACTION 20
#define DOUBLE(bits)               \
	if (!(x >> (33 - bits))) { \
		x <<= bits;        \
		log += bits;       \
	}
__noinline __u64 draw(void)
{
	__u64 x = (__u64)bpf_get_prandom_u32() + 1, log = 0; /* u = x / 2^32 */

	DOUBLE(16) DOUBLE(8) DOUBLE(4) DOUBLE(2) DOUBLE(1) DOUBLE(1)
	log <<= FRACTION; /* u = 2^-log * x / 2^32, and the latter is now at least 1 and less than 2 */
	x >>= 1;
	for (int i = 1; i <= FRACTION; i++) {
		x = (x * x) >> 31;

		__u64 bit = x >> 32;

		x >>= bit;
		log -= bit << (FRACTION - i);
	}
	return ((log >> 4) * rate_ln2) >> (FRACTION - 4);
}

/* A field of the context: the verifier wants its offset in the instruction, and compilers like to add it up before. */
#define LOAD(ctx, field)                                                                      \
	({                                                                                    \
		__u64 v;                                                                      \
		asm volatile("%0 = *(u64 *)(%1 + %2)"                                         \
			     : "=r"(v)                                                        \
			     : "r"(ctx), "i"(__builtin_offsetof(struct pt_regs, field)));     \
		v;                                                                            \
	})

#if defined(__TARGET_ARCH_x86)
#define SP(ctx) ((ctx)->sp)
#define IP(ctx) ((ctx)->ip)
#define RESULT(ctx) ((ctx)->ax)
#define POPPED 8 /* how much a return raises the stack pointer */
/* Numbered as instructions number them. */
static __always_inline __u64 reg(struct pt_regs *ctx, __u32 n)
{
	switch (n & 15) {
	case 0:
		return LOAD(ctx, ax);
	case 1:
		return LOAD(ctx, cx);
	case 2:
		return LOAD(ctx, dx);
	case 3:
		return LOAD(ctx, bx);
	case 5:
		return LOAD(ctx, bp);
	case 6:
		return LOAD(ctx, si);
	case 7:
		return LOAD(ctx, di);
	case 8:
		return LOAD(ctx, r8);
	case 9:
		return LOAD(ctx, r9);
	case 10:
		return LOAD(ctx, r10);
	case 11:
		return LOAD(ctx, r11);
	case 12:
		return LOAD(ctx, r12);
	case 13:
		return LOAD(ctx, r13);
	case 14:
		return LOAD(ctx, r14);
	case 15:
		return LOAD(ctx, r15);
	}
	return 0;
}
static __always_inline __u64 return_address(struct pt_regs *ctx)
{
	__u64 ret = 0;

	bpf_probe_read_user(&ret, sizeof(ret), (void *)ctx->sp);
	return ret;
}
#else
#define SP(ctx) ((ctx)->user_regs.sp)
#define IP(ctx) ((ctx)->user_regs.pc)
#define RESULT(ctx) ((ctx)->user_regs.regs[0])
#define POPPED 0
static __always_inline __u64 reg(struct pt_regs *ctx, __u32 n)
{
	switch (n & 3) {
	case 0:
		return LOAD(ctx, user_regs.regs[0]);
	case 1:
		return LOAD(ctx, user_regs.regs[1]);
	case 2:
		return LOAD(ctx, user_regs.regs[2]);
	}
	return 0;
}
static __always_inline __u64 return_address(struct pt_regs *ctx)
{
	return ctx->user_regs.regs[30];
}
#endif

static __always_inline void send_free(__u32 watch, __u64 addr, __u64 id)
{
	struct memory_event e = { .kind = MEMORY_FREE, .watch = watch, .time = bpf_ktime_get_ns(), .id = id, .addr = addr };

	if (bpf_ringbuf_output(&samples, &e, sizeof(e), BPF_RB_NO_WAKEUP))
		drop(MEMORY_DROP_FREE_RING);
}

/* The sample at an address, which is one no longer. */
static __always_inline bool take(__u32 watch, __u64 addr, struct live *out)
{
	struct live_key key = { .addr = addr, .watch = watch };
	struct live *l = bpf_map_lookup_elem(&live_samples, &key);

	if (!l)
		return false;
	*out = *l;
	bpf_map_delete_elem(&live_samples, &key);
	return true;
}

static long walk_step(__u32 i, __u32 *slot)
{
	struct walk *w = bpf_map_lookup_elem(&walks, slot);

	return !w || step(NULL, &w->scratch);
}

/* Sends the sample of a call that returned addr, or has just begun: then addr is 0. The stack begins at its caller. */
static __always_inline void send_sample(struct pt_regs *ctx, __u32 watch, __u64 addr)
{
	struct call *c = bpf_task_storage_get(&calls, (void *)bpf_get_current_task_btf(), 0, 0);
	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 tgid = bpf_get_current_pid_tgid() >> 32, slot = 0;
	struct walk *w = NULL;

	if (!c)
		return;
#pragma unroll
	for (__u32 i = 0; i < WALKS; i++) {
		slot = i;
		w = bpf_map_lookup_elem(&walks, &slot);
		if (w && __sync_val_compare_and_swap(&w->taken, 0, 1) == 0)
			break;
		w = NULL;
	}
	if (!w) {
		drop(MEMORY_DROP_WALKS);
		return;
	}

	struct scratch *s = &w->scratch;
	struct unwind *u = &s->unwind;
	struct process *p = bpf_map_lookup_elem(&processes, &tgid);
	__u32 generation = p ? p->generation : 0;

	s->record.frame_count = 0;
	u->hash = 0;
	u->stop = STOP_COMPLETE;
	u->count = 0;
	u->kernel_frames = 0;
	u->start = 0;
	u->end = 0;
	u->first = p ? p->first : 0;
	u->mappings = p ? p->count : 0;
	u->process_known = p != NULL;

	/* The allocator's own function is known from where the probe was. */
	if (find_mapping(u, c->entry))
		push(s, u->object ? c->entry - u->bias : c->entry, u->object, FRAME_USER);
	else
		push(s, c->entry, 0, FRAME_USER);
	if (user_registers((void *)ctx, task, u, 0)) {
		u->exact = 0;
		if (!addr) { /* as if it had returned */
			u->ip = c->ret;
			u->regs[REG_SP] += POPPED;
		}
		bpf_loop(MAX_USER_FRAMES + 1, walk_step, &slot, 0);
	} else {
		u->stop = STOP_READ;
	}
	if (u->stop != STOP_COMPLETE)
		push(s, u->stop, 0, FRAME_STOPPED);

	/* In front of the frames, over the record that other programs have there. */
	__u32 frames = s->record.frame_count;
	struct memory_alloc *a = (void *)s->frames - sizeof(*a);

	if (frames > MAX_FRAMES)
		frames = MAX_FRAMES;
	a->event.kind = MEMORY_ALLOC;
	a->event.watch = watch;
	a->event.time = bpf_ktime_get_ns();
	a->event.id = __sync_fetch_and_add(&next_id, 1);
	a->event.addr = addr;
	a->size = c->size;
	a->tgid = tgid;
	a->generation = generation;
	a->frame_count = frames;
	a->untracked = 1;
	bpf_get_current_comm(a->comm, sizeof(a->comm));

	struct live_key key = { .addr = addr, .watch = watch };
	struct live l = { .id = a->event.id, .size = c->size };

	if (frees && addr) {
		a->untracked = bpf_map_update_elem(&live_samples, &key, &l, BPF_ANY) != 0;
		if (a->untracked)
			drop(MEMORY_DROP_LIVE);
	}
	if (bpf_ringbuf_output(&samples, a, sizeof(*a) + frames * sizeof(struct frame), BPF_RB_NO_WAKEUP)) {
		drop(MEMORY_DROP_RING);
		if (addr)
			bpf_map_delete_elem(&live_samples, &key);
	}
	__sync_lock_test_and_set(&w->taken, 0);
}

/* A nested call is at most this much further down the stack; else what it would be nested in was left by an exception. */
#define NESTED_BYTES 16384
/* And none has more: the end of what they would be nested in was missed. */
#define NESTED_CALLS 32

static __always_inline __u64 times(__u64 a, __u64 b)
{
	if ((a | b) >> 32 && a) {
		__u64 most = ~0ULL / a;

		asm volatile("" : "+r"(most)); /* else it becomes a multiplication of 128 bits */
		if (b > most)
			return ~0ULL;
	}
	return a * b;
}

enum next {
	NEXT_NOTHING = 0,
	NEXT_END = 1,    /* the call's end matters */
	NEXT_SAMPLE = 2, /* it is a sample, and its end is to be left alone */
};

/* Begins a call. */
static __always_inline enum next begin(struct pt_regs *ctx, __u64 cookie)
{
	__u32 form = cookie & COOKIE_FORM, watch = cookie >> 32;
	__u64 pointer = reg(ctx, cookie >> COOKIE_POINTER);
	__u32 slot = watch % WATCHES, *watched = bpf_map_lookup_elem(&watches, &slot);
	__u64 *count;
	struct live old = {};

	if (!watched || *watched != watch)
		return NEXT_NOTHING;
	count = bpf_map_lookup_elem(&call_counts, &slot);

	if (count)
		*count += 1; /* to see who is slow, not to be exact: preemption may swallow one */

	if (form == FORM_FREE) {
		if (pointer && take(watch, pointer, &old))
			send_free(watch, pointer, old.id);
		return NEXT_NOTHING;
	}

	struct call *c = bpf_task_storage_get(&calls, (void *)bpf_get_current_task_btf(), 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	__u64 sp = SP(ctx);

	if (!c) {
		drop(MEMORY_DROP_STATE);
		return NEXT_NOTHING;
	}
	if (c->sp && c->watch == watch) { /* else it is of what the thread was before an exec */
		/* At the same place it is a tail call: the kernel has put an address of its own where the outer one returns to. */
		bool nested = sp == c->sp ? return_address(ctx) != c->ret : sp < c->sp && c->sp - sp < NESTED_BYTES;

		if (nested && c->nested++ < NESTED_CALLS)
			return NEXT_NOTHING;
		c->sp = 0;
	}

	__u64 size = reg(ctx, cookie >> COOKIE_SIZE);

	if (form == FORM_PRODUCT || form == FORM_REALLOC_PRODUCT)
		size = times(size, reg(ctx, cookie >> COOKIE_COUNT));
	if (!c->drawn) {
		c->left = draw();
		c->drawn = 1;
	}
	c->sampled = size > c->left;
	if (c->sampled)
		c->left = draw();
	else
		c->left -= size;
	if (c->sampled && cookie & COOKIE_THROWS) {
		if (size > throw_limit) {
			drop(MEMORY_DROP_THROWS);
			return NEXT_NOTHING;
		}
		if (frees)
			drop(MEMORY_DROP_BLIND);
		c->ret = return_address(ctx);
		c->entry = IP(ctx);
		c->size = size;
		return NEXT_SAMPLE;
	}
	if (frees && (form == FORM_REALLOC || form == FORM_REALLOC_PRODUCT) && pointer)
		take(watch, pointer, &old);
	if (!c->sampled && !old.id && cookie & COOKIE_LEAF)
		return NEXT_NOTHING;
	c->sp = sp;
	c->watch = watch;
	c->nested = 0;
	c->ret = return_address(ctx);
	c->entry = IP(ctx);
	c->size = size;
	c->pointer = pointer;
	c->old = old;
	c->form = form;
	return NEXT_END;
}

/* Ends a call. Its address if it is a sample, else 0. */
static __always_inline __u64 end(struct pt_regs *ctx, __u64 cookie)
{
	struct call *c = bpf_task_storage_get(&calls, (void *)bpf_get_current_task_btf(), 0, 0);
	__u32 watch = cookie >> 32;
	__u64 addr = RESULT(ctx);

	if (!c || !c->sp || c->watch != watch || SP(ctx) != c->sp + POPPED)
		return 0; /* a nested call's, or a probe's that is no longer in use */
	c->sp = 0;
	if (c->form == FORM_OUT && (addr || bpf_probe_read_user(&addr, sizeof(addr), (void *)c->pointer)))
		addr = 0;
	if (c->old.id) {
		if (addr || !c->size) {
			send_free(watch, c->pointer, c->old.id);
		} else {
			struct live_key key = { .addr = c->pointer, .watch = watch };

			if (bpf_map_update_elem(&live_samples, &key, &c->old, BPF_ANY))
				send_free(watch, c->pointer, c->old.id);
		}
	}
	return c->sampled ? addr : 0;
}

SEC("uprobe.session")
int memory_session(struct pt_regs *ctx)
{
	__u64 cookie = bpf_get_attach_cookie(ctx), addr = 0;

	/* Not the session's kfunc, whose arguments change between kernels: at the beginning the task is at the probe. */
	if (IP(ctx) == bpf_get_func_ip(ctx))
		return begin(ctx, cookie) != NEXT_END;
	addr = end(ctx, cookie);
	if (addr)
		send_sample(ctx, cookie >> 32, addr);
	return 0;
}

SEC("uprobe")
int memory_begin(struct pt_regs *ctx)
{
	__u64 cookie = bpf_get_attach_cookie(ctx);

	if (begin(ctx, cookie) == NEXT_SAMPLE)
		send_sample(ctx, cookie >> 32, 0);
	return 0;
}

SEC("uretprobe")
int memory_end(struct pt_regs *ctx)
{
	__u64 cookie = bpf_get_attach_cookie(ctx), addr = end(ctx, cookie);

	if (addr)
		send_sample(ctx, cookie >> 32, addr);
	return 0;
}

/* For tests: draws as many intervals as the context has room for. */
#define DRAWS 64
struct draws {
	__u64 interval[DRAWS];
};

SEC("syscall")
int memory_draw(struct draws *out)
{
#pragma unroll
	for (int i = 0; i < DRAWS; i++)
		out->interval[i] = draw();
	return 0;
}

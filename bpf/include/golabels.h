/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The labels that a Go program gave to the goroutine of this thread (runtime/pprof), from user memory. Strings are read
 * up to a length; a label that cannot be read makes the whole set unreadable, for half of a set would be another one.
 *
 * The functions are global: the verifier walks each once.
 */
#ifndef PERFUSE_GOLABELS_H
#define PERFUSE_GOLABELS_H

#include "unwind.h"

/* A map of before Go 1.24: 8 labels a bucket. */
#define GO_BUCKETS_LOG 2
#define GO_BUCKET_SLOTS 8
#define GO_BUCKET_BYTES (8 + 2 * 16 * GO_BUCKET_SLOTS + 8)

struct label_scratch {
	struct label_record out;
	__u64 words[4];
	__u8 used[GO_BUCKET_SLOTS];
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct label_scratch);
	__uint(max_entries, 1);
} label_scratches SEC(".maps");

/* Reads one more label. Returns 0, or negative if it cannot be read. */
__noinline int go_label(__u64 key, __u64 key_bytes, __u64 value, __u64 value_bytes)
{
	__u32 zero = 0;
	struct label_scratch *s = bpf_map_lookup_elem(&label_scratches, &zero);
	struct label *l;

	if (!s || s->out.record.frame_count >= MAX_LABELS || !key_bytes || key_bytes > 1 << 20 || value_bytes > 1 << 20)
		return -1;
	l = &s->out.labels[s->out.record.frame_count & (MAX_LABELS - 1)];
	__builtin_memset(l, 0, sizeof(*l));
	l->key_bytes = key_bytes;
	l->value_bytes = value_bytes;

	__u32 k = key_bytes > LABEL_KEY ? LABEL_KEY : key_bytes;
	__u32 v = value_bytes > LABEL_VALUE ? LABEL_VALUE : value_bytes;

	if (read_user(NULL, l->key, k, key) || (v && read_user(NULL, l->value, v, value)))
		return -1;

	__u64 h = 0xcbf29ce484222325ULL, *words = (__u64 *)l;

	for (int n = 0; n < (int)(sizeof(*l) / 8); n++) {
		h = (h ^ words[n]) * 0x9e3779b97f4a7c15ULL;
		h ^= h >> 32;
	}
	s->out.record.key.labels += h;
	s->out.record.frame_count++;
	return 0;
}

/* Reads a bucket of a map of before Go 1.24. */
__noinline int go_label_bucket(__u64 bucket)
{
	__u32 zero = 0;
	struct label_scratch *s = bpf_map_lookup_elem(&label_scratches, &zero);

	if (!s || read_user(NULL, s->used, sizeof(s->used), bucket))
		return -1;
	for (__u32 i = 0; i < GO_BUCKET_SLOTS; i++) {
		if (s->used[i] < 5) /* empty, or moved away */
			continue;
		if (read_user(NULL, &s->words[0], 16, bucket + 8 + 16 * i) ||
		    read_user(NULL, &s->words[2], 16, bucket + 8 + 16 * GO_BUCKET_SLOTS + 16 * i) ||
		    go_label(s->words[0], s->words[1], s->words[2], s->words[3]))
			return -1;
	}
	return 0;
}

/* Reads a map of before Go 1.24. Returns 0, or negative if it cannot be read. */
__noinline int go_labels_map(__u64 map)
{
	__u32 zero = 0;
	struct label_scratch *s = bpf_map_lookup_elem(&label_scratches, &zero);

	/* map → hmap: count, {flags, log2 of the buckets, ...}, buckets */
	if (!s || read_user(NULL, s->words, 8, map) || read_user(NULL, s->words, 24, s->words[0]))
		return -1;

	__u64 count = s->words[0], buckets = s->words[2];
	__u32 log = s->words[1] >> 8 & 0xff;

	if (log > GO_BUCKETS_LOG)
		return -1;
	for (__u32 b = 0; b < 1 << GO_BUCKETS_LOG; b++) {
		if (b >> log)
			break;
		if (go_label_bucket(buckets + b * GO_BUCKET_BYTES))
			return -1;
	}
	return s->out.record.frame_count == count ? 0 : -1;
}

/* The same of a slice, as it is since Go 1.24. Of more than MAX_LABELS labels the first count. */
__noinline int go_labels_slice(__u64 slice)
{
	__u32 zero = 0;
	struct label_scratch *s = bpf_map_lookup_elem(&label_scratches, &zero);

	if (!s || read_user(NULL, s->words, 16, slice))
		return -1;

	__u64 at = s->words[0], count = s->words[1];

	for (__u32 i = 0; i < MAX_LABELS; i++) {
		if (i >= count)
			break;
		if (read_user(NULL, s->words, 32, at + 32 * i) ||
		    go_label(s->words[0], s->words[1], s->words[2], s->words[3]))
			return -1;
	}
	return 0;
}

/* Puts the labels of the thread's goroutine into the scratch. Returns how many there are, negative if they cannot be read. */
__noinline int go_labels(__u32 executable, __u64 thread, __u64 g)
{
	__u32 zero = 0;
	struct label_scratch *s = bpf_map_lookup_elem(&label_scratches, &zero);
	struct object *o = bpf_map_lookup_elem(&objects, &executable);

	if (!s || !o || !o->go_labels)
		return 0;
#if defined(__TARGET_ARCH_x86)
	if (read_user(NULL, &g, 8, thread + (__s64)o->go_tls))
		return 0; /* a thread of which Go knows nothing */
#endif
	if (!g || read_user(NULL, s->words, 8, g + o->go_m))
		return 0;

	__u64 m = s->words[0];

#if defined(__TARGET_ARCH_arm64)
	/* C code may have used x28 for something else. */
	if (read_user(NULL, s->words, 8, m) || read_user(NULL, &s->words[1], 8, m + o->go_curg) ||
	    (s->words[0] != g && s->words[1] != g))
		return 0;
#endif
	if (read_user(NULL, s->words, 8, m + o->go_curg))
		return 0;
	/* No goroutine: the scheduler itself is at work. */
	if (!s->words[0])
		return 0;
	if (read_user(NULL, s->words, 8, s->words[0] + o->go_labels))
		return -1;
	if (!s->words[0])
		return 0;
	s->out.record.key.labels = 0;
	s->out.record.frame_count = 0;
	if (o->go_labels_map ? go_labels_map(s->words[0]) : go_labels_slice(s->words[0]))
		return -1;
	return s->out.record.frame_count;
}

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Statistics page: one memfd per child, written by that child only, read by the supervisor without a system call
 *
 * The supervisor makes it and passes it with CTL_CONFIG. Values of a media child are facts; those of a worker are what
 * the worker says about itself and are used for diagnosis only. A reader loads each word once.
 */
#ifndef MR_PROTO_STATS_H
#define MR_PROTO_STATS_H

#include "proto/counters.def"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { STATS_BYTES = 4096, STATS_WORDS_MAX = 256 };

struct stats_page {
	_Alignas(128) _Atomic uint64_t word[STATS_WORDS_MAX];
};

enum ingest_counter {
#define X(n, k, u, t) INGEST_##n,
	INGEST_COUNTERS(X) INGEST_COUNTER_COUNT
#undef X
};
enum egress_counter {
#define X(n, k, u, t) EGRESS_##n,
	EGRESS_COUNTERS(X) EGRESS_COUNTER_COUNT
#undef X
};
enum worker_counter {
#define X(n, k, u, t) WORKER_##n,
	WORKER_COUNTERS(X) WORKER_COUNTER_COUNT
#undef X
};

/* Maps a page that came with CTL_CONFIG (writable: its owner) or that the supervisor made (read-only). The fd stays the
 * caller's. NULL on failure: errno is set. Unmap with stats_unmap(). */
struct stats_page *stats_map(int fd, int writable);
void stats_unmap(struct stats_page **page);

/* `page` may be NULL: nothing happens, and reads are 0. */
static inline void
stats_set(struct stats_page *page, unsigned i, uint64_t value)
{
	/* relaxed: a single number for people and watchdogs; nothing is ordered by it */
	if (page != NULL)
		atomic_store_explicit(&page->word[i], value, memory_order_relaxed);
}

static inline uint64_t
stats_get(const struct stats_page *page, unsigned i)
{
	/* relaxed: as above */
	return page != NULL ? atomic_load_explicit(&page->word[i], memory_order_relaxed) : 0;
}

static inline void
stats_add(struct stats_page *page, unsigned i, uint64_t n)
{
	/* a load and a store: the page has a single writer */
	stats_set(page, i, stats_get(page, i) + n);
}

static inline void
stats_max(struct stats_page *page, unsigned i, uint64_t value)
{
	if (value > stats_get(page, i))
		stats_set(page, i, value);
}

#endif

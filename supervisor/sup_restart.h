/* SPDX-License-Identifier: MIT */
/*
 * When a child that died is started again
 *
 * A death after progress (frames were accepted in this life) is somebody's SIGKILL or a rare bug: the next start is
 * at once, and nothing is held against the child. Deaths without progress are what a crash loop is made of: the
 * first restart is at once, then the delay doubles up to a cap, with jitter; more than SUP_RESTART_LOOP of them in a
 * minute is a crash loop. A minute of progress clears the record.
 */
#ifndef MR_SUP_RESTART_H
#define MR_SUP_RESTART_H

#include <stdbool.h>
#include <stdint.h>

enum { SUP_RESTART_LOOP = 5 };

struct sup_restart {
	int64_t cap_ns;	      /* longest delay */
	int64_t loop_ns;      /* delay in a crash loop; 0: there is none, only the cap */
	uint64_t rng;	      /* state of the jitter's generator; never 0 */
	uint32_t n;	      /* deaths without progress since the record was cleared */
	int64_t failure_ns[SUP_RESTART_LOOP + 1]; /* when the newest of these were */
	int64_t progress_since_ns; /* start of the present stretch of progress; 0: none */
	int64_t progress_last_ns;  /* when it was last seen */
};

struct sup_restart_verdict {
	int64_t delay_ns;
	bool loop; /* this is a crash loop */
};

void sup_restart_init(struct sup_restart *r, int64_t cap_ns, int64_t loop_ns, uint64_t seed);
/* Progress was seen at `now_ns`. */
void sup_restart_progress(struct sup_restart *r, int64_t now_ns);
/* A new life begins: no progress yet. */
void sup_restart_begin(struct sup_restart *r);
/* Progress was seen for half a second of this life: a child that was healthy, and not one that dies of its work. */
bool sup_restart_was_steady(const struct sup_restart *r);
/* The child died. `progressed`: it had made progress in this life. */
struct sup_restart_verdict sup_restart_died(struct sup_restart *r, bool progressed, int64_t now_ns);
/* Forget all deaths: an operator asked for a restart. */
void sup_restart_clear(struct sup_restart *r);

#endif

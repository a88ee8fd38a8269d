/* SPDX-License-Identifier: MIT */
/*
 * Back-off: how long to wait before the next try
 *
 * 50 ms at first, doubling to 2 s, each drawn from the upper half of its step so that clients that lost the same
 * server do not come back together. Progress resets it. Time and randomness are arguments.
 */
#ifndef MR_PROTO_TRICKLE_TRK_BACKOFF_H
#define MR_PROTO_TRICKLE_TRK_BACKOFF_H

#include "base/clock.h"

#include <stdint.h>

#define TRK_BACKOFF_FIRST_NS (50 * CLOCK_MS_NS)
#define TRK_BACKOFF_MAX_NS   (2 * CLOCK_SEC_NS)

struct trk_backoff {
	int64_t step_ns; /* of the next wait; 0: the first */
};

/* xorshift64*: jitter needs no more. `*rng` is never 0. */
static inline uint64_t
trk_random(uint64_t *rng)
{
	*rng ^= *rng >> 12;
	*rng ^= *rng << 25;
	*rng ^= *rng >> 27;
	return *rng * UINT64_C(0x2545f4914f6cdd1d);
}

/* A length between low and high, both included. */
static inline int64_t
trk_random_ns(uint64_t *rng, int64_t low_ns, int64_t high_ns)
{
	return low_ns + (int64_t)(trk_random(rng) % (uint64_t)(high_ns - low_ns + 1));
}

static inline void
trk_backoff_reset(struct trk_backoff *b)
{
	b->step_ns = 0;
}

/* The next wait: between half of the step and all of it. */
static inline int64_t
trk_backoff_next_ns(struct trk_backoff *b, uint64_t *rng)
{
	int64_t step = b->step_ns == 0 ? TRK_BACKOFF_FIRST_NS : b->step_ns;

	b->step_ns = step * 2 > TRK_BACKOFF_MAX_NS ? TRK_BACKOFF_MAX_NS : step * 2;
	return trk_random_ns(rng, step / 2, step);
}

#endif

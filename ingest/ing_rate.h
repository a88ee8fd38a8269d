/* SPDX-License-Identifier: MIT */
/* Events a second over the last ten seconds, without storing them: one bucket a second. */
#ifndef MR_ING_RATE_H
#define MR_ING_RATE_H

#include "base/clock.h"

#include <stdint.h>

enum { ING_RATE_SECONDS = 10 };

struct ing_rate {
	uint32_t bucket[ING_RATE_SECONDS];
	int64_t second; /* of the newest bucket; 0: never used */
	int64_t first;	/* of the first event */
};

static inline void
ing_rate_advance(struct ing_rate *r, int64_t now_ns)
{
	int64_t s = now_ns / CLOCK_SEC_NS, steps = s - r->second;

	if (r->second == 0)
		r->first = s;
	if (steps > ING_RATE_SECONDS)
		steps = ING_RATE_SECONDS;
	for (int64_t i = 0; i < steps; i++)
		r->bucket[(s - i) % ING_RATE_SECONDS] = 0;
	r->second = s;
}

static inline void
ing_rate_count(struct ing_rate *r, int64_t now_ns)
{
	ing_rate_advance(r, now_ns);
	r->bucket[r->second % ING_RATE_SECONDS]++;
}

/* Thousandths of an event a second; the second that runs is left out. */
static inline uint64_t
ing_rate_milli(struct ing_rate *r, int64_t now_ns)
{
	int64_t whole;
	uint64_t sum = 0;

	if (r->second == 0)
		return 0;
	ing_rate_advance(r, now_ns);
	whole = r->second - r->first;
	if (whole > ING_RATE_SECONDS - 1)
		whole = ING_RATE_SECONDS - 1;
	for (int64_t i = 1; i <= whole; i++)
		sum += r->bucket[(r->second - i) % ING_RATE_SECONDS];
	return whole > 0 ? sum * 1000 / (uint64_t)whole : 0;
}

#endif

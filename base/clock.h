/* SPDX-License-Identifier: MIT */
/* Time: nanoseconds of CLOCK_MONOTONIC, the only clock that deadlines and ages are made of. */
#ifndef MR_BASE_CLOCK_H
#define MR_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define CLOCK_MS_NS	INT64_C(1000000)
#define CLOCK_SEC_NS	INT64_C(1000000000)

static inline int64_t
clock_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * CLOCK_SEC_NS + t.tv_nsec;
}

/* Wall clock, milliseconds since 1970: for what people and peers read (events, logs), never for waiting. */
static inline int64_t
clock_wall_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Milliseconds to hand to poll() until `deadline_ns`, rounded up so that poll does not return early;
 * 0 when it has passed, `max_ms` at most. */
static inline int
clock_poll_ms(int64_t deadline_ns, int64_t now_ns, int max_ms)
{
	int64_t ms;

	if (deadline_ns <= now_ns)
		return 0;
	ms = (deadline_ns - now_ns + CLOCK_MS_NS - 1) / CLOCK_MS_NS;
	return ms > max_ms ? max_ms : (int)ms;
}

#endif

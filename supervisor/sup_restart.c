/* SPDX-License-Identifier: MIT */
/*
 * Restart policy: pure arithmetic, time and seed are arguments
 *
 * `n = 0 at once` because the promise to viewers leaves no room for a pause after a first crash. The jitter lies in
 * [delay/2, delay], so that many workers that died together do not load their models together.
 */
#include "supervisor/sup_restart.h"

#include "base/assert.h"
#include "base/clock.h"

#include <string.h>

#include "supervisor/sup_priv.h"

#define WINDOW_NS   (60 * CLOCK_SEC_NS)
#define FORGIVE_NS  (60 * CLOCK_SEC_NS)
#define FIRST_NS    (100 * CLOCK_MS_NS)
#define STEADY_NS   (150 * CLOCK_MS_NS) /* a quarter of a second, of which the owner's tick may have missed the first 100 ms */

void
sup_restart_init(struct sup_restart *r, int64_t cap_ns, int64_t loop_ns, uint64_t seed)
{
	MR_ASSERT(cap_ns > 0);
	memset(r, 0, sizeof(*r));
	r->cap_ns = cap_ns;
	r->loop_ns = loop_ns;
	r->rng = seed | 1;
}

void
sup_restart_progress(struct sup_restart *r, int64_t now_ns)
{
	if (r->progress_since_ns == 0)
		r->progress_since_ns = now_ns;
	r->progress_last_ns = now_ns;
	if (now_ns - r->progress_since_ns >= FORGIVE_NS)
		sup_restart_clear(r);
}

void
sup_restart_begin(struct sup_restart *r)
{
	r->progress_since_ns = r->progress_last_ns = 0;
}

bool
sup_restart_was_steady(const struct sup_restart *r)
{
	return r->progress_since_ns != 0 && r->progress_last_ns - r->progress_since_ns >= STEADY_NS;
}

void
sup_restart_clear(struct sup_restart *r)
{
	r->n = 0;
	memset(r->failure_ns, 0, sizeof(r->failure_ns));
}

/* xorshift64: quality does not matter here, repeatability in tests does */
static uint64_t
next_random(struct sup_restart *r)
{
	r->rng ^= r->rng << 13;
	r->rng ^= r->rng >> 7;
	r->rng ^= r->rng << 17;
	return r->rng;
}

static int64_t
jitter(struct sup_restart *r, int64_t delay_ns)
{
	int64_t half = delay_ns / 2;

	return half + (int64_t)(next_random(r) % (uint64_t)(half + 1));
}

static bool
in_loop(const struct sup_restart *r, int64_t now_ns)
{
	unsigned recent = 0;

	for (unsigned i = 0; i < SUP_RESTART_LOOP + 1; i++)
		recent += r->failure_ns[i] != 0 && now_ns - r->failure_ns[i] < WINDOW_NS;
	return r->loop_ns > 0 && recent > SUP_RESTART_LOOP;
}

struct sup_restart_verdict
sup_restart_died(struct sup_restart *r, bool progressed, int64_t now_ns)
{
	struct sup_restart_verdict verdict = { 0 };
	int64_t delay = FIRST_NS;

	r->progress_since_ns = 0;
	if (progressed)
		return verdict;
	memmove(r->failure_ns, r->failure_ns + 1, sizeof(r->failure_ns) - sizeof(r->failure_ns[0]));
	r->failure_ns[SUP_RESTART_LOOP] = now_ns;
	if (in_loop(r, now_ns)) {
		verdict.loop = true;
		verdict.delay_ns = jitter(r, r->loop_ns);
		return verdict;
	}
	if (r->n++ == 0)
		return verdict;
	for (uint32_t i = 1; i < r->n && delay < r->cap_ns; i++)
		delay *= 2;
	verdict.delay_ns = jitter(r, delay < r->cap_ns ? delay : r->cap_ns);
	return verdict;
}

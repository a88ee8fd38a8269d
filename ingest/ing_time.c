/* SPDX-License-Identifier: MIT */
/*
 * From source timestamps to the session's clock
 *
 * A source's clock wraps every 26.5 hours, starts again when the source is restarted, and may leap. Viewers must see one
 * strictly increasing timeline. So every packet (not every frame: decoders reorder, and both tracks of a stream jump at
 * the same byte) gets its session timestamp here, as unwrapped source timestamp plus an offset. The offset is 0 until the
 * first jump.
 *
 * Invariants:
 *   - without jumps the session timestamp is the source's, wraps removed;
 *   - after a jump the new timestamp is later than every earlier one of any track, by the time that really passed;
 *   - audio and video always share one offset, so a jump never moves them against each other. A few packets of the old
 *     timeline that come after the jump (sloppy interleaving) are still mapped with the old offset;
 *   - no value that a source can send makes the numbers grow without bound: a jump restarts the unwrapping.
 */
#include "ingest/ing_time.h"

#include "base/clock.h"

#include <string.h>

#define WRAP	 (INT64_C(1) << 33)
#define LIMIT_ROUNDING_NS (2 * CLOCK_MS_NS) /* of two timestamps in milliseconds, and a little */
#define BACK_MAX (1 * (int64_t)ING_TICKS_SEC)
#define AHEAD_MAX (10 * (int64_t)ING_TICKS_SEC)
/* A track that was not seen before, or the first packet of a successor, may lie a whole segment off. */
#define FIRST_MAX (30 * (int64_t)ING_TICKS_SEC)
/* So much of the old timeline may still follow a jump. */
#define OLD_MAX	 (1 * (int64_t)ING_TICKS_SEC)
enum { STEP_DEFAULT = 3000, STEP_MIN = 90, STEP_MAX = 18000 };

void
ing_time_init(struct ing_time *t)
{
	memset(t, 0, sizeof(*t));
	t->jump_at = INT64_MIN;
	t->old_until = INT64_MIN;
	for (int i = 0; i < ING_TRACK_COUNT; i++)
		t->track[i].step = STEP_DEFAULT;
}

void
ing_time_resume(struct ing_time *t, int64_t offset, int64_t last_pts, int64_t at_ns)
{
	t->resuming = true;
	t->newest_now_ns = at_ns;
	t->offset = offset;
	t->newest = last_pts;
	t->unwrapped = last_pts - offset;
}

/* The value nearest to `ref` that is `raw` modulo 2^33. */
static int64_t
unwrap(int64_t ref, uint64_t raw)
{
	int64_t d = (int64_t)((raw - (uint64_t)ref) & (uint64_t)(WRAP - 1));

	return ref + (d >= WRAP / 2 ? d - WRAP : d);
}

static int64_t
elapsed_ticks(const struct ing_time *t, int64_t now_ns)
{
	int64_t ns = now_ns - t->newest_now_ns;

	return t->newest_now_ns != 0 && ns > 0 ? ing_ns_to_ticks(ns) : 0;
}

static bool
plausible(const struct ing_time *t, const struct ing_time_track *tr, int64_t m, int64_t now_ns)
{
	int64_t last = tr->seen ? tr->last : t->newest;
	int64_t back = tr->seen ? BACK_MAX : FIRST_MAX;
	int64_t ahead = (tr->seen ? AHEAD_MAX : FIRST_MAX) + elapsed_ticks(t, now_ns);

	return m >= last - back && m <= last + ahead;
}

/* A packet of the timeline before the last jump. */
static bool
old_timeline(const struct ing_time *t, const struct ing_time_track *tr, uint64_t raw, int64_t *m)
{
	if (t->newest >= t->old_until || !tr->seen)
		return false;
	*m = unwrap(t->old_unwrapped, raw) + t->old_offset;
	return *m >= tr->last - BACK_MAX && *m <= tr->last + OLD_MAX;
}

static int64_t
jump(struct ing_time *t, const struct ing_time_track *tr, uint64_t raw, int64_t now_ns)
{
	int64_t pause = elapsed_ticks(t, now_ns);
	int64_t m = t->newest + (pause > tr->step ? pause : tr->step);

	t->old_unwrapped = t->unwrapped;
	t->old_offset = t->offset;
	t->old_until = m + OLD_MAX;
	t->unwrapped = (int64_t)raw;
	t->offset = m - (int64_t)raw;
	t->jump_at = m;
	t->jumps++;
	return m;
}

static void
note(struct ing_time *t, struct ing_time_track *tr, int64_t m, int64_t now_ns)
{
	if (tr->seen && m > tr->last && m - tr->last >= STEP_MIN && m - tr->last <= STEP_MAX)
		tr->step = m - tr->last;
	if (!tr->seen || m > tr->last)
		tr->last = m;
	tr->seen = true;
	if (m >= t->newest) {
		t->newest = m;
		t->newest_now_ns = now_ns;
	}
}

int64_t
ing_time_map(struct ing_time *t, enum ing_track track, uint64_t raw, int64_t now_ns)
{
	struct ing_time_track *tr = &t->track[track];
	int64_t m, u, old;

	raw &= (uint64_t)(WRAP - 1);
	if (!t->started && !t->resuming) {
		t->unwrapped = (int64_t)raw;
		t->newest = (int64_t)raw;
	}
	t->started = true;
	u = unwrap(t->unwrapped, raw);
	m = u + t->offset;
	if (plausible(t, tr, m, now_ns)) {
		t->unwrapped = u;
	} else if (old_timeline(t, tr, raw, &old)) {
		return old;
	} else {
		m = jump(t, tr, raw, now_ns);
	}
	note(t, tr, m, now_ns);
	return m;
}

void
ing_limit_init(struct ing_limit *l, unsigned max_framerate)
{
	l->next_ns = 0;
	l->seen_count = 0;
	ing_limit_set(l, max_framerate);
}

void
ing_limit_set(struct ing_limit *l, unsigned max_framerate)
{
	l->interval_ns = CLOCK_SEC_NS / (max_framerate != 0 ? max_framerate : 1);
}

/* Over the window up to and with this frame the source was not faster than the limit. */
static bool
within_limit(struct ing_limit *l, int64_t t)
{
	unsigned n = l->seen_count;
	int64_t newest = n > 0 ? l->seen_ns[(n - 1) % ING_LIMIT_WINDOW] : 0, oldest;

	if (n > 0 && (t <= newest || t > newest + CLOCK_SEC_NS))
		n = l->seen_count = 0;
	l->seen_ns[n % ING_LIMIT_WINDOW] = t;
	l->seen_count++;
	if (n == 0)
		return false;
	if (n > ING_LIMIT_WINDOW - 1)
		n = ING_LIMIT_WINDOW - 1;
	oldest = l->seen_ns[(l->seen_count - 1 - n) % ING_LIMIT_WINDOW];
	return t - oldest >= n * l->interval_ns - LIMIT_ROUNDING_NS;
}

bool
ing_limit_pass(struct ing_limit *l, int64_t t)
{
	bool within = within_limit(l, t);

	/* Never further ahead than one interval: the limit was raised, or timestamps went back. */
	if (l->next_ns > t + l->interval_ns)
		l->next_ns = t;
	if (t < l->next_ns && !within)
		return false;
	if (t > l->next_ns + l->interval_ns)
		l->next_ns = t + l->interval_ns;
	else
		l->next_ns += l->interval_ns;
	return true;
}

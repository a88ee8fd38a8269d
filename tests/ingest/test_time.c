/* SPDX-License-Identifier: MIT */
/*
 * Goal: one strictly increasing session clock out of whatever clocks a source has, and the contract's frame-rate limit.
 * Method: pure functions; every sequence of timestamps is made up here.
 */
#include "ingest/ing_time.h"

#include "base/clock.h"

#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>

#define WRAP (INT64_C(1) << 33)

static struct ing_time t;
static int64_t now;

static void
set_up(void)
{
	ing_time_init(&t);
	now = 1000 * CLOCK_SEC_NS;
}

TestSuite(ing_time, .init = set_up, .timeout = 10);

/* A packet that comes `ms` after the one before. */
static int64_t
map(enum ing_track track, int64_t raw, int ms)
{
	now += ms * CLOCK_MS_NS;
	return ing_time_map(&t, track, (uint64_t)raw & (uint64_t)(WRAP - 1), now);
}

Test(ing_time, a_quiet_source_is_not_touched)
{
	for (int i = 0; i < 1000; i++) {
		cr_assert_eq(map(ING_VIDEO, 126000 + i * 3000, 33), 126000 + i * 3000);
		cr_assert_eq(map(ING_AUDIO, 125000 + i * 3000, 0), 125000 + i * 3000);
	}
	cr_expect_eq(t.jumps, 0);
	cr_expect_eq(t.offset, 0);
}

Test(ing_time, wrap)
{
	int64_t start = WRAP - 100 * 3000;

	for (int i = 0; i < 300; i++) {
		cr_assert_eq(map(ING_VIDEO, start + i * 3000, 33), start + i * 3000);
		cr_assert_eq(map(ING_AUDIO, start + i * 3000 - 1000, 0), start + i * 3000 - 1000);
	}
	cr_expect_eq(t.jumps, 0);
}

Test(ing_time, restart_of_the_source)
{
	int64_t last = 0, m, a;

	for (int i = 0; i < 500; i++)
		last = map(ING_VIDEO, 900000 + i * 3000, 33);
	map(ING_AUDIO, 900000 + 499 * 3000 + 1500, 0);
	for (int i = 0; i < 500; i++) {
		m = map(ING_VIDEO, 126000 + i * 3000, 33);
		cr_assert_gt(m, last);
		cr_assert_leq(m - last, 6000, "no gap to speak of");
		last = m;
		a = map(ING_AUDIO, 126000 + i * 3000 - 900, 0);
		cr_assert_eq(m - a, 900, "the tracks keep their distance");
	}
	cr_expect_eq(t.jumps, 1, "both tracks jump once");
}

Test(ing_time, a_restart_after_a_pause_keeps_the_pause)
{
	int64_t last = map(ING_VIDEO, 900000, 0), m;

	m = map(ING_VIDEO, 1000, 5000);
	cr_expect_lt(llabs(m - last - 5 * ING_TICKS_SEC), 10);
}

Test(ing_time, a_pause_of_the_source_is_no_jump)
{
	map(ING_VIDEO, 900000, 0);
	cr_expect_eq(map(ING_VIDEO, 900000 + 300 * ING_TICKS_SEC, 300 * 1000), 900000 + 300 * ING_TICKS_SEC);
	cr_expect_eq(t.jumps, 0);
}

Test(ing_time, a_leap_ahead_is_taken_out)
{
	int64_t last = map(ING_VIDEO, 900000, 0);

	cr_expect_leq(map(ING_VIDEO, 900000 + 3600 * (int64_t)ING_TICKS_SEC, 33) - last, 9000);
	cr_expect_eq(t.jumps, 1);
	cr_expect_eq(map(ING_VIDEO, 900000 + 3600 * (int64_t)ING_TICKS_SEC + 3000, 33) - t.newest, 0);
	cr_expect_eq(t.jumps, 1);
}

Test(ing_time, a_small_leap_ahead_stays)
{
	map(ING_VIDEO, 900000, 0);
	cr_expect_eq(map(ING_VIDEO, 900000 + 5 * ING_TICKS_SEC, 33), 900000 + 5 * ING_TICKS_SEC);
	cr_expect_eq(t.jumps, 0);
}

Test(ing_time, stragglers_of_the_old_timeline)
{
	int64_t m;

	for (int i = 0; i < 100; i++) {
		map(ING_VIDEO, 900000 + i * 3000, 33);
		map(ING_AUDIO, 900000 + i * 3000, 0);
	}
	m = map(ING_VIDEO, 100, 33);
	cr_expect_eq(map(ING_AUDIO, 900000 + 100 * 3000, 0), 900000 + 100 * 3000, "still the old one");
	cr_expect_eq(map(ING_VIDEO, 3100, 33), m + 3000);
	cr_expect_eq(t.jumps, 1);
}

Test(ing_time, resume)
{
	ing_time_resume(&t, 5000, 3 * WRAP + 1000000, 0);
	cr_expect_eq(map(ING_VIDEO, 1000000 - 5000 - 45000, 0), 3 * WRAP + 1000000 - 45000, "half a second back: seen before");
	cr_expect_eq(map(ING_AUDIO, 1000000 - 5000 + 3000, 0), 3 * WRAP + 1000000 + 3000);
	cr_expect_eq(t.jumps, 0);
}

Test(ing_time, resume_with_another_clock)
{
	ing_time_resume(&t, 5000, 1000000, 0);
	cr_expect_gt(map(ING_VIDEO, 500000000, 0), 1000000);
	cr_expect_lt(t.newest, 1000000 + 20000);
	cr_expect_eq(t.jumps, 1);
}

/* The predecessor has been dead for minutes, and a live source has gone on. */
Test(ing_time, resume_after_a_while)
{
	const int64_t minute = 60 * (int64_t)ING_TICKS_SEC;

	ing_time_resume(&t, 5000, 1000000, 1);
	cr_expect_eq(ing_time_map(&t, ING_VIDEO, (uint64_t)(995000 + 2 * minute), 120 * CLOCK_SEC_NS), 1000000 + 2 * minute);
	cr_expect_eq(t.jumps, 0);
}

Test(ing_time, any_input_increases)
{
	int64_t best = INT64_MIN, start;
	unsigned jumps;

	srand(1);
	start = map(ING_VIDEO, 0, 0);
	for (int i = 0; i < 200000; i++) {
		int64_t m = map(rand() & 1 ? ING_VIDEO : ING_AUDIO, (int64_t)rand() << 10 ^ rand(), 1);

		best = m > best ? m : best;
	}
	jumps = (unsigned)t.jumps;
	cr_expect_gt(jumps, 1000);
	cr_expect_geq(best, start);
	cr_expect_lt(best - start, INT64_C(1) << 50, "bounded");
}

Test(ing_time, conversions)
{
	srand(2);
	for (int i = 0; i < 100000; i++) {
		int64_t ticks = ((int64_t)rand() << 8) % (4 * WRAP);

		cr_assert_eq(ing_ns_to_ticks(ing_ticks_to_ns(ticks)), ticks);
	}
	cr_expect_eq(ing_ticks_to_ns(90000), CLOCK_SEC_NS);
}

/* ---- the limit -------------------------------------------------------- */

static unsigned
passed(unsigned source, unsigned limit, unsigned frames, int64_t start_ns)
{
	struct ing_limit l;
	unsigned n = 0;

	ing_limit_init(&l, limit);
	for (unsigned i = 0; i < frames; i++)
		n += ing_limit_pass(&l, start_ns + (int64_t)i * CLOCK_SEC_NS / source);
	return n;
}

Test(ing_limit, rates)
{
	cr_expect_eq(passed(24, 24, 240, 0), 240);
	cr_expect_eq(passed(24, 24, 240, 1400000000), 240);
	cr_expect_eq(passed(15, 24, 150, 0), 150);
	cr_expect(abs((int)passed(30, 24, 300, 1466000000) - 240) <= 2, "%u", passed(30, 24, 300, 1466000000));
	cr_expect(abs((int)passed(60, 24, 600, 0) - 240) <= 2);
	cr_expect(abs((int)passed(60, 1, 600, 0) - 10) <= 1);
}

Test(ing_limit, rounded_timestamps_at_the_limit_lose_nothing)
{
	struct ing_limit l;

	ing_limit_init(&l, 30);
	for (int64_t i = 0; i < 600; i++)
		cr_assert(ing_limit_pass(&l, 1467 * CLOCK_MS_NS + (i * 1000 + 15) / 30 * CLOCK_MS_NS), "frame %d", (int)i);
}

Test(ing_limit, as_the_contract_says)
{
	struct ing_limit l;
	double next = 0, interval = 1.0 / 24;

	srand(3);
	ing_limit_init(&l, 24);
	for (int64_t pts = 1000000, i = 0; i < 20000; i++, pts += rand() % 30000000) {
		double s = (double)pts / 1e9;
		bool pass = s >= next;

		if (pass)
			next = s > next + interval ? s + interval : next + interval;
		if (fabs(s - next) > 1e-6)
			cr_assert_eq(ing_limit_pass(&l, pts), pass, "frame %d", (int)i);
		else
			break; /* too close to tell with floating point */
	}
}

Test(ing_limit, survives_jumps_and_changes)
{
	struct ing_limit l;

	ing_limit_init(&l, 24);
	cr_expect(ing_limit_pass(&l, 3600 * CLOCK_SEC_NS));
	cr_expect(ing_limit_pass(&l, 5 * CLOCK_SEC_NS), "back in time: goes on at once");
	ing_limit_set(&l, 1);
	cr_expect(ing_limit_pass(&l, 6 * CLOCK_SEC_NS));
	cr_expect(ing_limit_pass(&l, 6 * CLOCK_SEC_NS + 200 * CLOCK_MS_NS));
	cr_expect_not(ing_limit_pass(&l, 6 * CLOCK_SEC_NS + 250 * CLOCK_MS_NS));
	ing_limit_set(&l, 30);
	cr_expect(ing_limit_pass(&l, 6 * CLOCK_SEC_NS + 300 * CLOCK_MS_NS), "the higher limit counts at once");
}

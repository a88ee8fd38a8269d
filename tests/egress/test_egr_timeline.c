/* SPDX-License-Identifier: MIT */
/* Goal: output timestamps are the input's to the tick, and strictly increasing whatever the input's do. */
#include "egress/egr_timeline.h"

#include <criterion/criterion.h>

#define MS INT64_C(1000000)

Test(egr_timeline, ticks_round_to_nearest)
{
	/* 90 kHz to ns, as a source does it, and back */
	for (int64_t t = 0; t < 200000; t += 7)
		cr_assert_eq(egr_ticks_from_ns((t * 100000 + 4) / 9), t);
	cr_expect_eq(egr_ticks_from_ns(-1), 0);
	cr_expect_eq(egr_ticks_from_ns(-100000), -9);
	cr_expect_eq(egr_ticks_from_ns(INT64_MAX / 32), (INT64_MAX / 32 / 100000) * 9 +
	    (INT64_MAX / 32 % 100000 * 9 + 50000) / 100000);
	for (int64_t t = 0; t < 1000000; t += 997)
		cr_assert_eq(egr_ticks_from_ns(egr_ns_from_ticks(t)), t);
}

Test(egr_timeline, keeps_input)
{
	struct egr_timeline t;
	int64_t ticks;

	egr_timeline_init(&t, -1, -1);
	for (int i = 0; i < 100; i++) {
		cr_assert(egr_timeline_video(&t, i * 40 * MS, 0, &ticks));
		cr_expect_eq(ticks, i * 3600);
		cr_assert(egr_timeline_audio(&t, i * 20 * MS, &ticks));
		cr_expect_eq(ticks, i * 1800);
	}
}

Test(egr_timeline, equal_is_bumped)
{
	struct egr_timeline t;
	int64_t ticks;

	egr_timeline_init(&t, -1, -1);
	cr_assert(egr_timeline_video(&t, 40 * MS, 0, &ticks));
	cr_assert(egr_timeline_video(&t, 40 * MS, 0, &ticks));
	cr_expect_eq(ticks, 3601);
	cr_assert(egr_timeline_video(&t, 20 * MS, 0, &ticks));
	cr_expect_eq(ticks, 3602);
	cr_assert(egr_timeline_video(&t, 80 * MS, 0, &ticks));
	cr_expect_eq(ticks, 7200);
	cr_assert(egr_timeline_audio(&t, 40 * MS, &ticks));
	cr_expect_not(egr_timeline_audio(&t, 40 * MS, &ticks));
}

Test(egr_timeline, resumes_after_its_predecessor)
{
	struct egr_timeline t;
	int64_t ticks;

	egr_timeline_init(&t, 1000 * MS, 980 * MS);
	cr_assert(egr_timeline_video(&t, 1040 * MS, 0, &ticks));
	cr_expect_eq(ticks, 1040 * 90);
	cr_expect_not(egr_timeline_audio(&t, 980 * MS, &ticks));
	cr_expect(egr_timeline_audio(&t, 1000 * MS, &ticks));
}

/* The last timestamp is a guess on the safe side: the input gets there by itself, and is not moved, if it does in time. */
Test(egr_timeline, resumes_after_a_guess)
{
	struct egr_timeline t;
	int64_t ticks;

	egr_timeline_init(&t, 1500 * MS, 1480 * MS);
	egr_timeline_expect(&t, 1500 * MS);
	for (int64_t ms = 1000; ms <= 1500; ms += 40)
		cr_expect_not(egr_timeline_video(&t, ms * MS, 5000 * MS + (ms - 1000) * 2 * MS, &ticks), "%lld", (long long)ms);
	cr_assert(egr_timeline_video(&t, 1520 * MS, 6040 * MS, &ticks));
	cr_expect_eq(ticks, 1520 * 90);
	cr_expect_eq(t.offset_ns, 0);
	/* once is enough: from now on it is as always */
	cr_expect_not(egr_timeline_video(&t, 0, 7000 * MS, &ticks));
	cr_expect(egr_timeline_video(&t, 40 * MS, 7510 * MS, &ticks));
}

/* The source went back: dropped while it may catch up, then the timeline is moved, both tracks by the same. */
Test(egr_timeline, going_back_moves_the_timeline)
{
	struct egr_timeline t;
	int64_t ticks, now = 5000 * MS, last = 0;
	int dropped = 0;

	egr_timeline_init(&t, -1, -1);
	cr_assert(egr_timeline_video(&t, 60000 * MS, now, &last));
	for (int i = 0; i < 50; i++) {
		now += 40 * MS;
		if (!egr_timeline_video(&t, i * 40 * MS, now, &ticks)) {
			dropped++;
			continue;
		}
		cr_assert_gt(ticks, last);
		cr_assert_lt(ticks - last, 9000);
		last = ticks;
	}
	cr_expect_eq(dropped, 13);
	cr_expect(egr_timeline_audio(&t, 49 * 40 * MS, &ticks));
	cr_expect_leq(ticks > last ? ticks - last : last - ticks, 2);
}

/* After a pause in which pictures were repeated, a source that catches up loses what is in the past, no more. */
Test(egr_timeline, catching_up_after_a_pause)
{
	struct egr_timeline t;
	int64_t ticks = 0, now = 5000 * MS, last;
	int dropped = 0;

	egr_timeline_init(&t, -1, -1);
	cr_assert(egr_timeline_video(&t, 0, now, &ticks));
	for (int i = 0; i < 10; i++)
		last = egr_timeline_repeat(&t, 200 * MS);
	cr_expect_eq(last, 2000 * 90);
	for (int i = 1; i < 75; i++) {
		now += 4 * MS; /* ten times as fast as real time */
		if (egr_timeline_video(&t, i * 40 * MS, now, &ticks))
			cr_expect_eq(ticks, i * 3600);
		else
			dropped++;
	}
	cr_expect_eq(dropped, 50);
	cr_expect_eq(t.offset_ns, 0);
}

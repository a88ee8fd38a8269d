/* SPDX-License-Identifier: MIT */
/*
 * Goal: whatever a worker does, every input frame gets one decision, in order, in time, with the right picture.
 * Method: the clock is driven by hand, time is a number; a play's frames come every 40 ms.
 */
#include "egress/egr_clock.h"

#include <criterion/criterion.h>

#define MS INT64_C(1000000)

enum { INTERVAL_MS = 40, DEADLINE_MS = 100 };

static struct egr_clock clock_;
static struct egr_decision got[1024];
static unsigned got_count;
static int64_t now = 1000 * MS;
static uint64_t next_seq;

static void
begin(enum egr_policy policy, bool resumed)
{
	const struct egr_clock_config config = { .policy = policy, .frame_deadline_ns = DEADLINE_MS * MS,
		.resumed = resumed };

	egr_clock_init(&clock_, &config);
	got_count = 0;
	now = 1000 * MS;
	next_seq = UINT64_C(1) << 32 | 1;
}

static void
collect(void)
{
	while (egr_clock_next(&clock_, now, &got[got_count]))
		got_count++;
}

/* Time passes; the clock is looked at only when it said that it would have something. */
static void
pass(int64_t ms)
{
	int64_t until = now + ms * MS;

	for (;;) {
		int64_t due = egr_clock_due(&clock_, now);

		if (due > until)
			break;
		cr_assert_geq(due, now);
		now = due;
		collect();
		cr_assert(egr_clock_due(&clock_, now) > now, "a due that nothing follows would be a busy loop");
	}
	now = until;
}

static uint64_t
input(void)
{
	uint64_t seq = next_seq++;

	cr_assert(egr_clock_input(&clock_, seq, now, now, now, NULL));
	collect();
	return seq;
}

static enum egr_result
answer(uint64_t seq, enum egr_answer a)
{
	enum egr_result r = egr_clock_result(&clock_, seq, a, now);

	collect();
	return r;
}

/* A stream that runs: one frame answered at once. */
static void
begin_running(enum egr_policy policy)
{
	begin(policy, false);
	egr_clock_set_worker(&clock_, true);
	cr_assert_eq(answer(input(), EGR_ANSWER_PICTURE), EGR_RESULT_ACCEPTED);
	cr_assert_eq(got_count, 1);
	got_count = 0;
	pass(INTERVAL_MS);
}

Test(egr_clock, results_in_order)
{
	begin_running(EGR_POLICY_PASSTHROUGH);
	for (int i = 0; i < 100; i++) {
		uint64_t seq = input();

		pass(10);
		cr_expect_eq(answer(seq, EGR_ANSWER_PICTURE), EGR_RESULT_ACCEPTED);
		pass(30);
	}
	cr_assert_eq(got_count, 100);
	for (unsigned i = 0; i < 100; i++) {
		cr_expect_eq(got[i].picture, EGR_PICTURE_RESULT);
		if (i > 0)
			cr_expect_eq(got[i].seq, got[i - 1].seq + 1);
	}
}

Test(egr_clock, input_must_increase)
{
	begin(EGR_POLICY_PASSTHROUGH, true);
	cr_expect(egr_clock_input(&clock_, 10, 0, now, now, NULL));
	cr_expect_not(egr_clock_input(&clock_, 10, 0, now, now, NULL));
	cr_expect_not(egr_clock_input(&clock_, 9, 0, now, now, NULL));
	cr_expect_not(egr_clock_input(&clock_, 0, 0, now, now, NULL));
}

Test(egr_clock, deadline_fills)
{
	begin_running(EGR_POLICY_PASSTHROUGH);
	pass(1000); /* long since a result */
	input();
	pass(DEADLINE_MS - 30);
	cr_expect_eq(got_count, 0);
	pass(31);
	cr_assert_eq(got_count, 1);
	cr_expect_eq(got[0].picture, EGR_PICTURE_INPUT);
	cr_expect_eq(got[0].why, EGR_WHY_DEADLINE);
}

/* Input that comes late leaves less time for the result, but some. */
Test(egr_clock, late_input_waits_less)
{
	begin_running(EGR_POLICY_PASSTHROUGH);
	egr_clock_set_worker(&clock_, false);
	input();
	egr_clock_set_worker(&clock_, true);
	got_count = 0;
	pass(INTERVAL_MS + 70);
	cr_assert(egr_clock_input(&clock_, next_seq++, now - 70 * MS, now, now, NULL));
	pass(24);
	cr_expect_eq(got_count, 0);
	pass(2);
	cr_expect_eq(got_count, 1);
}

/* A worker that goes silent: no two decisions are further apart than one interval and 100 ms. */
Test(egr_clock, gap_is_bounded)
{
	int64_t last;

	begin(EGR_POLICY_PASSTHROUGH, true);
	input(); /* no worker: at once */
	cr_assert_eq(got_count, 1);
	last = now;
	egr_clock_set_worker(&clock_, true);
	clock_.config.frame_deadline_ns = 5000 * MS;
	for (int t = 0; t < 4000; t++) {
		unsigned before = got_count;

		pass(1);
		if (t % INTERVAL_MS == INTERVAL_MS - 1)
			input();
		if (got_count == before)
			continue;
		cr_expect_leq(now - last, (INTERVAL_MS + 100) * MS);
		last = now;
	}
	cr_expect_gt(got_count, 20);
}

Test(egr_clock, death_fills_at_once)
{
	begin_running(EGR_POLICY_PASSTHROUGH);
	input();
	input();
	cr_expect_eq(got_count, 0);
	egr_clock_set_worker(&clock_, false);
	collect();
	cr_assert_eq(got_count, 2);
	cr_expect_eq(got[0].picture, EGR_PICTURE_INPUT);
	cr_expect_eq(got[1].why, EGR_WHY_NO_WORKER);
	input();
	cr_expect_eq(got_count, 3);
	/* The next one answers the frame that its predecessor held: it was filled in. */
	egr_clock_set_worker(&clock_, true);
	cr_expect_eq(answer(got[1].seq, EGR_ANSWER_PICTURE), EGR_RESULT_LAST);
	cr_expect_eq(answer(got[1].seq, EGR_ANSWER_PICTURE), EGR_RESULT_REPEATED);
	cr_expect_eq(answer(input(), EGR_ANSWER_PICTURE), EGR_RESULT_ACCEPTED);
	cr_expect_eq(got_count, 4);
	cr_expect_eq(got[3].picture, EGR_PICTURE_RESULT);
}

/* A model that takes 60 ms for frames that come every 40 ms skips a third of them. */
Test(egr_clock, slow_worker_does_not_flicker)
{
	uint64_t busy = 0;
	int64_t done = 0;

	begin_running(EGR_POLICY_PASSTHROUGH);
	for (int t = 0; t < 4000; t++) {
		uint64_t newest = 0;

		if (t % INTERVAL_MS == 0)
			newest = input();
		if (busy != 0 && now >= done) {
			cr_expect_eq(answer(busy, EGR_ANSWER_PICTURE), EGR_RESULT_ACCEPTED);
			busy = 0;
		}
		if (busy == 0 && newest != 0) {
			busy = newest;
			done = now + 60 * MS;
		}
		pass(1);
	}
	cr_assert_gt(got_count, 90);
	for (unsigned i = 0; i < got_count; i++)
		cr_expect(got[i].picture == EGR_PICTURE_RESULT || got[i].picture == EGR_PICTURE_LAST);
}

/* Every answer is too late: what is shown are the last processed pictures, never the input. */
Test(egr_clock, always_late_worker_shows_its_last)
{
	uint64_t seq[100];
	unsigned late = 0;

	begin_running(EGR_POLICY_PASSTHROUGH);
	for (unsigned i = 0; i < 100; i++) {
		seq[i] = input();
		if (i >= 5)
			late += answer(seq[i - 5], EGR_ANSWER_PICTURE) == EGR_RESULT_LAST;
		pass(INTERVAL_MS);
	}
	cr_expect_eq(late, 95);
	for (unsigned i = 5; i < got_count; i++)
		cr_expect_eq(got[i].picture, EGR_PICTURE_LAST);
}

Test(egr_clock, later_answer_settles_the_skipped)
{
	uint64_t a, b, c;

	begin_running(EGR_POLICY_PASSTHROUGH);
	a = input();
	b = input();
	c = input();
	cr_expect_eq(answer(c, EGR_ANSWER_PICTURE), EGR_RESULT_ACCEPTED);
	cr_assert_eq(got_count, 3);
	cr_expect_eq(got[0].seq, a);
	cr_expect_eq(got[0].picture, EGR_PICTURE_LAST);
	cr_expect_eq(got[1].seq, b);
	cr_expect_eq(got[2].picture, EGR_PICTURE_RESULT);
	/* Out of order after all: late, and older than what is shown. */
	cr_expect_eq(answer(b, EGR_ANSWER_PICTURE), EGR_RESULT_LATE);
	cr_expect_eq(answer(b, EGR_ANSWER_PICTURE), EGR_RESULT_REPEATED);
}

Test(egr_clock, forged_results)
{
	uint64_t a;

	begin_running(EGR_POLICY_PASSTHROUGH);
	a = input();
	cr_expect_eq(answer(0, EGR_ANSWER_PICTURE), EGR_RESULT_BAD);
	cr_expect_eq(answer(1, EGR_ANSWER_PICTURE), EGR_RESULT_BAD);
	cr_expect_eq(answer(a + 1, EGR_ANSWER_PICTURE), EGR_RESULT_BAD);
	cr_expect_eq(answer(UINT64_MAX, EGR_ANSWER_WITHHELD), EGR_RESULT_BAD);
	cr_expect_eq(got_count, 0);
	cr_expect_eq(answer(a, EGR_ANSWER_PICTURE), EGR_RESULT_ACCEPTED);
	cr_expect_eq(answer(a, EGR_ANSWER_PASS), EGR_RESULT_REPEATED);
	cr_expect_eq(got_count, 1);
}

Test(egr_clock, forgotten_frames_are_late)
{
	uint64_t first;

	begin_running(EGR_POLICY_PASSTHROUGH);
	egr_clock_set_worker(&clock_, false);
	first = input();
	for (int i = 0; i < 2 * EGR_ENTRIES_MAX; i++) {
		got_count = 0;
		input();
	}
	cr_expect_eq(answer(first, EGR_ANSWER_PICTURE), EGR_RESULT_LATE);
}

Test(egr_clock, too_many_waiting)
{
	begin_running(EGR_POLICY_PASSTHROUGH);
	egr_clock_set_limit(&clock_, 3);
	for (int i = 0; i < 3; i++)
		input();
	cr_expect_eq(got_count, 0);
	input();
	cr_expect_eq(got_count, 1);
	/* Also before the stream has started. */
	begin(EGR_POLICY_PASSTHROUGH, false);
	for (int i = 0; i < 2 * EGR_ENTRIES_MAX; i++) {
		got_count = 0;
		input();
	}
	cr_expect_leq(clock_.tail - clock_.head, EGR_PENDING_MAX);
}

Test(egr_clock, policies)
{
	static const struct {
		enum egr_policy policy;
		enum egr_picture dead, silent; /* no worker; a deadline long after the last result */
	} expected[] = {
		{ EGR_POLICY_PASSTHROUGH, EGR_PICTURE_INPUT, EGR_PICTURE_INPUT },
		{ EGR_POLICY_HOLD, EGR_PICTURE_LAST, EGR_PICTURE_LAST },
		{ EGR_POLICY_OVERLAY, EGR_PICTURE_SLATE, EGR_PICTURE_SLATE },
		{ EGR_POLICY_DROP, EGR_PICTURE_NONE, EGR_PICTURE_NONE },
	};

	for (unsigned i = 0; i < 4; i++) {
		begin_running(expected[i].policy);
		pass(2000);
		input();
		pass(DEADLINE_MS);
		egr_clock_set_worker(&clock_, false);
		input();
		cr_assert_eq(got_count, 2);
		cr_expect_eq(got[0].picture, expected[i].silent);
		cr_expect_eq(got[0].why, EGR_WHY_DEADLINE);
		cr_expect_eq(got[1].picture, expected[i].dead);
		cr_expect_eq(got[1].why, EGR_WHY_NO_WORKER);
	}
}

Test(egr_clock, hold_has_nothing_yet)
{
	begin(EGR_POLICY_HOLD, true);
	input();
	cr_assert_eq(got_count, 1);
	cr_expect_eq(got[0].picture, EGR_PICTURE_INPUT);
}

Test(egr_clock, withheld_passes_then_slate)
{
	begin_running(EGR_POLICY_PASSTHROUGH);
	for (int i = 0; i < 50; i++) {
		cr_expect_eq(answer(input(), EGR_ANSWER_WITHHELD), EGR_RESULT_ACCEPTED);
		pass(INTERVAL_MS);
	}
	cr_assert_eq(got_count, 50);
	for (int i = 0; i < 50; i++) {
		cr_expect_eq(got[i].picture, i <= 36 ? EGR_PICTURE_INPUT : EGR_PICTURE_SLATE, "frame %d", i);
		cr_expect_eq(got[i].why, EGR_WHY_WITHHELD);
	}
	answer(input(), EGR_ANSWER_PICTURE);
	answer(input(), EGR_ANSWER_WITHHELD);
	cr_expect_eq(got[50].picture, EGR_PICTURE_RESULT);
	cr_expect_eq(got[51].picture, EGR_PICTURE_INPUT);
}

Test(egr_clock, pass_is_the_input)
{
	begin_running(EGR_POLICY_DROP);
	cr_expect_eq(answer(input(), EGR_ANSWER_PASS), EGR_RESULT_ACCEPTED);
	cr_assert_eq(got_count, 1);
	cr_expect_eq(got[0].picture, EGR_PICTURE_INPUT);
	cr_expect_eq(got[0].why, EGR_WHY_PASS);
}

Test(egr_clock, slate_on_request)
{
	uint64_t a;

	begin_running(EGR_POLICY_PASSTHROUGH);
	egr_clock_set_slate(&clock_, true);
	a = input();
	cr_assert_eq(got_count, 1);
	cr_expect_eq(got[0].picture, EGR_PICTURE_SLATE);
	cr_expect_eq(answer(a, EGR_ANSWER_WITHHELD), EGR_RESULT_LATE);
	egr_clock_set_slate(&clock_, false);
	answer(input(), EGR_ANSWER_PICTURE);
	cr_expect_eq(got[1].picture, EGR_PICTURE_RESULT);
}

/* The first result begins the stream; what the worker skipped of a backlog before it is left out. */
Test(egr_clock, starts_with_the_first_result)
{
	uint64_t last = 0;

	begin(EGR_POLICY_PASSTHROUGH, false);
	for (int i = 0; i < 20; i++)
		last = input();
	cr_expect_eq(got_count, 0);
	egr_clock_set_worker(&clock_, true);
	pass(200);
	cr_expect_eq(got_count, 0);
	answer(last, EGR_ANSWER_PICTURE);
	cr_assert_eq(got_count, 20);
	for (int i = 0; i < 19; i++)
		cr_expect_eq(got[i].picture, EGR_PICTURE_NONE);
	cr_expect_eq(got[19].picture, EGR_PICTURE_RESULT);
}

Test(egr_clock, starts_without_a_result)
{
	begin(EGR_POLICY_PASSTHROUGH, false);
	input();
	pass(499);
	cr_expect_eq(got_count, 0);
	pass(1);
	cr_assert_eq(got_count, 1);
	cr_expect_eq(got[0].picture, EGR_PICTURE_INPUT);
	input();
	cr_expect_eq(got_count, 2);
}

Test(egr_clock, commit_in_the_future)
{
	begin_running(EGR_POLICY_PASSTHROUGH);
	cr_assert(egr_clock_input(&clock_, next_seq++, 0, now + 3600000 * MS, now, NULL));
	pass(DEADLINE_MS);
	cr_expect_eq(got_count, 1);
}

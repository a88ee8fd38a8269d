/* SPDX-License-Identifier: MIT */
/*
 * Goal: through real rings, every input frame leaves once, whatever the worker puts into its ring.
 * Method: the test is everybody else; it publishes frames and reads egress's counters.
 */
#include "egr_stage.h"
#include "base/clock.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <math.h>

static struct stage s;

static unsigned
open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	while (dir != NULL && readdir(dir) != NULL)
		n++;
	if (dir != NULL)
		closedir(dir);
	return n;
}

/* Input and an answer for each, so that the stream has started. */
static void
run_well(struct ring_tx *in, struct ring_tx *out, unsigned frames)
{
	for (unsigned i = 0; i < frames; i++) {
		uint64_t seq = stage_input(&s, in);

		stage_turn(&s, 0);
		stage_answer(&s, out, seq);
		stage_turn(&s, 0);
	}
}

Test(egr_session, answers_leave, .timeout = 30)
{
	unsigned fds = open_fds();
	struct ring_tx *in, *out;

	stage_begin(&s, "{}");
	in = stage_ring(&s, CTL_RING_IN_VIDEO, 1);
	out = stage_ring(&s, CTL_RING_OUT_VIDEO, 1);
	run_well(in, out, 100);
	cr_expect_eq(stage_count(&s, EGRESS_frames_in), 100);
	cr_expect_eq(stage_count(&s, EGRESS_frames_processed), 100);
	cr_expect_eq(stage_count(&s, EGRESS_frames_out), 100);
	cr_expect_eq(stage_count(&s, EGRESS_out_width), STAGE_SIDE);
	cr_expect_eq(stage_count(&s, EGRESS_last_out_pts_ns), 13960000000u);
	cr_expect_eq(s.mapped, 2);
	ring_tx_close(&in);
	ring_tx_close(&out);
	stage_end(&s);
	cr_expect_eq(open_fds(), fds, "descriptors leak");
}

/* What the worker publishes and dies is drained; then frames pass at once; a new ring takes over. */
Test(egr_session, worker_dies, .timeout = 30)
{
	struct ring_tx *in, *out;
	uint64_t seq;

	stage_begin(&s, "{}");
	in = stage_ring(&s, CTL_RING_IN_VIDEO, 1);
	out = stage_ring(&s, CTL_RING_OUT_VIDEO, 1);
	run_well(in, out, 5);
	seq = stage_input(&s, in);
	stage_answer(&s, out, seq);
	seq = stage_input(&s, in);
	stage_ring_ended(&s, &out);
	stage_turn(&s, 0);
	cr_expect_eq(s.closed, 1);
	cr_expect_eq(stage_count(&s, EGRESS_frames_processed), 6, "the last answer is not lost");
	cr_expect_eq(stage_count(&s, EGRESS_fill_no_worker), 1);
	stage_input(&s, in);
	stage_turn(&s, 0);
	cr_expect_eq(stage_count(&s, EGRESS_frames_passthrough), 2);
	out = stage_ring(&s, CTL_RING_OUT_VIDEO, 2);
	stage_answer(&s, out, seq); /* held by the dead one, computed again */
	stage_turn(&s, 0);
	cr_expect_eq(stage_count(&s, EGRESS_results_late), 1);
	run_well(in, out, 5);
	cr_expect_eq(stage_count(&s, EGRESS_frames_processed), 11);
	cr_expect_eq(stage_count(&s, EGRESS_frames_out), 13);
	ring_tx_close(&in);
	ring_tx_close(&out);
	stage_end(&s);
}

Test(egr_session, forged_results, .timeout = 30)
{
	struct ring_tx *in, *out;
	uint64_t seq;
	uint32_t bytes;

	stage_begin(&s, "{}");
	in = stage_ring(&s, CTL_RING_IN_VIDEO, 1);
	out = stage_ring(&s, CTL_RING_OUT_VIDEO, 1);
	bytes = (uint32_t)ring_tx_geom(out)->payload_max;
	run_well(in, out, 30); /* it has saved up results */
	seq = stage_input(&s, in);
	const struct ring_desc bad[] = {
		{ .src_seq = seq + 1, .bytes = bytes },
		{ .src_seq = 0, .bytes = bytes },
		{ .src_seq = UINT64_MAX, .bytes = bytes },
		{ .src_seq = seq, .bytes = bytes - 1 },
		{ .src_seq = seq, .bytes = 0 },
		{ .src_seq = seq, .bytes = bytes, .flags = RING_FRAME_WITHHELD },
		{ .src_seq = seq, .bytes = 0, .flags = RING_FRAME_WITHHELD | RING_FRAME_PASS },
	};
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		stage_result(&s, out, &bad[i]);
		stage_turn(&s, 0);
	}
	cr_expect_eq(stage_count(&s, EGRESS_results_bad), 7);
	cr_expect_geq(stage_count(&s, EGRESS_violations), 7);
	cr_expect_eq(stage_count(&s, EGRESS_frames_out), 30);
	stage_answer(&s, out, seq);
	stage_answer(&s, out, seq);
	stage_turn(&s, 0);
	cr_expect_eq(stage_count(&s, EGRESS_frames_processed), 31);
	cr_expect_eq(stage_count(&s, EGRESS_results_repeated), 1);
	ring_tx_close(&in);
	ring_tx_close(&out);
	stage_end(&s);
}

/* Thousands of answers for few frames: at some point they are not even looked at, and the stream goes on. */
Test(egr_session, flood, .timeout = 60)
{
	struct ring_tx *in, *out;
	uint64_t seq, looked_at;

	stage_begin(&s, "{}");
	in = stage_ring(&s, CTL_RING_IN_VIDEO, 1);
	out = stage_ring(&s, CTL_RING_OUT_VIDEO, 1);
	run_well(in, out, 10);
	seq = stage_input(&s, in);
	for (unsigned i = 0; i < 5000; i++) {
		stage_answer(&s, out, 12345);
		stage_turn(&s, 0);
	}
	looked_at = stage_count(&s, EGRESS_results_bad);
	cr_expect_leq(looked_at, 4 * RING_SLOTS_MAX);
	stage_pass(&s, 150); /* its own frame's deadline */
	cr_expect_eq(stage_count(&s, EGRESS_frames_out), 11);
	seq = stage_input(&s, in);
	stage_turn(&s, 0);
	stage_answer(&s, out, seq);
	stage_pass(&s, 150);
	cr_expect_eq(stage_count(&s, EGRESS_frames_out), 12);
	ring_tx_close(&in);
	ring_tx_close(&out);
	stage_end(&s);
}

/* More frames wait than egress may hold: the oldest are copied, none is lost. */
Test(egr_session, out_of_holds, .timeout = 30)
{
	struct ring_tx *in, *out;
	uint64_t seq[20];

	stage_begin(&s, "{\"frame_deadline_ms\":5000}");
	in = stage_ring(&s, CTL_RING_IN_VIDEO, 1);
	out = stage_ring(&s, CTL_RING_OUT_VIDEO, 1);
	for (unsigned i = 0; i < 20; i++) {
		seq[i] = stage_input(&s, in);
		stage_turn(&s, 0);
	}
	cr_expect_eq(stage_count(&s, EGRESS_frames_in), 20);
	cr_expect_eq(stage_count(&s, EGRESS_pending), 20);
	for (unsigned i = 0; i < 20; i++) {
		stage_answer(&s, out, seq[i]);
		stage_turn(&s, 0);
	}
	cr_expect_eq(stage_count(&s, EGRESS_frames_processed), 20);
	/* The same, and now they are needed. */
	for (unsigned i = 0; i < 20; i++) {
		stage_input(&s, in);
		stage_turn(&s, 0);
	}
	stage_ring_ended(&s, &out);
	stage_turn(&s, 0);
	cr_expect_eq(stage_count(&s, EGRESS_frames_out), 40);
	cr_expect_eq(stage_count(&s, EGRESS_fill_no_worker) + stage_count(&s, EGRESS_fill_deadline), 20);
	ring_tx_close(&in);
	stage_end(&s);
}

/* Ingest dies: its last frames are drained, the next generation follows in order. */
Test(egr_session, input_goes_on_in_a_new_ring, .timeout = 30)
{
	struct ring_tx *in, *next, *out;
	uint64_t a, b;

	stage_begin(&s, "{}");
	in = stage_ring(&s, CTL_RING_IN_VIDEO, 1);
	out = stage_ring(&s, CTL_RING_OUT_VIDEO, 1);
	run_well(in, out, 3);
	next = stage_ring(&s, CTL_RING_IN_VIDEO, 2);
	a = stage_input(&s, in);
	b = stage_input(&s, next);
	stage_ring_ended(&s, &in);
	stage_turn(&s, 0);
	cr_expect_eq(s.closed, 0, "a frame of it still waits");
	stage_answer(&s, out, a);
	stage_answer(&s, out, b);
	stage_turn(&s, 0);
	cr_expect_eq(s.closed, 1);
	cr_expect_eq(stage_count(&s, EGRESS_frames_processed), 5);
	ring_tx_close(&next);
	ring_tx_close(&out);
	stage_end(&s);
}

Test(egr_session, withheld_and_pass, .timeout = 30)
{
	struct ring_tx *in, *out;

	stage_begin(&s, "{}");
	in = stage_ring(&s, CTL_RING_IN_VIDEO, 1);
	out = stage_ring(&s, CTL_RING_OUT_VIDEO, 1);
	run_well(in, out, 1);
	struct ring_desc desc = { .src_seq = stage_input(&s, in), .flags = RING_FRAME_WITHHELD };
	stage_result(&s, out, &desc);
	stage_turn(&s, 0);
	desc = (struct ring_desc){ .src_seq = stage_input(&s, in), .flags = RING_FRAME_PASS,
		.reason = RING_REASON_ERROR };
	stage_result(&s, out, &desc);
	stage_turn(&s, 0);
	cr_expect_eq(stage_count(&s, EGRESS_fill_withheld), 1);
	cr_expect_eq(stage_count(&s, EGRESS_fill_pass), 1);
	cr_expect_eq(stage_count(&s, EGRESS_frames_passthrough), 2);
	ring_tx_close(&in);
	ring_tx_close(&out);
	stage_end(&s);
}

/* Sound of the worker takes the place of the input's; nonsense of it does no harm; what it does not answer passes. */
Test(egr_session, sound_of_the_worker, .timeout = 30)
{
	struct ring_tx *in, *out, *sound, *answer;
	struct ring_desc bad = { .bytes = 7680 };
	uint64_t sent;
	unsigned slot;

	stage_begin(&s, "{\"worker_audio\":true}");
	in = stage_ring(&s, CTL_RING_IN_VIDEO, 1);
	out = stage_ring(&s, CTL_RING_OUT_VIDEO, 1);
	sound = stage_ring(&s, CTL_RING_IN_AUDIO_EGRESS, 1);
	answer = stage_ring(&s, CTL_RING_OUT_AUDIO, 1);
	run_well(in, out, 1);
	cr_expect_eq(stage_count(&s, EGRESS_has_audio), 1);
	for (unsigned i = 0; i < 5; i++) {
		stage_sound(&s, sound, 0);
		stage_sound(&s, sound, 20 * CLOCK_MS_NS);
		stage_turn(&s, 0);
		stage_sound(&s, answer, 0);
		stage_sound(&s, answer, 20 * CLOCK_MS_NS);
		run_well(in, out, 1);
	}
	cr_expect_eq(stage_count(&s, EGRESS_audio_out), 10);
	/* not answered: its deadline */
	stage_sound(&s, sound, 0);
	stage_turn(&s, 0);
	cr_expect_eq(stage_count(&s, EGRESS_audio_out), 10);
	cr_assert_eq(ring_claim(answer, &slot), RING_CLAIMED);
	for (unsigned i = 0; i < 1920; i++)
		((float *)ring_tx_slot(answer, slot))[i] = i % 2 ? NAN : INFINITY;
	bad.pts_ns = INT64_MIN / 4;
	ring_publish(answer, slot, &bad);
	cr_assert_eq(ring_claim(answer, &slot), RING_CLAIMED);
	bad.bytes = 7;
	ring_publish(answer, slot, &bad);
	stage_pass(&s, 150);
	cr_expect_eq(stage_count(&s, EGRESS_audio_out), 11);
	cr_expect_eq(stage_count(&s, EGRESS_violations), 1);
	/* the worker is gone: at once */
	stage_ring_ended(&s, &answer);
	sent = stage_count(&s, EGRESS_audio_out);
	stage_sound(&s, sound, 20 * CLOCK_MS_NS);
	stage_turn(&s, 0);
	cr_expect_eq(stage_count(&s, EGRESS_audio_out), sent + 1);
	ring_tx_close(&in);
	ring_tx_close(&out);
	ring_tx_close(&sound);
	stage_end(&s);
}

/* A doorbell whose other end is closed must not become a busy loop. */
Test(egr_session, silent_doorbell, .timeout = 30)
{
	struct ring_tx *in, *out;
	unsigned turns = 0;
	int64_t until_ns;

	stage_begin(&s, "{}");
	in = stage_ring(&s, CTL_RING_IN_VIDEO, 1);
	out = stage_ring(&s, CTL_RING_OUT_VIDEO, 1);
	run_well(in, out, 3);
	ring_tx_close(&out); /* hangs up, and nobody has said so yet */
	until_ns = clock_now_ns() + 500 * CLOCK_MS_NS;
	for (; clock_now_ns() < until_ns; turns++)
		stage_turn(&s, 50);
	cr_expect_lt(turns, 50);
	ring_tx_close(&in);
	stage_end(&s);
}

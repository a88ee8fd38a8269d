/* SPDX-License-Identifier: MIT */
/*
 * Goal: frames survive whatever becomes of rings: deaths, new generations, other sizes.
 * Method: the stage replaces workers and rings under a running session.
 */
#include "millrace.h"

#include "tests/sdk/sdk_stage.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SESSION = 3, WIDTH = 64, HEIGHT = 32 };

TestSuite(sdk_rings, .timeout = 30);

static void
expect_closed(struct stage *st, const struct stage_ring *r)
{
	union ctl_msg msg;

	stage_expect(st, CTL_RING_CLOSED, &msg);
	cr_assert_eq(msg.ring_ref.ring_id, r->open.ring_id);
	cr_assert_eq(msg.ring_ref.generation, r->open.generation);
}

Test(sdk_rings, a_frame_survives_its_worker)
{
	struct stage_ring in, out;
	struct stage st;
	uint64_t seq;

	stage_open_program(&st, "crash-test");
	stage_session_open(&st, SESSION, "{\"mode\": \"segv\", \"after\": 1}");
	stage_ring_make_in(&in, 1, WIDTH, HEIGHT, 2);
	stage_ring_give(&st, SESSION, &in, false);
	stage_ring_grant(&st, SESSION, &out, 1);
	stage_expect_answer(&out, stage_publish(&in, 1), 0, 1);
	seq = stage_publish(&in, 2);
	cr_assert_eq(stage_wait(&st), 256 + SIGSEGV);
	stage_ring_close(&out);
	stage_open_program(&st, "crash-test");
	stage_session_open(&st, SESSION, "{}");
	stage_ring_give(&st, SESSION, &in, true);
	stage_ring_grant(&st, SESSION, &out, 2);
	stage_expect_answer(&out, seq, 0, 2);
	stage_expect_answer(&out, stage_publish(&in, 3), 0, 3);
	stage_session_close(&st, SESSION);
	cr_assert_eq(stage_hang_up(&st), 0);
	stage_ring_close(&in);
	stage_ring_close(&out);
}

#ifdef MR_TESTPOINTS

enum { FRAMES = 4 };

/* Marks which frames were answered; each answer must be right. Returns how many answers there were. */
static unsigned
drain_answers(struct stage_ring *out, uint64_t first, bool answered[FRAMES])
{
	struct ring_frame f;
	unsigned n = 0;

	ring_rx_set_ended(out->rx);
	for (; ring_take(out->rx, &f) == RING_TAKEN; n++) {
		cr_assert(f.desc.src_seq >= first && f.desc.src_seq < first + FRAMES);
		for (uint32_t i = 0; i < f.desc.bytes; i++)
			cr_assert(f.payload[i] == (uint8_t)(f.desc.src_seq - first), "a torn frame");
		answered[f.desc.src_seq - first] = true;
		ring_release(out->rx, &f);
	}
	return n;
}

/* The worker dies at one point of one frame; the next one serves what is left. Nothing may be lost. */
static void
die_at(const char *point)
{
	bool answered[FRAMES] = { false };
	struct stage_ring in, out, out2;
	struct stage st;
	uint64_t first;
	unsigned n;

	cr_assert_eq(setenv("MILLRACE_TESTPOINT", point, 1), 0);
	stage_open_program(&st, "passthrough");
	cr_assert_eq(unsetenv("MILLRACE_TESTPOINT"), 0);
	stage_session_open(&st, SESSION, "{}");
	stage_ring_make_in(&in, 1, WIDTH, HEIGHT, 1);
	stage_ring_give(&st, SESSION, &in, false);
	stage_ring_grant(&st, SESSION, &out, 1);
	first = stage_publish(&in, 0);
	for (uint8_t i = 1; i < FRAMES; i++)
		stage_publish(&in, i);
	cr_assert_eq(stage_wait(&st), 256 + SIGKILL, "it did not die at %s", point);
	n = drain_answers(&out, first, answered);
	stage_open_program(&st, "passthrough");
	stage_session_open(&st, SESSION, "{}");
	stage_ring_give(&st, SESSION, &in, true);
	stage_ring_grant(&st, SESSION, &out2, 2);
	while (!answered[FRAMES - 1]) {
		struct ring_frame f;

		stage_answer(&out2, &f);
		cr_assert(f.desc.src_seq >= first && f.desc.src_seq < first + FRAMES);
		answered[f.desc.src_seq - first] = true;
		ring_release(out2.rx, &f);
		n++;
	}
	for (int i = 0; i < FRAMES; i++)
		cr_assert(answered[i], "%s: frame %d was not answered", point, i);
	cr_assert_leq(n, FRAMES + 1, "%s: more than the frame in flight was answered again", point);
	stage_session_close(&st, SESSION);
	cr_assert_eq(stage_hang_up(&st), 0);
	stage_ring_close(&in);
	stage_ring_close(&out);
	stage_ring_close(&out2);
}

Test(sdk_rings, a_death_anywhere_loses_no_frame, .timeout = 120)
{
	static const char *const points[] = {
		"sdk_take:frame", "sdk_publish:before", "sdk_publish:after", "sdk_release:before", "sdk_release:after",
		"ring_take:found", "ring_take:hold", "ring_take:fenced", "ring_take:valid", "ring_take:taken",
		"ring_claim:empty", "ring_publish:described", "ring_publish:after_state", "ring_publish:after_bell",
		"ring_publish:woken", "ring_release:begin", "ring_release:after_hold",
	};

	for (unsigned i = 0; i < sizeof(points) / sizeof(points[0]); i++)
		for (unsigned nth = 1; nth <= 3; nth++) {
			char point[64];

			snprintf(point, sizeof(point), "%s:%u", points[i], nth);
			die_at(point);
		}
}

#endif

Test(sdk_rings, quarantined_frame_is_not_taken)
{
	struct stage_ring in, out;
	struct stage st;
	uint64_t seq;

	stage_open_program(&st, "passthrough");
	stage_session_open(&st, SESSION, "{}");
	stage_ring_make_in(&in, 1, WIDTH, HEIGHT, 1);
	seq = stage_publish(&in, 1);
	in.open.skip_seq[0] = seq;
	stage_ring_give(&st, SESSION, &in, false);
	stage_ring_grant(&st, SESSION, &out, 1);
	stage_expect_answer(&out, stage_publish(&in, 2), 0, 2);
	stage_session_close(&st, SESSION);
	cr_assert_eq(stage_hang_up(&st), 0);
	stage_ring_close(&in);
	stage_ring_close(&out);
}

Test(sdk_rings, the_next_generation_of_the_same_size_keeps_the_out_ring)
{
	struct stage_ring in[4], out;
	struct stage st;
	uint64_t seq;

	stage_open_program(&st, "passthrough");
	stage_session_open(&st, SESSION, "{}");
	stage_ring_make_in(&in[0], 1, WIDTH, HEIGHT, 1);
	stage_ring_give(&st, SESSION, &in[0], false);
	stage_ring_grant(&st, SESSION, &out, 1);
	for (uint32_t i = 1; i < 4; i++) {
		stage_expect_answer(&out, stage_publish(&in[i - 1], 1), 0, 1);
		stage_ring_make_in(&in[i], 1 + i, WIDTH, HEIGHT, 1);
		stage_ring_give(&st, SESSION, &in[i], false);
		stage_ring_tell(&st, CTL_RING_ENDED, SESSION, &in[i - 1]);
		expect_closed(&st, &in[i - 1]);
		seq = stage_publish(&in[i], 2);
		stage_expect_answer(&out, seq, 0, 2);
		stage_ring_close(&in[i - 1]);
	}
	stage_session_close(&st, SESSION);
	cr_assert_eq(stage_hang_up(&st), 0);
	stage_ring_close(&in[3]);
	stage_ring_close(&out);
}

Test(sdk_rings, another_size_comes_after_the_frames_before_it)
{
	struct stage_ring in, in2, out, out2;
	union ctl_msg msg;
	struct stage st;
	uint64_t seq[3];

	stage_open_program(&st, "passthrough");
	stage_session_open(&st, SESSION, "{}");
	stage_ring_make_in(&in, 1, WIDTH, HEIGHT, 1);
	for (int i = 0; i < 3; i++)
		seq[i] = stage_publish(&in, (uint8_t)i);
	stage_ring_give(&st, SESSION, &in, false);
	stage_ring_make_in(&in2, 2, 2 * WIDTH, HEIGHT, 1);
	stage_publish(&in2, 9);
	stage_ring_tell(&st, CTL_RING_ENDED, SESSION, &in);
	/* The worker has asked for the first out ring by now; the next generation comes before it is granted. */
	stage_expect(&st, CTL_RING_REQUEST, &msg);
	cr_assert_eq(msg.ring_request.width, WIDTH);
	stage_ring_give(&st, SESSION, &in2, false);
	stage_ring_grant_request(&st, &msg.ring_request, &out, 1);
	for (int i = 0; i < 3; i++)
		stage_expect_answer(&out, seq[i], 0, (uint8_t)i);
	stage_expect(&st, CTL_RING_REQUEST, &msg);
	cr_assert_eq(msg.ring_request.width, 2 * WIDTH);
	expect_closed(&st, &in);
	stage_ring_grant_request(&st, &msg.ring_request, &out2, 2);
	stage_expect_answer(&out2, ring_first_seq(2), 0, 9);
	stage_session_close(&st, SESSION);
	cr_assert_eq(stage_hang_up(&st), 0);
	stage_ring_close(&in);
	stage_ring_close(&in2);
	stage_ring_close(&out);
	stage_ring_close(&out2);
}

Test(sdk_rings, an_ended_ring_is_closed_while_the_worker_waits)
{
	struct stage_ring in, out;
	struct stage st;

	stage_open_program(&st, "passthrough");
	stage_session_open(&st, SESSION, "{}");
	stage_ring_make_in(&in, 1, WIDTH, HEIGHT, 1);
	stage_ring_give(&st, SESSION, &in, false);
	stage_ring_grant(&st, SESSION, &out, 1);
	stage_expect_answer(&out, stage_publish(&in, 1), 0, 1);
	ring_tx_close(&in.tx); /* its doorbell hangs up */
	stage_expect_silence(&st, 100);
	stage_ring_tell(&st, CTL_RING_ENDED, SESSION, &in);
	expect_closed(&st, &in);
	stage_session_close(&st, SESSION);
	cr_assert_eq(stage_hang_up(&st), 0);
	stage_ring_close(&in);
	stage_ring_close(&out);
}

/* The supervisor may offer an out ring unasked, and before the in ring. */
Test(sdk_rings, an_out_ring_that_nobody_asked_for)
{
	struct stage_ring in, out;
	struct ctl_ring_request q = {
		.hdr.session = SESSION, .ring_id = CTL_RING_OUT_VIDEO, .format = FORMAT_RGB24, .width = WIDTH,
		.height = HEIGHT,
	};
	struct stage st;

	stage_open_program(&st, "passthrough");
	stage_session_open(&st, SESSION, "{}");
	stage_ring_grant_request(&st, &q, &out, 1);
	stage_ring_make_in(&in, 1, WIDTH, HEIGHT, 1);
	stage_ring_give(&st, SESSION, &in, false);
	stage_expect_answer(&out, stage_publish(&in, 1), 0, 1);
	stage_expect_silence(&st, 50);
	stage_session_close(&st, SESSION);
	cr_assert_eq(stage_hang_up(&st), 0);
	stage_ring_close(&in);
	stage_ring_close(&out);
}

Test(sdk_rings, generations_that_nobody_drains)
{
	struct stage_ring in[5], out;
	union ctl_msg msg, request;
	struct stage st;

	stage_open_program(&st, "passthrough");
	stage_session_open(&st, SESSION, "{}");
	for (uint32_t i = 0; i < 5; i++)
		stage_ring_make_in(&in[i], 1 + i, WIDTH, HEIGHT, 1);
	stage_ring_give(&st, SESSION, &in[0], false);
	stage_expect(&st, CTL_RING_REQUEST, &request); /* not granted: nothing can be drained */
	stage_ring_give(&st, SESSION, &in[1], false);
	stage_ring_give(&st, SESSION, &in[2], false);
	for (uint32_t i = 3; i < 5; i++) {
		struct ctl_ring_open m = in[i].open;
		int fds[4] = { in[i].p_ro, in[i].d_ro, in[i].c_rw, in[i].bell[1] };

		m.hdr.session = SESSION;
		m.role = CTL_RING_CONSUMER;
		m.fd_count = 4;
		stage_ring_give_raw(&st, &m, fds, 4);
		expect_closed(&st, &in[i - 3]);
		stage_expect(&st, CTL_MAPPED, &msg);
	}
	stage_ring_grant_request(&st, &request.ring_request, &out, 1);
	stage_expect_answer(&out, stage_publish(&in[2], 6), 0, 6);
	stage_session_close(&st, SESSION);
	cr_assert_eq(stage_hang_up(&st), 0);
	for (uint32_t i = 0; i < 5; i++)
		stage_ring_close(&in[i]);
	stage_ring_close(&out);
}

/* ---- results of another size ------------------------------------------ */

static int
enlarge(struct mr_session *s, const struct mr_stream *stream, void *user)
{
	return mr_output_resize(s, 3, 3) != -EINVAL ? -EIO : mr_output_resize(s, 128, 96);
}

/* The first byte of a picture says what to do: 1 to 9: as many times 16 pixels wide from now on. */
static int
resizing_video(struct mr_session *s, const struct mr_frame *in, struct mr_output *out, void *user)
{
	if (out->stride[0] != out->width * 3 || out->bytes != (size_t)out->stride[0] * out->height)
		return -EIO;
	memset(out->data, in->data[0], out->bytes);
	if (in->data[0] == 0)
		return mr_output_resize(s, 0, 0) == 0 ? MR_OK : -EIO;
	return mr_output_resize(s, 16u * in->data[0], 32) == 0 ? MR_OK : -EIO;
}

static int
resizing_worker(void)
{
	struct mr_worker_callbacks cb;

	mr_worker_callbacks_init(&cb, sizeof(cb));
	cb.stream_start = enlarge;
	cb.video = resizing_video;
	return mr_run(NULL, &cb, NULL);
}

Test(sdk_rings, results_of_another_size)
{
	struct stage_ring in, out[3];
	union ctl_msg msg;
	struct stage st;
	uint64_t seq;

	stage_open_function(&st, resizing_worker);
	stage_session_open(&st, SESSION, "{}");
	stage_ring_make_in(&in, 1, WIDTH, HEIGHT, 1);
	stage_ring_give(&st, SESSION, &in, false);
	stage_ring_grant(&st, SESSION, &out[0], 1);
	cr_assert_eq(out[0].open.width, 128);
	cr_assert_eq(out[0].open.height, 96);
	stage_expect_answer(&out[0], stage_publish(&in, 5), 0, 5);
	stage_ring_grant(&st, SESSION, &out[1], 2);
	cr_assert_eq(out[1].open.width, 80);
	stage_expect_answer(&out[1], stage_publish(&in, 0), 0, 0);
	stage_ring_grant(&st, SESSION, &out[2], 3);
	cr_assert_eq(out[2].open.width, WIDTH);
	stage_expect_answer(&out[2], stage_publish(&in, 4), 0, 4);
	stage_expect_answer(&out[2], stage_publish(&in, 9), 0, 9);
	/* Not granted: after a while the worker goes on with what it has. */
	stage_expect(&st, CTL_RING_REQUEST, &msg);
	seq = stage_publish(&in, 4);
	stage_expect_no_answer(&out[2], 1000);
	stage_expect_answer(&out[2], seq, 0, 4);
	stage_session_close(&st, SESSION);
	cr_assert_eq(stage_hang_up(&st), 0);
	stage_ring_close(&in);
	for (int i = 0; i < 3; i++)
		stage_ring_close(&out[i]);
}

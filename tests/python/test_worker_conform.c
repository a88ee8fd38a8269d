/* SPDX-License-Identifier: MIT */
/*
 * Goal: a worker in any language keeps the protocol: hello, streams, parameters with answers, new generations and sizes,
 * ended rings, the frame that its predecessor held, close, drain, end.
 * Method: the same plays for every worker, against a supervisor that the test plays. COPY_PROGRAM names a program (below
 * the folder WORKERS) that copies pictures, TINT_PROGRAM one that is a green-tint, value for value; each may have one
 * argument, COPY_ARGUMENT and TINT_ARGUMENT.
 */
#include "tests/sdk/sdk_stage.h"

#include "base/clock.h"

#include <criterion/criterion.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { SESSION = 41, WIDTH = 64, HEIGHT = 32, GEN = 5 };

TestSuite(conform, .timeout = 60);

static void
start_copy(struct stage *st)
{
	union ctl_msg msg;

	stage_start_program(st, getenv("COPY_PROGRAM"), getenv("COPY_ARGUMENT"), NULL);
	stage_greet(st);
	stage_expect(st, CTL_READY, &msg);
}

static void
start_tint(struct stage *st)
{
	union ctl_msg msg;

	stage_start_program(st, getenv("TINT_PROGRAM"), getenv("TINT_ARGUMENT"), NULL);
	stage_greet(st);
	stage_expect(st, CTL_READY, &msg);
}

static void
open_stream(struct stage *st, uint32_t session, const char *json, struct stage_ring *in, struct stage_ring *out)
{
	stage_session_open(st, session, json);
	stage_ring_make_in(in, GEN, WIDTH, HEIGHT, st->hello.hold_count);
	stage_ring_give(st, session, in, false);
	stage_ring_grant(st, session, out, GEN + 1);
}

static void
close_stream(struct stage *st, uint32_t session, struct stage_ring *in, struct stage_ring *out)
{
	stage_session_close(st, session);
	stage_ring_close(in);
	stage_ring_close(out);
}

static void
expect_closed(struct stage *st, const struct stage_ring *r)
{
	union ctl_msg msg;

	stage_expect(st, CTL_RING_CLOSED, &msg);
	cr_assert_eq(msg.ring_ref.ring_id, r->open.ring_id);
	cr_assert_eq(msg.ring_ref.generation, r->open.generation);
}

/* ---- a life ------------------------------------------------------------ */

Test(conform, copies_every_picture)
{
	struct stage_ring in, out;
	struct stage st;

	start_copy(&st);
	cr_assert_eq(st.hello.role, CTL_ROLE_WORKER);
	cr_assert_eq(st.hello.format, FORMAT_RGB24);
	cr_assert_eq(st.hello.flags, CTL_HELLO_DOORBELL);
	cr_assert_eq(st.hello.ring_abi_major, RING_ABI_MAJOR);
	cr_assert_geq(st.hello.capacity, 1);
	cr_assert_eq((pid_t)st.hello.pid, st.pid);
	open_stream(&st, SESSION, "{}", &in, &out);
	for (int i = 0; i < 20; i++)
		stage_expect_answer(&out, stage_publish(&in, (uint8_t)i), 0, (uint8_t)i);
	close_stream(&st, SESSION, &in, &out);
	cr_assert_eq(stats_get(st.stats, WORKER_frames_taken), 20);
	cr_assert_eq(stats_get(st.stats, WORKER_frames_published), 20);
	cr_assert_eq(stage_drain(&st), 0);
}

Test(conform, one_session_after_another_leaves_nothing)
{
	struct stage_ring in, out;
	unsigned fds = 0;
	struct stage st;

	start_copy(&st);
	for (uint32_t i = 0; i < 6; i++) {
		open_stream(&st, SESSION + i, "{}", &in, &out);
		stage_expect_answer(&out, stage_publish(&in, 9), 0, 9);
		close_stream(&st, SESSION + i, &in, &out);
		if (i == 0)
			fds = stage_count_fds(&st);
	}
	cr_assert_eq(stage_count_fds(&st), fds);
	cr_assert_eq(stage_hang_up(&st), 0);
}

Test(conform, the_supervisor_is_gone)
{
	struct stage_ring in, out;
	struct stage st;

	start_copy(&st);
	open_stream(&st, SESSION, "{}", &in, &out);
	stage_publish(&in, 1);
	cr_assert_eq(stage_hang_up(&st), 0);
	stage_ring_close(&in);
	stage_ring_close(&out);
}

Test(conform, drain_waits_for_the_last_session)
{
	struct stage_ring in, out;
	struct stage st;
	union ctl_msg msg;

	start_copy(&st);
	open_stream(&st, SESSION, "{}", &in, &out);
	ctl_init(&msg, CTL_DRAIN, 0);
	stage_send(&st, &msg, NULL, 0);
	stage_expect_answer(&out, stage_publish(&in, 3), 0, 3);
	close_stream(&st, SESSION, &in, &out);
	cr_assert_eq(stage_wait(&st), 0);
}

Test(conform, a_slow_reader_costs_old_results_only)
{
	struct stage_ring in, out;
	uint64_t last = 0, got = 0;
	struct ring_frame f;
	struct stage st;

	start_copy(&st);
	open_stream(&st, SESSION, "{}", &in, &out);
	stage_expect_answer(&out, stage_publish(&in, 1), 0, 1);
	for (int i = 0; i < 40; i++) {
		last = stage_publish(&in, 2);
		poll(NULL, 0, 5);
	}
	while (got != last) {
		stage_answer(&out, &f);
		cr_assert_gt(f.desc.src_seq, got);
		got = f.desc.src_seq;
		ring_release(out.rx, &f);
	}
	close_stream(&st, SESSION, &in, &out);
	cr_assert_eq(stage_hang_up(&st), 0);
}

/* ---- parameters --------------------------------------------------------- */

/* Publishes one picture of three colours a pixel; returns the first pixel of the answer. */
static void
ask_pixel(struct stage_ring *in, struct stage_ring *out, const uint8_t rgb[3], uint8_t got[3])
{
	struct ring_desc d = { .bytes = WIDTH * HEIGHT * 3 };
	struct ring_frame f;
	unsigned slot;
	uint8_t *p;

	cr_assert_eq(ring_claim(in->tx, &slot), RING_CLAIMED);
	p = ring_tx_slot(in->tx, slot);
	for (unsigned i = 0; i < WIDTH * HEIGHT * 3; i++)
		p[i] = rgb[i % 3];
	ring_publish(in->tx, slot, &d);
	stage_answer(out, &f);
	cr_assert_eq(f.desc.bytes, WIDTH * HEIGHT * 3);
	memcpy(got, f.payload, 3);
	for (unsigned i = 0; i < f.desc.bytes; i++)
		cr_assert(f.payload[i] == got[i % 3], "byte %u differs from the same colour of the first pixel", i);
	ring_release(out->rx, &f);
}

static void
expect_tint(struct stage_ring *in, struct stage_ring *out, double intensity)
{
	static const uint8_t colours[][3] = { { 0, 0, 0 }, { 255, 255, 255 }, { 10, 200, 77 }, { 255, 1, 128 } };
	unsigned k = (unsigned)(intensity * 128 + 0.5);

	for (unsigned i = 0; i < 4; i++) {
		const uint8_t *c = colours[i];
		uint8_t got[3];

		ask_pixel(in, out, c, got);
		cr_assert_eq(got[0], (c[0] * (256 - k) + 128) / 256);
		cr_assert_eq(got[1], (c[1] * (256 - k) + 255 * k + 128) / 256);
		cr_assert_eq(got[2], (c[2] * (256 - k) + 128) / 256);
	}
}

Test(conform, parameters_change_live)
{
	struct stage_ring in, out;
	char text[CTL_TEXT_MAX];
	struct stage st;

	start_tint(&st);
	open_stream(&st, SESSION, "{}", &in, &out);
	expect_tint(&in, &out, 0.5);
	cr_assert_eq(stage_params(&st, SESSION, 2, "{\"intensity\": 1.0}", NULL), 0);
	expect_tint(&in, &out, 1);
	cr_assert_eq(stage_params(&st, SESSION, 9, "{\"other\": 1}", NULL), 0, "an update names what changes");
	expect_tint(&in, &out, 1);
	cr_assert_eq(stage_params(&st, SESSION, 3, "{\"intensity\": 0}", NULL), 0);
	expect_tint(&in, &out, 0);
	cr_assert_lt(stage_params(&st, SESSION, 4, "{\"intensity\": 7}", text), 0);
	cr_assert_str_eq(text, "intensity must be from 0 to 1, not 7");
	cr_assert_lt(stage_params(&st, SESSION, 5, "{\"intensity\": \"much\"}", text), 0);
	cr_assert_str_eq(text, "intensity must be a number from 0 to 1");
	expect_tint(&in, &out, 0);
	close_stream(&st, SESSION, &in, &out);
	cr_assert_eq(stage_hang_up(&st), 0);
}

Test(conform, refused_start_passes_until_the_parameters_are_right)
{
	struct stage_ring in, out;
	union ctl_msg msg;
	struct ring_frame f;
	struct stage st;

	start_tint(&st);
	stage_session_open(&st, SESSION, "{\"intensity\": -1}");
	stage_expect(&st, CTL_PARAMS_RESULT, &msg);
	cr_assert_eq(msg.params_result.version, 1);
	cr_assert_lt(msg.params_result.status, 0);
	stage_ring_make_in(&in, 1, WIDTH, HEIGHT, 1);
	stage_ring_give(&st, SESSION, &in, false);
	stage_ring_grant(&st, SESSION, &out, 1);
	stage_publish(&in, 1);
	stage_answer(&out, &f);
	cr_assert_eq(f.desc.flags, RING_FRAME_PASS);
	cr_assert_eq(f.desc.reason, RING_REASON_ERROR);
	cr_assert_eq(f.desc.bytes, 0);
	ring_release(out.rx, &f);
	cr_assert_eq(stage_params(&st, SESSION, 2, "{\"intensity\": 0.25}", NULL), 0);
	expect_tint(&in, &out, 0.25);
	close_stream(&st, SESSION, &in, &out);
	cr_assert_eq(stage_hang_up(&st), 0);
}

/* ---- rings --------------------------------------------------------------- */

static uint64_t
held_word(const struct ring_cons *page)
{
	uint64_t word = 0;

	for (unsigned k = 0; k < RING_HOLDS_MAX && word == 0; k++)
		word = atomic_load_explicit(&page->hold[k], memory_order_acquire);
	return word;
}

/* Waits until the worker has taken the frame; whether it still holds it. */
static bool
is_caught(const struct ring_cons *page, uint64_t seq)
{
	int64_t deadline_ns = clock_now_ns() + 8 * CLOCK_SEC_NS;

	while (held_word(page) == 0 && atomic_load_explicit(&page->taken, memory_order_acquire) < seq)
		cr_assert_lt(clock_now_ns(), deadline_ns, "the worker takes nothing");
	return held_word(page) != 0;
}

/* Publishes pictures until the worker is stopped with one in its hands, and kills it. Returns the seq of that one. */
static uint64_t
kill_in_mid_frame(struct stage *st, struct stage_ring *in, struct stage_ring *out)
{
	const struct ring_cons *page = mmap(NULL, RING_C_BYTES, PROT_READ, MAP_SHARED, in->c_ro, 0);
	uint64_t seq, held = 0;
	struct ring_frame f;

	cr_assert_neq((const void *)page, MAP_FAILED);
	for (int i = 0; i < 1000; i++) {
		seq = stage_publish(in, (uint8_t)i);
		if (is_caught(page, seq)) {
			kill(st->pid, SIGSTOP);
			poll(NULL, 0, 2);
			held = held_word(page);
			if (held != 0)
				break;
			kill(st->pid, SIGCONT);
		}
		stage_answer(out, &f); /* it was faster */
		ring_release(out->rx, &f);
	}
	cr_assert_neq(held, 0, "it was never caught");
	cr_assert_eq(ring_word_seq(held), seq);
	stage_kill(st);
	munmap((void *)(uintptr_t)page, RING_C_BYTES);
	return seq;
}

Test(conform, the_frame_of_a_killed_worker_comes_again)
{
	struct stage_ring in, out[2];
	struct ring_frame f;
	struct stage st;
	uint64_t seq;

	start_copy(&st);
	stage_session_open(&st, SESSION, "{}");
	stage_ring_make_in(&in, 1, 3840, 2160, st.hello.hold_count);
	stage_ring_give(&st, SESSION, &in, false);
	stage_ring_grant(&st, SESSION, &out[0], 1);
	seq = kill_in_mid_frame(&st, &in, &out[0]);
	stage_publish(&in, 77);
	start_copy(&st);
	stage_session_open(&st, SESSION, "{}");
	stage_ring_give(&st, SESSION, &in, true);
	stage_ring_grant(&st, SESSION, &out[1], 2);
	stage_answer(&out[1], &f);
	cr_assert_eq(f.desc.src_seq, seq);
	ring_release(out[1].rx, &f);
	stage_answer(&out[1], &f);
	cr_assert_eq(f.desc.src_seq, seq + 1);
	cr_assert_eq(f.payload[0], 77);
	ring_release(out[1].rx, &f);
	close_stream(&st, SESSION, &in, &out[1]);
	cr_assert_eq(stage_hang_up(&st), 0);
	stage_ring_close(&out[0]);
}

Test(conform, quarantined_frame_is_not_taken)
{
	struct stage_ring in, out;
	struct stage st;

	start_copy(&st);
	stage_session_open(&st, SESSION, "{}");
	stage_ring_make_in(&in, 1, WIDTH, HEIGHT, 1);
	in.open.skip_seq[0] = stage_publish(&in, 1);
	stage_ring_give(&st, SESSION, &in, false);
	stage_ring_grant(&st, SESSION, &out, 1);
	stage_expect_answer(&out, stage_publish(&in, 2), 0, 2);
	close_stream(&st, SESSION, &in, &out);
	cr_assert_eq(stage_hang_up(&st), 0);
}

Test(conform, the_next_generation_of_the_same_size_keeps_the_out_ring)
{
	struct stage_ring in[4], out;
	struct stage st;

	start_copy(&st);
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
		stage_expect_answer(&out, stage_publish(&in[i], 2), 0, 2);
		stage_ring_close(&in[i - 1]);
	}
	close_stream(&st, SESSION, &in[3], &out);
	cr_assert_eq(stage_hang_up(&st), 0);
}

Test(conform, another_size_comes_after_the_frames_before_it)
{
	struct stage_ring in, in2, out, out2;
	union ctl_msg msg;
	struct stage st;
	uint64_t seq[3];

	start_copy(&st);
	stage_session_open(&st, SESSION, "{}");
	stage_ring_make_in(&in, 1, WIDTH, HEIGHT, 1);
	for (int i = 0; i < 3; i++)
		seq[i] = stage_publish(&in, (uint8_t)i);
	stage_ring_give(&st, SESSION, &in, false);
	stage_ring_make_in(&in2, 2, 2 * WIDTH, HEIGHT, 1);
	stage_publish(&in2, 9);
	stage_ring_tell(&st, CTL_RING_ENDED, SESSION, &in);
	stage_expect(&st, CTL_RING_REQUEST, &msg);
	cr_assert_eq(msg.ring_request.width, WIDTH);
	stage_ring_give(&st, SESSION, &in2, false);
	stage_ring_grant_request(&st, &msg.ring_request, &out, 1);
	for (int i = 0; i < 3; i++)
		stage_expect_answer(&out, seq[i], 0, (uint8_t)i);
	/* In either order: the old ring is drained, the new one needs results of its size. */
	for (int i = 0; i < 2; i++) {
		union ctl_msg next;
		struct pollfd p = { .fd = st.sock, .events = POLLIN };

		cr_assert_eq(poll(&p, 1, 8000), 1);
		cr_assert_eq(ctl_recv(st.sock, &next, true, NULL, 0, NULL), 0);
		cr_assert(next.hdr.type == CTL_RING_REQUEST || next.hdr.type == CTL_RING_CLOSED);
		if (next.hdr.type == CTL_RING_REQUEST)
			msg = next;
		else
			cr_assert_eq(next.ring_ref.generation, 1);
	}
	cr_assert_eq(msg.ring_request.width, 2 * WIDTH);
	stage_ring_grant_request(&st, &msg.ring_request, &out2, 2);
	stage_expect_answer(&out2, ring_first_seq(2), 0, 9);
	stage_ring_close(&in);
	stage_ring_close(&out);
	close_stream(&st, SESSION, &in2, &out2);
	cr_assert_eq(stage_hang_up(&st), 0);
}

Test(conform, an_ended_ring_is_closed_while_the_worker_waits)
{
	struct stage_ring in, out;
	struct stage st;

	start_copy(&st);
	open_stream(&st, SESSION, "{}", &in, &out);
	stage_expect_answer(&out, stage_publish(&in, 1), 0, 1);
	ring_tx_close(&in.tx); /* its doorbell hangs up */
	stage_expect_silence(&st, 100);
	stage_ring_tell(&st, CTL_RING_ENDED, SESSION, &in);
	expect_closed(&st, &in);
	close_stream(&st, SESSION, &in, &out);
	cr_assert_eq(stage_hang_up(&st), 0);
}

Test(conform, an_out_ring_that_nobody_asked_for)
{
	struct stage_ring in, out;
	struct ctl_ring_request q = {
		.hdr.session = SESSION, .ring_id = CTL_RING_OUT_VIDEO, .format = FORMAT_RGB24, .width = WIDTH,
		.height = HEIGHT,
	};
	struct stage st;

	start_copy(&st);
	stage_session_open(&st, SESSION, "{}");
	stage_ring_grant_request(&st, &q, &out, 1);
	stage_ring_make_in(&in, 1, WIDTH, HEIGHT, 1);
	stage_ring_give(&st, SESSION, &in, false);
	stage_expect_answer(&out, stage_publish(&in, 1), 0, 1);
	stage_expect_silence(&st, 50);
	close_stream(&st, SESSION, &in, &out);
	cr_assert_eq(stage_hang_up(&st), 0);
}

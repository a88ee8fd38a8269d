/* SPDX-License-Identifier: MIT */
/*
 * Goal: a worker lives as millrace.h says: hello, load, ready, streams, parameters, stop, end.
 * Method: the example workers and small callbacks workers against a supervisor that the test plays.
 */
#include "millrace.h"

#include "tests/sdk/sdk_stage.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SESSION = 41, WIDTH = 64, HEIGHT = 32, GEN = 5 };

TestSuite(sdk_life, .timeout = 30);

/* A session with one in ring and its out ring. */
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

Test(sdk_life, passthrough)
{
	struct stage_ring in, out;
	struct stage st;
	uint64_t seq;

	stage_open_program(&st, "passthrough");
	cr_assert_eq(st.hello.role, CTL_ROLE_WORKER);
	cr_assert_eq(st.hello.format, FORMAT_RGB24);
	cr_assert_eq(st.hello.flags, CTL_HELLO_DOORBELL);
	cr_assert_eq(st.hello.ring_abi_major, RING_ABI_MAJOR);
	cr_assert_eq(st.hello.hold_count, 1);
	cr_assert_str_eq(st.hello.name, "passthrough");
	open_stream(&st, SESSION, "{}", &in, &out);
	for (int i = 0; i < 30; i++) {
		seq = stage_publish(&in, (uint8_t)i);
		stage_expect_answer(&out, seq, 0, (uint8_t)i);
	}
	close_stream(&st, SESSION, &in, &out);
	cr_assert_eq(stats_get(st.stats, WORKER_frames_taken), 30);
	cr_assert_eq(stats_get(st.stats, WORKER_frames_published), 30);
	cr_assert_eq(stats_get(st.stats, WORKER_errors), 0);
	cr_assert_eq(stage_drain(&st), 0);
}

Test(sdk_life, one_session_after_another_leaves_nothing)
{
	struct stage_ring in, out;
	unsigned fds = 0;
	struct stage st;

	stage_open_program(&st, "passthrough");
	for (uint32_t i = 0; i < 10; i++) {
		open_stream(&st, SESSION + i, "{}", &in, &out);
		stage_expect_answer(&out, stage_publish(&in, 9), 0, 9);
		close_stream(&st, SESSION + i, &in, &out);
		if (i == 0)
			fds = stage_count_fds(&st);
	}
	cr_assert_eq(stage_count_fds(&st), fds);
	cr_assert_eq(stage_hang_up(&st), 0);
}

Test(sdk_life, slow_worker_gets_the_newest_frames)
{
	struct stage_ring in, out;
	struct stage st;
	uint64_t last = 0;

	stage_open_program(&st, "crash-test");
	stage_session_open(&st, SESSION, "{\"slow_ms\": 100}");
	stage_ring_make_in(&in, GEN, WIDTH, HEIGHT, 2);
	in.open.depth = 2;
	stage_ring_give(&st, SESSION, &in, false);
	stage_ring_grant(&st, SESSION, &out, GEN + 1);
	stage_expect_answer(&out, stage_publish(&in, 1), 0, 1);
	for (int i = 0; i < 20; i++) {
		last = stage_publish(&in, 2);
		poll(NULL, 0, 1);
	}
	for (uint64_t got = 0; got != last;) {
		struct ring_frame f;

		stage_answer(&out, &f);
		cr_assert_gt(f.desc.src_seq, got);
		got = f.desc.src_seq;
		ring_release(out.rx, &f);
	}
	close_stream(&st, SESSION, &in, &out);
	cr_assert_geq(stats_get(st.stats, WORKER_frames_late), 15);
	cr_assert_eq(stage_hang_up(&st), 0);
}

Test(sdk_life, end_of_the_supervisor)
{
	struct stage_ring in, out;
	struct stage st;

	stage_open_program(&st, "passthrough");
	open_stream(&st, SESSION, "{}", &in, &out);
	stage_publish(&in, 1);
	cr_assert_eq(stage_hang_up(&st), 0);
}

Test(sdk_life, drain_waits_for_the_last_session)
{
	struct stage_ring in, out;
	struct stage st;
	union ctl_msg msg;

	stage_open_program(&st, "passthrough");
	open_stream(&st, SESSION, "{}", &in, &out);
	ctl_init(&msg, CTL_DRAIN, 0);
	stage_send(&st, &msg, NULL, 0);
	stage_expect_answer(&out, stage_publish(&in, 3), 0, 3);
	close_stream(&st, SESSION, &in, &out);
	cr_assert_eq(stage_wait(&st), 0);
}

Test(sdk_life, alone)
{
	char text[1024] = "", path[4096];
	int out[2], status;
	ssize_t n;
	pid_t pid;

	cr_assert_eq(pipe(out), 0);
	snprintf(path, sizeof(path), "%s/passthrough", getenv("WORKERS"));
	pid = fork();
	if (pid == 0) {
		dup2(out[1], STDERR_FILENO);
		for (int fd = 3; fd < 1024; fd++)
			close(fd);
		execl(path, path, (char *)NULL);
		_exit(98);
	}
	close(out[1]);
	n = read(out[0], text, sizeof(text) - 1);
	cr_assert_gt(n, 0);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(WEXITSTATUS(status), 64);
	cr_assert(strstr(text, "millrace serve --worker") != NULL, "it says: %s", text);
	close(out[0]);
}

/* ---- what the examples compute ---------------------------------------- */

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

Test(sdk_life, green_tint_changes_live)
{
	struct stage_ring in, out;
	char text[CTL_TEXT_MAX];
	struct stage st;

	stage_open_program(&st, "green-tint");
	open_stream(&st, SESSION, "{}", &in, &out);
	expect_tint(&in, &out, 0.5);
	cr_assert_eq(stage_params(&st, SESSION, 2, "{\"intensity\": 1.0}", NULL), 0);
	expect_tint(&in, &out, 1);
	cr_assert_eq(stage_params(&st, SESSION, 3, "{\"intensity\": 0}", NULL), 0);
	expect_tint(&in, &out, 0);
	cr_assert_eq(stage_params(&st, SESSION, 9, "{\"other\": 1}", NULL), 0, "an update names what changes");
	expect_tint(&in, &out, 0);
	cr_assert_lt(stage_params(&st, SESSION, 4, "{\"intensity\": 7}", text), 0);
	cr_assert_str_eq(text, "intensity must be from 0 to 1, not 7");
	cr_assert_lt(stage_params(&st, SESSION, 5, "{\"intensity\": \"much\"}", text), 0);
	cr_assert_str_eq(text, "intensity must be a number from 0 to 1");
	expect_tint(&in, &out, 0);
	close_stream(&st, SESSION, &in, &out);
	cr_assert_eq(stage_hang_up(&st), 0);
}

Test(sdk_life, refused_start_passes_until_the_parameters_are_right)
{
	struct stage_ring in, out;
	union ctl_msg msg;
	struct ring_frame f;
	struct stage st;

	stage_open_program(&st, "green-tint");
	stage_session_open(&st, SESSION, "{\"intensity\": -1}");
	stage_expect(&st, CTL_PARAMS_RESULT, &msg);
	cr_assert_eq(msg.params_result.version, 1);
	cr_assert_lt(msg.params_result.status, 0);
	stage_ring_make_in(&in, GEN, WIDTH, HEIGHT, 1);
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

Test(sdk_life, grayscale)
{
	static const uint8_t c[3] = { 200, 100, 50 };
	struct stage_ring in, out;
	struct stage st;
	uint8_t got[3];

	stage_open_program(&st, "grayscale");
	open_stream(&st, SESSION, "{}", &in, &out);
	ask_pixel(&in, &out, c, got);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(got[i], (77 * 200 + 150 * 100 + 29 * 50 + 128) / 256);
	close_stream(&st, SESSION, &in, &out);
	cr_assert_eq(stage_hang_up(&st), 0);
}

Test(sdk_life, audio_is_answered_block_by_block)
{
	struct stage_ring in, out;
	union ctl_msg msg;
	struct stage st;

	stage_start_program(&st, "passthrough", "--audio", NULL);
	stage_greet(&st);
	cr_assert_eq(st.hello.flags, CTL_HELLO_DOORBELL | CTL_HELLO_AUDIO);
	stage_expect(&st, CTL_READY, &msg);
	stage_session_open(&st, SESSION, "{}");
	stage_ring_make_audio_in(&in, GEN, 2);
	stage_ring_give(&st, SESSION, &in, false);
	stage_ring_grant(&st, SESSION, &out, 1);
	for (int i = 0; i < 40; i++)
		stage_expect_answer(&out, stage_publish(&in, (uint8_t)i), 0, (uint8_t)i);
	close_stream(&st, SESSION, &in, &out);
	cr_assert_eq(stats_get(st.stats, WORKER_audio_taken), 40);
	cr_assert_eq(stage_hang_up(&st), 0);
}

/* ---- crash-test ------------------------------------------------------- */

static void
expect_end(const char *json, int end)
{
	struct stage_ring in, out;
	struct stage st;

	stage_open_program(&st, "crash-test");
	open_stream(&st, SESSION, json, &in, &out);
	stage_expect_answer(&out, stage_publish(&in, 1), 0, 1);
	stage_publish(&in, 2);
	cr_assert_eq(stage_wait(&st), end);
	stage_ring_close(&in);
	stage_ring_close(&out);
}

Test(sdk_life, crash_test_crashes)
{
	expect_end("{\"mode\": \"exit\", \"after\": 1, \"exit_code\": 3}", 3);
	expect_end("{\"mode\": \"abort\", \"after\": 1}", 256 + SIGABRT);
	expect_end("{\"mode\": \"segv\", \"after\": 1, \"poison\": 2}", 256 + SIGSEGV);
}

Test(sdk_life, crash_test_answers)
{
	struct stage_ring in, out;
	struct stage st;
	uint64_t seq;

	stage_open_program(&st, "crash-test");
	open_stream(&st, SESSION, "{\"mode\": \"withhold\"}", &in, &out);
	stage_expect_answer(&out, stage_publish(&in, 1), RING_FRAME_WITHHELD, 0);
	cr_assert_eq(stage_params(&st, SESSION, 2, "{\"mode\": \"original\"}", NULL), 0);
	stage_expect_answer(&out, stage_publish(&in, 1), RING_FRAME_PASS, 0);
	cr_assert_eq(stage_params(&st, SESSION, 3, "{\"mode\": \"raise\"}", NULL), 0);
	stage_expect_answer(&out, stage_publish(&in, 1), RING_FRAME_PASS, 0);
	cr_assert_eq(stage_params(&st, SESSION, 4, "{\"mode\": \"silent\"}", NULL), 0);
	cr_assert_eq(stats_get(st.stats, WORKER_errors), 1);
	stage_publish(&in, 1);
	stage_expect_no_answer(&out, 100);
	cr_assert_eq(stage_params(&st, SESSION, 5, "{\"mode\": \"pass\"}", NULL), 0);
	seq = stage_publish(&in, 7);
	stage_expect_answer(&out, seq, 0, 7);
	cr_assert_lt(stage_params(&st, SESSION, 6, "{\"mode\": \"fly\"}", NULL), 0);
	cr_assert_lt(stage_params(&st, SESSION, 7, "{\"refuse\": true}", NULL), 0);
	cr_assert_eq(stage_params(&st, SESSION, 8, "{\"mode\": \"hoard\"}", NULL), 0);
	for (int i = 0; i < 6; i++)
		stage_publish(&in, 1);
	stage_expect_no_answer(&out, 100);
	close_stream(&st, SESSION, &in, &out);
	cr_assert_eq(stage_hang_up(&st), 0);
}

/* ---- loading, failing ------------------------------------------------- */

static int load_result;

static int
load(struct mr_worker *w, void *user)
{
	if (mr_status(w, "loading weights 40%") != 0)
		return -EIO;
	return load_result;
}

static int
loading_worker(void)
{
	struct mr_worker_callbacks cb;

	mr_worker_callbacks_init(&cb, sizeof(cb));
	cb.load = load;
	return mr_run(NULL, &cb, NULL);
}

static void
expect_load(int result, int exit_code)
{
	union ctl_msg msg;
	struct stage st;

	load_result = result;
	stage_start_function(&st, loading_worker);
	stage_greet(&st);
	stage_expect(&st, CTL_STATUS, &msg);
	cr_assert_str_eq(msg.text.text, "loading weights 40%");
	cr_assert_eq(msg.text.text_bytes, strlen(msg.text.text));
	if (result == 0) {
		stage_expect(&st, CTL_READY, &msg);
		cr_assert_eq(stage_drain(&st), exit_code);
	} else {
		cr_assert_eq(stage_wait(&st), exit_code);
	}
}

Test(sdk_life, loading)
{
	expect_load(0, 0);
	expect_load(-ENOENT, 111);
	expect_load(MR_LOAD_PERMANENT, 125);
}

static int stops;

static int
failing_video(struct mr_session *s, const struct mr_frame *in, struct mr_output *out, void *user)
{
	switch (in->data[0]) {
	case 0:
		return MR_PASS;
	case 1:
		return MR_WITHHOLD;
	case 2:
		return mr_fail(s, -ERANGE, "frame %d is beyond me", 2);
	case 3:
		return 99;
	default:
		memset(out->data, in->data[0], out->bytes);
		return MR_OK;
	}
}

static void
counting_stop(struct mr_session *s, void *user)
{
	stops++;
}

static int
failing_worker(void)
{
	struct mr_worker_callbacks cb;
	int r;

	mr_worker_callbacks_init(&cb, sizeof(cb));
	cb.video = failing_video;
	cb.stream_stop = counting_stop;
	r = mr_run(NULL, &cb, NULL);
	return r != 0 ? r : stops;
}

Test(sdk_life, a_failing_callback_costs_its_frame_only)
{
	static const uint32_t flags[] = { RING_FRAME_PASS, RING_FRAME_WITHHELD, RING_FRAME_PASS, RING_FRAME_PASS, 0 };
	static const uint32_t reason[] = { 0, 0, RING_REASON_ERROR, RING_REASON_ERROR, 0 };
	struct stage_ring in, out;
	struct stage st;

	stage_open_function(&st, failing_worker);
	open_stream(&st, SESSION, "{}", &in, &out);
	for (uint8_t i = 0; i < 5; i++) {
		struct ring_frame f;
		uint64_t seq = stage_publish(&in, i);

		stage_answer(&out, &f);
		cr_assert_eq(f.desc.src_seq, seq);
		cr_assert_eq(f.desc.flags, flags[i]);
		cr_assert_eq(f.desc.reason, reason[i]);
		ring_release(out.rx, &f);
	}
	cr_assert_eq(stage_params(&st, SESSION, 2, "{}", NULL), 0, "the last frame has been counted before its answer");
	cr_assert_eq(stats_get(st.stats, WORKER_errors), 2);
	cr_assert_eq(stage_hang_up(&st), 1, "stream_stop is called when the supervisor is gone");
	stage_ring_close(&in);
	stage_ring_close(&out);
}

/* Starts only with a and b; the picture is b. */
static int
picky_start(struct mr_session *s, const struct mr_stream *stream, void *user)
{
	int64_t a, b;

	if (mr_param_integer(stream->params, stream->params_bytes, "a", &a) < 0)
		return mr_fail(s, -EINVAL, "a is missing");
	if (mr_param_integer(stream->params, stream->params_bytes, "b", &b) < 0)
		return mr_fail(s, -EINVAL, "b is missing");
	mr_session_set_user(s, (void *)(uintptr_t)(a * 10 + b));
	return 0;
}

static int
picky_video(struct mr_session *s, const struct mr_frame *in, struct mr_output *out, void *user)
{
	memset(out->data, (int)(uintptr_t)mr_session_user(s), out->bytes);
	return MR_OK;
}

static int
picky_worker(void)
{
	struct mr_worker_callbacks cb;

	mr_worker_callbacks_init(&cb, sizeof(cb));
	cb.stream_start = picky_start;
	cb.video = picky_video;
	return mr_run(NULL, &cb, NULL);
}

Test(sdk_life, a_refused_start_is_tried_again_with_all_parameters)
{
	static const char *const first[] = { "{\"b\": 2}", "{}", "{ \"b\": 2 , \"x\": {\"}\": [1]}} ", "{\"a\":1,\"b\":\"?\"}" };
	static const char *const update[] = { " {\"a\": 1}", "{\"a\": 1, \"b\": 2}", "{\"a\":1}", "{\"b\":2}" };
	char text[CTL_TEXT_MAX];

	for (unsigned i = 0; i < 4; i++) {
		struct stage_ring in, out;
		union ctl_msg msg;
		struct stage st;

		stage_open_function(&st, picky_worker);
		stage_session_open(&st, SESSION, first[i]);
		stage_expect(&st, CTL_PARAMS_RESULT, &msg);
		cr_assert_eq(msg.params_result.status, -EINVAL);
		cr_assert_eq(stage_params(&st, SESSION, 2, "{}", text), -EINVAL);
		cr_assert_str_eq(text, i < 3 ? "a is missing" : "b is missing");
		cr_assert_eq(stage_params(&st, SESSION, 3, update[i], NULL), 0);
		stage_ring_make_in(&in, GEN, WIDTH, HEIGHT, 1);
		stage_ring_give(&st, SESSION, &in, false);
		stage_ring_grant(&st, SESSION, &out, GEN);
		stage_expect_answer(&out, stage_publish(&in, 1), 0, 12);
		close_stream(&st, SESSION, &in, &out);
		cr_assert_eq(stage_hang_up(&st), 0);
	}
}

static size_t heap_at_10;

static int
weighing_video(struct mr_session *s, const struct mr_frame *in, struct mr_output *out, void *user)
{
	size_t now = mallinfo2().uordblks;

	if ((in->seq & 0xffff) == 10)
		heap_at_10 = now;
	memset(out->data, (in->seq & 0xffff) < 10 || now == heap_at_10 ? 1 : 0, out->bytes);
	return MR_OK;
}

static int
weighing_worker(void)
{
	struct mr_worker_callbacks cb;

	mr_worker_callbacks_init(&cb, sizeof(cb));
	cb.video = weighing_video;
	return mr_run(NULL, &cb, NULL);
}

Test(sdk_life, no_allocation_for_a_frame)
{
	struct stage_ring in, out;
	struct stage st;

	stage_open_function(&st, weighing_worker);
	open_stream(&st, SESSION, "{}", &in, &out);
	for (int i = 0; i < 100; i++)
		stage_expect_answer(&out, stage_publish(&in, 5), 0, 1);
	cr_assert_eq(stage_hang_up(&st), 0);
	stage_ring_close(&in);
	stage_ring_close(&out);
}

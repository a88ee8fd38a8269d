/* SPDX-License-Identifier: MIT */
/*
 * Goal: the loop level does what millrace.h says, also for those who use it wrongly, hold several frames, or serve
 * several sessions.
 * Method: workers written with mr_take() that check each return value in their own process and leave with the number of
 * the line of the first surprise.
 */
#include "millrace.h"

#include "tests/sdk/sdk_stage.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

enum { WIDTH = 64, HEIGHT = 32, A = 1, B = 2 };

TestSuite(sdk_loop, .timeout = 30);

#define CHECK(cond)									\
	do {										\
		if (!(cond)) {								\
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);	\
			exit(99);							\
		}									\
	} while (0)

static struct mr_worker *
open_worker(uint32_t capacity, uint32_t holds)
{
	struct mr_worker_config config;
	struct mr_worker *w;

	mr_worker_config_init(&config, sizeof(config));
	config.capacity = capacity;
	config.hold_count = holds;
	config.name = "a worker whose name is so long that it has to be cut somewhere, namely \xc3\xa4\xc3\xb6\xc3\xbc";
	CHECK(mr_open(&config, &w) == 0);
	CHECK(mr_ready(w) == 0 && mr_ready(w) == 0);
	return w;
}

/* The next item must be of this kind. */
static struct mr_item
expect(struct mr_worker *w, uint32_t kind)
{
	struct mr_item item = { .size = sizeof(item) };

	CHECK(mr_take(w, &item, UINT64_C(5000000000)) == 0);
	CHECK(item.kind == kind);
	CHECK((item.frame != NULL) == (kind == MR_ITEM_VIDEO || kind == MR_ITEM_AUDIO));
	CHECK((item.params != NULL) == (kind == MR_ITEM_START || kind == MR_ITEM_PARAMS));
	CHECK((item.stream != NULL) == (kind == MR_ITEM_START));
	return item;
}

static void
answer(struct mr_worker *w, const struct mr_frame *f)
{
	struct mr_output out = { .size = sizeof(out) };

	CHECK(mr_claim(w, f, &out) == 0);
	CHECK(out.src_seq == f->seq && out.bytes == f->bytes && out.width == f->width && out.plane[0] == out.data);
	memcpy(out.data, f->data, f->bytes);
	CHECK(mr_publish(w, &out) == 0);
}

static int
end(struct mr_worker *w)
{
	struct mr_item item = { .size = sizeof(item) };
	int r = mr_take(w, &item, MR_FOREVER);

	CHECK(r == -ESHUTDOWN && mr_take(w, &item, 0) == -ESHUTDOWN);
	mr_close(&w);
	CHECK(w == NULL);
	mr_close(&w);
	return mr_exit_code(r);
}

static void
open_stream(struct stage *st, uint32_t session, const char *json, struct stage_ring *in, struct stage_ring *out)
{
	stage_session_open(st, session, json);
	stage_ring_make_in(in, 1, WIDTH, HEIGHT, st->hello.hold_count);
	stage_ring_give(st, session, in, false);
	stage_ring_grant(st, session, out, 1);
}

/* ---- misuse ----------------------------------------------------------- */

static int
careless_worker(void)
{
	struct mr_output out = { .size = sizeof(out) }, second = { .size = sizeof(second) }, small = { .size = 8 };
	struct mr_worker *w = open_worker(1, 2);
	struct mr_item item = { .size = sizeof(item) }, start, first, next;
	struct mr_item tiny = { .size = 4 };

	CHECK(mr_take(w, &tiny, 0) == -EINVAL);
	start = expect(w, MR_ITEM_START);
	CHECK(start.stream->session_id == A && start.stream->width == 64 && start.stream->format == MR_FORMAT_RGB24);
	CHECK(strcmp(start.params, "{\"a\":1}") == 0 && start.params_bytes == 7 && !start.stream->recovering);
	CHECK(mr_session_id(start.session) == A && mr_session_worker(start.session) == w);
	CHECK(mr_session_user(start.session) == NULL);
	mr_session_set_user(start.session, &out);
	CHECK(mr_session_user(start.session) == &out);
	first = expect(w, MR_ITEM_VIDEO);
	CHECK(first.frame->format == MR_FORMAT_RGB24 && first.frame->rate_num == 24 && first.frame->flags == 0);
	next = expect(w, MR_ITEM_VIDEO);
	CHECK(next.frame->seq == first.frame->seq + 1);
	CHECK(mr_take(w, &item, 20000000) == -EAGAIN); /* both holds are in use, although there is a third frame */
	CHECK(mr_claim(w, first.frame, &small) == -EINVAL);
	CHECK(mr_claim(w, NULL, &out) == -EINVAL);
	CHECK(mr_claim(w, next.frame, &out) == 0);
	CHECK(mr_claim(w, first.frame, &second) == -EBUSY);
	CHECK(mr_answer(w, first.frame, MR_PASS, MR_REASON_NONE) == -EBUSY);
	CHECK(mr_take(w, &item, 0) == -EBUSY);
	CHECK(mr_publish(w, &second) == -EINVAL);
	CHECK(mr_abandon(w, &out) == 0);
	CHECK(mr_abandon(w, &out) == -EINVAL && mr_publish(w, &out) == -EINVAL);
	CHECK(mr_answer(w, first.frame, MR_OK, MR_REASON_NONE) == -EINVAL);
	CHECK(mr_answer(w, first.frame, MR_PASS, 77) == -EINVAL);
	CHECK(mr_answer(w, first.frame, MR_PASS, MR_REASON_BUSY) == 0);
	CHECK(mr_answer(w, first.frame, MR_PASS, MR_REASON_BUSY) == -ESTALE);
	answer(w, next.frame);
	CHECK(mr_claim(w, next.frame, &out) == -ESTALE);
	CHECK(mr_release(w, first.frame) == 0 && mr_release(w, first.frame) == -EINVAL);
	CHECK(mr_claim(w, first.frame, &out) == -EINVAL);
	CHECK(mr_release(w, next.frame) == 0);
	first = expect(w, MR_ITEM_VIDEO);
	CHECK(mr_claim(w, first.frame, &out) == 0);
	CHECK(mr_release(w, first.frame) == 0); /* gives the claim back, too */
	CHECK(mr_publish(w, &out) == -EINVAL);
	item = expect(w, MR_ITEM_STOP);
	CHECK(mr_params_result(item.session, 0, NULL) == -ENOENT);
	return end(w);
}

Test(sdk_loop, wrong_use_has_a_return_value)
{
	struct stage_ring in, out;
	struct stage st;
	uint64_t seq;

	stage_open_function(&st, careless_worker);
	cr_assert_eq(strlen(st.hello.name), 63, "as much as fits");
	open_stream(&st, A, "{\"a\":1}", &in, &out);
	seq = stage_publish(&in, 1);
	stage_publish(&in, 2);
	stage_publish(&in, 3);
	stage_expect_answer(&out, seq, RING_FRAME_PASS, 0);
	stage_expect_answer(&out, seq + 1, 0, 2);
	stage_expect_no_answer(&out, 50);
	stage_session_close(&st, A);
	cr_assert_eq(stage_drain(&st), 0);
	stage_ring_close(&in);
	stage_ring_close(&out);
}

/* ---- settings --------------------------------------------------------- */

static int
misconfigured_worker(void)
{
	struct mr_worker_config config;
	struct mr_worker_callbacks cb;
	struct mr_worker *w = NULL;

	mr_worker_config_init(&config, sizeof(config));
	config.capacity = 65;
	CHECK(mr_open(&config, &w) == -EINVAL);
	config.capacity = 1;
	config.hold_count = 0;
	CHECK(mr_open(&config, &w) == -EINVAL);
	config.hold_count = 1;
	config.format = MR_FORMAT_F32;
	CHECK(mr_open(&config, &w) == -EINVAL && w == NULL);
	memset(&cb, 0, sizeof(cb)); /* not initialised: size is 0 */
	CHECK(mr_run(NULL, &cb, NULL) == 100);
	mr_worker_callbacks_init(&cb, sizeof(cb));
	return mr_run(&config, &cb, NULL);
}

Test(sdk_loop, settings_out_of_range)
{
	struct stage st;

	stage_start_function(&st, misconfigured_worker);
	cr_assert_eq(stage_wait(&st), 100);
}

/* ---- batches ---------------------------------------------------------- */

enum { BATCH = 4 };

/* Gathers frames of any session until there are BATCH, answers them together. */
static int
batching_worker(void)
{
	struct mr_worker *w = open_worker(2, 2);
	const struct mr_frame *batch[BATCH];
	unsigned n = 0, sessions = 0;

	for (;;) {
		struct mr_item item = { .size = sizeof(item) };
		struct pollfd p = { .fd = mr_pollfd(w), .events = POLLIN };
		int r = mr_take(w, &item, 0);

		if (r == -EAGAIN) {
			CHECK(poll(&p, 1, 5000) == 1);
			continue;
		}
		CHECK(r == 0);
		if (item.kind == MR_ITEM_STOP && --sessions == 0)
			return end(w);
		if (item.kind == MR_ITEM_START)
			sessions++;
		if (item.kind != MR_ITEM_VIDEO)
			continue;
		batch[n++] = item.frame;
		if (n < BATCH)
			continue;
		for (unsigned i = 0; i < BATCH; i++)
			answer(w, batch[i]);
		for (unsigned i = 0; i < BATCH; i++)
			CHECK(mr_release(w, batch[i]) == 0);
		n = 0;
	}
}

Test(sdk_loop, batches_of_two_sessions)
{
	struct stage_ring in[2], out[2];
	struct stage st;

	stage_open_function(&st, batching_worker);
	cr_assert_eq(st.hello.capacity, 2);
	cr_assert_eq(st.hello.hold_count, 2);
	open_stream(&st, A, "{}", &in[0], &out[0]);
	open_stream(&st, B, "{}", &in[1], &out[1]);
	for (uint8_t i = 0; i < 10; i++) {
		uint64_t seq[2][2];

		for (uint8_t k = 0; k < 4; k++)
			seq[k & 1][k / 2] = stage_publish(&in[k & 1], (uint8_t)(4 * i + k));
		for (uint8_t k = 0; k < 4; k++)
			stage_expect_answer(&out[k & 1], seq[k & 1][k / 2], 0, (uint8_t)(4 * i + k));
	}
	stage_session_close(&st, A);
	stage_session_close(&st, B);
	cr_assert_eq(stage_drain(&st), 0);
	for (int i = 0; i < 2; i++) {
		stage_ring_close(&in[i]);
		stage_ring_close(&out[i]);
	}
}

/* One session floods, the other has a frame now and then. */
Test(sdk_loop, sessions_are_served_in_turn)
{
	struct stage_ring in[2], out[2];
	struct ring_frame f;
	struct stage st;
	unsigned flood = 0;
	uint64_t seq;

	stage_open_program(&st, "crash-test");
	open_stream(&st, A, "{\"slow_ms\": 20}", &in[0], &out[0]);
	open_stream(&st, B, "{}", &in[1], &out[1]);
	for (int i = 0; i < 4; i++)
		stage_publish(&in[0], 1);
	seq = stage_publish(&in[1], 2);
	stage_expect_answer(&out[1], seq, 0, 2);
	while (ring_take(out[0].rx, &f) == RING_TAKEN) {
		ring_release(out[0].rx, &f);
		flood++;
	}
	cr_assert_leq(flood, 2, "%u frames of one session came before the first of the other", flood);
	cr_assert_eq(stage_hang_up(&st), 0);
	for (int i = 0; i < 2; i++) {
		stage_ring_close(&in[i]);
		stage_ring_close(&out[i]);
	}
}

/* A worker that never finds its rings empty still hears the supervisor. */
Test(sdk_loop, control_is_heard_under_load)
{
	struct stage_ring in, out;
	struct ring_frame f;
	struct stage st;

	stage_open_program(&st, "crash-test");
	open_stream(&st, A, "{\"slow_ms\": 10}", &in, &out);
	for (int i = 0; i < 50; i++) {
		stage_publish(&in, 1);
		stage_publish(&in, 1);
		if (i == 25)
			cr_assert_eq(stage_params(&st, A, 2, "{\"slow_ms\": 11}", NULL), 0);
		if (ring_take(out.rx, &f) == RING_TAKEN)
			ring_release(out.rx, &f);
	}
	stage_session_close(&st, A);
	cr_assert_eq(stage_hang_up(&st), 0);
	stage_ring_close(&in);
	stage_ring_close(&out);
}

/* ---- frames that outlive their stream --------------------------------- */

static int
clinging_worker(void)
{
	struct mr_worker *w = open_worker(1, 1);
	struct mr_output out = { .size = sizeof(out) };
	struct mr_item item = { .size = sizeof(item) };
	const struct mr_frame *f;

	expect(w, MR_ITEM_START);
	f = expect(w, MR_ITEM_VIDEO).frame;
	expect(w, MR_ITEM_STOP);
	CHECK(mr_take(w, &item, 50000000) == -EAGAIN);
	CHECK(f->data[0] == 77); /* still mapped */
	CHECK(mr_claim(w, f, &out) == -ESTALE);
	CHECK(mr_release(w, f) == 0);
	return end(w);
}

Test(sdk_loop, a_stream_ends_when_its_frames_are_released)
{
	struct stage_ring in, out;
	union ctl_msg msg;
	struct stage st;

	stage_open_function(&st, clinging_worker);
	open_stream(&st, A, "{}", &in, &out);
	stage_publish(&in, 77);
	while (ring_tx_taken(in.tx, 0) < ring_first_seq(1))
		poll(NULL, 0, 1);
	ctl_init(&msg, CTL_SESSION_CLOSE, A);
	stage_send(&st, &msg, NULL, 0);
	stage_expect_silence(&st, 20);
	stage_expect(&st, CTL_SESSION_CLOSED, &msg);
	cr_assert_eq(stage_drain(&st), 0);
	stage_ring_close(&in);
	stage_ring_close(&out);
}

/* ---- signals ---------------------------------------------------------- */

static void
on_alarm(int number)
{
}

static int
interrupted_worker(void)
{
	struct sigaction sa = { .sa_handler = on_alarm };
	struct itimerval soon = { .it_value.tv_usec = 30000 };
	struct mr_worker *w = open_worker(1, 1);
	struct mr_item item = { .size = sizeof(item) };

	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &soon, NULL);
	CHECK(mr_take(w, &item, MR_FOREVER) == -EINTR);
	return end(w);
}

Test(sdk_loop, signals_of_the_application)
{
	struct stage st;

	stage_open_function(&st, interrupted_worker);
	stage_expect_silence(&st, 100);
	cr_assert_eq(stage_drain(&st), 0);
}

/* ---- what a worker says ----------------------------------------------- */

static int
talking_worker(void)
{
	struct mr_worker *w = open_worker(1, 1);
	struct mr_session *s = expect(w, MR_ITEM_START).session;
	char longer[MR_TEXT_MAX + 2];
	unsigned said = 0;

	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	CHECK(mr_event(s, "{\"type\": \"hello\"}") == 0);
	CHECK(mr_event(s, "no json") == -EINVAL && mr_event(s, "[]") == -EINVAL && mr_event(s, longer) == -EMSGSIZE);
	CHECK(mr_data(s, "a line, gr\xc3\xbc\xc3\x9f") == 0);
	CHECK(mr_data(s, "\xff") == -EINVAL && mr_data(s, longer) == -EMSGSIZE);
	CHECK(mr_overlay(s, true, 40, "one moment") == 0);
	CHECK(mr_overlay(s, true, 101, NULL) == -EINVAL);
	CHECK(mr_overlay(s, false, -1, NULL) == 0);
	CHECK(mr_status(w, longer) == 0);
	while (mr_status(w, "flood") == 0)
		said++;
	CHECK(said > 50 && said < 250);
	CHECK(mr_status(w, "flood") == -EAGAIN);
	expect(w, MR_ITEM_STOP);
	return end(w);
}

Test(sdk_loop, events_data_overlay_status)
{
	union ctl_msg msg;
	struct stage st;

	stage_open_function(&st, talking_worker);
	stage_session_open(&st, A, "{}");
	stage_expect(&st, CTL_EVENT, &msg);
	cr_assert_eq(msg.hdr.session, A);
	cr_assert_str_eq(msg.text.text, "{\"type\": \"hello\"}");
	stage_expect(&st, CTL_DATA, &msg);
	cr_assert_str_eq(msg.text.text, "a line, gr\xc3\xbc\xc3\x9f");
	stage_expect(&st, CTL_OVERLAY, &msg);
	cr_assert(msg.overlay.on == 1 && msg.overlay.progress_percent == 40);
	cr_assert_str_eq(msg.overlay.text, "one moment");
	stage_expect(&st, CTL_OVERLAY, &msg);
	cr_assert(msg.overlay.on == 0 && msg.overlay.progress_percent == -1);
	stage_expect(&st, CTL_STATUS, &msg);
	cr_assert_eq(msg.hdr.session, 0);
	cr_assert_eq(msg.text.text_bytes, MR_TEXT_MAX);
	for (;;) { /* the flood, as far as it came */
		struct pollfd p = { .fd = st.sock, .events = POLLIN };

		if (poll(&p, 1, 100) == 0)
			break;
		stage_expect(&st, CTL_STATUS, &msg);
	}
	stage_session_close(&st, A);
	cr_assert_eq(stage_drain(&st), 0);
}

/* ---- parameters ------------------------------------------------------- */

static int
updated_worker(void)
{
	struct mr_worker *w = open_worker(1, 1);
	struct mr_session *s = expect(w, MR_ITEM_START).session;
	struct mr_item item;

	item = expect(w, MR_ITEM_PARAMS);
	CHECK(strcmp(item.params, "{\"a\": 2}") == 0);
	CHECK(mr_params_result(s, -ERANGE, "too large") == 0);
	CHECK(mr_params_result(s, 0, NULL) == -ENOENT);
	CHECK(strcmp(item.params, "{\"a\": 2}") == 0); /* valid until the next mr_take() */
	expect(w, MR_ITEM_PARAMS); /* not answered: accepted */
	item = expect(w, MR_ITEM_PARAMS);
	CHECK(item.params_bytes == 1000002 && item.params[1000001] == '}' && item.params[1000002] == '\0');
	expect(w, MR_ITEM_STOP);
	return end(w);
}

Test(sdk_loop, parameters)
{
	char text[CTL_TEXT_MAX], *large = malloc(1000003);
	struct stage st;

	stage_open_function(&st, updated_worker);
	stage_session_open(&st, A, "{\"a\": 1}");
	cr_assert_eq(stage_params(&st, A, 2, "{\"a\": 2}", text), -ERANGE);
	cr_assert_str_eq(text, "too large");
	cr_assert_eq(stage_params(&st, A, 3, "{}", text), 0);
	cr_assert_str_eq(text, "");
	memset(large, ' ', 1000003);
	large[0] = '{';
	large[1000001] = '}';
	large[1000002] = '\0';
	cr_assert_eq(stage_params(&st, A, 4, large, NULL), 0);
	free(large);
	stage_session_close(&st, A);
	cr_assert_eq(stage_drain(&st), 0);
}

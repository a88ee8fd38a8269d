/* SPDX-License-Identifier: MIT */
/*
 * Worker SDK: the callbacks level
 *
 * mr_run() is a loop around mr_take() that uses nothing but what millrace.h offers to everybody, apart from a session's
 * record of failures. A callback that fails costs its frame the processing, never the stream: the original passes. The
 * log says so for the first failure and then every FAILURE_LOG_NS with a count.
 */
#include "sdk_priv.h"

#include "base/assert.h"
#include "base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define FAILURE_LOG_NS (10 * CLOCK_SEC_NS)

struct run {
	struct mr_worker *worker;
	struct mr_worker_callbacks cb;
	void *user;
};

static const char *
why_of(const struct mr_session *s, int error)
{
	return s->why[0] != '\0' ? s->why : strerror(-error);
}

static void
log_failure(struct mr_session *s, const char *callback, int error)
{
	int64_t now_ns = clock_now_ns();
	char quoted[2 * CTL_TEXT_MAX];

	s->failures++;
	if (s->failure_logged_ns != 0 && now_ns - s->failure_logged_ns < FAILURE_LOG_NS)
		return;
	log_warn("sdk", "callback_failed", "session=%u callback=%s errno=%d failures=%" PRIu64 " why=%s", s->id, callback,
	    -error, s->failures, log_quote(quoted, sizeof(quoted), why_of(s, error)));
	s->failure_logged_ns = now_ns;
	s->failures = 0;
}

/* Anything but 0 is a failure; a positive value, which the callback should not return, too. */
static int
as_error(int r)
{
	return r > 0 ? -EINVAL : r;
}

static void
start(struct run *run, struct mr_session *s, const struct mr_stream *stream)
{
	int r = run->cb.stream_start != NULL ? as_error(run->cb.stream_start(s, stream, run->user)) : 0;

	if (r < 0 && s->refused == NULL) /* these come again, see restart(); out of memory: without them */
		s->refused = strndup(stream->params, stream->params_bytes);
	s->is_refused = r < 0;
	if (r < 0)
		log_failure(s, "stream_start", r);
	mr_params_result(s, r, r < 0 ? why_of(s, r) : NULL);
}

/* The members of two JSON objects in one; a heap buffer. NULL: one of them is none, or there is no memory. */
static char *
join_objects(const char *first, const char *second)
{
	size_t first_bytes = strlen(first), second_bytes = strlen(second);
	const char *close = strrchr(first, '}'), *open = strchr(second, '{');
	char *joined;
	size_t n;

	if (!sdk_json_is_object(first, first_bytes) || !sdk_json_is_object(second, second_bytes))
		return NULL;
	joined = malloc(first_bytes + second_bytes + 2);
	if (joined == NULL)
		return NULL;
	n = (size_t)(close - first);
	memcpy(joined, first, n);
	if (!sdk_json_is_empty(first, first_bytes) && !sdk_json_is_empty(second, second_bytes))
		joined[n++] = ',';
	memcpy(joined + n, open + 1, strlen(open + 1) + 1);
	return joined;
}

/* It never started; with these parameters over the first ones it may. */
static void
restart(struct run *run, struct mr_session *s, const struct mr_item *item)
{
	char *joined = s->refused != NULL ? join_objects(s->refused, item->params) : NULL;
	struct mr_stream stream = s->stream;

	stream.params = joined != NULL ? joined : item->params;
	stream.params_bytes = strlen(stream.params);
	start(run, s, &stream);
	free(joined);
}

static void
update(struct run *run, struct mr_session *s, const struct mr_item *item)
{
	int r = 0;

	if (s->is_refused) {
		restart(run, s, item);
		return;
	}
	if (run->cb.params != NULL)
		r = as_error(run->cb.params(s, item->params, item->params_bytes, run->user));
	mr_params_result(s, r, r < 0 ? why_of(s, r) : NULL);
}

/* The callback's answer for a frame, published. */
static void
process(struct run *run, const struct mr_frame *in)
{
	int (*callback)(struct mr_session *, const struct mr_frame *, struct mr_output *, void *) =
	    in->format == MR_FORMAT_F32 ? run->cb.audio : run->cb.video;
	struct mr_output out = { .size = sizeof(out) };
	struct mr_session *s = in->session;
	int r;

	if (callback == NULL || s->is_refused) {
		mr_answer(run->worker, in, MR_PASS, s->is_refused ? MR_REASON_ERROR : MR_REASON_NONE);
		return;
	}
	if (mr_claim(run->worker, in, &out) < 0)
		return; /* no room: the result would be lost, so it is not computed */
	s->why[0] = '\0';
	r = callback(s, in, &out, run->user);
	if (r == MR_OK) {
		mr_publish(run->worker, &out);
		return;
	}
	mr_abandon(run->worker, &out);
	if (r < 0 || r > MR_WITHHOLD)
		log_failure(s, in->format == MR_FORMAT_F32 ? "audio" : "video", r < 0 ? r : -EINVAL);
	mr_answer(run->worker, in, r == MR_WITHHOLD ? MR_WITHHOLD : MR_PASS,
	    r == MR_PASS || r == MR_WITHHOLD ? MR_REASON_NONE : MR_REASON_ERROR);
}

static void
dispatch(struct run *run, const struct mr_item *item)
{
	switch (item->kind) {
	case MR_ITEM_START:
		start(run, item->session, item->stream);
		break;
	case MR_ITEM_PARAMS:
		update(run, item->session, item);
		break;
	case MR_ITEM_STOP:
		if (run->cb.stream_stop != NULL)
			run->cb.stream_stop(item->session, run->user);
		break;
	default:
		process(run, item->frame);
		mr_release(run->worker, item->frame);
	}
}

/* Until the end. A negative errno value. */
static int
serve(struct run *run)
{
	for (;;) {
		struct mr_item item = { .size = sizeof(item) };
		int r = mr_take(run->worker, &item, MR_FOREVER);

		if (r == 0)
			dispatch(run, &item);
		else if (r != -EINTR && r != -EAGAIN)
			return r;
	}
}

static int
run_worker(struct run *run)
{
	int r = run->cb.load != NULL ? run->cb.load(run->worker, run->user) : 0;

	if (r != 0) {
		log_error("sdk", "load_failed", "unable to load the model: %s, exit code %d",
		    r == MR_LOAD_PERMANENT ? "permanently" : strerror(r < 0 ? -r : EINVAL),
		    r == MR_LOAD_PERMANENT ? 125 : 111);
		return r == MR_LOAD_PERMANENT ? 125 : 111;
	}
	r = mr_ready(run->worker);
	if (r == 0)
		r = serve(run);
	if (run->cb.unload != NULL)
		run->cb.unload(run->user);
	if (mr_exit_code(r) != 0)
		log_error("sdk", "end", "unable to go on: %s", strerror(-r));
	return mr_exit_code(r);
}

int
mr_run(const struct mr_worker_config *config, const struct mr_worker_callbacks *callbacks, void *user)
{
	struct run run = { .user = user };
	struct mr_worker_config c;
	int r;

	if (callbacks->size < offsetof(struct mr_worker_callbacks, load) + sizeof(callbacks->load) ||
	    callbacks->size > 4096) {
		log_error("sdk", "callbacks", "call mr_worker_callbacks_init() before mr_run()");
		return mr_exit_code(-EINVAL);
	}
	memcpy(&run.cb, callbacks, callbacks->size < sizeof(run.cb) ? callbacks->size : sizeof(run.cb));
	mr_worker_config_init(&c, sizeof(c));
	if (config != NULL && config->size <= sizeof(c))
		memcpy(&c, config, config->size);
	else if (config != NULL)
		memcpy(&c, config, sizeof(c));
	c.size = sizeof(c);
	c.audio = run.cb.audio != NULL;
	r = mr_open(&c, &run.worker);
	if (r < 0) {
		if (r != -ENOTCONN)
			log_error("sdk", "open", "unable to connect to the supervisor: %s", strerror(-r));
		return mr_exit_code(r);
	}
	r = run_worker(&run);
	mr_close(&run.worker);
	return r;
}

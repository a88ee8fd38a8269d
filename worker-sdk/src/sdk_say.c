/* SPDX-License-Identifier: MIT */
/*
 * Worker SDK: what the worker says
 *
 * Two kinds. What the protocol needs (results of parameters) must arrive: sdk_must_send(). What the application says is
 * bounded by a token bucket below what the supervisor bears, never waits, and is dropped when there is no room: an
 * application that floods its events loses events, not its process.
 */
#include "sdk_priv.h"

#include "base/assert.h"
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void
sdk_copy_text(char *to, size_t bytes, const char *from)
{
	size_t n = strnlen(from, bytes);

	if (n == bytes) {
		n = bytes - 1;
		while (n > 0 && ((unsigned char)from[n] & 0xc0) == 0x80) /* the byte after the cut continues a sequence */
			n--;
	}
	memcpy(to, from, n);
	to[n] = '\0';
}

/* ---- results of parameters -------------------------------------------- */

int
sdk_answer_params(struct mr_session *s, int status, const char *text)
{
	union ctl_msg msg;
	bool tell = s->unanswered && (!s->start || status < 0);

	free(s->params);
	s->params = NULL;
	s->unanswered = false;
	if (!tell)
		return 0;
	ctl_init(&msg, CTL_PARAMS_RESULT, s->id);
	msg.hdr.txn = s->txn;
	msg.params_result.version = s->params_version;
	msg.params_result.status = status;
	if (text != NULL)
		sdk_copy_text(msg.params_result.text, sizeof(msg.params_result.text), text);
	return sdk_must_send(s->worker, &msg);
}

int
mr_params_result(struct mr_session *s, int status, const char *text)
{
	char *params;
	int r;

	MR_ASSERT(s->magic == SDK_SESSION_MAGIC);
	if (!s->unanswered)
		return -ENOENT;
	params = s->params; /* lent until the next mr_take() */
	s->params = NULL;
	r = sdk_answer_params(s, status < 0 ? status : 0, text);
	s->params = params;
	return r;
}

int
mr_fail(struct mr_session *s, int error, const char *format, ...)
{
	char text[2 * CTL_TEXT_MAX];
	va_list args;

	MR_ASSERT(s->magic == SDK_SESSION_MAGIC);
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	sdk_copy_text(s->why, sizeof(s->why), text);
	return error;
}

/* ---- events, data, slate, status -------------------------------------- */

static bool
spend_token(struct mr_worker *w)
{
	int64_t now_ns = clock_now_ns();
	int64_t fresh = (now_ns - w->say_ns) / (CLOCK_SEC_NS / SDK_SAY_PER_S);

	if (fresh > 0) {
		w->say_tokens = fresh > SDK_SAY_BURST - (int64_t)w->say_tokens ? SDK_SAY_BURST :
		    w->say_tokens + (unsigned)fresh;
		w->say_ns += fresh * (CLOCK_SEC_NS / SDK_SAY_PER_S);
	}
	if (w->say_tokens == 0)
		return false;
	w->say_tokens--;
	return true;
}

static int
say(struct mr_worker *w, const union ctl_msg *msg)
{
	int r;

	if (w->gone)
		return -ESHUTDOWN;
	r = spend_token(w) ? ctl_send(w->ctl, msg, NULL, 0) : -EAGAIN;
	w->say_dropped += r == -EAGAIN;
	return r == -EPIPE || r == -ECONNRESET ? -ESHUTDOWN : r;
}

static int
say_text(struct mr_worker *w, enum ctl_type type, uint32_t session, const char *text)
{
	union ctl_msg msg;

	ctl_init(&msg, type, session);
	sdk_copy_text(msg.text.text, sizeof(msg.text.text), text);
	msg.text.text_bytes = (uint32_t)strlen(msg.text.text);
	return say(w, &msg);
}

int
mr_event(struct mr_session *s, const char *json)
{
	size_t bytes = strnlen(json, MR_TEXT_MAX + 1);

	MR_ASSERT(s->magic == SDK_SESSION_MAGIC);
	if (bytes > MR_TEXT_MAX)
		return -EMSGSIZE;
	if (!sdk_json_is_object(json, bytes))
		return -EINVAL;
	return say_text(s->worker, CTL_EVENT, s->id, json);
}

int
mr_data(struct mr_session *s, const char *text)
{
	size_t bytes = strnlen(text, MR_TEXT_MAX + 1);

	MR_ASSERT(s->magic == SDK_SESSION_MAGIC);
	if (bytes > MR_TEXT_MAX)
		return -EMSGSIZE;
	if (!sdk_utf8_is_valid(text, bytes))
		return -EINVAL;
	return say_text(s->worker, CTL_DATA, s->id, text);
}

int
mr_overlay(struct mr_session *s, bool on, int progress_percent, const char *text)
{
	union ctl_msg msg;

	MR_ASSERT(s->magic == SDK_SESSION_MAGIC);
	if (progress_percent < -1 || progress_percent > 100)
		return -EINVAL;
	ctl_init(&msg, CTL_OVERLAY, s->id);
	msg.overlay.on = on;
	msg.overlay.progress_percent = progress_percent;
	if (text != NULL)
		sdk_copy_text(msg.overlay.text, sizeof(msg.overlay.text), text);
	return say(s->worker, &msg);
}

int
mr_status(struct mr_worker *w, const char *text)
{
	MR_ASSERT(w->magic == SDK_WORKER_MAGIC);
	return say_text(w, CTL_STATUS, 0, text);
}

/* ---- the session as the application sees it --------------------------- */

uint32_t
mr_session_id(const struct mr_session *s)
{
	MR_ASSERT(s->magic == SDK_SESSION_MAGIC);
	return s->id;
}

struct mr_worker *
mr_session_worker(const struct mr_session *s)
{
	MR_ASSERT(s->magic == SDK_SESSION_MAGIC);
	return s->worker;
}

void
mr_session_set_user(struct mr_session *s, void *user)
{
	MR_ASSERT(s->magic == SDK_SESSION_MAGIC);
	s->user = user;
}

void *
mr_session_user(const struct mr_session *s)
{
	MR_ASSERT(s->magic == SDK_SESSION_MAGIC);
	return s->user;
}

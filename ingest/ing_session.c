/* SPDX-License-Identifier: MIT */
/*
 * A session: two subscriptions, the flow of the media, and what the supervisor is told about them
 *
 * Nothing here ends a session. A channel that is over is reported (CTL_CHANNEL ENDED) when everything that came on it has
 * been handed on; the supervisor decides.
 */
#include "ingest/ing.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUIET_NS (2 * CLOCK_SEC_NS)

static struct ing_session *
session(void *arg)
{
	return MR_CAST(struct ing_session, arg, ING_SESSION_MAGIC);
}

/* ---- channel states --------------------------------------------------- */

static void
tell(struct ing_session *s, struct ing_channel *ch, enum ctl_channel_state state, const char *text)
{
	union ctl_msg msg;
	char quoted[CTL_TEXT_MAX + 64];

	ch->quiet_ns = 0;
	if (ch->state == state && strcmp(ch->text, text) == 0)
		return;
	ch->state = state;
	memset(ch->text, 0, sizeof(ch->text)); /* it goes into a message whole */
	snprintf(ch->text, sizeof(ch->text), "%s", text);
	ctl_init(&msg, CTL_CHANNEL, s->id);
	msg.channel.channel = ch->id;
	msg.channel.state = state;
	memcpy(msg.channel.text, ch->text, sizeof(msg.channel.text));
	ing_ctl_send(s->ing, &msg);
	/* The supervisor writes the line that people see. */
	log_debug("session", "channel", "channel=%s state=%d text=%s", ch->id == CTL_CHANNEL_SUBSCRIBE ? "subscribe" : "control",
	    (int)state, log_quote(quoted, sizeof(quoted), text));
}

static enum ctl_channel_state
state_number(const char *name)
{
	if (strcmp(name, "waiting") == 0)
		return CTL_CHANNEL_WAITING;
	if (strcmp(name, "receiving") == 0)
		return CTL_CHANNEL_FLOWING;
	if (strcmp(name, "retrying") == 0)
		return CTL_CHANNEL_RETRYING;
	return CTL_CHANNEL_CONNECTING;
}

static void
on_subscribe_state(void *arg, const char *state, const char *detail)
{
	struct ing_session *s = session(arg);
	enum ctl_channel_state n = state_number(state);

	/* That the bytes make no media stays true until some do, or until there are none any more. */
	if (s->trouble != NULL && n != CTL_CHANNEL_RETRYING)
		return;
	/* Between two segments there is always a moment of waiting. */
	if (n == CTL_CHANNEL_WAITING && s->subscribe.state == CTL_CHANNEL_FLOWING)
		s->subscribe.quiet_ns = clock_now_ns();
	else
		tell(s, &s->subscribe, n, detail);
}

static void
on_control_state(void *arg, const char *state, const char *detail)
{
	struct ing_session *s = session(arg);

	tell(s, &s->control, state_number(state), detail);
}

static void
on_health(void *arg, const char *trouble)
{
	struct ing_session *s = session(arg);
	char text[CTL_TEXT_MAX];

	s->trouble = trouble;
	if (trouble == NULL) {
		tell(s, &s->subscribe, CTL_CHANNEL_FLOWING, "");
		return;
	}
	snprintf(text, sizeof(text), "bytes arrive on the input channel, but %s; publish H.264 video in MPEG-TS there", trouble);
	tell(s, &s->subscribe, CTL_CHANNEL_BAD_MEDIA, text);
}

static void
on_drained(void *arg)
{
	struct ing_session *s = session(arg);

	s->subscribe_over = false;
	tell(s, &s->subscribe, CTL_CHANNEL_ENDED, trk_end_text(s->subscribe_end));
}

static const struct ing_flow_callbacks flow_callbacks = { .health = on_health, .drained = on_drained };

/* ---- the input channel ------------------------------------------------ */

static void
after_media(struct ing_session *s, int64_t start_ns)
{
	trk_sub_pause(s->subscribe.sub, ing_flow_stopped(&s->flow));
	s->ing->busy_ns += clock_now_ns() - start_ns;
}

static void
on_segment_begin(void *arg, int64_t seq, bool gap)
{
	struct ing_session *s = session(arg);
	int64_t start = clock_now_ns();

	log_debug("session", "segment", "seq=%lld gap=%d", (long long)seq, gap);
	ing_flow_segment_begin(&s->flow, gap);
	after_media(s, start);
}

static void
on_data(void *arg, const uint8_t *bytes, size_t count)
{
	struct ing_session *s = session(arg);
	int64_t start = clock_now_ns();

	ing_flow_bytes(&s->flow, bytes, count);
	after_media(s, start);
}

static void
on_segment_end(void *arg, int64_t seq, bool complete)
{
	struct ing_session *s = session(arg);
	int64_t start = clock_now_ns();

	ing_flow_segment_end(&s->flow, complete);
	after_media(s, start);
}

static void
on_subscribe_ended(void *arg, enum trk_end why)
{
	struct ing_session *s = session(arg);

	s->subscribe_end = why;
	s->subscribe_over = true;
	ing_flow_channel_end(&s->flow);
}

static const struct trk_sub_callbacks subscribe_callbacks = {
	.segment_begin = on_segment_begin,
	.data = on_data,
	.segment_end = on_segment_end,
	.ended = on_subscribe_ended,
	.state = on_subscribe_state,
};

/* ---- the control channel ---------------------------------------------- */

static void
on_doc_begin(void *arg, int64_t seq, bool gap)
{
	ing_control_begin(&session(arg)->docs);
}

static void
on_doc_data(void *arg, const uint8_t *bytes, size_t count)
{
	ing_control_bytes(&session(arg)->docs, bytes, count);
}

static void
on_doc_end(void *arg, int64_t seq, bool complete)
{
	ing_control_end(&session(arg)->docs, complete);
}

static void
on_control_ended(void *arg, enum trk_end why)
{
	struct ing_session *s = session(arg);

	tell(s, &s->control, CTL_CHANNEL_ENDED, trk_end_text(why));
}

static const struct trk_sub_callbacks control_callbacks = {
	.segment_begin = on_doc_begin,
	.data = on_doc_data,
	.segment_end = on_doc_end,
	.ended = on_control_ended,
	.state = on_control_state,
};

/* ---- life ------------------------------------------------------------- */

static void
send_message(void *arg, const union ctl_msg *msg)
{
	ing_ctl_send(session(arg)->ing, msg);
}

static int
subscribe(struct ing_session *s, struct ing_channel *ch, const char *url, const struct trk_sub_callbacks *callbacks)
{
	const struct trk_sub_config config = {
		.url = url,
		.start_seq = -2,
		.absent_grace_ns = s->settings.absent_grace_ns,
		.callbacks = callbacks,
		.arg = s,
	};
	int r;

	if (url == NULL)
		return 0;
	r = trk_sub_open(s->loop, &config, &ch->sub);
	if (r != -EINVAL)
		return r;
	/* Not an error of the process: the session says so and stays. */
	tell(s, ch, CTL_CHANNEL_RETRYING, "its URL cannot be used: it must begin with http:// or https://");
	return 0;
}

static int
open_all(struct ing_session *s)
{
	const struct trk_loop_config loop = { .tls_verify = s->settings.tls_verify, .ca_file = s->settings.ca_file };
	int r;

	r = trk_loop_new(&loop, &s->loop);
	if (r == 0)
		r = ing_flow_init(&s->flow, &s->settings.flow, &flow_callbacks, s, &s->rings, s->ing->stats);
	if (r == 0)
		r = subscribe(s, &s->subscribe, s->settings.subscribe_url, &subscribe_callbacks);
	if (r == 0)
		r = subscribe(s, &s->control, s->settings.control_url, &control_callbacks);
	return r;
}

int
ing_session_open(struct ing *ing, uint32_t id, const char *text, size_t bytes, int upload_fd, uint64_t upload_bytes)
{
	struct ing_session *s = calloc(1, sizeof(*s));
	char why[256] = "", quoted[512];
	int r;

	MR_ASSERT(ing->session == NULL);
	if (s == NULL) {
		fd_close(&upload_fd);
		return err_origin(-ENOMEM);
	}
	s->magic = ING_SESSION_MAGIC;
	s->ing = ing;
	s->id = id;
	s->subscribe.id = CTL_CHANNEL_SUBSCRIBE;
	s->control.id = CTL_CHANNEL_CONTROL;
	ing_control_init(&s->docs, upload_fd, upload_bytes);
	ing_rings_init(&s->rings, id, send_message, s);
	ing->session = s;
	r = ing_settings_parse(text, bytes, &s->settings, why, sizeof(why));
	if (r != 0)
		log_error("session", "refused", "session=%u reason=%s", id, log_quote(quoted, sizeof(quoted), why));
	else
		r = open_all(s);
	if (r != 0) {
		ing_session_close(ing);
		return err_trace(r);
	}
	log_info("session", "open", "session=%u format=%s width=%u height=%u max_framerate=%u resume=%d", id,
	    format_name(s->settings.flow.format), s->settings.flow.width, s->settings.flow.height,
	    s->settings.flow.max_framerate, s->settings.flow.resume);
	return 0;
}

void
ing_session_close(struct ing *ing)
{
	struct ing_session *s = ing->session;

	if (s == NULL)
		return;
	trk_sub_close(&s->subscribe.sub);
	trk_sub_close(&s->control.sub);
	trk_loop_free(&s->loop);
	if (s->flow.ts != NULL)
		ing_flow_fini(&s->flow);
	ing_rings_fini(&s->rings);
	ing_control_fini(&s->docs);
	ing_settings_fini(&s->settings);
	s->magic = 0;
	free(s);
	ing->session = NULL;
}

static void
tell_quiet(struct ing_session *s, int64_t now_ns)
{
	if (s->subscribe.quiet_ns != 0 && now_ns - s->subscribe.quiet_ns > QUIET_NS)
		tell(s, &s->subscribe, CTL_CHANNEL_WAITING, "");
}

static void
offer_document(struct ing_session *s)
{
	union ctl_msg msg;
	uint64_t bytes = ing_control_offer(&s->docs);

	if (bytes == 0)
		return;
	ctl_init(&msg, CTL_CONTROL, s->id);
	msg.control.bytes = bytes;
	ing_ctl_send(s->ing, &msg);
}

int64_t
ing_session_run(struct ing_session *s)
{
	int64_t start = clock_now_ns(), next, flow_next;
	struct trk_sub_stats stats;

	next = ing_rings_tick(&s->rings, start);
	flow_next = ing_flow_run(&s->flow);
	ing_flow_show(&s->flow, start);
	if (s->subscribe.sub != NULL) {
		trk_sub_pause(s->subscribe.sub, ing_flow_stopped(&s->flow));
		trk_sub_get_stats(s->subscribe.sub, &stats);
		stats_set(s->ing->stats, INGEST_reconnects, stats.retries);
	}
	offer_document(s);
	tell_quiet(s, start);
	s->ing->busy_ns += clock_now_ns() - start;
	return flow_next < next ? flow_next : next;
}

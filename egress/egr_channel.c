/* SPDX-License-Identifier: MIT */
/*
 * Channels
 *
 * Media keeps a POST parked for its next segment; messages are rare and do without. A channel that is over (404,
 * closed) is reported and becomes one that swallows everything: whether the session ends is the supervisor's decision.
 */
#include "egress/egr_channel.h"
#include "base/assert.h"
#include "base/err.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "egress/egr_priv.h"

enum { MESSAGES_BYTES_MAX = 1 << 20 };

static void
report(struct egr_channel *c, enum ctl_channel_state state, const char *text)
{
	union ctl_msg msg;

	ctl_init(&msg, CTL_CHANNEL, c->session);
	msg.channel.channel = c->id;
	msg.channel.state = state;
	snprintf(msg.channel.text, sizeof(msg.channel.text), "%s", text);
	egr_link_send(c->link, &msg);
}

static void
on_ended(void *arg, enum trk_end why)
{
	struct egr_channel *c = MR_CAST(struct egr_channel, arg, EGR_CHANNEL_MAGIC);

	c->over = true;
	log_info("channel", "ended", "channel=%d why=%s", (int)c->id, trk_end_name(why));
	report(c, CTL_CHANNEL_ENDED, trk_end_text(why));
}

static void
on_state(void *arg, const char *state, const char *detail)
{
	struct egr_channel *c = MR_CAST(struct egr_channel, arg, EGR_CHANNEL_MAGIC);

	if (strcmp(state, "retrying") == 0)
		report(c, CTL_CHANNEL_RETRYING, detail);
	else if (strcmp(state, "connecting") == 0)
		report(c, CTL_CHANNEL_CONNECTING, "");
	else if (strcmp(state, "waiting") == 0)
		report(c, CTL_CHANNEL_WAITING, "");
	else
		report(c, CTL_CHANNEL_FLOWING, "");
}

static void
on_segment_done(void *arg, int64_t seq, bool ok)
{
	struct egr_channel *c = MR_CAST(struct egr_channel, arg, EGR_CHANNEL_MAGIC);

	(void)seq;
	if (!ok)
		c->failed++;
}

static const struct trk_pub_callbacks callbacks = {
	.segment_done = on_segment_done, .ended = on_ended, .state = on_state
};

int
egr_channel_open(struct egr_channel *c, struct trk_loop *loop, struct egr_link *link, uint32_t session,
    enum ctl_channel_id id, const char *url, const struct egr_config *config)
{
	struct trk_pub_config pub = { .url = url, .resume = true, .absent_grace_ns = config->absent_grace_ns,
		.callbacks = &callbacks, .arg = c };
	int r;

	*c = (struct egr_channel){ .magic = EGR_CHANNEL_MAGIC, .id = id, .link = link, .session = session };
	if (url == NULL)
		return 0;
	switch (id) {
	case CTL_CHANNEL_PUBLISH:
		pub.mime = "video/MP2T";
		pub.preconnect = true;
		break;
	case CTL_CHANNEL_EVENTS:
		pub.mime = "application/json";
		pub.queue_bytes_max = MESSAGES_BYTES_MAX;
		break;
	default:
		pub.mime = "application/jsonl";
		pub.queue_bytes_max = MESSAGES_BYTES_MAX;
	}
	r = trk_pub_open(loop, &pub, &c->pub);
	if (r < 0) {
		c->over = true;
		report(c, CTL_CHANNEL_ENDED, r == -EINVAL ? "not an http or https URL" : "out of memory");
		return err_trace(r);
	}
	return 0;
}

void
egr_channel_close(struct egr_channel *c)
{
	trk_pub_close(&c->pub);
	c->magic = 0;
}

static bool
usable(const struct egr_channel *c)
{
	return c->pub != NULL && !c->over;
}

void
egr_channel_begin(struct egr_channel *c)
{
	if (usable(c))
		trk_pub_segment_begin(c->pub);
}

bool
egr_channel_write(struct egr_channel *c, const uint8_t *bytes, size_t count)
{
	return !usable(c) || trk_pub_write(c->pub, bytes, count) != TRK_PUB_DROPPED;
}

void
egr_channel_end(struct egr_channel *c)
{
	if (usable(c))
		trk_pub_segment_end(c->pub);
}

uint64_t
egr_channel_retries(const struct egr_channel *c)
{
	struct trk_pub_stats s = { 0 };

	if (usable(c))
		trk_pub_get_stats(c->pub, &s);
	return s.retries;
}

bool
egr_channel_message(struct egr_channel *c, const char *text, size_t bytes)
{
	if (!usable(c))
		return false;
	return trk_pub_message(c->pub, text, bytes) == 0;
}

void
egr_channel_delete(struct egr_channel *c)
{
	if (usable(c))
		trk_pub_delete_channel(c->pub);
}

bool
egr_channel_idle(const struct egr_channel *c)
{
	return !usable(c) || trk_pub_idle(c->pub);
}

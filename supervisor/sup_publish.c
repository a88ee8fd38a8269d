/* SPDX-License-Identifier: MIT */
/* What the supervisor says on a session's channels, and the names of channels and their states. */
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "supervisor/sup_json.h"
#include "supervisor/sup_memfd.h"
#include "supervisor/sup_session.h"

#include <stdlib.h>
#include <string.h>

#include "supervisor/sup_priv.h"

void
sup_session_publish(struct sup_session *s, enum ctl_channel_id channel, const char *text, size_t bytes)
{
	union ctl_msg msg;
	int fd;

	if (s->egress.state.value != SUP_MEDIA_OPEN || s->stream.url[channel] == NULL)
		return;
	if (sup_memfd_text("millrace:publish", text, bytes, &fd) < 0)
		return;
	ctl_init(&msg, CTL_PUBLISH, s->num);
	msg.publish.channel = channel;
	msg.publish.text_bytes = bytes;
	sup_child_offer(&s->egress.child, &msg, &fd, 1);
	fd_close(&fd);
}

void
sup_session_event(struct sup_session *s, json_t *event, const char *queue_type)
{
	json_t *envelope;
	char *text;

	if (event == NULL)
		return;
	if (json_object_get(event, "timestamp") == NULL)
		json_object_set_new(event, "timestamp", json_integer((json_int_t)clock_wall_ms()));
	envelope = json_pack("{s:o, s:s}", "event", event, "queue_event_type", queue_type);
	text = envelope != NULL ? sup_json_dump(envelope, JSON_COMPACT) : NULL;
	if (text != NULL)
		sup_session_publish(s, CTL_CHANNEL_EVENTS, text, strlen(text));
	free(text);
	json_decref(envelope);
}

const char *
sup_channel_name(unsigned channel)
{
	static const char *const names[SUP_CHANNELS] = { "?", "subscribe", "control", "publish", "events", "data" };

	return channel < SUP_CHANNELS ? names[channel] : "?";
}

const char *
sup_channel_state_name(unsigned state)
{
	static const char *const names[] = { "not_opened", "connecting", "waiting", "flowing", "retrying", "ended", "bad_media" };

	return state < sizeof(names) / sizeof(names[0]) ? names[state] : "?";
}

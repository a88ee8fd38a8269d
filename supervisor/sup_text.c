/* SPDX-License-Identifier: MIT */
/*
 * Session text for media children, as proto/session_text.md defines it
 *
 * The upper half is what the client asked for and the operator set; `resume` is what the statistics page of the
 * predecessor says, so that the successor continues its timeline.
 */
#include "base/assert.h"
#include "supervisor/sup_session.h"

#include <string.h>

#include "supervisor/sup_priv.h"

static void
set(json_t *o, const char *key, json_t *value)
{
	if (json_object_set_new(o, key, value) == -1)
		json_object_del(o, key); /* out of memory: the child takes the default */
}

static void
set_url(json_t *o, const char *key, const struct sup_session *s, enum ctl_channel_id channel)
{
	if (s->stream.url[channel] != NULL)
		set(o, key, json_string(s->stream.url[channel]));
}

static json_t *
resume_ingest(const struct sup_media *m)
{
	const struct stats_page *page = m->child.stats;
	json_t *o;

	/* It has published nothing: its successor starts where it did. */
	if (stats_get(page, INGEST_last_pts_ns) == 0 && m->resume != NULL)
		return json_incref(m->resume);
	o = json_object();
	set(o, "ts_offset_ns", json_integer((json_int_t)stats_get(page, INGEST_ts_offset_ns)));
	set(o, "last_pts_ns", json_integer((json_int_t)stats_get(page, INGEST_last_pts_ns)));
	return o;
}

static json_t *
resume_egress(const struct sup_media *m)
{
	const struct stats_page *page = m->child.stats;
	const json_t *before = m->resume;
	json_int_t audio = (json_int_t)stats_get(page, EGRESS_last_out_audio_pts_ns);
	bool sent = sup_media_total(m, EGRESS_bytes_out) != 0, had_output = json_is_true(json_object_get(before, "had_output"));
	bool has_audio = json_is_true(json_object_get(before, "has_audio"));
	json_t *o;

	if (stats_get(page, EGRESS_frames_out) == 0 && before != NULL)
		return json_incref(m->resume);
	o = json_object();
	if (stats_get(page, EGRESS_bytes_out) != 0) /* it has declared its tracks */
		has_audio = stats_get(page, EGRESS_has_audio) != 0;
	if (audio == 0)
		audio = json_integer_value(json_object_get(before, "last_out_audio_pts_ns"));
	set(o, "last_out_pts_ns", json_integer((json_int_t)stats_get(page, EGRESS_last_out_pts_ns)));
	set(o, "last_out_audio_pts_ns", json_integer(audio));
	set(o, "out_width", json_integer((json_int_t)stats_get(page, EGRESS_out_width)));
	set(o, "out_height", json_integer((json_int_t)stats_get(page, EGRESS_out_height)));
	set(o, "has_audio", json_boolean(has_audio));
	set(o, "had_output", json_boolean(sent || had_output));
	return o;
}

json_t *
sup_text_resume(const struct sup_media *m)
{
	return m->child.role == CTL_ROLE_INGEST ? resume_ingest(m) : resume_egress(m);
}

json_t *
sup_text_media(const struct sup_session *s, const struct sup_media *m)
{
	const struct sup_config *c = &s->sup->config;
	bool ingest = m->child.role == CTL_ROLE_INGEST;
	json_t *o = json_object();

	set(o, "id", json_string(s->stream.id));
	set_url(o, "subscribe_url", s, CTL_CHANNEL_SUBSCRIBE);
	set_url(o, "publish_url", s, CTL_CHANNEL_PUBLISH);
	if (ingest) {
		set_url(o, "control_url", s, CTL_CHANNEL_CONTROL);
	} else {
		set_url(o, "events_url", s, CTL_CHANNEL_EVENTS);
		set_url(o, "data_url", s, CTL_CHANNEL_DATA);
		/* for the urls of the heartbeat alone */
		set_url(o, "control_url", s, CTL_CHANNEL_CONTROL);
	}
	set(o, "width", json_integer(s->stream.width));
	set(o, "height", json_integer(s->stream.height));
	set(o, "max_framerate", json_integer(s->stream.max_framerate));
	set(o, "format", json_string(format_name(s->format)));
	set(o, "detect_out_resolution", json_boolean(s->stream.detect_out_resolution));
	set(o, "fallback", json_string(c->fallback));
	set(o, "frame_deadline_ms", json_integer(c->frame_deadline_ms));
	set(o, "worker_audio", json_boolean(s->worker_audio));
	set(o, "tls_verify", json_boolean(c->tls_verify_on));
	if (c->tls_ca_file != NULL)
		set(o, "ca_file", json_string(c->tls_ca_file));
	set(o, "absent_grace_ms", json_integer(c->absent_grace_ms));
	if (m->resume != NULL)
		set(o, "resume", json_incref(m->resume));
	return o;
}

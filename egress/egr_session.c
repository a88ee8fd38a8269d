/* SPDX-License-Identifier: MIT */
/*
 * A session inside egress
 *
 * Built by SESSION_OPEN, fed by its rings, ended by SESSION_CLOSE. Everything it owns is released by
 * egr_session_free(), at any point of its life.
 */
#include "egress/egr_session.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "egress/egr_priv.h"

#define CLOSE_NS CLOCK_SEC_NS
#define COPIES_BYTES_MAX (UINT64_C(64) << 20) /* of input frames that wait without a hold */

/* ---- the publish channel as a sink ------------------------------------ */

static void
media_begin(void *arg)
{
	egr_channel_begin(MR_CAST(struct egr_channel, arg, EGR_CHANNEL_MAGIC));
}

static bool
media_write(void *arg, const uint8_t *bytes, size_t count)
{
	return egr_channel_write(MR_CAST(struct egr_channel, arg, EGR_CHANNEL_MAGIC), bytes, count);
}

static void
media_end(void *arg)
{
	egr_channel_end(MR_CAST(struct egr_channel, arg, EGR_CHANNEL_MAGIC));
}

/* ---- life ------------------------------------------------------------- */

static int
channels_open(struct egr_session *s)
{
	const struct egr_config *c = &s->config;
	const struct trk_loop_config loop = { .tls_verify = c->tls_verify, .ca_file = c->ca_file };
	int r = trk_loop_new(&loop, &s->loop);

	if (r < 0)
		return err_trace(r);
	/* A URL that cannot be used is reported on its channel; the others do their work. */
	egr_channel_open(&s->media, s->loop, s->link, s->id, CTL_CHANNEL_PUBLISH, c->publish_url, c);
	egr_channel_open(&s->events, s->loop, s->link, s->id, CTL_CHANNEL_EVENTS, c->events_url, c);
	egr_channel_open(&s->data, s->loop, s->link, s->id, CTL_CHANNEL_DATA, c->data_url, c);
	return 0;
}

int
egr_session_new(uint32_t id, const char *text, size_t bytes, struct egr_link *link, struct stats_page *stats,
    struct egr_session **out)
{
	struct egr_session *s = calloc(1, sizeof(*s));
	struct egr_clock_config clock = { 0 };
	struct egr_output_sink sink = { .begin = media_begin, .write = media_write, .end = media_end };
	char why[256], quoted[300];
	int r;

	if (s == NULL)
		return err_origin(-ENOMEM);
	s->id = id;
	s->link = link;
	s->stats = stats;
	s->tokens = RING_SLOTS_MAX;
	egr_rings_init(&s->rings, link);
	r = egr_config_parse(text, bytes, &s->config, why, sizeof(why));
	if (r < 0) {
		log_error("session", "refused", "session=%u why=%s", id, log_quote(quoted, sizeof(quoted), why));
		goto free_session;
	}
	clock.policy = s->config.policy;
	clock.frame_deadline_ns = s->config.frame_deadline_ns;
	clock.resumed = s->config.resume_had_output;
	egr_clock_init(&s->clock, &clock);
	sink.arg = &s->media;
	r = channels_open(s);
	if (r == 0)
		r = egr_output_init(&s->output, &s->config, stats, &sink);
	if (r < 0)
		goto free_session;
	egr_events_init(&s->messages, &s->config, &s->events, &s->data, &s->output, stats, clock_now_ns());
	*out = s;
	return 0;
free_session:
	egr_session_free(&s);
	return err_trace(r);
}

static void
release_pending(struct egr_session *s)
{
	int64_t unused;
	unsigned n = egr_clock_pending(&s->clock, &unused);

	for (unsigned i = 0; i < n; i++) {
		struct egr_pic *pic = egr_clock_pending_input(&s->clock, i);

		egr_pic_free(&pic);
	}
	s->clock.head = s->clock.tail;
}

void
egr_session_free(struct egr_session **sp)
{
	struct egr_session *s = *sp;

	if (s == NULL)
		return;
	release_pending(s);
	for (unsigned i = 0; i < EGR_RINGS_MAX; i++)
		if (s->rings.ring[i].rx != NULL)
			egr_rings_close(&s->rings, &s->rings.ring[i], false);
	egr_output_fini(&s->output);
	egr_channel_close(&s->media);
	egr_channel_close(&s->events);
	egr_channel_close(&s->data);
	trk_loop_free(&s->loop);
	egr_config_fini(&s->config);
	free(s);
	*sp = NULL;
}

/* ---- messages of the supervisor --------------------------------------- */

static void
set_input_limits(struct egr_session *s, const struct ring_geom *g)
{
	uint64_t copies = COPIES_BYTES_MAX / g->payload_max;

	egr_clock_set_limit(&s->clock, g->hold_count[g->consumer_idx] + (unsigned)(copies < 256 ? copies : 256));
	s->output.rate_num = g->rate_num;
	s->output.rate_den = g->rate_den;
}

static bool
ring_usable(const struct ring_geom *g)
{
	switch (g->ring_id) {
	case CTL_RING_IN_VIDEO:
	case CTL_RING_OUT_VIDEO:
		return g->format != FORMAT_F32;
	case CTL_RING_IN_AUDIO_EGRESS:
	case CTL_RING_OUT_AUDIO:
		return g->format == FORMAT_F32 && g->sample_rate == 48000 && (g->channels == 1 || g->channels == 2);
	default:
		return false;
	}
}

int
egr_session_ring_open(struct egr_session *s, const struct ctl_ring_open *open, int *fds, unsigned fd_count)
{
	struct egr_ring *ring;
	const struct ring_geom *g;
	int r;

	if (s->closing) {
		for (unsigned i = 0; i < fd_count; i++)
			fd_close(&fds[i]);
		return 0;
	}
	r = egr_rings_open(&s->rings, open, fds, fd_count, &ring);
	if (r < 0)
		return err_trace(r);
	g = ring_rx_geom(ring->rx);
	if (!ring_usable(g)) {
		log_error("ring", "refused", "id=%u why=\"not a ring that egress can read\"", g->ring_id);
		egr_rings_close(&s->rings, ring, true);
		return err_origin(-EPROTO);
	}
	switch (g->ring_id) {
	case CTL_RING_IN_VIDEO:
		set_input_limits(s, g);
		s->output.sound_announced = g->channels > 0;
		break;
	case CTL_RING_OUT_VIDEO:
		s->output.result_width = g->width;
		s->output.result_height = g->height;
		break;
	case CTL_RING_IN_AUDIO_EGRESS:
		egr_output_open_audio(&s->output, g->channels);
		break;
	default:
		break;
	}
	return 0;
}

void
egr_session_ring_ended(struct egr_session *s, const struct ctl_ring_ref *ref)
{
	if (!egr_rings_end(&s->rings, ref->ring_id, ref->generation))
		log_info("ring", "ended-unknown", "id=%u generation=%u", ref->ring_id, ref->generation);
}

void
egr_session_worker(struct egr_session *s, const struct ctl_worker *worker)
{
	s->worker_state = worker->state;
	snprintf(s->output.slate.text, sizeof(s->output.slate.text), "%.*s", EGR_SLATE_TEXT_MAX - 1, worker->text);
	s->output.slate.progress_percent = worker->progress_percent;
	egr_clock_set_slate(&s->clock, worker->overlay != 0);
}

void
egr_session_publish(struct egr_session *s, enum ctl_channel_id channel, const char *text, size_t bytes)
{
	if (channel == CTL_CHANNEL_EVENTS)
		egr_events_publish(&s->messages, text, bytes);
	else if (channel == CTL_CHANNEL_DATA)
		egr_events_data(&s->messages, text, bytes, clock_now_ns());
}

void
egr_session_close(struct egr_session *s)
{
	if (s->closing)
		return;
	egr_take_all(s);
	/* Nobody answers any more: what waits goes out as it is. */
	s->clock.started = true;
	egr_clock_set_worker(&s->clock, false);
	egr_take_decide(s, NULL);
	egr_output_finish(&s->output);
	egr_events_stopped(&s->messages);
	s->closing = true;
	s->closed_ns = clock_now_ns() + CLOSE_NS;
}

bool
egr_session_closed(struct egr_session *s, int64_t now_ns)
{
	if (!s->closing)
		return false;
	if (now_ns >= s->closed_ns)
		return true;
	if (!egr_channel_idle(&s->media) || !egr_channel_idle(&s->events) || !egr_channel_idle(&s->data))
		return false;
	if (!s->delete_channels)
		return true;
	/* Only now: a channel that is deleted drops what its readers have not got yet. */
	s->delete_channels = false;
	egr_channel_delete(&s->media);
	egr_channel_delete(&s->events);
	egr_channel_delete(&s->data);
	return false;
}

/* ---- the loop --------------------------------------------------------- */

void
egr_session_run(struct egr_session *s)
{
	int64_t oldest_ns, now_ns;

	if (s->closing)
		return;
	egr_take_all(s);
	now_ns = clock_now_ns();
	egr_output_tick(&s->output, now_ns);
	egr_events_tick(&s->messages, now_ns);
	stats_set(s->stats, EGRESS_reconnects, egr_channel_retries(&s->media));
	stats_set(s->stats, EGRESS_pending, egr_clock_pending(&s->clock, &oldest_ns));
	stats_set(s->stats, EGRESS_oldest_pending_ns, (uint64_t)oldest_ns);
}

int64_t
egr_session_due(const struct egr_session *s, int64_t now_ns)
{
	int64_t due, t;

	if (s->closing)
		return s->closed_ns;
	if (s->more)
		return now_ns;
	due = egr_clock_due(&s->clock, now_ns);
	t = egr_output_due(&s->output);
	due = t < due ? t : due;
	t = egr_events_due(&s->messages);
	return t < due ? t : due;
}

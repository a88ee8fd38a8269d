/* SPDX-License-Identifier: MIT */
/*
 * Decoded frames into the rings
 *
 * Invariants: published video timestamps are strictly increasing over the life of the session; every decoded frame is
 * counted once more: as published, limited, stale, contended or without a ring. Audio never waits for its ring to be
 * made: blocks are kept meanwhile, two seconds at most. It waits only while the ring is full (ing_rings.h).
 *
 * Only a video frame says that the input is well: sound is handed on without one, but a session shows pictures.
 */
#include "ingest/ing_publish.h"

#include "base/assert.h"
#include "base/log.h"
#include "base/testpoint.h"

#include <stdio.h>
#include <string.h>

enum { AUDIO_KEPT_MAX = 2 * ING_AUDIO_RATE }; /* samples that wait for a ring */
#define INTERVAL_MIN_NS (1 * CLOCK_MS_NS)
#define INTERVAL_MAX_NS (200 * CLOCK_MS_NS)
#define SILENT_BYTES_MAX (256 * 1024)
#define SILENT_SHORT_NS	(2 * CLOCK_SEC_NS)
#define SILENT_LONG_NS	(10 * CLOCK_SEC_NS)
#define PAUSE_MAX_NS	(SILENT_LONG_NS / 2)

/* ---- health ----------------------------------------------------------- */

static void
set_trouble(struct ing_flow *f, const char *why)
{
	if (why == NULL && f->trouble == NULL)
		return;
	if (why != NULL && f->trouble != NULL && strcmp(why, f->trouble) == 0)
		return;
	if (why != NULL && why != f->trouble_text)
		snprintf(f->trouble_text, sizeof(f->trouble_text), "%s", why);
	f->trouble = why != NULL ? f->trouble_text : NULL;
	f->callbacks->health(f->arg, f->trouble);
}

static void
frame_came(struct ing_flow *f)
{
	f->bytes_since = f->bad_since = f->video_since = 0;
	f->bytes_since_ns = f->bytes_newest_ns = f->flowed_ns = 0;
	if (f->trouble != NULL)
		set_trouble(f, NULL);
}

void
ing_flow_came(struct ing_flow *f, size_t count)
{
	int64_t now = clock_now_ns();
	int64_t pause = f->bytes_newest_ns != 0 ? now - f->bytes_newest_ns : 0;

	f->bytes_since += count;
	if (f->bytes_since_ns == 0)
		f->bytes_since_ns = now;
	f->bytes_newest_ns = now;
	f->flowed_ns += pause < PAUSE_MAX_NS ? pause : PAUSE_MAX_NS;
}

/* Segments that end without a frame say early that video does not decode. That there is none takes longer to say: it may
 * begin later than the sound, or pause. */
static bool
lacks_video(const struct ing_flow *f, bool segment_end)
{
	if (f->flowed_ns >= SILENT_LONG_NS)
		return true;
	return segment_end && f->video_since > 0 && (f->bad_since > 0 || f->flowed_ns > SILENT_SHORT_NS);
}

void
ing_flow_check(struct ing_flow *f, bool segment_end)
{
	const char *why = ing_ts_trouble(f->ts);
	int64_t age = f->bytes_since_ns != 0 ? clock_now_ns() - f->bytes_since_ns : 0;
	char text[160];

	if (f->bytes_since == 0 || f->frame_waits)
		return;
	if (why != NULL) {
		if (segment_end || f->bytes_since > SILENT_BYTES_MAX || age > SILENT_LONG_NS)
			set_trouble(f, why);
		return;
	}
	if (!lacks_video(f, segment_end))
		return;
	if (f->es[ING_VIDEO].codec == AV_CODEC_ID_NONE || f->video_since == 0)
		snprintf(text, sizeof(text), "it has no video that can be decoded");
	else
		snprintf(text, sizeof(text), "its %s video does not decode", avcodec_get_name(f->es[ING_VIDEO].codec));
	set_trouble(f, text);
}

/* ---- video ------------------------------------------------------------ */

static void
request_ring(struct ing_flow *f, int64_t now_ns)
{
	const AVCodecContext *ctx = f->decoder[ING_VIDEO].ctx;
	AVRational rate = ctx != NULL ? ctx->framerate : (AVRational){ 0, 1 };
	AVRational limit = { (int)f->config.max_framerate, 1 };

	if (f->rings->ring[ING_RING_VIDEO].requested)
		return;
	if (rate.num <= 0 || rate.den <= 0 || av_cmp_q(rate, limit) > 0 || av_cmp_q(rate, (AVRational){ 1, 1 }) < 0)
		rate = limit;
	ing_rings_request_video(f->rings, f->config.format, f->config.width, f->config.height, (uint32_t)rate.num,
	    (uint32_t)rate.den, now_ns);
}

void
ing_publish_video(struct ing_flow *f, AVFrame *decoded)
{
	int64_t now = clock_now_ns(), pts_ns;

	MR_ASSERT(!f->frame_waits);
	stats_add(f->stats, INGEST_frames_decoded, 1);
	stats_set(f->stats, INGEST_source_width, (uint64_t)decoded->width);
	stats_set(f->stats, INGEST_source_height, (uint64_t)decoded->height);
	frame_came(f);
	request_ring(f, now);
	pts_ns = decoded->pts != AV_NOPTS_VALUE ? ing_ticks_to_ns(decoded->pts) : INT64_MIN;
	if (pts_ns <= f->last_pts_ns) {
		stats_add(f->stats, INGEST_frames_stale, 1);
		return;
	}
	if (!ing_limit_pass(&f->limit, pts_ns)) {
		stats_add(f->stats, INGEST_frames_limited, 1);
		return;
	}
	av_frame_move_ref(f->frame, decoded);
	f->frame_pts_ns = pts_ns;
	f->frame_waits = true;
}

static uint32_t
frame_flags(struct ing_flow *f)
{
	if (f->time.jump_at == f->jump_flagged || f->frame->pts < f->time.jump_at)
		return 0;
	f->jump_flagged = f->time.jump_at;
	return RING_FRAME_DISCONTINUITY;
}

static void
frame_out(struct ing_flow *f, struct ring_tx *tx, int64_t now_ns)
{
	const struct ring_geom *geom = ring_tx_geom(tx);
	struct ring_desc desc = { .pts_ns = f->frame_pts_ns, .bytes = (uint32_t)geom->layout.payload_bytes };
	unsigned slot;
	uint64_t seq;
	int r;

	if (ring_claim(tx, &slot) != RING_CLAIMED) {
		stats_add(f->stats, INGEST_frames_contended, 1);
		return;
	}
	MR_TESTPOINT("ing_publish:claimed");
	r = ing_scale(&f->scaler, f->frame, geom, ring_tx_slot(tx, slot));
	if (r != 0) {
		ring_abandon(tx, slot);
		stats_add(f->stats, INGEST_packets_bad, 1);
		return;
	}
	desc.flags = frame_flags(f);
	seq = ring_publish(tx, slot, &desc);
	MR_TESTPOINT("ing_publish:published");
	ing_ring_published(&f->rings->ring[ING_RING_VIDEO], seq, now_ns);
	ing_rate_count(&f->video_rate, now_ns);
	f->last_pts_ns = f->frame_pts_ns;
	stats_add(f->stats, INGEST_frames_published, 1);
	stats_set(f->stats, INGEST_last_frame_ns, (uint64_t)now_ns);
	stats_set(f->stats, INGEST_last_pts_ns, (uint64_t)f->frame_pts_ns);
}

static int64_t
interval_ns(const struct ing_flow *f)
{
	int64_t d = f->last_pts_ns != INT64_MIN ? f->frame_pts_ns - f->last_pts_ns : f->limit.interval_ns;

	return d < INTERVAL_MIN_NS ? INTERVAL_MIN_NS : d > INTERVAL_MAX_NS ? INTERVAL_MAX_NS : d;
}

/* false: it waits. */
static bool
video_pending(struct ing_flow *f, int64_t now_ns, int64_t *until_ns)
{
	struct ing_ring *ring = &f->rings->ring[ING_RING_VIDEO];
	struct ring_tx *tx = ing_ring_live(ring);
	int64_t at;

	if (!f->frame_waits)
		return true;
	at = tx != NULL ? ing_ring_pace(ring, interval_ns(f), now_ns) : ing_ring_wait_until(ring);
	if (now_ns < at) {
		*until_ns = at;
		return false;
	}
	if (tx != NULL)
		frame_out(f, tx, now_ns);
	else
		stats_add(f->stats, INGEST_frames_no_ring, 1);
	av_frame_unref(f->frame);
	f->frame_waits = false;
	return true;
}

/* ---- audio ------------------------------------------------------------ */

void
ing_publish_audio(struct ing_flow *f, const AVFrame *decoded)
{
	int64_t pts_ns = decoded->pts != AV_NOPTS_VALUE ? ing_ticks_to_ns(decoded->pts) : INT64_MIN;

	if (ing_audio_push(&f->audio, decoded, pts_ns) != 0) {
		stats_add(f->stats, INGEST_packets_bad, 1);
		return;
	}
	if (f->audio.channels > 0)
		ing_rings_request_audio(f->rings, (uint32_t)f->audio.channels, clock_now_ns());
}

enum block_result { BLOCK_SENT, BLOCK_LOST, BLOCK_WAITS };

static enum block_result
block_to_ring(struct ing_flow *f, enum ing_ring_idx idx, const float *block, int64_t pts_ns, int64_t now_ns)
{
	struct ing_ring *ring = &f->rings->ring[idx];
	struct ring_tx *tx = ing_ring_live(ring);
	const struct ring_geom *geom = ring_tx_geom(tx);
	size_t bytes = sizeof(float) * ING_AUDIO_BLOCK * (size_t)f->audio.channels;
	struct ring_desc desc = { .pts_ns = pts_ns, .duration_ns = 20 * CLOCK_MS_NS, .bytes = (uint32_t)bytes };
	unsigned slot;

	if (geom->channels != (uint32_t)f->audio.channels || bytes > geom->payload_max)
		return BLOCK_LOST;
	if (ring_claim(tx, &slot) != RING_CLAIMED)
		return ing_ring_patience(ring, now_ns) ? BLOCK_WAITS : BLOCK_LOST;
	memcpy(ring_tx_slot(tx, slot), block, bytes);
	ing_ring_published(ring, ring_publish(tx, slot, &desc), now_ns);
	return BLOCK_SENT;
}

/* The block at the head goes to each ring that is live. false: one of them is full and waited for. */
static bool
block_out(struct ing_flow *f, const float *block, int64_t pts_ns, int64_t now_ns)
{
	for (int i = ING_RING_AUDIO_EGRESS; i <= ING_RING_AUDIO_WORKER; i++) {
		enum block_result r;

		if ((f->block_sent & 1u << i) != 0 || ing_ring_live(&f->rings->ring[i]) == NULL)
			continue;
		r = block_to_ring(f, (enum ing_ring_idx)i, block, pts_ns, now_ns);
		if (r == BLOCK_WAITS)
			return false;
		f->block_sent |= 1u << i;
		if (r == BLOCK_LOST) {
			stats_add(f->stats, INGEST_audio_blocked, 1);
		} else if (i == ING_RING_AUDIO_EGRESS) {
			stats_add(f->stats, INGEST_audio_published, 1);
			ing_rate_count(&f->audio_rate, now_ns);
		}
	}
	f->block_sent = 0;
	return true;
}

/* false: a block waits. */
static bool
audio_pending(struct ing_flow *f, int64_t now_ns)
{
	const float *block;
	int64_t pts_ns;

	while (ing_audio_peek(&f->audio, &block, &pts_ns)) {
		if (ing_ring_live(&f->rings->ring[ING_RING_AUDIO_EGRESS]) == NULL) {
			if (f->audio.samples <= AUDIO_KEPT_MAX)
				return true;
		} else if (!block_out(f, block, pts_ns, now_ns)) {
			return false;
		}
		ing_audio_pop(&f->audio);
	}
	return true;
}

bool
ing_publish_pending(struct ing_flow *f, int64_t *until_ns)
{
	int64_t now;

	if (!f->frame_waits && f->audio.samples < ING_AUDIO_BLOCK)
		return true;
	now = clock_now_ns();
	if (!audio_pending(f, now)) {
		*until_ns = INT64_MAX; /* looked at again shortly */
		return false;
	}
	return video_pending(f, now, until_ns);
}

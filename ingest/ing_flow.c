/* SPDX-License-Identifier: MIT */
/*
 * From bytes to frames: the steps and their order
 *
 * step() does the first of these that is possible and says so; ing_flow_run() repeats it until none is, or until something
 * has to wait: send audio that waits, publish the frame that waits, take a frame out of a decoder, put a packet into
 * one, exchange a decoder, demultiplex. So at any time little is in flight, and order is kept without queues between the
 * stages.
 *
 * Timestamps are mapped to the session's clock when a PES is complete, before the decoder reorders anything (ing_time.c).
 */
#include "ingest/ing_flow.h"

#include "base/assert.h"
#include "base/log.h"
#include "ingest/ing_publish.h"

#include <libavutil/avutil.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SLICE_NS (20 * CLOCK_MS_NS) /* after so long control messages get their turn */
#define POLL_NS	 (1 * CLOCK_MS_NS)  /* a consumer's progress is seen by looking */
#define SHOW_NS	 CLOCK_SEC_NS

/* ---- demultiplexing --------------------------------------------------- */

static void
on_stream(void *arg, enum ing_track track, const struct ing_stream *stream)
{
	struct ing_flow *f = arg;
	int r;

	stats_set(f->stats, track == ING_VIDEO ? INGEST_has_video : INGEST_has_audio, stream != NULL);
	if (track == ING_AUDIO)
		f->rings->has_sound = stream != NULL;
	if (stream == NULL) {
		ing_es_close(&f->es[track]);
		return; /* the decoder stays: it may still hold frames, and the stream may come back */
	}
	r = ing_es_open(&f->es[track], stream->codec, track);
	if (r != 0) {
		log_warn("decode", "open_failed", "codec=%s errno=%d", avcodec_get_name(stream->codec), -r);
		return;
	}
	/* Not now: packets and frames of the stream before are still under way. */
	f->next[track] = *stream;
	f->change[track] = true;
}

static void
on_pes(void *arg, const struct ing_pes *pes)
{
	struct ing_flow *f = arg;
	int64_t pts = AV_NOPTS_VALUE, dts = AV_NOPTS_VALUE, ahead;

	if (pes->pts >= 0) {
		int64_t base = pes->dts >= 0 ? pes->dts : pes->pts;

		dts = ing_time_map(&f->time, pes->track, (uint64_t)base, clock_now_ns());
		ahead = (pes->pts - base) & ((INT64_C(1) << 33) - 1);
		pts = ahead < 10 * ING_TICKS_SEC ? dts + ahead : dts; /* further ahead is nonsense */
		stats_set(f->stats, INGEST_ts_offset_ns, (uint64_t)ing_ticks_to_ns(f->time.offset));
		stats_set(f->stats, INGEST_ts_jumps, f->time.jumps);
	}
	ing_es_push(&f->es[pes->track], &f->packets, pes->data, pes->bytes, pts, dts);
}

static const struct ing_ts_callbacks ts_callbacks = { .stream = on_stream, .pes = on_pes };

static void
begin(struct ing_flow *f, bool gap)
{
	ing_ts_segment_begin(f->ts, gap);
	if (!gap)
		return;
	for (int i = 0; i < ING_TRACK_COUNT; i++) {
		ing_es_reset(&f->es[i]);
		ing_decoder_gap(&f->decoder[i]);
	}
	ing_audio_gap(&f->audio);
}

/* Feeds one packet's worth, or handles one border. false: there is no input. */
static bool
demux(struct ing_flow *f)
{
	struct ing_item *item = ing_input_first(&f->input);

	if (item == NULL) {
		size_t n;

		if (f->direct_bytes == 0)
			return false;
		n = ing_ts_feed(f->ts, f->direct, f->direct_bytes);
		f->direct += n;
		f->direct_bytes -= n;
		return true;
	}
	switch (item->kind) {
	case ING_ITEM_BYTES:
		item->used += ing_ts_feed(f->ts, item->bytes + item->used, item->count - item->used);
		if (item->used < item->count)
			return true;
		break;
	case ING_ITEM_BEGIN:
		begin(f, item->flag);
		break;
	case ING_ITEM_END:
		ing_ts_segment_end(f->ts, item->flag);
		ing_flow_check(f, true);
		break;
	case ING_ITEM_CHANNEL_END:
		f->drain_all = true;
		break;
	}
	ing_input_pop(&f->input);
	return true;
}

/* ---- decoding --------------------------------------------------------- */

static void
count_bad(struct ing_flow *f, int track)
{
	stats_add(f->stats, INGEST_packets_bad, 1);
	f->bad_since += track == ING_VIDEO;
}

static void
receive(struct ing_flow *f)
{
	struct ing_decoder *d = &f->decoder[f->draining];
	uint64_t bad = d->bad;
	bool got = ing_decoder_receive(d, f->decoded);

	if (d->bad != bad)
		count_bad(f, f->draining);
	if (!got) {
		f->draining = -1;
		return;
	}
	if (f->draining == ING_VIDEO)
		ing_publish_video(f, f->decoded);
	else
		ing_publish_audio(f, f->decoded);
	av_frame_unref(f->decoded);
}

static void
send_packet(struct ing_flow *f, AVPacket *pkt)
{
	int track = pkt->stream_index;
	struct ing_decoder *d = &f->decoder[track];

	f->video_since += track == ING_VIDEO;
	if (d->ctx != NULL && !ing_decoder_send(d, pkt))
		count_bad(f, track);
	if (d->ctx != NULL)
		f->draining = track;
	ing_packets_drop_head(&f->packets);
}

/* false: the decoder has nothing more to give. */
static bool
drain(struct ing_flow *f, int track)
{
	struct ing_decoder *d = &f->decoder[track];

	if (d->ctx == NULL || d->drained)
		return false;
	ing_decoder_drain(d);
	d->drained = !d->draining;
	if (d->draining)
		f->draining = track;
	return d->draining;
}

/* All packets of the stream before have been sent: its last frames, then the decoder of the new one. */
static bool
change_step(struct ing_flow *f)
{
	for (int i = 0; i < ING_TRACK_COUNT; i++) {
		const struct ing_stream *next = &f->next[i];
		struct ing_decoder *d = &f->decoder[i];
		int r;

		if (!f->change[i])
			continue;
		if (d->ctx == NULL || d->stream.codec != next->codec || d->stream.opus_channels != next->opus_channels) {
			if (drain(f, i))
				return true;
			r = ing_decoder_open(d, next);
			if (r != 0)
				log_warn("decode", "open_failed", "codec=%s errno=%d", avcodec_get_name(next->codec), -r);
		}
		f->change[i] = false;
		return true;
	}
	return false;
}

/* The channel is over: one decoder after the other, then tell. */
static bool
drain_step(struct ing_flow *f)
{
	if (!f->drain_all)
		return false;
	for (int i = 0; i < ING_TRACK_COUNT; i++)
		if (drain(f, i))
			return true;
	f->drain_all = false;
	f->callbacks->drained(f->arg);
	return true;
}

/* ---- the order -------------------------------------------------------- */

enum step { STEP_DONE, STEP_NOTHING, STEP_WAITS };

static enum step
step(struct ing_flow *f, int64_t *until_ns)
{
	AVPacket *pkt;

	if (!ing_publish_pending(f, until_ns))
		return STEP_WAITS;
	if (f->draining != -1) {
		receive(f);
		return STEP_DONE;
	}
	pkt = ing_packets_head(&f->packets);
	if (pkt != NULL) {
		send_packet(f, pkt);
		return STEP_DONE;
	}
	return change_step(f) || demux(f) || drain_step(f) ? STEP_DONE : STEP_NOTHING;
}

int64_t
ing_flow_run(struct ing_flow *f)
{
	int64_t start = clock_now_ns(), until = INT64_MAX, now;
	enum step s;
	unsigned n = 0;

	do {
		s = step(f, &until);
		now = (++n & 15) == 0 || s == STEP_WAITS ? clock_now_ns() : start;
	} while (s == STEP_DONE && now - start < SLICE_NS);
	if (s == STEP_NOTHING)
		return INT64_MAX;
	if (s == STEP_DONE)
		return now;
	return until < now + POLL_NS ? until : now + POLL_NS;
}

bool
ing_flow_stopped(const struct ing_flow *f)
{
	return f->frame_waits || f->input.first != NULL;
}

/* ---- what the subscription brings ------------------------------------- */

void
ing_flow_segment_begin(struct ing_flow *f, bool gap)
{
	stats_add(f->stats, INGEST_segments_in, 1);
	ing_input_mark(&f->input, ING_ITEM_BEGIN, gap);
	ing_flow_run(f);
}

void
ing_flow_bytes(struct ing_flow *f, const uint8_t *bytes, size_t count)
{
	stats_add(f->stats, INGEST_bytes_in, count);
	ing_flow_came(f, count);
	MR_ASSERT(f->direct_bytes == 0);
	f->direct = bytes;
	f->direct_bytes = count;
	ing_flow_run(f);
	if (f->direct_bytes > 0)
		ing_input_bytes(&f->input, f->direct, f->direct_bytes);
	f->direct = NULL;
	f->direct_bytes = 0;
	ing_flow_check(f, false);
}

void
ing_flow_segment_end(struct ing_flow *f, bool complete)
{
	ing_input_mark(&f->input, ING_ITEM_END, complete);
	ing_flow_run(f);
}

void
ing_flow_channel_end(struct ing_flow *f)
{
	ing_input_mark(&f->input, ING_ITEM_CHANNEL_END, false);
}

void
ing_flow_set_max_framerate(struct ing_flow *f, unsigned max_framerate)
{
	f->config.max_framerate = max_framerate;
	ing_limit_set(&f->limit, max_framerate);
}

/* ---- life ------------------------------------------------------------- */

int
ing_flow_init(struct ing_flow *f, const struct ing_flow_config *config, const struct ing_flow_callbacks *callbacks, void *arg,
    struct ing_rings *rings, struct stats_page *stats)
{
	memset(f, 0, sizeof(*f));
	f->config = *config;
	f->callbacks = callbacks;
	f->arg = arg;
	f->rings = rings;
	f->stats = stats;
	f->draining = -1;
	f->jump_flagged = INT64_MIN;
	f->last_pts_ns = INT64_MIN;
	ing_time_init(&f->time);
	if (config->resume) {
		ing_time_resume(&f->time, ing_ns_to_ticks(config->ts_offset_ns), ing_ns_to_ticks(config->last_pts_ns),
		    config->elapsed_ns != 0 ? clock_now_ns() - config->elapsed_ns : 0);
		f->last_pts_ns = config->last_pts_ns;
		f->audio.next_ns = config->last_pts_ns;
	}
	ing_limit_init(&f->limit, config->max_framerate);
	f->ts = ing_ts_new(&ts_callbacks, f);
	f->decoded = av_frame_alloc();
	f->frame = av_frame_alloc();
	if (f->ts == NULL || f->decoded == NULL || f->frame == NULL || ing_packets_init(&f->packets) != 0) {
		ing_flow_fini(f);
		return -ENOMEM;
	}
	return 0;
}

void
ing_flow_fini(struct ing_flow *f)
{
	ing_input_clear(&f->input);
	ing_ts_free(&f->ts);
	for (int i = 0; i < ING_TRACK_COUNT; i++) {
		ing_es_close(&f->es[i]);
		ing_decoder_close(&f->decoder[i]);
	}
	ing_packets_fini(&f->packets);
	ing_scaler_fini(&f->scaler);
	ing_audio_fini(&f->audio);
	av_frame_free(&f->decoded);
	av_frame_free(&f->frame);
}

void
ing_flow_show(struct ing_flow *f, int64_t now_ns)
{
	if (now_ns - f->rate_shown_ns < SHOW_NS)
		return;
	f->rate_shown_ns = now_ns;
	stats_set(f->stats, INGEST_fps_milli, ing_rate_milli(&f->video_rate, now_ns));
	stats_set(f->stats, INGEST_audio_fps_milli, ing_rate_milli(&f->audio_rate, now_ns));
	ing_flow_check(f, false);
}

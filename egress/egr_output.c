/* SPDX-License-Identifier: MIT */
/*
 * What leaves
 *
 *     decision --> timeline --> H.264 --+
 *                                       +--> mux --> sink (the publish channel)
 *     sound ----> Opus --> timeline ----+
 *
 * The size of the output is fixed by the first picture that is sent. The tracks are fixed a moment later: if the input
 * has sound, its ring appears together with the first frames; encoded packets wait for it EGR_TRACKS_NS at most.
 *
 * A segment begins every 2 s of timestamps, with an IDR. When the sink drops a segment (a broken POST, a full
 * queue) the next picture begins a new one, but not more than once a second while it goes on doing so.
 *
 * While the input pauses the last picture is repeated a few times a second, so that segments keep flowing.
 */
#include "egress/egr_output.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"

#include <errno.h>
#include <libavcodec/avcodec.h>
#include <stdio.h>
#include <string.h>

#include "egress/egr_priv.h"

enum { SEGMENT_TICKS = 180000 };
#define TRACKS_NS	 INT64_C(500000000)
#define TRACKS_LONG_NS INT64_C(2000000000)
#define RETRY_NS	 INT64_C(1000000000)
#define PAUSE_NS	 INT64_C(1000000000) /* no input for so long is a pause */
#define REPEAT_NS	 INT64_C(200000000)
#define REPEAT_BEHIND_NS INT64_C(100000000)
#define FLOWING_NS	 INT64_C(500000000) /* input frames nearer to each other than this flow */

/* ---- the sink of the muxer ------------------------------------------- */

static void
segment_end(struct egr_output *o)
{
	if (!o->segment_open)
		return;
	o->segment_open = false;
	if (!o->segment_failed)
		stats_add(o->stats, EGRESS_segments_out, 1);
	o->sink.end(o->sink.arg);
}

static void
sink_segment_begin(void *arg)
{
	struct egr_output *o = MR_CAST(struct egr_output, arg, EGR_OUTPUT_MAGIC);

	segment_end(o);
	o->segment_open = true;
	o->segment_failed = false;
	o->sink.begin(o->sink.arg);
}

static void
sink_bytes(void *arg, const uint8_t *bytes, size_t count)
{
	struct egr_output *o = MR_CAST(struct egr_output, arg, EGR_OUTPUT_MAGIC);

	o->bytes_sent = true;
	if (o->segment_failed)
		return;
	if (!o->sink.write(o->sink.arg, bytes, count)) {
		o->segment_failed = true;
		o->segment_wanted = true;
		o->segment_retry_ns = clock_now_ns() + RETRY_NS;
		stats_add(o->stats, EGRESS_segments_failed, 1);
		log_warn("output", "segment-dropped", "next=\"new segment\"");
		return;
	}
	stats_add(o->stats, EGRESS_bytes_out, count);
}

/* ---- packets ---------------------------------------------------------- */

static void
on_video_packet(void *arg, AVPacket *packet)
{
	struct egr_output *o = MR_CAST(struct egr_output, arg, EGR_OUTPUT_MAGIC);
	bool begins = (packet->flags & AV_PKT_FLAG_KEY) != 0 && o->segment_wanted;

	if (begins) {
		o->segment_wanted = false;
		o->segment_ticks = packet->pts;
	}
	if (egr_mux_video(o->mux, packet, begins) < 0)
		o->segment_wanted = true;
}

static void
on_audio_packet(void *arg, AVPacket *packet, int64_t pts_ns)
{
	struct egr_output *o = MR_CAST(struct egr_output, arg, EGR_OUTPUT_MAGIC);
	int64_t ticks;

	if (!egr_timeline_audio(&o->timeline, pts_ns, &ticks))
		return;
	packet->pts = packet->dts = ticks;
	packet->duration = 1800;
	if (egr_mux_audio(o->mux, packet) < 0)
		return;
	egr_rate_add(&o->out_audio_rate, clock_now_ns());
	stats_add(o->stats, EGRESS_audio_out, 1);
	stats_set(o->stats, EGRESS_last_out_audio_pts_ns, (uint64_t)egr_ns_from_ticks(ticks));
}

/* ---- life ------------------------------------------------------------- */

int
egr_output_init(struct egr_output *o, const struct egr_config *config, struct stats_page *stats,
    const struct egr_output_sink *sink)
{
	const struct egr_mux_sink mux = { .segment_begin = sink_segment_begin, .bytes = sink_bytes, .arg = o };

	memset(o, 0, sizeof(*o));
	o->magic = EGR_OUTPUT_MAGIC;
	o->config = config;
	o->stats = stats;
	o->sink = *sink;
	o->segment_wanted = true;
	o->slate.progress_percent = -1;
	egr_timeline_init(&o->timeline, config->resume_video_pts_ns, config->resume_audio_pts_ns);
	if (config->resume_catch_up_ns != 0)
		egr_timeline_expect(&o->timeline, config->resume_catch_up_ns);
	/* A new process goes on counting where the supervisor's last reading of the old one was. */
	stats_set(stats, EGRESS_last_out_pts_ns, (uint64_t)(config->resume_video_pts_ns > 0 ? config->resume_video_pts_ns : 0));
	return err_trace(egr_mux_new(&mux, &o->mux));
}

void
egr_output_fini(struct egr_output *o)
{
	egr_video_free(&o->video);
	egr_audio_free(&o->audio);
	egr_mux_free(&o->mux);
	o->magic = 0;
}

void
egr_output_saw_input(struct egr_output *o, int64_t pts_ns, int64_t now_ns)
{
	if (o->first_input_ns == 0)
		o->first_input_ns = now_ns;
	o->last_input_ns = now_ns;
	o->input_pts_ns = pts_ns;
	egr_rate_add(&o->in_rate, now_ns);
	stats_add(o->stats, EGRESS_frames_in, 1);
}

void
egr_output_open_audio(struct egr_output *o, uint32_t channels)
{
	const struct egr_audio_config config = { .channels = channels, .deadline_ns = o->config->frame_deadline_ns,
		.packet = on_audio_packet, .arg = o };

	if (o->audio != NULL)
		return;
	if (egr_mux_declared(o->mux) || (o->config->resume_had_output && !o->config->resume_has_audio)) {
		log_info("output", "audio-left-out", "why=\"the output was declared without sound\"");
		return;
	}
	if (egr_audio_new(&config, &o->audio) < 0)
		log_error("audio", "encoder-missing", "next=\"output without sound\"");
}

static void
choose_size(const struct egr_output *o, const struct egr_view *result, const struct egr_view *input, uint32_t *width,
    uint32_t *height)
{
	const struct egr_config *c = o->config;

	*width = c->width;
	*height = c->height;
	if (c->resume_width != 0 && c->resume_height != 0) {
		*width = c->resume_width;
		*height = c->resume_height;
	} else if (c->detect_out_resolution && result != NULL) {
		*width = result->width;
		*height = result->height;
	} else if (c->detect_out_resolution && o->result_width != 0) {
		*width = o->result_width;
		*height = o->result_height;
	} else if (c->detect_out_resolution && input != NULL) {
		*width = input->width;
		*height = input->height;
	}
	/* 4:2:0 has no odd sides */
	*width &= ~UINT32_C(1);
	*height &= ~UINT32_C(1);
}

static bool
video_open(struct egr_output *o, const struct egr_view *result, const struct egr_view *input)
{
	struct egr_video_config config = { .format = o->config->format, .rate_num = o->rate_num,
		.rate_den = o->rate_den, .packet = on_video_packet, .arg = o };

	if (o->video != NULL)
		return true;
	if (input != NULL)
		config.format = input->format;
	choose_size(o, result, input, &config.width, &config.height);
	if (egr_video_new(&config, &o->video) < 0) {
		log_error("video", "encoder-missing", "width=%u height=%u next=\"again with the next frame\"",
		    config.width, config.height);
		return false;
	}
	log_info("output", "opened", "width=%u height=%u", config.width, config.height);
	stats_set(o->stats, EGRESS_out_width, config.width);
	stats_set(o->stats, EGRESS_out_height, config.height);
	return true;
}

/* ---- sending ---------------------------------------------------------- */

static bool
idr_wanted(struct egr_output *o, int64_t ticks, int64_t now_ns)
{
	/* Also while the tracks are not declared yet: the muxer keeps the cuts. */
	if (ticks - o->segment_ticks >= SEGMENT_TICKS)
		o->segment_wanted = true;
	return o->segment_wanted && now_ns >= o->segment_retry_ns;
}

/* The supervisor's words if there are any. */
static int
encode_slate(struct egr_output *o, enum egr_why why, int64_t ticks, bool idr)
{
	struct egr_slate slate = o->slate;

	if (slate.text[0] == '\0' && (why == EGR_WHY_DEADLINE || why == EGR_WHY_NO_WORKER))
		snprintf(slate.text, sizeof(slate.text), "%s", why == EGR_WHY_DEADLINE ? "Waiting for the worker..." :
		    "The worker is not there yet");
	return egr_video_encode_slate(o->video, &slate, ticks, idr);
}

/* Encodes the picture that was decided on, or the next best one. Returns what was sent. */
static enum egr_picture
encode_picture(struct egr_output *o, const struct egr_decision *d, const struct egr_view *input,
    const struct egr_view *result, int64_t ticks, bool idr)
{
	enum egr_picture picture = d->picture;
	int r = -EINVAL;

	if (picture == EGR_PICTURE_RESULT && (result == NULL || egr_video_set_last(o->video, result) < 0))
		picture = EGR_PICTURE_LAST;
	if (picture == EGR_PICTURE_LAST && !egr_video_has_last(o->video))
		picture = EGR_PICTURE_INPUT;
	if (picture == EGR_PICTURE_INPUT && input == NULL)
		picture = EGR_PICTURE_SLATE;
	switch (picture) {
	case EGR_PICTURE_RESULT:
	case EGR_PICTURE_LAST:
		r = egr_video_encode_last(o->video, ticks, idr);
		break;
	case EGR_PICTURE_INPUT:
		r = egr_video_encode_view(o->video, input, ticks, idr);
		break;
	default:
		r = encode_slate(o, d->why, ticks, idr);
	}
	if (r < 0)
		o->segment_wanted = true;
	return r < 0 ? EGR_PICTURE_NONE : picture;
}

static void
count_picture(struct egr_output *o, enum egr_picture picture, enum egr_why why)
{
	static const enum egress_counter by_picture[] = {
		[EGR_PICTURE_RESULT] = EGRESS_frames_processed, [EGR_PICTURE_INPUT] = EGRESS_frames_passthrough,
		[EGR_PICTURE_LAST] = EGRESS_frames_held, [EGR_PICTURE_SLATE] = EGRESS_frames_overlay,
		[EGR_PICTURE_NONE] = EGRESS_frames_dropped };

	stats_add(o->stats, by_picture[picture], 1);
	if (picture != EGR_PICTURE_NONE)
		stats_add(o->stats, EGRESS_frames_out, 1);
	switch (why) {
	case EGR_WHY_NO_WORKER:
		stats_add(o->stats, EGRESS_fill_no_worker, 1);
		break;
	case EGR_WHY_DEADLINE:
		stats_add(o->stats, EGRESS_fill_deadline, 1);
		break;
	case EGR_WHY_WITHHELD:
		stats_add(o->stats, EGRESS_fill_withheld, 1);
		break;
	case EGR_WHY_PASS:
		stats_add(o->stats, EGRESS_fill_pass, 1);
		break;
	case EGR_WHY_RESULT:
	case EGR_WHY_ASKED:
	case EGR_WHY_START:
		break;
	}
}

static void
note_sent(struct egr_output *o, const struct egr_decision *d, int64_t ticks)
{
	int64_t now_ns = clock_now_ns();

	if (o->last_out_ns != 0 && d->commit_ns - o->last_commit_ns < FLOWING_NS)
		stats_max(o->stats, EGRESS_gap_ns_max, (uint64_t)(now_ns - o->last_out_ns));
	if (egr_mux_declared(o->mux) && now_ns > d->commit_ns)
		egr_spread_add(&o->latency, (uint32_t)((now_ns - d->commit_ns) / 1000));
	o->last_commit_ns = d->commit_ns;
	o->last_out_ns = now_ns;
	o->video_pts_ns = d->pts_ns;
	egr_rate_add(&o->out_rate, now_ns);
	stats_set(o->stats, EGRESS_last_out_ns, (uint64_t)now_ns);
	stats_set(o->stats, EGRESS_last_out_pts_ns, (uint64_t)egr_ns_from_ticks(ticks));
}

void
egr_output_send(struct egr_output *o, const struct egr_decision *d, const struct egr_view *input,
    const struct egr_view *result)
{
	int64_t now_ns = clock_now_ns(), offset_ns = o->timeline.offset_ns, ticks;
	enum egr_picture sent;

	if (d->picture == EGR_PICTURE_NONE || !video_open(o, result, input) ||
	    !egr_timeline_video(&o->timeline, d->pts_ns, now_ns, &ticks)) {
		/* Left out because the timeline is ahead: what is repeated meanwhile should not be older. */
		if (result != NULL)
			egr_output_keep(o, result);
		count_picture(o, EGR_PICTURE_NONE, d->why);
		return;
	}
	if (o->last_out_ns == 0)
		o->first_pts_ns = d->pts_ns;
	if (o->audio != NULL) {
		if (o->timeline.offset_ns != offset_ns)
			egr_audio_restart(o->audio, d->pts_ns);
		egr_audio_start(o->audio, o->first_pts_ns);
	}
	sent = encode_picture(o, d, input, result, ticks, idr_wanted(o, ticks, now_ns));
	count_picture(o, sent, d->why);
	if (sent != EGR_PICTURE_NONE)
		note_sent(o, d, ticks);
}

void
egr_output_keep(struct egr_output *o, const struct egr_view *result)
{
	if (o->video != NULL)
		egr_video_set_last(o->video, result);
}

/* ---- by the clock ----------------------------------------------------- */

static int64_t
tracks_due(const struct egr_output *o)
{
	if (o->video == NULL || egr_mux_declared(o->mux))
		return INT64_MAX;
	if (o->audio != NULL || (o->config->resume_had_output && !o->config->resume_has_audio))
		return o->declare_retry_ns;
	return o->first_input_ns + (o->config->resume_has_audio || o->sound_announced ? TRACKS_LONG_NS : TRACKS_NS);
}

static void
declare_tracks(struct egr_output *o, int64_t now_ns)
{
	if (now_ns < tracks_due(o))
		return;
	/* The tracks of a channel never change: a predecessor's sound is declared again, even if it stays silent. */
	if (o->audio == NULL && o->config->resume_has_audio) {
		egr_output_open_audio(o, 2);
		if (o->audio != NULL)
			egr_audio_start(o->audio, o->video_pts_ns);
	}
	if (egr_mux_declare(o->mux, egr_video_parameters(o->video),
	    o->audio != NULL ? egr_audio_parameters(o->audio) : NULL) < 0) {
		log_error("output", "muxer-failed", "next=\"again in a second\"");
		o->declare_retry_ns = now_ns + RETRY_NS;
		o->first_input_ns = now_ns + RETRY_NS;
		return;
	}
	stats_set(o->stats, EGRESS_has_audio, o->audio != NULL);
}

/* The input pauses, or nothing of it has been sent for a while: the fallback drops, the encoder fails. */
static int64_t
repeat_due(const struct egr_output *o)
{
	int64_t last = o->last_input_ns + PAUSE_NS, next = o->last_out_ns + REPEAT_NS;

	if (o->first_input_ns == 0)
		return INT64_MAX;
	if (o->last_out_ns == 0)
		return o->first_input_ns + 2 * PAUSE_NS;
	if (o->last_out_ns + PAUSE_NS < last)
		last = o->last_out_ns + PAUSE_NS;
	/* Input flows, but is left out until it has caught up with the timeline. */
	if (o->timeline.behind_since_ns != 0)
		return o->last_out_ns + REPEAT_BEHIND_NS;
	return last > next ? last : next;
}

/* While input flows a repeated picture has its timestamp, so that what comes next still has its own. */
static bool
repeat_ticks(struct egr_output *o, int64_t now_ns, int64_t *ticks)
{
	int64_t elapsed_ns = now_ns - o->last_out_ns;

	if (o->last_out_ns == 0)
		o->first_pts_ns = o->input_pts_ns;
	/* Before the first picture there is nothing to count on from. */
	if (o->last_out_ns == 0 || (o->timeline.behind_since_ns == 0 && now_ns - o->last_input_ns < PAUSE_NS)) {
		o->video_pts_ns = o->input_pts_ns;
		return egr_timeline_video(&o->timeline, o->input_pts_ns, now_ns, ticks);
	}
	*ticks = egr_timeline_repeat(&o->timeline, elapsed_ns);
	o->video_pts_ns += elapsed_ns;
	return true;
}

static void
repeat_picture(struct egr_output *o, int64_t now_ns)
{
	int64_t ticks;
	bool ok;

	if (now_ns < repeat_due(o))
		return;
	ok = video_open(o, NULL, NULL) && repeat_ticks(o, now_ns, &ticks);
	o->last_out_ns = now_ns;
	if (!ok)
		return; /* again a little later */
	if (o->audio != NULL)
		egr_audio_start(o->audio, o->first_pts_ns);
	if (egr_video_encode_again(o->video, ticks, idr_wanted(o, ticks, now_ns)) < 0) {
		o->segment_wanted = true;
		return;
	}
	count_picture(o, EGR_PICTURE_LAST, EGR_WHY_ASKED);
	egr_rate_add(&o->out_rate, now_ns);
	stats_set(o->stats, EGRESS_last_out_ns, (uint64_t)now_ns);
	stats_set(o->stats, EGRESS_last_out_pts_ns, (uint64_t)egr_ns_from_ticks(ticks));
}

static void
update_gauges(struct egr_output *o, int64_t now_ns)
{
	uint32_t p50, p99;

	if (now_ns < o->meters_ns)
		return;
	o->meters_ns = now_ns + CLOCK_SEC_NS;
	egr_spread_get(&o->latency, &p50, &p99);
	stats_set(o->stats, EGRESS_latency_us_p50, p50);
	stats_set(o->stats, EGRESS_latency_us_p99, p99);
	stats_set(o->stats, EGRESS_fps_milli, egr_rate_milli(&o->out_rate, now_ns));
	stats_set(o->stats, EGRESS_in_fps_milli, egr_rate_milli(&o->in_rate, now_ns));
	stats_set(o->stats, EGRESS_audio_fps_milli, egr_rate_milli(&o->out_audio_rate, now_ns));
}

void
egr_output_tick(struct egr_output *o, int64_t now_ns)
{
	repeat_picture(o, now_ns);
	declare_tracks(o, now_ns);
	if (o->audio != NULL) {
		unsigned n;

		egr_audio_run(o->audio, now_ns);
		n = egr_audio_silence(o->audio, o->video_pts_ns);
		stats_add(o->stats, EGRESS_audio_silence, n);
	}
	update_gauges(o, now_ns);
}

int64_t
egr_output_due(const struct egr_output *o)
{
	int64_t due = tracks_due(o), t = repeat_due(o);

	due = t < due ? t : due;
	t = o->audio != NULL ? egr_audio_due(o->audio) : INT64_MAX;
	return t < due ? t : due;
}

void
egr_output_finish(struct egr_output *o)
{
	int64_t now_ns = clock_now_ns();

	if (o->video == NULL)
		return;
	if (o->first_input_ns > now_ns - TRACKS_LONG_NS)
		o->first_input_ns = now_ns - TRACKS_LONG_NS;
	declare_tracks(o, now_ns);
	if (o->audio != NULL)
		egr_audio_run(o->audio, INT64_MAX);
	egr_video_flush(o->video);
	segment_end(o);
}

/* SPDX-License-Identifier: MIT */
/*
 * Audio blocks to Opus
 *
 *     input block ---> waiting (deadline, the worker's block takes its place) ---> cut to the timeline ---> 20 ms
 *     frames ---> Opus
 *
 * `end_ns` is where the sound that was sent ends. A block that begins before it loses what overlaps; a hole is left
 * as a hole in the timestamps. Each Opus frame takes its timestamp from the block in which it begins, so jitter and
 * drift of the input's clock never add up. Opus delays by `initial_padding` samples, which the packet's timestamp
 * gives back.
 *
 * Silence: `silence_after_ns` is how far sound may lag behind video before it counts as missing. When real sound comes
 * after all and overlaps silence, the source is merely skewed, and the limit is raised past that skew.
 */
#include "egress/egr_audio.h"
#include "base/assert.h"
#include "base/err.h"
#include "base/log.h"

#include <errno.h>
#include <libavcodec/avcodec.h>
#include <libavutil/channel_layout.h>
#include <stdlib.h>
#include <string.h>

#include "egress/egr_priv.h"

enum { RATE = 48000, FRAME = 960, BLOCKS_MAX = 128, SILENCE_PER_CALL_MAX = 50 };

#define TOLERANCE_NS   INT64_C(3000000)
#define SILENCE_NS     INT64_C(500000000)
#define SILENCE_MAX_NS INT64_C(5000000000)
#define SILENCE_JUMP_NS INT64_C(2000000000)

struct block {
	int64_t pts_ns, due_ns;
	uint32_t samples;
	bool settled; /* the worker has answered, or answered a later one */
	float *data;  /* EGR_BLOCK_SAMPLES_MAX x channels */
};

struct egr_audio {
	struct egr_audio_config config;
	AVCodecContext *encoder;
	AVCodecParameters *parameters;
	AVPacket *packet;
	AVFrame *frame;	      /* being filled */
	uint32_t filled;      /* samples in it */
	int64_t frame_pts_ns; /* of its first sample */
	int64_t padding_ns;
	bool started, worker, silent;
	int64_t end_ns, silence_after_ns;
	struct block blocks[BLOCKS_MAX]; /* a circle */
	unsigned first, count;
	float *memory;
};

static int64_t
samples_ns(int64_t samples)
{
	return samples * 1000000000 / RATE;
}

static int64_t
ns_samples(int64_t ns)
{
	return (ns * RATE + 500000000) / 1000000000;
}

static struct block *
block_at(struct egr_audio *a, unsigned i)
{
	return &a->blocks[(a->first + i) % BLOCKS_MAX];
}

/* ---- encoder ---------------------------------------------------------- */

static int
encoder_open(struct egr_audio *a)
{
	const AVCodec *codec = avcodec_find_encoder_by_name("libopus");
	int r;

	if (codec == NULL)
		return err_origin(-ENOSYS);
	a->encoder = avcodec_alloc_context3(codec);
	if (a->encoder == NULL)
		return err_origin(-ENOMEM);
	a->encoder->sample_rate = RATE;
	a->encoder->sample_fmt = AV_SAMPLE_FMT_FLT;
	a->encoder->time_base = (AVRational){ 1, RATE };
	a->encoder->bit_rate = a->config.channels == 1 ? 64000 : 112000;
	a->encoder->compression_level = 5;
	av_channel_layout_default(&a->encoder->ch_layout, (int)a->config.channels);
	r = avcodec_open2(a->encoder, codec, NULL);
	if (r >= 0)
		r = avcodec_parameters_from_context(a->parameters, a->encoder);
	if (r < 0) {
		avcodec_free_context(&a->encoder);
		return err_origin(-EINVAL);
	}
	MR_ASSERT(a->encoder->frame_size == FRAME);
	a->padding_ns = samples_ns(a->encoder->initial_padding);
	return 0;
}

static int
frame_new(struct egr_audio *a)
{
	a->frame = av_frame_alloc();
	if (a->frame == NULL)
		return err_origin(-ENOMEM);
	a->frame->format = AV_SAMPLE_FMT_FLT;
	a->frame->nb_samples = FRAME;
	a->frame->sample_rate = RATE;
	av_channel_layout_default(&a->frame->ch_layout, (int)a->config.channels);
	return av_frame_get_buffer(a->frame, 0) < 0 ? err_origin(-ENOMEM) : 0;
}

int
egr_audio_new(const struct egr_audio_config *config, struct egr_audio **out)
{
	struct egr_audio *a = calloc(1, sizeof(*a));
	size_t block = (size_t)EGR_BLOCK_SAMPLES_MAX * config->channels;
	int r = -ENOMEM;

	MR_ASSERT(config->channels == 1 || config->channels == 2);
	if (a == NULL)
		return err_origin(-ENOMEM);
	a->config = *config;
	a->silence_after_ns = SILENCE_NS;
	a->parameters = avcodec_parameters_alloc();
	a->packet = av_packet_alloc();
	a->memory = malloc(BLOCKS_MAX * block * sizeof(float));
	if (a->parameters != NULL && a->packet != NULL && a->memory != NULL)
		r = frame_new(a);
	if (r == 0)
		r = encoder_open(a);
	if (r < 0) {
		egr_audio_free(&a);
		return err_trace(r);
	}
	for (unsigned i = 0; i < BLOCKS_MAX; i++)
		a->blocks[i].data = a->memory + i * block;
	*out = a;
	return 0;
}

void
egr_audio_free(struct egr_audio **ap)
{
	struct egr_audio *a = *ap;

	if (a == NULL)
		return;
	avcodec_free_context(&a->encoder);
	avcodec_parameters_free(&a->parameters);
	av_packet_free(&a->packet);
	av_frame_free(&a->frame);
	free(a->memory);
	free(a);
	*ap = NULL;
}

const AVCodecParameters *
egr_audio_parameters(const struct egr_audio *a)
{
	return a->parameters;
}

static void
frame_encode(struct egr_audio *a)
{
	int r;

	a->filled = 0;
	if (a->encoder == NULL && encoder_open(a) < 0)
		return;
	a->frame->pts = ns_samples(a->frame_pts_ns);
	r = avcodec_send_frame(a->encoder, a->frame);
	while (r >= 0 && (r = avcodec_receive_packet(a->encoder, a->packet)) == 0) {
		/* One frame in, one packet out: the encoder's own queue of timestamps is not needed. */
		a->config.packet(a->config.arg, a->packet, a->frame_pts_ns - a->padding_ns);
		av_packet_unref(a->packet);
	}
	if (r < 0 && r != AVERROR(EAGAIN)) {
		log_warn("audio", "encoder-failed", "pts_ns=%lld next=reopen", (long long)a->frame_pts_ns);
		avcodec_free_context(&a->encoder);
	}
}

/* ---- timeline --------------------------------------------------------- */

/* `data` NULL: silence. Samples follow what is in the frame. */
static void
frame_append(struct egr_audio *a, int64_t pts_ns, const float *data, uint32_t samples)
{
	uint32_t channels = a->config.channels, at = 0;

	while (at < samples) {
		uint32_t n = samples - at < FRAME - a->filled ? samples - at : FRAME - a->filled;
		float *to;

		if (a->filled == 0) {
			a->frame_pts_ns = pts_ns + samples_ns(at);
			if (av_frame_make_writable(a->frame) < 0)
				return;
		}
		to = (float *)a->frame->data[0] + (size_t)a->filled * channels;
		if (data != NULL)
			memcpy(to, data + (size_t)at * channels, (size_t)n * channels * sizeof(float));
		else
			memset(to, 0, (size_t)n * channels * sizeof(float));
		a->filled += n;
		at += n;
		if (a->filled == FRAME)
			frame_encode(a);
	}
}

static void
block_send(struct egr_audio *a, const struct block *b)
{
	int64_t pts_ns = b->pts_ns, over_ns = a->end_ns - pts_ns;
	uint32_t skip = 0;

	if (over_ns > TOLERANCE_NS) {
		int64_t n = ns_samples(over_ns);

		if (a->silent && a->silence_after_ns < SILENCE_MAX_NS)
			a->silence_after_ns += over_ns < SILENCE_NS ? over_ns + SILENCE_NS / 2 : SILENCE_NS;
		if (n >= b->samples)
			return;
		skip = (uint32_t)n;
		pts_ns += samples_ns(skip);
	} else if (-over_ns > TOLERANCE_NS && a->filled > 0) {
		/* A hole: the frame that it cuts is completed with silence. */
		frame_append(a, a->end_ns, NULL, FRAME - a->filled);
	}
	a->silent = false;
	frame_append(a, pts_ns, b->data + (size_t)skip * a->config.channels, b->samples - skip);
	a->end_ns = b->pts_ns + samples_ns(b->samples);
}

void
egr_audio_start(struct egr_audio *a, int64_t pts_ns)
{
	if (a->started)
		return;
	a->started = true;
	a->end_ns = pts_ns;
}

void
egr_audio_restart(struct egr_audio *a, int64_t pts_ns)
{
	a->count = 0;
	a->filled = 0;
	a->end_ns = pts_ns;
	a->silence_after_ns = SILENCE_NS;
}

void
egr_audio_set_worker(struct egr_audio *a, bool there)
{
	a->worker = there;
}

/* ---- blocks ----------------------------------------------------------- */

static float
clamped(float x)
{
	x = x > -1.0f ? x : -1.0f; /* what is not a number, too */
	return x < 1.0f ? x : 1.0f;
}

static void
block_fill(struct egr_audio *a, struct block *b, const float *data, uint32_t samples, uint32_t channels)
{
	uint32_t to = a->config.channels;

	b->samples = samples;
	for (uint32_t i = 0; i < samples; i++) {
		const float *s = data + (size_t)i * channels;

		if (to == channels)
			for (uint32_t c = 0; c < to; c++)
				b->data[(size_t)i * to + c] = clamped(s[c]);
		else if (to == 1)
			b->data[i] = clamped((s[0] + s[1]) / 2);
		else
			b->data[(size_t)i * 2] = b->data[(size_t)i * 2 + 1] = clamped(s[0]);
	}
}

void
egr_audio_input(struct egr_audio *a, int64_t pts_ns, const float *data, uint32_t samples, uint32_t channels,
    int64_t now_ns)
{
	struct block *b;

	MR_ASSERT(samples >= 1 && samples <= EGR_BLOCK_SAMPLES_MAX && (channels == 1 || channels == 2));
	if (a->count == BLOCKS_MAX) {
		/* Before the first video frame: the newest two seconds are enough. Later: its deadline was long ago. */
		if (a->started)
			block_send(a, block_at(a, 0));
		a->first = (a->first + 1) % BLOCKS_MAX;
		a->count--;
	}
	b = block_at(a, a->count++);
	b->pts_ns = pts_ns;
	b->due_ns = now_ns + a->config.deadline_ns;
	b->settled = false;
	block_fill(a, b, data, samples, channels);
}

bool
egr_audio_result(struct egr_audio *a, int64_t pts_ns, const float *data, uint32_t samples, uint32_t channels)
{
	MR_ASSERT(data == NULL || (samples >= 1 && samples <= EGR_BLOCK_SAMPLES_MAX));
	for (unsigned i = 0; i < a->count; i++) {
		struct block *b = block_at(a, i);
		int64_t half_ns = samples_ns(b->samples) / 2;

		if (b->settled || pts_ns < b->pts_ns - half_ns || pts_ns > b->pts_ns + half_ns)
			continue;
		/* The worker answers in order: those before are not going to be answered. What a longer answer
		 * covers of those after is cut off by the timeline. */
		for (unsigned k = 0; k <= i; k++)
			block_at(a, k)->settled = true;
		if (data != NULL)
			block_fill(a, b, data, samples, channels);
		return true;
	}
	return false;
}

void
egr_audio_run(struct egr_audio *a, int64_t now_ns)
{
	while (a->started && a->count > 0) {
		struct block *b = block_at(a, 0);

		if (a->worker && !b->settled && now_ns < b->due_ns)
			break;
		block_send(a, b);
		a->first = (a->first + 1) % BLOCKS_MAX;
		a->count--;
	}
}

int64_t
egr_audio_due(const struct egr_audio *a)
{
	const struct block *b = &a->blocks[a->first];

	if (!a->started || a->count == 0)
		return INT64_MAX;
	return a->worker && !b->settled ? b->due_ns : 0;
}

unsigned
egr_audio_silence(struct egr_audio *a, int64_t video_pts_ns)
{
	unsigned n = 0;

	if (!a->started)
		return 0;
	if (video_pts_ns - a->end_ns > a->silence_after_ns + SILENCE_JUMP_NS) {
		/* Video has jumped: a hole, not an hour of silence. */
		a->filled = 0;
		a->end_ns = video_pts_ns - a->silence_after_ns;
	}
	while (video_pts_ns - a->end_ns > a->silence_after_ns && n < SILENCE_PER_CALL_MAX) {
		frame_append(a, a->end_ns, NULL, FRAME);
		a->end_ns += samples_ns(FRAME);
		a->silent = true;
		n++;
	}
	return n;
}

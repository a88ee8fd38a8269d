/* SPDX-License-Identifier: MIT */
/*
 * Audio
 *
 * Invariants: block timestamps increase by at least half a block; a block is 20 ms exactly; the number of output channels
 * does not change once it is decided, whatever the source does later.
 */
#include "ingest/ing_audio.h"

#include "base/assert.h"
#include "base/clock.h"

#include <libavutil/channel_layout.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES_MAX = 1 << 20 };
#define BLOCK_NS (INT64_C(1000000000) * ING_AUDIO_BLOCK / ING_AUDIO_RATE)

static int64_t
samples_ns(int64_t n)
{
	return n * 62500 / 3; /* 1e9 / 48000 */
}

/* Timestamp of the first sample in the buffer. */
static int64_t
head_ns(const struct ing_audio *a)
{
	return a->anchor_ns + samples_ns(a->counted);
}

static int
open_resampler(struct ing_audio *a, const AVFrame *f)
{
	AVChannelLayout in = { 0 }, out = { 0 };
	int r;

	swr_free(&a->swr);
	if (f->ch_layout.nb_channels < 1 || f->ch_layout.nb_channels > 64 || f->sample_rate < 1000 || f->sample_rate > 768000)
		return -ENOTSUP;
	if (a->channels == 0)
		a->channels = f->ch_layout.nb_channels == 1 ? 1 : 2;
	if (f->ch_layout.order == AV_CHANNEL_ORDER_UNSPEC)
		av_channel_layout_default(&in, f->ch_layout.nb_channels);
	else if (av_channel_layout_copy(&in, &f->ch_layout) < 0)
		return -ENOMEM;
	av_channel_layout_default(&out, a->channels);
	r = swr_alloc_set_opts2(&a->swr, &out, AV_SAMPLE_FMT_FLT, ING_AUDIO_RATE, &in, (enum AVSampleFormat)f->format,
	    f->sample_rate, 0, NULL);
	if (r < 0 || swr_init(a->swr) < 0) {
		swr_free(&a->swr);
		av_channel_layout_uninit(&in);
		return -ENOTSUP;
	}
	av_channel_layout_uninit(&in);
	av_channel_layout_uninit(&a->in_layout);
	a->in_rate = f->sample_rate;
	a->in_format = f->format;
	return av_channel_layout_copy(&a->in_layout, &f->ch_layout) < 0 ? -ENOMEM : 0;
}

static int
reserve(struct ing_audio *a, size_t samples)
{
	size_t cap = a->cap != 0 ? a->cap : 8192;
	float *buf;

	if (samples > SAMPLES_MAX)
		return -ENOTSUP;
	if (samples <= a->cap)
		return 0;
	while (cap < samples)
		cap *= 2;
	buf = realloc(a->buf, cap * sizeof(float) * 2);
	if (buf == NULL)
		return -ENOMEM;
	a->buf = buf;
	a->cap = cap;
	return 0;
}

static void
anchor(struct ing_audio *a, int64_t pts_ns)
{
	int64_t inside = swr_get_delay(a->swr, ING_AUDIO_RATE);
	int64_t expected, drift;

	if (pts_ns == INT64_MIN)
		return;
	expected = head_ns(a) + samples_ns((int64_t)a->samples + inside);
	drift = pts_ns - expected;
	if (a->anchored && drift <= ING_AUDIO_DRIFT_MS * CLOCK_MS_NS && drift >= -ING_AUDIO_DRIFT_MS * CLOCK_MS_NS)
		return;
	a->samples = 0;
	a->counted = 0;
	a->anchor_ns = pts_ns - samples_ns(inside);
	a->anchored = true;
}

static bool
format_changed(const struct ing_audio *a, const AVFrame *f)
{
	return a->swr == NULL || a->in_rate != f->sample_rate || a->in_format != f->format ||
	    av_channel_layout_compare(&a->in_layout, &f->ch_layout) != 0;
}

int
ing_audio_push(struct ing_audio *a, const AVFrame *f, int64_t pts_ns)
{
	uint8_t *out[1];
	int r, n;

	if (format_changed(a, f) && (r = open_resampler(a, f)) != 0)
		return r;
	anchor(a, pts_ns);
	if (!a->anchored)
		return 0;
	n = swr_get_out_samples(a->swr, f->nb_samples);
	if (n < 0)
		return -ENOTSUP;
	r = reserve(a, a->samples + (size_t)n);
	if (r != 0)
		return r;
	out[0] = (uint8_t *)(a->buf + a->samples * (size_t)a->channels);
	n = swr_convert(a->swr, out, n, (const uint8_t **)(void *)f->extended_data, f->nb_samples);
	if (n < 0)
		return -ENOTSUP;
	a->samples += (size_t)n;
	return 0;
}

bool
ing_audio_peek(struct ing_audio *a, const float **block, int64_t *pts_ns)
{
	while (a->samples >= ING_AUDIO_BLOCK) {
		if (head_ns(a) >= a->next_ns - BLOCK_NS / 2) {
			*block = a->buf;
			*pts_ns = head_ns(a);
			return true;
		}
		ing_audio_pop(a);
		a->dropped++;
	}
	return false;
}

void
ing_audio_pop(struct ing_audio *a)
{
	int64_t end;

	MR_ASSERT(a->samples >= ING_AUDIO_BLOCK);
	a->samples -= ING_AUDIO_BLOCK;
	a->counted += ING_AUDIO_BLOCK;
	memmove(a->buf, a->buf + (size_t)ING_AUDIO_BLOCK * (size_t)a->channels,
	    a->samples * (size_t)a->channels * sizeof(float));
	end = head_ns(a);
	if (end > a->next_ns)
		a->next_ns = end;
}

void
ing_audio_gap(struct ing_audio *a)
{
	a->samples = 0;
	a->anchored = false;
}

void
ing_audio_fini(struct ing_audio *a)
{
	swr_free(&a->swr);
	av_channel_layout_uninit(&a->in_layout);
	free(a->buf);
	memset(a, 0, sizeof(*a));
}

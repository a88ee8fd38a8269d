/* SPDX-License-Identifier: MIT */
/*
 * Goal: pictures and sound arrive in the ring as the worker expects them: shape, colours, every pixel written, nothing
 * beyond; blocks of sound that follow each other exactly.
 * Method: synthetic frames whose result is known.
 */
#include "ingest/ing_audio.h"
#include "ingest/ing_scale.h"

#include "base/clock.h"

#include <criterion/criterion.h>
#include <libavutil/channel_layout.h>
#include <libavutil/imgutils.h>
#include <libavutil/pixdesc.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- crop ------------------------------------------------------------- */

static struct ing_crop
crop(int w, int h, int sar_num, int sar_den, int to_w, int to_h)
{
	return ing_crop_compute(&(struct ing_crop_args){ w, h, sar_num, sar_den, 2, 2, to_w, to_h });
}

static void
expect_crop(struct ing_crop c, int x, int y, int w, int h)
{
	cr_expect(c.x == x && c.y == y && c.width == w && c.height == h, "%d,%d %dx%d instead of %d,%d %dx%d", c.x, c.y,
	    c.width, c.height, x, y, w, h);
}

Test(ing_crop, known)
{
	expect_crop(crop(512, 512, 0, 1, 512, 512), 0, 0, 512, 512);
	expect_crop(crop(640, 360, 1, 1, 512, 512), 140, 0, 360, 360);
	expect_crop(crop(1920, 1080, 1, 1, 512, 512), 420, 0, 1080, 1080);
	expect_crop(crop(360, 640, 1, 1, 512, 512), 0, 140, 360, 360);
	expect_crop(crop(640, 360, 1, 1, 1280, 720), 0, 0, 640, 360);
	expect_crop(crop(720, 576, 16, 15, 768, 576), 0, 0, 720, 576); /* not square: already 4:3 */
	expect_crop(crop(720, 576, 64, 45, 576, 576), 158, 0, 405, 576); /* 16:9 */
}

Test(ing_crop, any)
{
	srand(5);
	for (int i = 0; i < 200000; i++) {
		int w = 1 + rand() % 4000, h = 1 + rand() % 4000, tw = 16 + rand() % 2000, th = 16 + rand() % 2000;
		struct ing_crop c = crop(w, h, rand() % 4, rand() % 4, tw, th);

		cr_assert(c.x >= 0 && c.y >= 0 && c.width >= 1 && c.height >= 1);
		cr_assert(c.x + c.width <= w && c.y + c.height <= h);
		cr_assert(c.x % 2 == 0 && c.y % 2 == 0);
		cr_assert(c.width == w || c.height == h, "one dimension is whole");
	}
	expect_crop(crop(100, 100, 1, 1000000, 100, 100), 0, 0, 100, 100);
}

/* ---- pictures --------------------------------------------------------- */

static AVFrame *
picture(enum AVPixelFormat format, int w, int h, int y, int u, int v)
{
	const AVPixFmtDescriptor *d = av_pix_fmt_desc_get(format);
	AVFrame *f = av_frame_alloc();

	f->format = format;
	f->width = w;
	f->height = h;
	f->colorspace = AVCOL_SPC_SMPTE170M;
	cr_assert_eq(av_frame_get_buffer(f, 0), 0);
	for (int p = 0; p < 3; p++) {
		int rows = p > 0 ? AV_CEIL_RSHIFT(h, d->log2_chroma_h) : h;
		int value = (p == 0 ? y : p == 1 ? u : v) << (d->comp[0].depth - 8);

		for (int r = 0; r < rows; r++)
			for (int x = 0; x < f->linesize[p]; x += d->comp[0].step)
				if (d->comp[0].step == 2)
					memcpy(f->data[p] + (ptrdiff_t)r * f->linesize[p] + x, &(uint16_t){ (uint16_t)value }, 2);
				else
					f->data[p][(ptrdiff_t)r * f->linesize[p] + x] = (uint8_t)value;
	}
	return f;
}

static struct ring_geom
geometry(enum format_id format, uint32_t w, uint32_t h)
{
	struct ring_geom g = { .format = format, .width = w, .height = h };

	cr_assert(format_video_layout(format, w, h, &g.layout), "%s %ux%u", format_name(format), w, h);
	g.payload_max = g.layout.payload_bytes;
	return g;
}

enum { GUARD = 64 };

/* The slot, scaled into, with a guard that must not change beyond the tail that a ring has. */
static uint8_t *
scaled(AVFrame *f, const struct ring_geom *g)
{
	struct ing_scaler s = { 0 };
	size_t n = g->layout.payload_bytes;
	uint8_t *slot = malloc(n + RING_TAIL_BYTES + GUARD);

	memset(slot, 0xa5, n + RING_TAIL_BYTES + GUARD);
	cr_assert_eq(ing_scale(&s, f, g, slot), 0);
	cr_assert_eq(ing_scale(&s, f, g, slot), 0, "again with the same contexts");
	for (size_t i = 0; i < GUARD; i++)
		cr_assert_eq(slot[n + RING_TAIL_BYTES + i], 0xa5);
	ing_scaler_fini(&s);
	return slot;
}

static void
expect_rgb(const uint8_t *slot, const struct ring_geom *g, int r, int gr, int b)
{
	for (uint32_t y = 0; y < g->height; y++)
		for (uint32_t x = 0; x < g->width; x++) {
			int want[3] = { r, gr, b }, got[3];

			for (int c = 0; c < 3; c++) {
				if (g->format == FORMAT_RGBF32P) {
					const float *v = (const float *)(const void *)(slot + g->layout.offset[c] +
					    (size_t)y * g->layout.stride[c]);

					got[c] = (int)lrintf(v[x] * 255);
				} else {
					int step = g->format == FORMAT_RGBA ? 4 : 3;
					const uint8_t *p = slot + (size_t)y * g->layout.stride[0] + (size_t)x * (size_t)step;

					got[c] = g->format == FORMAT_BGR24 ? p[2 - c] : p[c];
					if (step == 4)
						cr_assert_eq(p[3], 255, "opaque");
				}
				cr_assert_leq(abs(got[c] - want[c]), 6, "%s %ux%u at %u,%u: %d %d %d", format_name(g->format),
				    g->width, g->height, x, y, got[0], got[1], got[2]);
			}
		}
}

static const uint32_t sizes[][2] = { { 512, 512 }, { 500, 300 }, { 333, 217 }, { 17, 16 }, { 640, 360 }, { 1280, 720 },
	{ 30, 62 } };
static const enum format_id rgb_formats[] = { FORMAT_RGB24, FORMAT_RGBA, FORMAT_BGR24, FORMAT_RGBF32P };

Test(ing_scale, colours_in_every_pixel)
{
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		for (size_t k = 0; k < 4; k++) {
			struct ring_geom g = geometry(rgb_formats[k], sizes[i][0], sizes[i][1]);
			AVFrame *f = picture(AV_PIX_FMT_YUV420P, 640, 360, 81, 90, 240); /* red, BT.601 */
			uint8_t *slot = scaled(f, &g);

			expect_rgb(slot, &g, 254, 0, 0);
			free(slot);
			av_frame_free(&f);
		}
}

Test(ing_scale, sources)
{
	static const struct {
		enum AVPixelFormat format;
		enum AVColorSpace space;
		enum AVColorRange range;
		int y, u, v, r, g, b;
	} cases[] = {
		{ AV_PIX_FMT_YUV420P, AVCOL_SPC_BT709, AVCOL_RANGE_MPEG, 63, 102, 240, 255, 0, 0 },
		{ AV_PIX_FMT_YUVJ420P, AVCOL_SPC_SMPTE170M, AVCOL_RANGE_JPEG, 76, 85, 255, 254, 0, 0 },
		{ AV_PIX_FMT_YUV420P, AVCOL_SPC_SMPTE170M, AVCOL_RANGE_JPEG, 200, 128, 128, 200, 200, 200 },
		{ AV_PIX_FMT_YUV422P, AVCOL_SPC_SMPTE170M, AVCOL_RANGE_MPEG, 145, 54, 34, 0, 255, 0 },
		{ AV_PIX_FMT_YUV444P, AVCOL_SPC_SMPTE170M, AVCOL_RANGE_MPEG, 41, 240, 110, 0, 0, 255 },
		{ AV_PIX_FMT_YUV420P10, AVCOL_SPC_BT709, AVCOL_RANGE_MPEG, 235, 128, 128, 255, 255, 255 },
		{ AV_PIX_FMT_YUV422P10, AVCOL_SPC_BT709, AVCOL_RANGE_MPEG, 16, 128, 128, 0, 0, 0 },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		AVFrame *f = picture(cases[i].format, 642, 358, cases[i].y, cases[i].u, cases[i].v);
		struct ring_geom g = geometry(FORMAT_RGB24, 256, 256);
		uint8_t *slot;

		f->colorspace = cases[i].space;
		f->color_range = cases[i].range;
		slot = scaled(f, &g);
		expect_rgb(slot, &g, cases[i].r, cases[i].g, cases[i].b);
		free(slot);
		av_frame_free(&f);
	}
}

Test(ing_scale, the_same_format_and_size_is_a_copy)
{
	struct ring_geom g = geometry(FORMAT_I420, 640, 360);
	AVFrame *f = picture(AV_PIX_FMT_YUV420P, 640, 360, 0, 0, 0);
	uint8_t *slot;

	f->colorspace = AVCOL_SPC_BT709;
	srand(6);
	for (int p = 0; p < 3; p++)
		for (int i = 0; i < f->linesize[p] * (p > 0 ? 180 : 360); i++)
			f->data[p][i] = (uint8_t)rand();
	slot = scaled(f, &g);
	for (int p = 0; p < 3; p++)
		for (int y = 0; y < (p > 0 ? 180 : 360); y++)
			cr_assert_eq(memcmp(slot + g.layout.offset[p] + (size_t)y * g.layout.stride[p],
			    f->data[p] + y * f->linesize[p], p > 0 ? 320 : 640), 0);
	free(slot);
	av_frame_free(&f);
}

/* R, G, B from 0 to 1 to bytes, by the definition. */
static void
define_yuv(const double rgb[3], double red, double blue, bool full, int yuv[3])
{
	double y = red * rgb[0] + (1 - red - blue) * rgb[1] + blue * rgb[2];
	double u = (rgb[2] - y) / (2 * (1 - blue)), v = (rgb[0] - y) / (2 * (1 - red));

	yuv[0] = (int)lrint(full ? 255 * y : 16 + 219 * y);
	yuv[1] = (int)lrint(128 + (full ? 255 : 224) * u);
	yuv[2] = (int)lrint(128 + (full ? 255 : 224) * v);
}

static void
expect_yuv(const uint8_t *slot, const struct ring_geom *g, const int want[3], int tolerance, const char *what)
{
	for (uint32_t y = 0; y < g->height; y++)
		for (uint32_t x = 0; x < g->width; x++) {
			size_t at = (size_t)(y / 2) * g->layout.stride[1];
			const uint8_t *u = slot + g->layout.offset[1] + at + (g->format == FORMAT_NV12 ? x / 2 * 2 : x / 2);
			const uint8_t *v = g->format == FORMAT_NV12 ? u + 1 : slot + g->layout.offset[2] + at + x / 2;
			int got[3] = { slot[(size_t)y * g->layout.stride[0] + x], *u, *v };

			for (int c = 0; c < 3; c++)
				cr_assert_leq(abs(got[c] - want[c]), tolerance, "%s, %s at %u,%u: %d %d %d instead of %d %d %d",
				    what, format_name(g->format), x, y, got[0], got[1], got[2], want[0], want[1], want[2]);
		}
}

/* Colour bars, each for itself, from sources of every kind: a YUV ring has BT.709 and limited range. */
Test(ing_scale, yuv_rings_are_bt709)
{
	static const struct {
		const char *name;
		enum AVPixelFormat format;
		enum AVColorSpace space;
		enum AVColorRange range;
		double red, blue;
		int height;
	} sources[] = {
		{ "BT.601", AV_PIX_FMT_YUV420P, AVCOL_SPC_SMPTE170M, AVCOL_RANGE_MPEG, 0.299, 0.114, 360 },
		{ "PAL", AV_PIX_FMT_YUV422P, AVCOL_SPC_BT470BG, AVCOL_RANGE_MPEG, 0.299, 0.114, 576 },
		{ "unnamed, low", AV_PIX_FMT_YUV420P, AVCOL_SPC_UNSPECIFIED, AVCOL_RANGE_UNSPECIFIED, 0.299, 0.114, 360 },
		{ "unnamed, high", AV_PIX_FMT_YUV420P, AVCOL_SPC_UNSPECIFIED, AVCOL_RANGE_UNSPECIFIED, 0.2126, 0.0722, 720 },
		{ "full range", AV_PIX_FMT_YUVJ420P, AVCOL_SPC_SMPTE170M, AVCOL_RANGE_JPEG, 0.299, 0.114, 360 },
		{ "BT.709", AV_PIX_FMT_YUV420P, AVCOL_SPC_BT709, AVCOL_RANGE_MPEG, 0.2126, 0.0722, 360 },
		{ "BT.709, full", AV_PIX_FMT_YUV444P, AVCOL_SPC_BT709, AVCOL_RANGE_JPEG, 0.2126, 0.0722, 360 },
		{ "BT.2020", AV_PIX_FMT_YUV420P10, AVCOL_SPC_BT2020_NCL, AVCOL_RANGE_MPEG, 0.2627, 0.0593, 360 },
		{ "240M", AV_PIX_FMT_YUV420P, AVCOL_SPC_SMPTE240M, AVCOL_RANGE_MPEG, 0.212, 0.087, 360 },
		{ "BT.601 scaled", AV_PIX_FMT_YUV420P, AVCOL_SPC_SMPTE170M, AVCOL_RANGE_MPEG, 0.299, 0.114, 358 },
	};
	static const uint32_t targets[4][2] = { { 322, 182 }, { 512, 512 }, { 1282, 722 }, { 500, 300 } };

	for (size_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++)
		for (unsigned bar = 0; bar < 16; bar++) {
			const double level = bar < 8 ? 0.75 : 1.0;
			const double rgb[3] = { bar & 1 ? level : 0, bar & 2 ? level : 0, bar & 4 ? level : 0 };
			const uint32_t *size = targets[bar % 4];
			struct ring_geom g = geometry(bar & 1 ? FORMAT_NV12 : FORMAT_I420, size[0], size[1]);
			int yuv[3], want[3];
			AVFrame *f;
			uint8_t *slot;

			if (i % 2 == 0) /* nothing to scale */
				g = geometry(bar & 2 ? FORMAT_I420 : FORMAT_NV12, 642, (uint32_t)sources[i].height);
			define_yuv(rgb, sources[i].red, sources[i].blue, sources[i].range == AVCOL_RANGE_JPEG, yuv);
			define_yuv(rgb, 0.2126, 0.0722, false, want);
			f = picture(sources[i].format, 642, sources[i].height, yuv[0], yuv[1] > 255 ? 255 : yuv[1],
			    yuv[2] > 255 ? 255 : yuv[2]);
			f->colorspace = sources[i].space;
			f->color_range = sources[i].range;
			slot = scaled(f, &g);
			expect_yuv(slot, &g, want, 2, sources[i].name);
			free(slot);
			av_frame_free(&f);
		}
}

/* RGB has no matrix: it gets the ring's. */
Test(ing_scale, rgb_sources_into_a_yuv_ring)
{
	const double red[3] = { 1, 0, 0 };
	struct ring_geom g = geometry(FORMAT_I420, 320, 180);
	AVFrame *f = picture(AV_PIX_FMT_GBRP, 640, 360, 0, 0, 255);
	uint8_t *slot;
	int want[3];

	f->colorspace = AVCOL_SPC_RGB;
	f->color_range = AVCOL_RANGE_JPEG;
	slot = scaled(f, &g);
	define_yuv(red, 0.2126, 0.0722, false, want);
	expect_yuv(slot, &g, want, 2, "GBRP");
	free(slot);
	av_frame_free(&f);
}

Test(ing_scale, the_middle_is_shown)
{
	struct ring_geom g = geometry(FORMAT_NV12, 512, 512);
	AVFrame *f = picture(AV_PIX_FMT_YUV420P, 640, 360, 50, 128, 128);
	uint8_t *slot;

	/* Bright left and right of what a centre crop shows: columns 140 to 499. */
	for (int y = 0; y < 360; y++) {
		memset(f->data[0] + y * f->linesize[0], 200, 138);
		memset(f->data[0] + y * f->linesize[0] + 502, 200, 138);
	}
	slot = scaled(f, &g);
	for (int y = 0; y < 512; y++) {
		cr_assert_leq(slot[(size_t)y * g.layout.stride[0]], 60);
		cr_assert_leq(slot[(size_t)y * g.layout.stride[0] + 511], 60);
		cr_assert_eq(slot[g.layout.offset[1] + (size_t)(y / 2) * g.layout.stride[1]], 128);
	}
	free(slot);
	av_frame_free(&f);
}

/* ---- sound ------------------------------------------------------------ */

static AVFrame *
sound(int rate, int channels, enum AVSampleFormat format, int samples, int64_t first)
{
	AVFrame *f = av_frame_alloc();

	f->format = format;
	f->sample_rate = rate;
	f->nb_samples = samples;
	av_channel_layout_default(&f->ch_layout, channels);
	cr_assert_eq(av_frame_get_buffer(f, 0), 0);
	for (int c = 0; c < channels; c++)
		for (int i = 0; i < samples; i++) {
			double v = sin(2 * M_PI * 440 * (double)(first + i) / rate) * 0.5;

			if (format == AV_SAMPLE_FMT_FLTP)
				((float *)(void *)f->extended_data[c])[i] = (float)v;
			else
				((int16_t *)(void *)f->extended_data[0])[i * channels + c] = (int16_t)(v * 32767);
		}
	return f;
}

struct heard {
	unsigned blocks;
	int64_t first_ns, last_ns;
	bool even; /* each block 20 ms after the one before */
	double energy;
	int channels;
};

static void
listen(struct ing_audio *a, struct heard *h)
{
	const float *block;
	int64_t pts;

	while (ing_audio_peek(a, &block, &pts)) {
		if (h->blocks == 0)
			h->first_ns = pts;
		else if (llabs(pts - h->last_ns - 20 * CLOCK_MS_NS) > 1)
			h->even = false;
		h->last_ns = pts;
		h->channels = a->channels;
		for (int i = 0; i < ING_AUDIO_BLOCK * a->channels; i++)
			h->energy += (double)block[i] * block[i];
		h->blocks++;
		ing_audio_pop(a);
	}
}

static struct heard
play(struct ing_audio *a, int rate, int channels, enum AVSampleFormat format, int samples, int frames, int64_t start_ns,
    bool stamps)
{
	struct heard h = { .even = true };

	for (int i = 0; i < frames; i++) {
		AVFrame *f = sound(rate, channels, format, samples, (int64_t)i * samples);
		int64_t pts = start_ns + (int64_t)i * samples * 1000000000 / rate;

		/* Source timestamps are rounded to 90 kHz, as in MPEG-TS. */
		pts = pts / 100000 * 100000;
		cr_assert_eq(ing_audio_push(a, f, stamps || i == 0 ? pts : INT64_MIN), 0);
		listen(a, &h);
		av_frame_free(&f);
	}
	return h;
}

Test(ing_audio, formats)
{
	static const struct {
		int rate, channels;
		enum AVSampleFormat format;
		int samples, out;
	} cases[] = {
		{ 48000, 2, AV_SAMPLE_FMT_FLTP, 960, 2 }, { 44100, 2, AV_SAMPLE_FMT_FLTP, 1024, 2 },
		{ 44100, 1, AV_SAMPLE_FMT_FLTP, 1024, 1 }, { 48000, 6, AV_SAMPLE_FMT_FLTP, 1024, 2 },
		{ 16000, 1, AV_SAMPLE_FMT_S16, 320, 1 }, { 96000, 2, AV_SAMPLE_FMT_S16, 4096, 2 },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct ing_audio a = { 0 };
		int frames = 2 * cases[i].rate / cases[i].samples;
		struct heard h = play(&a, cases[i].rate, cases[i].channels, cases[i].format, cases[i].samples, frames,
		    5 * CLOCK_SEC_NS, true);

		cr_expect(h.even, "case %zu", i);
		cr_expect_eq(h.channels, cases[i].out);
		cr_expect_geq(h.blocks, 95, "case %zu: %u", i, h.blocks);
		cr_expect_lt(llabs(h.first_ns - 5 * CLOCK_SEC_NS), CLOCK_MS_NS);
		if (cases[i].channels <= 2)
			cr_expect(fabs(h.energy / (h.blocks * (double)ING_AUDIO_BLOCK * h.channels) - 0.125) < 0.005);
		ing_audio_fini(&a);
	}
}

Test(ing_audio, timestamps_only_at_the_start)
{
	struct ing_audio a = { 0 };
	struct heard h = play(&a, 44100, 2, AV_SAMPLE_FMT_FLTP, 1024, 100, 0, false);

	cr_expect(h.even);
	cr_expect_geq(h.blocks, 114);
	ing_audio_fini(&a);
}

Test(ing_audio, a_hole_and_a_step_back)
{
	struct ing_audio a = { 0 };
	struct heard h = play(&a, 48000, 2, AV_SAMPLE_FMT_FLTP, 960, 50, 0, true);
	int64_t last = h.last_ns;

	h = play(&a, 48000, 2, AV_SAMPLE_FMT_FLTP, 960, 50, 3 * CLOCK_SEC_NS, true);
	cr_expect_eq(h.first_ns, 3 * CLOCK_SEC_NS);
	cr_expect_gt(h.first_ns, last);
	last = h.last_ns;
	h = play(&a, 48000, 2, AV_SAMPLE_FMT_FLTP, 960, 50, last - 400 * CLOCK_MS_NS, true);
	cr_expect_gt(h.first_ns, last, "what was heard is not heard again");
	cr_expect_eq(a.dropped, 21);
	ing_audio_fini(&a);
}

Test(ing_audio, small_jitter_is_ignored)
{
	struct ing_audio a = { 0 };
	struct heard h = { .even = true };

	srand(9);
	for (int i = 0; i < 500; i++) {
		AVFrame *f = sound(48000, 2, AV_SAMPLE_FMT_FLTP, 960, i * 960);

		int64_t jitter = i > 0 ? (rand() % 60 - 30) * CLOCK_MS_NS : 0;

		cr_assert_eq(ing_audio_push(&a, f, CLOCK_SEC_NS + i * 20 * CLOCK_MS_NS + jitter), 0);
		listen(&a, &h);
		av_frame_free(&f);
	}
	cr_expect(h.even);
	cr_expect_eq(h.blocks, 500);
	ing_audio_fini(&a);
}

Test(ing_audio, the_format_changes)
{
	struct ing_audio a = { 0 };
	struct heard h = play(&a, 44100, 2, AV_SAMPLE_FMT_FLTP, 1024, 40, 0, true);

	cr_expect_eq(h.channels, 2);
	h = play(&a, 48000, 1, AV_SAMPLE_FMT_S16, 960, 40, CLOCK_SEC_NS, true);
	cr_expect_eq(h.channels, 2, "the ring's stays");
	cr_expect_geq(h.blocks, 39);
	cr_expect(h.even);
	ing_audio_fini(&a);
}

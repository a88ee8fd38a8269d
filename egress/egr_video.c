/* SPDX-License-Identifier: MIT */
/*
 * Pictures to H.264
 *
 * Two pictures belong to us: `last`, the newest processed one, and `work`, everything else that has to be converted or
 * drawn. The encoder copies what it is given before it returns, so both can be written again at once; a picture that
 * is encoded from a ring's slot is wrapped in a buffer that frees nothing.
 *
 * Rate: constant quality, with a ceiling. A reader of the output holds 5 MB and wants that to be much more than 2.5 s,
 * so the ceiling is 6 Mb/s at 512x512, grows with the root of the area and ends at 12 Mb/s.
 *
 * Colour: RGB has no matrix; the output has BT.709 from 720 lines on and BT.601 below, and says so. YUV rings are
 * BT.709 by contract (proto/format.h) and pass unchanged.
 */
#include "egress/egr_video.h"
#include "base/assert.h"
#include "base/err.h"
#include "base/log.h"

#include <errno.h>
#include <libavcodec/avcodec.h>
#include <libavutil/imgutils.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "egress/egr_priv.h"

struct converter {
	struct SwsContext *sws;
	enum AVPixelFormat from;
	int width, height;
};

struct egr_video {
	struct egr_video_config config;
	AVCodecContext *encoder; /* NULL: to be opened */
	AVCodecParameters *parameters;
	AVPacket *packet;
	AVFrame *last, *work, *wrap;
	AVFrame *sent; /* what was encoded last, if it is last or work */
	bool has_last, bt709, fresh; /* fresh: the encoder has not had a picture yet */
	enum AVPixelFormat pix_fmt;
	struct converter converters[EGR_SOURCE_COUNT];
	uint8_t *planes8; /* float pictures as bytes */
	size_t planes8_bytes;
};

static bool
is_yuv(enum format_id format)
{
	return format == FORMAT_NV12 || format == FORMAT_I420;
}

static enum AVPixelFormat
av_format(enum format_id format)
{
	switch (format) {
	case FORMAT_RGB24:
		return AV_PIX_FMT_RGB24;
	case FORMAT_RGBA:
		return AV_PIX_FMT_RGB0; /* alpha means nothing here */
	case FORMAT_BGR24:
		return AV_PIX_FMT_BGR24;
	case FORMAT_NV12:
		return AV_PIX_FMT_NV12;
	case FORMAT_I420:
		return AV_PIX_FMT_YUV420P;
	case FORMAT_RGBF32P:
		return AV_PIX_FMT_GBRP; /* after planes_to_bytes() */
	default:
		return AV_PIX_FMT_NONE;
	}
}

static int64_t
rate_ceiling(uint32_t width, uint32_t height)
{
	double bits = 6e6 * sqrt((double)width * height / (512.0 * 512.0));

	return (int64_t)(bits < 2e6 ? 2e6 : bits > 12e6 ? 12e6 : bits);
}

static void
describe(const struct egr_video *v, AVCodecContext *e)
{
	e->width = (int)v->config.width;
	e->height = (int)v->config.height;
	e->pix_fmt = v->pix_fmt;
	e->time_base = (AVRational){ 1, 90000 };
	e->framerate = v->config.rate_num != 0 && v->config.rate_den != 0 ?
	    (AVRational){ (int)v->config.rate_num, (int)v->config.rate_den } : (AVRational){ 24, 1 };
	e->sample_aspect_ratio = (AVRational){ 1, 1 };
	e->gop_size = 600; /* only a bound: IDRs are asked for */
	e->max_b_frames = 0;
	e->thread_count = 1;
	e->rc_max_rate = rate_ceiling(v->config.width, v->config.height);
	e->rc_buffer_size = (int)e->rc_max_rate;
	e->color_range = AVCOL_RANGE_MPEG;
	e->colorspace = v->bt709 ? AVCOL_SPC_BT709 : AVCOL_SPC_SMPTE170M;
	e->color_primaries = v->bt709 ? AVCOL_PRI_BT709 : AVCOL_PRI_SMPTE170M;
	e->color_trc = v->bt709 ? AVCOL_TRC_BT709 : AVCOL_TRC_SMPTE170M;
	e->chroma_sample_location = AVCHROMA_LOC_LEFT;
}

/* No global header: SPS and PPS are in front of every IDR. */
static int
encoder_open(struct egr_video *v)
{
	const AVCodec *codec = avcodec_find_encoder_by_name("libx264");
	AVDictionary *options = NULL;
	int r;

	if (codec == NULL)
		return err_origin(-ENOSYS);
	v->encoder = avcodec_alloc_context3(codec);
	if (v->encoder == NULL)
		return err_origin(-ENOMEM);
	describe(v, v->encoder);
	av_dict_set(&options, "preset", "superfast", 0);
	av_dict_set(&options, "tune", "zerolatency", 0);
	av_dict_set(&options, "crf", "23", 0);
	av_dict_set(&options, "forced-idr", "1", 0);
	av_dict_set(&options, "aud", "1", 0);
	r = avcodec_open2(v->encoder, codec, &options);
	av_dict_free(&options);
	if (r >= 0)
		r = avcodec_parameters_from_context(v->parameters, v->encoder);
	if (r < 0) {
		avcodec_free_context(&v->encoder);
		return err_origin(r == AVERROR(ENOMEM) ? -ENOMEM : -EINVAL);
	}
	v->fresh = true;
	return 0;
}

static AVFrame *
picture_new(const struct egr_video *v)
{
	AVFrame *f = av_frame_alloc();

	if (f == NULL)
		return NULL;
	f->format = v->pix_fmt;
	f->width = (int)v->config.width;
	f->height = (int)v->config.height;
	if (av_frame_get_buffer(f, 0) < 0)
		av_frame_free(&f);
	return f;
}

int
egr_video_new(const struct egr_video_config *config, struct egr_video **out)
{
	struct egr_video *v = calloc(1, sizeof(*v));
	int r = -ENOMEM;

	MR_ASSERT(((config->width | config->height) & 1) == 0);
	if (v == NULL)
		return err_origin(-ENOMEM);
	v->config = *config;
	v->bt709 = is_yuv(config->format) || config->height >= 720;
	v->pix_fmt = config->format == FORMAT_NV12 ? AV_PIX_FMT_NV12 : AV_PIX_FMT_YUV420P;
	v->parameters = avcodec_parameters_alloc();
	v->packet = av_packet_alloc();
	v->wrap = av_frame_alloc();
	v->last = picture_new(v);
	v->work = picture_new(v);
	if (v->parameters != NULL && v->packet != NULL && v->wrap != NULL && v->last != NULL && v->work != NULL)
		r = encoder_open(v);
	if (r < 0) {
		egr_video_free(&v);
		return err_trace(r);
	}
	*out = v;
	return 0;
}

void
egr_video_free(struct egr_video **vp)
{
	struct egr_video *v = *vp;

	if (v == NULL)
		return;
	for (int i = 0; i < EGR_SOURCE_COUNT; i++)
		sws_freeContext(v->converters[i].sws);
	avcodec_free_context(&v->encoder);
	avcodec_parameters_free(&v->parameters);
	av_packet_free(&v->packet);
	av_frame_free(&v->last);
	av_frame_free(&v->work);
	av_frame_free(&v->wrap);
	free(v->planes8);
	free(v);
	*vp = NULL;
}

const AVCodecParameters *
egr_video_parameters(const struct egr_video *v)
{
	return v->parameters;
}

/* ---- converting ------------------------------------------------------- */

/* Clamps; what is not a number becomes 0. */
static void
floats_to_bytes(uint8_t *restrict to, const float *restrict from, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		float x = from[i];

		x = x > 0.0f ? x : 0.0f;
		x = x < 1.0f ? x : 1.0f;
		to[i] = (uint8_t)(int)(x * 255.0f + 0.5f);
	}
}

/* Planes of floats to planes of bytes; rows are tight in both. */
static int
planes_to_bytes(struct egr_video *v, const struct egr_view *view)
{
	size_t plane = (size_t)view->width * view->height;

	if (v->planes8_bytes < plane * 3 + AV_INPUT_BUFFER_PADDING_SIZE) {
		free(v->planes8);
		v->planes8_bytes = plane * 3 + AV_INPUT_BUFFER_PADDING_SIZE;
		v->planes8 = malloc(v->planes8_bytes);
		if (v->planes8 == NULL) {
			v->planes8_bytes = 0;
			return err_origin(-ENOMEM);
		}
	}
	for (int i = 0; i < 3; i++)
		floats_to_bytes(v->planes8 + plane * (size_t)i, (const float *)(view->data + view->layout.offset[i]),
		    plane);
	return 0;
}

/* Where the planes of a picture are, in the order of its FFmpeg format. */
static int
view_planes(struct egr_video *v, const struct egr_view *view, const uint8_t *plane[4], int stride[4])
{
	memset(plane, 0, 4 * sizeof(plane[0]));
	memset(stride, 0, 4 * sizeof(stride[0]));
	if (view->format == FORMAT_RGBF32P) {
		static const unsigned rgb_of_gbr[3] = { 1, 2, 0 };
		size_t bytes = (size_t)view->width * view->height;
		int r = planes_to_bytes(v, view);

		if (r < 0)
			return err_trace(r);
		for (int i = 0; i < 3; i++) {
			plane[i] = v->planes8 + bytes * rgb_of_gbr[i];
			stride[i] = (int)view->width;
		}
		return 0;
	}
	for (uint32_t i = 0; i < view->layout.plane_count && i < 4; i++) {
		plane[i] = view->data + view->layout.offset[i];
		stride[i] = (int)view->layout.stride[i];
	}
	return 0;
}

static struct SwsContext *
converter_get(struct egr_video *v, enum egr_source source, const struct egr_view *view)
{
	struct converter *c = &v->converters[source];
	enum AVPixelFormat from = av_format(view->format);
	int w = (int)view->width, h = (int)view->height, ow = (int)v->config.width, oh = (int)v->config.height;
	const int *matrix = sws_getCoefficients(v->bt709 ? SWS_CS_ITU709 : SWS_CS_SMPTE170M);

	if (c->sws != NULL && c->from == from && c->width == w && c->height == h)
		return c->sws;
	sws_freeContext(c->sws);
	c->from = from;
	c->width = w;
	c->height = h;
	c->sws = sws_getContext(w, h, from, ow, oh, v->pix_fmt, w == ow && h == oh ? SWS_BILINEAR : SWS_BICUBIC,
	    NULL, NULL, NULL);
	if (c->sws != NULL)
		sws_setColorspaceDetails(c->sws, matrix, is_yuv(view->format) ? 0 : 1, matrix, 0, 0, 1 << 16, 1 << 16);
	return c->sws;
}

static bool
needs_no_conversion(const struct egr_video *v, const struct egr_view *view)
{
	return av_format(view->format) == v->pix_fmt && view->width == v->config.width &&
	    view->height == v->config.height;
}

static int
convert(struct egr_video *v, enum egr_source source, const struct egr_view *view, AVFrame *to)
{
	const uint8_t *plane[4];
	int stride[4];
	struct SwsContext *sws;
	int r = view_planes(v, view, plane, stride);

	if (r < 0)
		return err_trace(r);
	if (av_frame_make_writable(to) < 0)
		return err_origin(-ENOMEM);
	if (needs_no_conversion(v, view)) {
		av_image_copy(to->data, to->linesize, plane, stride, v->pix_fmt, to->width, to->height);
		return 0;
	}
	sws = converter_get(v, source, view);
	if (sws == NULL)
		return err_origin(-EINVAL);
	if (sws_scale(sws, plane, stride, 0, (int)view->height, to->data, to->linesize) <= 0)
		return err_origin(-EINVAL);
	return 0;
}

/* ---- encoding --------------------------------------------------------- */

static int
take_packets(struct egr_video *v)
{
	int r, count = 0;

	while ((r = avcodec_receive_packet(v->encoder, v->packet)) == 0) {
		v->config.packet(v->config.arg, v->packet);
		av_packet_unref(v->packet);
		count++;
	}
	if (r != AVERROR(EAGAIN) && r != AVERROR_EOF)
		return err_origin(-EIO);
	return count > 0 ? 0 : err_origin(-EAGAIN);
}

static int
encode(struct egr_video *v, AVFrame *f, int64_t ticks, bool idr)
{
	int r;

	if (v->encoder == NULL && (r = encoder_open(v)) < 0)
		return err_trace(r);
	f->pts = ticks;
	f->pict_type = idr || v->fresh ? AV_PICTURE_TYPE_I : AV_PICTURE_TYPE_NONE;
	f->color_range = AVCOL_RANGE_MPEG;
	v->fresh = false;
	r = avcodec_send_frame(v->encoder, f) < 0 ? err_origin(-EIO) : take_packets(v);
	if (r < 0) {
		log_warn("video", "encoder-failed", "ticks=%lld next=reopen", (long long)ticks);
		avcodec_free_context(&v->encoder);
		return r;
	}
	return 0;
}

int
egr_video_set_last(struct egr_video *v, const struct egr_view *view)
{
	int r = convert(v, EGR_SOURCE_RESULT, view, v->last);

	if (r < 0)
		return err_trace(r);
	v->has_last = true;
	return 0;
}

bool
egr_video_has_last(const struct egr_video *v)
{
	return v->has_last;
}

int
egr_video_encode_last(struct egr_video *v, int64_t ticks, bool idr)
{
	MR_ASSERT(v->has_last);
	v->sent = v->last;
	return encode(v, v->last, ticks, idr);
}

static void
free_nothing(void *opaque, uint8_t *data)
{
	(void)opaque;
	(void)data;
}

/* Encodes from the picture's own memory. */
static int
encode_in_place(struct egr_video *v, const struct egr_view *view, int64_t ticks, bool idr)
{
	const uint8_t *plane[4];
	int stride[4];
	int r = view_planes(v, view, plane, stride);

	if (r < 0)
		return err_trace(r);
	/* The cast is safe: the buffer is marked read-only, and an encoder only reads. */
	v->wrap->buf[0] = av_buffer_create((uint8_t *)(uintptr_t)view->data, (size_t)view->layout.payload_bytes,
	    free_nothing, NULL, AV_BUFFER_FLAG_READONLY);
	if (v->wrap->buf[0] == NULL)
		return err_origin(-ENOMEM);
	for (int i = 0; i < 4; i++) {
		v->wrap->data[i] = (uint8_t *)(uintptr_t)plane[i];
		v->wrap->linesize[i] = stride[i];
	}
	v->wrap->format = v->pix_fmt;
	v->wrap->width = (int)view->width;
	v->wrap->height = (int)view->height;
	r = encode(v, v->wrap, ticks, idr);
	av_frame_unref(v->wrap);
	v->sent = NULL;
	return r;
}

int
egr_video_encode_view(struct egr_video *v, const struct egr_view *view, int64_t ticks, bool idr)
{
	int r;

	if (needs_no_conversion(v, view))
		return encode_in_place(v, view, ticks, idr);
	r = convert(v, EGR_SOURCE_INPUT, view, v->work);
	if (r < 0)
		return err_trace(r);
	v->sent = v->work;
	return encode(v, v->work, ticks, idr);
}

int
egr_video_encode_slate(struct egr_video *v, const struct egr_slate *slate, int64_t ticks, bool idr)
{
	struct egr_canvas canvas = { .width = v->work->width, .height = v->work->height, .bt709 = v->bt709,
		.interleaved = v->pix_fmt == AV_PIX_FMT_NV12 };

	if (av_frame_make_writable(v->work) < 0)
		return err_origin(-ENOMEM);
	for (int i = 0; i < 3; i++) {
		canvas.plane[i] = v->work->data[i];
		canvas.stride[i] = v->work->linesize[i];
	}
	/* Once back and forth in three seconds of output. */
	egr_slate_draw(slate, &canvas, (unsigned)(ticks % 270000 / 270));
	v->sent = v->work;
	return encode(v, v->work, ticks, idr);
}

int
egr_video_encode_again(struct egr_video *v, int64_t ticks, bool idr)
{
	struct egr_slate slate = { .progress_percent = -1 };

	if (v->sent != NULL)
		return encode(v, v->sent, ticks, idr);
	if (v->has_last)
		return egr_video_encode_last(v, ticks, idr);
	return egr_video_encode_slate(v, &slate, ticks, idr);
}

void
egr_video_flush(struct egr_video *v)
{
	if (v->encoder == NULL)
		return;
	if (avcodec_send_frame(v->encoder, NULL) >= 0)
		take_packets(v);
	avcodec_free_context(&v->encoder);
}

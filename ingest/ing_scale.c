/* SPDX-License-Identifier: MIT */
/*
 * Scaling and conversion straight into the ring
 *
 * The crop costs nothing: the source's plane pointers are moved and its size is given smaller. For RGB there are two passes,
 * because libswscale's scaler writes packed RGB with plain C while both a scaler from planar to planar and its unscaled
 * YUV to RGB converter are vectorised: measured for 640x360 to 512x512 rgb24, 0.19 ms (bicubic) in two passes against 0.52
 * ms (bilinear) in one. The picture between the two stays in the cache.
 *
 * Colours: the source's matrix and range as it states them. If it does not, BT.709 from 720 lines on and BT.601 below, as
 * players do. A YUV ring has BT.709 and limited range (proto/format.h): libswscale converts on the way, and copies only what
 * has both already.
 */
#include "ingest/ing_scale.h"

#include <libavutil/imgutils.h>
#include <libavutil/opt.h>
#include <libavutil/pixdesc.h>

#include <errno.h>
#include <string.h>

enum { SCRATCH_ALIGN = 64, SCRATCH_TAIL = 64 };

/* One axis: `from` source pixels appear as `scaled` pixels, of which `to` in the middle are shown. */
static void
window(int from, int64_t scaled, int to, int align, int *start, int *length)
{
	int64_t first = scaled / 2 - to / 2;
	int64_t a, n;

	if (scaled < to) {
		scaled = to;
		first = 0;
	}
	a = (first * from + scaled / 2) / scaled;
	n = ((int64_t)to * from + scaled / 2) / scaled;
	a -= a % align;
	if (n < 1)
		n = 1;
	if (n > from)
		n = from;
	if (a > from - n)
		a = (from - n) / align * align;
	*start = (int)a;
	*length = (int)n;
}

struct ing_crop
ing_crop_compute(const struct ing_crop_args *a)
{
	int64_t num = a->sar_num > 0 && a->sar_den > 0 ? a->sar_num : 1;
	int64_t den = a->sar_num > 0 && a->sar_den > 0 ? a->sar_den : 1;
	struct ing_crop c = { 0, 0, a->width, a->height };
	double shown, scale_x, scale_y;

	/* A ratio out of this world is not one. */
	if (num > 100 * den || den > 100 * num)
		num = den = 1;
	shown = (double)a->width * (double)num / (double)den;
	scale_x = (double)a->to_width / shown;
	scale_y = (double)a->to_height / a->height;
	if (scale_y > scale_x)
		window(a->width, (int64_t)(shown * scale_y / 2 + 1e-9) * 2, a->to_width, a->align_x, &c.x, &c.width);
	else if (scale_x > scale_y)
		window(a->height, (int64_t)(a->height * scale_x / 2 + 1e-9) * 2, a->to_height, a->align_y, &c.y,
		    &c.height);
	return c;
}

/* The "J" formats are a format and a range in one. */
static enum AVPixelFormat
plain_format(enum AVPixelFormat f, int *full)
{
	switch (f) {
	case AV_PIX_FMT_YUVJ420P:
		*full = 1;
		return AV_PIX_FMT_YUV420P;
	case AV_PIX_FMT_YUVJ422P:
		*full = 1;
		return AV_PIX_FMT_YUV422P;
	case AV_PIX_FMT_YUVJ444P:
		*full = 1;
		return AV_PIX_FMT_YUV444P;
	case AV_PIX_FMT_YUVJ440P:
		*full = 1;
		return AV_PIX_FMT_YUV440P;
	case AV_PIX_FMT_YUVJ411P:
		*full = 1;
		return AV_PIX_FMT_YUV411P;
	default:
		return f;
	}
}

static const int *
matrix_of(const AVFrame *frame)
{
	switch (frame->colorspace) {
	case AVCOL_SPC_BT709:
		return sws_getCoefficients(SWS_CS_ITU709);
	case AVCOL_SPC_BT470BG:
	case AVCOL_SPC_SMPTE170M:
		return sws_getCoefficients(SWS_CS_ITU601);
	case AVCOL_SPC_FCC:
		return sws_getCoefficients(SWS_CS_FCC);
	case AVCOL_SPC_SMPTE240M:
		return sws_getCoefficients(SWS_CS_SMPTE240M);
	case AVCOL_SPC_BT2020_NCL:
	case AVCOL_SPC_BT2020_CL:
		return sws_getCoefficients(SWS_CS_BT2020);
	default:
		return sws_getCoefficients(frame->height >= 720 ? SWS_CS_ITU709 : SWS_CS_ITU601);
	}
}

static enum AVPixelFormat
target_format(enum format_id f)
{
	switch (f) {
	case FORMAT_RGB24:
	case FORMAT_RGBF32P:
		return AV_PIX_FMT_RGB24;
	case FORMAT_BGR24:
		return AV_PIX_FMT_BGR24;
	case FORMAT_RGBA:
		return AV_PIX_FMT_RGBA;
	case FORMAT_NV12:
		return AV_PIX_FMT_NV12;
	case FORMAT_I420:
		return AV_PIX_FMT_YUV420P;
	default:
		return AV_PIX_FMT_NONE;
	}
}

static bool
to_rgb(enum format_id f)
{
	return f != FORMAT_NV12 && f != FORMAT_I420;
}

/* `matrix` and `full`: of the source, of the target. */
static struct SwsContext *
context(const int from[2], enum AVPixelFormat from_format, const int to[2], enum AVPixelFormat to_format,
    const int *const matrix[2], const int full[2])
{
	struct SwsContext *c = sws_alloc_context();

	if (c == NULL)
		return NULL;
	av_opt_set_int(c, "srcw", from[0], 0);
	av_opt_set_int(c, "srch", from[1], 0);
	av_opt_set_int(c, "src_format", from_format, 0);
	av_opt_set_int(c, "dstw", to[0], 0);
	av_opt_set_int(c, "dsth", to[1], 0);
	av_opt_set_int(c, "dst_format", to_format, 0);
	av_opt_set_int(c, "sws_flags", SWS_BICUBIC, 0);
	/* Ranges belong here: whether a plain copy will do is decided now and not again. */
	av_opt_set_int(c, "src_range", full[0], 0);
	av_opt_set_int(c, "dst_range", full[1], 0);
	if (sws_init_context(c, NULL, NULL) < 0) {
		sws_freeContext(c);
		return NULL;
	}
	/* A negative answer means that there is nothing to set for these formats. */
	sws_setColorspaceDetails(c, matrix[0], full[0], matrix[1], full[1], 0, 1 << 16, 1 << 16);
	return c;
}

static bool
key_matches(const struct ing_scaler *s, const AVFrame *f, const struct ring_geom *g)
{
	return s->fit != NULL && s->key.format == f->format && s->key.width == f->width && s->key.height == f->height &&
	    s->key.sar_num == f->sample_aspect_ratio.num && s->key.sar_den == f->sample_aspect_ratio.den &&
	    s->key.colorspace == (int)f->colorspace && s->key.range == (int)f->color_range && s->key.to == g->format &&
	    s->key.to_width == g->width && s->key.to_height == g->height;
}

static size_t
scratch_width(const struct ring_geom *g)
{
	return (g->width + SCRATCH_ALIGN - 1) / SCRATCH_ALIGN * SCRATCH_ALIGN;
}

/* The vectorised converter writes eight pixels at a time and leaves out those that would cross the end of a row: then RGB
 * needs a picture with wider rows first. Floats need bytes first in any case. */
static bool
packed_apart(const struct ring_geom *g)
{
	return g->format == FORMAT_RGBF32P || g->width % 8 != 0;
}

static int
set_scratch(struct ing_scaler *s, const struct ring_geom *g)
{
	size_t w = scratch_width(g), h = (g->height + 1) / 2 * 2;

	av_freep(&s->scratch);
	s->packed_offset = w * h * 2;
	s->scratch = av_malloc(s->packed_offset + (packed_apart(g) ? w * h * 4 : 0) + SCRATCH_TAIL);
	return s->scratch != NULL ? 0 : -ENOMEM;
}

/* Planes of the 4:2:0 picture between the two passes. */
static void
scratch_planes(const struct ing_scaler *s, const struct ring_geom *g, uint8_t *data[4], int stride[4])
{
	size_t w = scratch_width(g), h = (g->height + 1) / 2 * 2;

	data[0] = s->scratch;
	data[1] = data[0] + w * h;
	data[2] = data[1] + w * (h / 2);
	data[3] = NULL;
	stride[0] = (int)w;
	stride[1] = stride[2] = (int)w;
	stride[3] = 0;
}

static int
prepare(struct ing_scaler *s, const AVFrame *f, const struct ring_geom *g)
{
	const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get((enum AVPixelFormat)f->format);
	int full = f->color_range == AVCOL_RANGE_JPEG;
	enum AVPixelFormat from = plain_format((enum AVPixelFormat)f->format, &full);
	const int to[2] = { (int)g->width, (int)g->height };
	bool rgb = to_rgb(g->format);
	const int *matrix = matrix_of(f);
	const int *ring_matrix = rgb ? matrix : sws_getCoefficients(SWS_CS_ITU709);

	ing_scaler_fini(s);
	if (desc == NULL || (desc->flags & (AV_PIX_FMT_FLAG_HWACCEL | AV_PIX_FMT_FLAG_BITSTREAM | AV_PIX_FMT_FLAG_PAL)) != 0 ||
	    !sws_isSupportedInput(from))
		return -ENOTSUP;
	s->crop = ing_crop_compute(&(struct ing_crop_args){ f->width, f->height, f->sample_aspect_ratio.num,
	    f->sample_aspect_ratio.den, 1 << desc->log2_chroma_w, 1 << desc->log2_chroma_h, to[0], to[1] });
	s->fit = context((const int[2]){ s->crop.width, s->crop.height }, from, to,
	    rgb ? AV_PIX_FMT_YUV420P : target_format(g->format), (const int *const[2]){ matrix, ring_matrix },
	    (const int[2]){ full, rgb ? full : 0 });
	if (rgb)
		s->convert = context(to, AV_PIX_FMT_YUV420P, to, target_format(g->format),
		    (const int *const[2]){ matrix, matrix }, (const int[2]){ full, 1 });
	if (s->fit == NULL || (rgb && s->convert == NULL) || (rgb && set_scratch(s, g) != 0)) {
		ing_scaler_fini(s);
		return -ENOMEM;
	}
	s->key.format = f->format;
	s->key.width = f->width;
	s->key.height = f->height;
	s->key.sar_num = f->sample_aspect_ratio.num;
	s->key.sar_den = f->sample_aspect_ratio.den;
	s->key.colorspace = (int)f->colorspace;
	s->key.range = (int)f->color_range;
	s->key.to = g->format;
	s->key.to_width = g->width;
	s->key.to_height = g->height;
	return 0;
}

/* The source's planes, moved to the first pixel of the crop. */
static void
source_planes(const struct ing_scaler *s, const AVFrame *f, const uint8_t *data[4])
{
	const AVPixFmtDescriptor *desc = av_pix_fmt_desc_get((enum AVPixelFormat)f->format);

	for (int i = 0; i < 4; i++) {
		int y = i == 1 || i == 2 ? s->crop.y >> desc->log2_chroma_h : s->crop.y;
		int x = s->crop.x > 0 ? av_image_get_linesize((enum AVPixelFormat)f->format, s->crop.x, i) : 0;

		data[i] = f->data[i] != NULL ? f->data[i] + (ptrdiff_t)y * f->linesize[i] + (x > 0 ? x : 0) : NULL;
	}
}

/* One row of packed RGB bytes to three rows of floats. */
static void
to_floats(const uint8_t *rgb, size_t n, float *r, float *g, float *b)
{
	const float unit = 1.0f / 255.0f;

	for (size_t i = 0; i < n; i++) {
		r[i] = (float)rgb[3 * i] * unit;
		g[i] = (float)rgb[3 * i + 1] * unit;
		b[i] = (float)rgb[3 * i + 2] * unit;
	}
}

static float *
float_row(uint8_t *slot, const struct ring_geom *g, unsigned plane, uint32_t y)
{
	return (float *)(void *)(slot + g->layout.offset[plane] + (size_t)y * g->layout.stride[plane]);
}

static void
from_packed(const struct ing_scaler *s, const struct ring_geom *g, size_t stride, uint8_t *slot)
{
	const uint8_t *row = s->scratch + s->packed_offset;

	for (uint32_t y = 0; y < g->height; y++, row += stride) {
		if (g->format == FORMAT_RGBF32P)
			to_floats(row, g->width, float_row(slot, g, 0, y), float_row(slot, g, 1, y),
			    float_row(slot, g, 2, y));
		else
			memcpy(slot + (size_t)y * g->layout.stride[0], row, g->layout.stride[0]);
	}
}

static void
scale_rgb(struct ing_scaler *s, const uint8_t *const *src, const int *src_stride, const struct ring_geom *g, uint8_t *slot)
{
	bool apart = packed_apart(g);
	size_t packed_stride = scratch_width(g) * (g->format == FORMAT_RGBA ? 4 : 3);
	uint8_t *mid[4], *dst[4] = { apart ? s->scratch + s->packed_offset : slot, NULL, NULL, NULL };
	int mid_stride[4], dst_stride[4] = { apart ? (int)packed_stride : (int)g->layout.stride[0], 0, 0, 0 };

	scratch_planes(s, g, mid, mid_stride);
	sws_scale(s->fit, src, src_stride, 0, s->crop.height, mid, mid_stride);
	sws_scale(s->convert, (const uint8_t *const *)mid, mid_stride, 0, (int)g->height, dst, dst_stride);
	if (apart)
		from_packed(s, g, packed_stride, slot);
}

int
ing_scale(struct ing_scaler *s, const AVFrame *f, const struct ring_geom *g, uint8_t *slot)
{
	const uint8_t *src[4];
	uint8_t *dst[4] = { NULL, NULL, NULL, NULL };
	int dst_stride[4] = { 0, 0, 0, 0 }, r;

	if (!key_matches(s, f, g) && (r = prepare(s, f, g)) != 0)
		return r;
	source_planes(s, f, src);
	if (to_rgb(g->format)) {
		scale_rgb(s, src, f->linesize, g, slot);
		return 0;
	}
	for (uint32_t i = 0; i < g->layout.plane_count; i++) {
		dst[i] = slot + g->layout.offset[i];
		dst_stride[i] = (int)g->layout.stride[i];
	}
	sws_scale(s->fit, src, f->linesize, 0, s->crop.height, dst, dst_stride);
	return 0;
}

void
ing_scaler_fini(struct ing_scaler *s)
{
	sws_freeContext(s->fit);
	sws_freeContext(s->convert);
	s->fit = s->convert = NULL;
	av_freep(&s->scratch);
}

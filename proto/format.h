/* SPDX-License-Identifier: MIT */
/*
 * Frame formats and their geometry
 *
 * Numbers are part of the worker protocol: append only. The layout of a format is computed here, in one place, and
 * announced in CTL_RING_OPEN; every receiver repeats the computation and compares.
 */
#ifndef MR_PROTO_FORMAT_H
#define MR_PROTO_FORMAT_H

#include <stdbool.h>
#include <stdint.h>

enum format_id {
	FORMAT_NONE = 0,
	FORMAT_RGB24 = 1, /* packed 8-bit R G B */
	FORMAT_RGBA = 2,  /* packed 8-bit R G B A */
	FORMAT_BGR24 = 3, /* packed 8-bit B G R */
	FORMAT_NV12 = 4,  /* Y plane, interleaved UV plane at half size; BT.709 limited range unless said otherwise */
	FORMAT_I420 = 5,  /* Y, U, V planes */
	FORMAT_RGBF32P = 6, /* three planes R, G, B of 32-bit floats, 0.0 to 1.0 */
	FORMAT_VIDEO_COUNT = 7,
	FORMAT_F32 = 32, /* audio: interleaved 32-bit floats, -1.0 to 1.0 */
};

enum { FORMAT_PLANES_MAX = 4, FORMAT_SIDE_MIN = 16, FORMAT_SIDE_MAX = 8192 };

struct format_layout {
	uint32_t plane_count;
	uint32_t offset[FORMAT_PLANES_MAX]; /* of each plane from the start of the payload, bytes */
	uint32_t stride[FORMAT_PLANES_MAX]; /* of a row, bytes; multiple of 32 for planar formats, tight for packed */
	uint64_t payload_bytes;		    /* of one frame */
};

/* Rows of packed formats are tight (stride = width x bytes a pixel), as numpy and models expect.
 * false: unknown format, or a side outside FORMAT_SIDE_MIN..MAX, or an odd side of a subsampled format. */
bool format_video_layout(enum format_id format, uint32_t width, uint32_t height, struct format_layout *out);

/* "rgb24" and so on; NULL for an unknown number. */
const char *format_name(enum format_id format);
/* FORMAT_NONE for an unknown name. */
enum format_id format_from_name(const char *name);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * A decoded picture into a ring slot: scaled so that it covers the target, the centre cut out, converted
 *
 * The display aspect ratio counts (sample aspect ratio respected). Rows and planes go where the ring's geometry says. YUV
 * rings get BT.709 and limited range, whatever the source has.
 */
#ifndef MR_ING_SCALE_H
#define MR_ING_SCALE_H

#include "proto/ring.h"

#include <libavutil/frame.h>
#include <libswscale/swscale.h>

#include <stdbool.h>
#include <stdint.h>

/* The part of the source that the target shows, in source pixels. */
struct ing_crop {
	int x, y, width, height;
};

struct ing_crop_args {
	int width, height;	 /* of the source */
	int sar_num, sar_den;	 /* of its pixels; 0: square */
	int align_x, align_y;	 /* chroma subsampling: 1 or a small power of two */
	int to_width, to_height; /* of the target */
};
/*
 * Cover and centre: the source is thought scaled with its aspect kept, the other dimension being int(x / 2) * 2, and cut at
 * dim / 2 - target / 2; the result is that window in source pixels, aligned.
 */
struct ing_crop ing_crop_compute(const struct ing_crop_args *a);

struct ing_scaler {
	struct SwsContext *fit;	    /* source to the target's size */
	struct SwsContext *convert; /* planar YUV of the target's size to RGB */
	uint8_t *scratch;	    /* the picture between the two; behind it RGB that cannot go straight into the slot */
	size_t packed_offset;
	struct {
		int format, width, height, sar_num, sar_den, colorspace, range;
		enum format_id to;
		uint32_t to_width, to_height;
	} key; /* what the contexts were made for */
	struct ing_crop crop;
};

/* Writes geom->layout.payload_bytes to `slot`. 0; -ENOTSUP: a pixel format that cannot be scaled; -ENOMEM. */
int ing_scale(struct ing_scaler *s, const AVFrame *frame, const struct ring_geom *geom, uint8_t *slot);
void ing_scaler_fini(struct ing_scaler *s);

#endif

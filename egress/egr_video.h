/* SPDX-License-Identifier: MIT */
/*
 * Pictures to H.264
 *
 * Pictures come in any format of the frame rings and are converted straight into the encoder's picture; one of the
 * right size in the encoder's own format is encoded where it lies. Their bytes may change while they are read: only
 * the scaler and the encoder look at them. The newest processed picture is kept as the encoder sees it, so that it can
 * be sent again without its ring. Every call gives its packets to the sink before it returns (no delay). An encoder
 * that fails is opened again with the next picture, beginning with an IDR.
 */
#ifndef MR_EGR_VIDEO_H
#define MR_EGR_VIDEO_H

#include "egress/egr_slate.h"
#include "proto/format.h"

#include <stdbool.h>
#include <stdint.h>

struct AVCodecParameters;
struct AVPacket;
struct egr_video;

/* A picture in somebody's memory. */
struct egr_view {
	const uint8_t *data; /* layout.payload_bytes, readable RING_TAIL_BYTES further */
	enum format_id format;
	uint32_t width, height;
	struct format_layout layout;
};

struct egr_video_config {
	uint32_t width, height; /* even */
	enum format_id format;	/* of the rings: decides the colour matrix, and NV12 is encoded as NV12 */
	uint32_t rate_num, rate_den; /* frames a second, a hint for the rate control; 0/x: unknown */
	/* pts is in 1/90000; key frames begin with SPS and PPS. The packet is the sink's during the call. */
	void (*packet)(void *arg, struct AVPacket *packet);
	void *arg;
};

/* 0, or -errno; *out is the caller's. */
int egr_video_new(const struct egr_video_config *config, struct egr_video **out);
void egr_video_free(struct egr_video **v);
/* Of the encoder, for a muxer; valid until egr_video_free(). */
const struct AVCodecParameters *egr_video_parameters(const struct egr_video *v);

/* Which converter a view uses: each remembers one geometry. */
enum egr_source { EGR_SOURCE_INPUT, EGR_SOURCE_RESULT, EGR_SOURCE_COUNT };

/* Makes `view` the newest processed picture. 0, or -errno: it cannot be converted. */
int egr_video_set_last(struct egr_video *v, const struct egr_view *view);
bool egr_video_has_last(const struct egr_video *v);

/* Encodes one picture. `idr`: as an IDR. 0, or -errno: nothing came out. */
int egr_video_encode_view(struct egr_video *v, const struct egr_view *view, int64_t ticks, bool idr);
int egr_video_encode_last(struct egr_video *v, int64_t ticks, bool idr);
int egr_video_encode_slate(struct egr_video *v, const struct egr_slate *slate, int64_t ticks, bool idr);
/* The picture that was encoded last, again. */
int egr_video_encode_again(struct egr_video *v, int64_t ticks, bool idr);
/* What the encoder still has. */
void egr_video_flush(struct egr_video *v);

#endif

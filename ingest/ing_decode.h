/* SPDX-License-Identifier: MIT */
/*
 * One decoder for one track
 *
 * Latency policy: one thread, no frame threading, low delay: a frame comes out with the packet that completes it unless the
 * codec reorders, and then when its turn has come (ing_early.h, H.264). Errors are counted and decoding goes on; nothing in a stream ends it.
 */
#ifndef MR_ING_DECODE_H
#define MR_ING_DECODE_H

#include "ingest/ing_early.h"
#include "ingest/ing_psi.h"
#include "ingest/ing_time.h"

#include <libavcodec/avcodec.h>

#include <stdbool.h>
#include <stdint.h>

enum { ING_PIXELS_MAX = 8192 * 8192 / 2 };

struct ing_decoder {
	AVCodecContext *ctx; /* NULL: closed */
	struct ing_stream stream;
	bool wait_key; /* show nothing before the next keyframe */
	bool draining, drained;
	struct ing_early early; /* H.264 only */
	uint64_t packets, frames, bad;
};

/* Routes libavutil's log to ours, once. */
void ing_decode_log_setup(void);
/* 0; -ENOSYS: no decoder; -ENOMEM; -EINVAL: refused. */
int ing_decoder_open(struct ing_decoder *d, const struct ing_stream *stream);
void ing_decoder_close(struct ing_decoder *d);
/* Packets are missing: starts afresh at the next keyframe. */
void ing_decoder_gap(struct ing_decoder *d);
/* true: the packet was taken; false: it was refused and counted. Frames must have been received until there were none. */
bool ing_decoder_send(struct ing_decoder *d, const AVPacket *pkt);
/* Asks for what is delayed, before another stream or the end. It is over when ing_decoder_receive() says that there is no
 * frame: a decoder holds no more than its reordering needs. */
void ing_decoder_drain(struct ing_decoder *d);
/* true: `frame` holds one, which the caller unrefs; false: there is none. frame->pts is the session timestamp in ticks or
 * AV_NOPTS_VALUE. */
bool ing_decoder_receive(struct ing_decoder *d, AVFrame *frame);

#endif

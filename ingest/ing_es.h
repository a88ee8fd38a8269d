/* SPDX-License-Identifier: MIT */
/*
 * From PES payloads to packets for a decoder: one access unit each, in a bounded queue
 *
 * Nothing is held back for what may follow: a video access unit ends with its PES.
 */
#ifndef MR_ING_ES_H
#define MR_ING_ES_H

#include "ingest/ing_time.h"

#include <libavcodec/avcodec.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ING_PACKETS_MAX = 512 };

/* Packets in the order in which they arrived, both tracks; stream_index is the track. */
struct ing_packets {
	AVPacket *queue[ING_PACKETS_MAX]; /* allocated once */
	unsigned head, count;
	uint64_t overflow;
};

/* 0 or -ENOMEM. */
int ing_packets_init(struct ing_packets *q);
void ing_packets_fini(struct ing_packets *q);
/* The oldest, still owned by the queue; NULL: none. */
AVPacket *ing_packets_head(struct ing_packets *q);
void ing_packets_drop_head(struct ing_packets *q);

struct ing_es {
	enum AVCodecID codec; /* AV_CODEC_ID_NONE: closed */
	enum ing_track track;
	AVCodecContext *parser_ctx;
	AVCodecParserContext *parser;
	uint64_t bad; /* payloads without an access unit */
};

/* 0, -ENOMEM. Closes what was open before. */
int ing_es_open(struct ing_es *es, enum AVCodecID codec, enum ing_track track);
void ing_es_close(struct ing_es *es);
/* Forgets a partial access unit: bytes are missing. */
void ing_es_reset(struct ing_es *es);
/* Session timestamps in ticks, or AV_NOPTS_VALUE. `data` has 64 readable bytes more. */
void ing_es_push(struct ing_es *es, struct ing_packets *q, const uint8_t *data, size_t bytes, int64_t pts, int64_t dts);

#endif

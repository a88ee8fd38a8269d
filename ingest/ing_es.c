/* SPDX-License-Identifier: MIT */
/*
 * From PES payloads to packets
 *
 * H.264 and HEVC: the PES is cut where a new access unit begins (delimiter, parameter sets or SEI behind a slice);
 * normally there is one in it. Opus: its control headers say where packets end. Other video goes through libavcodec's
 * parser, which is new for each PES so that it never waits for the next one's first byte. Audio goes through a parser that
 * lives on, because an audio frame may cross PES packets.
 */
#include "ingest/ing_es.h"

#include "base/assert.h"

#include <errno.h>
#include <string.h>

int
ing_packets_init(struct ing_packets *q)
{
	memset(q, 0, sizeof(*q));
	for (int i = 0; i < ING_PACKETS_MAX; i++) {
		q->queue[i] = av_packet_alloc();
		if (q->queue[i] == NULL) {
			ing_packets_fini(q);
			return -ENOMEM;
		}
	}
	return 0;
}

void
ing_packets_fini(struct ing_packets *q)
{
	for (int i = 0; i < ING_PACKETS_MAX; i++)
		av_packet_free(&q->queue[i]);
	q->count = 0;
}

AVPacket *
ing_packets_head(struct ing_packets *q)
{
	return q->count != 0 ? q->queue[q->head] : NULL;
}

void
ing_packets_drop_head(struct ing_packets *q)
{
	MR_ASSERT(q->count != 0);
	av_packet_unref(q->queue[q->head]);
	q->head = (q->head + 1) % ING_PACKETS_MAX;
	q->count--;
}

static void
emit(struct ing_es *es, struct ing_packets *q, const uint8_t *data, size_t bytes, int64_t pts, int64_t dts)
{
	AVPacket *pkt;

	if (bytes == 0)
		return;
	pkt = q->queue[(q->head + q->count) % ING_PACKETS_MAX];
	if (q->count == ING_PACKETS_MAX || av_new_packet(pkt, (int)bytes) < 0) {
		q->overflow++;
		return;
	}
	memcpy(pkt->data, data, bytes);
	pkt->pts = pts;
	pkt->dts = dts;
	pkt->stream_index = (int)es->track;
	q->count++;
}

/* ---- H.264, HEVC ------------------------------------------------------ */

/* Next 00 00 01 at or behind p; end: none. */
static const uint8_t *
start_code(const uint8_t *p, const uint8_t *end)
{
	while (end - p >= 4) {
		const uint8_t *one = memchr(p + 2, 1, (size_t)(end - p) - 2);

		if (one == NULL)
			return end;
		if (one[-1] == 0 && one[-2] == 0)
			return one - 2;
		p = one - 1;
	}
	return end;
}

enum nal_kind { NAL_SLICE, NAL_BEGINS_UNIT, NAL_OTHER };

static enum nal_kind
nal_kind(enum AVCodecID codec, uint8_t head)
{
	unsigned type;

	if (codec == AV_CODEC_ID_H264) {
		type = head & 31;
		if (type >= 1 && type <= 5)
			return NAL_SLICE;
		return type >= 6 && type <= 9 ? NAL_BEGINS_UNIT : NAL_OTHER;
	}
	type = head >> 1 & 63;
	if (type <= 31)
		return NAL_SLICE;
	return (type >= 32 && type <= 35) || type == 39 ? NAL_BEGINS_UNIT : NAL_OTHER;
}

static void
split_nals(struct ing_es *es, struct ing_packets *q, const uint8_t *data, size_t bytes, int64_t pts, int64_t dts)
{
	const uint8_t *end = data + bytes, *unit = data, *p = start_code(data, end);
	bool slice = false;

	while (p < end) {
		enum nal_kind kind = nal_kind(es->codec, p[3]);

		if (slice && kind == NAL_BEGINS_UNIT) {
			const uint8_t *cut = p > unit && p[-1] == 0 ? p - 1 : p;

			emit(es, q, unit, (size_t)(cut - unit), pts, dts);
			unit = cut;
			pts = dts = AV_NOPTS_VALUE;
			slice = false;
		}
		slice = slice || kind == NAL_SLICE;
		p = start_code(p + 3, end);
	}
	emit(es, q, unit, (size_t)(end - unit), pts, dts);
}

/* ---- Opus ------------------------------------------------------------- */

/* Parses a control header; its length, or 0 if there is none or the packet does not fit. */
static size_t
opus_header(const uint8_t *p, size_t n, size_t *unit_bytes)
{
	size_t i = 2, unit = 0, head;
	uint8_t c;

	if (n < 3 || p[0] != 0x7f || (p[1] & 0xe0) != 0xe0)
		return 0;
	do {
		if (i >= n)
			return 0;
		c = p[i++];
		unit += c;
	} while (c == 255);
	head = i;
	if (p[1] & 0x10)
		head += 2;
	if (p[1] & 0x08)
		head += 2;
	if (p[1] & 0x04) {
		if (head >= n)
			return 0;
		head += 1 + (size_t)p[head];
	}
	if (head > n || unit > n - head)
		return 0;
	*unit_bytes = unit;
	return head;
}

static void
split_opus(struct ing_es *es, struct ing_packets *q, const uint8_t *p, size_t n, int64_t pts, int64_t dts)
{
	while (n > 0) {
		size_t unit = 0, head = opus_header(p, n, &unit);

		if (head == 0) {
			es->bad++;
			return;
		}
		emit(es, q, p + head, unit, pts, dts);
		pts = dts = AV_NOPTS_VALUE;
		p += head + unit;
		n -= head + unit;
	}
}

/* ---- the rest --------------------------------------------------------- */

static int
parser_open(struct ing_es *es)
{
	av_parser_close(es->parser);
	es->parser = av_parser_init((int)es->codec);
	return es->parser != NULL ? 0 : -ENOMEM;
}

/* Returns the number of bytes used. size 0 flushes. */
static size_t
parse_some(struct ing_es *es, struct ing_packets *q, const uint8_t *p, size_t n, int64_t pts, int64_t dts)
{
	uint8_t *out = NULL;
	int out_bytes = 0, used;

	used = av_parser_parse2(es->parser, es->parser_ctx, &out, &out_bytes, p, (int)n, pts, dts, 0);
	if (out_bytes > 0)
		emit(es, q, out, (size_t)out_bytes, es->parser->pts, es->parser->dts);
	return used > 0 ? (size_t)used : n != 0 && out_bytes > 0 ? 0 : n;
}

static void
split_parser(struct ing_es *es, struct ing_packets *q, const uint8_t *p, size_t n, int64_t pts, int64_t dts)
{
	size_t used;
	int idle = 0;

	if (es->parser == NULL && parser_open(es) != 0) {
		emit(es, q, p, n, pts, dts); /* a codec without a parser: a PES is a frame */
		return;
	}
	while (n > 0 && idle < 2) {
		used = parse_some(es, q, p, n, pts, dts);
		idle = used == 0 ? idle + 1 : 0;
		p += used;
		n -= used;
		pts = dts = AV_NOPTS_VALUE;
	}
	if (es->track == ING_VIDEO) {
		parse_some(es, q, NULL, 0, AV_NOPTS_VALUE, AV_NOPTS_VALUE);
		av_parser_close(es->parser);
		es->parser = NULL;
	}
}

int
ing_es_open(struct ing_es *es, enum AVCodecID codec, enum ing_track track)
{
	ing_es_close(es);
	es->parser_ctx = avcodec_alloc_context3(NULL);
	if (es->parser_ctx == NULL)
		return -ENOMEM;
	es->parser_ctx->codec_id = codec;
	es->parser_ctx->codec_type = avcodec_get_type(codec);
	es->codec = codec;
	es->track = track;
	return 0;
}

void
ing_es_close(struct ing_es *es)
{
	av_parser_close(es->parser);
	es->parser = NULL;
	avcodec_free_context(&es->parser_ctx);
	es->codec = AV_CODEC_ID_NONE;
}

void
ing_es_reset(struct ing_es *es)
{
	av_parser_close(es->parser);
	es->parser = NULL;
}

void
ing_es_push(struct ing_es *es, struct ing_packets *q, const uint8_t *data, size_t bytes, int64_t pts, int64_t dts)
{
	switch (es->codec) {
	case AV_CODEC_ID_NONE:
		break;
	case AV_CODEC_ID_H264:
	case AV_CODEC_ID_HEVC:
		split_nals(es, q, data, bytes, pts, dts);
		break;
	case AV_CODEC_ID_OPUS:
		split_opus(es, q, data, bytes, pts, dts);
		break;
	default:
		split_parser(es, q, data, bytes, pts, dts);
		break;
	}
}

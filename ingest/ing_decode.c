/* SPDX-License-Identifier: MIT */
/*
 * Decoding
 *
 * Low delay is asked for only where it does not change the order of frames: for MPEG-1, -2 and -4 libavcodec takes the flag
 * as a promise that there are no B-frames.
 *
 * After a gap H.264 and HEVC decoders themselves keep silent until they have recovered. Others would show what they make of
 * missing references, so for these frames are left out until a keyframe.
 */
#include "ingest/ing_decode.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- libavutil's log: at most a few lines a second, at debug level ------ */

static int64_t log_window_ns;
static unsigned log_lines;

static void
on_av_log(void *avcl, int level, const char *format, va_list args)
{
	char line[512], quoted[640];
	int prefix = 1;
	int64_t now;

	if (level > AV_LOG_ERROR)
		return;
	now = clock_now_ns();
	if (now - log_window_ns > CLOCK_SEC_NS) {
		log_window_ns = now;
		log_lines = 0;
	}
	if (log_lines++ >= 5)
		return;
	av_log_format_line2(avcl, level, format, args, line, sizeof(line), &prefix);
	line[strcspn(line, "\n")] = '\0';
	log_debug("decode", "message", "text=%s", log_quote(quoted, sizeof(quoted), line));
}

void
ing_decode_log_setup(void)
{
	av_log_set_callback(on_av_log);
}

/* ---- decoder ---------------------------------------------------------- */

/* Identification header of Opus for the channel configurations that MPEG-TS names by a number. */
static int
opus_extradata(AVCodecContext *ctx, unsigned channels)
{
	static const uint8_t streams[9] = { 1, 1, 1, 2, 2, 3, 4, 4, 5 };
	static const uint8_t coupled[9] = { 1, 0, 1, 1, 2, 2, 2, 3, 3 };
	static const uint8_t mapping[9][8] = {
		{ 0, 1 }, { 0 }, { 0, 1 }, { 0, 2, 1 }, { 0, 1, 2, 3 }, { 0, 4, 1, 2, 3 }, { 0, 4, 1, 2, 3, 5 },
		{ 0, 4, 1, 2, 3, 5, 6 }, { 0, 6, 1, 2, 3, 4, 5, 7 },
	};
	unsigned n = channels >= 1 && channels <= 8 ? channels : 2;
	uint8_t *b = av_mallocz(29 + AV_INPUT_BUFFER_PADDING_SIZE);

	if (b == NULL)
		return -ENOMEM;
	memcpy(b, "OpusHead", 8);
	b[8] = 1;
	b[9] = (uint8_t)n;
	b[12] = 0x80; /* 48000 Hz */
	b[13] = 0xbb;
	b[18] = n > 2 ? 1 : 0;
	b[19] = streams[n];
	b[20] = coupled[n];
	memcpy(b + 21, mapping[n], 8);
	ctx->extradata = b;
	ctx->extradata_size = n > 2 ? (int)(21 + n) : 19;
	return 0;
}

static void
configure(AVCodecContext *ctx, const struct ing_stream *stream)
{
	ctx->thread_count = 1;
	ctx->pkt_timebase = (AVRational){ 1, ING_TICKS_SEC };
	ctx->max_pixels = ING_PIXELS_MAX;
	ctx->max_samples = 1 << 20;
	if (stream->codec == AV_CODEC_ID_H264 || stream->codec == AV_CODEC_ID_HEVC)
		ctx->flags |= AV_CODEC_FLAG_LOW_DELAY;
}

int
ing_decoder_open(struct ing_decoder *d, const struct ing_stream *stream)
{
	const AVCodec *codec = avcodec_find_decoder(stream->codec);
	int r = 0;

	ing_decoder_close(d);
	if (codec == NULL)
		return -ENOSYS;
	d->ctx = avcodec_alloc_context3(codec);
	if (d->ctx == NULL)
		return -ENOMEM;
	configure(d->ctx, stream);
	if (stream->codec == AV_CODEC_ID_H264)
		ing_early_attach(&d->early, d->ctx);
	if (stream->codec == AV_CODEC_ID_OPUS)
		r = opus_extradata(d->ctx, stream->opus_channels);
	if (r == 0 && avcodec_open2(d->ctx, codec, NULL) < 0)
		r = -EINVAL;
	if (r != 0) {
		avcodec_free_context(&d->ctx);
		return r;
	}
	d->stream = *stream;
	d->wait_key = true;
	d->draining = d->drained = false;
	d->packets = d->frames = 0;
	log_info("decode", "open", "codec=%s pid=%u", codec->name, stream->pid);
	return 0;
}

void
ing_decoder_close(struct ing_decoder *d)
{
	avcodec_free_context(&d->ctx);
	ing_early_reset(&d->early);
	d->draining = false;
}

void
ing_decoder_gap(struct ing_decoder *d)
{
	if (d->ctx == NULL)
		return;
	avcodec_flush_buffers(d->ctx);
	ing_early_reset(&d->early);
	d->draining = false;
	d->wait_key = true;
}

bool
ing_decoder_send(struct ing_decoder *d, const AVPacket *pkt)
{
	if (d->ctx == NULL)
		return false;
	d->packets++;
	d->drained = false;
	if (avcodec_send_packet(d->ctx, pkt) == 0)
		return true;
	d->bad++;
	return false;
}

void
ing_decoder_drain(struct ing_decoder *d)
{
	if (d->ctx != NULL && !d->draining && avcodec_send_packet(d->ctx, NULL) == 0)
		d->draining = true;
}

static bool
silent(struct ing_decoder *d, const AVFrame *frame)
{
	if (!d->wait_key)
		return false;
	if (d->ctx->codec_type == AVMEDIA_TYPE_VIDEO && d->stream.codec != AV_CODEC_ID_H264 &&
	    d->stream.codec != AV_CODEC_ID_HEVC && !frame->key_frame && frame->pict_type != AV_PICTURE_TYPE_I)
		return true;
	d->wait_key = false;
	return false;
}

bool
ing_decoder_receive(struct ing_decoder *d, AVFrame *frame)
{
	int r = 0, failed = 0;

	/* Bounded: each turn uses up a frame or a packet of the decoder's, or ends. */
	while (d->ctx != NULL) {
		r = avcodec_receive_frame(d->ctx, frame);
		if (r == AVERROR_EOF)
			break;
		if (r == AVERROR(EAGAIN)) {
			if (d->draining || !ing_early_next(&d->early, frame))
				break;
			d->frames++;
			return true;
		}
		if (r < 0) {
			d->bad++;
			if (++failed > 8)
				break;
			continue; /* the packet is used up: there may be more frames */
		}
		if (silent(d, frame)) {
			av_frame_unref(frame);
			continue;
		}
		if (d->stream.codec == AV_CODEC_ID_H264 && !ing_early_ordered(&d->early, frame)) {
			av_frame_unref(frame);
			continue;
		}
		d->frames++;
		if (frame->pts == AV_NOPTS_VALUE)
			frame->pts = frame->best_effort_timestamp;
		return true;
	}
	if (d->draining || r == AVERROR_EOF) {
		avcodec_flush_buffers(d->ctx); /* it takes packets again */
		ing_early_reset(&d->early);
		d->draining = false;
		d->drained = true;
	}
	return false;
}

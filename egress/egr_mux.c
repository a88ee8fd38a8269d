/* SPDX-License-Identifier: MIT */
/*
 * Packets to MPEG-TS segments
 *
 * libavformat's muxer with what delays bytes turned off: no interleaving, no mux delay, no gathering of audio packets
 * into larger ones, a flush after each. PES lengths of video are written when they fit, so that a reader knows
 * the end of a picture with its last byte instead of with the next picture's first.
 *
 * The muxer puts a service description (SDT) in front of the tables; it is of no use here, and a segment begins with
 * its PAT, so those packets are taken out on the way.
 */
#include "egress/egr_mux.h"
#include "base/assert.h"
#include "base/err.h"

#include <errno.h>
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/opt.h>
#include <stdlib.h>
#include <string.h>

#include "egress/egr_priv.h"

enum { TS_BYTES = 188, TS_BUFFER = 188 * 174, TS_PID_SDT = 0x11, WAITING_MAX = 256 };

struct waiting {
	AVPacket *packet;
	bool video, segment;
};

struct egr_mux {
	struct egr_mux_sink sink;
	AVFormatContext *format;
	AVPacket *scratch;
	bool declared, audio;
	struct waiting waiting[WAITING_MAX];
	unsigned waiting_count;
};

#if LIBAVFORMAT_VERSION_MAJOR >= 61
typedef const uint8_t avio_bytes;
#else
typedef uint8_t avio_bytes;
#endif

/* Called with whole TS packets: the buffer is a multiple of their size and is flushed only between packets. */
static int
write_bytes(void *arg, avio_bytes *bytes, int count)
{
	struct egr_mux *m = arg;
	int from = 0;

	MR_ASSERT(count % TS_BYTES == 0);
	for (int at = 0; at < count; at += TS_BYTES) {
		int pid = (bytes[at + 1] & 0x1f) << 8 | bytes[at + 2];

		if (pid != TS_PID_SDT)
			continue;
		if (at > from)
			m->sink.bytes(m->sink.arg, bytes + from, (size_t)(at - from));
		from = at + TS_BYTES;
	}
	if (count > from)
		m->sink.bytes(m->sink.arg, bytes + from, (size_t)(count - from));
	return count;
}

int
egr_mux_new(const struct egr_mux_sink *sink, struct egr_mux **out)
{
	struct egr_mux *m = calloc(1, sizeof(*m));

	if (m == NULL)
		return err_origin(-ENOMEM);
	m->sink = *sink;
	m->scratch = av_packet_alloc();
	if (m->scratch == NULL) {
		free(m);
		return err_origin(-ENOMEM);
	}
	*out = m;
	return 0;
}

static void
format_close(struct egr_mux *m)
{
	if (m->format == NULL)
		return;
	if (m->format->pb != NULL) {
		av_freep(&m->format->pb->buffer);
		avio_context_free(&m->format->pb);
	}
	avformat_free_context(m->format);
	m->format = NULL;
}

void
egr_mux_free(struct egr_mux **mp)
{
	struct egr_mux *m = *mp;

	if (m == NULL)
		return;
	for (unsigned i = 0; i < m->waiting_count; i++)
		av_packet_free(&m->waiting[i].packet);
	format_close(m);
	av_packet_free(&m->scratch);
	free(m);
	*mp = NULL;
}

static int
stream_add(AVFormatContext *f, int pid, const AVCodecParameters *parameters)
{
	AVStream *s = avformat_new_stream(f, NULL);

	if (s == NULL || avcodec_parameters_copy(s->codecpar, parameters) < 0)
		return err_origin(-ENOMEM);
	s->codecpar->codec_tag = 0;
	s->id = pid;
	s->time_base = (AVRational){ 1, 90000 };
	return 0;
}

static int
format_open(struct egr_mux *m, const AVCodecParameters *video, const AVCodecParameters *audio)
{
	AVDictionary *options = NULL;
	uint8_t *buffer;
	int r;

	if (avformat_alloc_output_context2(&m->format, NULL, "mpegts", NULL) < 0)
		return err_origin(-ENOSYS);
	buffer = av_malloc(TS_BUFFER);
	if (buffer != NULL)
		m->format->pb = avio_alloc_context(buffer, TS_BUFFER, 1, m, NULL, write_bytes, NULL);
	if (m->format->pb == NULL) {
		av_free(buffer);
		return err_origin(-ENOMEM);
	}
	m->format->flags |= AVFMT_FLAG_CUSTOM_IO | AVFMT_FLAG_FLUSH_PACKETS;
	m->format->max_delay = 0;
	m->format->avoid_negative_ts = 0;
	r = stream_add(m->format, 0x100, video);
	if (r == 0 && audio != NULL)
		r = stream_add(m->format, 0x101, audio);
	if (r < 0)
		return err_trace(r);
	av_dict_set(&options, "omit_video_pes_length", "0", 0);
	av_dict_set(&options, "pes_payload_size", "0", 0);
	r = avformat_write_header(m->format, &options);
	av_dict_free(&options);
	return r < 0 ? err_origin(-EINVAL) : 0;
}

static int
write_packet(struct egr_mux *m, const AVPacket *packet, bool video, bool segment)
{
	int stream = video ? 0 : 1, r;

	if (segment) {
		av_opt_set(m->format->priv_data, "mpegts_flags", "+resend_headers", 0);
		m->sink.segment_begin(m->sink.arg);
	}
	if (av_packet_ref(m->scratch, packet) < 0)
		return err_origin(-ENOMEM);
	m->scratch->stream_index = stream;
	m->scratch->dts = m->scratch->pts;
	m->scratch->time_base = (AVRational){ 1, 90000 };
	av_packet_rescale_ts(m->scratch, (AVRational){ 1, 90000 }, m->format->streams[stream]->time_base);
	r = av_write_frame(m->format, m->scratch);
	av_packet_unref(m->scratch);
	/* A short audio packet would wait for the next one to share its PES packet. */
	if (r >= 0 && !video)
		r = av_write_frame(m->format, NULL);
	return r < 0 ? err_origin(-EIO) : 0;
}

static int
wait_for_declaration(struct egr_mux *m, const AVPacket *packet, bool video, bool segment)
{
	AVPacket *copy;

	if (m->waiting_count == WAITING_MAX)
		return err_origin(-ENOBUFS);
	copy = av_packet_clone(packet);
	if (copy == NULL)
		return err_origin(-ENOMEM);
	m->waiting[m->waiting_count++] = (struct waiting){ .packet = copy, .video = video, .segment = segment };
	return 0;
}

int
egr_mux_declare(struct egr_mux *m, const AVCodecParameters *video, const AVCodecParameters *audio)
{
	int r;

	MR_ASSERT(!m->declared);
	r = format_open(m, video, audio);
	if (r < 0) {
		format_close(m);
		return err_trace(r);
	}
	m->declared = true;
	m->audio = audio != NULL;
	for (unsigned i = 0; i < m->waiting_count; i++) {
		struct waiting *w = &m->waiting[i];

		if (w->video || m->audio)
			write_packet(m, w->packet, w->video, w->segment);
		av_packet_free(&w->packet);
	}
	m->waiting_count = 0;
	return 0;
}

bool
egr_mux_declared(const struct egr_mux *m)
{
	return m->declared;
}

int
egr_mux_video(struct egr_mux *m, const AVPacket *packet, bool segment)
{
	if (!m->declared)
		return wait_for_declaration(m, packet, true, segment);
	return write_packet(m, packet, true, segment);
}

int
egr_mux_audio(struct egr_mux *m, const AVPacket *packet)
{
	if (!m->declared)
		return wait_for_declaration(m, packet, false, false);
	return m->audio ? write_packet(m, packet, false, false) : 0;
}

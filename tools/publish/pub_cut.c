/* SPDX-License-Identifier: MIT */
/*
 * Cutting into segments
 *
 * A segment starts with a keyframe of the video, once the one before is long enough; without video, with any packet.
 * What comes before the first keyframe is dropped, sound too, because a segment has to be understood from its first
 * byte on. Each segment is written by a muxer of its own, so its continuity counters start again and PAT and PMT stand
 * in front; the timestamps are absolute and go on.
 *
 * The muxer is kept from holding anything back: no muxing delay, one PES for each packet, a flush after each packet.
 * When the publisher drops the rest of a segment (its POST broke), packets are thrown away until the next keyframe.
 */
#include "base/assert.h"
#include "base/err.h"
#include "tools/publish/pub_cut.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PUB_TS_BYTES	 188
#define PUB_CUT_IO_BYTES (PUB_TS_BYTES * 64)
#define PUB_PID_SDT	 0x11

struct pub_cut {
	uint32_t magic;
#define PUB_CUT_MAGIC 0x70756263u
	struct trk_pub *pub;
	const struct pub_track *tracks;
	int track_count;
	bool has_video;
	int64_t segment_90k;
	AVFormatContext *mux; /* NULL: no segment is open */
	AVPacket *copy;
	int64_t begin_pts;
	bool dropped; /* the publisher wants no more of this segment */
	uint64_t frames, bytes;
	int64_t end_pts;
	struct pub_cut_stats stats;
};

static void
segment_write(struct pub_cut *cut, const uint8_t *bytes, size_t count)
{
	cut->bytes += count;
	if (count > 0 && trk_pub_write(cut->pub, bytes, count) == TRK_PUB_DROPPED)
		cut->dropped = true;
}

/* The muxer flushes whole packets only. Its service description, the name of a television programme, is left out. */
static int
on_write(void *arg, uint8_t *bytes, int count)
{
	struct pub_cut *cut = MR_CAST(struct pub_cut, arg, PUB_CUT_MAGIC);
	const uint8_t *run = bytes, *end = bytes + count;

	MR_ASSERT(count % PUB_TS_BYTES == 0);
	for (const uint8_t *p = bytes; p < end; p += PUB_TS_BYTES) {
		if (((p[1] & 0x1f) << 8 | p[2]) != PUB_PID_SDT)
			continue;
		segment_write(cut, run, (size_t)(p - run));
		run = p + PUB_TS_BYTES;
	}
	segment_write(cut, run, (size_t)(end - run));
	return count;
}

static void
mux_free(struct pub_cut *cut)
{
	if (cut->mux == NULL)
		return;
	if (cut->mux->pb != NULL) {
		av_freep(&cut->mux->pb->buffer);
		avio_context_free(&cut->mux->pb);
	}
	avformat_free_context(cut->mux);
	cut->mux = NULL;
}

static int
mux_streams_add(struct pub_cut *cut)
{
	for (int i = 0; i < cut->track_count; i++) {
		AVStream *stream = avformat_new_stream(cut->mux, NULL);

		if (stream == NULL)
			return AVERROR(ENOMEM);
		if (avcodec_parameters_copy(stream->codecpar, cut->tracks[i].par) < 0)
			return AVERROR(ENOMEM);
		stream->time_base = (AVRational){ 1, 90000 };
	}
	return 0;
}

static int
mux_io_open(struct pub_cut *cut)
{
	uint8_t *buffer = av_malloc(PUB_CUT_IO_BYTES);

	if (buffer == NULL)
		return AVERROR(ENOMEM);
	cut->mux->pb = avio_alloc_context(buffer, PUB_CUT_IO_BYTES, 1, cut, NULL, on_write, NULL);
	if (cut->mux->pb == NULL) {
		av_free(buffer);
		return AVERROR(ENOMEM);
	}
	cut->mux->pb->seekable = 0;
	return 0;
}

static int
segment_begin(struct pub_cut *cut, int64_t pts)
{
	AVDictionary *options = NULL;
	int r;

	trk_pub_segment_begin(cut->pub);
	cut->dropped = false;
	cut->frames = cut->bytes = 0;
	cut->begin_pts = cut->end_pts = pts;
	r = avformat_alloc_output_context2(&cut->mux, NULL, "mpegts", NULL);
	if (r >= 0)
		r = mux_streams_add(cut);
	if (r >= 0)
		r = mux_io_open(cut);
	if (r >= 0) {
		cut->mux->max_delay = 0;
		cut->mux->flags |= AVFMT_FLAG_FLUSH_PACKETS | AVFMT_FLAG_BITEXACT;
		cut->mux->avoid_negative_ts = AVFMT_AVOID_NEG_TS_DISABLED; /* absolute, whichever segment it is */
		av_dict_set(&options, "pes_payload_size", "0", 0);
		/* a reader need not wait for the next frame to know that this one is whole */
		av_dict_set(&options, "omit_video_pes_length", "0", 0);
		r = avformat_write_header(cut->mux, &options);
		av_dict_free(&options);
	}
	if (r < 0)
		mux_free(cut);
	return r < 0 ? err_origin(r == AVERROR(ENOMEM) ? -ENOMEM : -EIO) : 0;
}

static void
segment_end(struct pub_cut *cut)
{
	if (cut->mux == NULL)
		return;
	(void)av_write_trailer(cut->mux);
	avio_flush(cut->mux->pb);
	mux_free(cut);
	trk_pub_segment_end(cut->pub);
	cut->stats.segments++;
	cut->stats.last_frames = cut->frames;
	cut->stats.last_bytes = cut->bytes;
	cut->stats.last_ns = (cut->end_pts - cut->begin_pts) * 100000 / 9;
}

static bool
cuts_here(const struct pub_cut *cut, const struct pub_packet *packet)
{
	const struct pub_track *track = &cut->tracks[packet->track];

	if (cut->has_video && !(track->video && (packet->av->flags & AV_PKT_FLAG_KEY)))
		return false;
	/* half a frame of tolerance: a keyframe every 2 s is to be cut every 2 s, whatever the rounding */
	return cut->mux == NULL || cut->dropped || packet->first ||
	    packet->av->pts - cut->begin_pts + track->frame_90k / 2 >= cut->segment_90k ||
	    packet->av->pts < cut->begin_pts;
}

int
pub_cut_packet(struct pub_cut *cut, const struct pub_packet *packet)
{
	bool was_open = cut->mux != NULL, cuts = cuts_here(cut, packet);
	int r;

	if (cuts) {
		segment_end(cut);
		r = segment_begin(cut, packet->av->pts);
		if (r != 0)
			return err_trace(r);
	}
	if (cut->mux == NULL || cut->dropped) {
		cut->stats.dropped_packets++;
		return 0;
	}
	if (av_packet_ref(cut->copy, packet->av) < 0)
		return err_origin(-ENOMEM);
	cut->copy->stream_index = packet->track;
	r = av_write_frame(cut->mux, cut->copy);
	avio_flush(cut->mux->pb);
	av_packet_unref(cut->copy);
	cut->stats.packets += r >= 0;
	cut->stats.dropped_packets += r < 0; /* timestamps that go back, for one: the muxer refuses that packet only */
	cut->frames += r >= 0 && cut->tracks[packet->track].video == cut->has_video;
	if (packet->av->pts + packet->av->duration > cut->end_pts)
		cut->end_pts = packet->av->pts + packet->av->duration;
	return cuts && was_open ? PUB_CUT_SEGMENT : 0;
}

void
pub_cut_end(struct pub_cut *cut)
{
	segment_end(cut);
}

int
pub_cut_new(struct trk_pub *pub, const struct pub_track *tracks, int track_count, int64_t segment_ns,
    struct pub_cut **out)
{
	struct pub_cut *cut = calloc(1, sizeof(*cut));

	if (cut == NULL)
		return err_origin(-ENOMEM);
	cut->magic = PUB_CUT_MAGIC;
	cut->pub = pub;
	cut->tracks = tracks;
	cut->track_count = track_count;
	for (int i = 0; i < track_count; i++)
		cut->has_video = cut->has_video || tracks[i].video;
	cut->segment_90k = segment_ns * 9 / 100000;
	cut->copy = av_packet_alloc();
	if (cut->copy == NULL) {
		pub_cut_free(&cut);
		return err_origin(-ENOMEM);
	}
	*out = cut;
	return 0;
}

void
pub_cut_free(struct pub_cut **cutp)
{
	struct pub_cut *cut = *cutp;

	if (cut == NULL)
		return;
	*cutp = NULL;
	mux_free(cut);
	av_packet_free(&cut->copy);
	cut->magic = 0;
	free(cut);
}

const struct pub_cut_stats *
pub_cut_get_stats(const struct pub_cut *cut)
{
	return &cut->stats;
}

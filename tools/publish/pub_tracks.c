/* SPDX-License-Identifier: MIT */
/*
 * Which streams of an input are published
 *
 * The best video and the best audio, if MPEG-TS has a name for their codecs: its muxer would carry others as private
 * data that nobody can read, so they are refused here, where a person can still do something about it. H.264 and
 * H.265 from files come with lengths instead of start codes and are rewritten once, here, and not by each segment's
 * muxer, so that what the muxers are given never changes.
 */
#include "tools/publish/pub_tracks.h"

#include <stdio.h>
#include <string.h>

static bool
carried(enum AVCodecID id)
{
	static const enum AVCodecID ids[] = {
		AV_CODEC_ID_H264, AV_CODEC_ID_HEVC, AV_CODEC_ID_MPEG1VIDEO, AV_CODEC_ID_MPEG2VIDEO, AV_CODEC_ID_MPEG4,
		AV_CODEC_ID_AAC, AV_CODEC_ID_AAC_LATM, AV_CODEC_ID_MP2, AV_CODEC_ID_MP3, AV_CODEC_ID_AC3,
		AV_CODEC_ID_EAC3, AV_CODEC_ID_OPUS,
	};

	for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++)
		if (ids[i] == id)
			return true;
	return false;
}

static const char *
filter_name(const AVCodecParameters *par)
{
	bool lengths = par->extradata_size > 0 && par->extradata[0] == 1; /* avcC and hvcC begin so */

	if (par->codec_id == AV_CODEC_ID_H264 && lengths)
		return "h264_mp4toannexb";
	if (par->codec_id == AV_CODEC_ID_HEVC && lengths)
		return "hevc_mp4toannexb";
	return NULL;
}

static int
filter_open(struct pub_track *track, const AVStream *stream)
{
	const char *name = filter_name(stream->codecpar);
	int r;

	if (name == NULL)
		return 0;
	r = av_bsf_alloc(av_bsf_get_by_name(name), &track->bsf);
	if (r < 0)
		return r;
	r = avcodec_parameters_copy(track->bsf->par_in, stream->codecpar);
	if (r < 0)
		return r;
	track->bsf->time_base_in = stream->time_base;
	return av_bsf_init(track->bsf);
}

static int
track_open(struct pub_track *track, const AVStream *stream)
{
	AVRational rate = stream->avg_frame_rate;
	int r;

	*track = (struct pub_track){ .stream_index = stream->index };
	track->video = stream->codecpar->codec_type == AVMEDIA_TYPE_VIDEO;
	track->par = avcodec_parameters_alloc();
	if (track->par == NULL)
		return AVERROR(ENOMEM);
	r = filter_open(track, stream);
	if (r < 0)
		return r;
	track->time_base = track->bsf ? track->bsf->time_base_out : stream->time_base;
	if (track->video && rate.num > 0 && rate.den > 0)
		track->frame_90k = av_rescale(90000, rate.den, rate.num);
	r = avcodec_parameters_copy(track->par, track->bsf ? track->bsf->par_out : stream->codecpar);
	track->par->codec_tag = 0; /* the container's own name of the codec, which means nothing in another */
	return r;
}

int
pub_tracks_choose(struct pub_track *tracks, AVFormatContext *input, char *why, char *note, size_t bytes)
{
	static const enum AVMediaType types[] = { AVMEDIA_TYPE_VIDEO, AVMEDIA_TYPE_AUDIO };
	int count = 0, r;

	*note = '\0';
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		int index = av_find_best_stream(input, types[i], -1, -1, NULL, 0);
		const char *codec;

		if (index < 0)
			continue;
		codec = avcodec_get_name(input->streams[index]->codecpar->codec_id);
		if (!carried(input->streams[index]->codecpar->codec_id)) {
			snprintf(note, bytes, "its %s is %s, which MPEG-TS does not carry",
			    av_get_media_type_string(types[i]), codec);
			if (types[i] == AVMEDIA_TYPE_VIDEO)
				break; /* sound alone is not what was meant */
			continue;
		}
		r = track_open(&tracks[count++], input->streams[index]);
		if (r < 0) {
			snprintf(why, bytes, "its %s cannot be prepared: %s", codec, av_err2str(r));
			pub_tracks_fini(tracks, count);
			return -1;
		}
	}
	if (count == 0) {
		snprintf(why, bytes, "%s; re-encode it: ffmpeg -i INPUT -c:v libx264 -c:a aac -f mpegts - | millrace "
		    "publish - URL", *note ? note : "it has neither video nor audio");
		return -1;
	}
	return count;
}

void
pub_tracks_fini(struct pub_track *tracks, int count)
{
	for (int i = 0; i < count; i++) {
		av_bsf_free(&tracks[i].bsf);
		avcodec_parameters_free(&tracks[i].par);
	}
}

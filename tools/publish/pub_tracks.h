/* SPDX-License-Identifier: MIT */
/* Which streams of an input are published, and how they get into MPEG-TS. */
#ifndef MR_TOOLS_PUBLISH_PUB_TRACKS_H
#define MR_TOOLS_PUBLISH_PUB_TRACKS_H

#include <libavcodec/bsf.h>
#include <libavformat/avformat.h>

#include <stdbool.h>
#include <stddef.h>

#define PUB_TRACK_COUNT_MAX 2

struct pub_track {
	int stream_index;
	bool video;
	AVRational time_base;	/* of what comes out of the filter */
	AVCodecParameters *par; /* likewise; owned */
	AVBSFContext *bsf;	/* to Annex B; NULL: none needed */
	int64_t frame_90k;	/* length of one packet, where it does not say; 0: unknown */
};

/*
 * Chooses video first, then audio. Returns how many, or -1 with the reason in `why`; `note` gets what is left out,
 * or "".
 */
int pub_tracks_choose(struct pub_track *tracks, AVFormatContext *input, char *why, char *note, size_t bytes);
void pub_tracks_fini(struct pub_track *tracks, int count);

#endif

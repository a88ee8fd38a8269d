/* SPDX-License-Identifier: MIT */
/* Cuts packets into segments, each a transport stream of its own, and writes them to a publisher. */
#ifndef MR_TOOLS_PUBLISH_PUB_CUT_H
#define MR_TOOLS_PUBLISH_PUB_CUT_H

#include "proto/trickle.h"
#include "tools/publish/pub_input.h"

struct pub_cut;

struct pub_cut_stats {
	uint64_t segments, packets, dropped_packets;
	/* of the segment that was ended last */
	uint64_t last_frames, last_bytes;
	int64_t last_ns;
};

/* `tracks` and `pub` are borrowed. 0 or -ENOMEM. */
int pub_cut_new(struct trk_pub *pub, const struct pub_track *tracks, int track_count, int64_t segment_ns,
    struct pub_cut **out);
void pub_cut_free(struct pub_cut **cut);

/* 0; 1 (PUB_CUT_SEGMENT): a segment was ended before it, see the statistics; -errno. */
enum { PUB_CUT_SEGMENT = 1 };
int pub_cut_packet(struct pub_cut *cut, const struct pub_packet *packet);
/* Ends the last segment. */
void pub_cut_end(struct pub_cut *cut);
const struct pub_cut_stats *pub_cut_get_stats(const struct pub_cut *cut);

#endif

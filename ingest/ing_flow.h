/* SPDX-License-Identifier: MIT */
/*
 * The way of the media: bytes of the subscription to frames in the rings
 *
 * Latency policy. A frame goes all the way inside the callback that brings its last byte. Only one thing stops the flow: a
 * frame, or a block of audio, that has to wait for its ring or its consumer (ing_rings.h). Then what arrives is kept in
 * order, the subscription is paused, and ing_flow_run() goes on when the time has come. At most one decoded video frame
 * waits. Frames are left out only by max_framerate, when their time has already passed, and when there is no ring.
 */
#ifndef MR_ING_FLOW_H
#define MR_ING_FLOW_H

#include "ingest/ing_audio.h"
#include "ingest/ing_decode.h"
#include "ingest/ing_es.h"
#include "ingest/ing_input.h"
#include "ingest/ing_rate.h"
#include "ingest/ing_rings.h"
#include "ingest/ing_scale.h"
#include "ingest/ing_time.h"
#include "ingest/ing_ts.h"
#include "proto/stats.h"

#include <stdbool.h>
#include <stdint.h>

struct ing_flow_config {
	enum format_id format;
	uint32_t width, height;
	unsigned max_framerate;
	bool resume;
	int64_t ts_offset_ns, last_pts_ns, elapsed_ns;
};

struct ing_flow_callbacks {
	/* Frames come out (trouble NULL), or bytes come in and nothing will: words for people. Called when it changes. */
	void (*health)(void *arg, const char *trouble);
	/* The channel's end has been reached and everything before it was handed on. Once. */
	void (*drained)(void *arg);
};

struct ing_flow {
	struct ing_flow_config config;
	const struct ing_flow_callbacks *callbacks;
	void *arg;
	struct ing_rings *rings;
	struct stats_page *stats;

	struct ing_input input;
	const uint8_t *direct; /* bytes of the callback that runs, behind `input` */
	size_t direct_bytes;
	struct ing_ts *ts;
	struct ing_es es[ING_TRACK_COUNT];
	struct ing_packets packets;
	struct ing_decoder decoder[ING_TRACK_COUNT];
	struct ing_stream next[ING_TRACK_COUNT]; /* what the decoder is to be exchanged for */
	bool change[ING_TRACK_COUNT];		 /* `next` says so */
	int draining; /* track whose decoder may have frames; -1: none */
	bool drain_all; /* the channel is over: take what the decoders still hold */

	struct ing_time time;
	struct ing_limit limit;
	int64_t jump_flagged; /* jump_at of the jump that a frame's flag has told about */
	struct ing_scaler scaler;
	AVFrame *decoded; /* scratch */
	AVFrame *frame;	  /* waits to be published */
	bool frame_waits;
	int64_t frame_pts_ns, last_pts_ns; /* of the frame that waits; of the newest published: INT64_MIN: none */
	struct ing_audio audio;
	unsigned block_sent; /* bit i: ring i has, or will not get, the block at the head */

	struct ing_rate video_rate, audio_rate;
	int64_t rate_shown_ns;
	/* since a video frame came out */
	uint64_t bytes_since, bad_since, video_since; /* bytes; video packets that were bad, and all of them */
	int64_t bytes_since_ns, bytes_newest_ns;      /* when the first and the newest byte came; 0: none */
	int64_t flowed_ns; /* how long bytes have been coming; of a pause only some counts, so that none is enough alone */
	const char *trouble;
	char trouble_text[256];
};

/* 0; -ENOMEM. */
int ing_flow_init(struct ing_flow *f, const struct ing_flow_config *config, const struct ing_flow_callbacks *callbacks,
    void *arg, struct ing_rings *rings, struct stats_page *stats);
void ing_flow_fini(struct ing_flow *f);

void ing_flow_segment_begin(struct ing_flow *f, bool gap);
void ing_flow_bytes(struct ing_flow *f, const uint8_t *bytes, size_t count);
void ing_flow_segment_end(struct ing_flow *f, bool complete);
void ing_flow_channel_end(struct ing_flow *f);
void ing_flow_set_max_framerate(struct ing_flow *f, unsigned max_framerate);

/* Goes on where it stopped. Returns when to call it again: INT64_MAX: when something arrives. */
int64_t ing_flow_run(struct ing_flow *f);
/* true: pause the subscription, something waits. */
bool ing_flow_stopped(const struct ing_flow *f);
/* Refreshes rates and other gauges in the statistics page. */
void ing_flow_show(struct ing_flow *f, int64_t now_ns);

#endif

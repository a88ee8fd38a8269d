/* SPDX-License-Identifier: MIT */
/*
 * What leaves: decisions of the clock and blocks of sound, encoded, muxed and given to a sink
 */
#ifndef MR_EGR_OUTPUT_H
#define MR_EGR_OUTPUT_H

#include "egress/egr_audio.h"
#include "egress/egr_clock.h"
#include "egress/egr_config.h"
#include "egress/egr_meter.h"
#include "egress/egr_mux.h"
#include "egress/egr_timeline.h"
#include "egress/egr_video.h"
#include "proto/stats.h"

/* Where the bytes go. */
struct egr_output_sink {
	void (*begin)(void *arg); /* a segment; ends the one before */
	/* false: this segment is lost, the rest of it is not offered. */
	bool (*write)(void *arg, const uint8_t *bytes, size_t count);
	void (*end)(void *arg);
	void *arg;
};

struct egr_output {
	uint32_t magic;
#define EGR_OUTPUT_MAGIC 0x6567726fu
	/* immutable, borrowed */
	const struct egr_config *config;
	struct stats_page *stats;
	struct egr_output_sink sink;
	/* encoders and muxer; NULL until they are needed */
	struct egr_video *video;
	struct egr_audio *audio;
	struct egr_mux *mux;
	struct egr_timeline timeline;
	struct egr_slate slate;
	uint32_t rate_num, rate_den;
	uint32_t result_width, result_height; /* of the newest out ring; 0: none yet */
	/* segments */
	int64_t segment_ticks;	  /* first timestamp of the open one */
	bool segment_wanted;	  /* the next key frame begins one */
	bool segment_open, segment_failed;
	int64_t segment_retry_ns, declare_retry_ns; /* after a failure: not before */
	bool bytes_sent;	  /* something was given to the sink */
	/* input and output, CLOCK_MONOTONIC; 0: never */
	int64_t first_input_ns, last_input_ns, last_out_ns;
	int64_t last_commit_ns; /* of the input of the newest frame sent */
	int64_t video_pts_ns;	/* session timestamp of the newest frame sent, before the timeline */
	int64_t first_pts_ns;	/* the same of the first one; sound begins there */
	int64_t input_pts_ns;	/* of the newest input frame */
	bool sound_announced;	/* the input says that it has sound: its ring is waited for */
	int64_t meters_ns;	/* next evaluation */
	struct egr_rate in_rate, in_audio_rate, out_rate, out_audio_rate;
	struct egr_spread latency;
};

int egr_output_init(struct egr_output *o, const struct egr_config *config, struct stats_page *stats,
    const struct egr_output_sink *sink);
void egr_output_fini(struct egr_output *o);

/* An input frame has been seen. */
void egr_output_saw_input(struct egr_output *o, int64_t pts_ns, int64_t now_ns);
/* The ring of the input sound is there. */
void egr_output_open_audio(struct egr_output *o, uint32_t channels);

/* Sends what was decided. `result` is the worker's picture where the decision names it, `input` the input frame. */
void egr_output_send(struct egr_output *o, const struct egr_decision *d, const struct egr_view *input,
    const struct egr_view *result);
/* A late result: it becomes the newest processed picture. */
void egr_output_keep(struct egr_output *o, const struct egr_view *result);

/* Sound that is due, repeated pictures while the input pauses, the choice of tracks, gauges. */
void egr_output_tick(struct egr_output *o, int64_t now_ns);
int64_t egr_output_due(const struct egr_output *o);

/* Ends the stream: what the encoder has, and the open segment. */
void egr_output_finish(struct egr_output *o);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Audio blocks to Opus
 *
 * Blocks of 48 kHz floats come from the input and, if the worker answers audio, from the worker. A block of the input
 * waits for the worker's until its deadline, then it is sent itself; without a worker nothing waits. Blocks from the
 * worker are somebody else's words: samples are clamped, what matches no waiting block is dropped.
 *
 * Nothing is sent before the first video frame, and sound that belongs before it is left out. When sound stays away
 * while video flows, silence is sent, so that players do not wait for it.
 */
#ifndef MR_EGR_AUDIO_H
#define MR_EGR_AUDIO_H

#include <stdbool.h>
#include <stdint.h>

struct AVCodecParameters;
struct AVPacket;
struct egr_audio;

struct egr_audio_config {
	uint32_t channels;    /* 1 or 2 */
	int64_t deadline_ns;  /* for the worker's answer */
	/* pts_ns of the packet on the session clock; borrowed during the call. */
	void (*packet)(void *arg, struct AVPacket *packet, int64_t pts_ns);
	void *arg;
};

enum { EGR_BLOCK_SAMPLES_MAX = 2880 };

int egr_audio_new(const struct egr_audio_config *config, struct egr_audio **out);
void egr_audio_free(struct egr_audio **a);
const struct AVCodecParameters *egr_audio_parameters(const struct egr_audio *a);

/* The output begins here: the timestamp of the first video frame. Until then blocks wait. */
void egr_audio_start(struct egr_audio *a, int64_t pts_ns);
/* The session clock went back: sound goes on at `pts_ns`, what waits is thrown away. */
void egr_audio_restart(struct egr_audio *a, int64_t pts_ns);
/* The worker is (not) there to answer audio. */
void egr_audio_set_worker(struct egr_audio *a, bool there);

/* A block of the input: `samples` per channel, 1..EGR_BLOCK_SAMPLES_MAX, interleaved, copied. */
void egr_audio_input(struct egr_audio *a, int64_t pts_ns, const float *data, uint32_t samples, uint32_t channels,
    int64_t now_ns);
/* The worker's block; `data` NULL: it passes the input through. false: it matches nothing. */
bool egr_audio_result(struct egr_audio *a, int64_t pts_ns, const float *data, uint32_t samples, uint32_t channels);

/* Sends what is due. */
void egr_audio_run(struct egr_audio *a, int64_t now_ns);
/* When egr_audio_run() has something to do by itself; INT64_MAX: not without new input. */
int64_t egr_audio_due(const struct egr_audio *a);

/* Video is at `video_pts_ns`: returns the blocks of silence that had to be sent. */
unsigned egr_audio_silence(struct egr_audio *a, int64_t video_pts_ns);

#endif

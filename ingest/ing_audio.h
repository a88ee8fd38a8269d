/* SPDX-License-Identifier: MIT */
/*
 * Decoded audio to blocks for the ring: 48 kHz, interleaved floats, mono or stereo, 960 samples each
 *
 * Timestamps are counted in samples from the source's; they are taken anew from the source when the two are more than 40 ms
 * apart (lost audio, a jump, clocks that drift).
 */
#ifndef MR_ING_AUDIO_H
#define MR_ING_AUDIO_H

#include <libavutil/frame.h>
#include <libswresample/swresample.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ING_AUDIO_RATE = 48000, ING_AUDIO_BLOCK = 960, ING_AUDIO_DRIFT_MS = 40 };

struct ing_audio {
	SwrContext *swr; /* NULL: no format is known */
	int in_rate, in_format;
	AVChannelLayout in_layout;
	int channels; /* of the output; 0: not decided */
	float *buf;   /* samples that wait to be a block */
	size_t samples, cap;
	bool anchored;
	int64_t anchor_ns; /* timestamp of the first sample after the anchor */
	int64_t counted;   /* samples that have left since */
	int64_t next_ns;   /* blocks before this one were handed out already */
	uint64_t dropped;  /* blocks that overlapped earlier ones */
};

/* `pts_ns` INT64_MIN: none. 0; -ENOTSUP: the format cannot be converted; -ENOMEM. */
int ing_audio_push(struct ing_audio *a, const AVFrame *frame, int64_t pts_ns);
/* true: *block (ING_AUDIO_BLOCK samples of `channels`) and its timestamp; stays until ing_audio_pop(). */
bool ing_audio_peek(struct ing_audio *a, const float **block, int64_t *pts_ns);
void ing_audio_pop(struct ing_audio *a);
/* Forgets what waits: data are missing behind it. */
void ing_audio_gap(struct ing_audio *a);
void ing_audio_fini(struct ing_audio *a);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Packets to MPEG-TS segments
 *
 * Bytes leave as soon as their packet is there. Timestamps are written as they come, without an offset. The tracks
 * are constant: until they are known packets wait in a short queue, then the stream is what was declared for ever.
 * Every segment begins with PAT, PMT and a key frame; PIDs are 0x100 (video) and 0x101 (audio); continuity counters
 * run on across segments.
 */
#ifndef MR_EGR_MUX_H
#define MR_EGR_MUX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct AVCodecParameters;
struct AVPacket;
struct egr_mux;

struct egr_mux_sink {
	void (*segment_begin)(void *arg);
	void (*bytes)(void *arg, const uint8_t *bytes, size_t count); /* whole TS packets */
	void *arg;
};

int egr_mux_new(const struct egr_mux_sink *sink, struct egr_mux **out);
void egr_mux_free(struct egr_mux **m);

/* Fixes the tracks (audio NULL: video alone) and writes what has waited. 0, or -errno. */
int egr_mux_declare(struct egr_mux *m, const struct AVCodecParameters *video, const struct AVCodecParameters *audio);
bool egr_mux_declared(const struct egr_mux *m);

/* Packets with pts in 1/90000, dts is taken to be the same; borrowed. A new segment begins before a video packet with
 * `segment`, which is a key frame. 0, or -errno: it was not written; the next video packet should begin a segment. */
int egr_mux_video(struct egr_mux *m, const struct AVPacket *packet, bool segment);
int egr_mux_audio(struct egr_mux *m, const struct AVPacket *packet);

#endif

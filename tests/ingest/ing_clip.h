/* SPDX-License-Identifier: MIT */
/* A clip, taken apart: where its packets, its PES and its keyframes are. */
#ifndef MR_TESTS_ING_CLIP_H
#define MR_TESTS_ING_CLIP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CLIP_PES_MAX = 2048, CLIP_VIDEO_PID = 0x100, CLIP_AUDIO_PID = 0x101 };

struct clip_pes {
	uint16_t pid;
	size_t begin, end; /* first byte of its first packet; behind the last byte of its last packet */
	int64_t pts;
	bool key;     /* video: random access */
	bool exact;   /* no length, no stuffing in its last packet: nothing tells that it is over */
	bool bounded; /* its length is written in it */
};

struct clip {
	uint8_t *data;
	size_t bytes;
	uint8_t tables[2 * 188]; /* PAT and PMT */
	struct clip_pes pes[CLIP_PES_MAX];
	unsigned pes_count;
};

/* The clip in MILLRACE_TEST_CLIP. */
void clip_open(struct clip *c);
void clip_close(struct clip *c);
/* Number of video PES from index `from` (a video keyframe) to the next keyframe; *end: byte behind the last packet. */
unsigned clip_gop(const struct clip *c, unsigned from, size_t *end);
/* Index of the nth keyframe. */
unsigned clip_key(const struct clip *c, unsigned nth);

#endif

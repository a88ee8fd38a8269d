/* SPDX-License-Identifier: MIT */
/*
 * The input: packets on one unbroken timeline
 *
 * A thread of its own reads and filters, because FFmpeg's reads block; the packets wait in a short queue, so a slow
 * network holds the reader back. All other functions belong to the main thread.
 */
#ifndef MR_TOOLS_PUBLISH_PUB_INPUT_H
#define MR_TOOLS_PUBLISH_PUB_INPUT_H

#include "tools/publish/pub_options.h"
#include "tools/publish/pub_tracks.h"

struct pub_input;

struct pub_packet {
	AVPacket *av;	 /* pts, dts and duration in 1/90000 s; both are set */
	int track;	 /* index of pub_input_tracks() */
	bool first;	 /* of the input, or of a further pass of --loop */
};

/* 0, or -1 with the reason in `why`. Blocks until the input's streams are known. */
int pub_input_open(const struct pub_options *options, struct pub_input **out, char *why, size_t why_bytes);
/* What is left out of the input and why, or "". */
const char *pub_input_note(const struct pub_input *input);
const struct pub_track *pub_input_tracks(const struct pub_input *input, int *count);
/* The input can be rewound, so nobody waits for it to be read. */
bool pub_input_is_file(const struct pub_input *input);

/* 0 or -errno: the reader runs from now on. */
int pub_input_start(struct pub_input *input);
/* Readable when pub_input_peek() may have something new to say. */
int pub_input_fd(const struct pub_input *input);
/* The oldest packet, or NULL; valid until pub_input_pop(). *over: there is none and there will be none. */
const struct pub_packet *pub_input_peek(struct pub_input *input, bool *over);
void pub_input_pop(struct pub_input *input);
/* true: freed. false: the reader sits in a read that nothing ends but the end of the process; *in is left as it is. */
bool pub_input_close(struct pub_input **in);
/* Why it is over: NULL for a clean end, else words. */
const char *pub_input_error(const struct pub_input *input);

#endif

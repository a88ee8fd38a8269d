/* SPDX-License-Identifier: MIT */
/*
 * Frames of a reordering H.264 stream, as soon as their turn has come
 *
 * libavcodec's H.264 decoder hands frames on in display order after a fixed delay of as many frames as the stream may
 * reorder: with B-frames most pictures wait one to five frame intervals longer than they must. But it shows each
 * picture when it has been decoded (draw_horiz_band, in coded order). A decoded picture whose timestamp follows the newest
 * frame handed on by less than one and a half of the source's shortest frame interval is the next one: no other fits
 * in between. Such a picture is handed on at once; the decoder's own output is then recognised by its timestamp and
 * dropped.
 *
 * Where several pictures have their turn at once, the last of them, the one that the others refer to, is kept until
 * about one interval after the one before it: what follows it takes longer, and viewers want an even flow.
 *
 * The decoder's order stays the authority: it begins each chain (after start and gaps it hands on nothing before it has
 * recovered), and a picture that was guessed wrongly costs the one frame that should have come before it, which is
 * late then.
 */
#ifndef MR_ING_EARLY_H
#define MR_ING_EARLY_H

#include <libavcodec/avcodec.h>

#include <stdbool.h>
#include <stdint.h>

enum { ING_EARLY_MAX = 16 }; /* H.264 reorders no more */

struct ing_early {
	AVFrame *decoded[ING_EARLY_MAX]; /* references to pictures that were not handed on yet; NULL: free */
	int64_t handed[ING_EARLY_MAX];	 /* timestamps that were handed on early and that the decoder still owes */
	unsigned handed_count;
	int64_t last_ns;  /* CLOCK_MONOTONIC when that was handed on */
	int64_t last;	  /* timestamp of the newest frame handed on; AV_NOPTS_VALUE: the chain is broken */
	int64_t interval; /* shortest step between frames of the decoder's order lately, ticks; 0: not known */
	int64_t interval_next; /* the same, of the window that is being measured */
	unsigned steps;
	int64_t ordered; /* timestamp of the newest frame in the decoder's order */
};

/* Hooks into a decoder that is not open yet. `e` must outlive it. */
void ing_early_attach(struct ing_early *e, AVCodecContext *ctx);
/* Forgets everything: a gap, or the end. Fine on a zeroed struct. */
void ing_early_reset(struct ing_early *e);
/* The decoder handed this frame on. false: it was handed on early; drop it. */
bool ing_early_ordered(struct ing_early *e, const AVFrame *frame);
/* true: `frame` is a picture whose turn has come; the caller unrefs it. Call when the decoder has nothing itself. */
bool ing_early_next(struct ing_early *e, AVFrame *frame);

#endif

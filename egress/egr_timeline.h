/* SPDX-License-Identifier: MIT */
/*
 * The output timeline: session clock to 90 kHz, strictly increasing on each track, whatever the input does
 *
 * Output timestamps are the input's, to the tick. Only when a timestamp does not increase is something done: a small
 * step back is bumped to one tick after the last; a larger one (the source was repeated while it paused and resumes
 * where it stopped, or it restarted) is dropped as long as the source may be catching up, EGR_CATCH_UP_NS; after that
 * the whole timeline, audio too, is moved forward. A timeline that continues at a guess, which is on the safe side, may
 * give the input longer to get there, once. Pure; time is an argument.
 */
#ifndef MR_EGR_TIMELINE_H
#define MR_EGR_TIMELINE_H

#include <stdbool.h>
#include <stdint.h>

#define EGR_CATCH_UP_NS INT64_C(500000000)

enum { EGR_TICKS_SMALL = 9000, EGR_TICKS_STEP = 3000 };

struct egr_timeline {
	int64_t offset_ns;	   /* added to session timestamps */
	int64_t video_last;	   /* ticks; -1: none */
	int64_t audio_last;
	int64_t behind_since_ns;   /* since when video timestamps have been far behind; 0: they are not */
	bool repeated;		   /* the last video frame was made up */
	int64_t catch_up_ns;	   /* how long the input may be behind; EGR_CATCH_UP_NS after the first frame */
};

/* Last timestamps of a predecessor in ns; -1: none. */
void egr_timeline_init(struct egr_timeline *t, int64_t video_last_ns, int64_t audio_last_ns);

/* The last timestamps are later than what was really sent: the input gets so long to get there, and is not bumped. */
void egr_timeline_expect(struct egr_timeline *t, int64_t catch_up_ns);

/* true: send with *ticks; false: drop. */
bool egr_timeline_video(struct egr_timeline *t, int64_t pts_ns, int64_t now_ns, int64_t *ticks);
bool egr_timeline_audio(struct egr_timeline *t, int64_t pts_ns, int64_t *ticks);
/* A made-up frame `elapsed_ns` after the last one. */
int64_t egr_timeline_repeat(struct egr_timeline *t, int64_t elapsed_ns);

/* To the nearest tick. */
int64_t egr_ticks_from_ns(int64_t ns);
int64_t egr_ns_from_ticks(int64_t ticks);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Time in ingest: from 33-bit source timestamps to the session's clock, and the frame-rate limit
 *
 * Pure arithmetic: no clock is read here, `now_ns` is CLOCK_MONOTONIC as the caller saw it. Ticks are 1/90000 s. The
 * session's clock is the source's own clock as long as that behaves, so that output PTS equal input PTS; after a jump an
 * offset keeps it going.
 */
#ifndef MR_ING_TIME_H
#define MR_ING_TIME_H

#include <stdbool.h>
#include <stdint.h>

enum { ING_TICKS_SEC = 90000 };
enum ing_track { ING_VIDEO, ING_AUDIO, ING_TRACK_COUNT };

static inline int64_t
ing_ticks_to_ns(int64_t ticks)
{
	return ticks / 9 * 100000 + ticks % 9 * 100000 / 9;
}

static inline int64_t
ing_ns_to_ticks(int64_t ns)
{
	return ns / 100000 * 9 + (ns % 100000 * 9 + 50000) / 100000;
}

struct ing_time_track {
	bool seen;
	int64_t last; /* largest session timestamp so far, ticks */
	int64_t step; /* between two packets, ticks */
};

struct ing_time {
	bool started;
	bool resuming;	       /* the first packet continues a timeline of a predecessor */
	int64_t unwrapped;     /* newest source timestamp without its 33-bit wrap */
	int64_t offset;	       /* session minus unwrapped, ticks */
	int64_t old_unwrapped; /* the same two before the last jump, for packets that were under way */
	int64_t old_offset;
	int64_t old_until; /* session timestamp from which on these do not count any more */
	int64_t newest;	   /* largest session timestamp of any track */
	int64_t newest_now_ns;
	int64_t jump_at; /* session timestamp of the first packet after the newest jump; INT64_MIN: none */
	uint64_t jumps;
	struct ing_time_track track[ING_TRACK_COUNT];
};

void ing_time_init(struct ing_time *t);
/* Continues what a predecessor has published up to `last_pts` with that `offset` (ticks). `at_ns`: when that was;
 * 0: a moment ago. */
void ing_time_resume(struct ing_time *t, int64_t offset, int64_t last_pts, int64_t at_ns);
/*
 * Session timestamp of a packet whose DTS (PTS where there is none) is `raw`. A step back of more than a second, or ahead
 * of what the wall clock explains by more than ten, is a jump: from then on another offset is used for all tracks.
 */
int64_t ing_time_map(struct ing_time *t, enum ing_track track, uint64_t raw, int64_t now_ns);

/*
 * max_framerate as the contract has it, on timestamps, never on the wall clock: leave out what is earlier than `next`,
 * which then moves on by one interval. With one exception, without which a source whose timestamps are rounded (30
 * frames a second, in milliseconds) loses every third frame at its own rate: a source that over the last second was not
 * faster than the limit loses nothing.
 */
enum { ING_LIMIT_WINDOW = 32 }; /* frames whose mean rate is looked at; a power of two */
struct ing_limit {
	int64_t interval_ns;
	int64_t next_ns;
	int64_t seen_ns[ING_LIMIT_WINDOW]; /* timestamps of the newest frames, left out or not */
	unsigned seen_count;		   /* all since the last jump */
};
void ing_limit_init(struct ing_limit *l, unsigned max_framerate);
/* Takes effect with the next frame. */
void ing_limit_set(struct ing_limit *l, unsigned max_framerate);
/* false: leave this frame out. */
bool ing_limit_pass(struct ing_limit *l, int64_t pts_ns);

#endif

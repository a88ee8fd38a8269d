/* SPDX-License-Identifier: MIT */
/*
 * MPEG-TS front end: bytes in, complete PES packets out, each as soon as its last byte is there
 *
 * Picks the first video and the first audio stream that we can decode (ing_psi.h). Continuity counters are looked at only
 * to know about damage: they restart with every trickle segment and nothing is discarded because of them. Memory is
 * bounded by ING_PES_BYTES_MAX for each track.
 */
#ifndef MR_ING_TS_H
#define MR_ING_TS_H

#include "ingest/ing_psi.h"
#include "ingest/ing_time.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ING_TS_BYTES = 188 };
enum { ING_PES_BYTES_MAX = 8 * 1024 * 1024 };

struct ing_pes {
	enum ing_track track;
	const uint8_t *data; /* the elementary stream's bytes; valid during the call, padded with 64 zero bytes */
	size_t bytes;
	int64_t pts, dts; /* 33 bits; -1: none */
	bool damaged;	  /* bytes may be missing inside */
};

struct ing_ts_callbacks {
	/* The stream of a track became known or changed; NULL: there is none any more. */
	void (*stream)(void *arg, enum ing_track track, const struct ing_stream *stream);
	void (*pes)(void *arg, const struct ing_pes *pes);
};

struct ing_ts_counts {
	uint64_t packets;	/* with a sync byte */
	uint64_t junk_bytes;	/* skipped to find one */
	uint64_t tables;	/* valid PAT and PMT sections */
	uint64_t pes_damaged;	/* handed on although bytes may be missing */
	uint64_t pes_dropped;	/* cut off, or too large, or without a header */
	uint64_t guesses_wrong; /* a PES that seemed to be complete went on */
};

struct ing_ts;

/* NULL: no memory. `callbacks` is borrowed until ing_ts_free(). */
struct ing_ts *ing_ts_new(const struct ing_ts_callbacks *callbacks, void *arg);
void ing_ts_free(struct ing_ts **ts);
/* Consumes some of the bytes, at most one packet's worth, and returns how many (at least 1 of a non-zero count). */
size_t ing_ts_feed(struct ing_ts *ts, const uint8_t *bytes, size_t count);
/* A segment begins: what was being assembled without its end is handed on, or with `gap` dropped. */
void ing_ts_segment_begin(struct ing_ts *ts, bool gap);
/* A segment ended: complete: an open PES without a length is handed on; else it is dropped. */
void ing_ts_segment_end(struct ing_ts *ts, bool complete);
const struct ing_ts_counts *ing_ts_counts(const struct ing_ts *ts);
/* Words for people about why nothing comes out; NULL: both the tables and a stream were found. */
const char *ing_ts_trouble(const struct ing_ts *ts);

#endif

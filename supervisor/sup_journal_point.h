/* SPDX-License-Identifier: MIT */
/*
 * Checkpoints: where the output of each session stood, a moment ago
 *
 * These numbers change with every frame, so they are not in the journal: each session has a place in DIR/checkpoint that is
 * rewritten ten times a second and never waits for the disk. What a killed process wrote last is there for its
 * successor, because the page cache outlives it; after a crash of the whole machine a place may be as old as the
 * kernel's write-back, and the time that has passed is added by the reader. A place is two halves, written in turn:
 * one of them is always whole.
 */
#ifndef MR_SUP_JOURNAL_POINT_H
#define MR_SUP_JOURNAL_POINT_H

#include <stdbool.h>
#include <stdint.h>

enum { SUP_POINT_HALF_BYTES = 256, SUP_POINT_BYTES = 2 * SUP_POINT_HALF_BYTES, SUP_POINT_SLOTS_MAX = 4096 };
enum { SUP_POINT_HAS_AUDIO = 1, SUP_POINT_HAD_OUTPUT = 2, SUP_POINT_HAD_INPUT = 4 };

struct sup_point {
	uint64_t key;	/* of the session */
	uint64_t count; /* of writes of this place; the greater one of two halves is the newer */
	int64_t mono_ns, wall_ms; /* when it was written */
	int64_t out_pts_ns, out_audio_pts_ns; /* egress: newest sent */
	int64_t in_pts_ns, ts_offset_ns;      /* ingest: newest published; session minus source timestamp */
	uint32_t out_width, out_height, flags;
	uint32_t generation[6]; /* of rings, by id */
	int64_t burst_ns;	/* what may have been sent since, beyond the time that passes */
};

/* 0 or -errno. */
int sup_point_open(int dir_fd, int *fd);
int sup_point_write(int fd, unsigned slot, const struct sup_point *p);
/* false: no whole half belongs to that session. */
bool sup_point_read(int fd, unsigned slot, uint64_t key, struct sup_point *out);

#endif

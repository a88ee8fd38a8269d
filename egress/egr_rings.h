/* SPDX-License-Identifier: MIT */
/*
 * The rings that egress reads
 *
 * At most two generations of a ring are here at once: the older one is drained first. An ended ring is closed, and
 * the supervisor told, when it is empty and nothing of it is held any more.
 */
#ifndef MR_EGR_RINGS_H
#define MR_EGR_RINGS_H

#include "egress/egr_link.h"
#include "egress/egr_video.h"
#include "proto/ring.h"

#include <stdbool.h>
#include <stdint.h>

struct pollfd;

enum { EGR_RINGS_MAX = 12 };

struct egr_ring {
	struct ring_rx *rx; /* NULL: unused */
	uint32_t id, generation, session;
	bool ended;
	unsigned refs;	    /* pictures that hold a frame of it */
	int64_t mute_ns;    /* its doorbell is not listened to before */
	uint64_t violations_seen;
};

struct egr_rings {
	struct egr_ring ring[EGR_RINGS_MAX];
	struct egr_link *link;
};

void egr_rings_init(struct egr_rings *r, struct egr_link *link);
/* Maps a ring; consumes `fds`. 0: *out is its place. -errno. */
int egr_rings_open(struct egr_rings *r, const struct ctl_ring_open *open, int *fds, unsigned fd_count,
    struct egr_ring **out);
/* The producer has left. false: no such ring. */
bool egr_rings_end(struct egr_rings *r, uint32_t id, uint32_t generation);
/* Closes a ring, with or without frames left in it, and tells the supervisor when `tell`. */
void egr_rings_close(struct egr_rings *r, struct egr_ring *ring, bool tell);

/* The n-th oldest ring of that track; NULL: there are fewer. */
struct egr_ring *egr_rings_get(struct egr_rings *r, uint32_t id, unsigned n);
/* A ring of that track whose producer lives is there. */
bool egr_rings_alive(struct egr_rings *r, uint32_t id);

/* Fills in the doorbells that are listened to; returns how many. */
unsigned egr_rings_pollfds(struct egr_rings *r, struct pollfd *fds, int64_t now_ns);
/* Looks at what poll() said: a doorbell whose other end is closed is not listened to any more. */
void egr_rings_polled(struct egr_rings *r, const struct pollfd *fds, unsigned count);
void egr_rings_clear_doorbells(struct egr_rings *r);

/* Impossible values found in pages of that track since the last call. */
uint64_t egr_rings_violations(struct egr_rings *r, uint32_t id);

/* ---- pictures of the input -------------------------------------------- */

/* An input frame that waits: held in its ring, or copied when holds are short. */
struct egr_pic {
	struct egr_ring *ring; /* NULL: `copy` has it */
	struct ring_frame frame;
	uint8_t *copy;
	struct egr_view view;
};

/* Takes over the hold. NULL: out of memory; the hold is released. */
struct egr_pic *egr_pic_new(struct egr_ring *ring, const struct ring_frame *frame);
/* Copies the picture out of its ring and releases the hold. false: it was copied before, or out of memory. */
bool egr_pic_detach(struct egr_pic *pic);
void egr_pic_free(struct egr_pic **pic);

struct egr_view egr_ring_view(const struct egr_ring *ring, const struct ring_frame *frame);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * The producer's side of the in rings: their life, and when to wait for whom
 *
 * Waiting policy. Video: a frame is published at once when frames come in real time. When they come in a burst (the start
 * in the middle of a segment, or after an outage) a frame waits for worker and egress to have taken the one before, at most
 * until a quarter of a frame interval after that one was published, so a burst passes at four times real time or faster
 * and they still see all of it. Who made no progress for half a second is not waited for. Audio: a block that finds its ring
 * full waits as long as that ring's budget lasts, which refills slowly; a consumer that hangs uses it up once.
 */
#ifndef MR_ING_RINGS_H
#define MR_ING_RINGS_H

#include "proto/ctl.h"
#include "proto/ring.h"
#include "proto/stats.h"

#include <stdbool.h>
#include <stdint.h>

enum ing_ring_idx { ING_RING_VIDEO, ING_RING_AUDIO_EGRESS, ING_RING_AUDIO_WORKER, ING_RING_COUNT };

struct ing_ring_map {
	struct ring_tx *tx; /* NULL: none */
	uint32_t generation;
	bool live;
	int64_t live_by_ns; /* considered live from then on, whatever the supervisor says */
};

struct ing_taker {
	uint64_t taken;	     /* as last seen */
	int64_t progress_ns; /* when that changed, or when there was something to take again */
};

struct ing_ring {
	struct ing_ring_map cur, next; /* next: takes over when it is live */
	bool requested;
	int64_t requested_ns;
	uint64_t last_seq; /* published; 0: none in this generation */
	int64_t published_ns;
	struct ing_taker taker[RING_CONSUMERS_MAX];
	int64_t full_since_ns; /* audio: 0: not full */
	int64_t budget_ns, budget_at_ns;
};

struct ing_rings {
	/* Sends a message; descriptors are never sent. */
	void (*send)(void *arg, const union ctl_msg *msg);
	void *arg;
	uint32_t session;
	bool has_sound; /* the source announces sound: said with the request for in.video */
	struct ing_ring ring[ING_RING_COUNT];
};

void ing_rings_init(struct ing_rings *r, uint32_t session, void (*send)(void *arg, const union ctl_msg *msg), void *arg);
/* Unmaps everything; nothing is sent. */
void ing_rings_fini(struct ing_rings *r);

/* Once for each ring; later calls do nothing. */
void ing_rings_request_video(struct ing_rings *r, enum format_id format, uint32_t width, uint32_t height, uint32_t rate_num,
    uint32_t rate_den, int64_t now_ns);
void ing_rings_request_audio(struct ing_rings *r, uint32_t channels, int64_t now_ns);

/* `fds` are consumed. 0, or -errno: the ring cannot be used, nothing was answered. */
int ing_rings_on_open(struct ing_rings *r, const struct ctl_ring_open *open, int *fds, unsigned fd_count, int64_t now_ns);
void ing_rings_on_live(struct ing_rings *r, const struct ctl_ring_ref *ref, int64_t now_ns);
void ing_rings_on_ended(struct ing_rings *r, const struct ctl_ring_ref *ref);
/* Deadlines; the next one, or INT64_MAX. */
int64_t ing_rings_tick(struct ing_rings *r, int64_t now_ns);

/* The ring to publish to; NULL: not live. */
struct ring_tx *ing_ring_live(struct ing_ring *ring);
/* Until when a frame should still be kept because the ring is on its way; INT64_MIN: no use to wait. */
int64_t ing_ring_wait_until(const struct ing_ring *ring);

/* Video: time to publish, now_ns or earlier: at once. */
int64_t ing_ring_pace(struct ing_ring *ring, int64_t interval_ns, int64_t now_ns);
/* Audio: the ring is full: true: wait a little and try again; false: drop the block. */
bool ing_ring_patience(struct ing_ring *ring, int64_t now_ns);
void ing_ring_published(struct ing_ring *ring, uint64_t seq, int64_t now_ns);

#endif

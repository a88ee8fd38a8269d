/* SPDX-License-Identifier: MIT */
/*
 * One ring in one generation, as its maker sees it
 *
 * The supervisor computes the geometry, creates and reserves the memory, hands it to the producer, seals it when the
 * producer has mapped it, and hands it to the consumers. It keeps read-only descriptors and the consumer pages until
 * every consumer has closed the ring, so that the next incarnation of a consumer finds what its predecessor held.
 * It maps none of it.
 */
#ifndef MR_SUP_RING_H
#define MR_SUP_RING_H

#include "proto/ctl.h"
#include "supervisor/sup_child.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

struct sup_ring_spec {
	enum ctl_ring_id id;
	uint32_t generation;
	uint32_t format, width, height;
	uint32_t sample_rate, channels, block_samples;
	uint32_t rate_num, rate_den;
	uint32_t hold_count[RING_CONSUMERS_MAX]; /* 0: no such consumer */
	uint32_t depth[RING_CONSUMERS_MAX];
	uint32_t doorbell_mask;
	uint64_t payload_bytes_max; /* the operator's limits */
	uint64_t ring_bytes_max;
};

enum sup_ring_plan_result {
	SUP_RING_OK = 0,
	SUP_RING_BAD_FORMAT = 1, /* unknown format, impossible size or sample rate */
	SUP_RING_TOO_BIG = 2,	 /* a frame, or the whole, is beyond the operator's limits */
	SUP_RING_TOO_MANY = 3,	 /* the holds need more slots than a ring can have */
};

enum sup_ring_stage {
	SUP_RING_RESERVING, /* memory is being reserved, a piece at each turn of the loop */
	SUP_RING_OFFERED,   /* the producer has its descriptors */
	SUP_RING_MAPPED,    /* mapped by the producer, sealed: consumers may have it */
	SUP_RING_LIVE,	    /* the producer may publish */
};

enum sup_seat_stage { SUP_SEAT_EMPTY, SUP_SEAT_OFFERED, SUP_SEAT_MAPPED, SUP_SEAT_CLOSED };

struct sup_seat { /* of a consumer */
	enum ctl_role role;
	enum sup_seat_stage stage;
	bool given;   /* its page has been handed out before: whoever comes next recovers */
	uint32_t depth;
	int c_rw, c_ro;	   /* its page */
	int bell_tx, bell_rx; /* doorbell: the producer's end, its own */
};

struct sup_ring {
	uint32_t magic;
#define SUP_RING_MAGIC 0x53524e47u
	TAILQ_ENTRY(sup_ring) link;
	struct ctl_ring_open open; /* all but role, consumer_idx, depth and what is particular to a receiver */
	enum sup_ring_stage stage;
	enum ctl_role producer_role;
	uint32_t producer_incarnation;
	uint32_t producer_id; /* child id */
	bool ended;	      /* consumers drain what is left */
	bool replaced;	      /* a newer generation is on its way; ends when the producer has left this one */
	int64_t replaced_ns;  /* when the newer one became live; 0: not yet */
	int64_t ready_ns;     /* when egress had mapped it; 0: not yet */
	uint64_t data_bytes, reserved_bytes;
	int p_rw, p_ro, d_rw, d_ro;
	struct sup_seat seat[RING_CONSUMERS_MAX];
};

/* Which processes stand at the two ends of a ring. */
enum ctl_role sup_ring_producer_role(enum ctl_ring_id id);
enum ctl_role sup_ring_consumer_role(enum ctl_ring_id id, unsigned i);
const char *sup_ring_name(enum ctl_ring_id id);
static inline bool
sup_ring_is_in(uint32_t id)
{
	return id == CTL_RING_IN_VIDEO || id == CTL_RING_IN_AUDIO_WORKER || id == CTL_RING_IN_AUDIO_EGRESS;
}

/* Frames that egress holds so that each can be filled in at its deadline: 1..10. */
uint32_t sup_ring_egress_holds(int64_t frame_deadline_ns, uint32_t frames_a_second);
/* Pure arithmetic. On SUP_RING_OK *out has the geometry. */
enum sup_ring_plan_result sup_ring_plan(const struct sup_ring_spec *spec, struct ctl_ring_open *out);
const char *sup_ring_plan_text(enum sup_ring_plan_result r);

/* Creates the memory of a planned ring; data is not reserved yet. 0: *out is the caller's. */
int sup_ring_new(const struct sup_ring_spec *spec, const struct ctl_ring_open *plan, struct sup_ring **out);
void sup_ring_free(struct sup_ring **ring);
/* Reserves the next piece of at most 64 MiB. 0: done; SUP_RING_MORE: call again in a later turn; -errno. */
enum { SUP_RING_MORE = 1 };
int sup_ring_reserve(struct sup_ring *ring);

bool sup_ring_offer_producer(struct sup_ring *ring, struct sup_child *producer, uint32_t session);
/* After the producer's MAPPED: seals, forgets the writable descriptors. -EPERM: the producer has sealed first. */
int sup_ring_seal(struct sup_ring *ring);
bool sup_ring_offer_consumer(struct sup_ring *ring, unsigned i, struct sup_child *consumer, uint32_t session,
    const uint64_t skip_seq[4]);
/* RING_LIVE, RING_ENDED. */
bool sup_ring_tell(struct sup_ring *ring, enum ctl_type type, struct sup_child *child, uint32_t session);

/* Sequence numbers that consumer i holds according to its page, which is input; at most `max`. */
unsigned sup_ring_held(const struct sup_ring *ring, unsigned i, uint64_t *seq, unsigned max);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Frame ring: producer and consumers
 *
 * Latency policy. Video (DROP_OLDEST): the producer never waits; when every slot is taken it steals the oldest frame
 * that nobody holds, never the newest. A consumer looks at the `depth` newest frames. Audio (BLOCK): one consumer,
 * nothing is dropped until the producer has waited to its deadline; then it drops the block that it was about to
 * write, whose sequence number is not used. Each loss is counted once, by the side that can know it.
 *
 * Safety. Every shared word is written by one process. A consumer protects a frame by publishing its word in a hold,
 * which the producer only compares. A process may be killed at any instruction: what it leaves behind needs no
 * repair. A dead producer means a new ring (the next generation); a dead consumer's page is handed to its next
 * incarnation, which is given the frames that were held, again. What a peer can write is loaded once, checked and
 * used as a local; no length, index or count from shared memory reaches an address, except a slot number that was
 * compared with a loop index of ours.
 *
 * A handle belongs to one thread. Functions marked @rt make no system call but the wake-up and allocate nothing.
 */
#ifndef MR_PROTO_RING_H
#define MR_PROTO_RING_H

#include "proto/format.h"
#include "proto/ring_layout.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ctl_ring_open;
struct ring_tx;
struct ring_rx;

/* Everything that both sides know about a ring; from CTL_RING_OPEN, checked. */
struct ring_geom {
	uint32_t ring_id, generation;
	uint32_t policy; /* enum ctl_ring_policy */
	uint32_t depth;	 /* consumer: newest frames it looks at; 0: all */
	uint32_t slot_count;
	uint32_t consumer_count, consumer_idx;
	uint32_t hold_count[RING_CONSUMERS_MAX];
	uint64_t slot_stride, payload_max, first_seq;
	int64_t block_deadline_ns;
	enum format_id format;
	uint32_t width, height;
	struct format_layout layout; /* video */
	uint32_t sample_rate, channels, block_samples; /* audio */
	uint32_t rate_num, rate_den;
	bool recovering, ended;
	uint64_t skip_seq[4];
};

/* Checks every field and repeats the arithmetic. 0, or -EPROTO. */
int ring_geom_from_open(const struct ctl_ring_open *open, struct ring_geom *out);

/* Smallest number of slots: the sum of all holds, the newest frame, one to write, and the largest depth. */
uint32_t ring_slots_needed(const uint32_t *hold_count, uint32_t consumer_count, uint32_t depth);

/* ---- producer --------------------------------------------------------- */

/*
 * Maps a ring as its producer. `fds` are those that came with the message; they are consumed: closed and set to -1,
 * also on failure. Populates P and D, so that no page fault and no SIGBUS comes later.
 * 0: *out is the caller's until ring_tx_close(). -EPROTO: descriptors or geometry are not what they must be.
 * -ENOMEM, -errno: mapping failed.
 */
int ring_tx_open(const struct ctl_ring_open *open, int *fds, unsigned fd_count, struct ring_tx **out);
/* The same over memory that is already mapped (tests, several threads in one process). */
int ring_tx_new(const struct ring_geom *geom, struct ring_prod *prod, uint8_t *data,
    const struct ring_cons *const *cons, struct ring_tx **out);
void ring_tx_close(struct ring_tx **tx);
const struct ring_geom *ring_tx_geom(const struct ring_tx *tx);

enum ring_claim_result {
	RING_CLAIMED = 0,
	RING_FULL = 1,	    /* BLOCK: no slot is free; wait with ring_tx_wait() or drop the frame */
	RING_CONTENDED = 2, /* DROP_OLDEST: the consumers won every race; drop the frame */
};
/* A slot to write the next frame to. RING_CLAIMED: *slot is the caller's until publish or abandon; only one at a
 * time. @rt */
enum ring_claim_result ring_claim(struct ring_tx *tx, unsigned *slot);
/* The payload memory of a claimed slot: payload_max bytes and RING_TAIL_BYTES more, page-aligned. @rt */
uint8_t *ring_tx_slot(struct ring_tx *tx, unsigned slot);
/* Hands the frame over and wakes the consumers. seq and commit_ns of `desc` are filled in; desc->bytes must not exceed
 * payload_max. Returns the frame's seq. @rt */
uint64_t ring_publish(struct ring_tx *tx, unsigned slot, const struct ring_desc *desc);
/* Gives a claimed slot back unwritten. @rt */
void ring_abandon(struct ring_tx *tx, unsigned slot);
/* seq that the next published frame will get. */
uint64_t ring_tx_next_seq(const struct ring_tx *tx);
/* Newest seq that consumer i has taken, clamped to what was published; first_seq - 1: none. @rt */
uint64_t ring_tx_taken(const struct ring_tx *tx, unsigned i);
/* Waits for a release by consumer i, 50 ms and not beyond `deadline_ns`; returns early at will: look again. */
void ring_tx_wait(struct ring_tx *tx, unsigned i, int64_t deadline_ns);

/* ---- consumer --------------------------------------------------------- */

struct ring_frame {
	struct ring_desc desc;	/* a private copy, checked */
	const uint8_t *payload; /* desc.bytes bytes, readable RING_TAIL_BYTES further; a hostile producer can change them
				 * while they are read: hand them only to code for which any bytes are valid */
	uint64_t word;
	unsigned slot;
	unsigned hold;	  /* index of the hold that protects it */
	bool redelivered; /* was held by the previous incarnation */
};

/* As ring_tx_open(), for a consumer. With `recovering` the frames that the previous incarnation held are delivered
 * first, in order of seq; this may wait up to 50 ms for a producer in the middle of a steal. */
int ring_rx_open(const struct ctl_ring_open *open, int *fds, unsigned fd_count, struct ring_rx **out);
int ring_rx_new(const struct ring_geom *geom, const struct ring_prod *prod, const uint8_t *data,
    struct ring_cons *cons, struct ring_rx **out);
/* Unmaps. Holds that are still set stay in the consumer page: release them first unless the frames are to be
 * delivered again. */
void ring_rx_close(struct ring_rx **rx);
const struct ring_geom *ring_rx_geom(const struct ring_rx *rx);

enum ring_take_result {
	RING_TAKEN = 0,
	RING_EMPTY = 1,	   /* nothing new */
	RING_NO_HOLD = 2,  /* all hold_count holds are in use: release one first */
	RING_BAD_DESC = 3, /* a frame with an impossible descriptor was released and counted; call again */
};
/* The next frame. RING_TAKEN: the caller holds it until ring_release(). @rt */
enum ring_take_result ring_take(struct ring_rx *rx, struct ring_frame *frame);
/* Ends the hold; the payload may be overwritten from now on. @rt */
void ring_release(struct ring_rx *rx, const struct ring_frame *frame);
/* The producer is gone for good: interrupted steals now read as the frames that they marked. */
void ring_rx_set_ended(struct ring_rx *rx);
/* Parks on the producer's bell until something may be there: at most 50 ms and not beyond `deadline_ns`; returns
 * early at will: look again. */
void ring_rx_wait(struct ring_rx *rx, int64_t deadline_ns);
/* Doorbell: a descriptor that polls readable after a publish; -1: none was given. The ring keeps it. */
int ring_rx_fd(const struct ring_rx *rx);
/* Empties the doorbell; call before looking for frames. */
void ring_rx_clear_doorbell(struct ring_rx *rx);

struct ring_rx_counts {
	uint64_t taken;	       /* frames delivered, redelivered ones included */
	uint64_t redelivered;
	uint64_t late;	       /* skipped because of depth */
	uint64_t stolen;       /* overwritten before they could be taken */
	uint64_t bad_desc;     /* impossible descriptors */
	uint64_t quarantined;  /* skip_seq */
	uint64_t violations;   /* impossible words in the producer's page, bad descriptors included */
};
void ring_rx_get_counts(const struct ring_rx *rx, struct ring_rx_counts *out);

struct ring_tx_counts {
	uint64_t published;
	uint64_t contended;
	uint64_t blocked;    /* claims that found a BLOCK ring full */
	uint64_t violations; /* a `taken` beyond what was published */
};
void ring_tx_get_counts(const struct ring_tx *tx, struct ring_tx_counts *out);

#endif

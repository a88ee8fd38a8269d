/* SPDX-License-Identifier: MIT */
/* Frame ring: the handles, and what ring.c, ring_rx.c (protocol) and ring_attach.c (mapping and checks)
 * share with each other only. */
#ifndef MR_PROTO_RING_PRIV_H
#define MR_PROTO_RING_PRIV_H

#include "base/clock.h"
#include "proto/ring.h"

enum { RING_DESC_WORDS = sizeof(struct ring_desc) / 8 };
#define RING_WAIT_MAX_NS (50 * CLOCK_MS_NS) /* a peer can requeue our waiter away: every wait looks again */

#ifdef MR_RING_MUTANT_NO_FENCE /* to show that the tests would notice */
#define RING_FENCE() ((void)0)
#else
/* The full fence between our store and our load of the peer's word, see the invariants in ring.c. */
#define RING_FENCE() atomic_thread_fence(memory_order_seq_cst)
#endif

/* Wakes everybody who waits on a bell, in any process. */
void ring_bell_wake(const _Atomic uint32_t *bell);
/* Sleeps while the bell is `seen`: RING_WAIT_MAX_NS at most and not beyond the deadline. */
void ring_bell_wait(const _Atomic uint32_t *bell, uint32_t seen, int64_t deadline_ns);

struct ring_tx {
	uint32_t magic;
#define RING_TX_MAGIC 0x72747831u
	struct ring_geom geom;
	struct ring_prod *prod;
	uint8_t *data;
	const struct ring_cons *cons[RING_CONSUMERS_MAX];
	int doorbell[RING_CONSUMERS_MAX]; /* -1: none */
	uint64_t state[RING_SLOTS_MAX];	  /* what we last stored; the shared words are write-only for us */
	uint64_t seq;			  /* of the next frame */
	uint32_t bell;
	uint32_t seen_bell[RING_CONSUMERS_MAX];
	int claimed; /* slot, or -1 */
	bool mapped; /* the memory is ours to unmap */
	struct ring_tx_counts counts;
};

struct ring_rx {
	uint32_t magic;
#define RING_RX_MAGIC 0x72727831u
	struct ring_geom geom;
	const struct ring_prod *prod;
	const uint8_t *data;
	struct ring_cons *cons;
	int doorbell; /* -1: none */
	uint64_t last;			      /* newest sequence taken */
	uint64_t joined_at;		      /* newest sequence when we attached */
	uint64_t hold[RING_HOLDS_MAX];	      /* what we last stored */
	uint64_t recovered[RING_HOLDS_MAX];   /* words to deliver again; 0: none */
	uint32_t bell;
	bool ended;
	bool mapped;
	struct ring_rx_counts counts;
};

#endif

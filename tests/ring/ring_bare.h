/* SPDX-License-Identifier: MIT */
/*
 * A ring in plain memory, for tests that play both sides in one process
 *
 * Unlike a real party the test may write every word: that is how it plays a hostile or a dead peer.
 */
#ifndef MR_TESTS_RING_BARE_H
#define MR_TESTS_RING_BARE_H

#include "base/assert.h"
#include "proto/ctl.h"
#include "proto/ring.h"

#include <stdlib.h>
#include <string.h>

enum { BARE_PAYLOAD_BYTES = 64, BARE_STRIDE = 4096 };

struct bare {
	struct ring_geom geom;
	struct ring_prod *prod;
	struct ring_cons *cons[RING_CONSUMERS_MAX];
	uint8_t *data;
	struct ring_tx *tx;
	struct ring_rx *rx[RING_CONSUMERS_MAX];
};

static inline void *
bare_zeroed(size_t bytes)
{
	void *p = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);

	MR_ASSERT(p != NULL);
	memset(p, 0, (bytes + 4095) / 4096 * 4096);
	return p;
}

static inline struct ring_geom
bare_geom_of(const struct bare *b, uint32_t idx)
{
	struct ring_geom g = b->geom;

	g.consumer_idx = idx;
	return g;
}

/* One generation with `consumers` consumers of `holds` holds each and `slots` slots. Everybody attaches. */
static inline void
bare_open(struct bare *b, uint32_t policy, uint32_t slots, uint32_t consumers, uint32_t holds, uint32_t depth)
{
	const struct ring_cons *cons[RING_CONSUMERS_MAX] = { NULL };

	*b = (struct bare){ .geom = {
		.ring_id = CTL_RING_IN_VIDEO, .generation = 1, .policy = policy, .depth = depth, .slot_count = slots,
		.consumer_count = consumers, .slot_stride = BARE_STRIDE, .payload_max = BARE_PAYLOAD_BYTES,
		.first_seq = ring_first_seq(1),
	} };
	b->prod = bare_zeroed(sizeof(*b->prod));
	b->data = bare_zeroed((size_t)slots * BARE_STRIDE);
	for (uint32_t i = 0; i < consumers; i++) {
		b->geom.hold_count[i] = holds;
		cons[i] = b->cons[i] = bare_zeroed(sizeof(*b->cons[i]));
	}
	MR_ASSERT(ring_tx_new(&b->geom, b->prod, b->data, cons, &b->tx) == 0);
	for (uint32_t i = 0; i < consumers; i++) {
		struct ring_geom g = bare_geom_of(b, i);

		MR_ASSERT(ring_rx_new(&g, b->prod, b->data, b->cons[i], &b->rx[i]) == 0);
	}
}

static inline void
bare_close(struct bare *b)
{
	ring_tx_close(&b->tx);
	for (uint32_t i = 0; i < RING_CONSUMERS_MAX; i++) {
		ring_rx_close(&b->rx[i]);
		free(b->cons[i]);
	}
	free(b->prod);
	free(b->data);
}

/* Consumer `idx` dies and comes back. */
static inline void
bare_restart(struct bare *b, uint32_t idx)
{
	struct ring_geom g = bare_geom_of(b, idx);

	g.recovering = true;
	ring_rx_close(&b->rx[idx]);
	MR_ASSERT(ring_rx_new(&g, b->prod, b->data, b->cons[idx], &b->rx[idx]) == 0);
}

/* Publishes a frame whose payload is its sequence, repeated. 0: no slot. */
static inline uint64_t
bare_publish(struct bare *b)
{
	struct ring_desc desc = { .bytes = BARE_PAYLOAD_BYTES };
	uint64_t seq = ring_tx_next_seq(b->tx), *to;
	unsigned slot;

	if (ring_claim(b->tx, &slot) != RING_CLAIMED)
		return 0;
	to = (uint64_t *)(void *)ring_tx_slot(b->tx, slot);
	for (unsigned i = 0; i < BARE_PAYLOAD_BYTES / 8; i++)
		to[i] = seq;
	return ring_publish(b->tx, slot, &desc);
}

static inline bool
bare_payload_ok(const struct ring_frame *f)
{
	const uint64_t *from = (const uint64_t *)(const void *)f->payload;

	for (unsigned i = 0; i < BARE_PAYLOAD_BYTES / 8; i++)
		if (from[i] != f->desc.seq)
			return false;
	return true;
}

/* The n-th frame of the generation, n from 1. */
static inline uint64_t
bare_seq(const struct bare *b, uint64_t n)
{
	return b->geom.first_seq + n - 1;
}

/* Words that a test writes in somebody else's name. seq_cst: nothing here is about order. */
static inline uint64_t
bare_state(const struct bare *b, unsigned slot)
{
	return atomic_load(&b->prod->state[slot]);
}

static inline void
bare_set_state(struct bare *b, unsigned slot, uint64_t word)
{
	atomic_store(&b->prod->state[slot], word);
}

#endif

/* SPDX-License-Identifier: MIT */
/*
 * A ring as the supervisor makes it, for tests
 *
 * world_open() creates, sizes, reserves and seals the memfds of one ring and fills in the message that announces it. The
 * tests play the parties: they attach with ring_tx_open() and ring_rx_open() in this process or in a child.
 */
#ifndef MR_TESTS_RING_WORLD_H
#define MR_TESTS_RING_WORLD_H

#include "proto/ctl.h"
#include "proto/ring.h"

enum { WORLD_FDS_MAX = 2 + 2 * RING_CONSUMERS_MAX };

struct world {
	struct ctl_ring_open open; /* as for the producer; fds and role are filled in by world_attach_*() */
	uint64_t data_bytes;
	int p_rw, d_rw, p_ro, d_ro; /* the rw ones are closed by world_seal() */
	int c_rw[RING_CONSUMERS_MAX], c_ro[RING_CONSUMERS_MAX];
};

struct world_spec {
	uint32_t ring_id; /* 0: CTL_RING_IN_VIDEO */
	uint32_t generation; /* 0: 1 */
	uint32_t policy; /* 0: DROP_OLDEST */
	uint32_t depth;
	uint32_t slots; /* 0: as few as are needed */
	uint32_t consumers; /* 0: 1 */
	uint32_t holds[RING_CONSUMERS_MAX]; /* 0: 1 */
};

/* Frames are 32x16 RGB24 (1536 bytes), audio blocks (BLOCK) 192 samples of two channels (1536 bytes). */
enum { WORLD_PAYLOAD_BYTES = 1536 };

/* Each aborts the test when the kernel refuses something. */
void world_open(struct world *w, const struct world_spec *spec);
void world_close(struct world *w);
/* Forbids new writers (the producer has mapped). */
void world_seal(struct world *w);
/* Descriptors for one party, duplicates of ours; returns how many. */
unsigned world_fds_producer(const struct world *w, int *fds);
unsigned world_fds_consumer(const struct world *w, uint32_t idx, int *fds);
struct ctl_ring_open world_msg_consumer(const struct world *w, uint32_t idx);

/* Attach in this process. */
struct ring_tx *world_tx(const struct world *w);
struct ring_rx *world_rx(const struct world *w, uint32_t idx, bool recovering);
/* world_open(), world_tx(), world_seal(). */
struct ring_tx *world_start(struct world *w, const struct world_spec *spec);

/* Claims, fills the payload with its sequence, publishes. Returns the sequence, 0: no slot. */
uint64_t world_publish(struct ring_tx *tx);
/* The payload is that of its sequence, read word by word. */
bool world_payload_ok(const struct ring_frame *frame);
/* Open descriptors of this process. */
unsigned world_count_fds(void);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Torture of the frame ring: the processes that are killed
 *
 * A producer fills each slot with its sequence, as fast as it can. A consumer takes frames, with two holds also several
 * at a time, reads each twice while it holds it, and compares what it sees with what the board says that it or its
 * predecessors saw. Rings arrive as in the product: RING_OPEN, RING_LIVE and RING_ENDED over a control socket.
 */
#include "torture.h"

#include "base/clock.h"
#include "base/testpoint.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* All of proto/ring.c and ring_rx.c, and two of ours, in the middle of writing and of reading a payload. */
const struct torture_point torture_points[] = {
	{ "ring_claim:empty", true, false },	     { "ring_claim:chosen", true, false },
	{ "ring_claim:victim", true, false },
	{ "ring_claim:marked", true, false },	     { "ring_claim:fenced", true, false },
	{ "ring_claim:held", true, false },	     { "ring_claim:restored", true, false },
	{ "ring_claim:free", true, false },	     { "ring_claim:zeroed", true, false },
	{ "ring_publish:described", true, false },   { "ring_publish:after_state", true, false },
	{ "ring_publish:after_bell", true, false },  { "ring_publish:woken", true, false },
	{ "torture:writing", true, false },	     { "torture:using", false, true },
	{ "ring_take:found", false, true },	     { "ring_take:hold", false, true },
	{ "ring_take:fenced", false, true },	     { "ring_take:lost", false, true },
	{ "ring_take:valid", false, true },	     { "ring_take:taken", false, true },
	{ "ring_release:begin", false, true },	     { "ring_release:after_hold", false, true },
	{ "ring_release:woken", false, true },	     { "ring_recover:looked", false, true },
	{ "ring_recover:cleared", false, true },
};
const int torture_point_count = sizeof(torture_points) / sizeof(torture_points[0]);

static enum role role;

static void
pass_point(const char *name)
{
	/* relaxed: a hint of the parent's; unarmed, this must not order anything, or it would hide a missing fence */
	int armed = atomic_load_explicit(&board->kill_at[role], memory_order_relaxed);
	int at = 0;

	if (armed < 0)
		return;
	while (at < torture_point_count && strcmp(torture_points[at].name, name) != 0)
		at++;
	if (at == torture_point_count)
		atomic_store(&board->unknown_point, 1);
	if (at != armed || atomic_fetch_sub(&board->kill_after[role], 1) > 0)
		return;
	atomic_store(&board->kill_at[role], -1);
	atomic_fetch_add(&board->hits[at], 1);
	raise(SIGKILL);
}

static void
add(_Atomic uint64_t *counter)
{
	atomic_fetch_add(counter, 1);
}

/* ---- producer --------------------------------------------------------- */

/* Waits for one message of that kind; the parent kills us if we wait in vain. */
static union ctl_msg
must_receive(int sock, enum ctl_type type, int *fds, unsigned *n)
{
	struct pollfd p = { .fd = sock, .events = POLLIN };
	union ctl_msg msg;
	int r;

	do {
		poll(&p, 1, 1000);
		r = ctl_recv(sock, &msg, false, fds, CTL_FDS_MAX, n);
	} while (r == -EAGAIN);
	if (r != 0 || msg.hdr.type != type)
		_exit(3);
	return msg;
}

static void
answer(int sock, enum ctl_type type, uint32_t ring_id, uint32_t generation)
{
	union ctl_msg msg;

	ctl_init(&msg, type, 1);
	msg.ring_ref.ring_id = ring_id;
	msg.ring_ref.generation = generation;
	if (ctl_send(sock, &msg, NULL, 0) != 0)
		_exit(4);
}

static void
write_frame(struct ring_tx *tx, unsigned slot)
{
	const struct ring_desc desc = { .bytes = WORLD_PAYLOAD_BYTES };
	volatile uint64_t *to = (volatile uint64_t *)(void *)ring_tx_slot(tx, slot);
	uint64_t seq = ring_tx_next_seq(tx);

	for (unsigned i = 0; i < WORLD_PAYLOAD_BYTES / 8; i++) {
		to[i] = seq;
		if (i == WORLD_PAYLOAD_BYTES / 16)
			pass_point("torture:writing");
	}
	ring_publish(tx, slot, &desc);
	atomic_store(&board->published, seq);
	add(&board->frames);
}

void
torture_produce(int sock, unsigned seed)
{
	union ctl_msg msg;
	struct ring_tx *tx;
	int fds[CTL_FDS_MAX];
	unsigned n, slot;

	role = PRODUCER;
	msg = must_receive(sock, CTL_RING_OPEN, fds, &n);
	if (ring_tx_open(&msg.ring_open, fds, n, &tx) != 0)
		_exit(5);
	answer(sock, CTL_MAPPED, ring_tx_geom(tx)->ring_id, ring_tx_geom(tx)->generation);
	must_receive(sock, CTL_RING_LIVE, fds, &n);
	testpoint_hook = pass_point;
	for (unsigned turn = seed;; turn++) {
		enum ring_claim_result r = ring_claim(tx, &slot);

		if (r == RING_CLAIMED)
			write_frame(tx, slot);
		else if (r == RING_FULL)
			ring_tx_wait(tx, 0, clock_now_ns() + 2 * CLOCK_MS_NS);
		if (turn % 8 == 0)
			sched_yield();
	}
}

/* ---- consumer --------------------------------------------------------- */

struct attached {
	struct ring_rx *rx;
	uint32_t generation;
	bool ended;
	bool unsettled;	  /* what the predecessor held has not been asked for yet */
	bool gave_up;	  /* recovery waited to its end: it may have given up an undecided frame */
};

struct consumer {
	int sock;
	unsigned idx;
	unsigned random;
	bool block;
	struct consumer_board *b;
	struct attached rings[4]; /* oldest first */
	unsigned ring_count;
	struct ring_frame held[HOLDS + 1]; /* oldest first */
	unsigned held_count;
};

static bool
coin(struct consumer *c)
{
	c->random = c->random * 1103515245u + 12345u;
	return (c->random >> 16 & 1) != 0;
}

static uint64_t
use_seq(uint64_t use)
{
	return use >> 2;
}

/* A frame of which the board must know, or which is newer than all that were seen. */
static void
check_redelivered(struct consumer *c, uint64_t seq)
{
	bool known = seq > atomic_load(&c->b->last_seen);

	for (unsigned k = 0; k < HOLDS; k++)
		known |= use_seq(atomic_load(&c->b->use[k])) == seq;
	if (!known)
		add(&c->b->duplicate);
	if (c->held_count > 0 && c->held[c->held_count - 1].desc.seq >= seq)
		add(&c->b->unordered);
	add(&c->b->redelivered);
}

static void
accept(struct consumer *c, const struct ring_frame *f)
{
	uint64_t seq = f->desc.seq, seen = atomic_load(&c->b->last_seen);
	uint64_t first = ring_rx_geom(c->rings[0].rx)->first_seq;
	uint64_t base = seen >= first ? seen : first - 1;

	if (f->redelivered)
		check_redelivered(c, seq);
	else if (seq == seen)
		add(&c->b->duplicate);
	else if (seq < seen)
		add(&c->b->unordered);
	if (seq > base + 1) {
		atomic_fetch_add(&c->b->skipped, seq - base - 1);
		if (c->block)
			add(c->rings[0].gave_up ? &c->b->given_up : &c->b->lost_in_block);
		c->rings[0].gave_up = false;
	}
	atomic_store(&c->b->use[f->hold], seq << 2 | USE_ACTIVE);
	if (seq > seen)
		atomic_store(&c->b->last_seen, seq);
	c->held[c->held_count++] = *f;
	add(&c->b->delivered);
}

static void
use_oldest(struct consumer *c)
{
	struct ring_frame f = c->held[0];
	bool whole = world_payload_ok(&f);

	pass_point("torture:using");
	if (!world_payload_ok(&f) || !whole)
		add(&c->b->torn);
	atomic_store(&c->b->use[f.hold], f.desc.seq << 2 | USE_RELEASING);
	ring_release(c->rings[0].rx, &f);
	atomic_store(&c->b->use[f.hold], 0);
	memmove(&c->held[0], &c->held[1], sizeof(c->held[0]) * --c->held_count);
}

/* A new incarnation asks for what the dead one held. */
static void
settle(struct consumer *c)
{
	struct attached *a = &c->rings[0];
	uint64_t expected[HOLDS];
	struct ring_frame f;

	for (unsigned k = 0; k < HOLDS; k++)
		expected[k] = atomic_load(&c->b->use[k]);
	for (unsigned i = 0; i <= HOLDS && ring_take(a->rx, &f) == RING_TAKEN; i++) {
		accept(c, &f);
		if (!f.redelivered)
			break;
	}
	for (unsigned k = 0; k < HOLDS; k++) {
		bool back = false;

		if (expected[k] == 0 || use_seq(expected[k]) >> 32 != a->generation)
			continue;
		for (unsigned i = 0; i < c->held_count; i++)
			back |= c->held[i].desc.seq == use_seq(expected[k]);
		if (!back && (expected[k] & 3) == USE_ACTIVE)
			add(a->gave_up ? &c->b->given_up : &c->b->lost_in_flight);
		if (!back)
			atomic_compare_exchange_strong(&c->b->use[k], &expected[k], 0);
	}
	a->unsettled = false;
}

static void
leave_ring(struct consumer *c)
{
	struct attached *a = &c->rings[0];
	uint64_t seen = atomic_load(&c->b->last_seen);

	atomic_store(&c->b->final_seen[a->generation % FINALS], seen >> 32 == a->generation ? seen : 0);
	ring_rx_close(&a->rx);
	answer(c->sock, CTL_RING_CLOSED, CTL_RING_IN_VIDEO, a->generation);
	memmove(&c->rings[0], &c->rings[1], sizeof(c->rings[0]) * --c->ring_count);
}

static void
open_ring(struct consumer *c, const struct ctl_ring_open *open, int *fds, unsigned n)
{
	struct attached *a = &c->rings[c->ring_count];
	int64_t begin = clock_now_ns();

	*a = (struct attached){ .generation = open->generation, .ended = open->ended != 0,
		.unsettled = open->recovering != 0 };
	if (c->ring_count == 3 || ring_rx_open(open, fds, n, &a->rx) != 0) {
		add(&c->b->refused);
		_exit(6);
	}
	c->block = open->policy == CTL_POLICY_BLOCK;
	/* An undecided frame is waited for, 50 ms at most: its producer may have died in the middle of a steal. */
	a->gave_up = open->recovering != 0 && clock_now_ns() - begin > 45 * CLOCK_MS_NS;
	c->ring_count++;
}

static void
listen_to_parent(struct consumer *c)
{
	union ctl_msg msg;
	int fds[CTL_FDS_MAX];
	unsigned n = 0;
	int r;

	while ((r = ctl_recv(c->sock, &msg, false, fds, CTL_FDS_MAX, &n)) == 0) {
		if (msg.hdr.type == CTL_RING_OPEN)
			open_ring(c, &msg.ring_open, fds, n);
		for (unsigned i = 0; i < c->ring_count && msg.hdr.type == CTL_RING_ENDED; i++)
			if (c->rings[i].generation == msg.ring_ref.generation) {
				ring_rx_set_ended(c->rings[i].rx);
				c->rings[i].ended = true;
			}
	}
	if (r != -EAGAIN)
		_exit(7);
}

static void
consume_once(struct consumer *c)
{
	struct attached *a = &c->rings[0];
	struct ring_frame f;
	bool ended = a->ended;

	if (a->unsettled) {
		settle(c);
		return;
	}
	switch (ring_take(a->rx, &f)) {
	case RING_TAKEN:
		accept(c, &f);
		if (coin(c)) /* with a second hold: perhaps another one first */
			use_oldest(c);
		return;
	case RING_NO_HOLD:
		use_oldest(c);
		return;
	case RING_BAD_DESC:
		add(&c->b->torn);
		return;
	case RING_EMPTY:
		break;
	}
	if (c->held_count > 0)
		use_oldest(c);
	else if (ended)
		leave_ring(c);
	else
		ring_rx_wait(a->rx, clock_now_ns() + CLOCK_MS_NS);
}

void
torture_consume(int sock, unsigned idx, unsigned seed)
{
	struct consumer c = { .sock = sock, .idx = idx, .random = seed, .b = &board->c[idx] };
	struct pollfd p = { .fd = sock, .events = POLLIN };

	role = CONSUMER_0 + idx;
	testpoint_hook = pass_point;
	for (unsigned turn = 0;; turn++) {
		listen_to_parent(&c);
		if (c.ring_count > 0)
			consume_once(&c);
		else
			poll(&p, 1, 50);
		if (turn % 4 == 0)
			sched_yield();
	}
}

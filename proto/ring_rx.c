/* SPDX-License-Identifier: MIT */
/*
 * Frame ring: a consumer's steps, and what its next incarnation recovers
 *
 * The invariants are those of ring.c, seen from the other side: we write our own page only; a frame is ours between the
 * check that follows our hold and the release of that hold; what the producer can write is loaded once, checked as a
 * local, and never an index or a length, except for a slot number that was compared with a loop index of ours.
 */
#include "proto/ring_priv.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/testpoint.h"
#include "proto/ctl.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { TAKE_TRIES_MAX = 8 };		/* passes, and lost races, before a consumer looks again later */
#define SEQ_WINDOW (UINT64_C(1) << 20) /* a sequence further ahead is not believed */

static uint64_t
load_state(const struct ring_rx *rx, unsigned slot)
{
	/* acquire: pairs with the release store in ring_publish() and in steal() */
	uint64_t word = atomic_load_explicit(&rx->prod->state[slot], memory_order_acquire);

	/* The producer is dead: an interrupted steal is the frame that it marks, its payload can no longer change. */
	return rx->ended ? word & ~RING_STEAL : word;
}

static void
store_hold(struct ring_rx *rx, unsigned k, uint64_t word, memory_order order)
{
	atomic_store_explicit(&rx->cons->hold[k], word, order); /* the caller says why this order */
	rx->hold[k] = word;
}

static void
store_taken(struct ring_rx *rx, uint64_t seq)
{
	/* release: a producer that sees `taken` sees the hold; pairs with the acquire in ring_tx_taken() */
	atomic_store_explicit(&rx->cons->taken, seq, memory_order_release);
	rx->last = seq;
}

/* One pass over the slots: the lowest sequence above the floor, or 0. */
static uint64_t
scan_once(struct ring_rx *rx, uint64_t *floor_out)
{
	uint64_t word[RING_SLOTS_MAX], newest = rx->last, floor, best = 0;
	uint64_t highest = (rx->joined_at > rx->last ? rx->joined_at : rx->last) + SEQ_WINDOW;

	for (unsigned i = 0; i < rx->geom.slot_count; i++) {
		uint64_t w = load_state(rx, i), seq = ring_word_seq(w);

		word[i] = 0;
		if (w == 0 || (w & RING_STEAL) != 0 || seq <= rx->last)
			continue;
		if (ring_word_slot(w) != i || seq > highest) {
			rx->counts.violations++;
			continue;
		}
		word[i] = w;
		if (seq > newest)
			newest = seq;
	}
	floor = rx->last;
	if (rx->geom.depth != 0 && newest - rx->last > rx->geom.depth)
		floor = newest - rx->geom.depth;
	for (unsigned i = 0; i < rx->geom.slot_count; i++)
		if (word[i] != 0 && ring_word_seq(word[i]) > floor &&
		    (best == 0 || ring_word_seq(word[i]) < ring_word_seq(best)))
			best = word[i];
	*floor_out = floor;
	return best;
}

/*
 * The next frame, or 0. A pass is not a snapshot: the true next frame may appear in a slot already passed. So a frame
 * that leaves a gap is believed only when two passes in a row agree on it, and in BLOCK never.
 */
static uint64_t
scan(struct ring_rx *rx, uint64_t *floor)
{
	uint64_t previous = 0;

	for (int i = 0; i < TAKE_TRIES_MAX; i++) {
		uint64_t best = scan_once(rx, floor);

		if (best == 0 || ring_word_seq(best) == *floor + 1)
			return best;
		if (rx->geom.policy == CTL_POLICY_BLOCK)
			return 0;
		if (best == previous)
			return best;
		previous = best;
	}
	return 0;
}

/* Protects and validates. Returns false when the producer took the frame away first. */
static bool
secure(struct ring_rx *rx, unsigned k, uint64_t word)
{
	MR_TESTPOINT("ring_take:found");
	/* relaxed: ordered by the fence; pairs with is_held() in steal() */
	store_hold(rx, k, word, memory_order_relaxed);
	MR_TESTPOINT("ring_take:hold");
	RING_FENCE();
	MR_TESTPOINT("ring_take:fenced");
	if (load_state(rx, ring_word_slot(word)) == word) {
		MR_TESTPOINT("ring_take:valid");
		return true;
	}
	MR_TESTPOINT("ring_take:lost");
	/* release: keeps the hold's life in order for a producer that compares it */
	store_hold(rx, k, 0, memory_order_release);
	return false;
}

static int
free_hold(const struct ring_rx *rx)
{
	for (unsigned k = 0; k < rx->geom.hold_count[rx->geom.consumer_idx]; k++)
		if (rx->hold[k] == 0)
			return (int)k;
	return -1;
}

static bool
desc_ok(const struct ring_rx *rx, const struct ring_desc *d, uint64_t seq)
{
	return d->seq == seq && d->bytes <= rx->geom.payload_max && (d->flags & ~(uint32_t)RING_FRAME_KNOWN) == 0 &&
	    d->reason <= RING_REASON_MAX && d->reserved0 == 0 && d->reserved1 == 0 && d->duration_ns >= 0;
}

/* Copies the descriptor of a held frame, checks the copy, fills in *frame. */
static enum ring_take_result
deliver(struct ring_rx *rx, unsigned k, uint64_t word, bool redelivered, struct ring_frame *frame)
{
	unsigned slot = ring_word_slot(word);
	union {
		struct ring_desc desc;
		uint64_t word[RING_DESC_WORDS];
	} d;

	for (unsigned i = 0; i < RING_DESC_WORDS; i++)
		/* relaxed: ordered by the acquire load that validated the hold */
		d.word[i] = atomic_load_explicit(&rx->prod->desc[slot][i], memory_order_relaxed);
	*frame = (struct ring_frame){
		.desc = d.desc,
		.payload = rx->data + (size_t)slot * rx->geom.slot_stride,
		.word = word,
		.slot = slot,
		.hold = k,
		.redelivered = redelivered,
	};
	if (!desc_ok(rx, &frame->desc, ring_word_seq(word))) {
		rx->counts.bad_desc++;
		rx->counts.violations++;
		ring_release(rx, frame);
		return RING_BAD_DESC;
	}
	rx->counts.taken++;
	rx->counts.redelivered += redelivered;
	return RING_TAKEN;
}

static bool
must_skip(const struct ring_rx *rx, uint64_t seq)
{
	for (unsigned i = 0; i < 4; i++)
		if (rx->geom.skip_seq[i] == seq && seq != 0)
			return true;
	return false;
}

/* The frames that the previous incarnation held come first, in order. */
static bool
next_recovered(struct ring_rx *rx, unsigned *k, uint64_t *word)
{
	int best = -1;

	for (unsigned i = 0; i < RING_HOLDS_MAX; i++)
		if (rx->recovered[i] != 0 && (best < 0 || rx->recovered[i] < rx->recovered[best]))
			best = (int)i;
	if (best < 0)
		return false;
	*k = (unsigned)best;
	*word = rx->recovered[best];
	rx->recovered[best] = 0;
	return true;
}

enum ring_take_result
ring_take(struct ring_rx *rx, struct ring_frame *frame)
{
	for (int tries = 0; tries < TAKE_TRIES_MAX; tries++) {
		uint64_t word, floor;
		unsigned k;
		bool again = next_recovered(rx, &k, &word);

		if (!again) {
			int hold = free_hold(rx);

			if (hold < 0)
				return RING_NO_HOLD;
			word = scan(rx, &floor);
			if (word == 0)
				return RING_EMPTY;
			k = (unsigned)hold;
			if (!secure(rx, k, word))
				continue;
			rx->counts.late += floor - rx->last;
			rx->counts.stolen += ring_word_seq(word) - floor - 1;
			store_taken(rx, ring_word_seq(word));
			MR_TESTPOINT("ring_take:taken");
		}
		if (must_skip(rx, ring_word_seq(word))) {
			struct ring_frame skipped = { .word = word, .hold = k };

			rx->counts.quarantined++;
			ring_release(rx, &skipped);
			tries--; /* at most four of these exist */
			continue;
		}
		return deliver(rx, k, word, again, frame);
	}
	return RING_EMPTY;
}

void
ring_release(struct ring_rx *rx, const struct ring_frame *frame)
{
	MR_ASSERT(frame->hold < RING_HOLDS_MAX && rx->hold[frame->hold] == frame->word);
	MR_TESTPOINT("ring_release:begin");
	/* release: our reads of the payload end before the hold does; pairs with the acquire load in is_held() */
	store_hold(rx, frame->hold, 0, memory_order_release);
	MR_TESTPOINT("ring_release:after_hold");
	/* release: whoever sees the new bell sees the hold gone; pairs with the acquire in ring_tx_wait() */
	atomic_store_explicit(&rx->cons->bell, ++rx->bell, memory_order_release);
	if (rx->geom.policy == CTL_POLICY_BLOCK) /* nobody else waits for a release */
		ring_bell_wake(&rx->cons->bell);
	MR_TESTPOINT("ring_release:woken");
}

void
ring_rx_set_ended(struct ring_rx *rx)
{
	rx->ended = true;
}

void
ring_rx_wait(struct ring_rx *rx, int64_t deadline_ns)
{
	/* acquire: pairs with the release store of the bell in ring_publish() */
	uint32_t bell = atomic_load_explicit(&rx->prod->bell, memory_order_acquire);
	uint64_t floor, word = scan_once(rx, &floor);

	/* In BLOCK ring_take() accepts the next frame only: a peer that leaves a gap must not make us spin. */
	if (word != 0 && (rx->geom.policy != CTL_POLICY_BLOCK || ring_word_seq(word) == floor + 1))
		return;
	ring_bell_wait(&rx->prod->bell, bell, deadline_ns);
}

int
ring_rx_fd(const struct ring_rx *rx)
{
	return rx->doorbell;
}

void
ring_rx_clear_doorbell(struct ring_rx *rx)
{
	char sink[64];

	/* Bounded: a producer that floods us is read a little at a time. */
	for (int i = 0; i < 8 && rx->doorbell >= 0; i++)
		if (recv(rx->doorbell, sink, sizeof(sink), MSG_DONTWAIT) < (ssize_t)sizeof(sink))
			return;
}

void
ring_rx_get_counts(const struct ring_rx *rx, struct ring_rx_counts *out)
{
	*out = rx->counts;
}

const struct ring_geom *
ring_rx_geom(const struct ring_rx *rx)
{
	return &rx->geom;
}

/* ---- recovery --------------------------------------------------------- */

static bool
in_generation(const struct ring_rx *rx, uint64_t seq)
{
	return seq >= rx->geom.first_seq && seq - rx->geom.first_seq < UINT32_MAX;
}

/* A hold word that an honest predecessor can have written: somebody who can write our page may have forged it. */
static bool
hold_is_plausible(const struct ring_rx *rx, unsigned k, uint64_t held)
{
	if ((held & RING_STEAL) != 0 || ring_word_slot(held) >= rx->geom.slot_count ||
	    !in_generation(rx, ring_word_seq(held)) || k >= rx->geom.hold_count[rx->geom.consumer_idx])
		return false;
	for (unsigned i = 0; i < k; i++)
		if (rx->recovered[i] == held)
			return false;
	return true;
}

/* What the previous incarnation held in hold k: its word if the frame is still there, else 0. */
static uint64_t
recover_hold(struct ring_rx *rx, unsigned k, int64_t deadline_ns)
{
	/* relaxed: the only writer is dead, and death is a full barrier */
	uint64_t held = atomic_load_explicit(&rx->cons->hold[k], memory_order_relaxed);
	unsigned slot = ring_word_slot(held);

	rx->hold[k] = held;
	if (held == 0)
		return 0;
	if (!hold_is_plausible(rx, k, held)) {
		rx->counts.violations++;
		goto clear;
	}
	for (;;) {
		uint64_t word = load_state(rx, slot);

		MR_TESTPOINT("ring_recover:looked");
		if (word == held)
			return held;
		/* The producer is between its mark and its decision, a few instructions away. Giving up may lose the
		 * frame, never tear it. */
		if (word != (held | RING_STEAL) || clock_now_ns() > deadline_ns)
			goto clear;
		sched_yield();
	}
clear:
	/* release: as in ring_release() */
	store_hold(rx, k, 0, memory_order_release);
	MR_TESTPOINT("ring_recover:cleared");
	return 0;
}

static void
recover(struct ring_rx *rx)
{
	int64_t deadline_ns = clock_now_ns() + RING_WAIT_MAX_NS;
	/* relaxed: as in recover_hold() */
	uint64_t taken = atomic_load_explicit(&rx->cons->taken, memory_order_relaxed);
	uint64_t last = taken;

	rx->bell = atomic_load_explicit(&rx->cons->bell, memory_order_relaxed); /* likewise */
	for (unsigned k = 0; k < RING_HOLDS_MAX; k++) {
		rx->recovered[k] = recover_hold(rx, k, deadline_ns);
		if (ring_word_seq(rx->recovered[k]) > last)
			last = ring_word_seq(rx->recovered[k]);
	}
	/* Our own page, but a predecessor may have scribbled into it. */
	if (last - (rx->geom.first_seq - 1) > UINT32_MAX || last < rx->geom.first_seq - 1) {
		rx->counts.violations += last > rx->geom.first_seq;
		last = rx->geom.first_seq - 1;
	}
	if (last != taken)
		store_taken(rx, last);
	rx->last = last;
}

/*
 * Where the producer is when we join. A consumer may join long after the ring was made (a worker that failed all night):
 * the window of believable sequences then starts here and not at `last`.
 */
static uint64_t
newest_in_page(const struct ring_rx *rx)
{
	uint64_t newest = rx->last;

	for (unsigned i = 0; i < rx->geom.slot_count; i++) {
		uint64_t seq = ring_word_seq(load_state(rx, i));

		if (in_generation(rx, seq) && seq > newest)
			newest = seq;
	}
	return newest;
}

int
ring_rx_new(const struct ring_geom *geom, const struct ring_prod *prod, const uint8_t *data, struct ring_cons *cons,
    struct ring_rx **out)
{
	struct ring_rx *rx = calloc(1, sizeof(*rx));

	if (rx == NULL)
		return -ENOMEM;
	rx->magic = RING_RX_MAGIC;
	rx->geom = *geom;
	rx->prod = prod;
	rx->data = data;
	rx->cons = cons;
	rx->doorbell = -1;
	rx->ended = geom->ended;
	rx->last = geom->first_seq - 1;
	if (geom->recovering)
		recover(rx);
	rx->joined_at = newest_in_page(rx);
	*out = rx;
	return 0;
}

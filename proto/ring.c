/* SPDX-License-Identifier: MIT */
/*
 * Frame ring: the producer's and the consumers' steps
 *
 * Invariants:
 *   - every word of struct ring_prod is written by the producer only, every word of struct ring_cons by that consumer
 *     only; the writer keeps a private copy and never reads its own words back;
 *   - a slot whose word stands in a hold is never written: the producer marks the word (STEAL), fences, and looks at the
 *     holds; the consumer stores its hold, fences, and looks at the state word; so at least one sees the other;
 *   - what a peer can write is loaded once into a local, checked, and compared; it is never an index or a length;
 *   - every loop is bounded.
 *
 * Each non-empty slot is taken over by mark, fence and check, also one that all consumers are done with: one path
 * instead of two, at one fence a frame. tests/model proves this variant (mutant `always-steal`) together with new
 * generations and redelivery; a change here is allowed only with a green run of it.
 */
#include "proto/ring_priv.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/testpoint.h"
#include "proto/ctl.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	TAKE_TRIES_MAX = 8,		/* passes, and lost races, before a consumer looks again later */
	DESC_WORDS = sizeof(struct ring_desc) / 8,
};
#define SEQ_WINDOW (UINT64_C(1) << 20) /* a sequence further ahead is not believed */
#define WAIT_MAX_NS (50 * CLOCK_MS_NS)	/* a peer can requeue our waiter away: every wait looks again */

#ifdef MR_RING_MUTANT_NO_FENCE /* to show that the tests would notice */
#define RING_FENCE() ((void)0)
#else
/* The full fence between our store and our load of the peer's word, see the invariants above. */
#define RING_FENCE() atomic_thread_fence(memory_order_seq_cst)
#endif

/* Not FUTEX_PRIVATE: the word lies in memory of two processes. */
static void
bell_wake(const _Atomic uint32_t *bell)
{
	syscall(SYS_futex, bell, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static void
bell_wait(const _Atomic uint32_t *bell, uint32_t seen, int64_t deadline_ns)
{
	int64_t left = deadline_ns - clock_now_ns();
	struct timespec t;

	if (left <= 0)
		return;
	if (left > WAIT_MAX_NS)
		left = WAIT_MAX_NS;
	t = (struct timespec){ .tv_sec = left / CLOCK_SEC_NS, .tv_nsec = left % CLOCK_SEC_NS };
	syscall(SYS_futex, bell, FUTEX_WAIT, seen, &t, NULL, 0);
}

uint32_t
ring_slots_needed(const uint32_t *hold_count, uint32_t consumer_count, uint32_t depth)
{
	uint32_t sum = 0;

	for (uint32_t i = 0; i < consumer_count; i++)
		sum += hold_count[i];
	sum += depth + 1 > 2 ? depth + 1 : 2;
	return sum > RING_SLOTS_MAX ? RING_SLOTS_MAX : sum < 3 ? 3 : sum;
}

/* ---- producer --------------------------------------------------------- */

int
ring_tx_new(const struct ring_geom *geom, struct ring_prod *prod, uint8_t *data, const struct ring_cons *const *cons,
    struct ring_tx **out)
{
	struct ring_tx *tx = calloc(1, sizeof(*tx));

	if (tx == NULL)
		return -ENOMEM;
	tx->magic = RING_TX_MAGIC;
	tx->geom = *geom;
	tx->prod = prod;
	tx->data = data;
	for (uint32_t i = 0; i < RING_CONSUMERS_MAX; i++) {
		tx->cons[i] = i < geom->consumer_count ? cons[i] : NULL;
		tx->doorbell[i] = -1;
	}
	tx->seq = geom->first_seq;
	tx->claimed = -1;
	*out = tx;
	return 0;
}

const struct ring_geom *
ring_tx_geom(const struct ring_tx *tx)
{
	return &tx->geom;
}

uint64_t
ring_tx_next_seq(const struct ring_tx *tx)
{
	return tx->seq;
}

uint64_t
ring_tx_taken(const struct ring_tx *tx, unsigned i)
{
	/* acquire: the hold that this `taken` implies must be visible to the loads that follow; pairs with the
	 * release store in ring_take() */
	uint64_t taken = atomic_load_explicit(&tx->cons[i]->taken, memory_order_acquire);

	return taken >= tx->seq ? tx->seq - 1 : taken;
}

static uint64_t
least_taken(struct ring_tx *tx)
{
	uint64_t least = UINT64_MAX;

	for (uint32_t i = 0; i < tx->geom.consumer_count; i++) {
		/* acquire: as in ring_tx_taken() */
		uint64_t taken = atomic_load_explicit(&tx->cons[i]->taken, memory_order_acquire);

		if (taken >= tx->seq) { /* a lie: it gives up only the liar's own frames */
			taken = tx->seq - 1;
			tx->counts.violations++;
		}
		if (taken < least)
			least = taken;
	}
	return least;
}

static bool
is_held(const struct ring_tx *tx, uint64_t word)
{
	bool held = false;

	/* Only the holds that the consumer was granted count: with all of a page's words it could pin every slot. */
	for (uint32_t i = 0; i < tx->geom.consumer_count; i++)
		for (unsigned k = 0; k < tx->geom.hold_count[i]; k++)
			/* acquire: a hold that is gone was released after the last read of the payload; pairs with
			 * the release store in ring_release() */
			held |= atomic_load_explicit(&tx->cons[i]->hold[k], memory_order_acquire) == word;
	return held;
}

/* The slot is ours: nobody may find an old frame in it while we write. */
static void
zero_state(struct ring_tx *tx, unsigned slot)
{
	/* relaxed: ordered before the payload by the fence that follows */
	atomic_store_explicit(&tx->prod->state[slot], 0, memory_order_relaxed);
	/* release: no scan, tool or recovering consumer may find the old word over new bytes */
	atomic_thread_fence(memory_order_release);
	tx->state[slot] = 0;
}

/* The oldest frame on one side of `taken` that nobody holds; never the newest frame, which is what a late consumer
 * will want. -1: none. */
static int
find_victim(const struct ring_tx *tx, uint64_t taken, bool was_taken)
{
	uint64_t newest = tx->seq - 1, oldest = UINT64_MAX;
	int victim = -1;

	for (unsigned i = 0; i < tx->geom.slot_count; i++) {
		uint64_t seq = ring_word_seq(tx->state[i]);

		if (tx->state[i] == 0 || (seq <= taken) != was_taken || seq == newest || seq >= oldest ||
		    is_held(tx, tx->state[i]))
			continue;
		victim = (int)i;
		oldest = seq;
	}
	return victim;
}

/* Takes a frame away unless a consumer holds it. A mark and not 0: a consumer that died holding the frame and comes
 * back in this window can tell "undecided" from "gone". */
static bool
steal(struct ring_tx *tx, unsigned slot)
{
	uint64_t word = tx->state[slot];

	/* relaxed: ordered by the fence; pairs with the load of the state in ring_take() */
	atomic_store_explicit(&tx->prod->state[slot], word | RING_STEAL, memory_order_relaxed);
	MR_TESTPOINT("ring_claim:marked");
	RING_FENCE();
	MR_TESTPOINT("ring_claim:fenced");
	if (is_held(tx, word)) {
		MR_TESTPOINT("ring_claim:held");
		/* release: whoever sees the frame back sees its payload */
		atomic_store_explicit(&tx->prod->state[slot], word, memory_order_release);
		MR_TESTPOINT("ring_claim:restored");
		return false;
	}
	MR_TESTPOINT("ring_claim:free");
	zero_state(tx, slot);
	MR_TESTPOINT("ring_claim:zeroed");
	return true;
}

enum ring_claim_result
ring_claim(struct ring_tx *tx, unsigned *slot)
{
	bool block = tx->geom.policy == CTL_POLICY_BLOCK;

	MR_ASSERT(tx->claimed < 0);
	for (unsigned i = 0; i < tx->geom.slot_count; i++) {
		if (tx->state[i] == 0) {
			MR_TESTPOINT("ring_claim:empty");
			zero_state(tx, i);
			tx->claimed = (int)i;
			*slot = i;
			return RING_CLAIMED;
		}
	}
	for (unsigned tries = 0; tries < 2 * RING_SLOTS_MAX; tries++) {
		uint64_t taken = least_taken(tx);
		int victim = find_victim(tx, taken, true);

		MR_TESTPOINT("ring_claim:chosen");
		if (victim < 0 && !block)
			victim = find_victim(tx, taken, false);
		if (victim < 0) {
			if (!block)
				continue;
			tx->counts.blocked++;
			return RING_FULL;
		}
		if (steal(tx, (unsigned)victim)) {
			tx->claimed = victim;
			*slot = (unsigned)victim;
			return RING_CLAIMED;
		}
	}
	tx->counts.contended++;
	return RING_CONTENDED;
}

uint8_t *
ring_tx_slot(struct ring_tx *tx, unsigned slot)
{
	MR_ASSERT(slot < tx->geom.slot_count);
	return tx->data + (size_t)slot * tx->geom.slot_stride;
}

static void
ring_doorbells(const struct ring_tx *tx)
{
	/* EAGAIN: the peer has not read earlier bytes, so it is signalled already. */
	for (uint32_t i = 0; i < tx->geom.consumer_count; i++)
		if (tx->doorbell[i] >= 0 &&
		    send(tx->doorbell[i], "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) == -1 && errno != EAGAIN)
			continue;
}

uint64_t
ring_publish(struct ring_tx *tx, unsigned slot, const struct ring_desc *desc)
{
	union {
		struct ring_desc desc;
		uint64_t word[DESC_WORDS];
	} d = { .desc = *desc };
	uint64_t seq = tx->seq, word = ring_word(seq, slot);

	MR_ASSERT(tx->claimed == (int)slot);
	MR_ASSERT(desc->bytes <= tx->geom.payload_max);
	d.desc.seq = seq;
	d.desc.commit_ns = clock_now_ns();
	d.desc.reserved0 = 0;
	d.desc.reserved1 = 0;
	for (unsigned i = 0; i < DESC_WORDS; i++)
		/* relaxed: ordered by the release store of the state word */
		atomic_store_explicit(&tx->prod->desc[slot][i], d.word[i], memory_order_relaxed);
	MR_TESTPOINT("ring_publish:described");
	/* release: pixels and descriptor before the word that names them; pairs with the acquire loads in scan() and
	 * ring_take(). One store: there is no half-published state. */
	atomic_store_explicit(&tx->prod->state[slot], word, memory_order_release);
	tx->state[slot] = word;
	tx->seq++;
	tx->claimed = -1;
	tx->counts.published++;
	MR_TESTPOINT("ring_publish:after_state");
	/* release: whoever sees the new bell finds the frame; pairs with the acquire in ring_rx_wait(). A single
	 * writer needs no read-modify-write. */
	atomic_store_explicit(&tx->prod->bell, ++tx->bell, memory_order_release);
	MR_TESTPOINT("ring_publish:after_bell");
	bell_wake(&tx->prod->bell);
	ring_doorbells(tx);
	MR_TESTPOINT("ring_publish:woken");
	return seq;
}

void
ring_abandon(struct ring_tx *tx, unsigned slot)
{
	MR_ASSERT(tx->claimed == (int)slot);
	tx->claimed = -1; /* nothing shared to undo: the word is 0 */
}

void
ring_tx_wait(struct ring_tx *tx, unsigned i, int64_t deadline_ns)
{
	/* acquire: a release that this bell announces is visible to the claim that follows; pairs with the release
	 * store in ring_release() */
	uint32_t bell = atomic_load_explicit(&tx->cons[i]->bell, memory_order_acquire);

	if (bell != tx->seen_bell[i]) {
		tx->seen_bell[i] = bell;
		return;
	}
	bell_wait(&tx->cons[i]->bell, bell, deadline_ns);
}

void
ring_tx_get_counts(const struct ring_tx *tx, struct ring_tx_counts *out)
{
	*out = tx->counts;
}

/* ---- consumer --------------------------------------------------------- */

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
		uint64_t word[DESC_WORDS];
	} d;

	for (unsigned i = 0; i < DESC_WORDS; i++)
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
		bell_wake(&rx->cons->bell);
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
	bell_wait(&rx->prod->bell, bell, deadline_ns);
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
	int64_t deadline_ns = clock_now_ns() + WAIT_MAX_NS;
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

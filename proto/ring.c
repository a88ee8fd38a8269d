/* SPDX-License-Identifier: MIT */
/*
 * Frame ring: the producer's steps, and what both sides need
 *
 * The consumers' steps are in ring_rx.c.
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
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Not FUTEX_PRIVATE: the word lies in memory of two processes. */
void
ring_bell_wake(const _Atomic uint32_t *bell)
{
	syscall(SYS_futex, bell, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

void
ring_bell_wait(const _Atomic uint32_t *bell, uint32_t seen, int64_t deadline_ns)
{
	int64_t left = deadline_ns - clock_now_ns();
	struct timespec t;

	if (left <= 0)
		return;
	if (left > RING_WAIT_MAX_NS)
		left = RING_WAIT_MAX_NS;
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

	MR_TESTPOINT("ring_claim:victim");
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
		uint64_t word[RING_DESC_WORDS];
	} d = { .desc = *desc };
	uint64_t seq = tx->seq, word = ring_word(seq, slot);

	MR_ASSERT(tx->claimed == (int)slot);
	MR_ASSERT(desc->bytes <= tx->geom.payload_max);
	d.desc.seq = seq;
	d.desc.commit_ns = clock_now_ns();
	d.desc.reserved0 = 0;
	d.desc.reserved1 = 0;
	for (unsigned i = 0; i < RING_DESC_WORDS; i++)
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
	ring_bell_wake(&tx->prod->bell);
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
	ring_bell_wait(&tx->cons[i]->bell, bell, deadline_ns);
}

void
ring_tx_get_counts(const struct ring_tx *tx, struct ring_tx_counts *out)
{
	*out = tx->counts;
}

/* SPDX-License-Identifier: MIT */
/*
 * Goal: the rules of proto/ring.h, one by one: order, policies, counting, holds, and what a peer's lies can do.
 * Method: both sides in one process over plain memory, which the test writes where it plays a peer. What concurrency and
 * death add is in tests/race and tests/model; recovery is in test_recover.c, memfds are in test_attach.c.
 */
#include "ring_bare.h"

#include "base/clock.h"

#include <criterion/criterion.h>

TestSuite(ring, .timeout = 20);

static const uint32_t DROP = CTL_POLICY_DROP_OLDEST, BLOCK = CTL_POLICY_BLOCK;

static struct ring_frame
must_take(struct ring_rx *rx, uint64_t seq)
{
	struct ring_frame f;

	cr_assert_eq(ring_take(rx, &f), RING_TAKEN);
	cr_assert_eq(f.desc.seq, seq, "got %#lx, wanted %#lx", (unsigned long)f.desc.seq, (unsigned long)seq);
	cr_assert(bare_payload_ok(&f));
	return f;
}

Test(ring, frames_arrive_in_order_and_whole)
{
	struct bare b;
	struct ring_frame f;
	struct ring_rx_counts counts;

	bare_open(&b, DROP, 4, 1, 1, 0);
	cr_assert_eq(ring_take(b.rx[0], &f), RING_EMPTY);
	for (uint64_t n = 1; n <= 1000; n++) {
		cr_assert_eq(bare_publish(&b), bare_seq(&b, n));
		f = must_take(b.rx[0], bare_seq(&b, n));
		cr_assert_eq(ring_tx_taken(b.tx, 0), bare_seq(&b, n));
		ring_release(b.rx[0], &f);
	}
	ring_rx_get_counts(b.rx[0], &counts);
	cr_expect_eq(counts.taken, 1000);
	cr_expect_eq(counts.late + counts.stolen + counts.bad_desc + counts.violations + counts.redelivered, 0);
	bare_close(&b);
}

Test(ring, descriptor_arrives_as_it_was_given)
{
	struct bare b;
	struct ring_frame f;
	struct ring_desc d = { .src_seq = 7, .pts_ns = -5, .duration_ns = 40, .bytes = 3,
		.flags = RING_FRAME_DISCONTINUITY | RING_FRAME_PASS, .reason = RING_REASON_BUSY, .user = { 1, 2, 3, 4, 5, 6, 7, 8 },
		.reserved0 = 9, .reserved1 = 9 };
	int64_t before = clock_now_ns();
	unsigned slot;

	bare_open(&b, DROP, 3, 1, 1, 0);
	cr_assert_eq(ring_claim(b.tx, &slot), RING_CLAIMED);
	ring_publish(b.tx, slot, &d);
	cr_assert_eq(ring_take(b.rx[0], &f), RING_TAKEN);
	cr_expect(f.desc.src_seq == 7 && f.desc.pts_ns == -5 && f.desc.duration_ns == 40 && f.desc.bytes == 3);
	cr_expect(f.desc.flags == d.flags && f.desc.reason == RING_REASON_BUSY);
	cr_expect(memcmp(f.desc.user, d.user, sizeof(d.user)) == 0);
	cr_expect(f.desc.reserved0 == 0 && f.desc.reserved1 == 0, "the producer clears what is reserved");
	cr_expect(f.desc.commit_ns >= before && f.desc.commit_ns <= clock_now_ns());
	bare_close(&b);
}

Test(ring, all_holds_in_use_is_said)
{
	struct bare b;
	struct ring_frame f[3];

	bare_open(&b, DROP, 5, 1, 2, 0);
	for (int i = 0; i < 3; i++)
		bare_publish(&b);
	f[0] = must_take(b.rx[0], bare_seq(&b, 1));
	f[1] = must_take(b.rx[0], bare_seq(&b, 2));
	cr_assert_eq(ring_take(b.rx[0], &f[2]), RING_NO_HOLD);
	ring_release(b.rx[0], &f[0]); /* in any order */
	f[2] = must_take(b.rx[0], bare_seq(&b, 3));
	ring_release(b.rx[0], &f[2]);
	ring_release(b.rx[0], &f[1]);
	bare_close(&b);
}

/* Nobody takes anything: the producer never waits, and the consumer counts each lost frame once. */
Test(ring, drop_oldest_never_waits_and_counts_each_loss_once)
{
	struct bare b;
	struct ring_frame f;
	struct ring_rx_counts counts;
	struct ring_tx_counts tx_counts;

	bare_open(&b, DROP, 4, 1, 1, 0);
	for (uint64_t n = 1; n <= 100; n++)
		cr_assert_eq(bare_publish(&b), bare_seq(&b, n));
	for (uint64_t n = 97; n <= 100; n++) {
		f = must_take(b.rx[0], bare_seq(&b, n));
		ring_release(b.rx[0], &f);
	}
	cr_assert_eq(ring_take(b.rx[0], &f), RING_EMPTY);
	ring_rx_get_counts(b.rx[0], &counts);
	ring_tx_get_counts(b.tx, &tx_counts);
	cr_expect(counts.stolen == 96 && counts.late == 0 && counts.taken == 4);
	cr_expect(tx_counts.published == 100 && tx_counts.contended == 0);
	bare_close(&b);
}

Test(ring, depth_skips_to_the_newest_frames)
{
	struct bare b;
	struct ring_frame f;
	struct ring_rx_counts counts;

	bare_open(&b, DROP, 8, 1, 1, 2);
	for (int i = 0; i < 6; i++)
		bare_publish(&b);
	f = must_take(b.rx[0], bare_seq(&b, 5));
	ring_release(b.rx[0], &f);
	f = must_take(b.rx[0], bare_seq(&b, 6));
	ring_release(b.rx[0], &f);
	ring_rx_get_counts(b.rx[0], &counts);
	cr_expect(counts.late == 4 && counts.stolen == 0 && counts.taken == 2);
	bare_close(&b);
}

/* Late and stolen together account for every frame between two that were taken. */
Test(ring, late_and_stolen_add_up)
{
	struct bare b;
	struct ring_frame f;
	struct ring_rx_counts counts;
	uint64_t n = 0;

	bare_open(&b, DROP, 5, 1, 1, 3);
	for (int round = 0; round < 50; round++) {
		for (int i = 0; i <= round % 9; i++)
			cr_assert_neq(bare_publish(&b), 0);
		n += (uint64_t)(round % 9) + 1;
		cr_assert_eq(ring_take(b.rx[0], &f), RING_TAKEN);
		cr_assert(bare_payload_ok(&f));
		ring_rx_get_counts(b.rx[0], &counts);
		cr_assert_eq(counts.taken + counts.late + counts.stolen, f.desc.seq - b.geom.first_seq + 1);
		cr_assert_gt(f.desc.seq + 3, bare_seq(&b, n), "deeper than the depth");
		ring_release(b.rx[0], &f);
	}
	bare_close(&b);
}

Test(ring, held_frame_is_not_overwritten)
{
	struct bare b;
	struct ring_frame f;
	struct ring_tx_counts counts;

	bare_open(&b, DROP, 3, 1, 1, 0);
	bare_publish(&b);
	f = must_take(b.rx[0], bare_seq(&b, 1));
	for (int i = 0; i < 500; i++) {
		cr_assert_neq(bare_publish(&b), 0);
		cr_assert(bare_payload_ok(&f));
	}
	ring_tx_get_counts(b.tx, &counts);
	cr_expect_eq(counts.contended, 0);
	ring_release(b.rx[0], &f);
	bare_close(&b);
}

/* Sum of holds + 2 slots: with everything held that may be held there is still a slot to write. */
Test(ring, every_hold_pinned_does_not_stop_the_producer)
{
	struct bare b;
	struct ring_frame f;

	bare_open(&b, DROP, 2 * 2 + 2, 2, 2, 0);
	for (uint64_t n = 1; n <= 2; n++) {
		bare_publish(&b);
		must_take(b.rx[0], bare_seq(&b, n));
		must_take(b.rx[1], bare_seq(&b, n));
	}
	bare_publish(&b);
	cr_assert_eq(ring_take(b.rx[0], &f), RING_NO_HOLD);
	cr_assert_eq(ring_take(b.rx[1], &f), RING_NO_HOLD);
	for (int i = 0; i < 100; i++)
		cr_assert_neq(bare_publish(&b), 0);
	bare_close(&b);
}

/* A page has sixteen hold words, but a consumer was granted one: it must not be able to pin every slot. */
Test(ring, holds_beyond_those_granted_do_not_count)
{
	struct bare b;

	bare_open(&b, DROP, 4, 1, 1, 0);
	for (int i = 0; i < 50; i++) {
		for (unsigned k = 0; k < RING_HOLDS_MAX; k++)
			atomic_store(&b.cons[0]->hold[k], bare_state(&b, k % 4));
		cr_assert_neq(bare_publish(&b), 0, "a liar stopped the producer at frame %d", i);
	}
	bare_close(&b);
}

Test(ring, taken_beyond_what_was_published_is_clamped_and_counted)
{
	struct bare b;
	struct ring_tx_counts counts;
	struct ring_frame f;

	bare_open(&b, DROP, 4, 2, 1, 0);
	for (int i = 0; i < 4; i++)
		bare_publish(&b);
	atomic_store(&b.cons[1]->taken, UINT64_MAX);
	cr_expect_eq(ring_tx_taken(b.tx, 1), bare_seq(&b, 4));
	cr_assert_neq(bare_publish(&b), 0);
	ring_tx_get_counts(b.tx, &counts);
	cr_expect_gt(counts.violations, 0);
	f = must_take(b.rx[0], bare_seq(&b, 2)); /* the honest one lost only what a full ring costs anyway */
	ring_release(b.rx[0], &f);
	bare_close(&b);
}

Test(ring, abandoned_slot_is_used_again_and_no_sequence_is_lost)
{
	struct bare b;
	struct ring_frame f;
	unsigned slot, again;

	bare_open(&b, DROP, 3, 1, 1, 0);
	cr_assert_eq(ring_claim(b.tx, &slot), RING_CLAIMED);
	ring_abandon(b.tx, slot);
	cr_assert_eq(ring_claim(b.tx, &again), RING_CLAIMED);
	cr_expect_eq(slot, again);
	ring_abandon(b.tx, again);
	cr_assert_eq(ring_take(b.rx[0], &f), RING_EMPTY);
	cr_assert_eq(bare_publish(&b), bare_seq(&b, 1));
	bare_close(&b);
}

/* ---- BLOCK ------------------------------------------------------------ */

Test(ring, block_says_full_and_loses_nothing)
{
	struct bare b;
	struct ring_frame f;
	struct ring_tx_counts counts;
	uint64_t in = 0, out = 0;
	unsigned slot;

	bare_open(&b, BLOCK, 8, 1, 1, 0);
	for (int round = 0; round < 100; round++) {
		while (bare_publish(&b) != 0)
			in++;
		cr_assert_eq(ring_claim(b.tx, &slot), RING_FULL);
		for (int i = 0; i <= round % 5; i++) {
			f = must_take(b.rx[0], bare_seq(&b, ++out));
			ring_release(b.rx[0], &f);
		}
	}
	while (ring_take(b.rx[0], &f) == RING_TAKEN) {
		cr_assert_eq(f.desc.seq, bare_seq(&b, ++out));
		ring_release(b.rx[0], &f);
	}
	cr_expect_eq(in, out);
	ring_tx_get_counts(b.tx, &counts);
	cr_expect(counts.blocked == 200 && counts.published == in && counts.contended == 0);
	bare_close(&b);
}

/* A block after a gap is not for us. A peer that leaves one must not make us spin either: the wait really waits. */
Test(ring, block_never_takes_across_a_gap)
{
	struct bare b;
	struct ring_frame f;
	int64_t begin;

	bare_open(&b, BLOCK, 4, 1, 1, 0);
	bare_publish(&b);
	f = must_take(b.rx[0], bare_seq(&b, 1));
	ring_release(b.rx[0], &f);
	bare_set_state(&b, 2, ring_word(bare_seq(&b, 5), 2));
	cr_assert_eq(ring_take(b.rx[0], &f), RING_EMPTY);
	begin = clock_now_ns();
	ring_rx_wait(b.rx[0], begin + 20 * CLOCK_MS_NS);
	cr_expect_geq(clock_now_ns() - begin, 15 * CLOCK_MS_NS);
	bare_close(&b);
}

/* ---- waiting ---------------------------------------------------------- */

Test(ring, waits_end_at_their_deadline_and_never_later_than_50_ms)
{
	struct bare b;
	int64_t begin, took;

	bare_open(&b, BLOCK, 3, 1, 1, 0);
	for (int i = 0; i < 3; i++) {
		int64_t deadline_ms = i == 0 ? 0 : i == 1 ? 10 : 10000;

		begin = clock_now_ns();
		ring_rx_wait(b.rx[0], begin + deadline_ms * CLOCK_MS_NS);
		took = clock_now_ns() - begin;
		cr_expect_leq(took, 1000 * CLOCK_MS_NS);
		cr_expect_geq(took, (deadline_ms > 50 ? 45 : deadline_ms > 5 ? 5 : 0) * CLOCK_MS_NS);
		begin = clock_now_ns();
		ring_tx_wait(b.tx, 0, begin + deadline_ms * CLOCK_MS_NS);
		took = clock_now_ns() - begin;
		cr_expect_leq(took, 1000 * CLOCK_MS_NS);
	}
	bare_close(&b);
}

Test(ring, waits_return_at_once_when_something_is_there)
{
	struct bare b;
	struct ring_frame f;
	int64_t begin;

	bare_open(&b, BLOCK, 3, 1, 1, 0);
	bare_publish(&b);
	begin = clock_now_ns();
	ring_rx_wait(b.rx[0], begin + CLOCK_SEC_NS);
	f = must_take(b.rx[0], bare_seq(&b, 1));
	ring_release(b.rx[0], &f);
	ring_tx_wait(b.tx, 0, begin + CLOCK_SEC_NS); /* a release since we last waited */
	cr_expect_leq(clock_now_ns() - begin, 40 * CLOCK_MS_NS);
	bare_close(&b);
}

/* ---- lies in the producer's page -------------------------------------- */

struct bad_desc {
	unsigned word; /* of the 16 */
	uint64_t set;  /* bits to set, or the value if `whole` */
	bool whole;
	const char *what;
};

static const struct bad_desc bad_descs[] = {
	{ 0, 12345, true, "another sequence" },
	{ 3, UINT64_C(1) << 63, true, "a negative duration" },
	{ 5, BARE_PAYLOAD_BYTES + 1, true, "more bytes than a slot has" },
	{ 5, 0xffffffff, true, "4 GiB" },
	{ 5, UINT64_C(8) << 32, false, "an unknown flag" },
	{ 6, RING_REASON_MAX + 1, true, "an unknown reason" },
	{ 6, UINT64_C(1) << 32, false, "reserved0" },
	{ 15, 1, true, "reserved1" },
};

Test(ring, impossible_descriptor_is_released_and_counted)
{
	for (size_t i = 0; i < sizeof(bad_descs) / sizeof(bad_descs[0]); i++) {
		const struct bad_desc *bad = &bad_descs[i];
		struct ring_rx_counts counts;
		struct ring_frame f;
		struct bare b;
		unsigned slot;
		uint64_t old;

		bare_open(&b, DROP, 4, 1, 1, 0);
		bare_publish(&b);
		slot = ring_word_slot(bare_state(&b, 0));
		old = atomic_load(&b.prod->desc[slot][bad->word]);
		atomic_store(&b.prod->desc[slot][bad->word], bad->whole ? bad->set : old | bad->set);
		bare_publish(&b);
		cr_assert_eq(ring_take(b.rx[0], &f), RING_BAD_DESC, "%s was believed", bad->what);
		cr_assert_eq(atomic_load(&b.cons[0]->hold[0]), 0);
		f = must_take(b.rx[0], bare_seq(&b, 2));
		ring_release(b.rx[0], &f);
		ring_rx_get_counts(b.rx[0], &counts);
		cr_expect(counts.bad_desc == 1 && counts.violations == 1 && counts.taken == 1, "%s", bad->what);
		bare_close(&b);
	}
}

Test(ring, impossible_words_are_ignored_and_counted)
{
	struct bare b;
	struct ring_frame f;
	struct ring_rx_counts counts;

	bare_open(&b, DROP, 4, 1, 1, 0);
	bare_publish(&b);
	bare_set_state(&b, 1, ring_word(bare_seq(&b, 2), 2));			   /* another slot's name */
	bare_set_state(&b, 2, ring_word(bare_seq(&b, 2), 200));			   /* no slot at all */
	bare_set_state(&b, 3, ring_word(bare_seq(&b, 1) + (UINT64_C(1) << 54), 3)); /* a jump */
	f = must_take(b.rx[0], bare_seq(&b, 1));
	ring_release(b.rx[0], &f);
	ring_rx_get_counts(b.rx[0], &counts);
	cr_expect_geq(counts.violations, 3);
	cr_expect(counts.stolen == 0 && counts.late == 0);
	bare_close(&b);
}

/* A worker that could not be started all night joins a ring whose sequence has run far ahead of its empty page. */
Test(ring, joining_late_is_not_a_violation)
{
	struct bare b;
	struct ring_frame f;
	struct ring_rx_counts counts;
	uint64_t far = UINT64_C(5) << 20;
	struct ring_geom g;

	bare_open(&b, DROP, 4, 1, 1, 0);
	bare_publish(&b);
	bare_set_state(&b, 0, ring_word(bare_seq(&b, far), 0));
	atomic_store(&b.prod->desc[0][0], bare_seq(&b, far));
	ring_rx_close(&b.rx[0]);
	g = bare_geom_of(&b, 0);
	cr_assert_eq(ring_rx_new(&g, b.prod, b.data, b.cons[0], &b.rx[0]), 0);
	cr_assert_eq(ring_take(b.rx[0], &f), RING_TAKEN);
	cr_expect_eq(f.desc.seq, bare_seq(&b, far));
	ring_rx_get_counts(b.rx[0], &counts);
	cr_expect_eq(counts.violations, 0);
	cr_expect_eq(counts.stolen, far - 1);
	bare_close(&b);
}

/* ---- numbers ---------------------------------------------------------- */

Test(ring, slots_needed)
{
	static const struct {
		uint32_t holds[RING_CONSUMERS_MAX], consumers, depth, want;
	} rows[] = {
		{ { 1 }, 1, 0, 3 },		{ { 1 }, 1, 1, 3 },
		{ { 1, 4 }, 2, 2, 8 }, /* the example of the 512x512 ring */
		{ { 1, 4 }, 2, 0, 7 },		{ { 2 }, 1, 5, 8 },
		{ { 16, 16, 16, 16 }, 4, 0, 64 }, /* more than there are: refused when the geometry is checked */
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		cr_expect_eq(ring_slots_needed(rows[i].holds, rows[i].consumers, rows[i].depth), rows[i].want, "row %zu", i);
}

Test(ring, sequences_tell_the_generation)
{
	cr_expect_eq(ring_first_seq(1), UINT64_C(0x100000001));
	cr_expect_eq(ring_first_seq(2), UINT64_C(0x200000001));
	cr_expect_gt(ring_first_seq(2), ring_first_seq(1) + UINT32_MAX - 1);
	/* 23 bits of generation fit into a word of 55 bits of sequence */
	cr_expect_eq(ring_word_seq(ring_word(ring_first_seq(0x7fffff), 63) | RING_STEAL), ring_first_seq(0x7fffff));
	cr_expect_eq(ring_word_slot(ring_word(ring_first_seq(0x7fffff), 63) | RING_STEAL), 63);
	cr_expect_eq(ring_word(ring_first_seq(0x7fffff), 63) & RING_STEAL, 0);
}

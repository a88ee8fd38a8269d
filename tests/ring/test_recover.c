/* SPDX-License-Identifier: MIT */
/*
 * Goal: what a consumer's next incarnation gets, and what the end of a producer changes.
 * Method: both sides in one process over plain memory; a death is simply that a handle is dropped where it stands. The
 * deaths in the middle of a call are in tests/race.
 */
#include "ring_bare.h"

#include "base/clock.h"
#include "base/testpoint.h"

#include <criterion/criterion.h>

TestSuite(recover, .timeout = 20);

static const uint32_t DROP = CTL_POLICY_DROP_OLDEST;

static struct ring_frame
must_take(struct ring_rx *rx, uint64_t seq, bool again)
{
	struct ring_frame f;

	cr_assert_eq(ring_take(rx, &f), RING_TAKEN);
	cr_assert_eq(f.desc.seq, seq);
	cr_assert_eq(f.redelivered, again);
	cr_assert(bare_payload_ok(&f));
	return f;
}

Test(recover, held_frame_is_delivered_again_and_first)
{
	struct bare b;
	struct ring_frame f;
	struct ring_rx_counts counts;

	bare_open(&b, DROP, 4, 1, 1, 0);
	bare_publish(&b);
	must_take(b.rx[0], bare_seq(&b, 1), false);
	for (int i = 0; i < 20; i++)
		bare_publish(&b);
	bare_restart(&b, 0);
	f = must_take(b.rx[0], bare_seq(&b, 1), true);
	ring_release(b.rx[0], &f);
	f = must_take(b.rx[0], bare_seq(&b, 19), false);
	ring_release(b.rx[0], &f);
	ring_rx_get_counts(b.rx[0], &counts);
	cr_expect(counts.redelivered == 1 && counts.taken == 2 && counts.stolen == 17);
	bare_close(&b);
}

Test(recover, several_held_frames_come_in_order)
{
	struct bare b;
	struct ring_frame f[3];

	bare_open(&b, DROP, 6, 1, 3, 0);
	for (int i = 0; i < 5; i++)
		bare_publish(&b);
	for (uint64_t i = 0; i < 3; i++)
		f[i] = must_take(b.rx[0], bare_seq(&b, i + 1), false);
	ring_release(b.rx[0], &f[0]); /* hold 0 now takes the newest of the three: order is not that of the holds */
	must_take(b.rx[0], bare_seq(&b, 4), false);
	bare_restart(&b, 0);
	for (uint64_t i = 2; i <= 4; i++) {
		struct ring_frame again = must_take(b.rx[0], bare_seq(&b, i), true);

		ring_release(b.rx[0], &again);
	}
	must_take(b.rx[0], bare_seq(&b, 5), false);
	bare_close(&b);
}

Test(recover, released_frames_do_not_come_again)
{
	struct bare b;
	struct ring_frame f;

	bare_open(&b, DROP, 4, 1, 1, 0);
	for (uint64_t i = 1; i <= 3; i++) {
		bare_publish(&b);
		f = must_take(b.rx[0], bare_seq(&b, i), false);
		ring_release(b.rx[0], &f);
	}
	bare_restart(&b, 0);
	cr_assert_eq(ring_take(b.rx[0], &f), RING_EMPTY);
	bare_publish(&b);
	must_take(b.rx[0], bare_seq(&b, 4), false);
	bare_close(&b);
}

/* Died between announcing the hold and validating it; the producer had taken the slot by then. */
Test(recover, hold_of_a_vanished_frame_is_cleared)
{
	struct bare b;
	struct ring_rx_counts counts;
	uint64_t word;

	bare_open(&b, DROP, 3, 1, 1, 0);
	bare_publish(&b);
	word = bare_state(&b, 0);
	for (int i = 0; i < 10; i++)
		bare_publish(&b);
	atomic_store(&b.cons[0]->hold[0], word);
	bare_restart(&b, 0);
	cr_expect_eq(atomic_load(&b.cons[0]->hold[0]), 0);
	must_take(b.rx[0], bare_seq(&b, 9), false);
	ring_rx_get_counts(b.rx[0], &counts);
	cr_expect_eq(counts.violations, 0);
	bare_close(&b);
}

Test(recover, quarantined_frame_is_released_and_counted)
{
	struct bare b;
	struct ring_geom g;
	struct ring_frame f;
	struct ring_rx_counts counts;

	bare_open(&b, DROP, 4, 1, 1, 0);
	bare_publish(&b);
	must_take(b.rx[0], bare_seq(&b, 1), false);
	bare_publish(&b);
	bare_publish(&b);
	g = bare_geom_of(&b, 0);
	g.recovering = true;
	g.skip_seq[0] = bare_seq(&b, 1); /* held by two that died */
	g.skip_seq[3] = bare_seq(&b, 2); /* new */
	ring_rx_close(&b.rx[0]);
	cr_assert_eq(ring_rx_new(&g, b.prod, b.data, b.cons[0], &b.rx[0]), 0);
	f = must_take(b.rx[0], bare_seq(&b, 3), false);
	ring_release(b.rx[0], &f);
	ring_rx_get_counts(b.rx[0], &counts);
	cr_expect(counts.quarantined == 2 && counts.taken == 1 && counts.stolen == 0 && counts.redelivered == 0);
	bare_close(&b);
}

/* ---- forged pages ----------------------------------------------------- */

Test(recover, implausible_holds_are_cleared_and_counted)
{
	struct bare b;
	struct ring_frame f;
	struct ring_rx_counts counts;
	uint64_t word, foreign;

	bare_open(&b, DROP, 6, 1, 3, 0);
	bare_publish(&b);
	bare_publish(&b);
	word = bare_state(&b, 0);
	foreign = ring_word(ring_first_seq(1000), 3);
	bare_set_state(&b, 3, foreign); /* the producer plays along */
	atomic_store(&b.prod->desc[3][0], ring_word_seq(foreign));
	atomic_store(&b.cons[0]->hold[0], word);
	atomic_store(&b.cons[0]->hold[1], word);			  /* twice */
	atomic_store(&b.cons[0]->hold[2], foreign);			  /* another generation */
	atomic_store(&b.cons[0]->hold[3], bare_state(&b, 1));		  /* a hold that was not granted */
	atomic_store(&b.cons[0]->hold[4], word | RING_STEAL);
	atomic_store(&b.cons[0]->hold[5], ring_word(bare_seq(&b, 1), 77)); /* no such slot */
	bare_restart(&b, 0);
	f = must_take(b.rx[0], bare_seq(&b, 1), true);
	ring_release(b.rx[0], &f);
	f = must_take(b.rx[0], bare_seq(&b, 2), false);
	ring_release(b.rx[0], &f);
	cr_expect_eq(ring_take(b.rx[0], &f), RING_EMPTY);
	ring_rx_get_counts(b.rx[0], &counts);
	cr_expect_geq(counts.violations, 5);
	for (unsigned k = 0; k < RING_HOLDS_MAX; k++)
		cr_expect_eq(atomic_load(&b.cons[0]->hold[k]), 0, "hold %u", k);
	bare_close(&b);
}

Test(recover, impossible_taken_is_replaced)
{
	static const uint64_t lies[] = { 1, UINT64_MAX, UINT64_C(1) << 54, 0x1ffffffffff };

	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		struct bare b;

		bare_open(&b, DROP, 3, 1, 1, 0);
		bare_publish(&b);
		atomic_store(&b.cons[0]->taken, lies[i]);
		bare_restart(&b, 0);
		must_take(b.rx[0], bare_seq(&b, 1), false);
		bare_close(&b);
	}
}

/* ---- the producer's mark ---------------------------------------------- */

Test(recover, ended_ring_reads_an_interrupted_steal_as_its_frame)
{
	struct bare b;
	struct ring_frame f;

	bare_open(&b, DROP, 4, 1, 1, 0);
	bare_publish(&b);
	bare_publish(&b);
	bare_set_state(&b, 0, bare_state(&b, 0) | RING_STEAL); /* died after the mark */
	f = must_take(b.rx[0], bare_seq(&b, 2), false);
	ring_release(b.rx[0], &f);
	bare_close(&b);

	bare_open(&b, DROP, 4, 1, 1, 0);
	bare_publish(&b);
	bare_publish(&b);
	bare_set_state(&b, 0, bare_state(&b, 0) | RING_STEAL);
	ring_rx_set_ended(b.rx[0]);
	f = must_take(b.rx[0], bare_seq(&b, 1), false);
	ring_release(b.rx[0], &f);
	must_take(b.rx[0], bare_seq(&b, 2), false);
	bare_close(&b);
}

Test(recover, undecided_steal_is_waited_for_but_not_for_ever)
{
	struct bare b;
	struct ring_frame f;
	int64_t begin, took;

	bare_open(&b, DROP, 4, 1, 1, 0);
	bare_publish(&b);
	must_take(b.rx[0], bare_seq(&b, 1), false);
	bare_set_state(&b, 0, bare_state(&b, 0) | RING_STEAL);
	begin = clock_now_ns();
	bare_restart(&b, 0);
	took = clock_now_ns() - begin;
	cr_expect_geq(took, 40 * CLOCK_MS_NS);
	cr_expect_leq(took, 1000 * CLOCK_MS_NS);
	cr_expect_eq(ring_take(b.rx[0], &f), RING_EMPTY);
	cr_expect_eq(atomic_load(&b.cons[0]->hold[0]), 0);
	bare_close(&b);
}

/* The holder and the producer both died, the producer in the middle of a steal. */
Test(recover, undecided_steal_of_a_dead_producer_is_delivered_again)
{
	struct bare b;
	struct ring_geom g;

	bare_open(&b, DROP, 4, 1, 1, 0);
	bare_publish(&b);
	must_take(b.rx[0], bare_seq(&b, 1), false);
	bare_set_state(&b, 0, bare_state(&b, 0) | RING_STEAL);
	g = bare_geom_of(&b, 0);
	g.recovering = g.ended = true;
	ring_rx_close(&b.rx[0]);
	cr_assert_eq(ring_rx_new(&g, b.prod, b.data, b.cons[0], &b.rx[0]), 0);
	must_take(b.rx[0], bare_seq(&b, 1), true);
	bare_close(&b);
}

static struct bare *hooked;
static uint64_t decision;
static int looks;

static void
decide_at_third_look(const char *name)
{
	if (strcmp(name, "ring_recover:looked") == 0 && ++looks == 3)
		bare_set_state(hooked, 0, decision);
}

Test(recover, decision_of_a_living_producer_is_awaited)
{
	for (int keep = 0; keep < 2; keep++) {
		struct bare b;
		struct ring_frame f;
		uint64_t word;

		bare_open(&b, DROP, 4, 1, 1, 0);
		bare_publish(&b);
		must_take(b.rx[0], bare_seq(&b, 1), false);
		word = bare_state(&b, 0);
		bare_set_state(&b, 0, word | RING_STEAL);
		hooked = &b;
		looks = 0;
		decision = keep ? word : 0;
		testpoint_hook = decide_at_third_look;
		bare_restart(&b, 0);
		testpoint_hook = NULL;
		cr_expect_geq(looks, 3);
		if (keep)
			must_take(b.rx[0], bare_seq(&b, 1), true);
		else
			cr_expect_eq(ring_take(b.rx[0], &f), RING_EMPTY);
		bare_close(&b);
	}
}

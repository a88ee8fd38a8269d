/* SPDX-License-Identifier: MIT */
/*
 * Poison frames: what a worker held when it died
 *
 * The words are read from the dead worker's consumer page with pread and trusted for nothing but this bookkeeping: a
 * worker that lies about its holds spoils only its own diagnosis. A frame that two workers died with is skipped by the
 * next one (skip_seq of its RING_OPEN), and egress fills it in.
 */
#include "supervisor/sup_session.h"

#include "base/log.h"
#include "supervisor/sup_journal.h"

#include "supervisor/sup_priv.h"

static void
book_suspect(struct sup_session *s, uint64_t seq)
{
	struct sup_suspect *least = &s->suspect[0];

	for (unsigned i = 0; i < SUP_SUSPECTS_MAX; i++) {
		if (s->suspect[i].seq == seq) {
			least = &s->suspect[i];
			break;
		}
		if (s->suspect[i].seq < least->seq)
			least = &s->suspect[i];
	}
	if (least->seq != seq)
		*least = (struct sup_suspect){ .seq = seq };
	if (++least->deaths != 2)
		return;
	s->skip_seq[s->quarantined++ % SUP_SKIP_MAX] = seq;
	sup_journal_quarantined(s);
	log_warn("session", "quarantine", "session=%s frame=%llu:%llu: two workers died while they held it; it is passed "
	    "through", s->stream.log_id, (unsigned long long)(seq >> 32), (unsigned long long)(seq & 0xffffffff));
}

unsigned
sup_broker_book_holds(struct sup_session *s)
{
	uint64_t seq[RING_HOLDS_MAX];
	struct sup_ring *ring;
	unsigned in_flight = 0;

	TAILQ_FOREACH(ring, &s->rings, link) {
		unsigned n;

		if (ring->open.ring_id != CTL_RING_IN_VIDEO || !ring->seat[SUP_SEAT_IN_WORKER].given)
			continue;
		n = sup_ring_held(ring, SUP_SEAT_IN_WORKER, seq, RING_HOLDS_MAX);
		for (unsigned i = 0; i < n; i++)
			book_suspect(s, seq[i]);
		in_flight += n;
	}
	return in_flight;
}

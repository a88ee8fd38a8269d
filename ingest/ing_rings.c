/* SPDX-License-Identifier: MIT */
/*
 * In rings
 *
 * A ring is asked for once, when its track is known. The supervisor answers with RING_OPEN and, when the consumers have
 * attached, RING_LIVE; it may do so again at any time with another generation (the worker wants another format). Then
 * the old generation is used until the new one is live, left, and RING_CLOSED says so, after which its consumers are told
 * to drain it.
 */
#include "ingest/ing_rings.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"

#include <errno.h>
#include <string.h>

#define LIVE_MAX_NS	(500 * CLOCK_MS_NS) /* from MAPPED to the first frame, RING_LIVE or not */
#define OPEN_MAX_NS	(3 * CLOCK_SEC_NS)  /* a frame is kept so long for a ring that was asked for */
#define HUNG_NS		(500 * CLOCK_MS_NS) /* no progress for so long: not waited for */
#define BUDGET_MAX_NS	(2 * CLOCK_SEC_NS)
enum { BUDGET_REFILL = 50 }; /* a nanosecond for so many that pass */

static const uint32_t ring_ids[ING_RING_COUNT] = {
	[ING_RING_VIDEO] = CTL_RING_IN_VIDEO,
	[ING_RING_AUDIO_EGRESS] = CTL_RING_IN_AUDIO_EGRESS,
	[ING_RING_AUDIO_WORKER] = CTL_RING_IN_AUDIO_WORKER,
};

void
ing_rings_init(struct ing_rings *r, uint32_t session, void (*send)(void *arg, const union ctl_msg *msg), void *arg)
{
	memset(r, 0, sizeof(*r));
	r->session = session;
	r->send = send;
	r->arg = arg;
	for (int i = 0; i < ING_RING_COUNT; i++)
		r->ring[i].budget_ns = BUDGET_MAX_NS;
}

void
ing_rings_fini(struct ing_rings *r)
{
	for (int i = 0; i < ING_RING_COUNT; i++) {
		ring_tx_close(&r->ring[i].cur.tx);
		ring_tx_close(&r->ring[i].next.tx);
	}
}

/* ---- messages --------------------------------------------------------- */

static void
send_ref(struct ing_rings *r, enum ctl_type type, uint32_t ring_id, uint32_t generation)
{
	union ctl_msg msg;

	ctl_init(&msg, type, r->session);
	msg.ring_ref.ring_id = ring_id;
	msg.ring_ref.generation = generation;
	r->send(r->arg, &msg);
}

void
ing_rings_request_video(struct ing_rings *r, enum format_id format, uint32_t width, uint32_t height, uint32_t rate_num,
    uint32_t rate_den, int64_t now_ns)
{
	struct ing_ring *ring = &r->ring[ING_RING_VIDEO];
	union ctl_msg msg;

	if (ring->requested)
		return;
	ctl_init(&msg, CTL_RING_REQUEST, r->session);
	msg.ring_request.ring_id = CTL_RING_IN_VIDEO;
	msg.ring_request.format = format;
	msg.ring_request.width = width;
	msg.ring_request.height = height;
	msg.ring_request.channels = r->has_sound;
	msg.ring_request.rate_num = rate_num;
	msg.ring_request.rate_den = rate_den;
	ring->requested = true;
	ring->requested_ns = now_ns;
	r->send(r->arg, &msg);
}

void
ing_rings_request_audio(struct ing_rings *r, uint32_t channels, int64_t now_ns)
{
	struct ing_ring *ring = &r->ring[ING_RING_AUDIO_EGRESS];
	union ctl_msg msg;

	if (ring->requested)
		return;
	ctl_init(&msg, CTL_RING_REQUEST, r->session);
	msg.ring_request.ring_id = CTL_RING_IN_AUDIO_EGRESS;
	msg.ring_request.format = FORMAT_F32;
	msg.ring_request.sample_rate = 48000;
	msg.ring_request.channels = channels;
	msg.ring_request.block_samples = 960;
	msg.ring_request.rate_den = 1;
	ring->requested = true;
	ring->requested_ns = now_ns;
	r->send(r->arg, &msg);
}

static struct ing_ring *
find(struct ing_rings *r, uint32_t ring_id)
{
	for (int i = 0; i < ING_RING_COUNT; i++)
		if (ring_ids[i] == ring_id)
			return &r->ring[i];
	return NULL;
}

static void
leave(struct ing_rings *r, uint32_t ring_id, struct ing_ring_map *m)
{
	if (m->tx == NULL)
		return;
	ring_tx_close(&m->tx);
	send_ref(r, CTL_RING_CLOSED, ring_id, m->generation);
	memset(m, 0, sizeof(*m));
}

static void
go_live(struct ing_rings *r, struct ing_ring *ring, struct ing_ring_map *m, int64_t now_ns)
{
	uint32_t ring_id = ring_ids[ring - r->ring];

	m->live = true;
	if (m == &ring->next) {
		leave(r, ring_id, &ring->cur);
		ring->cur = ring->next;
		memset(&ring->next, 0, sizeof(ring->next));
	}
	ring->last_seq = 0;
	for (uint32_t i = 0; i < ring_tx_geom(ring->cur.tx)->consumer_count; i++)
		ring->taker[i] = (struct ing_taker){ ring_tx_taken(ring->cur.tx, i), now_ns };
	log_debug("rings", "live", "ring=%u generation=%u", ring_id, ring->cur.generation);
}

int
ing_rings_on_open(struct ing_rings *r, const struct ctl_ring_open *open, int *fds, unsigned fd_count, int64_t now_ns)
{
	struct ing_ring *ring = find(r, open->ring_id);
	struct ing_ring_map *m;
	struct ring_tx *tx;
	int res;

	/* Also when the ring is nothing we know: this consumes the descriptors. */
	res = ring_tx_open(open, fds, fd_count, &tx);
	if (res != 0)
		return err_trace(res);
	if (ring == NULL) {
		ring_tx_close(&tx);
		return err_origin(-EPROTO);
	}
	m = ring->cur.tx == NULL ? &ring->cur : &ring->next;
	leave(r, open->ring_id, m);
	m->tx = tx;
	m->generation = open->generation;
	m->live = false;
	m->live_by_ns = now_ns + LIVE_MAX_NS;
	send_ref(r, CTL_MAPPED, open->ring_id, open->generation);
	log_info("rings", "mapped", "ring=%u generation=%u format=%s width=%u height=%u slots=%u", open->ring_id,
	    open->generation, format_name((enum format_id)open->format), open->width, open->height, open->slot_count);
	return 0;
}

void
ing_rings_on_live(struct ing_rings *r, const struct ctl_ring_ref *ref, int64_t now_ns)
{
	struct ing_ring *ring = find(r, ref->ring_id);

	if (ring == NULL)
		return;
	if (ring->next.tx != NULL && ring->next.generation == ref->generation)
		go_live(r, ring, &ring->next, now_ns);
	else if (ring->cur.tx != NULL && ring->cur.generation == ref->generation && !ring->cur.live)
		go_live(r, ring, &ring->cur, now_ns);
}

void
ing_rings_on_ended(struct ing_rings *r, const struct ctl_ring_ref *ref)
{
	struct ing_ring *ring = find(r, ref->ring_id);

	if (ring == NULL)
		return;
	if (ring->cur.generation == ref->generation)
		leave(r, ref->ring_id, &ring->cur);
	else if (ring->next.generation == ref->generation)
		leave(r, ref->ring_id, &ring->next);
}

int64_t
ing_rings_tick(struct ing_rings *r, int64_t now_ns)
{
	int64_t next = INT64_MAX;

	for (int i = 0; i < ING_RING_COUNT; i++) {
		struct ing_ring *ring = &r->ring[i];
		struct ing_ring_map *m = ring->next.tx != NULL ? &ring->next : &ring->cur;

		if (m->tx == NULL || m->live)
			continue;
		if (now_ns >= m->live_by_ns)
			go_live(r, ring, m, now_ns);
		else if (m->live_by_ns < next)
			next = m->live_by_ns;
	}
	return next;
}

/* ---- waiting ---------------------------------------------------------- */

struct ring_tx *
ing_ring_live(struct ing_ring *ring)
{
	return ring->cur.tx != NULL && ring->cur.live ? ring->cur.tx : NULL;
}

int64_t
ing_ring_wait_until(const struct ing_ring *ring)
{
	if (ring->cur.tx != NULL)
		return ring->cur.live_by_ns;
	return ring->requested ? ring->requested_ns + OPEN_MAX_NS : INT64_MIN;
}

/* Consumer i has not taken the newest frame, but will: it is alive. */
static bool
behind(struct ing_ring *ring, uint32_t i, int64_t now_ns)
{
	struct ing_taker *t = &ring->taker[i];
	uint64_t taken = ring_tx_taken(ring->cur.tx, i);

	if (taken != t->taken) {
		t->taken = taken;
		t->progress_ns = now_ns;
	}
	return taken < ring->last_seq && now_ns - t->progress_ns <= HUNG_NS;
}

int64_t
ing_ring_pace(struct ing_ring *ring, int64_t interval_ns, int64_t now_ns)
{
	uint32_t n;

	MR_ASSERT(ring->cur.tx != NULL);
	n = ring_tx_geom(ring->cur.tx)->consumer_count;
	for (uint32_t i = 0; ring->last_seq != 0 && i < n; i++)
		if (behind(ring, i, now_ns))
			return ring->published_ns + interval_ns / 4;
	return now_ns;
}

static void
refill(struct ing_ring *ring, int64_t now_ns)
{
	if (ring->budget_at_ns != 0)
		ring->budget_ns += (now_ns - ring->budget_at_ns) / BUDGET_REFILL;
	if (ring->budget_ns > BUDGET_MAX_NS)
		ring->budget_ns = BUDGET_MAX_NS;
	ring->budget_at_ns = now_ns;
}

/* The wait for a free slot is over, well or not. */
static void
spend(struct ing_ring *ring, int64_t now_ns)
{
	if (ring->full_since_ns == 0)
		return;
	ring->budget_ns -= now_ns - ring->full_since_ns;
	if (ring->budget_ns < 0)
		ring->budget_ns = 0;
	ring->full_since_ns = 0;
}

bool
ing_ring_patience(struct ing_ring *ring, int64_t now_ns)
{
	MR_ASSERT(ring->cur.tx != NULL);
	if (ring->full_since_ns == 0) {
		refill(ring, now_ns);
		ring->full_since_ns = now_ns;
	}
	if (behind(ring, 0, now_ns) && now_ns - ring->full_since_ns < ring->budget_ns)
		return true;
	spend(ring, now_ns);
	return false;
}

void
ing_ring_published(struct ing_ring *ring, uint64_t seq, int64_t now_ns)
{
	spend(ring, now_ns);
	for (uint32_t i = 0; i < ring_tx_geom(ring->cur.tx)->consumer_count; i++) {
		behind(ring, i, now_ns);
		if (ring->taker[i].taken >= ring->last_seq)
			ring->taker[i].progress_ns = now_ns; /* it had nothing to do until now */
	}
	ring->last_seq = seq;
	ring->published_ns = now_ns;
}

/* SPDX-License-Identifier: MIT */
/*
 * Worker SDK: answers
 *
 * An answer is a frame in the out ring that names the input frame by its sequence number; timestamps and the opaque
 * user words are copied from the input. At most one answer a frame, and answers of a track in the order of its frames:
 * who sends the stream on relies on neither, but applications have fewer surprises.
 *
 * A frame pointer comes from the application. Frames live in tables that are freed by mr_close() only, so a stale
 * pointer leads to an entry whose `in` is NULL.
 */
#include "sdk_priv.h"

#include "base/assert.h"
#include "base/err.h"
#include "base/testpoint.h"

#include <errno.h>
#include <string.h>

struct sdk_held *
sdk_held_of(const struct mr_frame *frame)
{
	struct sdk_held *h;

	if (frame == NULL)
		return NULL;
	h = (struct sdk_held *)((uintptr_t)frame - offsetof(struct sdk_held, pub));
	return h->magic == SDK_HELD_MAGIC && h->in != NULL ? h : NULL;
}

static struct mr_worker *
worker_of(const struct sdk_track *t)
{
	return t->session->worker;
}

void
sdk_claim_drop(struct sdk_track *t)
{
	if (t->claimed == NULL)
		return;
	ring_abandon(t->tx, t->slot);
	t->claimed = NULL;
	worker_of(t)->claims--;
}

/* Audio waits for room, but not beyond the ring's own deadline. */
static bool
claim_slot(struct ring_tx *tx, unsigned *slot)
{
	int64_t deadline_ns = clock_now_ns() + ring_tx_geom(tx)->block_deadline_ns;

	for (;;) {
		enum ring_claim_result r = ring_claim(tx, slot);

		if (r == RING_CLAIMED)
			return true;
		if (r != RING_FULL || clock_now_ns() >= deadline_ns)
			return false;
		ring_tx_wait(tx, 0, deadline_ns);
	}
}

static int
claim(struct sdk_held *h)
{
	struct sdk_track *t = h->in->track;

	if (t->claimed != NULL)
		return -EBUSY;
	if (t->session->state != SDK_OPEN || t->tx == NULL || h->pub.seq <= t->answered_seq)
		return -ESTALE;
	if (t->id == SDK_AUDIO && h->pub.bytes > ring_tx_geom(t->tx)->payload_max)
		return -EAGAIN;
	if (!claim_slot(t->tx, &t->slot))
		return -EAGAIN;
	t->claimed = h;
	worker_of(t)->claims++;
	return 0;
}

static void
publish(struct sdk_track *t, uint32_t bytes, uint32_t flags, uint32_t reason)
{
	struct mr_worker *w = worker_of(t);
	struct sdk_held *h = t->claimed;
	struct ring_desc d = {
		.src_seq = h->pub.seq, .pts_ns = h->pub.pts_ns, .duration_ns = h->pub.duration_ns, .bytes = bytes,
		.flags = flags, .reason = reason,
	};

	memcpy(d.user, h->frame.desc.user, sizeof(d.user));
	MR_TESTPOINT("sdk_publish:before");
	ring_publish(t->tx, t->slot, &d);
	MR_TESTPOINT("sdk_publish:after");
	t->answered_seq = h->pub.seq;
	t->claimed = NULL;
	w->claims--;
	stats_add(w->stats, WORKER_frames_published, t->id == SDK_VIDEO);
	stats_add(w->stats, WORKER_errors, reason == RING_REASON_ERROR);
	stats_set(w->stats, WORKER_process_us_last, (uint64_t)(clock_now_ns() - h->taken_ns) / 1000);
}

static void
fill_output(const struct sdk_track *t, struct mr_output *o)
{
	const struct ring_geom *g = ring_tx_geom(t->tx);
	size_t size = o->size;

	*o = (struct mr_output){
		.size = size,
		.session = t->session,
		.src_seq = t->claimed->pub.seq,
		.data = ring_tx_slot(t->tx, t->slot),
		.format = g->format,
		.token = (uintptr_t)t->claimed,
	};
	if (t->id == SDK_AUDIO) {
		o->bytes = t->claimed->pub.bytes;
		o->sample_rate = g->sample_rate;
		o->channels = g->channels;
		o->sample_count = t->claimed->pub.sample_count;
		return;
	}
	o->bytes = g->payload_max;
	o->width = g->width;
	o->height = g->height;
	o->plane_count = g->layout.plane_count;
	for (uint32_t i = 0; i < g->layout.plane_count; i++) {
		o->stride[i] = g->layout.stride[i];
		o->plane[i] = o->data + g->layout.offset[i];
	}
}

/* The track whose claimed output this is; NULL: it is not claimed. */
static struct sdk_track *
track_of_output(const struct mr_worker *w, const struct mr_output *o)
{
	for (unsigned i = 0; i < w->config.capacity; i++) {
		struct mr_session *s = w->session[i];

		for (unsigned k = 0; s != NULL && k < SDK_TRACK_COUNT; k++)
			if (s->track[k].claimed != NULL && (uintptr_t)s->track[k].claimed == o->token)
				return &s->track[k];
	}
	return NULL;
}

int
mr_claim(struct mr_worker *w, const struct mr_frame *frame, struct mr_output *output)
{
	struct sdk_held *h = sdk_held_of(frame);
	int r;

	MR_ASSERT(w->magic == SDK_WORKER_MAGIC);
	if (h == NULL || output->size < sizeof(*output))
		return -EINVAL;
	r = claim(h);
	if (r < 0)
		return r;
	fill_output(h->in->track, output);
	return 0;
}

int
mr_publish(struct mr_worker *w, struct mr_output *output)
{
	struct sdk_track *t;

	MR_ASSERT(w->magic == SDK_WORKER_MAGIC);
	t = track_of_output(w, output);
	if (t == NULL)
		return -EINVAL;
	/* The caller's struct is the caller's: what is sent has the size of the ring, whatever it holds now. */
	publish(t, t->id == SDK_AUDIO ? (uint32_t)t->claimed->pub.bytes : (uint32_t)ring_tx_geom(t->tx)->payload_max, 0,
	    RING_REASON_NONE);
	output->token = 0;
	return 0;
}

int
mr_abandon(struct mr_worker *w, struct mr_output *output)
{
	struct sdk_track *t;

	MR_ASSERT(w->magic == SDK_WORKER_MAGIC);
	t = track_of_output(w, output);
	if (t == NULL)
		return -EINVAL;
	sdk_claim_drop(t);
	output->token = 0;
	return 0;
}

int
mr_answer(struct mr_worker *w, const struct mr_frame *frame, int answer, int reason)
{
	struct sdk_held *h = sdk_held_of(frame);
	struct sdk_track *t;
	int r;

	MR_ASSERT(w->magic == SDK_WORKER_MAGIC);
	if (h == NULL || (answer != MR_PASS && answer != MR_WITHHOLD) || reason < 0 || reason > (int)RING_REASON_MAX)
		return -EINVAL;
	r = claim(h);
	if (r < 0)
		return r;
	t = h->in->track;
	if (answer == MR_WITHHOLD) {
		publish(t, 0, RING_FRAME_WITHHELD, (uint32_t)reason);
	} else if (t->id == SDK_VIDEO) {
		publish(t, 0, RING_FRAME_PASS, (uint32_t)reason);
	} else { /* nobody else can name this block: sequence numbers are those of the worker's own ring */
		memcpy(ring_tx_slot(t->tx, t->slot), h->pub.data, h->pub.bytes);
		publish(t, (uint32_t)h->pub.bytes, 0, (uint32_t)reason);
	}
	return 0;
}

int
mr_release(struct mr_worker *w, const struct mr_frame *frame)
{
	struct sdk_held *h = sdk_held_of(frame);
	struct sdk_in *in;

	MR_ASSERT(w->magic == SDK_WORKER_MAGIC);
	if (h == NULL)
		return -EINVAL;
	in = h->in;
	if (in->track->claimed == h) /* an output without its frame cannot be sent */
		sdk_claim_drop(in->track);
	MR_TESTPOINT("sdk_release:before");
	ring_release(in->rx, &h->frame);
	MR_TESTPOINT("sdk_release:after");
	in->held_count--;
	in->track->session->held_count--;
	h->in = NULL;
	in->look = true;
	return 0;
}

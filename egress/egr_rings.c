/* SPDX-License-Identifier: MIT */
/* The rings that egress reads: a small table, searched; rings come and go with processes, not with frames. */
#include "egress/egr_rings.h"
#include "base/assert.h"
#include "base/err.h"
#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "egress/egr_priv.h"

void
egr_rings_init(struct egr_rings *r, struct egr_link *link)
{
	memset(r, 0, sizeof(*r));
	r->link = link;
}

static void
tell_ref(struct egr_rings *r, enum ctl_type type, const struct egr_ring *ring)
{
	union ctl_msg msg;

	ctl_init(&msg, type, ring->session);
	msg.ring_ref.ring_id = ring->id;
	msg.ring_ref.generation = ring->generation;
	egr_link_send(r->link, &msg);
}

static void
close_fds(int *fds, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		fd_close(&fds[i]);
}

int
egr_rings_open(struct egr_rings *r, const struct ctl_ring_open *open, int *fds, unsigned fd_count,
    struct egr_ring **out)
{
	struct egr_ring *ring = NULL;
	int result;

	for (unsigned i = 0; i < EGR_RINGS_MAX && ring == NULL; i++)
		if (r->ring[i].rx == NULL)
			ring = &r->ring[i];
	if (ring == NULL) {
		close_fds(fds, fd_count);
		return err_origin(-ENOSPC);
	}
	*ring = (struct egr_ring){ .id = open->ring_id, .generation = open->generation, .session = open->hdr.session };
	result = ring_rx_open(open, fds, fd_count, &ring->rx);
	if (result < 0) {
		ring->rx = NULL;
		return err_trace(result);
	}
	if (ring_rx_geom(ring->rx)->ended) {
		ring->ended = true;
		ring_rx_set_ended(ring->rx);
	}
	tell_ref(r, CTL_MAPPED, ring);
	log_debug("ring", "mapped", "id=%u generation=%u", ring->id, ring->generation);
	*out = ring;
	return 0;
}

bool
egr_rings_end(struct egr_rings *r, uint32_t id, uint32_t generation)
{
	for (unsigned i = 0; i < EGR_RINGS_MAX; i++) {
		struct egr_ring *ring = &r->ring[i];

		if (ring->rx == NULL || ring->id != id || ring->generation != generation)
			continue;
		ring->ended = true;
		ring_rx_set_ended(ring->rx);
		return true;
	}
	return false;
}

void
egr_rings_close(struct egr_rings *r, struct egr_ring *ring, bool tell)
{
	MR_ASSERT(ring->rx != NULL && ring->refs == 0);
	ring_rx_close(&ring->rx);
	log_debug("ring", "closed", "id=%u generation=%u", ring->id, ring->generation);
	if (tell)
		tell_ref(r, CTL_RING_CLOSED, ring);
}

struct egr_ring *
egr_rings_get(struct egr_rings *r, uint32_t id, unsigned n)
{
	uint32_t above = 0;
	struct egr_ring *found;

	do {
		found = NULL;
		for (unsigned i = 0; i < EGR_RINGS_MAX; i++) {
			struct egr_ring *ring = &r->ring[i];

			if (ring->rx != NULL && ring->id == id && ring->generation > above &&
			    (found == NULL || ring->generation < found->generation))
				found = ring;
		}
		if (found != NULL)
			above = found->generation;
	} while (found != NULL && n-- > 0);
	return found;
}

bool
egr_rings_alive(struct egr_rings *r, uint32_t id)
{
	for (unsigned i = 0; i < EGR_RINGS_MAX; i++)
		if (r->ring[i].rx != NULL && r->ring[i].id == id && !r->ring[i].ended)
			return true;
	return false;
}

unsigned
egr_rings_pollfds(struct egr_rings *r, struct pollfd *fds, int64_t now_ns)
{
	unsigned n = 0;

	for (unsigned i = 0; i < EGR_RINGS_MAX; i++) {
		struct egr_ring *ring = &r->ring[i];

		/* The doorbell of an ended ring hangs up for good. */
		if (ring->rx == NULL || ring->ended || ring->mute_ns > now_ns || ring_rx_fd(ring->rx) < 0)
			continue;
		fds[n++] = (struct pollfd){ .fd = ring_rx_fd(ring->rx), .events = POLLIN };
	}
	return n;
}

void
egr_rings_polled(struct egr_rings *r, const struct pollfd *fds, unsigned count)
{
	for (unsigned k = 0; k < count; k++) {
		if ((fds[k].revents & (POLLHUP | POLLERR | POLLNVAL)) == 0)
			continue;
		for (unsigned i = 0; i < EGR_RINGS_MAX; i++)
			if (r->ring[i].rx != NULL && ring_rx_fd(r->ring[i].rx) == fds[k].fd)
				r->ring[i].mute_ns = INT64_MAX;
	}
}

void
egr_rings_clear_doorbells(struct egr_rings *r)
{
	for (unsigned i = 0; i < EGR_RINGS_MAX; i++)
		if (r->ring[i].rx != NULL && !r->ring[i].ended)
			ring_rx_clear_doorbell(r->ring[i].rx);
}

uint64_t
egr_rings_violations(struct egr_rings *r, uint32_t id)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < EGR_RINGS_MAX; i++) {
		struct egr_ring *ring = &r->ring[i];
		struct ring_rx_counts counts;

		if (ring->rx == NULL || ring->id != id)
			continue;
		ring_rx_get_counts(ring->rx, &counts);
		sum += counts.violations - ring->violations_seen;
		ring->violations_seen = counts.violations;
	}
	return sum;
}

/* ---- pictures --------------------------------------------------------- */

struct egr_view
egr_ring_view(const struct egr_ring *ring, const struct ring_frame *frame)
{
	const struct ring_geom *g = ring_rx_geom(ring->rx);

	return (struct egr_view){ .data = frame->payload, .format = g->format, .width = g->width, .height = g->height,
		.layout = g->layout };
}

struct egr_pic *
egr_pic_new(struct egr_ring *ring, const struct ring_frame *frame)
{
	struct egr_pic *pic = calloc(1, sizeof(*pic));

	if (pic == NULL) {
		ring_release(ring->rx, frame);
		return NULL;
	}
	pic->ring = ring;
	pic->frame = *frame;
	pic->view = egr_ring_view(ring, frame);
	ring->refs++;
	return pic;
}

static void
let_go(struct egr_pic *pic)
{
	if (pic->ring == NULL)
		return;
	MR_ASSERT(pic->ring->refs > 0);
	ring_release(pic->ring->rx, &pic->frame);
	pic->ring->refs--;
	pic->ring = NULL;
}

bool
egr_pic_detach(struct egr_pic *pic)
{
	size_t bytes = (size_t)pic->view.layout.payload_bytes;

	if (pic->ring == NULL)
		return false;
	pic->copy = malloc(bytes + RING_TAIL_BYTES);
	if (pic->copy == NULL)
		return false;
	memcpy(pic->copy, pic->view.data, bytes);
	memset(pic->copy + bytes, 0, RING_TAIL_BYTES);
	pic->view.data = pic->copy;
	let_go(pic);
	return true;
}

void
egr_pic_free(struct egr_pic **pp)
{
	struct egr_pic *pic = *pp;

	if (pic == NULL)
		return;
	let_go(pic);
	free(pic->copy);
	free(pic);
	*pp = NULL;
}

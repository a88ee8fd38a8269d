/* SPDX-License-Identifier: MIT */
/*
 * Worker SDK: mr_take()
 *
 * One epoll instance covers the control socket and the doorbells of all in rings. A ring is looked at when it rang and
 * until it is found empty, so that a frame costs one epoll_wait() and one recv(), and a busy worker next to nothing. The
 * control socket is read one message at a time, and a message that the application must see is handed out before the
 * next one is read: no queue of our own, and the order of events of a session is that of the supervisor.
 *
 * Whose turn it is: sessions in turn; within one, audio first, since its blocks are many and small, but a picture after
 * AUDIO_RUN_MAX blocks at the latest.
 */
#include "sdk_priv.h"

#include "base/assert.h"
#include "base/err.h"
#include "base/testpoint.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

enum { AUDIO_RUN_MAX = 8, EVENTS_MAX = 16 };

int
sdk_poll(struct mr_worker *w, int64_t deadline_ns)
{
	struct epoll_event ev[EVENTS_MAX];
	int n;

	w->polled_ns = clock_now_ns();
	n = epoll_wait(w->epoll, ev, EVENTS_MAX, clock_poll_ms(deadline_ns, w->polled_ns, INT32_MAX));
	if (n == -1)
		return errno == EINTR ? 1 : err_origin(-errno);
	w->polled_ns = clock_now_ns();
	for (int i = 0; i < n; i++) {
		if (ev[i].data.ptr == NULL)
			w->ctl_look = true;
		else
			sdk_in_rang(MR_CAST(struct sdk_in, ev[i].data.ptr, SDK_IN_MAGIC),
			    (ev[i].events & (EPOLLHUP | EPOLLERR)) != 0);
	}
	return 0;
}

/* Long waits look again everywhere. */
static int64_t
look_again_ns(struct mr_worker *w, int64_t now_ns)
{
	for (unsigned i = 0; i < w->config.capacity; i++)
		if (w->session[i] != NULL && w->session[i]->state == SDK_OPEN)
			return now_ns + SDK_LOOK_NS;
	return now_ns + SDK_IDLE_NS;
}

static void
look_everywhere(struct mr_worker *w)
{
	for (unsigned i = 0; i < w->config.capacity; i++) {
		struct mr_session *s = w->session[i];

		if (s == NULL || s->state != SDK_OPEN)
			continue;
		for (unsigned t = 0; t < SDK_TRACK_COUNT; t++)
			for (unsigned k = 0; k < s->track[t].in_count; k++)
				s->track[t].in[k]->look = true;
	}
}

/* Skipped and overwritten frames, booked when they have become known. */
static void
book_lost(struct mr_worker *w, struct sdk_in *in)
{
	struct ring_rx_counts counts;

	ring_rx_get_counts(in->rx, &counts);
	if (in->track->id == SDK_VIDEO)
		stats_add(w->stats, WORKER_frames_late, counts.late + counts.stolen - in->lost);
	in->lost = counts.late + counts.stolen;
}

static void
fill_frame(struct sdk_held *h, struct mr_session *s, const struct ring_geom *g)
{
	const struct ring_desc *d = &h->frame.desc;
	struct mr_frame *f = &h->pub;

	*f = (struct mr_frame){
		.size = sizeof(*f),
		.session = s,
		.format = g->format,
		.flags = ((d->flags & RING_FRAME_DISCONTINUITY) != 0 ? (uint32_t)MR_FRAME_DISCONTINUITY : 0) |
		    (h->frame.redelivered ? (uint32_t)MR_FRAME_REDELIVERED : 0),
		.seq = d->seq,
		.pts_ns = d->pts_ns,
		.duration_ns = d->duration_ns,
		.data = h->frame.payload,
		.bytes = d->bytes,
	};
	if (g->format == FORMAT_F32) {
		f->sample_rate = g->sample_rate;
		f->channels = g->channels;
		f->sample_count = d->bytes / (4 * g->channels);
		return;
	}
	f->width = g->width;
	f->height = g->height;
	f->rate_num = g->rate_num;
	f->rate_den = g->rate_den;
	f->plane_count = g->layout.plane_count;
	for (uint32_t i = 0; i < g->layout.plane_count; i++) {
		f->stride[i] = g->layout.stride[i];
		f->plane[i] = h->frame.payload + g->layout.offset[i];
	}
}

/* A picture is whole or nothing, a block of audio has whole samples: callbacks need not check. */
static bool
is_whole(const struct ring_geom *g, const struct ring_frame *frame)
{
	if (g->format == FORMAT_F32)
		return frame->desc.bytes % (4 * g->channels) == 0;
	return frame->desc.bytes == g->payload_max;
}

static struct sdk_held *
free_held(struct mr_session *s)
{
	for (unsigned i = 0; i < SDK_HELD_MAX; i++)
		if (s->held[i].in == NULL)
			return &s->held[i];
	MR_UNREACHABLE("every ring has at most RING_HOLDS_MAX holds");
}

/* The next whole frame of one ring. */
static struct sdk_held *
take_from_ring(struct mr_worker *w, struct sdk_in *in)
{
	const struct ring_geom *g = ring_rx_geom(in->rx);
	struct ring_frame frame;

	for (unsigned tries = 0; tries < RING_SLOTS_MAX; tries++) {
		enum ring_take_result r = ring_take(in->rx, &frame);
		struct sdk_held *h;

		if (r == RING_NO_HOLD)
			return NULL;
		if (r == RING_EMPTY) {
			in->look = false;
			in->drained = in->ended;
			return NULL;
		}
		if (r == RING_BAD_DESC)
			continue;
		if (!is_whole(g, &frame)) {
			ring_release(in->rx, &frame);
			continue;
		}
		h = free_held(in->track->session);
		h->in = in;
		h->frame = frame;
		h->taken_ns = clock_now_ns();
		in->held_count++;
		in->track->session->held_count++;
		fill_frame(h, in->track->session, g);
		book_lost(w, in);
		return h;
	}
	return NULL;
}

/* 1: *item has a frame of this track. 0: there is none. -errno. */
static int
take_from_track(struct mr_worker *w, struct sdk_track *t, struct mr_item *item)
{
	for (unsigned i = 0; i < t->in_count; i++) {
		struct sdk_in *in = t->in[i];
		struct sdk_held *h;
		int r;

		if (in->drained)
			continue; /* waits for a release */
		r = sdk_track_out_ready(t, in);
		if (r < 0)
			return err_trace(r);
		h = r > 0 && in->look ? take_from_ring(w, in) : NULL;
		if (h == NULL && in->drained)
			continue;
		if (h == NULL)
			return 0; /* the next generation comes after this one */
		stats_add(w->stats, t->id == SDK_VIDEO ? WORKER_frames_taken : WORKER_audio_taken, 1);
		item->kind = t->id == SDK_VIDEO ? MR_ITEM_VIDEO : MR_ITEM_AUDIO;
		item->session = t->session;
		item->frame = &h->pub;
		MR_TESTPOINT("sdk_take:frame");
		return 1;
	}
	return 0;
}

static int
take_from_session(struct mr_worker *w, struct mr_session *s, struct mr_item *item)
{
	int r = 0;

	if (s->audio_run < AUDIO_RUN_MAX)
		r = take_from_track(w, &s->track[SDK_AUDIO], item);
	if (r != 0) {
		s->audio_run++;
		return r;
	}
	s->audio_run = 0;
	r = take_from_track(w, &s->track[SDK_VIDEO], item);
	return r != 0 ? r : take_from_track(w, &s->track[SDK_AUDIO], item);
}

static int
take_frame(struct mr_worker *w, struct mr_item *item)
{
	for (unsigned i = 0; i < w->config.capacity; i++) {
		unsigned k = (w->turn + i) % w->config.capacity;
		struct mr_session *s = w->session[k];
		int r;

		if (s == NULL || s->state != SDK_OPEN)
			continue;
		r = take_from_session(w, s, item);
		if (r == 0)
			continue;
		w->turn = k + 1;
		return r;
	}
	return 0;
}

/* In rings that are drained are closed, also while mr_take() waits. */
static int
reap_rings(struct mr_worker *w)
{
	for (unsigned i = 0; i < w->config.capacity; i++) {
		struct mr_session *s = w->session[i];

		for (unsigned t = 0; s != NULL && s->state == SDK_OPEN && t < SDK_TRACK_COUNT; t++) {
			int r = sdk_track_reap(&s->track[t]);

			if (r < 0)
				return err_trace(r);
		}
	}
	return 0;
}

/* What the last item lent to the application ends here: parameters that it did not answer are accepted. */
static int
finish_last_item(struct mr_worker *w)
{
	for (unsigned i = 0; i < w->config.capacity; i++) {
		struct mr_session *s = w->session[i];
		int r = s != NULL && s->state != SDK_FREE ? sdk_answer_params(s, 0, NULL) : 0;

		if (r < 0)
			return err_trace(r);
	}
	return sdk_ctl_reap(w);
}

static bool
has_sessions(const struct mr_worker *w)
{
	for (unsigned i = 0; i < w->config.capacity; i++)
		if (w->session[i] != NULL && w->session[i]->state != SDK_FREE)
			return true;
	return false;
}

/* Control messages first. 1: *item is there. 0: nothing more to read. -errno. */
static int
take_control(struct mr_worker *w, struct mr_item *item)
{
	while (w->ctl_look && !w->gone) {
		int r = sdk_ctl_step(w, item);

		if (r < 0)
			return err_trace(r);
		if (r == SDK_CTL_ITEM)
			return 1;
		if (r == SDK_CTL_NOTHING)
			w->ctl_look = false;
	}
	return 0;
}

/* Looks once everywhere. 1: *item is there. 0: nothing. -errno; -ESHUTDOWN: the end. */
static int
look(struct mr_worker *w, struct mr_item *item)
{
	int r = take_control(w, item);

	if (r != 0)
		return err_trace(r);
	if (w->gone || (w->draining && !has_sessions(w)))
		return -ESHUTDOWN;
	r = take_frame(w, item);
	return r != 0 ? r : reap_rings(w);
}

static int64_t
deadline_of(int64_t now_ns, uint64_t timeout_ns)
{
	return timeout_ns > (uint64_t)(INT64_MAX - now_ns) ? INT64_MAX : now_ns + (int64_t)timeout_ns;
}

/* 1: *item is there. 0: not within the timeout. 2: a signal handler ran. -errno. */
static int
wait_for_item(struct mr_worker *w, struct mr_item *item, uint64_t timeout_ns)
{
	int64_t now_ns = clock_now_ns(), deadline_ns = deadline_of(now_ns, timeout_ns);
	bool last_look = false;
	int r = 0;

	/* With frames always there nobody would look at the control socket. */
	if (now_ns - w->polled_ns > SDK_CTL_NS)
		r = sdk_poll(w, 0);
	for (;;) {
		int64_t until_ns;

		if (r < 0)
			return err_trace(r);
		if (r > 0)
			return 2;
		r = look(w, item);
		if (r != 0 || last_look)
			return r;
		now_ns = clock_now_ns();
		until_ns = look_again_ns(w, now_ns);
		if (until_ns >= deadline_ns) {
			until_ns = deadline_ns;
			last_look = true;
		}
		r = sdk_poll(w, until_ns);
		if (w->polled_ns >= until_ns)
			look_everywhere(w);
	}
}

int
mr_take(struct mr_worker *w, struct mr_item *to, uint64_t timeout_ns)
{
	struct mr_item item = { .size = sizeof(item) };
	int r;

	MR_ASSERT(w->magic == SDK_WORKER_MAGIC);
	if (to->size < sizeof(item) || to->size > 4096)
		return err_origin(-EINVAL);
	if (w->claims > 0)
		return -EBUSY;
	r = w->broken != 0 ? w->broken : finish_last_item(w);
	if (r == 0)
		r = wait_for_item(w, &item, timeout_ns);
	if (r < 0) { /* the end, but every stream is stopped before it */
		w->broken = r;
		if (!sdk_ctl_stop_next(w, &item))
			return err_trace(r);
	} else if (r != 1) {
		return r == 2 ? -EINTR : -EAGAIN;
	}
	item.size = to->size;
	memcpy(to, &item, sizeof(item));
	return 0;
}

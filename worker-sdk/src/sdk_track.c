/* SPDX-License-Identifier: MIT */
/*
 * Worker SDK: the rings of one track
 *
 * In rings arrive one generation after another and are drained in that order. An old one is closed when its producer has
 * left (RING_ENDED), nothing is left in it, and the application holds none of its frames.
 *
 * The out ring is asked for with the geometry of the frames that are next, or with the size that the application
 * wished for. While it is not live, or does not fit, no frame is taken from the in ring: frames wait there, the oldest
 * giving way. A change of geometry waits until the application has let go of the frames before it. The supervisor does
 * not say no; silence for SDK_OUT_ASK_NS is a refusal, and the ring that there was goes on being used.
 */
#include "sdk_priv.h"

#include "base/assert.h"
#include "base/err.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>

static struct mr_worker *
worker_of(const struct sdk_track *t)
{
	return t->session->worker;
}

struct sdk_track *
sdk_track_of_ring(struct mr_session *s, uint32_t ring_id)
{
	switch (ring_id) {
	case CTL_RING_IN_VIDEO:
	case CTL_RING_OUT_VIDEO:
		return &s->track[SDK_VIDEO];
	case CTL_RING_IN_AUDIO_WORKER:
	case CTL_RING_OUT_AUDIO:
		return &s->track[SDK_AUDIO];
	default:
		return NULL;
	}
}

static int
say_ring(struct sdk_track *t, enum ctl_type type, uint32_t ring_id, uint32_t generation, uint32_t txn)
{
	union ctl_msg msg;

	ctl_init(&msg, type, t->session->id);
	msg.hdr.txn = txn;
	msg.ring_ref.ring_id = ring_id;
	msg.ring_ref.generation = generation;
	return sdk_must_send(worker_of(t), &msg);
}

/* ---- in rings --------------------------------------------------------- */

/* Frames must be what HELLO asked for: callbacks are written for one format. */
static bool
format_fits(const struct sdk_track *t, const struct ring_geom *g)
{
	return g->format == (t->id == SDK_VIDEO ? worker_of(t)->config.format : (uint32_t)FORMAT_F32);
}

static void
stop_polling(struct sdk_in *in)
{
	if (in->polled && epoll_ctl(worker_of(in->track)->epoll, EPOLL_CTL_DEL, ring_rx_fd(in->rx), NULL) == -1)
		log_warn("sdk", "epoll", "unable to stop polling a doorbell: errno=%d", errno);
	in->polled = false;
}

void
sdk_in_rang(struct sdk_in *in, bool hung_up)
{
	ring_rx_clear_doorbell(in->rx);
	in->look = true;
	if (hung_up) /* it would be readable for ever; RING_ENDED comes by the control socket */
		stop_polling(in);
}

static void
in_free(struct sdk_in *in)
{
	stop_polling(in);
	ring_rx_close(&in->rx);
	in->magic = 0;
	free(in);
}

void
sdk_track_ended(struct sdk_track *t, uint32_t generation)
{
	for (unsigned i = 0; i < t->in_count; i++) {
		if (t->in[i]->generation != generation)
			continue;
		ring_rx_set_ended(t->in[i]->rx);
		t->in[i]->ended = true;
		t->in[i]->look = true;
	}
}

/* Closes the i-th in ring and says so. */
static int
close_in(struct sdk_track *t, unsigned i)
{
	struct sdk_in *in = t->in[i];
	uint32_t ring_id = ring_rx_geom(in->rx)->ring_id, generation = in->generation;

	in_free(in);
	t->in_count--;
	for (; i < t->in_count; i++)
		t->in[i] = t->in[i + 1];
	return say_ring(t, CTL_RING_CLOSED, ring_id, generation, 0);
}

int
sdk_track_reap(struct sdk_track *t)
{
	for (unsigned i = 0; i < t->in_count;) {
		int r;

		if (!t->in[i]->drained || t->in[i]->held_count > 0) {
			i++;
			continue;
		}
		r = close_in(t, i);
		if (r < 0)
			return err_trace(r);
	}
	return 0;
}

/* Generations come faster than they are drained: the oldest of which nothing is held goes, with what is in it. */
static int
make_room(struct sdk_track *t)
{
	for (unsigned i = 0; i < t->in_count; i++)
		if (t->in[i]->held_count == 0)
			return close_in(t, i);
	return err_origin(-EPROTO);
}

int
sdk_track_open_in(struct sdk_track *t, const struct ctl_ring_open *open, int *fds, unsigned fd_count)
{
	struct epoll_event ev = { .events = EPOLLIN };
	struct ring_rx *rx;
	struct sdk_in *in;
	int r = ring_rx_open(open, fds, fd_count, &rx);

	if (r < 0)
		return err_trace(r);
	r = format_fits(t, ring_rx_geom(rx)) ? 0 : err_origin(-EPROTO);
	if (r == 0 && t->in_count == SDK_GENERATIONS_MAX)
		r = make_room(t);
	if (r < 0)
		goto close_rx;
	in = calloc(1, sizeof(*in));
	if (in == NULL) {
		r = err_origin(-ENOMEM);
		goto close_rx;
	}
	*in = (struct sdk_in){
		.magic = SDK_IN_MAGIC, .track = t, .rx = rx, .generation = open->generation, .look = true,
		.ended = open->ended != 0,
	};
	ev.data.ptr = in;
	if (ring_rx_fd(rx) >= 0) {
		if (epoll_ctl(worker_of(t)->epoll, EPOLL_CTL_ADD, ring_rx_fd(rx), &ev) == -1) {
			r = err_origin(-errno);
			goto free_in;
		}
		in->polled = true;
	}
	t->in[t->in_count++] = in;
	return say_ring(t, CTL_MAPPED, open->ring_id, open->generation, open->hdr.txn);
free_in:
	free(in);
close_rx:
	ring_rx_close(&rx);
	return r;
}

/* ---- out ring --------------------------------------------------------- */

static void
wanted_size(const struct sdk_track *t, const struct ring_geom *in, uint32_t *width, uint32_t *height)
{
	*width = t->wish_width != 0 ? t->wish_width : in->width;
	*height = t->wish_height != 0 ? t->wish_height : in->height;
}

static bool
out_fits(const struct sdk_track *t, const struct ring_geom *in)
{
	const struct ring_geom *out = ring_tx_geom(t->tx);
	uint32_t width, height;

	if (t->id == SDK_AUDIO)
		return out->sample_rate == in->sample_rate && out->channels == in->channels &&
		    out->block_samples == in->block_samples;
	wanted_size(t, in, &width, &height);
	return out->width == width && out->height == height;
}

static int
ask_for_out(struct sdk_track *t, const struct ring_geom *in)
{
	union ctl_msg msg;

	ctl_init(&msg, CTL_RING_REQUEST, t->session->id);
	msg.ring_request.format = in->format;
	if (t->id == SDK_VIDEO) {
		msg.ring_request.ring_id = CTL_RING_OUT_VIDEO;
		wanted_size(t, in, &msg.ring_request.width, &msg.ring_request.height);
	} else {
		msg.ring_request.ring_id = CTL_RING_OUT_AUDIO;
		msg.ring_request.sample_rate = in->sample_rate;
		msg.ring_request.channels = in->channels;
		msg.ring_request.block_samples = in->block_samples;
	}
	msg.ring_request.rate_num = in->rate_num;
	msg.ring_request.rate_den = in->rate_den != 0 ? in->rate_den : 1;
	t->out = SDK_OUT_ASKED;
	t->asked_ns = clock_now_ns();
	return sdk_must_send(worker_of(t), &msg);
}

/* The request was not granted in time: keep what there was, or ask once more where there was nothing. */
static void
give_up_asking(struct sdk_track *t, const struct ring_geom *in)
{
	if (t->tx != NULL && t->id == SDK_VIDEO) {
		const struct ring_geom *out = ring_tx_geom(t->tx);
		uint32_t width, height;

		wanted_size(t, in, &width, &height);
		log_warn("sdk", "resize_refused", "session=%u wanted=%ux%u kept=%ux%u", t->session->id, width, height,
		    out->width, out->height);
		t->wish_width = out->width;
		t->wish_height = out->height;
		t->out = SDK_OUT_LIVE;
		return;
	}
	if (!t->complained)
		log_warn("sdk", "no_out_ring", "session=%u track=%s: the supervisor gave no memory for results yet",
		    t->session->id, t->id == SDK_VIDEO ? "video" : "audio");
	t->complained = true;
	t->out = SDK_OUT_NONE;
}

static bool
holds_frames(const struct sdk_track *t)
{
	for (unsigned i = 0; i < t->in_count; i++)
		if (t->in[i]->held_count > 0)
			return true;
	return false;
}

int
sdk_track_out_ready(struct sdk_track *t, const struct sdk_in *in)
{
	const struct ring_geom *g = ring_rx_geom(in->rx);
	int r;

	if (t->out == SDK_OUT_ASKED && clock_now_ns() - t->asked_ns > SDK_OUT_ASK_NS)
		give_up_asking(t, g);
	if (t->out == SDK_OUT_ASKED || t->out == SDK_OUT_MAPPED)
		return 0;
	if (t->out == SDK_OUT_LIVE && out_fits(t, g))
		return 1;
	if (holds_frames(t))
		return 0;
	r = ask_for_out(t, g);
	return r < 0 ? err_trace(r) : 0;
}

int
sdk_track_open_out(struct sdk_track *t, const struct ctl_ring_open *open, int *fds, unsigned fd_count)
{
	struct ring_tx *tx;
	int r = ring_tx_open(open, fds, fd_count, &tx);

	if (r < 0)
		return err_trace(r);
	if (!format_fits(t, ring_tx_geom(tx))) {
		ring_tx_close(&tx);
		return err_origin(-EPROTO);
	}
	MR_ASSERT(t->claimed == NULL); /* mr_take() insists on it */
	ring_tx_close(&t->tx); /* MAPPED of the new ring says that the old one was left */
	t->tx = tx;
	t->out = SDK_OUT_MAPPED;
	t->complained = false;
	return say_ring(t, CTL_MAPPED, open->ring_id, open->generation, open->hdr.txn);
}

void
sdk_track_live(struct sdk_track *t, uint32_t generation)
{
	if (t->out == SDK_OUT_MAPPED && ring_tx_geom(t->tx)->generation == generation)
		t->out = SDK_OUT_LIVE;
}

int
mr_output_resize(struct mr_session *s, uint32_t width, uint32_t height)
{
	struct sdk_track *t = &s->track[SDK_VIDEO];
	struct format_layout layout;

	MR_ASSERT(s->magic == SDK_SESSION_MAGIC);
	if ((width != 0 || height != 0) &&
	    !format_video_layout((enum format_id)s->worker->config.format, width, height, &layout))
		return -EINVAL;
	t->wish_width = width;
	t->wish_height = height;
	return 0;
}

/* Frames that are still held keep their holds: the next incarnation is given them. */
void
sdk_track_fini(struct sdk_track *t)
{
	sdk_claim_drop(t);
	for (unsigned i = 0; i < t->in_count; i++)
		in_free(t->in[i]);
	t->in_count = 0;
	ring_tx_close(&t->tx);
	t->out = SDK_OUT_NONE;
}

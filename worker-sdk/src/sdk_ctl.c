/* SPDX-License-Identifier: MIT */
/*
 * Worker SDK: what the supervisor says
 *
 * The supervisor is trusted, but versions differ and bugs exist: a message that contradicts what went before is -EPROTO,
 * which ends this process with a reason in the log, and the supervisor starts it again. A message about a session or a
 * ring that is gone is a race, and ignored. Descriptors of any message are closed on every path.
 */
#include "sdk_priv.h"

#include "base/assert.h"
#include "base/err.h"
#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

struct received {
	union ctl_msg msg;
	int fd[CTL_FDS_MAX];
	unsigned fd_count;
};

static struct mr_session *
find_session(struct mr_worker *w, uint32_t id)
{
	for (unsigned i = 0; i < w->config.capacity; i++)
		if (w->session[i] != NULL && w->session[i]->state != SDK_FREE && w->session[i]->id == id)
			return w->session[i];
	return NULL;
}

int
sdk_must_send(struct mr_worker *w, const union ctl_msg *msg)
{
	int64_t deadline_ns = clock_now_ns() + SDK_MUST_SEND_MS * CLOCK_MS_NS;

	while (!w->gone) {
		struct pollfd p = { .fd = w->ctl, .events = POLLOUT };
		int64_t now_ns;
		int r = ctl_send(w->ctl, msg, NULL, 0);

		if (r == -EPIPE || r == -ECONNRESET) {
			w->gone = true; /* mr_take() stops the sessions and ends */
			break;
		}
		if (r != -EAGAIN)
			return r;
		now_ns = clock_now_ns();
		if (now_ns >= deadline_ns)
			return err_origin(-ETIMEDOUT);
		if (poll(&p, 1, clock_poll_ms(deadline_ns, now_ns, SDK_MUST_SEND_MS)) == -1 && errno != EINTR)
			return err_origin(-errno);
	}
	return 0;
}

/* ---- sessions --------------------------------------------------------- */

/* A free slot; NULL with errno 0: the capacity is used up. */
static struct mr_session *
free_slot(struct mr_worker *w)
{
	for (unsigned i = 0; i < w->config.capacity; i++) {
		if (w->session[i] == NULL)
			w->session[i] = calloc(1, sizeof(*w->session[i]));
		if (w->session[i] == NULL)
			return NULL;
		if (w->session[i]->state == SDK_FREE)
			return w->session[i];
	}
	errno = 0;
	return NULL;
}

static void
session_init(struct mr_session *s, struct mr_worker *w, uint32_t id)
{
	memset(s, 0, sizeof(*s));
	s->magic = SDK_SESSION_MAGIC;
	s->state = SDK_OPEN;
	s->worker = w;
	s->id = id;
	for (unsigned i = 0; i < SDK_HELD_MAX; i++)
		s->held[i].magic = SDK_HELD_MAGIC;
	for (unsigned i = 0; i < SDK_TRACK_COUNT; i++) {
		s->track[i].id = (enum sdk_track_id)i;
		s->track[i].session = s;
	}
}

void
sdk_session_fini(struct mr_session *s)
{
	if (s->state == SDK_FREE)
		return;
	for (unsigned i = 0; i < SDK_TRACK_COUNT; i++)
		sdk_track_fini(&s->track[i]);
	for (unsigned i = 0; i < SDK_HELD_MAX; i++)
		s->held[i].in = NULL;
	free(s->params);
	free(s->refused);
	s->params = NULL;
	s->refused = NULL;
	s->state = SDK_FREE;
}

int
sdk_ctl_reap(struct mr_worker *w)
{
	for (unsigned i = 0; i < w->config.capacity; i++) {
		struct mr_session *s = w->session[i];
		union ctl_msg msg;
		int r;

		if (s == NULL || s->state != SDK_STOPPED || s->held_count > 0)
			continue;
		sdk_session_fini(s);
		ctl_init(&msg, CTL_SESSION_CLOSED, s->id);
		msg.hdr.txn = s->txn;
		r = sdk_must_send(w, &msg);
		if (r < 0)
			return err_trace(r);
	}
	return 0;
}

static void
make_stop(struct mr_session *s, struct mr_item *item)
{
	s->state = SDK_STOPPED;
	item->kind = MR_ITEM_STOP;
	item->session = s;
}

bool
sdk_ctl_stop_next(struct mr_worker *w, struct mr_item *item)
{
	for (unsigned i = 0; i < w->config.capacity; i++) {
		if (w->session[i] == NULL || w->session[i]->state != SDK_OPEN)
			continue;
		make_stop(w->session[i], item);
		return true;
	}
	return false;
}

/* ---- messages --------------------------------------------------------- */

/* Reads the text of a message into the session; its length must be what the message says. */
static int
read_params(struct mr_session *s, const struct received *rc, uint64_t text_bytes)
{
	char *text;
	size_t bytes;
	int r;

	if (rc->fd_count != 1 || text_bytes > CTL_PARAMS_BYTES_MAX)
		return err_origin(-EPROTO);
	r = fd_read_whole(rc->fd[0], CTL_PARAMS_BYTES_MAX, &text, &bytes);
	if (r < 0)
		return err_trace(r);
	if (bytes != text_bytes) {
		free(text);
		return err_origin(-EPROTO);
	}
	free(s->params);
	s->params = text;
	s->params_bytes = bytes;
	return 0;
}

static void
lend_params(struct mr_session *s, const struct ctl_hdr *hdr, uint64_t version, struct mr_item *item)
{
	s->unanswered = true;
	s->start = hdr->type == CTL_SESSION_OPEN;
	s->params_version = version;
	s->txn = hdr->txn;
	s->why[0] = '\0';
	item->session = s;
	item->params = s->params;
	item->params_bytes = s->params_bytes;
}

static int
on_session_open(struct mr_worker *w, struct received *rc, struct mr_item *item)
{
	const struct ctl_session_open *m = &rc->msg.session_open;
	struct mr_session *s;
	int r;

	if (m->hdr.session == 0 || find_session(w, m->hdr.session) != NULL || w->draining)
		return err_origin(-EPROTO);
	s = free_slot(w);
	if (s == NULL)
		return err_origin(errno == 0 ? -EPROTO : -ENOMEM);
	session_init(s, w, m->hdr.session);
	r = read_params(s, rc, m->text_bytes);
	if (r < 0) {
		sdk_session_fini(s);
		return err_trace(r);
	}
	lend_params(s, &m->hdr, m->params_version, item);
	s->stream = (struct mr_stream){
		.size = sizeof(s->stream), .session_id = s->id, .format = w->config.format, .width = m->width,
		.height = m->height, .recovering = m->recovering != 0, .params = s->params,
		.params_bytes = s->params_bytes,
	};
	item->kind = MR_ITEM_START;
	item->stream = &s->stream;
	return SDK_CTL_ITEM;
}

static int
on_params(struct mr_session *s, struct received *rc, struct mr_item *item)
{
	int r = read_params(s, rc, rc->msg.params.text_bytes);

	if (r < 0)
		return err_trace(r);
	lend_params(s, &rc->msg.hdr, rc->msg.params.version, item);
	item->kind = MR_ITEM_PARAMS;
	return SDK_CTL_ITEM;
}

static int
on_ring_open(struct mr_session *s, struct received *rc)
{
	const struct ctl_ring_open *m = &rc->msg.ring_open;
	bool is_out = m->ring_id == CTL_RING_OUT_VIDEO || m->ring_id == CTL_RING_OUT_AUDIO;
	struct sdk_track *t = sdk_track_of_ring(s, m->ring_id);
	int r;

	if (t == NULL || m->role != (uint32_t)(is_out ? CTL_RING_PRODUCER : CTL_RING_CONSUMER))
		return err_origin(-EPROTO);
	r = is_out ? sdk_track_open_out(t, m, rc->fd, rc->fd_count) : sdk_track_open_in(t, m, rc->fd, rc->fd_count);
	return r < 0 ? err_trace(r) : SDK_CTL_DONE;
}

static int
on_ring_ref(struct mr_session *s, const struct ctl_ring_ref *m)
{
	struct sdk_track *t = sdk_track_of_ring(s, m->ring_id);

	if (t == NULL)
		return err_origin(-EPROTO);
	if (m->hdr.type == CTL_RING_LIVE)
		sdk_track_live(t, m->generation);
	else
		sdk_track_ended(t, m->generation);
	return SDK_CTL_DONE;
}

static int
on_session_message(struct mr_worker *w, struct received *rc, struct mr_item *item)
{
	struct mr_session *s = find_session(w, rc->msg.hdr.session);

	if (s == NULL || s->state != SDK_OPEN) /* it closes already */
		return SDK_CTL_DONE;
	switch (rc->msg.hdr.type) {
	case CTL_RING_OPEN:
		return on_ring_open(s, rc);
	case CTL_RING_LIVE:
	case CTL_RING_ENDED:
		return on_ring_ref(s, &rc->msg.ring_ref);
	case CTL_PARAMS:
		return on_params(s, rc, item);
	default:
		MR_ASSERT(rc->msg.hdr.type == CTL_SESSION_CLOSE);
		s->txn = rc->msg.hdr.txn;
		make_stop(s, item);
		return SDK_CTL_ITEM;
	}
}

static int
dispatch(struct mr_worker *w, struct received *rc, struct mr_item *item)
{
	switch (rc->msg.hdr.type) {
	case CTL_SESSION_OPEN:
		return on_session_open(w, rc, item);
	case CTL_RING_OPEN:
	case CTL_RING_LIVE:
	case CTL_RING_ENDED:
	case CTL_PARAMS:
	case CTL_SESSION_CLOSE:
		return on_session_message(w, rc, item);
	case CTL_DRAIN:
		w->draining = true;
		return SDK_CTL_DONE;
	default: /* a second CONFIG, or what only media children are told */
		return err_origin(-EPROTO);
	}
}

int
sdk_ctl_step(struct mr_worker *w, struct mr_item *item)
{
	struct received rc = { .fd_count = 0 };
	int r = ctl_recv(w->ctl, &rc.msg, false, rc.fd, CTL_FDS_MAX, &rc.fd_count);

	if (r == -EAGAIN)
		return SDK_CTL_NOTHING;
	if (r == -ESHUTDOWN) {
		w->gone = true;
		return SDK_CTL_NOTHING;
	}
	if (r < 0) {
		log_error("sdk", "control", "unable to understand the supervisor: a message of an unknown kind or size");
		return err_trace(r);
	}
	r = dispatch(w, &rc, item);
	for (unsigned i = 0; i < rc.fd_count; i++)
		fd_close(&rc.fd[i]);
	if (r < 0)
		log_error("sdk", "control", "unable to act on %s session=%u: %s", ctl_type_name(rc.msg.hdr.type),
		    rc.msg.hdr.session, strerror(-r));
	return r;
}

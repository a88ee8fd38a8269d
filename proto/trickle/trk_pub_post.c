/* SPDX-License-Identifier: MIT */
/*
 * The POSTs of a publisher
 *
 * One POST carries bytes at a time: segment n+1 begins to flow when the last byte of n has been handed over, while the
 * answer to n may still be on its way. With preconnect a further POST is parked at the server, its headers sent and
 * its body not begun, so that the first byte of a segment does not wait for a handshake.
 *
 * What happened to a POST is decided by its reply and by whether bytes were sent with it. A seq that bytes were sent to
 * is never used again: a server may append to it. Nothing is ever ended with an empty body: a parked POST that is not
 * needed, or is too old, is aborted.
 *
 * Every loop over the queue starts again after a call that may have told the user something: the user may have changed
 * the queue, or closed the publisher.
 */
#include "proto/trickle/trk_pub_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static size_t
seg_pull(void *arg, void *bytes, size_t max, bool *end)
{
	struct trk_seg *seg = MR_CAST(struct trk_seg, arg, TRK_SEG_MAGIC);
	size_t n = trk_seg_pending(seg);

	n = n < max ? n : max;
	if (n == 0) {
		*end = seg->ended;
		return 0;
	}
	memcpy(bytes, trk_buf_front(&seg->bytes) + seg->read_bytes, n);
	if (seg->message)
		seg->read_bytes += n;
	else
		trk_buf_drop(&seg->bytes, n);
	seg->sent_bytes += n;
	seg->pub->queued_bytes -= n;
	seg->pub->stats.bytes += n;
	return n;
}

static struct trk_req *
post_start(struct trk_pub *pub, int64_t seq)
{
	char *url = trk_url_make_seq(&pub->url, seq);
	struct trk_req_config config = {
		.method = TRK_POST_STREAM, .url = url, .mime = pub->mime, .reset = pub->resume && seq == pub->first_seq,
	};
	struct trk_req *req = NULL;

	(void)trk_req_start(pub->member.loop, &config, &req);
	free(url);
	return req;
}

/* A message goes back into the queue, to be sent under another number. */
static void
seg_requeue(struct trk_pub *pub, struct trk_seg *seg)
{
	trk_req_abort(&seg->req);
	pub->queued_bytes += seg->read_bytes;
	seg->read_bytes = 0;
	seg->sent_bytes = 0;
	seg->numbered = false;
}

void
trk_pub_seg_break(struct trk_pub *pub, struct trk_seg *seg)
{
	trk_pub_broken_add(pub, seg->seq);
	if (seg->message && seg->resends < TRK_PUB_RESENDS_MAX) {
		seg->resends++;
		seg_requeue(pub, seg);
	} else {
		trk_pub_seg_finish(pub, seg, false);
	}
}

/* ---- the parked POST -------------------------------------------------- */

static void
parked_judge(struct trk_pub *pub, int64_t now)
{
	enum trk_post_act act = trk_reply_post(&pub->parked->reply, false, false);
	char why[96];

	snprintf(why, sizeof(why), "%s", trk_req_why(pub->parked));
	trk_req_abort(&pub->parked);
	if (act == TRK_POST_CLOSED) {
		trk_pub_end(pub, TRK_END_CLOSED);
	} else if (act == TRK_POST_ABSENT) {
		trk_pub_absent(pub, now);
	} else if (act == TRK_POST_NEXT) {
		pub->seen = true;
		pub->next_seq++;
		trk_pub_backoff(pub, "segment closed by another", now);
	} else {
		trk_pub_backoff(pub, why, now);
	}
}

static void
parked_pump(struct trk_pub *pub, int64_t now)
{
	struct trk_req *parked = pub->parked;

	if (parked == NULL)
		return;
	pub->seen = pub->seen || parked->reply.informed;
	if (trk_req_answered(parked)) {
		parked_judge(pub, now);
	} else if (now - parked->started_ns >= pub->park_ns) {
		trk_backoff_reset(&pub->backoff); /* it was accepted and kept: that server is well */
		trk_req_abort(&pub->parked);
	}
}

/* ---- a segment's POST ------------------------------------------------- */

/* The POST of a segment has ended without publishing it. */
static void
seg_failed(struct trk_pub *pub, struct trk_seg *seg, enum trk_post_act act, int64_t now)
{
	char why[96];

	snprintf(why, sizeof(why), "%s", trk_req_why(seg->req));
	trk_req_abort(&seg->req);
	switch (act) {
	case TRK_POST_NEXT:
		seg->numbered = false;
		trk_pub_backoff(pub, "segment closed by another", now);
		break;
	case TRK_POST_RETRY:
		trk_pub_backoff(pub, why, now);
		break;
	case TRK_POST_DROP:
		trk_pub_seg_finish(pub, seg, false);
		break;
	case TRK_POST_BROKEN:
		trk_pub_seg_break(pub, seg);
		trk_pub_backoff(pub, why, now);
		break;
	case TRK_POST_ABSENT:
		trk_pub_absent(pub, now);
		break;
	case TRK_POST_CLOSED:
		trk_pub_end(pub, TRK_END_CLOSED);
		break;
	case TRK_POST_DONE:
		MR_UNREACHABLE("a published segment has not failed");
	}
}

static void
seg_answered(struct trk_pub *pub, struct trk_seg *seg, int64_t now)
{
	enum trk_post_act act = trk_reply_post(&seg->req->reply, seg->sent_bytes > 0, seg->req->send_ended);

	if (seg->req->reply.status >= 200 && seg->req->reply.status < 300)
		pub->seen = true;
	if (act != TRK_POST_DONE) {
		seg_failed(pub, seg, act, now);
		return;
	}
	trk_backoff_reset(&pub->backoff);
	trk_pub_seg_finish(pub, seg, true);
}

static int64_t
seg_deadline(const struct trk_seg *seg)
{
	if (seg->req == NULL || !seg->req->connected)
		return TRK_NEVER_NS; /* connecting has its own limit */
	if (seg->req->send_ended || trk_seg_pending(seg) > 0)
		return seg->req->moved_ns + TRK_PUB_PROGRESS_NS;
	return TRK_NEVER_NS;
}

/*
 * After trouble a new connection has to stand for a moment before a segment is entrusted to it. A proxy whose server
 * is away accepts and then resets; bytes written in between would cost the segment.
 */
static int64_t
seg_settled(const struct trk_seg *seg)
{
	if (seg->sent_bytes > 0 || seg->pub->backoff.step_ns == 0)
		return 0;
	return seg->req->connected ? seg->req->connected_ns + TRK_PUB_SETTLE_NS : TRK_NEVER_NS;
}

/* true: the queue may have changed. */
static bool
seg_pump(struct trk_pub *pub, struct trk_seg *seg, int64_t now)
{
	if (seg->req == NULL)
		return false;
	pub->seen = pub->seen || seg->req->reply.informed;
	if (trk_req_answered(seg->req)) {
		seg_answered(pub, seg, now);
		return true;
	}
	if (now >= seg_deadline(seg)) {
		trk_req_abort(&seg->req);
		if (seg->sent_bytes > 0)
			trk_pub_seg_break(pub, seg);
		trk_pub_backoff(pub, "no progress", now);
		return true;
	}
	if (seg->sent_bytes == 0 && trk_seg_pending(seg) == 0)
		return false;
	if (now < seg_settled(seg))
		return false;
	if (seg->req->pull == NULL || (seg->req->send_paused && (trk_seg_pending(seg) > 0 || seg->ended)))
		trk_req_send(seg->req, seg_pull, seg);
	return false;
}

/* The first segment that has bytes and no POST, if it is its turn. */
static struct trk_seg *
seg_due(const struct trk_pub *pub)
{
	unsigned posts = 0;

	for (struct trk_seg *seg = pub->first; seg != NULL; seg = seg->next) {
		if (seg->req == NULL)
			return trk_seg_pending(seg) > 0 && posts < TRK_PUB_POSTS_MAX ? seg : NULL;
		if (!seg->req->send_ended)
			return NULL;
		posts++;
	}
	return NULL;
}

/* true: a segment got its POST. */
static bool
seg_attach(struct trk_pub *pub, int64_t now)
{
	struct trk_seg *seg = seg_due(pub);

	if (seg == NULL)
		return false;
	if (!seg->numbered && pub->parked != NULL) {
		seg->req = pub->parked;
		pub->parked = NULL;
	} else if (now >= pub->retry_ns) {
		seg->req = post_start(pub, seg->numbered ? seg->seq : pub->next_seq);
	}
	if (seg->req == NULL) {
		if (now >= pub->retry_ns)
			trk_pub_backoff(pub, "out of memory", now);
		return false;
	}
	if (!seg->numbered)
		seg->seq = pub->next_seq++;
	seg->numbered = true;
	return true;
}

static bool
all_attached(const struct trk_pub *pub)
{
	for (const struct trk_seg *seg = pub->first; seg != NULL; seg = seg->next)
		if (seg->req == NULL && trk_seg_pending(seg) > 0)
			return false;
	return true;
}

static void
parked_start(struct trk_pub *pub, int64_t now)
{
	if (!pub->preconnect || pub->parked != NULL || pub->delete_wanted || now < pub->retry_ns || !all_attached(pub))
		return;
	pub->parked = post_start(pub, pub->next_seq);
	if (pub->parked == NULL)
		trk_pub_backoff(pub, "out of memory", now);
}

/* When the parked POST may be called accepted. */
static int64_t
parked_settled(const struct trk_pub *pub)
{
	if (pub->parked == NULL || !pub->parked->connected)
		return TRK_NEVER_NS;
	return trk_state_waiting_ns(&pub->state, pub->parked->started_ns);
}

static void
tell_state(struct trk_pub *pub, int64_t now)
{
	if (now < pub->retry_ns)
		return; /* "retrying" was said when it began */
	if (pub->first != NULL && pub->first->sent_bytes > 0)
		trk_pub_state(pub, "sending", "");
	else if (pub->first == NULL && (!pub->preconnect || now >= parked_settled(pub)))
		trk_pub_state(pub, "waiting", "");
	else if (pub->state.name == NULL)
		trk_pub_state(pub, "connecting", "");
}

static int64_t
post_wake(const struct trk_pub *pub, int64_t now)
{
	int64_t wake = TRK_NEVER_NS, due;

	for (const struct trk_seg *seg = pub->first; seg != NULL; seg = seg->next) {
		due = seg_deadline(seg);
		wake = due < wake ? due : wake;
		due = seg->req != NULL ? seg_settled(seg) : 0;
		wake = due > now && due < wake ? due : wake;
	}
	if (pub->parked != NULL && pub->parked->started_ns + pub->park_ns < wake)
		wake = pub->parked->started_ns + pub->park_ns;
	if (pub->retry_ns > now && pub->retry_ns < wake)
		wake = pub->retry_ns;
	due = parked_settled(pub);
	if (due > now && due < wake)
		wake = due;
	return wake;
}

int64_t
trk_pub_post_pump(struct trk_pub *pub, int64_t now)
{
	struct trk_seg *seg;

	parked_pump(pub, now);
again:
	if (pub->ended || pub->member.closed)
		return TRK_NEVER_NS;
	for (seg = pub->first; seg != NULL; seg = seg->next)
		if (seg_pump(pub, seg, now))
			goto again;
	if (seg_attach(pub, now))
		goto again;
	if (pub->member.closed)
		return TRK_NEVER_NS;
	parked_start(pub, now);
	tell_state(pub, now);
	return post_wake(pub, now);
}

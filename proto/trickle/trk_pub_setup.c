/* SPDX-License-Identifier: MIT */
/*
 * The errands of a publisher
 *
 * Before the first segment: creating the channel, and finding the number to go on with after a restart. A publisher
 * that starts at 0 where another has been before rewinds the channel for every reader, so the number is asked for:
 *     GET <url>/next     the newer server says it
 *     GET <url>/<far>    any server refuses it with a 470 that names the newest
 *     0                  there is no channel: the first POST makes it, or fails
 * After a segment broke: DELETE of its seq, so that readers who wait for its end are let go. It is repeated until some
 * answer comes, but not for ever, because the readers' own timers help them in the end.
 * At the end, when asked to: DELETE of the channel, after everything before it was answered.
 */
#include "proto/trickle/trk_pub_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TRK_SEQ_FAR	   INT64_C(1000000000000)
#define TRK_ERRAND_NS	   (5 * CLOCK_SEC_NS) /* from the request to its answer; the connection has its own limit */
#define TRK_DELETE_TRIES   6

static struct trk_req *
errand_start(struct trk_pub *pub, enum trk_method method, char *url_consume)
{
	struct trk_req_config config = { .method = method, .url = url_consume };
	struct trk_req *req = NULL;

	if (method == TRK_POST_EMPTY)
		config.mime = config.expect = pub->mime;
	(void)trk_req_start(pub->member.loop, &config, &req);
	free(url_consume);
	return req;
}

/* An answer is whole when its body is, too. */
static bool
errand_answered(const struct trk_req *req)
{
	return req->done && req->code == CURLE_OK && req->reply.complete;
}

static bool
errand_late(const struct trk_req *req, int64_t now)
{
	return req->connected && now - req->moved_ns >= TRK_ERRAND_NS;
}

/* ---- before the first segment ----------------------------------------- */

static struct trk_req *
phase_start(struct trk_pub *pub)
{
	switch (pub->phase) {
	case TRK_PUB_CREATE:
		return errand_start(pub, TRK_POST_EMPTY, trk_url_make(&pub->url, NULL));
	case TRK_PUB_NEXT:
		return errand_start(pub, TRK_GET, trk_url_make(&pub->url, "next"));
	case TRK_PUB_PROBE:
		return errand_start(pub, TRK_GET, trk_url_make_seq(&pub->url, TRK_SEQ_FAR));
	case TRK_PUB_RUN:
		break;
	}
	MR_UNREACHABLE("no errand while running");
}

static int64_t
next_of(const struct trk_req *req)
{
	size_t count = trk_buf_count(&req->body);
	int64_t seq = count > 0 ? trk_seq_parse((const char *)trk_buf_front(&req->body), count) : TRK_SEQ_NONE;

	return seq != TRK_SEQ_NONE ? seq : req->reply.latest;
}

/* Returns false when the answer is of no use and the same has to be asked again. */
static bool
phase_answered(struct trk_pub *pub, const struct trk_req *req)
{
	const struct trk_reply *reply = &req->reply;
	int64_t seq;

	switch (pub->phase) {
	case TRK_PUB_CREATE:
		/* a server that refuses to make channels may have been given this one by somebody else */
		if (reply->status >= 500)
			return false;
		pub->seen = pub->seen || reply->status == 200;
		pub->phase = pub->resume ? TRK_PUB_NEXT : TRK_PUB_RUN;
		return true;
	case TRK_PUB_NEXT:
		seq = next_of(req);
		if (reply->status == 200 && seq != TRK_SEQ_NONE) {
			pub->seen = true;
			pub->next_seq = pub->first_seq = seq;
			pub->phase = TRK_PUB_RUN;
			return true;
		}
		if (reply->status >= 500)
			return false;
		pub->phase = TRK_PUB_PROBE;
		return true;
	case TRK_PUB_PROBE:
		if (reply->status >= 500)
			return false;
		if (reply->status == 470 && reply->latest != TRK_SEQ_NONE) {
			pub->seen = true;
			pub->next_seq = pub->first_seq = reply->latest;
		}
		pub->phase = TRK_PUB_RUN;
		return true;
	case TRK_PUB_RUN:
		break;
	}
	MR_UNREACHABLE("no errand while running");
}

int64_t
trk_pub_setup_pump(struct trk_pub *pub, int64_t now)
{
	struct trk_req *req = pub->errand;
	char why[96];

	if (req == NULL) {
		if (now < pub->retry_ns)
			return pub->retry_ns;
		pub->errand = phase_start(pub);
		if (pub->errand == NULL)
			trk_pub_backoff(pub, "out of memory", now);
		else if (pub->state.name == NULL)
			trk_pub_state(pub, "connecting", "");
		return pub->errand == NULL ? pub->retry_ns : now + TRK_ERRAND_NS;
	}
	if (!req->done && !errand_late(req, now))
		return req->moved_ns + TRK_ERRAND_NS > now ? req->moved_ns + TRK_ERRAND_NS : now + TRK_ERRAND_NS;
	if (errand_answered(req) && req->reply.closed) {
		trk_pub_end(pub, TRK_END_CLOSED);
		return TRK_NEVER_NS;
	}
	snprintf(why, sizeof(why), "%s", req->done ? trk_req_why(req) : "no answer");
	pub->member.loop->kick = true;
	if (errand_answered(req) && phase_answered(pub, req)) {
		trk_req_abort(&pub->errand);
		trk_backoff_reset(&pub->backoff);
		return now;
	}
	trk_req_abort(&pub->errand);
	trk_pub_backoff(pub, why, now);
	return pub->retry_ns;
}

/* ---- DELETE ----------------------------------------------------------- */

void
trk_pub_broken_add(struct trk_pub *pub, int64_t seq)
{
	MR_ASSERT(seq >= 0); /* a negative number wedges a server */
	if (pub->broken_count == TRK_PUB_BROKEN_MAX) {
		trk_req_abort(&pub->broken_req);
		pub->broken_tries = 0;
		pub->broken_count--;
		memmove(pub->broken, pub->broken + 1, pub->broken_count * sizeof(pub->broken[0]));
	}
	pub->broken[pub->broken_count++] = seq;
	pub->member.loop->kick = true;
}

/* What is to be deleted now: a broken seq, or the channel. NULL: nothing. */
static char *
delete_url(const struct trk_pub *pub)
{
	if (pub->broken_count > 0)
		return trk_url_make_seq(&pub->url, pub->broken[0]);
	return trk_url_make(&pub->url, NULL);
}

static bool
delete_due(const struct trk_pub *pub)
{
	if (pub->broken_count > 0)
		return true;
	return pub->delete_wanted && !pub->delete_done && pub->first == NULL;
}

static void
delete_finished(struct trk_pub *pub)
{
	pub->broken_tries = 0;
	trk_backoff_reset(&pub->broken_backoff);
	if (pub->broken_count == 0) {
		pub->delete_done = true;
		return;
	}
	pub->broken_count--;
	memmove(pub->broken, pub->broken + 1, pub->broken_count * sizeof(pub->broken[0]));
}

int64_t
trk_pub_delete_pump(struct trk_pub *pub, int64_t now)
{
	struct trk_req *req = pub->broken_req;

	if (req != NULL) {
		bool answered = trk_req_answered(req) && req->reply.complete && req->reply.status < 500;

		if (!trk_req_answered(req) && !errand_late(req, now))
			return (req->connected ? req->moved_ns : now) + TRK_ERRAND_NS;
		trk_req_abort(&pub->broken_req);
		if (answered || ++pub->broken_tries >= TRK_DELETE_TRIES)
			delete_finished(pub);
		else
			pub->broken_retry_ns = now +
			    trk_backoff_next_ns(&pub->broken_backoff, &pub->member.loop->rng);
	}
	if (!delete_due(pub))
		return TRK_NEVER_NS;
	if (now < pub->broken_retry_ns)
		return pub->broken_retry_ns;
	if (pub->broken_count == 0)
		trk_req_abort(&pub->parked); /* it would only be told that the channel is closed */
	pub->broken_req = errand_start(pub, TRK_DELETE, delete_url(pub));
	if (pub->broken_req == NULL)
		pub->broken_retry_ns = now + TRK_BACKOFF_MAX_NS;
	return now + TRK_ERRAND_NS;
}

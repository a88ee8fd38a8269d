/* SPDX-License-Identifier: MIT */
/*
 * A subscription
 *
 * Two requests at most: `cur`, whose body is being delivered or which is parked at the server, and `ahead`, the GET of
 * the following segment, made as soon as the first byte of this one is there. Its reply may come before the end of
 * this one; it waits in its byte queue, whose limit is the back-pressure. When `cur` ends, `ahead` takes its place.
 *
 * A segment is "open" from its first delivered byte to segment_end. While one is open, open_bytes says how far its
 * reader has got; whatever breaks, the next request for the same seq skips that many bytes. Three things give an open
 * segment up: the server no longer has it (470), it ended at a different length than before, or it stands still while
 * the following one flows (its publisher died, and a new one went on without it).
 *
 * Silence is judged by progress, that is by new bytes; a parked request is not silence but is made anew every park_ns,
 * because some servers cut it later without saying so.
 */
#include "proto/trickle/trk_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TRK_SUB_MAGIC	       0x74726b73u
#define TRK_SUB_BUFFER	       (256u << 10)
#define TRK_SUB_ABSENT_STEP_NS (250 * CLOCK_MS_NS)  /* at most, between two looks at a channel that is not there yet */
#define TRK_SUB_OVERTAKEN_NS   (2 * CLOCK_SEC_NS)   /* of standing still while the next segment flows */
#define TRK_SUB_FRUITLESS_MAX  3		    /* replies without a byte before each more is paused for */
#define TRK_SUB_STALL_STEPS    8		    /* the wait for a stalled segment grows to so many times stall_ns */

struct trk_sub {
	struct trk_member member;
	/* immutable */
	struct trk_url url;
	const struct trk_sub_callbacks *callbacks;
	void *arg;
	int64_t park_ns, absent_grace_ns, stall_ns;
	/* what is asked for */
	struct trk_req *cur, *ahead;
	int64_t want;	   /* what cur asks for, or is to ask for; may be -1 or -2 */
	int64_t reading;   /* the seq of cur's body; TRK_SEQ_NONE: no reply yet */
	int64_t ahead_seq;
	int64_t retry_ns, ahead_retry_ns; /* not before */
	struct trk_backoff backoff;
	unsigned fruitless;
	/* what is delivered */
	bool open;
	int64_t open_seq;
	uint64_t open_bytes, skip_bytes;
	int64_t progress_ns, stall_now_ns;
	bool gap, paused, seen, ended;
	int64_t opened_ns;
	struct trk_state state;
	struct trk_sub_stats stats;
};

static void
sub_state(struct trk_sub *sub, const char *name, const char *detail)
{
	if (!trk_state_set(&sub->state, name, detail) || sub->callbacks->state == NULL || sub->member.closed)
		return;
	sub->member.loop->called++;
	sub->callbacks->state(sub->arg, sub->state.name, sub->state.detail);
}

/* ---- what the user sees ----------------------------------------------- */

static void
sub_segment_end(struct trk_sub *sub, bool complete)
{
	if (!sub->open)
		return;
	sub->open = false;
	sub->skip_bytes = 0;
	sub->gap = sub->gap || !complete;
	sub->stats.segments += complete;
	if (sub->member.closed)
		return;
	sub->member.loop->called++;
	sub->callbacks->segment_end(sub->arg, sub->open_seq, complete);
}

static void
sub_end(struct trk_sub *sub, enum trk_end why)
{
	sub_segment_end(sub, false);
	sub->ended = true;
	trk_req_abort(&sub->cur);
	trk_req_abort(&sub->ahead);
	if (sub->member.closed)
		return;
	sub->member.loop->called++;
	sub->callbacks->ended(sub->arg, why);
}

/* true: bytes were taken off the body of cur. */
static bool
sub_deliver(struct trk_sub *sub, int64_t now)
{
	size_t count = trk_buf_count(&sub->cur->body);

	if (count == 0 || sub->paused)
		return false;
	if (sub->skip_bytes > 0) {
		count = count < sub->skip_bytes ? count : (size_t)sub->skip_bytes;
		sub->skip_bytes -= count;
		trk_req_body_drop(sub->cur, count);
		return true;
	}
	sub->progress_ns = now;
	sub->stall_now_ns = sub->stall_ns;
	sub->fruitless = 0;
	trk_backoff_reset(&sub->backoff);
	sub_state(sub, "receiving", "");
	if (!sub->open && !sub->member.closed) {
		bool gap = sub->gap;

		sub->open = true;
		sub->open_seq = sub->reading;
		sub->open_bytes = 0;
		sub->gap = false;
		sub->member.loop->called++;
		sub->callbacks->segment_begin(sub->arg, sub->open_seq, gap);
	}
	if (sub->member.closed)
		return false;
	sub->open_bytes += count;
	sub->stats.bytes += count;
	sub->member.loop->called++;
	sub->callbacks->data(sub->arg, trk_buf_front(&sub->cur->body), count);
	if (sub->member.closed)
		return false;
	trk_req_body_drop(sub->cur, count);
	return true;
}

/* ---- what is asked for ------------------------------------------------ */

static struct trk_req *
sub_get(struct trk_sub *sub, int64_t seq)
{
	char *url = trk_url_make_seq(&sub->url, seq);
	struct trk_req_config config = { .method = TRK_GET, .url = url, .body_bytes_max = TRK_SUB_BUFFER };
	struct trk_req *req = NULL;

	(void)trk_req_start(sub->member.loop, &config, &req); /* NULL is tried again like any other failure */
	free(url);
	return req;
}

static void
sub_retry_after(struct trk_sub *sub, int64_t now, int64_t wait_ns)
{
	trk_req_abort(&sub->cur);
	sub->retry_ns = now + wait_ns;
}

static int64_t
sub_short_pause(struct trk_sub *sub)
{
	return trk_random_ns(&sub->member.loop->rng, 100 * CLOCK_MS_NS, 300 * CLOCK_MS_NS);
}

/* The request failed, or its reply was of no use: the same again, later. */
static void
sub_fail(struct trk_sub *sub, int64_t now)
{
	const char *why = sub->cur ? trk_req_why(sub->cur) : "out of memory";

	sub->stats.retries++;
	sub_state(sub, "retrying", why);
	if (sub->open)
		sub->want = sub->open_seq;
	sub_retry_after(sub, now, trk_backoff_next_ns(&sub->backoff, &sub->member.loop->rng));
}

/* The next request is `ahead` if that asks for `seq`, else a new one. */
static void
sub_go(struct trk_sub *sub, int64_t seq, bool wait, int64_t now)
{
	trk_req_abort(&sub->cur);
	sub->want = seq;
	sub->reading = TRK_SEQ_NONE;
	sub->retry_ns = now;
	if (sub->ahead != NULL && sub->ahead_seq == seq) {
		sub->cur = sub->ahead;
		sub->ahead = NULL;
		return;
	}
	trk_req_abort(&sub->ahead);
	sub->fruitless++;
	if (wait || sub->fruitless > TRK_SUB_FRUITLESS_MAX)
		sub->retry_ns = now + sub_short_pause(sub);
}

static void
sub_absent(struct trk_sub *sub, int64_t now)
{
	int64_t wait = trk_backoff_next_ns(&sub->backoff, &sub->member.loop->rng);

	if (sub->seen) {
		sub_end(sub, TRK_END_GONE);
	} else if (now - sub->opened_ns > sub->absent_grace_ns) {
		sub_end(sub, TRK_END_ABSENT);
	} else {
		sub_state(sub, "waiting", "no such channel yet");
		sub_retry_after(sub, now, wait < TRK_SUB_ABSENT_STEP_NS ? wait : TRK_SUB_ABSENT_STEP_NS);
	}
}

static void
sub_goto(struct trk_sub *sub, const struct trk_get_step *step, int64_t now)
{
	bool missed = step->gap && step->seq > sub->want && sub->want >= 0;

	sub_segment_end(sub, false);
	sub->gap = sub->gap || step->gap;
	if (missed)
		sub->stats.skipped_segments += (uint64_t)(step->seq - sub->want);
	sub_go(sub, step->seq, step->wait, now);
}

/* The headers of cur are there. */
static void
sub_judge(struct trk_sub *sub, int64_t now)
{
	struct trk_get_step step = trk_reply_get(&sub->cur->reply, sub->want);

	switch (step.act) {
	case TRK_GET_READ:
		sub->seen = true;
		sub->reading = step.seq;
		if (sub->open && step.seq != sub->open_seq)
			sub_segment_end(sub, false);
		sub->skip_bytes = sub->open ? sub->open_bytes : 0;
		sub->gap = sub->gap || step.gap;
		break;
	case TRK_GET_GOTO:
		sub->seen = true;
		sub_goto(sub, &step, now);
		break;
	case TRK_GET_RETRY:
		sub_fail(sub, now);
		break;
	case TRK_GET_ABSENT:
		sub_absent(sub, now);
		break;
	case TRK_GET_CLOSED:
		sub_end(sub, TRK_END_CLOSED);
		break;
	}
}

/* The body of cur is over, and all of it was delivered. */
static void
sub_finish(struct trk_sub *sub, int64_t now)
{
	if (sub->cur->body_bytes == 0 && !sub->open) {
		struct trk_get_step step = trk_reply_get_empty(&sub->cur->reply, sub->reading);

		sub_goto(sub, &step, now);
		return;
	}
	sub_segment_end(sub, sub->skip_bytes == 0);
	if (!sub->member.closed)
		sub_go(sub, sub->reading + 1, false, now);
}

/* ---- the request ahead ------------------------------------------------ */

static bool
ahead_flows(const struct trk_sub *sub)
{
	return sub->ahead != NULL && trk_buf_count(&sub->ahead->body) > 0 &&
	    trk_reply_get(&sub->ahead->reply, sub->ahead_seq).act == TRK_GET_READ;
}

/* Only data and the end of the channel are kept for later; all else is asked for again. */
static bool
ahead_useful(const struct trk_sub *sub)
{
	enum trk_get_act act;

	if (!sub->ahead->reply.complete)
		return !sub->ahead->done;
	act = trk_reply_get(&sub->ahead->reply, sub->ahead_seq).act;
	return act == TRK_GET_CLOSED || act == TRK_GET_READ;
}

static void
sub_look_ahead(struct trk_sub *sub, int64_t now)
{
	if (sub->ahead != NULL && !ahead_useful(sub)) {
		trk_req_abort(&sub->ahead);
		sub->ahead_retry_ns = now + sub_short_pause(sub);
	}
	if (sub->ahead != NULL && !sub->ahead->reply.complete && now - sub->ahead->started_ns >= sub->park_ns)
		trk_req_abort(&sub->ahead);
	if (sub->ahead == NULL && sub->open && now >= sub->ahead_retry_ns) {
		sub->ahead_seq = sub->open_seq + 1;
		sub->ahead = sub_get(sub, sub->ahead_seq);
		sub->ahead_retry_ns = now + 100 * CLOCK_MS_NS;
	}
}

/* ---- the machine ------------------------------------------------------ */

static int64_t
stall_deadline(const struct trk_sub *sub)
{
	int64_t since = sub->progress_ns;

	if (sub->cur != NULL && sub->cur->started_ns > since)
		since = sub->cur->started_ns;
	return since + sub->stall_now_ns;
}

static int64_t
overtaken_deadline(const struct trk_sub *sub)
{
	return sub->progress_ns + (sub->stall_ns < TRK_SUB_OVERTAKEN_NS ? sub->stall_ns : TRK_SUB_OVERTAKEN_NS);
}

static void
sub_stalled(struct trk_sub *sub, int64_t now)
{
	sub->stats.retries++;
	if (sub->open)
		sub->want = sub->open_seq;
	sub->stall_now_ns *= 2;
	if (sub->stall_now_ns > sub->stall_ns * TRK_SUB_STALL_STEPS)
		sub->stall_now_ns = sub->stall_ns * TRK_SUB_STALL_STEPS;
	sub_state(sub, "retrying", "no bytes in mid-segment");
	sub_retry_after(sub, now, 0);
}

static void
sub_overtaken(struct trk_sub *sub, int64_t now)
{
	int64_t next = sub->ahead_seq;

	sub->stats.skipped_segments++;
	sub_segment_end(sub, false);
	if (!sub->member.closed)
		sub_go(sub, next, false, now);
}

static void
sub_start(struct trk_sub *sub, int64_t now)
{
	sub->reading = TRK_SEQ_NONE;
	sub->cur = sub_get(sub, sub->want);
	if (sub->cur == NULL)
		sub_fail(sub, now);
	else if (sub->state.name == NULL)
		sub_state(sub, "connecting", "");
}

/* One step of the machine; true: it may be worth another. */
static bool
sub_step(struct trk_sub *sub, int64_t now)
{
	struct trk_req *cur = sub->cur;

	if (sub->open && !sub->paused && now >= overtaken_deadline(sub) && ahead_flows(sub) &&
	    (cur == NULL || trk_buf_count(&cur->body) == 0)) {
		sub_overtaken(sub, now);
		return true;
	}
	if (cur == NULL) {
		if (now >= sub->retry_ns)
			sub_start(sub, now);
		return false;
	}
	if (sub->reading == TRK_SEQ_NONE) {
		if (cur->reply.complete || cur->done) {
			if (cur->reply.complete)
				sub_judge(sub, now);
			else
				sub_fail(sub, now);
			return true;
		}
		if (now - cur->started_ns >= sub->park_ns) {
			trk_backoff_reset(&sub->backoff); /* it was accepted and kept: that server is well */
			sub_retry_after(sub, now, 0);
			return true;
		}
		if (cur->connected && !sub->open && now >= trk_state_waiting_ns(&sub->state, cur->started_ns))
			sub_state(sub, "waiting", "");
		return false;
	}
	if (sub_deliver(sub, now))
		return true;
	if (trk_buf_count(&cur->body) > 0) /* paused, or closed by its callback */
		return false;
	if (cur->done) {
		if (cur->code == CURLE_OK)
			sub_finish(sub, now);
		else
			sub_fail(sub, now);
		return true;
	}
	if (!sub->paused && now >= stall_deadline(sub)) {
		sub_stalled(sub, now);
		return true;
	}
	return false;
}

static int64_t
earlier(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* When trouble may be called over, if that is not yet so. */
static int64_t
waiting_due(const struct trk_sub *sub)
{
	return sub->cur->connected ? trk_state_waiting_ns(&sub->state, sub->cur->started_ns) : TRK_NEVER_NS;
}

static int64_t
sub_wake(const struct trk_sub *sub)
{
	int64_t wake = TRK_NEVER_NS;

	if (sub->cur == NULL)
		wake = sub->retry_ns;
	else if (sub->reading == TRK_SEQ_NONE && sub->state.detail[0] != '\0' && !sub->open)
		wake = earlier(sub->cur->started_ns + sub->park_ns, waiting_due(sub));
	else if (sub->reading == TRK_SEQ_NONE)
		wake = sub->cur->started_ns + sub->park_ns;
	else if (!sub->paused)
		wake = stall_deadline(sub);
	if (sub->open && !sub->paused && ahead_flows(sub))
		wake = earlier(wake, overtaken_deadline(sub));
	if (sub->ahead != NULL && !sub->ahead->reply.complete)
		wake = earlier(wake, sub->ahead->started_ns + sub->park_ns);
	if (sub->ahead == NULL && sub->open)
		wake = earlier(wake, sub->ahead_retry_ns);
	return wake;
}

static int64_t
sub_pump(struct trk_member *member, int64_t now)
{
	struct trk_sub *sub = MR_CAST(struct trk_sub, member, TRK_SUB_MAGIC);

	while (!sub->ended && !member->closed && sub_step(sub, now))
		;
	if (sub->ended || member->closed)
		return TRK_NEVER_NS;
	sub_look_ahead(sub, now);
	return sub_wake(sub);
}

/* ---- interface -------------------------------------------------------- */

static void
sub_free(struct trk_member *member)
{
	struct trk_sub *sub = MR_CAST(struct trk_sub, member, TRK_SUB_MAGIC);

	trk_req_abort(&sub->cur);
	trk_req_abort(&sub->ahead);
	trk_url_fini(&sub->url);
	sub->member.magic = 0;
	free(sub);
}

int
trk_sub_open(struct trk_loop *loop, const struct trk_sub_config *config, struct trk_sub **out)
{
	struct trk_sub *sub = calloc(1, sizeof(*sub));
	int r;

	if (sub == NULL)
		return err_origin(-ENOMEM);
	r = trk_url_init(&sub->url, config->url);
	if (r != 0) {
		free(sub);
		return err_trace(r);
	}
	MR_ASSERT(config->start_seq >= -2);
	MR_ASSERT(config->callbacks != NULL);
	sub->member = (struct trk_member){ .magic = TRK_SUB_MAGIC, .pump = sub_pump, .free = sub_free };
	sub->callbacks = config->callbacks;
	sub->arg = config->arg;
	sub->park_ns = config->park_ns ? config->park_ns : TRK_PARK_DEFAULT_NS;
	sub->stall_ns = sub->stall_now_ns = config->stall_ns ? config->stall_ns : TRK_STALL_DEFAULT_NS;
	sub->absent_grace_ns = config->absent_grace_ns;
	sub->want = config->start_seq;
	sub->reading = TRK_SEQ_NONE;
	sub->opened_ns = clock_now_ns();
	trk_loop_add(loop, &sub->member);
	loop->kick = true;
	*out = sub;
	return 0;
}

void
trk_sub_close(struct trk_sub **subp)
{
	struct trk_sub *sub = *subp;

	if (sub == NULL)
		return;
	*subp = NULL;
	MR_ASSERT(sub->member.magic == TRK_SUB_MAGIC);
	trk_loop_close_member(&sub->member);
}

void
trk_sub_pause(struct trk_sub *sub, bool paused)
{
	if (sub->paused && !paused)
		sub->progress_ns = clock_now_ns(); /* the silence until now was ours */
	sub->paused = paused;
	sub->member.loop->kick = true;
}

void
trk_sub_get_stats(const struct trk_sub *sub, struct trk_sub_stats *out)
{
	*out = sub->stats;
	if (sub->open)
		out->seq = sub->open_seq;
	else if (sub->reading != TRK_SEQ_NONE)
		out->seq = sub->reading;
	else
		out->seq = sub->want >= 0 ? sub->want : TRK_SEQ_NONE;
}

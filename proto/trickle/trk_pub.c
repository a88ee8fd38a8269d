/* SPDX-License-Identifier: MIT */
/*
 * A publisher: its interface and its queue
 *
 * A segment exists from segment_begin on and queues its bytes until a POST can carry them, however long that takes. It
 * gets its number only with that POST, so that a segment which is dropped before uses none up and one which finds its
 * number closed by somebody else takes the next.
 *
 * When the queue is full, the oldest segments that nobody has begun to send go first: what a live stream has missed is
 * of no use to it later. If that is not enough the open segment goes. Bytes of a segment that is being sent stay.
 *
 * A message (events, control, data) keeps its bytes until it is answered and is sent again, under another number,
 * when its POST breaks.
 */
#include "proto/trickle/trk_pub_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TRK_PUB_QUEUE_DEFAULT (8u << 20)

void
trk_pub_state(struct trk_pub *pub, const char *name, const char *detail)
{
	if (!trk_state_set(&pub->state, name, detail) || pub->callbacks->state == NULL || pub->member.closed)
		return;
	pub->member.loop->called++;
	pub->callbacks->state(pub->arg, pub->state.name, pub->state.detail);
}

/* ---- the queue -------------------------------------------------------- */

size_t
trk_seg_pending(const struct trk_seg *seg)
{
	return trk_buf_count(&seg->bytes) - seg->read_bytes;
}

static struct trk_seg *
seg_new(struct trk_pub *pub, bool message)
{
	struct trk_seg *seg = calloc(1, sizeof(*seg));

	if (seg == NULL)
		return NULL;
	pub->begun = true;
	seg->magic = TRK_SEG_MAGIC;
	seg->pub = pub;
	seg->message = message;
	if (pub->last != NULL)
		pub->last->next = seg;
	else
		pub->first = seg;
	pub->last = seg;
	return seg;
}

/* Takes it off the queue and frees it, with its POST. */
static void
seg_free(struct trk_pub *pub, struct trk_seg *seg)
{
	struct trk_seg *before = NULL, *at;

	for (at = pub->first; at != seg; before = at, at = at->next)
		MR_ASSERT(at != NULL);
	if (before != NULL)
		before->next = seg->next;
	else
		pub->first = seg->next;
	if (pub->last == seg)
		pub->last = before;
	if (pub->open == seg)
		pub->open = NULL;
	trk_req_abort(&seg->req);
	pub->queued_bytes -= trk_seg_pending(seg);
	trk_buf_fini(&seg->bytes);
	seg->magic = 0;
	free(seg);
}

void
trk_pub_seg_finish(struct trk_pub *pub, struct trk_seg *seg, bool ok)
{
	int64_t seq = seg->numbered ? seg->seq : TRK_SEQ_NONE;

	if (pub->open == seg)
		pub->open_dropped = true;
	pub->stats.segments += ok;
	pub->stats.segments_dropped += !ok;
	seg_free(pub, seg);
	if (pub->callbacks->segment_done == NULL || pub->member.closed)
		return;
	pub->member.loop->called++;
	pub->callbacks->segment_done(pub->arg, seq, ok);
}

/*
 * Drops a segment of which nothing was sent. Its number, if it had one, goes to the next segment: readers wait for
 * each number in turn, and a hole costs them seconds.
 */
static void
seg_drop_unsent(struct trk_pub *pub, struct trk_seg *seg)
{
	MR_ASSERT(seg->sent_bytes == 0);
	if (seg->numbered && seg->next != NULL && !seg->next->numbered) {
		seg->next->numbered = true;
		seg->next->seq = seg->seq;
	} else if (seg->numbered && seg->seq == pub->next_seq - 1) {
		trk_req_abort(&pub->parked);
		pub->next_seq--;
	}
	pub->stats.segments_dropped++;
	seg_free(pub, seg);
}

/* Makes room for `count` bytes of `wanted` by dropping what was never begun, oldest first. */
static bool
queue_make_room(struct trk_pub *pub, size_t count, const struct trk_seg *wanted)
{
	struct trk_seg *seg = pub->first, *next;

	for (; pub->queued_bytes + count > pub->queue_bytes_max && seg != NULL && seg != wanted; seg = next) {
		next = seg->next;
		if (seg->sent_bytes > 0 || seg->req != NULL || !seg->ended)
			continue;
		seg_drop_unsent(pub, seg);
	}
	return pub->queued_bytes + count <= pub->queue_bytes_max;
}

static int
seg_put(struct trk_pub *pub, struct trk_seg *seg, const void *bytes, size_t count)
{
	if (!queue_make_room(pub, count, seg) || trk_buf_put(&seg->bytes, bytes, count) != 0)
		return TRK_PUB_DROPPED;
	pub->queued_bytes += count;
	pub->member.loop->kick = true;
	return 0;
}

/* ---- ends ------------------------------------------------------------- */

static void
pub_drop_all(struct trk_pub *pub)
{
	while (pub->first != NULL)
		seg_free(pub, pub->first);
	trk_req_abort(&pub->errand);
	trk_req_abort(&pub->parked);
	trk_req_abort(&pub->broken_req);
	pub->broken_count = 0;
}

void
trk_pub_end(struct trk_pub *pub, enum trk_end why)
{
	pub->ended = true;
	pub->open_dropped = true;
	pub_drop_all(pub);
	if (pub->callbacks->ended == NULL || pub->member.closed)
		return;
	pub->member.loop->called++;
	pub->callbacks->ended(pub->arg, why);
}

void
trk_pub_backoff(struct trk_pub *pub, const char *why, int64_t now)
{
	pub->stats.retries++;
	trk_pub_state(pub, "retrying", why);
	pub->retry_ns = now + trk_backoff_next_ns(&pub->backoff, &pub->member.loop->rng);
}

void
trk_pub_absent(struct trk_pub *pub, int64_t now)
{
	if (pub->seen)
		trk_pub_end(pub, TRK_END_GONE);
	else if (now - pub->opened_ns > pub->absent_grace_ns)
		trk_pub_end(pub, TRK_END_ABSENT);
	else
		trk_pub_backoff(pub, "no such channel yet", now);
}

static int64_t
pub_pump(struct trk_member *member, int64_t now)
{
	struct trk_pub *pub = MR_CAST(struct trk_pub, member, TRK_PUB_MAGIC);
	int64_t wake = TRK_NEVER_NS, due;

	if (pub->ended || member->closed)
		return TRK_NEVER_NS;
	if (pub->phase != TRK_PUB_RUN)
		wake = trk_pub_setup_pump(pub, now);
	if (pub->phase == TRK_PUB_RUN && !pub->ended && !member->closed)
		wake = trk_pub_post_pump(pub, now);
	if (pub->ended || member->closed)
		return TRK_NEVER_NS;
	due = trk_pub_delete_pump(pub, now);
	return due < wake ? due : wake;
}

static void
pub_free(struct trk_member *member)
{
	struct trk_pub *pub = MR_CAST(struct trk_pub, member, TRK_PUB_MAGIC);

	pub_drop_all(pub);
	trk_url_fini(&pub->url);
	free(pub->mime);
	pub->member.magic = 0;
	free(pub);
}

/* ---- interface -------------------------------------------------------- */

int
trk_pub_open(struct trk_loop *loop, const struct trk_pub_config *config, struct trk_pub **out)
{
	struct trk_pub *pub = calloc(1, sizeof(*pub));
	int r;

	if (pub == NULL)
		return err_origin(-ENOMEM);
	r = trk_url_init(&pub->url, config->url);
	if (r != 0)
		goto free_pub;
	pub->mime = strdup(config->mime ? config->mime : "video/MP2T");
	if (pub->mime == NULL) {
		r = err_origin(-ENOMEM);
		goto free_url;
	}
	MR_ASSERT(config->callbacks != NULL);
	pub->member = (struct trk_member){ .magic = TRK_PUB_MAGIC, .pump = pub_pump, .free = pub_free };
	pub->preconnect = config->preconnect;
	pub->resume = config->resume;
	pub->phase = config->create ? TRK_PUB_CREATE : config->resume ? TRK_PUB_NEXT : TRK_PUB_RUN;
	pub->queue_bytes_max = config->queue_bytes_max ? config->queue_bytes_max : TRK_PUB_QUEUE_DEFAULT;
	pub->park_ns = config->park_ns ? config->park_ns : TRK_PARK_DEFAULT_NS;
	pub->absent_grace_ns = config->absent_grace_ns;
	pub->callbacks = config->callbacks;
	pub->arg = config->arg;
	pub->opened_ns = clock_now_ns();
	trk_loop_add(loop, &pub->member);
	loop->kick = true;
	*out = pub;
	return 0;
free_url:
	trk_url_fini(&pub->url);
free_pub:
	free(pub);
	return r;
}

void
trk_pub_segment_begin(struct trk_pub *pub)
{
	trk_pub_segment_end(pub);
	pub->open_dropped = true;
	if (pub->ended || pub->delete_wanted)
		return;
	pub->open = seg_new(pub, false);
	pub->open_dropped = pub->open == NULL;
}

int
trk_pub_write(struct trk_pub *pub, const void *bytes, size_t count)
{
	struct trk_seg *seg = pub->open;

	if (pub->open_dropped || seg == NULL)
		return TRK_PUB_DROPPED;
	if (seg_put(pub, seg, bytes, count) == 0)
		return 0;
	pub->open_dropped = true;
	if (seg->sent_bytes == 0) {
		seg_drop_unsent(pub, seg);
		return TRK_PUB_DROPPED;
	}
	pub->stats.segments_dropped++;
	trk_pub_broken_add(pub, seg->seq);
	seg_free(pub, seg);
	return TRK_PUB_DROPPED;
}

void
trk_pub_segment_end(struct trk_pub *pub)
{
	struct trk_seg *seg = pub->open;

	pub->open = NULL;
	pub->open_dropped = false;
	if (seg == NULL)
		return;
	seg->ended = true;
	pub->member.loop->kick = true;
	if (trk_seg_pending(seg) == 0 && seg->sent_bytes == 0)
		seg_free(pub, seg); /* nothing was written: it never was */
}

int
trk_pub_message(struct trk_pub *pub, const void *bytes, size_t count)
{
	struct trk_seg *seg;

	trk_pub_segment_end(pub);
	if (pub->ended || pub->delete_wanted || count == 0)
		return TRK_PUB_DROPPED;
	seg = seg_new(pub, true);
	if (seg == NULL)
		return TRK_PUB_DROPPED;
	seg->ended = true;
	if (seg_put(pub, seg, bytes, count) == 0)
		return 0;
	seg_drop_unsent(pub, seg);
	return TRK_PUB_DROPPED;
}

bool
trk_pub_idle(const struct trk_pub *pub)
{
	if (pub->ended)
		return true;
	for (const struct trk_seg *seg = pub->first; seg != NULL; seg = seg->next)
		if (trk_seg_pending(seg) > 0 || seg->sent_bytes > 0)
			return false;
	return pub->broken_count == 0 && (!pub->delete_wanted || pub->delete_done);
}

void
trk_pub_delete_channel(struct trk_pub *pub)
{
	trk_pub_segment_end(pub);
	pub->delete_wanted = true;
	pub->member.loop->kick = true;
}

void
trk_pub_close(struct trk_pub **pubp)
{
	struct trk_pub *pub = *pubp;

	if (pub == NULL)
		return;
	*pubp = NULL;
	MR_ASSERT(pub->member.magic == TRK_PUB_MAGIC);
	trk_loop_close_member(&pub->member);
}

void
trk_pub_get_stats(const struct trk_pub *pub, struct trk_pub_stats *out)
{
	int64_t waiting = 0;

	for (const struct trk_seg *seg = pub->first; seg != NULL; seg = seg->next)
		waiting += !seg->numbered;
	*out = pub->stats;
	out->queued_bytes = pub->queued_bytes;
	out->seq = pub->begun ? pub->next_seq + waiting - 1 : TRK_SEQ_NONE;
}

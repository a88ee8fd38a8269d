/* SPDX-License-Identifier: MIT */
/*
 * The output clock
 *
 * `entries` is a circle of the newest frames in order of input: decided ones (oldest..head), so that a late, repeated
 * or forged result can be told from a good one, and waiting ones (head..tail).
 *
 * A worker answers its frames in order. So an accepted result settles all frames before it, and the caller decides
 * them and it in one go: no result is ever kept, and one hold on the out ring is enough. The one exception are
 * withheld and pass marks, which carry no picture.
 *
 * The start is special: a stream whose first pictures are raw and change size and look half a second later is worse
 * than one that begins half a second later. Until the first result, or EGR_START_NS, nothing is decided; and when the
 * first result comes in that time, the stream begins with it: input that the worker has skipped before (it is given
 * the newest frames of a backlog) is left out.
 */
#include "egress/egr_clock.h"
#include "base/assert.h"

#include <stddef.h>
#include <string.h>

#include "egress/egr_priv.h"

enum {
	ENTRY_WAITING,
	/* settled, not yet decided */
	ENTRY_RESULT,
	ENTRY_WITHHELD,
	ENTRY_PASS,
	ENTRY_SKIPPED,
	/* decided */
	ENTRY_FILLED,	/* without a result */
	ENTRY_ANSWERED, /* a result came, in time or not */
};

static struct egr_entry *
at(struct egr_clock *c, uint64_t i)
{
	return &c->entries[i % EGR_ENTRIES_MAX];
}

static const struct egr_entry *
head(const struct egr_clock *c)
{
	return &c->entries[c->head % EGR_ENTRIES_MAX];
}

void
egr_clock_init(struct egr_clock *c, const struct egr_clock_config *config)
{
	memset(c, 0, sizeof(*c));
	c->config = *config;
	c->started = config->resumed;
	c->pending_max = EGR_PENDING_MAX;
}

void
egr_clock_set_limit(struct egr_clock *c, unsigned pending_max)
{
	c->pending_max = pending_max < 1 ? 1 : pending_max > EGR_PENDING_MAX ? EGR_PENDING_MAX : pending_max;
}

void
egr_clock_set_worker(struct egr_clock *c, bool there)
{
	c->worker = there;
}

void
egr_clock_set_slate(struct egr_clock *c, bool on)
{
	c->slate_asked = on;
}

bool
egr_clock_input(struct egr_clock *c, uint64_t seq, int64_t pts_ns, int64_t commit_ns, int64_t now_ns, void *input)
{
	struct egr_entry *e;

	if (seq == 0 || seq <= c->newest_seq)
		return false;
	MR_ASSERT(c->tail - c->head < EGR_ENTRIES_MAX);
	if (c->tail - c->oldest == EGR_ENTRIES_MAX)
		c->oldest++;
	e = at(c, c->tail++);
	/* A commit in the future would postpone its deadline. */
	*e = (struct egr_entry){ .seq = seq, .pts_ns = pts_ns, .commit_ns = commit_ns < now_ns ? commit_ns : now_ns,
		.input = input, .state = ENTRY_WAITING };
	if (c->newest_seq == 0)
		c->first_ns = now_ns;
	c->newest_seq = seq;
	return true;
}

/* The remembered entry of that frame; NULL: none. Sequence numbers grow along the circle. */
static struct egr_entry *
find(struct egr_clock *c, uint64_t seq, uint64_t *index)
{
	uint64_t low = c->oldest, high = c->tail;

	while (low < high) {
		uint64_t mid = low + (high - low) / 2;
		struct egr_entry *e = at(c, mid);

		if (e->seq == seq) {
			*index = mid;
			return e;
		}
		if (e->seq < seq)
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

/* A result for a frame that was seen but is not waiting. */
static enum egr_result
result_late(struct egr_clock *c, struct egr_entry *e, enum egr_answer answer, int64_t now_ns)
{
	if (e->state != ENTRY_FILLED && e->state != ENTRY_SKIPPED)
		return EGR_RESULT_REPEATED;
	if (e->state == ENTRY_FILLED)
		e->state = ENTRY_ANSWERED;
	c->answered_ns = now_ns;
	if (answer != EGR_ANSWER_PICTURE)
		return EGR_RESULT_LATE;
	c->real_ns = now_ns;
	if (e->seq <= c->last_src_seq)
		return EGR_RESULT_LATE;
	c->last_src_seq = e->seq;
	return EGR_RESULT_LAST;
}

enum egr_result
egr_clock_result(struct egr_clock *c, uint64_t src_seq, enum egr_answer answer, int64_t now_ns)
{
	uint64_t i;
	struct egr_entry *e = find(c, src_seq, &i);

	/* A number that is neither remembered nor new belongs to a frame that we missed or have forgotten. */
	if (e == NULL)
		return src_seq == 0 || src_seq > c->newest_seq || src_seq >> 32 == 0 ? EGR_RESULT_BAD : EGR_RESULT_LATE;
	if (e->state != ENTRY_WAITING)
		return result_late(c, e, answer, now_ns);
	for (uint64_t k = c->head; k < i; k++)
		if (at(c, k)->state == ENTRY_WAITING)
			at(c, k)->state = ENTRY_SKIPPED;
	c->answered_ns = now_ns;
	switch (answer) {
	case EGR_ANSWER_PICTURE:
		e->state = ENTRY_RESULT;
		if (!c->started)
			c->start = i;
		c->started = true;
		break;
	case EGR_ANSWER_WITHHELD:
		e->state = ENTRY_WITHHELD;
		break;
	case EGR_ANSWER_PASS:
		e->state = ENTRY_PASS;
		break;
	}
	return EGR_RESULT_ACCEPTED;
}

static int64_t
deadline_of(const struct egr_clock *c, const struct egr_entry *e)
{
	int64_t wait_ns = c->config.frame_deadline_ns;

	if (c->delay_ns + EGR_SLACK_NS < wait_ns)
		wait_ns = c->delay_ns + EGR_SLACK_NS;
	/* Input that was late itself has used up a part of the viewer's patience; after a pause nothing is left of it, and
	 * the result is worth its wait again. */
	if (c->sent_ns != 0 && e->commit_ns - c->sent_ns < EGR_PAUSE_NS) {
		int64_t step_ns = e->pts_ns - c->sent_pts_ns, left_ns;

		step_ns = step_ns < 0 ? 0 : step_ns > EGR_PAUSE_NS ? EGR_PAUSE_NS : step_ns;
		left_ns = c->sent_ns + step_ns + EGR_SLACK_NS - e->commit_ns;
		if (left_ns < EGR_WAIT_MIN_NS)
			left_ns = EGR_WAIT_MIN_NS;
		if (left_ns < wait_ns)
			wait_ns = left_ns;
	}
	return e->commit_ns + wait_ns;
}

static bool
too_many(const struct egr_clock *c)
{
	return c->tail - c->head > c->pending_max;
}

static enum egr_picture
fill_picture(const struct egr_clock *c, enum egr_why why, int64_t now_ns)
{
	bool last = c->last_src_seq != 0;
	/* Alive and slow: its last picture is nearer to what the viewer has just seen than the raw input is. */
	bool slow = why == EGR_WHY_DEADLINE && last && c->answered_ns != 0 && now_ns - c->answered_ns <= EGR_ALIVE_NS;

	switch (c->config.policy) {
	case EGR_POLICY_DROP:
		return EGR_PICTURE_NONE;
	case EGR_POLICY_HOLD:
		return last ? EGR_PICTURE_LAST : EGR_PICTURE_INPUT;
	case EGR_POLICY_OVERLAY:
		return slow ? EGR_PICTURE_LAST : EGR_PICTURE_SLATE;
	case EGR_POLICY_PASSTHROUGH:
		break;
	}
	return slow ? EGR_PICTURE_LAST : EGR_PICTURE_INPUT;
}

static enum egr_picture
withheld_picture(const struct egr_clock *c, int64_t now_ns)
{
	int64_t since_ns = c->real_ns != 0 ? c->real_ns : c->first_ns;

	if (c->config.policy == EGR_POLICY_DROP)
		return EGR_PICTURE_NONE;
	if (now_ns - since_ns > EGR_LOADING_NS)
		return EGR_PICTURE_SLATE;
	return c->config.policy == EGR_POLICY_HOLD && c->last_src_seq != 0 ? EGR_PICTURE_LAST : EGR_PICTURE_INPUT;
}

/* What is sent for a frame whose wait is over. false: it waits on. */
static bool
decide(const struct egr_clock *c, const struct egr_entry *e, int64_t now_ns, struct egr_decision *out)
{
	if (e->state == ENTRY_RESULT) {
		out->picture = c->slate_asked ? EGR_PICTURE_SLATE : EGR_PICTURE_RESULT;
		out->why = c->slate_asked ? EGR_WHY_ASKED : EGR_WHY_RESULT;
		return true;
	}
	if (!c->started && now_ns < c->first_ns + EGR_START_NS && !too_many(c))
		return false;
	if (c->slate_asked) {
		out->why = EGR_WHY_ASKED;
		out->picture = EGR_PICTURE_SLATE;
		return true;
	}
	switch (e->state) {
	case ENTRY_PASS:
		out->why = EGR_WHY_PASS;
		out->picture = EGR_PICTURE_INPUT;
		return true;
	case ENTRY_WITHHELD:
		out->why = EGR_WHY_WITHHELD;
		out->picture = withheld_picture(c, now_ns);
		return true;
	case ENTRY_SKIPPED:
		if (c->head < c->start) {
			out->why = EGR_WHY_START;
			out->picture = EGR_PICTURE_NONE;
			return true;
		}
		out->why = EGR_WHY_DEADLINE;
		break;
	default:
		if (!c->worker)
			out->why = EGR_WHY_NO_WORKER;
		else if (now_ns >= deadline_of(c, e) || too_many(c))
			out->why = EGR_WHY_DEADLINE;
		else
			return false;
	}
	out->picture = fill_picture(c, out->why, now_ns);
	return true;
}

bool
egr_clock_next(struct egr_clock *c, int64_t now_ns, struct egr_decision *out)
{
	struct egr_entry *e;

	if (c->head == c->tail)
		return false;
	e = at(c, c->head);
	if (!decide(c, e, now_ns, out))
		return false;
	out->seq = e->seq;
	out->pts_ns = e->pts_ns;
	out->commit_ns = e->commit_ns;
	out->input = e->input;
	if (out->picture == EGR_PICTURE_RESULT) {
		c->last_src_seq = e->seq > c->last_src_seq ? e->seq : c->last_src_seq;
		c->real_ns = now_ns;
	}
	e->state = e->state == ENTRY_WAITING || e->state == ENTRY_SKIPPED ? ENTRY_FILLED : ENTRY_ANSWERED;
	e->input = NULL;
	c->head++;
	c->started = true;
	c->delay_ns = now_ns - e->commit_ns;
	if (out->picture != EGR_PICTURE_NONE) {
		c->sent_ns = now_ns;
		c->sent_pts_ns = out->pts_ns;
	}
	return true;
}

int64_t
egr_clock_due(const struct egr_clock *c, int64_t now_ns)
{
	struct egr_decision unused;

	if (c->head == c->tail)
		return INT64_MAX;
	if (decide(c, head(c), now_ns, &unused))
		return now_ns;
	if (!c->started)
		return c->first_ns + EGR_START_NS;
	return deadline_of(c, head(c));
}

unsigned
egr_clock_pending(const struct egr_clock *c, int64_t *oldest_commit_ns)
{
	*oldest_commit_ns = c->head != c->tail ? head(c)->commit_ns : 0;
	return (unsigned)(c->tail - c->head);
}

void *
egr_clock_pending_input(const struct egr_clock *c, unsigned i)
{
	MR_ASSERT(i < c->tail - c->head);
	return c->entries[(c->head + i) % EGR_ENTRIES_MAX].input;
}

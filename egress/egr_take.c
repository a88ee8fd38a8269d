/* SPDX-License-Identifier: MIT */
/*
 * Taking frames from the rings
 *
 * Input frames wait, held in their ring, for the clock's decision. When holds run out the oldest is copied to the
 * heap, so the ring is always read to its end and no input frame is unknown when its result comes.
 *
 * Results are hostile input. What ring_take() lets through has a possible descriptor; here it is checked that there is
 * a picture of exactly the announced size or none at all, and the clock checks that it answers a frame that was seen.
 * Each input frame entitles the worker to two results (its own, and one more after a restart); beyond that its ring is
 * not looked at until more input comes, so a flood costs nothing. Input is looked at after each result is taken and
 * before it is judged: what a worker answers was published before.
 */
#include "egress/egr_session.h"
#include "base/clock.h"
#include "base/log.h"
#include "proto/ctl.h"

#include "egress/egr_priv.h"

enum { RESULTS_PER_FRAME = 2, RESULTS_SAVED_MAX = 2 * RING_SLOTS_MAX };
#define MUTE_NS INT64_C(20000000)
#define TURN_NS INT64_C(15000000)      /* of decisions in one turn of the loop, then the sockets are looked at */
#define OVERLOAD_NS INT64_C(300000000) /* so far behind a frame's deadline encoding does not keep up */
#define SPARSE_NS INT64_C(80000000)    /* and pictures are sent only so often, until it does */

/* ---- decisions -------------------------------------------------------- */

/* Encoding is slower than the input: what is already late is thinned out, not sent later and later. */
static bool
is_overloaded(const struct egr_session *s, const struct egr_decision *d, int64_t now_ns)
{
	return now_ns - d->commit_ns > s->config.frame_deadline_ns + OVERLOAD_NS &&
	    now_ns - s->output.last_out_ns < SPARSE_NS;
}

void
egr_take_decide(struct egr_session *s, const struct egr_view *result)
{
	int64_t begin_ns = clock_now_ns(), now_ns = begin_ns;
	struct egr_decision d;

	/* A result lives as long as this call: it is decided to the end. */
	while ((result != NULL || now_ns - begin_ns < TURN_NS) && egr_clock_next(&s->clock, clock_now_ns(), &d)) {
		struct egr_pic *pic = d.input;

		now_ns = clock_now_ns();
		if (is_overloaded(s, &d, now_ns))
			d.picture = EGR_PICTURE_NONE;
		/* A picture that is gone (a decision for an earlier call's result) is filled by the next best one. */
		egr_output_send(&s->output, &d, pic != NULL ? &pic->view : NULL,
		    d.picture == EGR_PICTURE_RESULT ? result : NULL);
		egr_pic_free(&pic);
	}
}

/* ---- input video ------------------------------------------------------ */

/* Makes a hold free. false: none of the waiting frames has one of that ring. */
static bool
free_hold(struct egr_session *s, const struct egr_ring *ring)
{
	int64_t unused;
	unsigned n = egr_clock_pending(&s->clock, &unused);

	for (unsigned i = 0; i < n; i++) {
		struct egr_pic *pic = egr_clock_pending_input(&s->clock, i);

		if (pic != NULL && pic->ring == ring)
			return egr_pic_detach(pic);
	}
	return false;
}

static void
take_input(struct egr_session *s, struct egr_ring *ring, const struct ring_frame *frame)
{
	int64_t now_ns = clock_now_ns();
	struct egr_pic *pic;

	/* Given again after a restart, and already on the timeline: it was sent. */
	if (frame->redelivered && frame->desc.pts_ns <= s->config.resume_video_pts_ns) {
		ring_release(ring->rx, frame);
		return;
	}
	pic = egr_pic_new(ring, frame);
	if (pic == NULL)
		return;
	if (!egr_clock_input(&s->clock, frame->desc.seq, frame->desc.pts_ns, frame->desc.commit_ns, now_ns, pic)) {
		egr_pic_free(&pic);
		return;
	}
	egr_output_saw_input(&s->output, frame->desc.pts_ns, now_ns);
	s->tokens += RESULTS_PER_FRAME;
	if (s->tokens > RESULTS_SAVED_MAX)
		s->tokens = RESULTS_SAVED_MAX;
}

/* Reads one ring to its end, and all older ones before each frame of it. */
static void
drain_input(struct egr_session *s, unsigned n)
{
	struct egr_ring *ring = egr_rings_get(&s->rings, CTL_RING_IN_VIDEO, n);
	struct ring_frame frame;

	for (unsigned tries = 0; ring != NULL && tries < 4 * RING_SLOTS_MAX; tries++) {
		enum ring_take_result r = ring_take(ring->rx, &frame);

		if (r == RING_EMPTY)
			return;
		if (r == RING_BAD_DESC)
			continue;
		if (r == RING_NO_HOLD) {
			if (!free_hold(s, ring))
				return;
			continue;
		}
		/* The producer left the older ring before it began with this one: nothing more comes there. */
		if (n > 0)
			drain_input(s, n - 1);
		take_input(s, ring, &frame);
	}
}

static void
take_inputs(struct egr_session *s)
{
	for (unsigned n = 0; egr_rings_get(&s->rings, CTL_RING_IN_VIDEO, n) != NULL; n++)
		drain_input(s, n);
}

/* ---- results ---------------------------------------------------------- */

/* What a result says it is. false: it contradicts itself. */
static bool
answer_of(const struct egr_ring *ring, const struct ring_desc *desc, enum egr_answer *out)
{
	switch (desc->flags & (RING_FRAME_WITHHELD | RING_FRAME_PASS)) {
	case 0:
		*out = EGR_ANSWER_PICTURE;
		return desc->bytes == ring_rx_geom(ring->rx)->layout.payload_bytes;
	case RING_FRAME_WITHHELD:
		*out = EGR_ANSWER_WITHHELD;
		return desc->bytes == 0;
	case RING_FRAME_PASS:
		*out = EGR_ANSWER_PASS;
		return desc->bytes == 0;
	default:
		return false;
	}
}

static void
take_result(struct egr_session *s, struct egr_ring *ring, const struct ring_frame *frame)
{
	struct egr_view view = egr_ring_view(ring, frame);
	int64_t now_ns = clock_now_ns();
	enum egr_answer answer;
	enum egr_result r = EGR_RESULT_BAD;

	if (answer_of(ring, &frame->desc, &answer))
		r = egr_clock_result(&s->clock, frame->desc.src_seq, answer, now_ns);
	switch (r) {
	case EGR_RESULT_ACCEPTED:
		stats_add(s->stats, EGRESS_results_accepted, 1);
		stats_set(s->stats, EGRESS_last_result_ns, (uint64_t)now_ns);
		egr_take_decide(s, answer == EGR_ANSWER_PICTURE ? &view : NULL);
		break;
	case EGR_RESULT_LAST:
		egr_output_keep(&s->output, &view);
		/* fall through */
	case EGR_RESULT_LATE:
		/* Progress all the same: a model that is slower than the deadline is not hung. */
		stats_add(s->stats, EGRESS_results_late, 1);
		stats_set(s->stats, EGRESS_last_result_ns, (uint64_t)now_ns);
		break;
	case EGR_RESULT_REPEATED:
		stats_add(s->stats, EGRESS_results_repeated, 1);
		break;
	case EGR_RESULT_BAD:
		stats_add(s->stats, EGRESS_results_bad, 1);
		stats_add(s->stats, EGRESS_violations, 1);
		break;
	}
	ring_release(ring->rx, frame);
}

static void
take_results(struct egr_session *s)
{
	int64_t begin_ns = clock_now_ns();
	struct egr_ring *ring;
	struct ring_frame frame;

	s->more = false;
	for (unsigned n = 0; (ring = egr_rings_get(&s->rings, CTL_RING_OUT_VIDEO, n)) != NULL; n++) {
		unsigned left = ring_rx_geom(ring->rx)->slot_count;

		while (left-- > 0) {
			enum ring_take_result r;

			if (clock_now_ns() - begin_ns > TURN_NS) { /* the sockets first */
				s->more = true;
				break;
			}
			if (s->tokens == 0) {
				ring->mute_ns = ring->mute_ns < INT64_MAX ? clock_now_ns() + MUTE_NS : INT64_MAX;
				break;
			}
			r = ring_take(ring->rx, &frame);
			if (r == RING_EMPTY || r == RING_NO_HOLD)
				break;
			s->tokens--;
			if (r == RING_BAD_DESC)
				continue;
			take_inputs(s);
			take_result(s, ring, &frame);
		}
	}
	stats_add(s->stats, EGRESS_violations, egr_rings_violations(&s->rings, CTL_RING_OUT_VIDEO) +
	    egr_rings_violations(&s->rings, CTL_RING_OUT_AUDIO));
}

/* ---- sound ------------------------------------------------------------ */

static void
take_audio(struct egr_session *s)
{
	struct egr_ring *ring;
	struct ring_frame frame;
	enum ring_take_result r;

	for (unsigned n = 0; (ring = egr_rings_get(&s->rings, CTL_RING_IN_AUDIO_EGRESS, n)) != NULL; n++) {
		const struct ring_geom *g = ring_rx_geom(ring->rx);

		for (unsigned left = g->slot_count; left > 0; left--) {
			uint32_t samples;

			r = ring_take(ring->rx, &frame);
			if (r == RING_BAD_DESC)
				continue;
			if (r != RING_TAKEN)
				break;
			samples = frame.desc.bytes / (4 * g->channels);
			if (s->output.audio != NULL && samples >= 1 && samples <= EGR_BLOCK_SAMPLES_MAX) {
				int64_t now_ns = clock_now_ns();

				egr_rate_add(&s->output.in_audio_rate, now_ns);
				egr_audio_input(s->output.audio, frame.desc.pts_ns, (const float *)frame.payload,
				    samples, g->channels, now_ns);
			}
			ring_release(ring->rx, &frame);
		}
	}
}

static void
take_audio_result(struct egr_session *s, const struct ring_geom *g, const struct ring_frame *frame)
{
	const float *data = (const float *)frame->payload;
	uint32_t samples = frame->desc.bytes / (4 * g->channels);
	bool marked = (frame->desc.flags & (RING_FRAME_WITHHELD | RING_FRAME_PASS)) != 0;

	if (s->output.audio == NULL)
		return;
	if (marked ? frame->desc.bytes != 0 :
	    frame->desc.bytes % (4 * g->channels) != 0 || samples < 1 || samples > EGR_BLOCK_SAMPLES_MAX) {
		stats_add(s->stats, EGRESS_violations, 1);
		return;
	}
	/* One that matches no waiting block is late: its input has been sent. */
	egr_audio_result(s->output.audio, frame->desc.pts_ns, marked ? NULL : data, samples, g->channels);
}

static void
take_audio_results(struct egr_session *s)
{
	struct egr_ring *ring;
	struct ring_frame frame;

	for (unsigned n = 0; (ring = egr_rings_get(&s->rings, CTL_RING_OUT_AUDIO, n)) != NULL; n++) {
		const struct ring_geom *g = ring_rx_geom(ring->rx);

		for (unsigned left = g->slot_count; left > 0; left--) {
			enum ring_take_result r = ring_take(ring->rx, &frame);

			if (r == RING_BAD_DESC)
				continue;
			if (r != RING_TAKEN)
				break;
			take_audio_result(s, g, &frame);
			ring_release(ring->rx, &frame);
		}
	}
}

/* ---- all -------------------------------------------------------------- */

/* Closes what has ended and is read to its end. Rings were drained just before this is called. */
static void
close_ended(struct egr_session *s)
{
	for (unsigned i = 0; i < EGR_RINGS_MAX; i++) {
		struct egr_ring *ring = &s->rings.ring[i];

		if (ring->rx != NULL && ring->ended && ring->refs == 0)
			egr_rings_close(&s->rings, ring, true);
	}
}

void
egr_take_all(struct egr_session *s)
{
	egr_rings_clear_doorbells(&s->rings);
	take_inputs(s);
	take_results(s);
	take_audio(s);
	if (s->output.audio != NULL) {
		egr_audio_set_worker(s->output.audio, s->config.worker_audio &&
		    egr_rings_alive(&s->rings, CTL_RING_OUT_AUDIO));
		take_audio_results(s);
	}
	egr_clock_set_worker(&s->clock, egr_rings_alive(&s->rings, CTL_RING_OUT_VIDEO));
	egr_take_decide(s, NULL);
	close_ended(s);
}

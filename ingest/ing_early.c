/* SPDX-License-Identifier: MIT */
/*
 * Frames of a reordering H.264 stream, as soon as their turn has come
 *
 * The callback runs inside avcodec_send_packet() or avcodec_receive_frame(), on this thread, while the picture is being
 * decoded, so it only takes a reference; the picture is whole when that call has returned. Pictures without a timestamp
 * and field pictures are left to the decoder.
 */
#include "ingest/ing_early.h"

#include "base/assert.h"
#include "base/clock.h"
#include "ingest/ing_time.h"

#include <string.h>

enum { STEPS_WINDOW = 24 };

static int
find(const struct ing_early *e, int64_t pts)
{
	for (int i = 0; i < ING_EARLY_MAX; i++)
		if (e->decoded[i] != NULL && e->decoded[i]->pts == pts)
			return i;
	return -1;
}

static void
forget(struct ing_early *e, int i)
{
	av_frame_free(&e->decoded[i]);
}

/* A picture is being decoded: several calls for each. */
static void
on_band(AVCodecContext *ctx, const AVFrame *src, int offset[AV_NUM_DATA_POINTERS], int y, int type, int height)
{
	struct ing_early *e = ctx->opaque;

	(void)offset;
	(void)y;
	(void)height;
	if (type != 3 /* a whole frame, not a field */ || src->interlaced_frame || src->pts == AV_NOPTS_VALUE ||
	    find(e, src->pts) >= 0)
		return;
	for (int i = 0; i < ING_EARLY_MAX; i++) {
		if (e->decoded[i] != NULL)
			continue;
		e->decoded[i] = av_frame_alloc();
		if (e->decoded[i] != NULL && av_frame_ref(e->decoded[i], src) < 0)
			forget(e, i);
		return;
	}
}

void
ing_early_attach(struct ing_early *e, AVCodecContext *ctx)
{
	MR_ASSERT(ctx->thread_count == 1);
	ing_early_reset(e);
	ctx->opaque = e;
	ctx->draw_horiz_band = on_band;
	ctx->slice_flags = SLICE_FLAG_CODED_ORDER;
}

void
ing_early_reset(struct ing_early *e)
{
	for (int i = 0; i < ING_EARLY_MAX; i++)
		forget(e, i);
	memset(e, 0, sizeof(*e));
	e->last = e->ordered = AV_NOPTS_VALUE;
}

static bool
was_handed(struct ing_early *e, int64_t pts)
{
	for (unsigned i = 0; i < e->handed_count; i++) {
		if (e->handed[i] != pts)
			continue;
		e->handed[i] = e->handed[--e->handed_count];
		return true;
	}
	return false;
}

/* The shortest step between neighbours in the decoder's order, over one to two windows. */
static void
measure(struct ing_early *e, int64_t pts)
{
	int64_t step = e->ordered != AV_NOPTS_VALUE ? pts - e->ordered : 0;

	if (step > 0) {
		if (e->interval_next == 0 || step < e->interval_next)
			e->interval_next = step;
		if (e->interval != 0 && step < e->interval)
			e->interval = step;
		if (++e->steps % STEPS_WINDOW == 0) {
			e->interval = e->interval_next;
			e->interval_next = 0;
		}
	}
	e->ordered = pts;
}

bool
ing_early_ordered(struct ing_early *e, const AVFrame *frame)
{
	if (frame->pts == AV_NOPTS_VALUE) {
		ing_early_reset(e);
		return true;
	}
	measure(e, frame->pts);
	/* What the decoder has passed by will not come any more. */
	for (int i = 0; i < ING_EARLY_MAX; i++)
		if (e->decoded[i] != NULL && e->decoded[i]->pts <= frame->pts)
			forget(e, i);
	if (was_handed(e, frame->pts))
		return false;
	e->last = frame->pts;
	e->last_ns = clock_now_ns();
	return true;
}

/* It ends a group: the next picture in display order has not even been sent. */
static bool
is_too_soon(const struct ing_early *e, const AVFrame *frame)
{
	return frame->pict_type != AV_PICTURE_TYPE_B &&
	    clock_now_ns() - e->last_ns < ing_ticks_to_ns(e->interval) * 9 / 10;
}

bool
ing_early_next(struct ing_early *e, AVFrame *frame)
{
	int next = -1;

	if (e->last == AV_NOPTS_VALUE || e->interval == 0 || e->handed_count == ING_EARLY_MAX)
		return false;
	for (int i = 0; i < ING_EARLY_MAX; i++)
		if (e->decoded[i] != NULL && e->decoded[i]->pts > e->last &&
		    (next < 0 || e->decoded[i]->pts < e->decoded[next]->pts))
			next = i;
	if (next < 0 || e->decoded[next]->pts - e->last > e->interval + e->interval / 2 ||
	    is_too_soon(e, e->decoded[next]))
		return false;
	e->last = e->decoded[next]->pts;
	e->last_ns = clock_now_ns();
	e->handed[e->handed_count++] = e->last;
	av_frame_move_ref(frame, e->decoded[next]);
	forget(e, next);
	/* The decoder crops what it hands on itself. */
	return av_frame_apply_cropping(frame, 0) == 0;
}

/* SPDX-License-Identifier: MIT */
/*
 * The output timeline
 *
 * One offset serves both tracks, so that nothing done here can move them against each other. Video leads: its frames
 * decide when the offset changes. Audio that does not increase is dropped, which costs what overlaps and no more.
 */
#include "egress/egr_timeline.h"
#include "base/assert.h"

#include "egress/egr_priv.h"

int64_t
egr_ticks_from_ns(int64_t ns)
{
	int64_t q = ns / 100000, r = ns % 100000;

	if (r < 0) {
		q--;
		r += 100000;
	}
	return q * 9 + (r * 9 + 50000) / 100000;
}

int64_t
egr_ns_from_ticks(int64_t ticks)
{
	return ticks / 9 * 100000 + ticks % 9 * 100000 / 9;
}

void
egr_timeline_init(struct egr_timeline *t, int64_t video_last_ns, int64_t audio_last_ns)
{
	*t = (struct egr_timeline){
		.video_last = video_last_ns >= 0 ? egr_ticks_from_ns(video_last_ns) : -1,
		.audio_last = audio_last_ns >= 0 ? egr_ticks_from_ns(audio_last_ns) : -1,
		.catch_up_ns = EGR_CATCH_UP_NS,
	};
}

void
egr_timeline_expect(struct egr_timeline *t, int64_t catch_up_ns)
{
	t->catch_up_ns = catch_up_ns;
	t->repeated = true;
}

bool
egr_timeline_video(struct egr_timeline *t, int64_t pts_ns, int64_t now_ns, int64_t *ticks)
{
	int64_t p = egr_ticks_from_ns(pts_ns + t->offset_ns);

	if (p <= t->video_last) {
		if (!t->repeated && t->video_last - p <= EGR_TICKS_SMALL) {
			p = t->video_last + 1;
		} else if (t->behind_since_ns == 0) {
			t->behind_since_ns = now_ns;
			return false;
		} else if (now_ns - t->behind_since_ns <= t->catch_up_ns) {
			return false;
		} else {
			int64_t wanted = t->video_last + EGR_TICKS_STEP;

			t->offset_ns += egr_ns_from_ticks(wanted - p);
			p = wanted;
		}
	}
	MR_ASSERT(p > t->video_last);
	t->behind_since_ns = 0;
	t->catch_up_ns = EGR_CATCH_UP_NS;
	t->repeated = false;
	t->video_last = p;
	*ticks = p;
	return true;
}

bool
egr_timeline_audio(struct egr_timeline *t, int64_t pts_ns, int64_t *ticks)
{
	int64_t p = egr_ticks_from_ns(pts_ns + t->offset_ns);

	if (p <= t->audio_last)
		return false;
	t->audio_last = p;
	*ticks = p;
	return true;
}

int64_t
egr_timeline_repeat(struct egr_timeline *t, int64_t elapsed_ns)
{
	int64_t step = egr_ticks_from_ns(elapsed_ns);

	t->repeated = true;
	t->video_last += step > 0 ? step : 1;
	return t->video_last;
}

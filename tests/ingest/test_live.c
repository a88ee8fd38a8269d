/* SPDX-License-Identifier: MIT */
/*
 * Goal: what goes into the input channel comes out of the in rings: all of it, in order, at once, whatever the source does.
 * Method: the real millrace-ingest and the real relay; the test is supervisor, worker, egress and publisher (ing_stage.h).
 */
#include "ing_clip.h"
#include "ing_stage.h"

#include "base/clock.h"
#include "ingest/ing_time.h"

#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FRAMES = 300 };

static struct stage st;
static struct clip clip;

static void
set_up(void)
{
	clip_open(&clip);
	stage_init(&st);
}

static void
tear_down(void)
{
	stage_fini(&st, false);
	clip_close(&clip);
}

TestSuite(ingest_live, .init = set_up, .fini = tear_down, .timeout = 60);

/* The nth group of pictures as a segment of its own. Returns its number of frames. */
static unsigned
send_gop(unsigned nth)
{
	unsigned from = clip_key(&clip, nth), n;
	size_t end;

	n = clip_gop(&clip, from, &end);
	trk_pub_segment_begin(st.pub);
	cr_assert_eq(trk_pub_write(st.pub, clip.tables, sizeof(clip.tables)), 0);
	cr_assert_eq(trk_pub_write(st.pub, clip.data + clip.pes[from].begin, end - clip.pes[from].begin), 0);
	trk_pub_segment_end(st.pub);
	return n;
}

static bool
have_frames(struct stage *s, void *arg)
{
	return s->video_count[STAGE_EGRESS] >= *(unsigned *)arg;
}

static void
until_frames(unsigned n, int limit_ms)
{
	char what[64];

	snprintf(what, sizeof(what), "waiting for %u frames", n);
	stage_until(&st, have_frames, &n, limit_ms, what);
}

static bool
channel_is(struct stage *s, void *arg)
{
	return s->channel[CTL_CHANNEL_SUBSCRIBE].state == *(uint32_t *)arg;
}

static void
until_channel(uint32_t state, int limit_ms)
{
	stage_until(&st, channel_is, &state, limit_ms, "state of the input channel");
}

Test(ingest_live, whole_clip)
{
	unsigned sent = 0;

	stage_publish(&st);
	stage_session(&st, "\"max_framerate\":1000,");
	for (unsigned i = 0; i < 5; i++) {
		sent += send_gop(i);
		until_frames(sent - 3, 5000); /* the decoder keeps a few to put them in order */
	}
	cr_assert_eq(sent, FRAMES);
	trk_pub_delete_channel(st.pub);
	until_channel(CTL_CHANNEL_ENDED, 5000);
	stage_for(&st, 100);
	cr_expect_eq(st.video_count[STAGE_EGRESS], FRAMES, "%u", st.video_count[STAGE_EGRESS]);
	cr_expect_eq(st.video_count[STAGE_WORKER], FRAMES, "the worker sees each frame of a burst: %u, lost %llu",
	    st.video_count[STAGE_WORKER], (unsigned long long)st.lost[STAGE_WORKER]);
	cr_expect_eq(st.video[STAGE_EGRESS][0].pts_ns, ing_ticks_to_ns(clip.pes[clip_key(&clip, 0)].pts));
	for (unsigned i = 1; i < st.audio_count; i++)
		cr_expect_leq(llabs(st.audio[i].pts_ns - st.audio[i - 1].pts_ns - 20000000), 1);
	cr_expect_geq(st.audio_count, 9 * 50, "%u", st.audio_count);
}

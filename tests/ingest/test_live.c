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
#include <libavutil/crc.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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

/* Small pieces, so that this thread is never away from its consumers for long. */
static void
send_bytes(const uint8_t *bytes, size_t count)
{
	while (count > 0) {
		size_t n = count < 16384 ? count : 16384;

		cr_assert_eq(trk_pub_write(st.pub, bytes, n), 0);
		stage_turn(&st, 0);
		bytes += n;
		count -= n;
	}
}

/* The nth group of pictures as a segment of its own, or only a part of it. Returns its number of frames. */
static unsigned
send_part(unsigned nth, unsigned percent)
{
	unsigned from = clip_key(&clip, nth), n;
	size_t end;

	n = clip_gop(&clip, from, &end);
	trk_pub_segment_begin(st.pub);
	send_bytes(clip.tables, sizeof(clip.tables));
	send_bytes(clip.data + clip.pes[from].begin, (end - clip.pes[from].begin) * percent / 100);
	trk_pub_segment_end(st.pub);
	return n;
}

static unsigned
send_gop(unsigned nth)
{
	return send_part(nth, 100);
}

static void
send_text(struct trk_pub *pub, const char *text)
{
	cr_assert_eq(trk_pub_message(pub, text, strlen(text)), 0);
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

/* Channels, session, and the subscription parked at the first segment. */
static void
open_session(const char *more)
{
	stage_publish(&st);
	stage_session(&st, more);
	until_channel(CTL_CHANNEL_WAITING, 5000);
}

Test(ingest_live, whole_clip)
{
	unsigned sent = 0;

	open_session("\"max_framerate\":1000,");
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

static bool
sent_everything(struct stage *s, void *arg)
{
	return trk_pub_idle(s->pub);
}

/* The source stands still after each frame: every frame that the decoder need not keep for its order is there all the same,
 * without a byte of the next one. */
Test(ingest_live, at_once)
{
	unsigned from = clip_key(&clip, 0), sent = 0;
	size_t at = clip.pes[from].begin;

	open_session("\"max_framerate\":1000,");
	trk_pub_segment_begin(st.pub);
	send_bytes(clip.tables, sizeof(clip.tables));
	for (unsigned i = from; sent < 40; i++) {
		if (clip.pes[i].pid != CLIP_VIDEO_PID)
			continue;
		send_bytes(clip.data + at, clip.pes[i].end - at);
		at = clip.pes[i].end;
		sent++;
		if (sent > 3 && !clip.pes[i].exact)
			until_frames(sent - 2, 1000);
	}
}

Test(ingest_live, restart_of_the_source)
{
	unsigned sent = 0, flagged = 0;

	open_session("\"max_framerate\":1000,");
	sent += send_gop(2) + send_gop(3);
	until_frames(sent - 3, 5000);
	sent += send_gop(0) + send_gop(1);
	until_frames(sent - 3, 5000);
	for (unsigned i = 0; i < st.video_count[STAGE_EGRESS]; i++)
		flagged += (st.video[STAGE_EGRESS][i].flags & RING_FRAME_DISCONTINUITY) != 0;
	cr_expect_eq(flagged, 1);
	cr_expect_eq(stats_get(st.stats, INGEST_ts_jumps), 1);
	cr_expect_neq(stats_get(st.stats, INGEST_ts_offset_ns), 0);
}

Test(ingest_live, truncated_segment)
{
	unsigned have;

	open_session("\"max_framerate\":1000,");
	send_part(0, 40);
	stage_until(&st, sent_everything, NULL, 5000, "the first half is sent");
	stage_for(&st, 300);
	have = st.video_count[STAGE_EGRESS];
	cr_expect_gt(have, 10);
	until_frames(have + send_gop(1) - 4, 5000);
}

Test(ingest_live, junk_is_reported_and_harmless)
{
	open_session("\"max_framerate\":1000,");
	send_text(st.pub, "this is no video");
	until_channel(CTL_CHANNEL_BAD_MEDIA, 5000);
	cr_expect_not_null(strstr(st.channel[CTL_CHANNEL_SUBSCRIBE].text, "MPEG-TS"), "%s",
	    st.channel[CTL_CHANNEL_SUBSCRIBE].text);
	until_frames(send_gop(0) - 3, 5000);
	cr_expect_neq(st.channel[CTL_CHANNEL_SUBSCRIBE].state, CTL_CHANNEL_BAD_MEDIA);
	cr_expect_eq(st.bad_media_told, 1);
}

/* Bytes flipped, dropped and repeated at random: whatever comes out of that, the next good segment plays. */
Test(ingest_live, spoiled_media)
{
	size_t end;
	unsigned from = clip_key(&clip, 0), have;
	uint8_t *spoiled;

	clip_gop(&clip, from, &end);
	spoiled = malloc(end);
	open_session("\"max_framerate\":1000,");
	for (unsigned seed = 1; seed <= 8; seed++) {
		size_t n = end - clip.pes[from].begin, skip;

		srand(seed);
		memcpy(spoiled, clip.data + clip.pes[from].begin, n);
		for (size_t i = 0; i < n / (50u << seed); i++)
			spoiled[(size_t)rand() % n] = (uint8_t)rand();
		skip = (size_t)rand() % 4000;
		trk_pub_segment_begin(st.pub);
		send_bytes(clip.tables, sizeof(clip.tables));
		send_bytes(spoiled, n / 2);
		send_bytes(spoiled + n / 2 + skip, n - n / 2 - skip);
		trk_pub_segment_end(st.pub);
		stage_for(&st, 20);
	}
	free(spoiled);
	stage_until(&st, sent_everything, NULL, 10000, "sent");
	stage_for(&st, 1500);
	have = st.video_count[STAGE_EGRESS];
	until_frames(have + send_gop(1) - 4, 5000);
	cr_expect_gt(stats_get(st.stats, INGEST_packets_bad) + stats_get(st.stats, INGEST_frames_decoded), 60);
}

static bool
have_documents(struct stage *s, void *arg)
{
	return s->documents >= *(unsigned *)arg;
}

Test(ingest_live, control_documents)
{
	const size_t big = 3 << 20;
	char *text = malloc(big + 64);
	unsigned n = 1;

	open_session("");
	send_text(st.control, "{\"keep\":\"alive\"}");
	send_text(st.control, "{\"prompt\":\"first\"}");
	stage_until(&st, have_documents, &n, 5000, "the first document");
	cr_expect_str_eq(st.document, "{\"prompt\":\"first\"}");
	send_text(st.control, "no json");
	send_text(st.control, "[1,2]");
	n = (unsigned)snprintf(text, 64, "{\"prompt\":\"");
	memset(text + n, 'x', big);
	snprintf(text + n + big, 8, "\"}");
	send_text(st.control, text);
	n = 2;
	stage_until(&st, have_documents, &n, 10000, "the large document");
	cr_expect_str_eq(st.document, text);
	free(text);
}

Test(ingest_live, another_format_while_it_runs)
{
	unsigned sent, before;

	open_session("\"max_framerate\":1000,");
	sent = send_gop(0);
	until_frames(sent - 3, 5000);
	stage_new_video_ring(&st, FORMAT_NV12);
	stage_for(&st, 200);
	cr_expect_eq(st.ring_closed, 1);
	before = st.video_count[STAGE_EGRESS];
	sent += send_gop(1);
	until_frames(sent - 3, 5000);
	cr_expect_eq(st.video[STAGE_EGRESS][before].seq >> 32, st.ring[CTL_RING_IN_VIDEO].open.generation);
	cr_expect_eq(st.lost[STAGE_EGRESS], 0);
}

Test(ingest_live, without_ring_live_frames_come_after_half_a_second)
{
	unsigned sent;
	int64_t start;

	st.hold_live = true;
	open_session("\"max_framerate\":1000,");
	start = clock_now_ns();
	sent = send_gop(0);
	until_frames(sent - 3, 5000);
	cr_expect_gt(st.video[STAGE_EGRESS][0].at_ns - start, 400 * CLOCK_MS_NS);
	cr_expect_eq(st.video[STAGE_EGRESS][0].pts_ns, ing_ticks_to_ns(clip.pes[clip_key(&clip, 0)].pts), "none is lost");
}

Test(ingest_live, consumers_that_hang_hold_nothing_up)
{
	unsigned sent = 0;
	int64_t start = clock_now_ns();

	st.worker_sleeps = true;
	st.worker_audio = true; /* nobody ever takes from that ring */
	open_session("\"max_framerate\":1000,");
	for (unsigned i = 0; i < 5; i++) {
		sent += send_gop(i);
		until_frames(sent - 3, 5000);
	}
	cr_expect_lt(clock_now_ns() - start, 4 * CLOCK_SEC_NS, "10 s of media");
	cr_expect_eq(st.lost[STAGE_EGRESS], 0);
	cr_expect_geq(st.audio_count, 400);
	cr_expect_gt(stats_get(st.stats, INGEST_audio_blocked), 100);
}

Test(ingest_live, limit_and_its_change)
{
	union ctl_msg msg;
	unsigned have;
	int fd;

	open_session("\"max_framerate\":10,");
	send_gop(0);
	stage_until(&st, sent_everything, NULL, 5000, "sent");
	stage_for(&st, 1000);
	have = st.video_count[STAGE_EGRESS];
	cr_expect(have >= 18 && have <= 21, "%u of 60 frames at 10 a second", have);
	cr_expect_eq(stats_get(st.stats, INGEST_frames_decoded),
	    stats_get(st.stats, INGEST_frames_limited) + stats_get(st.stats, INGEST_frames_published));
	fd = memfd_create("params", MFD_CLOEXEC);
	cr_assert_eq(write(fd, "{\"max_framerate\":100}", 21), 21);
	ctl_init(&msg, CTL_PARAMS, 7);
	msg.params.version = 2;
	msg.params.text_bytes = 21;
	stage_send(&st, &msg, &fd, 1);
	close(fd);
	stage_for(&st, 50);
	until_frames(have + send_gop(1) - 4, 5000);
}

static bool
is_closed(struct stage *s, void *arg)
{
	return s->closed;
}

Test(ingest_live, close_and_open_again)
{
	union ctl_msg msg;
	char resume[128];
	unsigned have;
	int64_t last;

	open_session("\"max_framerate\":1000,\"format\":\"rgbf32p\",\"width\":500,\"height\":300,");
	until_frames(send_gop(0) - 3, 5000);
	stage_for(&st, 300); /* those that may still come */
	have = st.video_count[STAGE_EGRESS];
	ctl_init(&msg, CTL_SESSION_CLOSE, 7);
	stage_send(&st, &msg, NULL, 0);
	stage_until(&st, is_closed, NULL, 2000, "SESSION_CLOSED");
	last = st.video[STAGE_EGRESS][have - 1].pts_ns;
	snprintf(resume, sizeof(resume), "\"resume\":{\"ts_offset_ns\":0,\"last_pts_ns\":%lld},", (long long)last);
	stage_session(&st, resume);
	stage_for(&st, 100);
	send_gop(1);
	until_frames(have + 30, 5000); /* from the segment that is there only what is new */
	cr_expect_gt(st.video[STAGE_EGRESS][have].pts_ns, last);
	cr_expect_eq(stats_get(st.stats, INGEST_ts_jumps), 0);
}

Test(ingest_live, an_impossible_url_is_said)
{
	stage_publish(&st);
	stage_session(&st, "\"subscribe_url\":\"ftp://nowhere/in\",");
	until_channel(CTL_CHANNEL_RETRYING, 2000);
	cr_expect_not_null(strstr(st.channel[CTL_CHANNEL_SUBSCRIBE].text, "http"));
}

/* ---- streams that are not what the tables say, or change --------------- */

enum { TYPE_MPEG2 = 0x02, TYPE_PRIVATE = 0x05, TYPE_H264 = 0x1b };

/* The clip's tables with this stream type for the video. */
static void
send_tables(uint8_t type)
{
	uint8_t t[sizeof(clip.tables)], *s, *p;
	uint32_t crc;
	size_t n;

	memcpy(t, clip.tables, sizeof(t));
	cr_assert_eq(t[188 + 3] & 0x30, 0x10, "payload only");
	s = t + 188 + 5 + t[188 + 4];
	n = 3 + ((size_t)(s[1] & 15) << 8 | s[2]) - 4;
	for (p = s + 12 + ((s[10] & 15) << 8 | s[11]); p < s + n; p += 5 + ((p[3] & 15) << 8 | p[4]))
		if (((p[1] & 31) << 8 | p[2]) == CLIP_VIDEO_PID)
			p[0] = type;
	crc = av_crc(av_crc_get_table(AV_CRC_32_IEEE), UINT32_MAX, s, n);
	for (int i = 0; i < 4; i++)
		s[n + (size_t)i] = (uint8_t)(crc >> 8 * i);
	send_bytes(t, sizeof(t));
}

/* The clip's sound without its pictures, spread over so long. */
static void
play_sound(int ms)
{
	int64_t start = clock_now_ns();

	for (size_t at = 0; at + 188 <= clip.bytes; at += 188) {
		const uint8_t *p = clip.data + at;

		if (((p[1] & 31) << 8 | p[2]) != CLIP_AUDIO_PID)
			continue;
		send_bytes(p, 188);
		while (clock_now_ns() < start + ms * CLOCK_MS_NS * (int64_t)at / (int64_t)clip.bytes)
			stage_turn(&st, 1);
	}
}

static void
sound_alone(uint8_t video_type)
{
	const struct ctl_channel *ch = &st.channel[CTL_CHANNEL_SUBSCRIBE];

	open_session("\"max_framerate\":1000,");
	trk_pub_segment_begin(st.pub);
	send_tables(video_type);
	play_sound(12000);
	trk_pub_segment_end(st.pub);
	cr_expect_eq(ch->state, CTL_CHANNEL_BAD_MEDIA, "%u: %s", ch->state, ch->text);
	cr_expect_not_null(strstr(ch->text, "it has no video that can be decoded"), "%s", ch->text);
	cr_expect_eq(st.bad_media_told, 1);
	cr_expect_geq(st.audio_count, 9 * 50, "%u", st.audio_count);
	until_frames(send_gop(0) - 3, 5000);
	cr_expect_eq(ch->state, CTL_CHANNEL_FLOWING, "%u: %s", ch->state, ch->text);
	cr_expect_eq(st.bad_media_told, 1);
}

Test(ingest_live, sound_alone_is_heard_and_reported)
{
	sound_alone(TYPE_PRIVATE);
}

Test(ingest_live, announced_video_that_never_comes_is_reported)
{
	sound_alone(TYPE_H264);
}

/* What the decoder still keeps comes out before another one takes its place. */
Test(ingest_live, another_codec_loses_no_frame_of_the_one_before)
{
	unsigned sent;

	open_session("\"max_framerate\":1000,");
	sent = send_gop(0);
	stage_until(&st, sent_everything, NULL, 5000, "sent");
	stage_for(&st, 300);
	cr_assert_lt(st.video_count[STAGE_EGRESS], sent, "a clip that reorders");
	trk_pub_segment_begin(st.pub);
	send_tables(TYPE_MPEG2);
	trk_pub_segment_end(st.pub);
	until_frames(sent, 2000);
	sent += send_gop(1);
	until_frames(sent - 3, 5000);
	stage_for(&st, 100);
	cr_expect_leq(st.video_count[STAGE_EGRESS], sent);
}

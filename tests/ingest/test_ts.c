/* SPDX-License-Identifier: MIT */
/*
 * Goal: a frame leaves the front end with its own last byte, and nothing that a source does to the transport stream keeps
 * good frames from coming out or makes memory grow.
 * Method: the real clip byte by byte, cut, spoiled, and joined again, against what ing_clip.c knows about it.
 */
#include "ing_clip.h"
#include "ing_stage.h"

#include "ingest/ing_es.h"
#include "ingest/ing_ts.h"

#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

enum { SEEN_MAX = 4096 };

struct seen {
	unsigned streams[ING_TRACK_COUNT];
	unsigned pes[ING_TRACK_COUNT], damaged;
	size_t at[SEEN_MAX]; /* position of the input when a video PES came out */
	size_t bytes[SEEN_MAX];
	int64_t pts[SEEN_MAX];
	size_t position;
	struct ing_stream video, audio;
};

static struct clip clip;
static struct seen seen;
static struct ing_ts *ts;

static void
on_stream(void *arg, enum ing_track track, const struct ing_stream *stream)
{
	struct seen *s = arg;

	s->streams[track]++;
	if (stream != NULL)
		*(track == ING_VIDEO ? &s->video : &s->audio) = *stream;
}

static void
on_pes(void *arg, const struct ing_pes *pes)
{
	struct seen *s = arg;
	unsigned n = s->pes[pes->track]++;

	s->damaged += pes->damaged;
	cr_assert_leq(pes->bytes, ING_PES_BYTES_MAX);
	if (pes->track != ING_VIDEO)
		return;
	cr_assert_lt(n, SEEN_MAX);
	s->at[n] = s->position;
	s->bytes[n] = pes->bytes;
	s->pts[n] = pes->pts;
}

static const struct ing_ts_callbacks callbacks = { .stream = on_stream, .pes = on_pes };

static void
set_up(void)
{
	clip_open(&clip);
	memset(&seen, 0, sizeof(seen));
	ts = ing_ts_new(&callbacks, &seen);
	cr_assert_not_null(ts);
}

static void
tear_down(void)
{
	ing_ts_free(&ts);
	clip_close(&clip);
}

TestSuite(ing_ts, .init = set_up, .fini = tear_down, .timeout = 30);

/* Feeds in pieces of at most `step` bytes. */
static void
feed(const uint8_t *bytes, size_t count, size_t step)
{
	while (count > 0) {
		size_t n = count < step ? count : step, used;

		seen.position += n;
		count -= n;
		while (n > 0) {
			used = ing_ts_feed(ts, bytes, n);
			cr_assert(used >= 1 && used <= n);
			bytes += used;
			n -= used;
		}
	}
}

static unsigned
video_pes_count(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < clip.pes_count; i++)
		n += clip.pes[i].pid == CLIP_VIDEO_PID;
	return n;
}

Test(ing_ts, each_frame_leaves_with_its_last_byte)
{
	unsigned n = 0, exact = 0;

	feed(clip.data, clip.bytes, 1);
	cr_assert_eq(seen.video.codec, AV_CODEC_ID_H264);
	cr_assert_eq(seen.audio.codec, AV_CODEC_ID_AAC);
	cr_assert_geq(seen.pes[ING_VIDEO], video_pes_count() - 1);
	for (unsigned i = 0; i < clip.pes_count && n < seen.pes[ING_VIDEO]; i++) {
		const struct clip_pes *p = &clip.pes[i];
		size_t next = clip.bytes;

		if (p->pid != CLIP_VIDEO_PID)
			continue;
		cr_assert_eq(seen.pts[n], p->pts);
		if (!p->exact) {
			cr_assert_eq(seen.at[n], p->end, "frame %u: at %zu, its end is %zu", n, seen.at[n], p->end);
		} else {
			/* Nothing in it tells: at the latest the next frame does, or a packet of sound before it. */
			exact++;
			for (unsigned k = i + 1; k < clip.pes_count; k++)
				if (clip.pes[k].pid == CLIP_VIDEO_PID) {
					next = clip.pes[k].begin + 188;
					break;
				}
			cr_assert_leq(seen.at[n], next);
		}
		n++;
	}
	cr_expect_gt(exact, 0);
	cr_expect_lt(exact, n / 20);
	cr_expect_eq(ing_ts_counts(ts)->guesses_wrong, 0);
	cr_expect_eq(seen.damaged, 0);
}

Test(ing_ts, pieces_of_any_size_give_the_same)
{
	static const size_t steps[] = { 7, 188, 189, 1316, 4096, 65536, 1 << 30 };
	unsigned want = video_pes_count();

	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		memset(&seen, 0, sizeof(seen));
		ing_ts_segment_begin(ts, false);
		feed(clip.data, clip.bytes, steps[i]);
		ing_ts_segment_end(ts, true);
		cr_assert_eq(seen.pes[ING_VIDEO], want, "step %zu: %u", steps[i], seen.pes[ING_VIDEO]);
	}
}

Test(ing_ts, counters_that_restart_damage_nothing)
{
	size_t end;
	unsigned frames = 0;

	/* Every group of pictures with counters that begin at 0, as each segment of a real publisher has. */
	for (unsigned g = 0; g < 5; g++) {
		unsigned from = clip_key(&clip, g);
		uint8_t cc[2] = { 0, 0 };

		frames += clip_gop(&clip, from, &end);
		for (size_t at = clip.pes[from].begin; at < end; at += 188) {
			uint8_t *p = clip.data + at;
			int i = ((p[1] & 0x1f) << 8 | p[2]) - CLIP_VIDEO_PID;

			if (i == 0 || i == 1)
				p[3] = (uint8_t)((p[3] & 0xf0) | (cc[i]++ & 15));
		}
		ing_ts_segment_begin(ts, false);
		feed(clip.tables, sizeof(clip.tables), 188);
		feed(clip.data + clip.pes[from].begin, end - clip.pes[from].begin, 1316);
		ing_ts_segment_end(ts, true);
	}
	cr_expect_eq(seen.pes[ING_VIDEO], frames);
	cr_expect_eq(seen.damaged, 0);
	cr_expect_eq(seen.streams[ING_VIDEO], 1, "the same stream is not announced again");
}

Test(ing_ts, a_jump_of_the_counter_discards_nothing)
{
	for (size_t at = 188 * 400; at < clip.bytes; at += 188)
		clip.data[at + 3] = (uint8_t)((clip.data[at + 3] & 0xf0) | ((clip.data[at + 3] + 5) & 15));
	feed(clip.data, clip.bytes, 4096);
	ing_ts_segment_end(ts, true);
	cr_expect_eq(seen.pes[ING_VIDEO], video_pes_count());
	cr_expect_leq(seen.damaged, 2);
}

Test(ing_ts, repeated_packets_are_dropped)
{
	size_t clean[SEEN_MAX];

	feed(clip.data, clip.bytes, 4096);
	ing_ts_segment_end(ts, true);
	memcpy(clean, seen.bytes, sizeof(clean));
	memset(&seen, 0, sizeof(seen));
	ing_ts_segment_begin(ts, false);
	for (size_t at = 0; at < clip.bytes; at += 188) {
		feed(clip.data + at, 188, 188);
		if (at % (188 * 50) == 0 && !(clip.data[at + 1] & 0x40) && !(clip.data[at + 3] & 0x20))
			feed(clip.data + at, 188, 188);
	}
	ing_ts_segment_end(ts, true);
	cr_expect_eq(seen.pes[ING_VIDEO], video_pes_count());
	cr_expect_eq(memcmp(clean, seen.bytes, sizeof(clean)), 0);
}

Test(ing_ts, junk_between_packets_is_skipped)
{
	uint8_t junk[1000];

	srand(7);
	for (size_t i = 0; i < sizeof(junk); i++)
		junk[i] = (uint8_t)rand();
	feed(clip.data, 188 * 1000, 4096);
	feed(junk, 777, 100);
	feed(clip.data + 188 * 1000, clip.bytes - 188 * 1000, 4096);
	ing_ts_segment_end(ts, true);
	cr_expect_geq(seen.pes[ING_VIDEO], video_pes_count() - 2);
	cr_expect_gt(ing_ts_counts(ts)->junk_bytes, 700);
}

Test(ing_ts, pure_junk_is_named)
{
	uint8_t junk[188 * 64];

	srand(8);
	for (size_t i = 0; i < sizeof(junk); i++)
		junk[i] = (uint8_t)rand();
	for (int i = 0; i < 50; i++)
		feed(junk, sizeof(junk), 999);
	cr_expect_eq(seen.pes[ING_VIDEO] + seen.pes[ING_AUDIO], 0);
	cr_expect_not_null(ing_ts_trouble(ts));
}

Test(ing_ts, a_truncated_segment_costs_only_what_was_cut)
{
	unsigned second = clip_key(&clip, 1), frames = 0;
	size_t end, middle = 0;

	for (unsigned i = 0; i < second; i++)
		if (clip.pes[i].pid == CLIP_VIDEO_PID) {
			frames++;
			middle = clip.pes[i].begin + 188; /* in the middle of a frame if it has more packets */
			if (frames == 31)
				break;
		}
	feed(clip.data, middle + 50, 4096);
	ing_ts_segment_end(ts, false);
	cr_expect_leq(seen.pes[ING_VIDEO], 31);
	cr_expect_geq(seen.pes[ING_VIDEO], 30);
	frames = seen.pes[ING_VIDEO] + clip_gop(&clip, second, &end);
	ing_ts_segment_begin(ts, true);
	feed(clip.tables, sizeof(clip.tables), 188);
	feed(clip.data + clip.pes[second].begin, end - clip.pes[second].begin, 4096);
	ing_ts_segment_end(ts, true);
	cr_expect_eq(seen.pes[ING_VIDEO], frames);
	cr_expect_eq(seen.damaged, 0);
}

Test(ing_ts, stuffing_in_mid_frame_is_believed_once)
{
	/* An empty adaptation field of one byte in the second packet of some frames: legal, and no end. */
	uint8_t p[188] = { 0x47, 0x41, 0x00, 0x10, 0, 0, 1, 0xe0, 0, 0, 0x80, 0x80, 5, 0x21, 0, 1, 0, 1 };
	unsigned cc = 0;

	feed(clip.tables, sizeof(clip.tables), 188);
	for (int frame = 0; frame < 20; frame++) {
		p[1] = 0x41;
		for (int k = 0; k < 4; k++) {
			p[3] = (uint8_t)((k == 2 ? 0x30 : 0x10) | (cc++ & 15));
			if (k == 2)
				p[4] = 0;
			else
				memcpy(p + 4, "\0\0\1\xe0", 4);
			feed(p, 188, 188);
			p[1] = 0x01;
		}
	}
	ing_ts_segment_end(ts, true);
	cr_expect_eq(ing_ts_counts(ts)->guesses_wrong, 1);
	cr_expect_eq(seen.pes[ING_VIDEO], 20);
	cr_expect_gt(seen.bytes[10], 184 * 3);
}

Test(ing_ts, a_frame_without_end_stays_bounded)
{
	uint8_t p[188] = { 0x47, 0x41, 0x00, 0x10, 0, 0, 1, 0xe0, 0, 0, 0x80, 0x80, 5, 0x21, 0, 1, 0, 1 };

	feed(clip.tables, sizeof(clip.tables), 188);
	for (unsigned i = 0; i < 100000; i++) {
		p[3] = (uint8_t)(0x10 | (i & 15));
		feed(p, 188, 188);
		p[1] = 0x01;
	}
	cr_expect_eq(seen.pes[ING_VIDEO], 0);
	cr_expect_geq(ing_ts_counts(ts)->pes_dropped, 1);
	p[1] = 0x41;
	p[3] = 0x10;
	feed(p, 188, 188);
	ing_ts_segment_end(ts, true);
	cr_expect_eq(seen.pes[ING_VIDEO], 1, "the next frame is whole again");
}

/* Every byte of the first packets spoiled in turn: nothing may crash; sanitizers see the rest. */
Test(ing_ts, spoiled_tables_and_headers)
{
	uint8_t copy[188 * 40];
	static const uint8_t values[] = { 0x00, 0x01, 0x47, 0x7f, 0x80, 0xff };

	for (size_t at = 0; at < 188 * 8; at++) {
		for (size_t v = 0; v < sizeof(values); v++) {
			memcpy(copy, clip.data, sizeof(copy));
			copy[at] = values[v];
			memset(&seen, 0, sizeof(seen));
			ing_ts_segment_begin(ts, true);
			feed(copy, sizeof(copy), 4096);
			ing_ts_segment_end(ts, true);
		}
	}
	ing_ts_free(&ts);
	ts = ing_ts_new(&callbacks, &seen);
}

Test(ing_ts, sound_tells_that_a_frame_without_stuffing_is_over)
{
	uint8_t v[188] = { 0x47, 0x41, 0x00, 0x10, 0, 0, 1, 0xe0, 0, 0, 0x80, 0x80, 5, 0x21, 0, 1, 0, 1 };
	uint8_t a[188] = { 0x47, 0x41, 0x01, 0x10, 0, 0, 1, 0xc0, 0, 178, 0x80, 0x80, 5, 0x21, 0, 1, 0, 1 };

	feed(clip.tables, sizeof(clip.tables), 188);
	for (unsigned i = 0; i < 40; i++) {
		v[3] = a[3] = (uint8_t)(0x10 | (i & 15));
		feed(v, 188, 188);
		feed(a, 188, 188);
		/* Believed once frames have been seen to lie in one piece. */
		cr_expect_eq(seen.pes[ING_VIDEO], i < 16 ? i : i + 1, "frame %u: %u", i, seen.pes[ING_VIDEO]);
	}
}

/* ---- access units ----------------------------------------------------- */

static struct ing_packets packets;

static unsigned
units(enum AVCodecID codec, enum ing_track track, const uint8_t *data, size_t bytes)
{
	struct ing_es es = { 0 };
	uint8_t copy[4096] = { 0 };
	unsigned n;

	cr_assert_leq(bytes, sizeof(copy) - 64);
	memcpy(copy, data, bytes);
	cr_assert_eq(ing_packets_init(&packets), 0);
	cr_assert_eq(ing_es_open(&es, codec, track), 0);
	ing_es_push(&es, &packets, copy, bytes, 900, 800);
	n = packets.count;
	if (n > 0) {
		cr_expect_eq(ing_packets_head(&packets)->pts, 900);
		cr_expect_eq(ing_packets_head(&packets)->stream_index, (int)track);
	}
	ing_packets_fini(&packets);
	ing_es_close(&es);
	return n;
}

#define UNITS(codec, track, bytes) units(codec, track, (const uint8_t *)(bytes), sizeof(bytes) - 1)

Test(ing_es, access_units)
{
	cr_expect_eq(UNITS(AV_CODEC_ID_H264, ING_VIDEO,
	    "\0\0\0\1\x09\x10\0\0\0\1\x67\1\2\0\0\1\x68\3\0\0\1\x65\x88\1\2\0\0\1\x65\x08\3"), 1);
	cr_expect_eq(UNITS(AV_CODEC_ID_H264, ING_VIDEO, "\0\0\0\1\x09\x10\0\0\1\x65\x88\0\0\0\1\x09\x10\0\0\1\x41\x88\1"), 2);
	cr_expect_eq(UNITS(AV_CODEC_ID_HEVC, ING_VIDEO, "\0\0\0\1\x46\1\0\0\1\x26\1\xaf\0\0\0\1\x46\1\0\0\1\x02\1\xaf\1"), 2);
	cr_expect_eq(UNITS(AV_CODEC_ID_H264, ING_VIDEO, "\0\0\0\1\x41\x9a\xff"), 1);
	cr_expect_eq(UNITS(AV_CODEC_ID_OPUS, ING_AUDIO, "\x7f\xe0\x03\xfc\xff\xfe"), 1);
	cr_expect_eq(UNITS(AV_CODEC_ID_OPUS, ING_AUDIO, "\x7f\xe0\x03\xfc\xff\xfe\x7f\xf0\x03\0\0\xfc\xff\xfe"), 2);
	cr_expect_eq(UNITS(AV_CODEC_ID_OPUS, ING_AUDIO, "\x7f\xe0\x09\xfc\xff\xfe"), 0, "longer than what is there");
	cr_expect_eq(UNITS(AV_CODEC_ID_OPUS, ING_AUDIO, "\x7f\xe0\xff\xff\xff\xff"), 0);
	cr_expect_eq(UNITS(AV_CODEC_ID_OPUS, ING_AUDIO, "junk"), 0);
}

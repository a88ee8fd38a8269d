/* SPDX-License-Identifier: MIT */
/*
 * How much later does a frame come out than it went in?
 *
 * usage: channel_latency IN_URL OUT_URL SECONDS
 *
 * Reads two trickle channels of MPEG-TS at once and notes, for each video frame, its timestamp and when its last byte
 * arrived. The latency of a frame is the time from the moment when a viewer of the input could have shown it (it is
 * there, and so are the frames that come before it: with B-frames that is later than its own arrival) to the moment
 * when a viewer of the output has all of it: what the pipeline adds. SECONDS count from the first frame on OUT_URL; frames that went in earlier
 * than WARM_UP_NS after it are left out, because a session begins at the start of a segment and catches up first.
 *
 * The last byte of a frame is recognised in hindsight, by the packet that begins the next one, but its time was noted
 * when it came. One thread, one clock; arrival is when curl hands the bytes over.
 */
#include "base/assert.h"
#include "base/clock.h"
#include "proto/trickle.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PACKET = 188, FRAMES_MAX = 100000, REORDER_MAX = 16 };
#define WARM_UP_NS (2 * CLOCK_SEC_NS)
#define GIVE_UP_NS (60 * CLOCK_SEC_NS)

struct arrival {
	int64_t pts;
	int64_t at_ns;
};

struct channel {
	uint32_t magic;
#define CHANNEL_MAGIC 0x4c43484eu
	uint8_t rest[PACKET];
	size_t rest_bytes;
	unsigned pid; /* of the video; 0: not seen yet */
	struct arrival open; /* the frame whose packets are coming; pts -1: none */
	struct arrival *frame;
	size_t count;
	int64_t first_ns; /* first byte of the first frame; 0: not yet */
	bool ended;
};

static void
finish_frame(struct channel *c)
{
	if (c->open.pts >= 0 && c->count < FRAMES_MAX)
		c->frame[c->count++] = c->open;
	c->open.pts = -1;
}

/* PTS of the PES that begins in a packet, -1 when it is not video with a PTS. */
static int64_t
video_pts(const uint8_t *p)
{
	unsigned at = 4 + ((p[3] & 0x20) != 0 ? 1u + p[4] : 0);
	const uint8_t *s = p + at;

	if (at + 14 > PACKET || s[0] != 0 || s[1] != 0 || s[2] != 1 || (s[3] & 0xf0) != 0xe0 || (s[7] & 0x80) == 0)
		return -1;
	return (int64_t)(s[9] >> 1 & 7) << 30 | (int64_t)s[10] << 22 | (int64_t)(s[11] >> 1) << 15 |
	    (int64_t)s[12] << 7 | s[13] >> 1;
}

static void
packet(struct channel *c, const uint8_t *p, int64_t now_ns)
{
	unsigned pid = (unsigned)(p[1] & 0x1f) << 8 | p[2];

	if (p[0] != 0x47)
		return;
	if ((p[1] & 0x40) != 0 && (c->pid == 0 || c->pid == pid)) {
		int64_t pts = video_pts(p);

		if (pts >= 0) {
			finish_frame(c);
			c->pid = pid;
			c->open.pts = pts;
			if (c->first_ns == 0)
				c->first_ns = now_ns;
		}
	}
	if (pid == c->pid && c->open.pts >= 0 && (p[3] & 0x10) != 0)
		c->open.at_ns = now_ns;
}

static void
on_data(void *arg, const uint8_t *bytes, size_t count)
{
	struct channel *c = MR_CAST(struct channel, arg, CHANNEL_MAGIC);
	int64_t now_ns = clock_now_ns();

	while (count > 0) {
		size_t n = PACKET - c->rest_bytes < count ? PACKET - c->rest_bytes : count;

		memcpy(c->rest + c->rest_bytes, bytes, n);
		c->rest_bytes += n;
		bytes += n;
		count -= n;
		if (c->rest_bytes == PACKET) {
			packet(c, c->rest, now_ns);
			c->rest_bytes = 0;
		}
	}
}

static void
on_segment_begin(void *arg, int64_t seq, bool gap)
{
	struct channel *c = MR_CAST(struct channel, arg, CHANNEL_MAGIC);

	finish_frame(c);
	c->rest_bytes = 0;
	(void)seq;
	(void)gap;
}

static void
on_segment_end(void *arg, int64_t seq, bool complete)
{
	(void)arg;
	(void)seq;
	(void)complete;
}

static void
on_ended(void *arg, enum trk_end why)
{
	struct channel *c = MR_CAST(struct channel, arg, CHANNEL_MAGIC);

	(void)why;
	c->ended = true;
}

static const struct trk_sub_callbacks callbacks = {
	.segment_begin = on_segment_begin, .data = on_data, .segment_end = on_segment_end, .ended = on_ended,
};

static int
by_pts(const void *a, const void *b)
{
	const struct arrival *x = a, *y = b;

	if (x->pts != y->pts)
		return x->pts < y->pts ? -1 : 1;
	return x->at_ns < y->at_ns ? -1 : x->at_ns > y->at_ns;
}

static int
by_value(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return x < y ? -1 : x > y;
}

/* When the frame with this timestamp could be shown, had one watched the input; the latest such time before
 * `before_ns`, for a clip that repeats its timestamps; 0: it never came. */
static int64_t
shown_in(const struct channel *in, int64_t pts, int64_t before_ns)
{
	size_t low = 0, high = in->count;
	int64_t ready_ns;

	while (low < high) { /* the first entry beyond (pts, before_ns) */
		size_t middle = low + (high - low) / 2;
		const struct arrival *a = &in->frame[middle];

		if (a->pts < pts || (a->pts == pts && a->at_ns <= before_ns))
			low = middle + 1;
		else
			high = middle;
	}
	if (low == 0 || in->frame[low - 1].pts != pts)
		return 0;
	ready_ns = in->frame[low - 1].at_ns;
	for (size_t i = low - 1, back = 0; i > 0 && back < REORDER_MAX; back++) {
		int64_t at_ns = in->frame[--i].at_ns;

		if (at_ns > ready_ns && at_ns < ready_ns + CLOCK_SEC_NS)
			ready_ns = at_ns;
	}
	return ready_ns;
}

static void
report(struct channel *in, const struct channel *out)
{
	int64_t *latency = calloc(FRAMES_MAX, sizeof(*latency));
	int64_t longest_gap_ns = 0;
	size_t matched = 0, unmatched = 0;

	MR_ASSERT(latency != NULL);
	qsort(in->frame, in->count, sizeof(*in->frame), by_pts);
	for (size_t i = 0; i < out->count; i++) {
		int64_t in_ns = shown_in(in, out->frame[i].pts, out->frame[i].at_ns);

		if (out->frame[i].at_ns < out->first_ns + WARM_UP_NS)
			continue;
		if (i > 0 && out->frame[i].at_ns - out->frame[i - 1].at_ns > longest_gap_ns)
			longest_gap_ns = out->frame[i].at_ns - out->frame[i - 1].at_ns;
		if (in_ns == 0)
			unmatched++;
		else if (in_ns >= out->first_ns + WARM_UP_NS)
			latency[matched++] = out->frame[i].at_ns - in_ns;
	}
	qsort(latency, matched, sizeof(*latency), by_value);
	printf("first_in_ns=%lld first_out_ns=%lld in=%zu out=%zu matched=%zu unmatched=%zu longest_gap_ms=%.1f",
	    (long long)in->first_ns, (long long)out->first_ns, in->count, out->count, matched, unmatched,
	    (double)longest_gap_ns / 1e6);
	if (matched > 0)
		printf(" p50_ms=%.2f p90_ms=%.2f p99_ms=%.2f max_ms=%.2f", (double)latency[matched / 2] / 1e6,
		    (double)latency[matched * 9 / 10] / 1e6, (double)latency[matched * 99 / 100] / 1e6,
		    (double)latency[matched - 1] / 1e6);
	printf("\n");
	free(latency);
}

static void
subscribe(struct trk_loop *loop, const char *url, struct channel *c, struct trk_sub **sub)
{
	struct trk_sub_config config = {
		.url = url, .start_seq = -2, .absent_grace_ns = GIVE_UP_NS, .callbacks = &callbacks, .arg = c,
	};

	c->magic = CHANNEL_MAGIC;
	c->open.pts = -1;
	c->frame = calloc(FRAMES_MAX, sizeof(*c->frame));
	MR_ASSERT(c->frame != NULL);
	if (trk_sub_open(loop, &config, sub) < 0) {
		fprintf(stderr, "channel_latency: fatal: unable to subscribe to %s\n", url);
		exit(100);
	}
}

int
main(int argc, char **argv)
{
	static struct channel in, out;
	struct trk_loop_config config = { .tls_verify = false };
	double seconds = argc == 4 ? strtod(argv[3], NULL) : 0;
	struct trk_sub *in_sub, *out_sub;
	struct trk_loop *loop;
	int64_t end_ns;

	if (seconds <= 0) {
		fprintf(stderr, "usage: channel_latency IN_URL OUT_URL SECONDS\n");
		return 100;
	}
	if (trk_loop_new(&config, &loop) < 0)
		return 111;
	subscribe(loop, argv[1], &in, &in_sub);
	subscribe(loop, argv[2], &out, &out_sub);
	end_ns = clock_now_ns() + GIVE_UP_NS;
	while (clock_now_ns() < end_ns && !in.ended && !out.ended) {
		bool had_output = out.first_ns != 0;

		if (trk_loop_turn(loop, NULL, 0, clock_now_ns() + 100 * CLOCK_MS_NS) < 0)
			return 111;
		if (!had_output && out.first_ns != 0)
			end_ns = out.first_ns + (int64_t)(seconds * 1e9);
	}
	trk_sub_close(&in_sub);
	trk_sub_close(&out_sub);
	trk_loop_free(&loop);
	report(&in, &out);
	free(in.frame);
	free(out.frame);
	return out.first_ns != 0 ? 0 : 1;
}

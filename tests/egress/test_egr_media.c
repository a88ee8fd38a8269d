/* SPDX-License-Identifier: MIT */
/*
 * Goal: pictures and sound become a transport stream that joins anywhere: every segment begins with PAT, PMT and an
 *       IDR with its parameter sets, lengths are written, timestamps are the input's.
 * Method: a few hundred synthetic frames through encoder, muxer and segmenter into memory; the packets are read by
 *         hand where the order of bytes matters, and by libavformat for everything else.
 */
#include "base/clock.h"
#include "egress/egr_output.h"
#include "proto/ring_layout.h"

#include <criterion/criterion.h>
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TS = 188, SEGMENTS_MAX = 64, WIDTH = 320, HEIGHT = 240, FPS = 25, SECONDS = 8 };
/* Not a multiple of anything, as a stream that was joined late has it. */
#define FIRST_NS INT64_C(3723456789000)

struct capture {
	uint8_t *bytes;
	size_t count, room;
	size_t segment[SEGMENTS_MAX]; /* where it begins */
	unsigned segments, ends;
	unsigned fail_at; /* the write of that segment fails; 0: none */
};

static void
capture_begin(void *arg)
{
	struct capture *c = arg;

	cr_assert_lt(c->segments, SEGMENTS_MAX);
	c->segment[c->segments++] = c->count;
}

static bool
capture_write(void *arg, const uint8_t *bytes, size_t count)
{
	struct capture *c = arg;

	if (c->fail_at != 0 && c->segments == c->fail_at) {
		c->fail_at = 0;
		return false;
	}
	if (c->count + count > c->room) {
		c->room = (c->count + count) * 2;
		c->bytes = realloc(c->bytes, c->room);
		cr_assert_not_null(c->bytes);
	}
	memcpy(c->bytes + c->count, bytes, count);
	c->count += count;
	return true;
}

static void
capture_end(void *arg)
{
	((struct capture *)arg)->ends++;
}

struct scene {
	struct egr_config config;
	struct stats_page stats;
	struct egr_output output;
	struct capture capture;
	struct egr_view view;
	uint8_t *pixels;
	int64_t pts_ns;
	unsigned frames;
};

static void
scene_begin(struct scene *s, enum format_id format, uint32_t width, uint32_t height)
{
	const struct egr_output_sink sink = { .begin = capture_begin, .write = capture_write, .end = capture_end,
		.arg = &s->capture };

	memset(s, 0, sizeof(*s));
	s->config = (struct egr_config){ .width = 512, .height = 512, .format = format, .detect_out_resolution = true,
		.resume_video_pts_ns = -1, .resume_audio_pts_ns = -1, .frame_deadline_ns = 100 * CLOCK_MS_NS };
	cr_assert_eq(egr_output_init(&s->output, &s->config, &s->stats, &sink), 0);
	s->view = (struct egr_view){ .format = format, .width = width, .height = height };
	cr_assert(format_video_layout(format, width, height, &s->view.layout));
	s->pixels = malloc(s->view.layout.payload_bytes + RING_TAIL_BYTES);
	cr_assert_not_null(s->pixels);
	memset(s->pixels, 0, s->view.layout.payload_bytes + RING_TAIL_BYTES);
	s->view.data = s->pixels;
	s->pts_ns = FIRST_NS;
	s->output.first_input_ns = s->output.last_input_ns = clock_now_ns();
}

static void
scene_end(struct scene *s)
{
	egr_output_fini(&s->output);
	free(s->pixels);
	free(s->capture.bytes);
}

/* Moving noise: packets of real sizes. */
static void
scene_frame(struct scene *s, enum egr_picture picture)
{
	const struct egr_decision d = { .seq = s->frames + 1, .pts_ns = s->pts_ns, .commit_ns = clock_now_ns(),
		.picture = picture };
	uint32_t x = s->frames * 2654435761u;

	for (uint64_t i = 0; i < s->view.layout.payload_bytes && s->view.format != FORMAT_RGBF32P; i += 61) {
		x = x * 1664525 + 1013904223;
		s->pixels[i] = (uint8_t)(x >> 24);
	}
	s->output.last_input_ns = clock_now_ns();
	egr_output_send(&s->output, &d, &s->view, picture == EGR_PICTURE_RESULT ? &s->view : NULL);
	egr_output_tick(&s->output, clock_now_ns());
	s->frames++;
	s->pts_ns = FIRST_NS + s->frames * (CLOCK_SEC_NS / FPS);
}

/* ---- reading bytes ---------------------------------------------------- */

static int
pid_of(const uint8_t *p)
{
	return (p[1] & 0x1f) << 8 | p[2];
}

static const uint8_t *
payload_of(const uint8_t *p)
{
	cr_assert_eq(p[0], 0x47);
	return p + 4 + (p[3] & 0x20 ? 1 + p[4] : 0);
}

/* NAL unit types in the first packet's bytes, as a string of hex digits. */
static void
nal_types(const uint8_t *p, size_t bytes, char *out, size_t room)
{
	size_t n = 0;

	for (size_t i = 0; i + 3 < bytes && n + 1 < room; i++)
		if (p[i] == 0 && p[i + 1] == 0 && p[i + 2] == 1)
			out[n++] = "0123456789abcdef"[p[i + 3] & 0xf];
	out[n] = '\0';
}

static void
check_segment_start(const struct capture *c, unsigned i)
{
	const uint8_t *p = c->bytes + c->segment[i];
	const uint8_t *pes = payload_of(p + 2 * TS);
	char types[32];

	cr_assert_eq(c->segment[i] % TS, 0);
	cr_assert_gt(c->count, c->segment[i] + 4 * TS);
	cr_expect_eq(pid_of(p), 0, "segment %u begins with PID %#x", i, pid_of(p));
	cr_expect_eq(pid_of(p + TS), 0x1000);
	cr_expect_eq(pid_of(p + 2 * TS), 0x100);
	cr_expect(p[2 * TS + 1] & 0x40, "a picture begins");
	cr_expect((p[2 * TS + 3] & 0x20) && (p[2 * TS + 5] & 0x40), "random access indicator");
	cr_expect((p[2 * TS + 5] & 0x10), "PCR");
	cr_assert(pes[0] == 0 && pes[1] == 0 && pes[2] == 1 && pes[3] == 0xe0);
	cr_expect_neq(pes[4] << 8 | pes[5], 0, "PES length");
	nal_types(pes + 9 + pes[8], (size_t)(p + 3 * TS - pes - 9 - pes[8]), types, sizeof(types));
	cr_expect_eq(strncmp(types, "978", 3), 0, "segment %u has NAL units %s", i, types);
}

static void
check_continuity(const struct capture *c)
{
	int last[8192];

	memset(last, -1, sizeof(last));
	for (size_t at = 0; at < c->count; at += TS) {
		const uint8_t *p = c->bytes + at;
		int pid = pid_of(p), counter = p[3] & 15;

		cr_assert_eq(p[0], 0x47);
		cr_assert(pid == 0 || pid == 0x1000 || pid == 0x100 || pid == 0x101, "PID %#x", pid);
		if (last[pid] >= 0 && (p[3] & 0x10))
			cr_expect_eq(counter, (last[pid] + 1) & 15);
		if (p[3] & 0x10)
			last[pid] = counter;
		if (pid == 0x100 && (p[1] & 0x40))
			cr_expect_neq(payload_of(p)[4] << 8 | payload_of(p)[5], 0);
	}
}

/* ---- reading with libavformat ----------------------------------------- */

struct reader {
	AVFormatContext *format;
	const struct capture *capture;
	size_t at;
};

static int
read_bytes(void *arg, uint8_t *to, int room)
{
	struct reader *r = arg;
	size_t left = r->capture->count - r->at;
	size_t n = left < (size_t)room ? left : (size_t)room;

	if (n == 0)
		return AVERROR_EOF;
	memcpy(to, r->capture->bytes + r->at, n);
	r->at += n;
	return (int)n;
}

static void
reader_open(struct reader *r, const struct capture *c)
{
	*r = (struct reader){ .format = avformat_alloc_context(), .capture = c };
	cr_assert_not_null(r->format);
	r->format->pb = avio_alloc_context(av_malloc(4096), 4096, 0, r, read_bytes, NULL, NULL);
	cr_assert_eq(avformat_open_input(&r->format, NULL, av_find_input_format("mpegts"), NULL), 0);
	cr_assert_geq(avformat_find_stream_info(r->format, NULL), 0);
}

static void
reader_close(struct reader *r)
{
	AVIOContext *pb = r->format->pb;

	avformat_close_input(&r->format);
	av_freep(&pb->buffer);
	avio_context_free(&pb);
}

/* Decodes sound and finds the loudest moment. */
static int64_t
loudest_ns(struct reader *r, int stream)
{
	AVCodecContext *decoder = avcodec_alloc_context3(avcodec_find_decoder_by_name("libopus"));
	AVPacket *packet = av_packet_alloc();
	AVFrame *frame = av_frame_alloc();
	int64_t at_ns = -1;
	double most = 0;

	avcodec_parameters_to_context(decoder, r->format->streams[stream]->codecpar);
	decoder->pkt_timebase = r->format->streams[stream]->time_base;
	cr_assert_eq(avcodec_open2(decoder, NULL, NULL), 0);
	while (av_read_frame(r->format, packet) >= 0) {
		if (packet->stream_index == stream)
			avcodec_send_packet(decoder, packet);
		av_packet_unref(packet);
		while (avcodec_receive_frame(decoder, frame) == 0) {
			for (int i = 0; i < frame->nb_samples; i++) {
				double v = frame->format == AV_SAMPLE_FMT_S16 ?
				    ((int16_t *)frame->data[0])[i * frame->ch_layout.nb_channels] / 32768.0 :
				    ((float *)frame->data[0])[i * frame->ch_layout.nb_channels];

				if (fabs(v) > most) {
					most = fabs(v);
					at_ns = av_rescale(frame->pts, 1000000000, 90000) + i * INT64_C(1000000000) / 48000;
				}
			}
		}
	}
	avcodec_free_context(&decoder);
	av_packet_free(&packet);
	av_frame_free(&frame);
	return at_ns;
}

/* ---- tests ------------------------------------------------------------ */

static void
send_sound(struct scene *s, unsigned block, unsigned click_block)
{
	float samples[960 * 2];

	for (unsigned i = 0; i < 960; i++) {
		/* a click in the middle of a block, silence else */
		float v = block == click_block && i >= 480 && i < 490 ? 0.9f : 0.0f;

		samples[2 * i] = samples[2 * i + 1] = v;
	}
	egr_audio_input(s->output.audio, FIRST_NS + block * INT64_C(20000000), samples, 960, 2, clock_now_ns());
}

Test(egr_media, segments_and_timestamps)
{
	static struct scene s;
	struct reader r;
	AVPacket *packet = av_packet_alloc();
	unsigned video = 0, audio = 0;
	int64_t last = -1;

	scene_begin(&s, FORMAT_RGB24, WIDTH, HEIGHT);
	egr_output_open_audio(&s.output, 2);
	for (unsigned i = 0; i < SECONDS * FPS; i++) {
		send_sound(&s, 2 * i, 0);
		send_sound(&s, 2 * i + 1, 0);
		scene_frame(&s, EGR_PICTURE_RESULT);
	}
	egr_output_finish(&s.output);
	cr_assert_eq(s.capture.segments, SECONDS / 2);
	cr_assert_eq(s.capture.ends, s.capture.segments);
	for (unsigned i = 0; i < s.capture.segments; i++)
		check_segment_start(&s.capture, i);
	check_continuity(&s.capture);

	reader_open(&r, &s.capture);
	cr_assert_eq(r.format->nb_streams, 2);
	cr_expect_eq(r.format->streams[0]->id, 0x100);
	cr_expect_eq(r.format->streams[0]->codecpar->codec_id, AV_CODEC_ID_H264);
	cr_expect_eq(r.format->streams[0]->codecpar->width, WIDTH);
	cr_expect_eq(r.format->streams[0]->codecpar->color_space, AVCOL_SPC_SMPTE170M);
	cr_expect_eq(r.format->streams[0]->codecpar->color_range, AVCOL_RANGE_MPEG);
	cr_expect_eq(r.format->streams[1]->id, 0x101);
	cr_expect_eq(r.format->streams[1]->codecpar->codec_id, AV_CODEC_ID_OPUS);
	cr_expect_eq(r.format->streams[1]->codecpar->ch_layout.nb_channels, 2);
	while (av_read_frame(r.format, packet) >= 0) {
		if (packet->stream_index == 0) {
			int64_t ns = FIRST_NS + video * (CLOCK_SEC_NS / FPS);

			cr_expect_eq(packet->pts, egr_ticks_from_ns(ns), "frame %u", video);
			cr_expect_eq(packet->dts, packet->pts);
			cr_expect_eq((packet->flags & AV_PKT_FLAG_KEY) != 0, video % (2 * FPS) == 0, "frame %u", video);
			video++;
		} else {
			cr_expect_gt(packet->pts, last);
			last = packet->pts;
			audio++;
		}
		av_packet_unref(packet);
	}
	cr_expect_eq(video, SECONDS * FPS);
	cr_expect_eq(audio, SECONDS * 50, "%u packets of sound, %llu sent", audio, (unsigned long long)stats_get(&s.stats, EGRESS_audio_out));
	cr_expect_eq(stats_get(&s.stats, EGRESS_frames_processed), SECONDS * FPS);
	cr_expect_eq(stats_get(&s.stats, EGRESS_segments_out), SECONDS / 2);
	cr_expect_eq(stats_get(&s.stats, EGRESS_bytes_out), s.capture.count);
	av_packet_free(&packet);
	reader_close(&r);
	scene_end(&s);
}

Test(egr_media, sound_is_where_it_was)
{
	static struct scene s;
	struct reader r;
	int64_t at_ns, wanted_ns = FIRST_NS + 101 * INT64_C(20000000) + 485 * INT64_C(1000000000) / 48000;

	scene_begin(&s, FORMAT_RGB24, WIDTH, HEIGHT);
	egr_output_open_audio(&s.output, 2);
	for (unsigned i = 0; i < 4 * FPS; i++) {
		send_sound(&s, 2 * i, 101);
		send_sound(&s, 2 * i + 1, 101);
		scene_frame(&s, EGR_PICTURE_INPUT);
	}
	egr_output_finish(&s.output);
	reader_open(&r, &s.capture);
	at_ns = loudest_ns(&r, 1);
	cr_expect_lt(llabs(at_ns - wanted_ns), 3000000, "off by %lld us", (long long)(at_ns - wanted_ns) / 1000);
	reader_close(&r);
	scene_end(&s);
}

Test(egr_media, without_sound)
{
	static struct scene s;
	struct reader r;

	scene_begin(&s, FORMAT_RGB24, WIDTH, HEIGHT);
	s.output.first_input_ns -= CLOCK_SEC_NS;
	for (unsigned i = 0; i < FPS; i++)
		scene_frame(&s, EGR_PICTURE_INPUT);
	egr_output_open_audio(&s.output, 2); /* too late */
	cr_expect_null(s.output.audio);
	scene_frame(&s, EGR_PICTURE_INPUT);
	egr_output_finish(&s.output);
	reader_open(&r, &s.capture);
	cr_expect_eq(r.format->nb_streams, 1);
	reader_close(&r);
	scene_end(&s);
}

/* The tracks are not known yet: packets wait, cuts are kept. */
Test(egr_media, packets_wait_for_the_tracks)
{
	static struct scene s;

	scene_begin(&s, FORMAT_RGB24, WIDTH, HEIGHT);
	s.output.first_input_ns += 3600 * CLOCK_SEC_NS;
	for (unsigned i = 0; i < 3 * FPS; i++)
		scene_frame(&s, EGR_PICTURE_RESULT);
	cr_expect_eq(s.capture.count, 0);
	egr_output_open_audio(&s.output, 1);
	scene_frame(&s, EGR_PICTURE_RESULT);
	egr_output_finish(&s.output);
	cr_assert_eq(s.capture.segments, 2);
	check_segment_start(&s.capture, 0);
	check_segment_start(&s.capture, 1);
	scene_end(&s);
}

/* A dropped segment: the next frame that may begins a new one. */
Test(egr_media, dropped_segment_begins_anew)
{
	static struct scene s;

	scene_begin(&s, FORMAT_RGB24, WIDTH, HEIGHT);
	s.output.first_input_ns -= CLOCK_SEC_NS;
	s.capture.fail_at = 1;
	for (unsigned i = 0; i < 10; i++)
		scene_frame(&s, EGR_PICTURE_RESULT);
	cr_expect_eq(s.capture.segments, 1);
	s.output.segment_retry_ns = 0;
	scene_frame(&s, EGR_PICTURE_RESULT);
	cr_assert_eq(s.capture.segments, 2);
	check_segment_start(&s.capture, 1);
	cr_expect_eq(stats_get(&s.stats, EGRESS_segments_failed), 1);
	scene_end(&s);
}

/* All formats, odd sizes, every kind of picture; floats beyond 0..1 and worse are clamped. */
Test(egr_media, formats_and_sizes)
{
	static struct scene s;

	for (int format = FORMAT_RGB24; format < FORMAT_VIDEO_COUNT; format++) {
		bool yuv = format == FORMAT_NV12 || format == FORMAT_I420;
		struct reader r;

		scene_begin(&s, (enum format_id)format, yuv ? 130 : 131, yuv ? 98 : 97);
		s.output.first_input_ns -= CLOCK_SEC_NS;
		if (format == FORMAT_RGBF32P) {
			float *f = (float *)s.pixels;

			for (unsigned i = 0; i < s.view.layout.payload_bytes / 4; i++)
				f[i] = i % 5 == 0 ? NAN : i % 5 == 1 ? INFINITY : i % 5 == 2 ? -1e30f : (float)i;
		}
		for (unsigned i = 0; i < 5; i++)
			for (int picture = EGR_PICTURE_RESULT; picture <= EGR_PICTURE_SLATE; picture++)
				scene_frame(&s, (enum egr_picture)picture);
		egr_output_finish(&s.output);
		cr_expect_eq(stats_get(&s.stats, EGRESS_frames_out), 20, "format %s", format_name(format));
		reader_open(&r, &s.capture);
		cr_expect_eq(r.format->streams[0]->codecpar->width, 130);
		cr_expect_eq(r.format->streams[0]->codecpar->height, yuv ? 98 : 96);
		cr_expect_eq(r.format->streams[0]->codecpar->color_space, yuv ? AVCOL_SPC_BT709 : AVCOL_SPC_SMPTE170M);
		reader_close(&r);
		scene_end(&s);
	}
}

/* The output keeps its size when results change theirs. */
Test(egr_media, size_is_kept)
{
	static struct scene s;
	struct egr_view larger;
	struct reader r;
	struct egr_decision d = { .seq = 1000, .picture = EGR_PICTURE_RESULT };

	scene_begin(&s, FORMAT_RGB24, WIDTH, HEIGHT);
	s.output.first_input_ns -= CLOCK_SEC_NS;
	scene_frame(&s, EGR_PICTURE_RESULT);
	larger = (struct egr_view){ .format = FORMAT_RGB24, .width = 640, .height = 480 };
	cr_assert(format_video_layout(FORMAT_RGB24, 640, 480, &larger.layout));
	larger.data = calloc(1, larger.layout.payload_bytes + RING_TAIL_BYTES);
	cr_assert_not_null(larger.data);
	d.pts_ns = s.pts_ns;
	egr_output_send(&s.output, &d, &s.view, &larger);
	egr_output_finish(&s.output);
	cr_expect_eq(stats_get(&s.stats, EGRESS_frames_processed), 2);
	reader_open(&r, &s.capture);
	cr_expect_eq(r.format->streams[0]->codecpar->width, WIDTH);
	reader_close(&r);
	free((void *)(uintptr_t)larger.data);
	scene_end(&s);
}

/* Pictures are repeated and silence is sent while the input pauses. */
Test(egr_media, pause_keeps_segments_flowing)
{
	static struct scene s;
	int64_t now_ns;

	scene_begin(&s, FORMAT_RGB24, WIDTH, HEIGHT);
	egr_output_open_audio(&s.output, 2);
	scene_frame(&s, EGR_PICTURE_INPUT);
	now_ns = s.output.last_input_ns;
	for (unsigned i = 0; i < 600; i++)
		egr_output_tick(&s.output, now_ns += 10 * CLOCK_MS_NS);
	cr_assert_geq(s.capture.segments, 3);
	for (unsigned i = 0; i < s.capture.segments; i++)
		check_segment_start(&s.capture, i);
	cr_expect_geq(stats_get(&s.stats, EGRESS_frames_held), 24);
	cr_expect_leq(stats_get(&s.stats, EGRESS_frames_held), 27);
	cr_expect_gt(stats_get(&s.stats, EGRESS_audio_silence), 200);
	egr_output_finish(&s.output);
	scene_end(&s);
}

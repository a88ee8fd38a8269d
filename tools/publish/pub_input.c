/* SPDX-License-Identifier: MIT */
/*
 * The input
 *
 * The reader thread owns the FFmpeg contexts after pub_input_start(); the queue between it and the main thread is the
 * only thing shared, under one mutex, with an eventfd that follows "there is something to look at".
 *
 * Timeline: everything is brought to 1/90000 s. MPEG-TS keeps its own timestamps; other inputs may begin below zero,
 * which MPEG-TS cannot say, and are moved by a second. Each further pass of --loop is moved by the length of the
 * first, from the earliest packet of any track to the end of the last, in decoding or in presentation order, whichever
 * is longer. The input is opened anew for it, which works for everything, where seeking does not. Timestamps that are
 * missing (a raw stream) are counted from the frame rate.
 *
 * The thread is asked to stop wherever it can be asked; a read of standard input that hangs cannot, and then only the
 * end of the process ends it.
 */
#include "base/clock.h"
#include "base/fd.h"
#include "tools/publish/pub_input.h"

#include <errno.h>
#include <libavutil/avutil.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define PUB_QUEUE_COUNT 256

struct pub_span {
	int64_t start_90k, end_90k;
};

struct pub_input {
	/* immutable after open */
	const struct pub_options *options;
	struct pub_track tracks[PUB_TRACK_COUNT_MAX];
	int track_count;
	bool is_file;
	char note[256];
	/* reader thread only */
	AVFormatContext *av;
	int64_t offset_90k;		       /* of this pass */
	struct pub_span dts, pts;	       /* of the input, before the offset */
	int64_t next_dts[PUB_TRACK_COUNT_MAX]; /* for packets without one */
	bool first;			       /* the next packet begins a pass */
	bool wait_key;			       /* nothing before the first keyframe of a pass is of use */
	/* under the mutex */
	pthread_mutex_t mutex;
	pthread_cond_t room;
	struct pub_packet queue[PUB_QUEUE_COUNT];
	unsigned head, count;
	bool over;
	char error[160];
	/* main thread only */
	int event_fd;
	pthread_t thread;
	bool started;
	/* set by the main thread, read by the reader wherever it may wait */
	_Atomic bool stop;
};

#define PUB_JOIN_NS (500 * CLOCK_MS_NS)

/* ---- opening ---------------------------------------------------------- */

static int
av_open(const struct pub_options *options, AVFormatContext **out, char *why, size_t bytes)
{
	bool is_stdin = strcmp(options->input, "-") == 0;
	const AVInputFormat *format = options->format ? av_find_input_format(options->format) : NULL;
	AVDictionary *dict = NULL;
	int r;

	if (options->format != NULL && format == NULL) {
		snprintf(why, bytes, "FFmpeg has no input format %s; `ffmpeg -formats` lists them", options->format);
		return -1;
	}
	if (is_stdin) /* live: what arrives in a second has to be enough to know the streams */
		av_dict_set(&dict, "analyzeduration", "1000000", 0);
	r = avformat_open_input(out, is_stdin ? "pipe:0" : options->input, format, &dict);
	av_dict_free(&dict);
	if (r >= 0)
		r = avformat_find_stream_info(*out, NULL);
	if (r >= 0)
		return 0;
	avformat_close_input(out);
	if (r == AVERROR_INVALIDDATA)
		snprintf(why, bytes, "not a media stream that FFmpeg knows");
	else if (r == AVERROR_EOF)
		snprintf(why, bytes, "it is empty");
	else
		snprintf(why, bytes, "%s", av_err2str(r));
	return -1;
}

int
pub_input_open(const struct pub_options *options, struct pub_input **out, char *why, size_t why_bytes)
{
	struct pub_input *in = calloc(1, sizeof(*in));

	if (in == NULL) {
		snprintf(why, why_bytes, "out of memory");
		return -1;
	}
	in->options = options;
	in->first = true;
	in->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (in->event_fd == -1) {
		snprintf(why, why_bytes, "%s", strerror(errno));
		goto free_in;
	}
	if (av_open(options, &in->av, why, why_bytes) != 0)
		goto close_event;
	in->offset_90k = strcmp(in->av->iformat->name, "mpegts") == 0 ? 0 : 90000;
	in->dts = in->pts = (struct pub_span){ .start_90k = INT64_MAX, .end_90k = INT64_MIN };
	in->is_file = in->av->pb != NULL && (in->av->pb->seekable & AVIO_SEEKABLE_NORMAL);
	in->track_count = pub_tracks_choose(in->tracks, in->av, why, in->note, sizeof(in->note));
	if (in->track_count < 0)
		goto close_av;
	in->wait_key = in->tracks[0].video; /* video comes first, if there is any */
	pthread_mutex_init(&in->mutex, NULL);
	pthread_cond_init(&in->room, NULL);
	*out = in;
	return 0;
close_av:
	avformat_close_input(&in->av);
close_event:
	fd_close(&in->event_fd);
free_in:
	free(in);
	return -1;
}

const char *
pub_input_note(const struct pub_input *in)
{
	return in->note;
}

const struct pub_track *
pub_input_tracks(const struct pub_input *in, int *count)
{
	*count = in->track_count;
	return in->tracks;
}

bool
pub_input_is_file(const struct pub_input *in)
{
	return in->is_file;
}

/* ---- the reader thread ------------------------------------------------ */

static bool
stopping(struct pub_input *in)
{
	/* relaxed: nothing is read that depends on it; the mutex orders the queue */
	return atomic_load_explicit(&in->stop, memory_order_relaxed);
}

static void
event_signal(struct pub_input *in)
{
	uint64_t one = 1;

	(void)!write(in->event_fd, &one, sizeof(one));
}

static void
queue_put(struct pub_input *in, AVPacket *av_consume, int track)
{
	struct pub_packet *at;

	pthread_mutex_lock(&in->mutex);
	while (in->count == PUB_QUEUE_COUNT && !stopping(in))
		pthread_cond_wait(&in->room, &in->mutex);
	if (stopping(in)) {
		pthread_mutex_unlock(&in->mutex);
		av_packet_free(&av_consume);
		return;
	}
	at = &in->queue[(in->head + in->count) % PUB_QUEUE_COUNT];
	*at = (struct pub_packet){ .av = av_consume, .track = track, .first = in->first };
	in->first = false;
	if (in->count++ == 0)
		event_signal(in);
	pthread_mutex_unlock(&in->mutex);
}

static void
span_add(struct pub_span *span, int64_t at, int64_t duration)
{
	if (at < span->start_90k)
		span->start_90k = at;
	if (at + duration > span->end_90k)
		span->end_90k = at + duration;
}

static void
timeline_apply(struct pub_input *in, int index, AVPacket *p)
{
	const struct pub_track *track = &in->tracks[index];
	const AVRational unit = { 1, 90000 };

	av_packet_rescale_ts(p, track->time_base, unit);
	p->time_base = unit;
	if (p->duration <= 0)
		p->duration = track->frame_90k;
	if (p->dts == AV_NOPTS_VALUE)
		p->dts = p->pts != AV_NOPTS_VALUE && in->next_dts[index] == 0 ? p->pts : in->next_dts[index];
	if (p->pts == AV_NOPTS_VALUE)
		p->pts = p->dts;
	in->next_dts[index] = p->dts + p->duration;
	span_add(&in->dts, p->dts, p->duration);
	span_add(&in->pts, p->pts, p->duration);
	p->pts += in->offset_90k;
	p->dts += in->offset_90k;
}

static void
packet_hand_on(struct pub_input *in, int index, AVPacket *av_consume)
{
	if (in->tracks[index].video && (av_consume->flags & AV_PKT_FLAG_KEY))
		in->wait_key = false;
	if (in->wait_key) {
		av_packet_free(&av_consume);
		return;
	}
	timeline_apply(in, index, av_consume);
	if (av_consume->dts < 0) { /* more than a second below zero: nothing would show it */
		av_packet_free(&av_consume);
		return;
	}
	queue_put(in, av_consume, index);
}

static int
packet_filter(struct pub_input *in, int index, AVPacket *av_consume)
{
	struct pub_track *track = &in->tracks[index];
	AVPacket *out;
	int r;

	if (track->bsf == NULL) {
		packet_hand_on(in, index, av_consume);
		return 0;
	}
	r = av_bsf_send_packet(track->bsf, av_consume);
	av_packet_free(&av_consume);
	while (r >= 0) {
		out = av_packet_alloc();
		if (out == NULL)
			return AVERROR(ENOMEM);
		r = av_bsf_receive_packet(track->bsf, out);
		if (r >= 0)
			packet_hand_on(in, index, out);
		else
			av_packet_free(&out);
	}
	return r == AVERROR(EAGAIN) || r == AVERROR_EOF || r == AVERROR_INVALIDDATA ? 0 : r;
}

static int
track_of(const struct pub_input *in, int stream_index)
{
	for (int i = 0; i < in->track_count; i++)
		if (in->tracks[i].stream_index == stream_index)
			return i;
	return -1;
}

/* One pass over the input: AVERROR_EOF at its end, or what went wrong. */
static int
pass_read(struct pub_input *in)
{
	int r, index;

	for (;;) {
		AVPacket *p = av_packet_alloc();

		if (p == NULL)
			return AVERROR(ENOMEM);
		r = stopping(in) ? AVERROR_EXIT : av_read_frame(in->av, p);
		index = r >= 0 ? track_of(in, p->stream_index) : -1;
		if (r < 0 || index < 0 || p->size == 0) {
			av_packet_free(&p);
			if (r < 0)
				return r;
			continue;
		}
		r = packet_filter(in, index, p);
		if (r < 0)
			return r;
	}
}

/* Opens the input again for the next pass. The tracks stay what they are. */
static int
pass_rewind(struct pub_input *in, char *why, size_t bytes)
{
	int64_t by_dts, by_pts;

	avformat_close_input(&in->av);
	if (in->dts.end_90k <= in->dts.start_90k) {
		snprintf(why, bytes, "nothing in it can be sent, so there is nothing to repeat");
		return -1;
	}
	by_dts = in->dts.end_90k - in->dts.start_90k;
	by_pts = in->pts.end_90k - in->pts.start_90k;
	for (int i = 0; i < in->track_count; i++) {
		in->next_dts[i] = 0;
		if (in->tracks[i].bsf != NULL)
			av_bsf_flush(in->tracks[i].bsf);
	}
	in->offset_90k += by_dts > by_pts ? by_dts : by_pts;
	in->first = true;
	in->wait_key = in->tracks[0].video;
	return av_open(in->options, &in->av, why, bytes);
}

static void *
reader_main(void *arg)
{
	struct pub_input *in = arg;
	char why[sizeof(in->error)] = "";
	int r;

	do {
		r = pass_read(in);
	} while (r == AVERROR_EOF && in->options->loop && pass_rewind(in, why, sizeof(why)) == 0);
	if (r != AVERROR_EOF)
		snprintf(why, sizeof(why), "%s", av_err2str(r));
	pthread_mutex_lock(&in->mutex);
	in->over = true;
	memcpy(in->error, why, sizeof(why));
	event_signal(in);
	pthread_mutex_unlock(&in->mutex);
	return NULL;
}

int
pub_input_start(struct pub_input *in)
{
	int r = pthread_create(&in->thread, NULL, reader_main, in);

	in->started = r == 0;
	return -r;
}

static bool
reader_join(struct pub_input *in)
{
	int64_t until = clock_now_ns() + PUB_JOIN_NS;
	struct timespec limit = { .tv_sec = until / CLOCK_SEC_NS, .tv_nsec = until % CLOCK_SEC_NS };

	if (!in->started)
		return true;
	pthread_mutex_lock(&in->mutex);
	/* relaxed: see stopping() */
	atomic_store_explicit(&in->stop, true, memory_order_relaxed);
	pthread_cond_signal(&in->room);
	pthread_mutex_unlock(&in->mutex);
	return pthread_clockjoin_np(in->thread, NULL, CLOCK_MONOTONIC, &limit) == 0;
}

bool
pub_input_close(struct pub_input **inp)
{
	struct pub_input *in = *inp;

	if (in == NULL)
		return true;
	if (!reader_join(in))
		return false;
	*inp = NULL;
	while (in->count > 0)
		pub_input_pop(in);
	avformat_close_input(&in->av);
	pub_tracks_fini(in->tracks, in->track_count);
	pthread_cond_destroy(&in->room);
	pthread_mutex_destroy(&in->mutex);
	fd_close(&in->event_fd);
	free(in);
	return true;
}

/* ---- the main thread -------------------------------------------------- */

int
pub_input_fd(const struct pub_input *in)
{
	return in->event_fd;
}

const struct pub_packet *
pub_input_peek(struct pub_input *in, bool *over)
{
	const struct pub_packet *packet = NULL;
	uint64_t count;

	pthread_mutex_lock(&in->mutex);
	if (in->count > 0)
		packet = &in->queue[in->head]; /* stays where it is until it is popped, by this thread */
	else
		(void)!read(in->event_fd, &count, sizeof(count));
	*over = in->over && in->count == 0;
	pthread_mutex_unlock(&in->mutex);
	return packet;
}

void
pub_input_pop(struct pub_input *in)
{
	AVPacket *av;

	pthread_mutex_lock(&in->mutex);
	av = in->queue[in->head].av;
	in->head = (in->head + 1) % PUB_QUEUE_COUNT;
	in->count--;
	pthread_cond_signal(&in->room);
	pthread_mutex_unlock(&in->mutex);
	av_packet_free(&av);
}

const char *
pub_input_error(const struct pub_input *in)
{
	return in->error[0] ? in->error : NULL; /* written once, before `over` was seen under the mutex */
}

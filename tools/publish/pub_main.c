/* SPDX-License-Identifier: MIT */
/*
 * millrace publish
 *
 * One loop: packets that are due go from the input through the cutter into the publisher's queue, then the trickle loop
 * runs, which waits for the network, the input, a signal, or the moment the next packet is due. When the queue is not
 * taken by the server the input is not read, so memory is bounded and nothing of a file is lost.
 *
 * Real time is kept by the decoding timestamps. When they fall behind by more than a moment (the network was away) or
 * jump, the clock starts again from there: what follows is played at its own speed, not in a burst.
 *
 * The end, by the input's end or by a signal: the last segment is finished and answered, readers get a moment to read
 * it, the channel is closed.
 */
#include "base/clock.h"
#include "base/log.h"
#include "tools/publish/pub_cut.h"
#include "tools/publish/pub_input.h"
#include "tools/publish/pub_options.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define PUB_QUEUED_MAX	  (512u << 10) /* of the publisher, before the input is left alone */
#define PUB_BATCH_MAX	  32	       /* packets between two turns of the loop */
#define PUB_LATE_NS_MAX	  (3 * CLOCK_SEC_NS)
#define PUB_JUMP_NS_MAX	  (10 * CLOCK_SEC_NS)
#define PUB_FLUSH_NS_MAX  (10 * CLOCK_SEC_NS) /* without a byte being taken, at the end of the input */
#define PUB_STOP_NS_MAX	  (2 * CLOCK_SEC_NS)  /* likewise, when somebody waits for the program to stop */

enum { EXIT_CLOSED = 1, EXIT_BAD = 100, EXIT_SYSTEM = 111 };

struct publish {
	struct pub_options options;
	struct pub_input *input;
	struct pub_cut *cut;
	struct trk_loop *loop;
	struct trk_pub *pub;
	int signal_fd;
	bool realtime, anchored, stop, ended;
	enum trk_end why;
	int64_t anchor_ns, anchor_90k, last_90k;
	char told[96]; /* the trouble that was told last */
};

static int
fail(int code, const char *object, const char *why)
{
	fprintf(stderr, "millrace publish: %s: %s\n", object, why);
	return code;
}

/* ---- what the publisher says ------------------------------------------ */

static void
on_ended(void *arg, enum trk_end why)
{
	struct publish *p = arg;

	p->ended = true;
	p->why = why;
}

static void
on_state(void *arg, const char *state, const char *detail)
{
	struct publish *p = arg;

	if (strcmp(state, "retrying") != 0) {
		if (p->told[0] != '\0' || (p->options.verbose && strcmp(state, "waiting") == 0))
			fprintf(stderr, "millrace publish: %s: connected\n", p->options.url);
		p->told[0] = '\0';
		return;
	}
	if (strcmp(p->told, detail) == 0)
		return;
	snprintf(p->told, sizeof(p->told), "%s", detail);
	fprintf(stderr, "millrace publish: %s: %s; trying again\n", p->options.url, detail);
}

static void
on_segment_done(void *arg, int64_t seq, bool ok)
{
	struct publish *p = arg;

	if (!ok)
		fprintf(stderr, "millrace publish: segment %" PRId64 " broke off; going on with the next keyframe\n", seq);
	else if (p->options.verbose)
		fprintf(stderr, "millrace publish: segment %" PRId64 " is published\n", seq);
}

static const struct trk_pub_callbacks callbacks = {
	.segment_done = on_segment_done, .ended = on_ended, .state = on_state,
};

/* ---- the loop --------------------------------------------------------- */

static void
signals_read(struct publish *p)
{
	struct signalfd_siginfo info;

	while (read(p->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (p->stop)
			_exit(128 + (int)info.ssi_signo); /* asked twice: at once */
		p->stop = true;
	}
}

/* One turn. 0, or an exit code. */
static int
turn(struct publish *p, bool want_input, int64_t deadline_ns)
{
	struct pollfd fds[2] = {
		{ .fd = p->signal_fd, .events = POLLIN }, { .fd = pub_input_fd(p->input), .events = POLLIN },
	};
	int r = trk_loop_turn(p->loop, fds, want_input ? 2 : 1, deadline_ns);

	if (r != 0)
		return fail(EXIT_SYSTEM, "waiting", strerror(-r));
	if (fds[0].revents != 0)
		signals_read(p);
	return 0;
}

/* When a packet is to go out. */
static int64_t
due_ns(struct publish *p, const AVPacket *packet, int64_t now)
{
	int64_t due = p->anchor_ns + (packet->dts - p->anchor_90k) * 100000 / 9;
	int64_t step = (packet->dts - p->last_90k) * 100000 / 9;

	if (!p->anchored || now - due > PUB_LATE_NS_MAX || step > PUB_JUMP_NS_MAX || step < -PUB_JUMP_NS_MAX) {
		p->anchored = true;
		p->anchor_ns = due = now;
		p->anchor_90k = packet->dts;
	}
	return due;
}

static void
segment_say(const struct publish *p)
{
	const struct pub_cut_stats *s = pub_cut_get_stats(p->cut);

	if (p->options.verbose)
		fprintf(stderr, "millrace publish: %" PRIu64 " frames, %.2f s, %" PRIu64 " kB\n", s->last_frames,
		    (double)s->last_ns / 1e9, s->last_bytes / 1000);
}

/* Sends what is due. *wait_ns: when to come back; *over: there will be no more. 0 or an exit code. */
static int
packets_send(struct publish *p, int64_t *wait_ns, bool *want_input, bool *over)
{
	struct trk_pub_stats stats;
	const struct pub_packet *packet;

	*want_input = false;
	for (int i = 0; i < PUB_BATCH_MAX; i++) {
		int64_t now = clock_now_ns(), due;
		int r;

		packet = pub_input_peek(p->input, over);
		if (packet == NULL) {
			*want_input = true;
			*wait_ns = now + CLOCK_SEC_NS;
			return 0;
		}
		trk_pub_get_stats(p->pub, &stats);
		due = p->realtime ? due_ns(p, packet->av, now) : now;
		if (due > now || stats.queued_bytes > PUB_QUEUED_MAX) {
			*wait_ns = due > now ? due : now + 50 * CLOCK_MS_NS;
			return 0;
		}
		p->last_90k = packet->av->dts;
		r = pub_cut_packet(p->cut, packet);
		if (r < 0)
			return fail(EXIT_SYSTEM, "muxing", strerror(-r));
		if (r == PUB_CUT_SEGMENT)
			segment_say(p);
		pub_input_pop(p->input);
	}
	*wait_ns = 0;
	return 0;
}

static int
publish_run(struct publish *p)
{
	bool over = false, want_input;
	int64_t wait_ns;
	int r = 0;

	while (r == 0 && !p->stop && !p->ended) {
		r = packets_send(p, &wait_ns, &want_input, &over);
		if (r != 0 || over)
			break;
		r = turn(p, want_input, wait_ns);
	}
	pub_cut_end(p->cut);
	if (pub_cut_get_stats(p->cut)->packets > 0)
		segment_say(p);
	return r;
}

/* Until everything is answered. 0, or an exit code. */
static int
publish_flush(struct publish *p)
{
	int64_t progress_ns = clock_now_ns();
	struct trk_pub_stats stats;
	uint64_t moved = 0;
	int r = 0;

	while (r == 0 && !p->ended && !trk_pub_idle(p->pub)) {
		int64_t now = clock_now_ns();

		trk_pub_get_stats(p->pub, &stats);
		if (stats.bytes + stats.segments != moved)
			progress_ns = now;
		moved = stats.bytes + stats.segments;
		if (now - progress_ns > (p->stop ? PUB_STOP_NS_MAX : PUB_FLUSH_NS_MAX))
			return fail(EXIT_SYSTEM, p->options.url, "does not take the rest; given up");
		r = turn(p, false, now + CLOCK_SEC_NS);
	}
	return r;
}

static int
publish_close(struct publish *p)
{
	int64_t until = clock_now_ns() + p->options.linger_ns;
	int r = publish_flush(p);

	if (r != 0 || p->ended || p->options.keep)
		return r;
	while (r == 0 && !p->ended && clock_now_ns() < until)
		r = turn(p, false, until);
	trk_pub_delete_channel(p->pub);
	return r == 0 && !p->ended ? publish_flush(p) : r;
}

/* ---- opening ---------------------------------------------------------- */

/* From here on the signals that end a program are read, not suffered. */
static int
signals_open(struct publish *p)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	(void)pthread_sigmask(SIG_BLOCK, &set, NULL);
	p->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return p->signal_fd == -1 ? -1 : 0;
}

static int
publisher_open(struct publish *p)
{
	struct trk_loop_config loop = { .tls_verify = p->options.tls_verify, .ca_file = p->options.ca_file };
	struct trk_pub_config config = {
		.url = p->options.url, .mime = "video/MP2T", .create = true, .resume = true, .preconnect = true,
		.absent_grace_ns = 10 * CLOCK_SEC_NS, .callbacks = &callbacks, .arg = p,
	};
	int r = trk_loop_new(&loop, &p->loop);

	if (r != 0)
		return fail(EXIT_BAD, p->options.ca_file ? p->options.ca_file : "network", strerror(-r));
	r = trk_pub_open(p->loop, &config, &p->pub);
	if (r != 0)
		return fail(EXIT_BAD, p->options.url, "not a channel's URL, such as http://127.0.0.1:2939/camera");
	return 0;
}

static int
publish_open(struct publish *p)
{
	const struct pub_track *tracks;
	char why[400];
	int count, r;

	r = publisher_open(p);
	if (r != 0)
		return r;
	if (pub_input_open(&p->options, &p->input, why, sizeof(why)) != 0)
		return fail(EXIT_BAD, p->options.input, why);
	if (pub_input_note(p->input)[0] != '\0')
		fprintf(stderr, "millrace publish: %s: %s; it is left out\n", p->options.input, pub_input_note(p->input));
	if (p->options.loop && !pub_input_is_file(p->input))
		return fail(EXIT_BAD, p->options.input, "cannot be rewound, so --loop is not possible");
	p->realtime = p->options.speed == PUB_SPEED_REALTIME ||
	    (p->options.speed == PUB_SPEED_AUTO && strcmp(p->options.input, "-") != 0 && pub_input_is_file(p->input));
	tracks = pub_input_tracks(p->input, &count);
	if (signals_open(p) != 0)
		return fail(EXIT_SYSTEM, "signals", strerror(errno));
	if (pub_cut_new(p->pub, tracks, count, p->options.segment_ns, &p->cut) != 0)
		return fail(EXIT_SYSTEM, "muxing", "out of memory");
	r = pub_input_start(p->input);
	return r != 0 ? fail(EXIT_SYSTEM, "reading", strerror(-r)) : 0;
}

/* The word for the end, once nothing failed on the way. */
static int
publish_verdict(const struct publish *p)
{
	if (p->ended && p->why == TRK_END_ABSENT)
		return fail(EXIT_CLOSED, p->options.url, "there is no such channel, and the server does not make one");
	if (p->ended)
		return fail(EXIT_CLOSED, p->options.url, "the channel was closed by somebody else");
	if (pub_input_error(p->input) != NULL && !p->stop)
		return fail(EXIT_BAD, p->options.input, pub_input_error(p->input));
	if (pub_cut_get_stats(p->cut)->packets == 0 && !p->stop)
		return fail(EXIT_BAD, p->options.input, "it has no keyframe, so nothing was sent");
	return 0;
}

int
main(int argc, char **argv)
{
	struct publish p = { .signal_fd = -1 };
	int r = pub_options_parse(&p.options, argc, argv);

	if (r != 0)
		return r == PUB_OPTIONS_DONE ? 0 : r;
	log_open("publish");
	av_log_set_level(p.options.verbose ? AV_LOG_ERROR : AV_LOG_QUIET);
	r = publish_open(&p);
	if (r == 0)
		r = publish_run(&p);
	if (r == 0)
		r = publish_close(&p);
	if (r == 0)
		r = publish_verdict(&p);
	pub_cut_free(&p.cut);
	trk_pub_close(&p.pub);
	trk_loop_free(&p.loop);
	if (!pub_input_close(&p.input))
		_exit(r); /* no destructor runs under the feet of the reader */
	return r;
}

/* SPDX-License-Identifier: MIT */
/*
 * millrace play
 *
 * The segments of a channel, one after another, as they arrive: to standard output, for a player behind a pipe, or to
 * a file. A pipe that nobody empties stops the reading of the channel; after a while the server has moved on and the
 * stream goes on at its newest segment. The file may be watched while it grows: every byte that came is in it.
 */
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "proto/trickle.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define PLAY_QUEUE_BYTES (1u << 20) /* more than this is not taken from the network */

enum { EXIT_BAD = 100, EXIT_SYSTEM = 111 };

struct play {
	/* options */
	const char *url, *path, *ca_file;
	int64_t from;
	bool verbose, tls_verify;
	/* the rest */
	struct trk_loop *loop;
	struct trk_sub *sub;
	int out_fd, signal_fd;
	uint8_t *queue; /* bytes that out_fd did not take yet */
	size_t queue_bytes, queue_capacity;
	bool stop, ended, paused, reader_gone;
	int error; /* errno of the writing */
	char told[96];
};

static const char help[] =
    "Usage: millrace play URL [OPTION]...\n"
    "Waits for the trickle channel URL and writes its stream to standard output until it ends.\n"
    "\n"
    "  -o FILE                 write to FILE instead\n"
    "  --from -2|-1|N          the newest segment from its beginning, the next one, or segment N (-2)\n"
    "  --tls-verify on|off|FILE  check an https server's certificate (off), or against FILE\n"
    "  -v, --verbose           say what arrives\n"
    "  -h, --help              this text\n"
    "  -V, --version           the version\n"
    "\n"
    "Watch a channel: millrace play URL | ffplay -\n";

static int
fail(int code, const char *object, const char *why)
{
	fprintf(stderr, "millrace play: %s: %s\n", object, why);
	return code;
}

/* ---- writing ---------------------------------------------------------- */

static int
queue_keep(struct play *p, const uint8_t *bytes, size_t count)
{
	if (p->queue_capacity - p->queue_bytes < count) {
		size_t capacity = (p->queue_bytes + count) * 2;
		uint8_t *more = realloc(p->queue, capacity);

		if (more == NULL)
			return ENOMEM;
		p->queue = more;
		p->queue_capacity = capacity;
	}
	memcpy(p->queue + p->queue_bytes, bytes, count);
	p->queue_bytes += count;
	return 0;
}

/* How many bytes were taken; SIZE_MAX: there is nobody, or no room, to write to any more. */
static size_t
out_write(struct play *p, const uint8_t *bytes, size_t count)
{
	size_t done = 0;

	while (done < count) {
		ssize_t n = write(p->out_fd, bytes + done, count - done);

		if (n == -1 && errno == EINTR)
			continue;
		if (n == -1 && errno == EAGAIN)
			break;
		if (n == -1) {
			p->reader_gone = errno == EPIPE;
			p->error = errno;
			return SIZE_MAX;
		}
		done += (size_t)n;
	}
	return done;
}

static void
on_data(void *arg, const uint8_t *bytes, size_t count)
{
	struct play *p = arg;
	size_t done = 0;

	if (p->error != 0)
		return;
	if (p->queue_bytes == 0)
		done = out_write(p, bytes, count);
	if (done == SIZE_MAX)
		return;
	if (done < count)
		p->error = queue_keep(p, bytes + done, count - done);
	if (p->queue_bytes > PLAY_QUEUE_BYTES) {
		p->paused = true;
		trk_sub_pause(p->sub, true);
	}
}

static void
queue_write(struct play *p)
{
	size_t done = out_write(p, p->queue, p->queue_bytes);

	if (done == SIZE_MAX)
		return;
	p->queue_bytes -= done;
	memmove(p->queue, p->queue + done, p->queue_bytes);
	if (p->paused && p->queue_bytes < PLAY_QUEUE_BYTES / 2) {
		p->paused = false;
		trk_sub_pause(p->sub, false);
	}
}

/* ---- what the subscription says --------------------------------------- */

static void
on_begin(void *arg, int64_t seq, bool gap)
{
	const struct play *p = arg;

	if (p->verbose)
		fprintf(stderr, "millrace play: segment %" PRId64 "%s\n", seq, gap ? ", after a gap" : "");
}

static void
on_end(void *arg, int64_t seq, bool complete)
{
	if (!complete)
		fprintf(stderr, "millrace play: segment %" PRId64 " is not complete\n", seq);
}

static void
on_ended(void *arg, enum trk_end why)
{
	struct play *p = arg;

	p->ended = true;
	if (p->verbose)
		fprintf(stderr, "millrace play: the channel is %s\n", trk_end_name(why));
}

static void
on_state(void *arg, const char *state, const char *detail)
{
	struct play *p = arg;

	if (detail[0] == '\0' || strcmp(p->told, detail) == 0)
		return;
	snprintf(p->told, sizeof(p->told), "%s", detail);
	fprintf(stderr, "millrace play: %s: %s; %s\n", p->url, detail,
	    strcmp(state, "waiting") == 0 ? "waiting for it" : "trying again");
}

static const struct trk_sub_callbacks callbacks = {
	.segment_begin = on_begin, .data = on_data, .segment_end = on_end, .ended = on_ended, .state = on_state,
};

/* ---- the program ------------------------------------------------------ */

static int
bad(const char *word, const char *what)
{
	fprintf(stderr, "millrace play: %s: %s; try `millrace play --help`\n", word, what);
	return EXIT_BAD;
}

/* 0; -1: done; or an exit code. */
static int
option_apply(struct play *p, int option)
{
	char *end;

	switch (option) {
	case 'o':
		p->path = optarg;
		return 0;
	case 'f':
		p->from = strtoll(optarg, &end, 10);
		if (end == optarg || *end != '\0' || p->from < -2 || p->from > INT64_MAX / 4)
			return bad(optarg, "not -2, -1 or the number of a segment");
		return 0;
	case 'c':
		p->tls_verify = strcmp(optarg, "off") != 0;
		p->ca_file = p->tls_verify && strcmp(optarg, "on") != 0 ? optarg : NULL;
		return 0;
	case 'v':
		p->verbose = true;
		return 0;
	case 'h':
		fputs(help, stdout);
		return -1;
	case 'V':
		puts("millrace play " MR_VERSION);
		return -1;
	default:
		return bad("command line", "not an option, or its value is missing");
	}
}

static int
options_parse(struct play *p, int argc, char **argv)
{
	static const struct option names[] = {
		{ "output", required_argument, NULL, 'o' },
		{ "from", required_argument, NULL, 'f' },
		{ "tls-verify", required_argument, NULL, 'c' },
		{ "verbose", no_argument, NULL, 'v' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ 0 },
	};
	int option, r;

	while ((option = getopt_long(argc, argv, "o:vhV", names, NULL)) != -1) {
		r = option_apply(p, option);
		if (r != 0)
			return r;
	}
	if (argc - optind != 1)
		return bad("command line", "a URL is needed");
	p->url = argv[optind];
	return 0;
}

static int
play_open(struct play *p)
{
	struct trk_loop_config loop = { .tls_verify = p->tls_verify, .ca_file = p->ca_file };
	struct trk_sub_config config = {
		.url = p->url, .start_seq = p->from, .absent_grace_ns = INT64_MAX, .callbacks = &callbacks, .arg = p,
	};
	sigset_t set;
	int r;

	r = trk_loop_new(&loop, &p->loop);
	if (r != 0)
		return fail(EXIT_BAD, p->ca_file ? p->ca_file : "network", strerror(-r));
	if (trk_sub_open(p->loop, &config, &p->sub) != 0)
		return fail(EXIT_BAD, p->url, "not a channel's URL, such as http://127.0.0.1:2939/camera");
	if (p->path != NULL && strcmp(p->path, "-") != 0)
		p->out_fd = open(p->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	else
		p->out_fd = STDOUT_FILENO;
	if (p->out_fd == -1)
		return fail(EXIT_BAD, p->path, strerror(errno));
	if (isatty(p->out_fd))
		return fail(EXIT_BAD, "standard output", "a terminal cannot show video; use -o FILE or a pipe");
	(void)fd_set_nonblock(p->out_fd, true); /* of a file: no effect */
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	(void)pthread_sigmask(SIG_BLOCK, &set, NULL);
	p->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return p->signal_fd == -1 ? fail(EXIT_SYSTEM, "signals", strerror(errno)) : 0;
}

static int
play_run(struct play *p)
{
	while (!p->stop && p->error == 0 && (!p->ended || p->queue_bytes > 0)) {
		struct pollfd fds[2] = {
			{ .fd = p->signal_fd, .events = POLLIN }, { .fd = p->out_fd, .events = POLLOUT },
		};
		bool waits = p->queue_bytes > 0;
		int r = trk_loop_turn(p->loop, fds, waits ? 2 : 1, clock_now_ns() + 60 * CLOCK_SEC_NS);

		if (r != 0)
			return fail(EXIT_SYSTEM, "waiting", strerror(-r));
		p->stop = fds[0].revents != 0;
		if (waits && fds[1].revents != 0)
			queue_write(p);
	}
	if (p->error != 0 && !p->reader_gone)
		return fail(EXIT_SYSTEM, p->path ? p->path : "standard output", strerror(p->error));
	return 0; /* a player that was closed is a normal end, too */
}

int
main(int argc, char **argv)
{
	struct play p = { .from = -2, .out_fd = -1, .signal_fd = -1 };
	int r = options_parse(&p, argc, argv);

	if (r != 0)
		return r == -1 ? 0 : r;
	log_open("play");
	r = play_open(&p);
	if (r == 0)
		r = play_run(&p);
	if (p.out_fd == STDOUT_FILENO)
		(void)fd_set_nonblock(p.out_fd, false); /* others may share it */
	else
		fd_close(&p.out_fd);
	trk_sub_close(&p.sub);
	trk_loop_free(&p.loop);
	free(p.queue);
	return r;
}

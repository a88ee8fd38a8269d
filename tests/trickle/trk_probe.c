/* SPDX-License-Identifier: MIT */
/*
 * A trickle client that does what it is told and says what it sees
 *
 *     trk_probe sub URL [start=-2] [park_ms=] [grace_ms=] [stall_ms=]
 *     trk_probe pub URL [resume=1] [create=1] [preconnect=1] [queue=] [park_ms=] [grace_ms=]
 *
 * What the client calls is printed, a line each. Commands come on standard input, a line each:
 *     sub: pause, resume, quit
 *     pub: begin, write TEXT, fill COUNT, end, message TEXT, delete, idle (say when it is), stats, quit
 * tls_verify=1 goes with both. Each command of a publisher is answered with its result. The play itself is written in the test.
 */
#include "base/clock.h"
#include "proto/trickle.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct probe {
	struct trk_loop *loop;
	struct trk_sub *sub;
	struct trk_pub *pub;
	bool over, want_idle;
	char line[4096];
	size_t line_bytes;
};

static long
option(int argc, char **argv, const char *name, long fallback)
{
	size_t length = strlen(name);

	for (int i = 3; i < argc; i++)
		if (strncmp(argv[i], name, length) == 0 && argv[i][length] == '=')
			return strtol(argv[i] + length + 1, NULL, 10);
	return fallback;
}

static void
on_begin(void *arg, int64_t seq, bool gap)
{
	(void)arg;
	printf("begin %" PRId64 " gap=%d\n", seq, gap);
}

static void
on_data(void *arg, const uint8_t *bytes, size_t count)
{
	(void)arg;
	printf("data ");
	for (size_t i = 0; i < count; i++)
		putchar(bytes[i] > ' ' && bytes[i] < 127 ? bytes[i] : '?');
	printf("\n");
}

static void
on_segment_end(void *arg, int64_t seq, bool complete)
{
	(void)arg;
	printf("end %" PRId64 " complete=%d\n", seq, complete);
}

static void
on_done(void *arg, int64_t seq, bool ok)
{
	(void)arg;
	printf("done %" PRId64 " ok=%d\n", seq, ok);
}

static void
on_ended(void *arg, enum trk_end why)
{
	struct probe *p = arg;

	printf("ended %s\n", trk_end_name(why));
	p->over = true;
}

static void
on_state(void *arg, const char *state, const char *detail)
{
	(void)arg;
	printf("state %s %s\n", state, detail);
}

static const struct trk_sub_callbacks sub_callbacks = {
	.segment_begin = on_begin, .data = on_data, .segment_end = on_segment_end, .ended = on_ended, .state = on_state,
};
static const struct trk_pub_callbacks pub_callbacks = {
	.segment_done = on_done, .ended = on_ended, .state = on_state,
};

static void
say_stats(struct probe *p)
{
	struct trk_pub_stats s;

	trk_pub_get_stats(p->pub, &s);
	printf("stats seq=%" PRId64 " queued=%zu segments=%" PRIu64 " dropped=%" PRIu64 "\n", s.seq, s.queued_bytes,
	    s.segments, s.segments_dropped);
}

static void
pub_command(struct probe *p, const char *verb, const char *rest)
{
	int r = 0;

	if (strcmp(verb, "begin") == 0) {
		trk_pub_segment_begin(p->pub);
	} else if (strcmp(verb, "write") == 0) {
		r = trk_pub_write(p->pub, rest, strlen(rest));
	} else if (strcmp(verb, "fill") == 0) {
		size_t count = (size_t)strtoul(rest, NULL, 10);
		char *bytes = malloc(count + 1);

		memset(bytes, 'x', count);
		r = trk_pub_write(p->pub, bytes, count);
		free(bytes);
	} else if (strcmp(verb, "end") == 0) {
		trk_pub_segment_end(p->pub);
	} else if (strcmp(verb, "message") == 0) {
		r = trk_pub_message(p->pub, rest, strlen(rest));
	} else if (strcmp(verb, "delete") == 0) {
		trk_pub_delete_channel(p->pub);
	} else if (strcmp(verb, "idle") == 0) {
		p->want_idle = true;
		return;
	} else if (strcmp(verb, "stats") == 0) {
		say_stats(p);
		return;
	}
	printf("%s %d\n", verb, r);
}

static void
command(struct probe *p, char *line)
{
	char *rest = strchr(line, ' ');

	if (rest != NULL)
		*rest++ = '\0';
	else
		rest = line + strlen(line);
	if (strcmp(line, "quit") == 0)
		p->over = true;
	else if (p->pub != NULL)
		pub_command(p, line, rest);
	else
		trk_sub_pause(p->sub, strcmp(line, "pause") == 0);
}

static void
commands_read(struct probe *p)
{
	ssize_t n = read(0, p->line + p->line_bytes, sizeof(p->line) - p->line_bytes);
	char *end;

	if (n <= 0) {
		p->over = true;
		return;
	}
	p->line_bytes += (size_t)n;
	while ((end = memchr(p->line, '\n', p->line_bytes)) != NULL) {
		size_t used = (size_t)(end - p->line) + 1;

		*end = '\0';
		command(p, p->line);
		p->line_bytes -= used;
		memmove(p->line, p->line + used, p->line_bytes);
	}
}

static int
probe_open(struct probe *p, int argc, char **argv)
{
	struct trk_loop_config loop = { .seed = 1, .tls_verify = option(argc, argv, "tls_verify", 0) };

	if (trk_loop_new(&loop, &p->loop) != 0)
		return -1;
	if (strcmp(argv[1], "sub") == 0) {
		struct trk_sub_config config = {
			.url = argv[2], .start_seq = option(argc, argv, "start", -2),
			.park_ns = option(argc, argv, "park_ms", 0) * CLOCK_MS_NS,
			.absent_grace_ns = option(argc, argv, "grace_ms", 0) * CLOCK_MS_NS,
			.stall_ns = option(argc, argv, "stall_ms", 0) * CLOCK_MS_NS,
			.callbacks = &sub_callbacks, .arg = p,
		};

		return trk_sub_open(p->loop, &config, &p->sub);
	}
	struct trk_pub_config config = {
		.url = argv[2], .mime = "video/MP2T", .resume = option(argc, argv, "resume", 0),
		.create = option(argc, argv, "create", 0), .preconnect = option(argc, argv, "preconnect", 1),
		.queue_bytes_max = (size_t)option(argc, argv, "queue", 0),
		.park_ns = option(argc, argv, "park_ms", 0) * CLOCK_MS_NS,
		.absent_grace_ns = option(argc, argv, "grace_ms", 0) * CLOCK_MS_NS,
		.callbacks = &pub_callbacks, .arg = p,
	};

	return trk_pub_open(p->loop, &config, &p->pub);
}

int
main(int argc, char **argv)
{
	struct probe p = { 0 };

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc < 3 || probe_open(&p, argc, argv) != 0) {
		printf("cannot open\n");
		return 100;
	}
	while (!p.over) {
		struct pollfd in = { .fd = 0, .events = POLLIN };

		if (trk_loop_turn(p.loop, &in, 1, clock_now_ns() + 5 * CLOCK_SEC_NS) != 0)
			return 1;
		if (in.revents != 0)
			commands_read(&p);
		if (p.want_idle && trk_pub_idle(p.pub)) {
			printf("idle\n");
			p.want_idle = false;
		}
	}
	trk_sub_close(&p.sub);
	trk_pub_close(&p.pub);
	trk_loop_free(&p.loop);
	printf("closed\n");
	return 0;
}

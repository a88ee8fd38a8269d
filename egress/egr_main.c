/* SPDX-License-Identifier: MIT */
/*
 * millrace-egress
 *
 * Started by the supervisor with the control socket as descriptor 3. It says HELLO, is given a statistics page, says
 * READY, and serves the sessions that are opened: one thread, one loop, one wait. The wait ends at the next deadline,
 * a message, a doorbell or something on the network, and after RING_LOOK_NS in any case: a doorbell that a peer does
 * not ring must not cost more than that.
 *
 * When the supervisor is gone (the socket hangs up) the process exits: the supervisor's successor starts another one,
 * which goes on where the timeline stopped.
 */
#include "base/clock.h"
#include "base/err.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/testpoint.h"
#include "egress/egr_session.h"

#include <errno.h>
#include <libavutil/log.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "egress/egr_priv.h"

#define RING_LOOK_NS INT64_C(50000000)
#define IDLE_NS	     INT64_C(1000000000)
enum { MESSAGES_PER_TURN_MAX = 32, TEXT_BYTES_MAX = 16 << 20 };

struct egress {
	struct egr_link link;
	struct stats_page *stats;
	struct egr_session *session; /* NULL: none is open */
	bool draining;
	int exit_code; /* -1: goes on */
};

/* ---- messages --------------------------------------------------------- */

static void
send_hello(struct egress *e)
{
	union ctl_msg msg;

	ctl_init(&msg, CTL_HELLO, 0);
	msg.hello.ring_abi_major = RING_ABI_MAJOR;
	msg.hello.ring_abi_minor = RING_ABI_MINOR;
	msg.hello.role = CTL_ROLE_EGRESS;
	msg.hello.flags = CTL_HELLO_DOORBELL;
	msg.hello.capacity = 1;
	msg.hello.hold_count = 1;
	msg.hello.pid = (uint32_t)getpid();
	snprintf(msg.hello.name, sizeof(msg.hello.name), "millrace-egress %s", MR_VERSION);
	egr_link_send(&e->link, &msg);
}

static void
on_config(struct egress *e, const int *fds, unsigned fd_count)
{
	union ctl_msg msg;

	if (fd_count != 1 || e->stats != NULL) {
		e->exit_code = EGR_EXIT_TEMPORARY;
		return;
	}
	e->stats = stats_map(fds[0], 1);
	if (e->stats == NULL) {
		log_error("ctl", "stats-unmappable", "why=\"%s\"", strerror(errno));
		e->exit_code = EGR_EXIT_TEMPORARY;
		return;
	}
	ctl_init(&msg, CTL_READY, 0);
	egr_link_send(&e->link, &msg);
}

static void
on_session_open(struct egress *e, const struct ctl_session_open *open, const int *fds, unsigned fd_count)
{
	char *text;
	size_t bytes;
	int r;

	if (fd_count < 1 || e->session != NULL) {
		log_error("ctl", "session-refused", "session=%u why=\"%s\"", open->hdr.session,
		    fd_count < 1 ? "no text came with it" : "another one is open");
		e->exit_code = EGR_EXIT_TEMPORARY;
		return;
	}
	r = fd_read_whole(fds[0], TEXT_BYTES_MAX, &text, &bytes);
	if (r == 0) {
		r = egr_session_new(open->hdr.session, text, bytes < open->text_bytes ? bytes : open->text_bytes,
		    &e->link, e->stats, &e->session);
		free(text);
	}
	if (r < 0)
		e->exit_code = r == -EINVAL ? EGR_EXIT_CONFIG : EGR_EXIT_TEMPORARY;
	else
		log_info("session", "open", "session=%u resumed=%d", open->hdr.session, e->session->config.resumed);
}

static void
on_publish(struct egress *e, const struct ctl_publish *publish, const int *fds, unsigned fd_count)
{
	char *text;
	size_t bytes;

	if (fd_count != 1 || fd_read_whole(fds[0], TEXT_BYTES_MAX, &text, &bytes) < 0)
		return;
	egr_session_publish(e->session, publish->channel, text,
	    bytes < publish->text_bytes ? bytes : publish->text_bytes);
	free(text);
}

/* Messages about the open session. */
static void
on_session_message(struct egress *e, const union ctl_msg *msg, int *fds, unsigned fd_count)
{
	if (e->session == NULL || e->session->id != msg->hdr.session) {
		log_info("ctl", "ignored", "message=%s session=%u", ctl_type_name(msg->hdr.type), msg->hdr.session);
		return;
	}
	switch (msg->hdr.type) {
	case CTL_RING_OPEN:
		if (egr_session_ring_open(e->session, &msg->ring_open, fds, fd_count) < 0) {
			log_error("ring", "unmappable", "id=%u generation=%u", msg->ring_open.ring_id,
			    msg->ring_open.generation);
			e->exit_code = EGR_EXIT_TEMPORARY;
		}
		break;
	case CTL_RING_ENDED:
		egr_session_ring_ended(e->session, &msg->ring_ref);
		break;
	case CTL_DELETE_CHANNELS:
		e->session->delete_channels = true;
		break;
	case CTL_SESSION_CLOSE:
		egr_session_close(e->session);
		break;
	case CTL_PUBLISH:
		on_publish(e, &msg->publish, fds, fd_count);
		break;
	case CTL_WORKER:
		egr_session_worker(e->session, &msg->worker);
		break;
	default:
		break; /* not for egress: a later version of the supervisor may know better */
	}
}

static void
on_message(struct egress *e, const union ctl_msg *msg, int *fds, unsigned fd_count)
{
	switch (msg->hdr.type) {
	case CTL_CONFIG:
		on_config(e, fds, fd_count);
		break;
	case CTL_SESSION_OPEN:
		on_session_open(e, &msg->session_open, fds, fd_count);
		break;
	case CTL_DRAIN:
		e->draining = true;
		break;
	default:
		on_session_message(e, msg, fds, fd_count);
	}
}

static void
receive(struct egress *e)
{
	for (int n = 0; n < MESSAGES_PER_TURN_MAX && e->exit_code < 0; n++) {
		int fds[CTL_FDS_MAX], r;
		union ctl_msg msg;
		unsigned fd_count = 0;

		r = ctl_recv(CTL_FD, &msg, false, fds, CTL_FDS_MAX, &fd_count);
		if (r == -EAGAIN)
			return;
		if (r < 0) {
			if (r != -ESHUTDOWN)
				log_error("ctl", "broken", "why=\"%s\"", strerror(-r));
			e->exit_code = r == -ESHUTDOWN ? EGR_EXIT_CLEAN : EGR_EXIT_TEMPORARY;
			return;
		}
		on_message(e, &msg, fds, fd_count);
		for (unsigned i = 0; i < fd_count; i++)
			fd_close(&fds[i]);
	}
}

/* ---- the loop --------------------------------------------------------- */

static void
finish_session(struct egress *e)
{
	union ctl_msg msg;

	if (e->session == NULL || !egr_session_closed(e->session, clock_now_ns()))
		return;
	ctl_init(&msg, CTL_SESSION_CLOSED, e->session->id);
	log_info("session", "closed", "session=%u", e->session->id);
	egr_session_free(&e->session);
	egr_link_send(&e->link, &msg);
}

static void
wait_for_something(struct egress *e)
{
	struct pollfd fds[1 + EGR_RINGS_MAX] = { { .fd = CTL_FD, .events = POLLIN } };
	int64_t now_ns = clock_now_ns(), due_ns = now_ns + (e->session != NULL ? RING_LOOK_NS : IDLE_NS);
	unsigned n = 1;
	int r;

	if (e->link.count > 0)
		fds[0].events |= POLLOUT;
	if (e->session == NULL) {
		if (poll(fds, 1, clock_poll_ms(due_ns, now_ns, 1000)) == -1 && errno != EINTR)
			e->exit_code = EGR_EXIT_TEMPORARY;
		return;
	}
	if (egr_session_due(e->session, now_ns) < due_ns)
		due_ns = egr_session_due(e->session, now_ns);
	if (!e->session->closing)
		n += egr_rings_pollfds(&e->session->rings, fds + 1, now_ns);
	r = trk_loop_turn(e->session->loop, fds, n, due_ns);
	if (r < 0 && r != -EINTR) {
		log_error("loop", "wait-failed", "why=\"%s\"", strerror(-r));
		e->exit_code = EGR_EXIT_TEMPORARY;
	}
	egr_rings_polled(&e->session->rings, fds + 1, n - 1);
}

static void
run(struct egress *e)
{
	while (e->exit_code < 0) {
		int64_t from_ns;

		wait_for_something(e);
		from_ns = clock_now_ns();
		egr_link_flush(&e->link);
		receive(e);
		if (e->session != NULL && e->exit_code < 0)
			egr_session_run(e->session);
		finish_session(e);
		if (e->draining && e->session == NULL && e->link.count == 0 && e->exit_code < 0)
			e->exit_code = EGR_EXIT_CLEAN;
		stats_max(e->stats, EGRESS_turn_ns_max, (uint64_t)(clock_now_ns() - from_ns));
	}
}

/* What FFmpeg has to say is for developers. */
static void __attribute__((format(printf, 3, 0)))
on_av_log(void *avcl, int level, const char *format, va_list args)
{
	char line[256], quoted[300];

	(void)avcl;
	if (level > AV_LOG_ERROR)
		return;
	vsnprintf(line, sizeof(line), format, args);
	line[strcspn(line, "\n")] = '\0';
	log_debug("ffmpeg", "message", "text=%s", log_quote(quoted, sizeof(quoted), line));
}

int
main(int argc, char **argv)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN };
	struct egress e = { .exit_code = -1 };

	if (argc > 1) {
		printf("millrace-egress %s\nStarted by millrace-supervisor; it is of no use alone.\n", MR_VERSION);
		return strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0 ? 0 : EGR_EXIT_CONFIG;
	}
	log_open("egress");
	testpoint_open();
	av_log_set_callback(on_av_log);
	/* The supervisor decides when a stream ends, also when a terminal interrupts all of its processes. */
	sigaction(SIGPIPE, &ignore, NULL);
	sigaction(SIGINT, &ignore, NULL);
	egr_link_init(&e.link, CTL_FD);
	if (fd_set_nonblock(CTL_FD, true) < 0) {
		fprintf(stderr, "millrace-egress: descriptor %d is not a control socket: start it through millrace serve\n",
		    CTL_FD);
		return EGR_EXIT_CONFIG;
	}
	send_hello(&e);
	run(&e);
	egr_session_free(&e.session);
	stats_unmap(&e.stats);
	return e.exit_code;
}

/* SPDX-License-Identifier: MIT */
/*
 * millrace-ingest: subscribes to a session's input, decodes it, and hands frames to the worker and to egress
 *
 * Started by the supervisor with its end of the control socket as descriptor 3. It ends when that socket does: a supervisor
 * that died has a successor, which starts new children.
 */
#include "ingest/ing.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/testpoint.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define TURN_MAX_NS CLOCK_SEC_NS /* gauges are refreshed at least so often */

static int
wait_for_work(struct ing *ing, struct pollfd *ctl, int64_t deadline_ns)
{
	int r;

	if (ing->session != NULL)
		return trk_loop_turn(ing->session->loop, ctl, 1, deadline_ns);
	r = poll(ctl, 1, clock_poll_ms(deadline_ns, clock_now_ns(), 1000));
	return r == -1 && errno != EINTR ? -errno : 0;
}

static int
run(struct ing *ing)
{
	while (ing->exit_code == -1) {
		struct pollfd ctl = { .fd = ing->ctl, .events = POLLIN };
		int64_t next = ing->session != NULL ? ing_session_run(ing->session) : INT64_MAX;
		int64_t now = clock_now_ns();
		int r;

		ing_ctl_flush(ing);
		if (ing->out_count > 0)
			ctl.events |= POLLOUT;
		stats_max(ing->stats, INGEST_turn_ns_max, (uint64_t)ing->busy_ns);
		ing->busy_ns = 0;
		if (next > now + TURN_MAX_NS)
			next = now + TURN_MAX_NS;
		r = wait_for_work(ing, &ctl, next);
		if (r < 0) {
			log_error("main", "fatal", "what=\"unable to wait\" errno=%d text=\"%s\"", -r, strerror(-r));
			return ING_EXIT_SYSTEM;
		}
		if (ctl.revents != 0)
			ing_ctl_readable(ing);
	}
	return ing->exit_code;
}

static bool
is_control_socket(int fd)
{
	int type = 0;
	socklen_t bytes = sizeof(type);

	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &bytes) == 0 && type == SOCK_SEQPACKET;
}

int
main(int argc, char **argv)
{
	static struct ing ing = { .ctl = CTL_FD, .exit_code = -1 };
	int code;

	if (argc > 1 && (strcmp(argv[1], "-V") == 0 || strcmp(argv[1], "--version") == 0)) {
		printf("millrace-ingest %s (control %d.%d, ring %d.%d)\n", MR_VERSION, CTL_MAJOR, CTL_MINOR, RING_ABI_MAJOR,
		    RING_ABI_MINOR);
		return ING_EXIT_OK;
	}
	log_open("ingest");
	testpoint_open();
	if (!is_control_socket(CTL_FD)) {
		fprintf(stderr, "millrace-ingest: fatal: unable to find the control socket: the supervisor starts this program "
				"with it as descriptor 3; run \"millrace serve\" instead\n");
		return ING_EXIT_CONFIG;
	}
	fd_set_nonblock(CTL_FD, true);
	ing_decode_log_setup();
	ing_ctl_hello(&ing);
	code = run(&ing);
	ing_session_close(&ing);
	stats_unmap(&ing.stats);
	return code;
}

/* SPDX-License-Identifier: MIT */
/*
 * millrace-relay: a trickle server for local use and tests
 *
 * One thread, one libevent loop. Main owns what lives as long as the program: listeners, signals, the sweep.
 * On SIGTERM or SIGINT the listeners are closed and so is every channel, which answers everybody who waits;
 * what is queued gets a moment to leave.
 */
#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "tools/relay/relay_options.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/listener.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { LISTENER_COUNT_MAX = 8, EXIT_BAD_CONFIG = 100, EXIT_SYSTEM = 111 };
#define STOP_NS (300 * CLOCK_MS_NS)  /* for the last replies to leave */
#define RETRY_NS (100 * CLOCK_MS_NS) /* until accepting is tried again when descriptors ran out */

struct relay_main {
	uint32_t magic;
#define RELAY_MAIN_MAGIC 0x2e1a7u
	struct relay_options options;
	struct relay_server server;
	struct evconnlistener *listeners[LISTENER_COUNT_MAX];
	unsigned listener_count;
	bool accepting;
	struct event *on_term, *on_int, *on_sweep, *on_retry;
};

static struct timeval
timeval_of(int64_t ns)
{
	return (struct timeval){ .tv_sec = ns / CLOCK_SEC_NS, .tv_usec = ns % CLOCK_SEC_NS / 1000 };
}

/* ---- accepting -------------------------------------------------------- */

static void
set_accepting(struct relay_main *m, bool on)
{
	if (m->accepting == on)
		return;
	m->accepting = on;
	for (unsigned i = 0; i < m->listener_count; i++)
		if (on)
			evconnlistener_enable(m->listeners[i]);
		else
			evconnlistener_disable(m->listeners[i]);
}

static void
on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address, int bytes, void *arg)
{
	struct relay_main *m = MR_CAST(struct relay_main, arg, RELAY_MAIN_MAGIC);

	relay_conn_accept(&m->server, &fd);
	if (m->server.conn_count >= m->options.http.conn_count_max)
		set_accepting(m, false); /* the next ones wait in the backlog */
}

static void
on_room(struct relay_server *server)
{
	struct relay_main *m = (struct relay_main *)((char *)server - offsetof(struct relay_main, server));

	if (m->listener_count == 0 && m->server.conn_count == 0)
		event_base_loopbreak(m->server.base); /* stopping, and everybody has left */
	else if (m->server.conn_count < m->options.http.conn_count_max)
		set_accepting(m, true);
}

/* Out of descriptors, most likely. */
static void
on_accept_error(struct evconnlistener *listener, void *arg)
{
	struct relay_main *m = MR_CAST(struct relay_main, arg, RELAY_MAIN_MAGIC);
	struct timeval retry = timeval_of(RETRY_NS);

	log_warn("listener", "cannot-accept", "why=\"%s\"", strerror(errno));
	set_accepting(m, false);
	event_add(m->on_retry, &retry);
}

static void
on_retry(evutil_socket_t fd, short what, void *arg)
{
	set_accepting(MR_CAST(struct relay_main, arg, RELAY_MAIN_MAGIC), true);
}

/* ---- listening -------------------------------------------------------- */

static unsigned
port_of(struct evconnlistener *listener)
{
	struct sockaddr_storage address;
	socklen_t bytes = sizeof(address);

	if (getsockname(evconnlistener_get_fd(listener), (struct sockaddr *)&address, &bytes) == -1)
		return 0;
	if (address.ss_family == AF_INET6)
		return ntohs(((struct sockaddr_in6 *)&address)->sin6_port);
	return ntohs(((struct sockaddr_in *)&address)->sin_port);
}

static void
set_port(struct sockaddr *address, unsigned port)
{
	if (address->sa_family == AF_INET6)
		((struct sockaddr_in6 *)address)->sin6_port = htons((uint16_t)port);
	else
		((struct sockaddr_in *)address)->sin_port = htons((uint16_t)port);
}

/* Listens on every address of the host, all with the port that the first one got. 0, or -1: told. */
static int
listen_all(struct relay_main *m)
{
	const unsigned flags = LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_REUSEABLE;
	struct addrinfo hints = { .ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM }, *list;
	int r = getaddrinfo(m->options.host, m->options.port, &hints, &list), error = 0;

	if (r != 0) {
		fprintf(
		    stderr, "millrace relay: fatal: unable to resolve \"%s\": %s\n", m->options.host, gai_strerror(r));
		return -1;
	}
	for (struct addrinfo *a = list; a != NULL && m->listener_count < LISTENER_COUNT_MAX; a = a->ai_next) {
		struct evconnlistener *listener;

		if (m->listener_count > 0)
			set_port(a->ai_addr, port_of(m->listeners[0]));
		listener = evconnlistener_new_bind(m->server.base, on_accept, m,
		    a->ai_family == AF_INET6 ? flags | LEV_OPT_BIND_IPV6ONLY : flags, 512, a->ai_addr,
		    (int)a->ai_addrlen);
		if (listener == NULL) {
			error = errno; /* fine if another address works: localhost without IPv6 */
			if (error == EADDRINUSE || error == EACCES)
				break;
			continue;
		}
		evconnlistener_set_error_cb(listener, on_accept_error);
		m->listeners[m->listener_count++] = listener;
	}
	freeaddrinfo(list);
	if (m->listener_count == 0 || error == EADDRINUSE || error == EACCES) {
		fprintf(stderr, "millrace relay: fatal: unable to listen on %s port %s: %s\n", m->options.host,
		    m->options.port, strerror(error));
		return -1;
	}
	m->accepting = true;
	return 0;
}

static void
print_url(const struct relay_main *m)
{
	bool v6 = strchr(m->options.host, ':') != NULL;

	printf("listening on http://%s%s%s:%u%s\n", v6 ? "[" : "", m->options.host, v6 ? "]" : "",
	    port_of(m->listeners[0]), m->options.path);
	fflush(stdout);
}

/* As many descriptors as we may have, and no more connections than that. */
static void
raise_fd_limit(struct relay_main *m)
{
	const rlim_t reserve = 32;
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == -1)
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur > 2 * reserve &&
	    limit.rlim_cur - reserve < m->options.http.conn_count_max)
		m->options.http.conn_count_max = (unsigned)(limit.rlim_cur - reserve);
}

/* ---- the loop --------------------------------------------------------- */

static void
on_sweep(evutil_socket_t fd, short what, void *arg)
{
	struct relay_main *m = MR_CAST(struct relay_main, arg, RELAY_MAIN_MAGIC);
	unsigned count = relay_hub_sweep(&m->server.hub, clock_now_ns());

	if (count > 0)
		log_info("hub", "swept", "channels=%u", count);
}

static void
on_stop(evutil_socket_t number, short what, void *arg)
{
	struct relay_main *m = MR_CAST(struct relay_main, arg, RELAY_MAIN_MAGIC);
	struct timeval rest = timeval_of(STOP_NS);

	log_info("relay", "stopping", "signal=%d connections=%u", (int)number, m->server.conn_count);
	for (unsigned i = 0; i < m->listener_count; i++)
		evconnlistener_free(m->listeners[i]);
	m->listener_count = 0;
	event_del(m->on_retry);
	relay_hub_close(&m->server.hub, clock_now_ns());
	if (m->server.conn_count == 0)
		event_base_loopbreak(m->server.base);
	else
		event_base_loopexit(m->server.base, &rest);
}

static int
events_open(struct relay_main *m)
{
	struct event_base *base = m->server.base;
	struct timeval sweep = timeval_of(m->options.sweep_ns);

	m->on_term = evsignal_new(base, SIGTERM, on_stop, m);
	m->on_int = evsignal_new(base, SIGINT, on_stop, m);
	m->on_sweep = event_new(base, -1, EV_PERSIST, on_sweep, m);
	m->on_retry = evtimer_new(base, on_retry, m);
	if (m->on_term == NULL || m->on_int == NULL || m->on_sweep == NULL || m->on_retry == NULL)
		return -ENOMEM;
	if (event_add(m->on_term, NULL) == -1 || event_add(m->on_int, NULL) == -1 ||
	    event_add(m->on_sweep, &sweep) == -1)
		return -ENOMEM;
	return 0;
}

static void
server_init(struct relay_main *m)
{
	struct relay_channel *feed;

	m->server.config = m->options.http;
	m->server.on_room = on_room;
	TAILQ_INIT(&m->server.conns);
	relay_hub_init(&m->server.hub, &m->options.hub);
	if (m->options.hub.changefeed) /* its own creation is its first entry */
		relay_hub_create(&m->server.hub, RELAY_CHANGEFEED_NAME, "application/json", clock_now_ns(), &feed);
}

static void
main_close(struct relay_main *m)
{
	relay_conn_close_all(&m->server);
	event_free(m->on_term);
	event_free(m->on_int);
	event_free(m->on_sweep);
	event_free(m->on_retry);
	event_base_loop(m->server.base, EVLOOP_NONBLOCK); /* bufferevents end in the loop */
	event_base_free(m->server.base);
}

int
main(int argc, char **argv)
{
	static struct relay_main m = { .magic = RELAY_MAIN_MAGIC };
	int r;

	log_open("relay");
	r = relay_options_parse(argc, argv, &m.options);
	if (r != 0)
		return r == RELAY_OPTIONS_HELP ? 0 : EXIT_BAD_CONFIG;
	if (sigaction(SIGPIPE, &(struct sigaction){ .sa_handler = SIG_IGN }, NULL) == -1)
		return EXIT_SYSTEM;
	raise_fd_limit(&m);
	m.server.base = event_base_new();
	if (m.server.base == NULL || events_open(&m) < 0) {
		fprintf(stderr, "millrace relay: fatal: unable to create an event loop\n");
		return EXIT_SYSTEM;
	}
	server_init(&m);
	if (listen_all(&m) == -1)
		return EXIT_SYSTEM;
	print_url(&m);
	r = event_base_dispatch(m.server.base);
	relay_hub_close(&m.server.hub, clock_now_ns());
	main_close(&m);
	return r == -1 ? EXIT_SYSTEM : 0;
}

/* SPDX-License-Identifier: MIT */
/*
 * Connections: feeding the parser, pacing the output, ending in order
 *
 * The parser is paused after every request, so that a pipelined one waits in the input queue (which has a
 * high-water mark) until the reply before it is queued. Reading goes on meanwhile: it is how a client that
 * gave up is noticed.
 *
 * A reply that ends a connection is followed by a half-close and a short wait for the peer's: closing a socket
 * with unread bytes would reset it, and the reset can overtake the reply.
 */
#include "tools/relay/relay_conn.h"
#include "base/assert.h"
#include "base/clock.h"

#include <event2/buffer.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	INPUT_BYTES_MAX = 65536,
	SKIP_BYTES_MAX = 256 * 1024, /* of a body that nobody wants, before the connection is given up */
};
#define SKIP_NS (30 * CLOCK_SEC_NS)
#define FLUSH_NS (60 * CLOCK_SEC_NS)
#define LINGER_NS (500 * CLOCK_MS_NS)

static const char *const header_names[RELAY_HEADER_COUNT] = {
	[RELAY_HEADER_CONTENT_TYPE] = "content-type",
	[RELAY_HEADER_EXPECT] = "expect",
	[RELAY_HEADER_EXPECT_CONTENT] = "expect-content",
	[RELAY_HEADER_RESET] = "lp-trickle-reset",
};

void
relay_conn_set(struct relay_conn *conn, enum relay_conn_state state)
{
	static const uint8_t legal[] = {
		[RELAY_CONN_REQUEST] = 1 << RELAY_CONN_ACTIVE | 1 << RELAY_CONN_FLUSH | 1 << RELAY_CONN_DEAD,
		[RELAY_CONN_ACTIVE] = 1 << RELAY_CONN_REQUEST | 1 << RELAY_CONN_FLUSH | 1 << RELAY_CONN_DEAD,
		[RELAY_CONN_FLUSH] = 1 << RELAY_CONN_FLUSH | 1 << RELAY_CONN_LINGER | 1 << RELAY_CONN_DEAD,
		[RELAY_CONN_LINGER] = 1 << RELAY_CONN_DEAD,
		[RELAY_CONN_DEAD] = 1 << RELAY_CONN_DEAD,
	};

	MR_ASSERT(legal[conn->state] & 1 << state);
	if (conn->state == state)
		return;
	conn->state = state;
	conn->since_ns = clock_now_ns();
}

void
relay_conn_abort(struct relay_conn *conn)
{
	struct linger reset = { .l_onoff = 1 };

	if (conn->reply_begun)
		setsockopt(bufferevent_getfd(conn->bev), SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	relay_conn_set(conn, RELAY_CONN_DEAD);
}

/* ---- the parser's callbacks ------------------------------------------- */

static struct relay_conn *
conn_of(http_parser *parser)
{
	return MR_CAST(struct relay_conn, parser->data, RELAY_CONN_MAGIC);
}

static int
on_url(http_parser *parser, const char *text, size_t count)
{
	struct relay_conn *conn = conn_of(parser);

	if (count >= sizeof(conn->target) - conn->target_bytes) {
		conn->parse_status = 414;
		return 0;
	}
	memcpy(conn->target + conn->target_bytes, text, count);
	conn->target_bytes += count;
	conn->target[conn->target_bytes] = '\0';
	return 0;
}

static int
on_header_field(http_parser *parser, const char *text, size_t count)
{
	struct relay_conn *conn = conn_of(parser);
	size_t room;

	if (conn->value_seen) { /* the next header begins */
		conn->value_seen = false;
		conn->field_bytes = 0;
	}
	room = sizeof(conn->field) - 1 - conn->field_bytes;
	if (count > room)
		count = room; /* none of ours is that long */
	memcpy(conn->field + conn->field_bytes, text, count);
	conn->field_bytes += count;
	conn->field[conn->field_bytes] = '\0';
	return 0;
}

static void
header_begin(struct relay_conn *conn)
{
	conn->value_seen = true;
	conn->header_idx = -1;
	for (int i = 0; i < RELAY_HEADER_COUNT; i++) {
		if (strcasecmp(conn->field, header_names[i]) != 0)
			continue;
		conn->header_idx = i;
		conn->header[i][0] = '\0'; /* of two, the last one */
	}
}

static int
on_header_value(http_parser *parser, const char *text, size_t count)
{
	struct relay_conn *conn = conn_of(parser);
	size_t have;
	char *value;

	if (!conn->value_seen)
		header_begin(conn);
	if (conn->header_idx == -1)
		return 0;
	value = conn->header[conn->header_idx];
	have = strlen(value);
	if (count >= RELAY_HEADER_BYTES_MAX - have) {
		conn->parse_status = 431;
		return 0;
	}
	for (size_t i = 0; i < count; i++) /* it may be sent back: no control bytes */
		value[have + i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? ' ' : text[i];
	value[have + count] = '\0';
	return 0;
}

static int
on_headers_complete(http_parser *parser)
{
	struct relay_conn *conn = conn_of(parser);

	parser->upgrade = 0; /* we never upgrade; the request is answered as it stands */
	relay_conn_set(conn, RELAY_CONN_ACTIVE);
	/* HTTP/1.0 has no chunks: the end of a stream is the end of the connection */
	conn->close_after = !http_should_keep_alive(parser) || parser->http_major != 1 || parser->http_minor == 0;
	if (parser->uses_transfer_encoding && !(parser->flags & F_CHUNKED))
		conn->parse_status = 501; /* before a slot is taken; the parser would refuse the body a moment later */
	if (conn->parse_status != 0)
		relay_reply_error(
		    conn, conn->parse_status, true, http_status_str((enum http_status)conn->parse_status));
	else
		relay_request_begin(conn);
	return 0;
}

static int
on_body(http_parser *parser, const char *bytes, size_t count)
{
	struct relay_conn *conn = conn_of(parser);

	if (conn->state != RELAY_CONN_ACTIVE)
		return 0;
	if (!conn->reply_complete) {
		relay_request_body(conn, (const uint8_t *)bytes, count);
		return 0;
	}
	conn->skipped_bytes += count;
	if (conn->skipped_bytes > SKIP_BYTES_MAX)
		relay_conn_set(conn, RELAY_CONN_FLUSH);
	return 0;
}

static int
on_message_complete(http_parser *parser)
{
	struct relay_conn *conn = conn_of(parser);

	conn->body_complete = true;
	http_parser_pause(parser, 1);
	if (conn->state == RELAY_CONN_ACTIVE)
		relay_request_end(conn);
	return 0;
}

static const http_parser_settings parser_settings = {
	.on_url = on_url,
	.on_header_field = on_header_field,
	.on_header_value = on_header_value,
	.on_headers_complete = on_headers_complete,
	.on_body = on_body,
	.on_message_complete = on_message_complete,
};

/* ---- input ------------------------------------------------------------ */

static void
request_reset(struct relay_conn *conn)
{
	conn->target_bytes = conn->field_bytes = 0;
	conn->target[0] = conn->field[0] = '\0';
	conn->header_idx = -1;
	conn->value_seen = false;
	for (int i = 0; i < RELAY_HEADER_COUNT; i++)
		conn->header[i][0] = '\0';
	conn->parse_status = 0;
	conn->skipped_bytes = 0;
	conn->body_complete = conn->reply_begun = conn->reply_complete = false;
	conn->close_after = conn->chunked = false;
}

/* What came cannot be parsed. */
static void
conn_bad_input(struct relay_conn *conn)
{
	enum http_errno why = HTTP_PARSER_ERRNO(&conn->parser);

	if (conn->state == RELAY_CONN_REQUEST)
		relay_reply_error(conn, why == HPE_HEADER_OVERFLOW ? 431 : 400, true, http_errno_description(why));
	else if (!conn->reply_begun)
		relay_request_broken(conn);
	else if (!conn->reply_complete)
		relay_conn_abort(conn);
	else
		relay_conn_set(conn, RELAY_CONN_FLUSH);
}

static bool
conn_wants_input(struct relay_conn *conn)
{
	if (conn->state != RELAY_CONN_REQUEST && conn->state != RELAY_CONN_ACTIVE)
		return false;
	if (conn->state == RELAY_CONN_REQUEST || !conn->body_complete)
		return true;
	if (!conn->reply_complete || evbuffer_get_length(bufferevent_get_output(conn->bev)) >= RELAY_OUTPUT_LOW)
		return false;
	request_reset(conn);
	relay_conn_set(conn, RELAY_CONN_REQUEST);
	return true;
}

static void
conn_feed(struct relay_conn *conn)
{
	struct evbuffer *input = bufferevent_get_input(conn->bev);
	struct evbuffer_iovec span;

	while (conn_wants_input(conn) && evbuffer_peek(input, -1, NULL, &span, 1) > 0) {
		size_t used = http_parser_execute(&conn->parser, &parser_settings, span.iov_base, span.iov_len);
		enum http_errno why = HTTP_PARSER_ERRNO(&conn->parser);

		evbuffer_drain(input, used);
		if (why == HPE_PAUSED)
			http_parser_pause(&conn->parser, 0);
		else if (why != HPE_OK)
			conn_bad_input(conn);
	}
	if (conn->state != RELAY_CONN_REQUEST && conn->state != RELAY_CONN_ACTIVE)
		evbuffer_drain(input, evbuffer_get_length(input));
}

/* The peer will send nothing more. Half-closing is fine for a complete request that was answered; a client that
 * does it while it waits has given up, as Go's server sees it. */
static void
conn_ended(struct relay_conn *conn)
{
	if (conn->state == RELAY_CONN_REQUEST)
		relay_conn_set(conn, RELAY_CONN_FLUSH);
	if (conn->state == RELAY_CONN_LINGER)
		relay_conn_set(conn, RELAY_CONN_DEAD);
	if (conn->state != RELAY_CONN_ACTIVE)
		return;
	if (conn->reply_complete)
		relay_conn_set(conn, RELAY_CONN_FLUSH);
	else if (conn->body_complete || conn->reply_begun)
		relay_conn_set(conn, RELAY_CONN_DEAD);
	else
		relay_request_broken(conn);
}

/* ---- after each event ------------------------------------------------- */

static void
conn_free(struct relay_conn *conn)
{
	struct relay_server *server = conn->server;

	relay_request_drop(conn);
	TAILQ_REMOVE(&server->conns, conn, link);
	server->conn_count--;
	event_free(conn->wake);
	event_free(conn->timer);
	bufferevent_free(conn->bev);
	conn->magic = 0;
	free(conn);
	if (server->on_room != NULL)
		server->on_room(server);
}

static int64_t
conn_deadline(const struct relay_conn *conn)
{
	switch (conn->state) {
	case RELAY_CONN_REQUEST:
		return conn->since_ns + conn->server->config.keepalive_ns;
	case RELAY_CONN_ACTIVE:
		if (!conn->reply_complete)
			return relay_request_deadline(conn);
		return conn->since_ns + (conn->body_complete ? conn->server->config.keepalive_ns : SKIP_NS);
	case RELAY_CONN_FLUSH:
		return conn->since_ns + FLUSH_NS;
	case RELAY_CONN_LINGER:
		return conn->since_ns + LINGER_NS;
	case RELAY_CONN_DEAD:
		break;
	}
	return 0;
}

static void
conn_arm(struct relay_conn *conn)
{
	int64_t deadline_ns = conn_deadline(conn), left_ns;
	struct timeval left;

	if (deadline_ns == conn->timer_ns)
		return;
	conn->timer_ns = deadline_ns;
	if (deadline_ns == 0) {
		event_del(conn->timer);
		return;
	}
	left_ns = deadline_ns - clock_now_ns();
	if (left_ns < 0)
		left_ns = 0;
	left = (struct timeval){ .tv_sec = left_ns / CLOCK_SEC_NS, .tv_usec = left_ns % CLOCK_SEC_NS / 1000 + 1 };
	event_add(conn->timer, &left);
}

/* The last thing every callback does; the connection may be gone afterwards. */
static void
conn_settle(struct relay_conn *conn)
{
	if (conn->eof)
		conn_ended(conn);
	if (conn->state == RELAY_CONN_FLUSH && evbuffer_get_length(bufferevent_get_output(conn->bev)) == 0) {
		shutdown(bufferevent_getfd(conn->bev), SHUT_WR);
		relay_conn_set(conn, conn->eof ? RELAY_CONN_DEAD : RELAY_CONN_LINGER);
	}
	if (conn->state == RELAY_CONN_DEAD) {
		conn_free(conn);
		return;
	}
	conn_arm(conn);
}

static void
on_read(struct bufferevent *bev, void *arg)
{
	struct relay_conn *conn = MR_CAST(struct relay_conn, arg, RELAY_CONN_MAGIC);

	conn_feed(conn);
	conn_settle(conn);
}

/* There is room for output, or a watch fired. */
static void
conn_go_on(struct relay_conn *conn)
{
	if (conn->state == RELAY_CONN_ACTIVE)
		relay_request_wake(conn);
	conn_feed(conn);
	conn_settle(conn);
}

static void
on_write(struct bufferevent *bev, void *arg)
{
	conn_go_on(MR_CAST(struct relay_conn, arg, RELAY_CONN_MAGIC));
}

static void
on_wake(evutil_socket_t fd, short what, void *arg)
{
	conn_go_on(MR_CAST(struct relay_conn, arg, RELAY_CONN_MAGIC));
}

static void
on_event(struct bufferevent *bev, short what, void *arg)
{
	struct relay_conn *conn = MR_CAST(struct relay_conn, arg, RELAY_CONN_MAGIC);

	if (what & BEV_EVENT_EOF)
		conn->eof = true;
	else
		relay_conn_set(conn, RELAY_CONN_DEAD);
	conn_settle(conn);
}

static void
on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct relay_conn *conn = MR_CAST(struct relay_conn, arg, RELAY_CONN_MAGIC);
	int64_t now_ns = clock_now_ns();

	conn->timer_ns = 0;
	if (now_ns >= conn_deadline(conn)) {
		if (conn->state == RELAY_CONN_ACTIVE && !conn->reply_complete)
			relay_request_timeout(conn, now_ns);
		else
			relay_conn_set(conn, RELAY_CONN_DEAD);
	}
	conn_settle(conn);
}

/* ---- birth ------------------------------------------------------------ */

/* Data leave at once; a peer that vanished without a word is noticed after a minute. */
static void
socket_tune(int fd)
{
	int on = 1, idle_s = 30, interval_s = 10, count = 3;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
}

void
relay_conn_accept(struct relay_server *server, int *fd)
{
	struct relay_conn *conn = calloc(1, sizeof(*conn));

	if (conn == NULL)
		goto close_fd;
	conn->wake = event_new(server->base, -1, 0, on_wake, conn);
	conn->timer = evtimer_new(server->base, on_timer, conn);
	conn->bev = bufferevent_socket_new(server->base, *fd, BEV_OPT_CLOSE_ON_FREE);
	if (conn->wake == NULL || conn->timer == NULL || conn->bev == NULL)
		goto free_conn;
	socket_tune(*fd);
	*fd = -1;
	conn->magic = RELAY_CONN_MAGIC;
	conn->server = server;
	conn->since_ns = clock_now_ns();
	http_parser_init(&conn->parser, HTTP_REQUEST);
	conn->parser.data = conn;
	request_reset(conn);
	TAILQ_INSERT_TAIL(&server->conns, conn, link);
	server->conn_count++;
	bufferevent_setcb(conn->bev, on_read, on_write, on_event, conn);
	bufferevent_setwatermark(conn->bev, EV_READ, 0, INPUT_BYTES_MAX);
	bufferevent_setwatermark(conn->bev, EV_WRITE, RELAY_OUTPUT_LOW / 2, 0);
	bufferevent_set_max_single_write(conn->bev, 4 * RELAY_OUTPUT_LOW);
	bufferevent_enable(conn->bev, EV_READ | EV_WRITE);
	conn_arm(conn);
	return;
free_conn:
	if (conn->bev != NULL) {
		bufferevent_free(conn->bev);
		*fd = -1;
	}
	if (conn->timer != NULL)
		event_free(conn->timer);
	if (conn->wake != NULL)
		event_free(conn->wake);
	free(conn);
close_fd:
	if (*fd != -1)
		close(*fd);
	*fd = -1;
}

void
relay_conn_close_all(struct relay_server *server)
{
	struct relay_conn *conn = TAILQ_FIRST(&server->conns), *next;

	server->on_room = NULL;
	for (; conn != NULL; conn = next) {
		next = TAILQ_NEXT(conn, link);
		conn_free(conn);
	}
}

/* SPDX-License-Identifier: MIT */
/*
 * Replies: written straight into the connection's output queue
 *
 * A reply to HTTP/1.0, or to a client that asked for it, or one that comes while the request is unfinished and
 * says so, ends the connection. Media are queued as references to segment chunks and never copied.
 */
#include "base/assert.h"
#include "base/clock.h"
#include "tools/relay/relay_conn.h"

#include <event2/buffer.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

static struct evbuffer *
output_of(struct relay_conn *conn)
{
	return bufferevent_get_output(conn->bev);
}

static const char *
status_phrase(int status)
{
	const char *phrase = http_status_str((enum http_status)status);

	return status == 470 ? "status code 470" : phrase; /* as Go names a status that it does not know */
}

static bool
is_head(const struct relay_conn *conn)
{
	return conn->parser.method == HTTP_HEAD;
}

void
relay_reply_continue(struct relay_conn *conn)
{
	MR_ASSERT(!conn->reply_begun);
	if (conn->parser.http_major == 1 && conn->parser.http_minor >= 1 &&
	    evbuffer_get_length(output_of(conn)) < RELAY_OUTPUT_LOW) /* else the client does not read */
		evbuffer_add_printf(output_of(conn), "HTTP/1.1 100 Continue\r\n\r\n");
}

void
relay_reply_begin(struct relay_conn *conn, int status, bool close)
{
	time_t now = time(NULL);
	char date[64];
	struct tm tm;

	MR_ASSERT(!conn->reply_begun);
	conn->reply_begun = true;
	if (close)
		conn->close_after = true;
	gmtime_r(&now, &tm);
	strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S GMT", &tm);
	evbuffer_add_printf(output_of(conn), "HTTP/1.1 %d %s\r\nDate: %s\r\n", status, status_phrase(status), date);
	if (conn->close_after)
		relay_reply_header(conn, "Connection", "close");
}

void
relay_reply_header(struct relay_conn *conn, const char *name, const char *format, ...)
{
	va_list args;

	evbuffer_add_printf(output_of(conn), "%s: ", name);
	va_start(args, format);
	evbuffer_add_vprintf(output_of(conn), format, args);
	va_end(args);
	evbuffer_add(output_of(conn), "\r\n", 2);
}

static void
reply_done(struct relay_conn *conn)
{
	conn->reply_complete = true;
	conn->since_ns = clock_now_ns();
	relay_request_drop(conn);
	if (conn->close_after)
		relay_conn_set(conn, RELAY_CONN_FLUSH);
}

void
relay_reply_body(struct relay_conn *conn, const char *type, const char *body)
{
	MR_ASSERT(conn->reply_begun && !conn->reply_complete);
	if (type != NULL)
		relay_reply_header(conn, "Content-Type", "%s", type);
	relay_reply_header(conn, "Content-Length", "%zu", strlen(body));
	evbuffer_add_printf(output_of(conn), "\r\n%s", is_head(conn) ? "" : body);
	reply_done(conn);
}

void
relay_reply_error(struct relay_conn *conn, int status, bool close, const char *text)
{
	char body[256];

	evutil_snprintf(body, sizeof(body), "%s\n", text);
	relay_reply_begin(conn, status, close);
	relay_reply_header(conn, "X-Content-Type-Options", "nosniff");
	relay_reply_body(conn, "text/plain; charset=utf-8", body);
}

void
relay_reply_stream(struct relay_conn *conn)
{
	MR_ASSERT(conn->reply_begun && !conn->reply_complete);
	conn->chunked = conn->parser.http_major == 1 && conn->parser.http_minor >= 1;
	if (conn->chunked)
		relay_reply_header(conn, "Transfer-Encoding", "chunked");
	evbuffer_add(output_of(conn), "\r\n", 2);
	if (is_head(conn))
		reply_done(conn);
}

static void
on_sent(const void *bytes, size_t count, void *arg)
{
	relay_chunk_unref(arg);
}

bool
relay_reply_bytes(struct relay_conn *conn, struct relay_chunk *chunk, const uint8_t *bytes, size_t count)
{
	struct evbuffer *output = output_of(conn);

	MR_ASSERT(count > 0);
	if (conn->chunked)
		evbuffer_add_printf(output, "%zx\r\n", count);
	relay_chunk_ref(chunk);
	if (evbuffer_add_reference(output, bytes, count, on_sent, chunk) == -1) {
		relay_chunk_unref(chunk);
		return false;
	}
	if (conn->chunked)
		evbuffer_add(output, "\r\n", 2);
	return true;
}

void
relay_reply_stream_end(struct relay_conn *conn)
{
	if (conn->chunked)
		evbuffer_add_printf(output_of(conn), "0\r\n\r\n");
	reply_done(conn);
}

/* SPDX-License-Identifier: MIT */
/*
 * Requests: the trickle protocol's routes
 *
 * Every request is one of three kinds: answered at once; a reader, which waits for bytes of a segment and gets
 * its reply's head with the first of them; or a publisher, which holds a slot from its head on and is answered
 * when its body ends or, while it is parked, when its segment or channel is closed.
 */
#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "tools/relay/relay_conn.h"
#include "tools/relay/relay_route.h"

#include <event2/buffer.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define TEXT_PLAIN "text/plain; charset=utf-8"

static struct relay_hub *
hub_of(struct relay_conn *conn)
{
	return &conn->server->hub;
}

static bool
is_new(struct relay_conn *conn)
{
	return hub_of(conn)->config.flavor == RELAY_NEW;
}

/* An empty header counts as none. */
static bool
has_header(const struct relay_conn *conn, enum relay_header header)
{
	return conn->header[header][0] != '\0';
}

/* A watch only notes that there is something to do; the work is done from the event loop. */
static void
on_sub_changed(struct relay_watch *watch)
{
	struct relay_conn *conn = (struct relay_conn *)((char *)watch - offsetof(struct relay_conn, sub.watch));

	event_active(conn->wake, EV_TIMEOUT, 0);
}

static void
on_pub_changed(struct relay_watch *watch)
{
	struct relay_conn *conn = (struct relay_conn *)((char *)watch - offsetof(struct relay_conn, pub.watch));

	/* while bytes flow, the publisher itself is what changes its segment */
	if (!conn->pub.started)
		event_active(conn->wake, EV_TIMEOUT, 0);
}

/* The channel of a POST, created if that is allowed. NULL: the reply was sent. */
static struct relay_channel *
channel_for_post(struct relay_conn *conn, const char *name, const char *mime)
{
	struct relay_channel *channel;
	int r = relay_hub_create(hub_of(conn), name, mime, clock_now_ns(), &channel);

	if (r == 0)
		return channel;
	relay_reply_error(conn, 503, true, r == RELAY_CREATE_TOO_MANY ? "Too many channels" : "Out of memory");
	return NULL;
}

/* ---- readers ---------------------------------------------------------- */

static void
reply_absent(struct relay_conn *conn, const struct relay_channel *channel, int64_t seq)
{
	relay_reply_begin(conn, 470, false);
	relay_reply_header(conn, "Lp-Trickle-Latest", "%lld", (long long)channel->next_write);
	relay_reply_header(conn, "Lp-Trickle-Seq", "%lld", (long long)seq);
	relay_reply_body(conn, TEXT_PLAIN, "Entry not found");
}

/* The segment ended before it had a byte. */
static void
reply_empty_segment(struct relay_conn *conn)
{
	const struct relay_channel *channel = conn->sub.channel;

	relay_reply_begin(conn, is_new(conn) || channel->closed ? 200 : 470, false);
	relay_reply_header(conn, "Lp-Trickle-Seq", "%lld", (long long)conn->sub.segment->seq);
	if (is_new(conn) || !channel->closed)
		relay_reply_header(conn, "Lp-Trickle-Latest", "%lld", (long long)channel->next_write);
	if (channel->closed)
		relay_reply_header(conn, "Lp-Trickle-Closed", "terminated");
	relay_reply_body(conn, NULL, "");
}

static void
reply_first_bytes(struct relay_conn *conn)
{
	const struct relay_sub *sub = &conn->sub;

	relay_reply_begin(conn, 200, false);
	relay_reply_header(conn, "Lp-Trickle-Seq", "%lld", (long long)sub->segment->seq);
	if (sub->latest_at_open != sub->segment->seq)
		relay_reply_header(conn, "Lp-Trickle-Latest", "%lld", (long long)sub->latest_at_open);
	relay_reply_header(conn, "Content-Type", "%s", sub->channel->mime);
	relay_reply_stream(conn);
}

/* Queues what there is, as far as there is room. */
static void
reader_pump(struct relay_conn *conn)
{
	struct evbuffer *output = bufferevent_get_output(conn->bev);
	struct relay_chunk *chunk;
	const uint8_t *bytes;
	size_t count;

	while (conn->sub.channel != NULL && evbuffer_get_length(output) < RELAY_OUTPUT_LOW) {
		switch (relay_sub_peek(&conn->sub, RELAY_OUTPUT_LOW, &chunk, &bytes, &count)) {
		case RELAY_READ_BYTES:
			if (!conn->reply_begun)
				reply_first_bytes(conn);
			if (conn->reply_complete) /* HEAD */
				return;
			if (!relay_reply_bytes(conn, chunk, bytes, count)) {
				relay_conn_abort(conn);
				return;
			}
			relay_sub_take(&conn->sub, count);
			break;
		case RELAY_READ_WAIT:
			return;
		case RELAY_READ_END:
			if (conn->reply_begun)
				relay_reply_stream_end(conn);
			else
				reply_empty_segment(conn);
			return;
		case RELAY_READ_CUT:
			log_warn("reader", "cut", "reason=memory seq=%lld", (long long)conn->sub.segment->seq);
			relay_conn_abort(conn);
			return;
		}
	}
}

static void
get_segment(struct relay_conn *conn, const char *name, const char *seq_text)
{
	struct relay_channel *channel = relay_hub_find(hub_of(conn), name);
	char next[24];
	int64_t seq;
	int r;

	if (channel == NULL) {
		relay_reply_error(conn, 404, false, "Stream not found");
		return;
	}
	if (is_new(conn) && strcmp(seq_text, "next") == 0) {
		snprintf(next, sizeof(next), "%lld", (long long)channel->next_write);
		relay_reply_begin(conn, 200, false);
		relay_reply_header(conn, "Lp-Trickle-Latest", "%s", next);
		relay_reply_body(conn, TEXT_PLAIN, next);
		return;
	}
	if (!relay_seq_parse(seq_text, RELAY_SEQ_NEWEST, &seq)) {
		relay_reply_error(conn, 400, false, "Invalid idx");
		return;
	}
	conn->sub.watch.changed = on_sub_changed;
	r = relay_sub_open(&conn->sub, channel, seq);
	if (r == RELAY_SUB_ABSENT) {
		reply_absent(conn, channel, seq);
	} else if (r < 0) {
		relay_reply_error(conn, 503, false, "Out of memory");
	} else {
		if (conn->server->config.write_ns > 0)
			conn->deadline_ns = clock_now_ns() + conn->server->config.write_ns;
		reader_pump(conn);
	}
}

/* ---- publishers ------------------------------------------------------- */

static void
reply_published(struct relay_conn *conn, bool close, bool terminated)
{
	relay_reply_begin(conn, 200, close);
	if (is_new(conn))
		relay_reply_header(conn, "Lp-Trickle-Seq", "%lld", (long long)conn->pub.seq);
	if (terminated)
		relay_reply_header(conn, "Lp-Trickle-Closed", "terminated");
	relay_reply_body(conn, NULL, "");
}

/* A publisher that waits for its first byte learns at once that nobody wants it any more. */
static void
publisher_check(struct relay_conn *conn)
{
	switch (relay_pub_state(&conn->pub)) {
	case RELAY_PUB_PARKED:
	case RELAY_PUB_FLOWING:
		break;
	case RELAY_PUB_CLOSED:
		reply_published(conn, true, false);
		break;
	case RELAY_PUB_TERMINATED:
		reply_published(conn, true, true);
		break;
	}
}

static void
post_segment(struct relay_conn *conn, const char *name, const char *seq_text)
{
	struct relay_hub *hub = hub_of(conn);
	struct relay_channel *channel = relay_hub_find(hub, name);
	int64_t seq, now_ns = clock_now_ns();

	if (channel == NULL && !hub->config.autocreate) {
		relay_reply_error(conn, 404, true, "Stream not found");
		return;
	}
	if (!relay_seq_parse(seq_text, RELAY_SEQ_NEXT, &seq)) {
		relay_reply_error(conn, 400, true, "Invalid idx");
		return;
	}
	if (channel == NULL)
		channel = channel_for_post(conn, name, conn->header[RELAY_HEADER_CONTENT_TYPE]);
	if (channel == NULL)
		return;
	conn->pub.watch.changed = on_pub_changed;
	if (relay_pub_open(&conn->pub, channel, seq, has_header(conn, RELAY_HEADER_RESET)) < 0) {
		relay_reply_error(conn, 503, true, "Out of memory");
		return;
	}
	publisher_check(conn);
	if (conn->reply_begun)
		return;
	if (has_header(conn, RELAY_HEADER_EXPECT))
		relay_reply_continue(conn);
	conn->continue_at_ns = now_ns + conn->server->config.continue_ns;
	if (conn->server->config.read_ns > 0)
		conn->deadline_ns = now_ns + conn->server->config.read_ns;
}

void
relay_request_body(struct relay_conn *conn, const uint8_t *bytes, size_t count)
{
	int r;

	if (conn->pub.channel == NULL || conn->reply_begun)
		return;
	publisher_check(conn);
	if (conn->reply_begun)
		return;
	r = relay_pub_write(&conn->pub, bytes, count, clock_now_ns());
	conn->continue_at_ns = 0;
	if (r == 0)
		return;
	log_warn("publisher", "refused", "reason=%s seq=%lld", r == RELAY_APPEND_SEGMENT_FULL ? "segment" : "memory",
	    (long long)conn->pub.seq);
	if (r == RELAY_APPEND_SEGMENT_FULL)
		relay_reply_error(conn, 413, true, "Segment too large");
	else
		relay_reply_error(conn, 503, true, "Out of memory");
}

void
relay_request_end(struct relay_conn *conn)
{
	if (conn->pub.channel == NULL || conn->reply_begun)
		return;
	publisher_check(conn);
	if (conn->reply_begun)
		return;
	bool empty = !conn->pub.started;

	relay_pub_end(&conn->pub, clock_now_ns());
	reply_published(conn, empty, false);
}

void
relay_request_broken(struct relay_conn *conn)
{
	if (conn->reply_begun)
		return;
	/* One that had sent nothing was waiting ahead of time: leaving like this is its only way to take that back. */
	if (conn->pub.channel != NULL && conn->pub.started)
		log_info("publisher", "left-in-mid-segment", "seq=%lld", (long long)conn->pub.seq);
	relay_pub_close(&conn->pub); /* the segment stays open */
	relay_reply_error(conn, 500, true, "Server error");
}

/* ---- everything else -------------------------------------------------- */

static void
post_channel(struct relay_conn *conn, const char *name)
{
	/* Whatever autocreate says: where segments do not create channels, this is the only way to have one. */
	if (channel_for_post(conn, name, conn->header[RELAY_HEADER_EXPECT_CONTENT]) == NULL)
		return;
	relay_reply_begin(conn, 200, false);
	relay_reply_body(conn, NULL, "");
}

static void
delete_channel(struct relay_conn *conn, const char *name)
{
	struct relay_channel *channel = relay_hub_find(hub_of(conn), name);

	if (channel == NULL) {
		relay_reply_error(conn, 400, false, "Invalid stream");
		return;
	}
	relay_channel_close(channel, clock_now_ns());
	relay_reply_begin(conn, 200, false);
	relay_reply_body(conn, NULL, "");
}

static void
delete_segment(struct relay_conn *conn, const char *name, const char *seq_text)
{
	struct relay_channel *channel = relay_hub_find(hub_of(conn), name);
	int64_t seq;

	if (channel == NULL)
		relay_reply_error(conn, 404, false, "Stream not found");
	else if (!relay_seq_parse(seq_text, 0, &seq))
		relay_reply_error(conn, 400, false, "Invalid idx");
	else if (relay_channel_close_segment(channel, seq) == RELAY_CLOSE_NONEXISTENT)
		relay_reply_error(conn, 400, false, "Nonexistent segment");
	else {
		relay_reply_begin(conn, 200, false);
		relay_reply_body(conn, NULL, "");
	}
}

static void
reply_method(struct relay_conn *conn, const char *allow)
{
	relay_reply_begin(conn, 405, false);
	relay_reply_header(conn, "Allow", "%s", allow);
	relay_reply_header(conn, "X-Content-Type-Options", "nosniff");
	relay_reply_body(conn, TEXT_PLAIN, "Method Not Allowed\n");
}

void
relay_request_begin(struct relay_conn *conn)
{
	char *name = NULL, *seq = NULL;
	enum relay_route route = relay_route_parse(conn->target, conn->server->config.path, &name, &seq);
	bool get = conn->parser.method == HTTP_GET || conn->parser.method == HTTP_HEAD;

	if (has_header(conn, RELAY_HEADER_EXPECT) &&
	    strcasecmp(conn->header[RELAY_HEADER_EXPECT], "100-continue") != 0)
		relay_reply_error(conn, 417, true, "Expectation Failed");
	else if (route == RELAY_ROUTE_NONE)
		relay_reply_error(conn, 404, false, "404 page not found");
	else if (route == RELAY_ROUTE_BAD)
		relay_reply_error(conn, 400, false, "Bad channel name");
	else if (route == RELAY_ROUTE_CHANNEL && conn->parser.method == HTTP_POST)
		post_channel(conn, name);
	else if (route == RELAY_ROUTE_CHANNEL && conn->parser.method == HTTP_DELETE)
		delete_channel(conn, name);
	else if (route == RELAY_ROUTE_CHANNEL)
		reply_method(conn, "DELETE, POST");
	else if (get)
		get_segment(conn, name, seq);
	else if (conn->parser.method == HTTP_POST)
		post_segment(conn, name, seq);
	else if (conn->parser.method == HTTP_DELETE)
		delete_segment(conn, name, seq);
	else
		reply_method(conn, "DELETE, GET, HEAD, POST");
}

void
relay_request_wake(struct relay_conn *conn)
{
	if (conn->sub.channel != NULL)
		reader_pump(conn);
	else if (conn->pub.channel != NULL && !conn->reply_begun)
		publisher_check(conn);
}

int64_t
relay_request_deadline(const struct relay_conn *conn)
{
	if (conn->continue_at_ns != 0 && (conn->deadline_ns == 0 || conn->continue_at_ns < conn->deadline_ns))
		return conn->continue_at_ns;
	return conn->deadline_ns;
}

void
relay_request_timeout(struct relay_conn *conn, int64_t now_ns)
{
	if (conn->deadline_ns != 0 && now_ns >= conn->deadline_ns) {
		if (conn->sub.channel != NULL)
			relay_conn_abort(conn);
		else
			relay_request_broken(conn);
	} else if (conn->continue_at_ns != 0 && now_ns >= conn->continue_at_ns) {
		relay_reply_continue(conn);
		conn->continue_at_ns = now_ns + conn->server->config.continue_ns;
	}
}

void
relay_request_drop(struct relay_conn *conn)
{
	relay_sub_close(&conn->sub);
	relay_pub_close(&conn->pub);
	conn->continue_at_ns = conn->deadline_ns = 0;
}

/* SPDX-License-Identifier: MIT */
/*
 * Connections: bytes on a socket to requests, and replies to bytes
 *
 * One libevent bufferevent and one http_parser a connection. The life of a request:
 *
 *	REQUEST --head read--> ACTIVE --reply and body complete--> REQUEST ...
 *	                         |
 *	                         +--the last reply is queued--> FLUSH --sent--> LINGER --peer closed--> gone
 *
 * In ACTIVE a reply may begin before, while or after the body is read; whatever comes later of the body is
 * skipped. A connection is never freed inside a callback of its own: DEAD is noted, and the outermost
 * function frees it.
 *
 * The policy for a slow reader: RELAY_OUTPUT_LOW bytes and one chunk are queued at most, as references.
 */
#ifndef MR_RELAY_CONN_H
#define MR_RELAY_CONN_H

#include "tools/relay/relay_channel.h"

#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/util.h>
#include <http_parser.h>

enum {
	RELAY_OUTPUT_LOW = 65536,
	RELAY_TARGET_BYTES_MAX = 4096,
	RELAY_HEADER_BYTES_MAX = 256, /* of a header's value, for those that we look at */
};

struct relay_http_config {
	const char *path;     /* base of all routes; begins and ends with a slash */
	int64_t continue_ns;  /* between unasked "100 Continue" to a parked POST */
	int64_t keepalive_ns; /* a connection between two requests */
	int64_t read_ns;      /* for a whole POST; 0: no limit */
	int64_t write_ns;     /* for a whole reply, from the request's head on; 0: no limit */
	unsigned conn_count_max;
};

struct relay_server {
	struct relay_http_config config;
	struct event_base *base; /* borrowed */
	struct relay_hub hub;
	unsigned conn_count;
	TAILQ_HEAD(, relay_conn) conns;
	void (*on_room)(struct relay_server *server); /* a connection went away */
};

enum relay_conn_state { RELAY_CONN_REQUEST, RELAY_CONN_ACTIVE, RELAY_CONN_FLUSH, RELAY_CONN_LINGER, RELAY_CONN_DEAD };

/* The headers that mean something to us. */
enum relay_header {
	RELAY_HEADER_CONTENT_TYPE,
	RELAY_HEADER_EXPECT,
	RELAY_HEADER_EXPECT_CONTENT,
	RELAY_HEADER_RESET,
	RELAY_HEADER_COUNT
};

struct relay_conn {
	uint32_t magic;
#define RELAY_CONN_MAGIC 0xc0221e5u
	enum relay_conn_state state; /* changed by relay_conn_set() only */
	struct relay_server *server;
	TAILQ_ENTRY(relay_conn) link;
	struct bufferevent *bev;
	struct event *wake, *timer;
	int64_t since_ns; /* of the last change of state, or of the complete reply */
	int64_t timer_ns; /* what the timer is set to; 0: off */
	http_parser parser;

	/* -- the request that is being read or answered -- */
	char target[RELAY_TARGET_BYTES_MAX];
	size_t target_bytes;
	char field[32]; /* name of the header that is being read, cut */
	size_t field_bytes;
	int header_idx;  /* enum relay_header of the value that is being read; -1: none of ours */
	bool value_seen; /* of that header */
	char header[RELAY_HEADER_COUNT][RELAY_HEADER_BYTES_MAX]; /* "": not there */
	int parse_status;       /* 0, or the status of the error reply */
	bool body_complete;     /* of the request */
	bool eof;               /* the peer sends no more */
	uint64_t skipped_bytes; /* of the body, after the reply */

	/* -- its reply -- */
	bool reply_begun, reply_complete;
	bool close_after, chunked;

	/* -- what relay_request.c needs to know -- */
	struct relay_sub sub;
	struct relay_pub pub;
	int64_t continue_at_ns, deadline_ns; /* 0: none */
};

/* Takes over the socket, or closes it when memory is short. */
void relay_conn_accept(struct relay_server *server, int *fd);
void relay_conn_set(struct relay_conn *conn, enum relay_conn_state state);
/* Breaks the connection; a peer that has a part of a reply cannot take it for everything. */
void relay_conn_abort(struct relay_conn *conn);
void relay_conn_close_all(struct relay_server *server);

/* ---- replies (relay_reply.c) ------------------------------------------ */

void relay_reply_continue(struct relay_conn *conn);
/* Status line and the headers that depend on the connection. */
void relay_reply_begin(struct relay_conn *conn, int status, bool close);
void relay_reply_header(struct relay_conn *conn, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Ends the head and sends a whole body. type: NULL for no Content-Type. */
void relay_reply_body(struct relay_conn *conn, const char *type, const char *body);
/* An error: begins and ends. A newline is added to `text`. */
void relay_reply_error(struct relay_conn *conn, int status, bool close, const char *text);
/* Ends the head; a body of unknown length follows. */
void relay_reply_stream(struct relay_conn *conn);
/* Queues a reference to `bytes`, which are inside `chunk`. false: out of memory. */
bool relay_reply_bytes(struct relay_conn *conn, struct relay_chunk *chunk, const uint8_t *bytes, size_t count);
void relay_reply_stream_end(struct relay_conn *conn);

/* ---- requests (relay_request.c) --------------------------------------- */

void relay_request_begin(struct relay_conn *conn); /* the head is complete */
void relay_request_body(struct relay_conn *conn, const uint8_t *bytes, size_t count);
void relay_request_end(struct relay_conn *conn);               /* the body is complete */
void relay_request_broken(struct relay_conn *conn);            /* the body will never be complete */
void relay_request_wake(struct relay_conn *conn);              /* a watch fired, or there is room for output */
int64_t relay_request_deadline(const struct relay_conn *conn); /* 0: none */
void relay_request_timeout(struct relay_conn *conn, int64_t now_ns);
/* Lets go of segments and channels. Idempotent. */
void relay_request_drop(struct relay_conn *conn);

#endif

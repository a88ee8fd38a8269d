/* SPDX-License-Identifier: MIT */
/*
 * Inside the trickle client: the loop, its members, and one HTTP request
 *
 * Layers, each of which knows only the one below:
 *     trk_sub, trk_pub   state machines with timers; the only ones that call the user
 *     trk_req            one HTTP request on a connection of its own, with a byte queue on the way in
 *     libcurl
 * libcurl's callbacks touch byte queues and flags only. What the flags mean is decided by a member's pump(), which
 * runs outside libcurl, so that user callbacks may open, write, pause and close whatever they like.
 */
#ifndef MR_PROTO_TRICKLE_TRK_PRIV_H
#define MR_PROTO_TRICKLE_TRK_PRIV_H

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "proto/trickle.h"
#include "proto/trickle/trk_backoff.h"
#include "proto/trickle/trk_buf.h"
#include "proto/trickle/trk_reply.h"
#include "proto/trickle/trk_url.h"

#include <curl/curl.h>
#include <stdio.h>

#define TRK_PARK_DEFAULT_NS  (20 * CLOCK_SEC_NS)
#define TRK_STALL_DEFAULT_NS (10 * CLOCK_SEC_NS)
#define TRK_NEVER_NS	     INT64_MAX

/* ---- members ---------------------------------------------------------- */

/* What a loop knows of a subscription or a publisher; their first field. */
struct trk_member {
	uint32_t magic; /* TRK_SUB_MAGIC, TRK_PUB_MAGIC; 0 once freed */
	bool closed;	/* by its owner: nothing is called any more, the memory goes at the end of the turn */
	struct trk_loop *loop;
	struct trk_member *next;
	/* Does what can be done now; returns when it wants to be called again at the latest. */
	int64_t (*pump)(struct trk_member *member, int64_t now_ns);
	void (*free)(struct trk_member *member);
};

struct trk_loop {
	uint32_t magic;
#define TRK_LOOP_MAGIC 0x74726b6cu
	CURLM *multi;
	struct trk_member *members;
	struct trk_req *uploads; /* POSTs, whose connections are watched for their end */
	bool kick;	  /* libcurl has something to do that no descriptor will tell */
	bool in_turn;
	uint64_t called;  /* user callbacks so far: a turn that has called one does not wait */
	uint64_t rng;
	bool tls_verify;
	char *ca_blob;	  /* NULL: libcurl's own default */
	size_t ca_blob_bytes;
	const char *proxy; /* "": none */
	struct curl_waitfd *wait_fds;
	unsigned wait_fds_count;
};

void trk_loop_add(struct trk_loop *loop, struct trk_member *member);
/* Frees it now, or at the end of the pass when a turn is running. */
void trk_loop_close_member(struct trk_member *member);

/* What a member last told its owner, so that only changes are told. */
struct trk_state {
	const char *name;
	char detail[96];
};
/* true: it is new. */
bool trk_state_set(struct trk_state *state, const char *name, const char *detail);
/*
 * When a request may be called parked, and its owner "waiting": at once, or, after trouble, when it has not been refused
 * for a moment; so that one who is refused every time does not flap between two states.
 */
int64_t trk_state_waiting_ns(const struct trk_state *state, int64_t request_started_ns);

/* ---- one request ------------------------------------------------------ */

enum trk_method { TRK_GET, TRK_POST_STREAM, TRK_POST_EMPTY, TRK_DELETE };

/* Takes up to `max` bytes of what is to be sent. 0 with *end false: nothing now; 0 with *end true: the body is over. */
typedef size_t trk_pull_fn(void *arg, void *bytes, size_t max, bool *end);

#define TRK_TRIED_MAX 4

struct trk_req {
	uint32_t magic;
#define TRK_REQ_MAGIC 0x74726b72u
	struct trk_req *next_upload;
	struct trk_loop *loop;
	CURL *easy;
	struct curl_slist *headers;
	struct trk_reply reply;
	bool connected;	   /* the request itself is going out */
	bool done;	   /* libcurl has finished with it, `code` says how */
	bool failed_memory;
	CURLcode code;
	int fd;		   /* of the connection, libcurl's; -1: not connected */
	int tried_fds[TRK_TRIED_MAX];
	unsigned tried_count;
	int64_t started_ns, connected_ns;
	int64_t moved_ns;  /* when a byte last came or went */
	/* on the way in */
	struct trk_buf body;
	size_t body_bytes_max;
	uint64_t body_bytes; /* all that came */
	bool recv_paused;
	/* on the way out */
	trk_pull_fn *pull; /* NULL: parked */
	void *pull_arg;
	bool send_paused, send_ended;
	uint64_t sent_bytes; /* handed to libcurl */
};

struct trk_req_config {
	enum trk_method method;
	const char *url;
	const char *mime;      /* Content-Type; NULL: none */
	const char *expect;    /* Expect-Content; NULL: none */
	bool reset;	       /* Lp-Trickle-Reset */
	size_t body_bytes_max; /* where back-pressure begins; 0: a page, for replies that nobody reads */
};

/* Begins a request. 0, or -ENOMEM. The caller owns *out until trk_req_abort(). */
int trk_req_start(struct trk_loop *loop, const struct trk_req_config *config, struct trk_req **out);
/* Frees it; a connection that is not finished is closed as it is. NULL is fine. */
void trk_req_abort(struct trk_req **req);
/* Bytes, or the end, may be pulled now. */
void trk_req_send(struct trk_req *req, trk_pull_fn *pull, void *arg);
/* Takes `count` bytes off the body. */
void trk_req_body_drop(struct trk_req *req, size_t count);
/*
 * The descriptor of an upload that is under way, to be watched for reading; -1: not now. While an upload is paused
 * libcurl takes note of the server's closing the connection but does not tell; trk_req_check_hangup() does.
 */
int trk_req_watch_fd(const struct trk_req *req);
void trk_req_check_hangup(struct trk_req *req);
/* The final reply is there (with all its headers), or will never be. */
bool trk_req_answered(const struct trk_req *req);
/* It ended without a final reply, or the body of a reply was cut short. */
bool trk_req_failed(const struct trk_req *req);
/* Why, in words. Valid until the next call. */
const char *trk_req_why(const struct trk_req *req);

#endif

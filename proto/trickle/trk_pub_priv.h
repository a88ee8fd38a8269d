/* SPDX-License-Identifier: MIT */
/*
 * Inside a publisher: its queue of segments, its POSTs, and its errands
 *
 * trk_pub.c holds the interface and the queue, trk_pub_post.c the POSTs of segments, trk_pub_setup.c the short requests
 * before, between and after them.
 */
#ifndef MR_PROTO_TRICKLE_TRK_PUB_PRIV_H
#define MR_PROTO_TRICKLE_TRK_PUB_PRIV_H

#include "proto/trickle/trk_priv.h"

#define TRK_PUB_MAGIC	     0x74726b70u
#define TRK_SEG_MAGIC	     0x74726b67u
#define TRK_PUB_BROKEN_MAX   16		       /* seqs waiting for their DELETE; the oldest is forgotten */
#define TRK_PUB_RESENDS_MAX  2		       /* of a message whose POST broke */
#define TRK_PUB_POSTS_MAX    4		       /* sent and unanswered; beyond it the next segment waits */
#define TRK_PUB_SETTLE_NS    (100 * CLOCK_MS_NS) /* see seg_settled() */
#define TRK_PUB_PROGRESS_NS  (10 * CLOCK_SEC_NS) /* bytes that are not taken, or an answer that does not come */

struct trk_seg {
	uint32_t magic;
	bool ended;	    /* nothing will be added */
	bool numbered;	    /* `seq` is its own, for good: a POST with it was made */
	bool message;	    /* its bytes are kept until it is answered */
	struct trk_seg *next;
	struct trk_pub *pub;
	struct trk_req *req; /* NULL: waits for a connection */
	int64_t seq;
	struct trk_buf bytes; /* not handed to libcurl yet; of a message: all */
	size_t read_bytes;    /* of a message: handed to libcurl */
	uint64_t sent_bytes;
	unsigned resends;
};

/* Before segments are sent: what has to be asked or made first. */
enum trk_pub_phase { TRK_PUB_CREATE, TRK_PUB_NEXT, TRK_PUB_PROBE, TRK_PUB_RUN };

struct trk_pub {
	struct trk_member member;
	/* immutable */
	struct trk_url url;
	char *mime;
	bool preconnect;
	size_t queue_bytes_max;
	int64_t park_ns, absent_grace_ns, opened_ns;
	const struct trk_pub_callbacks *callbacks;
	void *arg;
	/* the queue; a segment leaves it when it is answered or given up */
	struct trk_seg *first, *last;
	struct trk_seg *open;	/* being written; NULL: none */
	bool begun;		/* some segment ever was */
	bool open_dropped;	/* what is being written is thrown away */
	size_t queued_bytes;
	/* requests */
	enum trk_pub_phase phase;
	bool resume;
	int64_t first_seq;	/* only its POST says Reset, which closes all segments before */
	struct trk_req *errand; /* of the phase */
	struct trk_req *parked; /* POST of next_seq, without a byte */
	int64_t next_seq;
	int64_t retry_ns;	/* no new POST before */
	struct trk_backoff backoff;
	/* DELETEs */
	int64_t broken[TRK_PUB_BROKEN_MAX];
	unsigned broken_count, broken_tries;
	struct trk_req *broken_req;
	int64_t broken_retry_ns;
	struct trk_backoff broken_backoff;
	bool delete_wanted, delete_done;
	bool seen, ended;
	struct trk_state state;
	struct trk_pub_stats stats;
};

/* trk_pub.c */
void trk_pub_state(struct trk_pub *pub, const char *name, const char *detail);
void trk_pub_end(struct trk_pub *pub, enum trk_end why);
/* The channel was answered with 404: not yet, or the end. */
void trk_pub_absent(struct trk_pub *pub, int64_t now_ns);
/* A request failed: nothing is tried again before the back-off has passed. */
void trk_pub_backoff(struct trk_pub *pub, const char *why, int64_t now_ns);
/* Takes a segment off the queue, tells its owner, frees it. */
void trk_pub_seg_finish(struct trk_pub *pub, struct trk_seg *seg, bool ok);
/* Bytes that are not handed to libcurl yet. */
size_t trk_seg_pending(const struct trk_seg *seg);

/* trk_pub_post.c; both return when they want to run again */
int64_t trk_pub_post_pump(struct trk_pub *pub, int64_t now_ns);
/* Gives a segment up of which bytes may be at the server. */
void trk_pub_seg_break(struct trk_pub *pub, struct trk_seg *seg);

/* trk_pub_setup.c */
int64_t trk_pub_setup_pump(struct trk_pub *pub, int64_t now_ns); /* while phase is not TRK_PUB_RUN */
int64_t trk_pub_delete_pump(struct trk_pub *pub, int64_t now_ns);
void trk_pub_broken_add(struct trk_pub *pub, int64_t seq);

#endif

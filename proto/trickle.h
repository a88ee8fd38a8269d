/* SPDX-License-Identifier: MIT */
/*
 * Trickle client
 *
 * Subscribes to and publishes on trickle channels over HTTP/1.1 with libcurl's multi interface. One struct trk_loop
 * belongs to one thread; everything happens inside trk_loop_turn(), which also waits for the caller's own descriptors,
 * so that a process needs no second thread. Callbacks may call any function of this header except trk_loop_turn()
 * and trk_loop_free().
 *
 * What a caller may rely on:
 *   - a subscription and a publisher live until the channel is over (404, Lp-Trickle-Closed) or they are closed:
 *     refused and reset connections, stalls, 5xx and DNS failures are retried for ever with jittered back-off;
 *   - no limit is put on how long a healthy transfer takes; limits are on progress only;
 *   - parked requests are re-issued to the same seq every `park_ns` by aborting the connection;
 *   - nothing is delivered twice: after a break in mid-segment the rest of that segment is skipped up to the byte
 *     reached, when the server still has the segment, else the subscription goes on at Lp-Trickle-Latest and says so;
 *   - memory is bounded: a subscriber can be paused, a publisher's queue has a limit.
 */
#ifndef MR_PROTO_TRICKLE_H
#define MR_PROTO_TRICKLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pollfd;
struct trk_loop;
struct trk_sub;
struct trk_pub;

/* Why a channel is over. Nothing is called for that subscription or publisher after `ended`. */
enum trk_end {
	TRK_END_CLOSED, /* Lp-Trickle-Closed */
	TRK_END_GONE,	/* 404 after the channel had been seen */
	TRK_END_ABSENT, /* 404 since the beginning, for longer than absent_grace_ns */
};
const char *trk_end_name(enum trk_end end); /* one word */
const char *trk_end_text(enum trk_end end); /* for people */

struct trk_loop_config {
	bool tls_verify;	/* false: accept any certificate (an orchestrator's is self-signed by default) */
	const char *ca_file;	/* NULL: the system's; only with tls_verify; read now, used as a blob */
	uint64_t seed;		/* of the back-off's jitter; 0: from the clock */
};

/* 0, or -errno. The caller owns *out until trk_loop_free(), which also closes what is still open on it. */
int trk_loop_new(const struct trk_loop_config *config, struct trk_loop **out);
void trk_loop_free(struct trk_loop **loop);

/*
 * Waits until a transfer or one of `extra` is ready or `deadline_ns` (CLOCK_MONOTONIC) has passed, runs what is ready
 * and returns. `extra` is an array of pollfd whose revents are set as by poll(); NULL with count 0 is fine.
 * Returns 0, or -errno when waiting itself failed.
 */
int trk_loop_turn(struct trk_loop *loop, struct pollfd *extra, unsigned extra_count, int64_t deadline_ns);

/* ---- subscribing ------------------------------------------------------ */

struct trk_sub_callbacks {
	/* The first byte of a segment is about to be delivered. `gap`: segments were missed or broken before it. */
	void (*segment_begin)(void *arg, int64_t seq, bool gap);
	/* Bytes as they arrive; valid during the call. */
	void (*data)(void *arg, const uint8_t *bytes, size_t count);
	/* complete: the server ended the segment; false: it was given up (broken, or too far behind). */
	void (*segment_end)(void *arg, int64_t seq, bool complete);
	/* Once. */
	void (*ended)(void *arg, enum trk_end why);
	/* The state changed: "connecting", "waiting", "receiving", "retrying"; `detail` says why in words ("connection
	 * refused", "HTTP 503", ""). For status and logs. May be NULL. */
	void (*state)(void *arg, const char *state, const char *detail);
};

struct trk_sub_config {
	const char *url;	  /* of the channel, without a seq; copied */
	int64_t start_seq;	  /* -2: the newest segment from its beginning (default of a session); -1: the next one */
	int64_t park_ns;	  /* 0: 20 s */
	int64_t absent_grace_ns;  /* how long a 404 before anything was seen is taken as "not yet" */
	int64_t stall_ns;	  /* no byte in mid-segment for so long: look at a fresh connection; 0: 10 s */
	const struct trk_sub_callbacks *callbacks; /* borrowed until closed */
	void *arg;
};

/* 0; -EINVAL: the URL cannot be used (only http and https); -ENOMEM. */
int trk_sub_open(struct trk_loop *loop, const struct trk_sub_config *config, struct trk_sub **out);
/* Aborts what is in flight. `ended` is not called. NULL is fine. */
void trk_sub_close(struct trk_sub **sub);
/* While paused no `data` is called (bytes already with curl may still come until the next turn) and the server feels
 * back-pressure. */
void trk_sub_pause(struct trk_sub *sub, bool paused);

struct trk_sub_stats {
	uint64_t bytes, segments, retries, skipped_segments;
	int64_t seq; /* being read or waited for; -1 before the first */
};
void trk_sub_get_stats(const struct trk_sub *sub, struct trk_sub_stats *out);

/* ---- publishing ------------------------------------------------------- */

struct trk_pub_callbacks {
	/* The POST of a segment is over. ok: the server answered 2xx. May be NULL. */
	void (*segment_done)(void *arg, int64_t seq, bool ok);
	void (*ended)(void *arg, enum trk_end why);
	void (*state)(void *arg, const char *state, const char *detail);
};

struct trk_pub_config {
	const char *url;	 /* copied */
	const char *mime;	 /* Content-Type, "video/MP2T"; copied */
	bool resume;		 /* ask GET <url>/next where to go on and send Lp-Trickle-Reset with the first POST */
	bool create;		 /* create the channel (POST <url>) first; for publishers that own their channel */
	bool preconnect;	 /* park a POST for the next segment ahead of time (media); false for rare messages */
	size_t queue_bytes_max;	 /* of bytes accepted but not yet sent; 0: 8 MiB */
	int64_t park_ns;	 /* 0: 20 s */
	int64_t absent_grace_ns;
	const struct trk_pub_callbacks *callbacks;
	void *arg;
};

/* As trk_sub_open(). Segments may be begun at once; bytes queue until the connection is there. */
int trk_pub_open(struct trk_loop *loop, const struct trk_pub_config *config, struct trk_pub **out);

/* Ends the open segment, if any, and begins the next one. */
void trk_pub_segment_begin(struct trk_pub *pub);
/*
 * Queues bytes of the open segment; copied. They go onto the wire at the next turn of the loop.
 * 0; 1 (TRK_PUB_DROPPED): the queue was full, or the segment's POST failed after bytes had been sent; the rest of the
 * segment is dropped and its seq DELETEd, so readers do not hang. The caller begins a new segment (with a keyframe).
 */
enum { TRK_PUB_DROPPED = 1 };
int trk_pub_write(struct trk_pub *pub, const void *bytes, size_t count);
void trk_pub_segment_end(struct trk_pub *pub);

/* A whole message as one segment (events, control, data). Same returns as trk_pub_write(). */
int trk_pub_message(struct trk_pub *pub, const void *bytes, size_t count);

/* true: nothing queued and no POST with bytes is unanswered. */
bool trk_pub_idle(const struct trk_pub *pub);
/* DELETE the channel, in the background; trk_pub_idle() turns true when it was answered or failed. */
void trk_pub_delete_channel(struct trk_pub *pub);
/* Aborts what is in flight (a parked POST is aborted, never ended with an empty body). NULL is fine. */
void trk_pub_close(struct trk_pub **pub);

struct trk_pub_stats {
	uint64_t bytes, segments, segments_dropped, retries;
	size_t queued_bytes;
	int64_t seq; /* of the newest segment begun; -1 before */
};
void trk_pub_get_stats(const struct trk_pub *pub, struct trk_pub_stats *out);

#endif

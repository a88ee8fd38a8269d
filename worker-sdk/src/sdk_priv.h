/* SPDX-License-Identifier: MIT */
/*
 * Worker SDK: the objects behind millrace.h
 *
 * One thread, one struct mr_worker. A session occupies a slot that is allocated once and used again, so that a stale
 * frame pointer of the application is recognised and never dangling. Each session has two tracks; a track has up to
 * SDK_GENERATIONS_MAX generations of its in ring (an old one is drained while the next is open already) and one out
 * ring.
 *
 *   sdk_open.c    connecting, READY, leaving, exit codes
 *   sdk_take.c    mr_take(): waiting, and whose turn it is
 *   sdk_ctl.c     what the supervisor says
 *   sdk_track.c   the rings of a track: opening, asking for an out ring, draining, closing
 *   sdk_answer.c  claim, publish, answer, release
 *   sdk_say.c     what the worker says: events, status, results of parameters
 *   sdk_json.c    the scanner behind mr_param_*()
 *   sdk_run.c     the callbacks level
 */
#ifndef MR_SDK_PRIV_H
#define MR_SDK_PRIV_H

#include "millrace.h"

#include "base/clock.h"
#include "proto/ctl.h"
#include "proto/ring.h"
#include "proto/stats.h"

enum {
	SDK_CAPACITY_MAX = 64,
	SDK_GENERATIONS_MAX = 3, /* two are usual; a third while the application holds frames of the oldest */
	SDK_HELD_MAX = 2 * SDK_GENERATIONS_MAX * RING_HOLDS_MAX,
	SDK_MUST_SEND_MS = 2000,    /* the supervisor always reads; longer than this and it is gone */
	SDK_HANDSHAKE_MS = 10000,
	SDK_SAY_PER_S = 100,	    /* messages of the application a second; the supervisor bears 200 */
	SDK_SAY_BURST = 200,
};
#define SDK_LOOK_NS    (50 * CLOCK_MS_NS) /* every wait looks again: a killed producer may not have rung */
#define SDK_IDLE_NS    (10 * CLOCK_SEC_NS)
#define SDK_CTL_NS     (5 * CLOCK_MS_NS)  /* with frames always there, the control socket is looked at so often */
#define SDK_OUT_ASK_NS (2 * CLOCK_SEC_NS) /* a request for an out ring is given up */

enum sdk_track_id { SDK_VIDEO, SDK_AUDIO, SDK_TRACK_COUNT };

/* One frame that the application holds. */
struct sdk_held {
	uint32_t magic; /* always, also when free: see sdk_held_of() */
#define SDK_HELD_MAGIC 0x73686431u
	struct sdk_in *in; /* NULL: free */
	struct ring_frame frame;
	int64_t taken_ns;
	struct mr_frame pub; /* what the application sees */
};

/* One generation of an in ring. */
struct sdk_in {
	uint32_t magic;
#define SDK_IN_MAGIC 0x73696e31u
	struct sdk_track *track;
	struct ring_rx *rx;
	uint32_t generation;
	unsigned held_count;
	bool look;    /* there may be something: it rang, or it was not looked at since */
	bool polled;  /* its doorbell is in the epoll instance */
	bool ended;   /* RING_ENDED */
	bool drained; /* ended, and nothing is left in it */
	uint64_t lost; /* frames skipped or overwritten, as booked in the statistics */
};

enum sdk_out_state {
	SDK_OUT_NONE,	/* no ring, and none asked for */
	SDK_OUT_ASKED,	/* RING_REQUEST sent; the ring before it, if any, is still mapped */
	SDK_OUT_MAPPED, /* MAPPED sent, the consumer is not there yet */
	SDK_OUT_LIVE,
};

struct sdk_track {
	enum sdk_track_id id;
	struct mr_session *session;
	struct sdk_in *in[SDK_GENERATIONS_MAX]; /* oldest first */
	unsigned in_count;
	enum sdk_out_state out;
	struct ring_tx *tx;
	int64_t asked_ns;
	bool complained; /* about a request that was not granted */
	uint32_t wish_width, wish_height; /* mr_output_resize(); 0: as the input */
	struct sdk_held *claimed;	  /* the frame whose answer is being written */
	unsigned slot;			  /* of that answer */
	uint64_t answered_seq;		  /* newest frame that was answered */
};

enum sdk_session_state {
	SDK_FREE,
	SDK_OPEN,    /* MR_ITEM_START was delivered */
	SDK_STOPPED, /* MR_ITEM_STOP was delivered; frames may still be held */
};

struct mr_session {
	uint32_t magic;
#define SDK_SESSION_MAGIC 0x73736573u
	enum sdk_session_state state;
	uint32_t id;
	struct mr_worker *worker;
	void *user;
	struct sdk_track track[SDK_TRACK_COUNT];
	unsigned audio_run; /* blocks of audio since the last picture */
	unsigned held_count;
	/* parameters that wait for an answer */
	bool unanswered, start; /* start: those of SESSION_OPEN */
	uint64_t params_version;
	uint32_t txn;
	char *params; /* text of the newest SESSION_OPEN or PARAMS; valid until the next mr_take() */
	size_t params_bytes;
	struct mr_stream stream;
	char why[CTL_TEXT_MAX]; /* mr_fail() */
	struct sdk_held held[SDK_HELD_MAX];
	/* for mr_run() */
	bool is_refused;	 /* stream_start failed */
	char *refused;		 /* the parameters that it failed with first; NULL: it did not */
	uint64_t failures;	 /* of callbacks, since the last line in the log */
	int64_t failure_logged_ns;
};

struct mr_worker {
	uint32_t magic;
#define SDK_WORKER_MAGIC 0x77726b31u
	int ctl;
	int epoll;
	struct mr_worker_config config; /* name: not kept */
	struct stats_page *stats;
	uint64_t child_id;
	bool is_ready, draining, gone; /* gone: end of file on the control socket */
	bool ctl_look;		       /* the control socket may have something */
	int broken;		       /* a fatal error; mr_take() repeats it */
	int64_t polled_ns;
	unsigned claims; /* outputs that the application is writing */
	unsigned turn;	 /* session that is looked at first */
	int64_t say_ns;	 /* when `say_tokens` was right */
	unsigned say_tokens;
	uint64_t say_dropped;
	struct mr_session *session[SDK_CAPACITY_MAX]; /* allocated at first use, freed by mr_close() */
};

/* sdk_ctl.c */
enum sdk_ctl_result {
	SDK_CTL_NOTHING = 0, /* the socket is empty */
	SDK_CTL_DONE = 1,    /* a message was handled */
	SDK_CTL_ITEM = 2,    /* a message became *item */
};
/* Handles one message. enum sdk_ctl_result, or a fatal -errno. */
int sdk_ctl_step(struct mr_worker *worker, struct mr_item *item);
/* The worker is to leave: the next open session becomes an MR_ITEM_STOP. False: none is open. */
bool sdk_ctl_stop_next(struct mr_worker *worker, struct mr_item *item);
/* Answers with SESSION_CLOSED for stopped sessions of which nothing is held. 0 or -errno. */
int sdk_ctl_reap(struct mr_worker *worker);
/* Nothing of the session stays mapped; the slot is free again. */
void sdk_session_fini(struct mr_session *session);
/* Sends what must arrive: waits for room, SDK_MUST_SEND_MS at most. 0 or -errno. */
int sdk_must_send(struct mr_worker *worker, const union ctl_msg *msg);

/* sdk_track.c */
struct sdk_track *sdk_track_of_ring(struct mr_session *session, uint32_t ring_id);
/* `fds` are consumed. 0 or -errno. */
int sdk_track_open_in(struct sdk_track *track, const struct ctl_ring_open *open, int *fds, unsigned fd_count);
int sdk_track_open_out(struct sdk_track *track, const struct ctl_ring_open *open, int *fds, unsigned fd_count);
void sdk_track_live(struct sdk_track *track, uint32_t generation);
void sdk_track_ended(struct sdk_track *track, uint32_t generation);
/* The out ring is live and fits the frames of `in`; asks for one if not. 1: yes. 0: not yet. -errno. */
int sdk_track_out_ready(struct sdk_track *track, const struct sdk_in *in);
/* Closes in rings that are drained and of which nothing is held. 0 or -errno. */
int sdk_track_reap(struct sdk_track *track);
void sdk_track_fini(struct sdk_track *track);
/* The doorbell of this ring rang, or its peer is gone. */
void sdk_in_rang(struct sdk_in *in, bool hung_up);

/* sdk_take.c */
/* Waits until `deadline_ns` at most and notes who has something. 0; 1: a signal handler ran; -errno. */
int sdk_poll(struct mr_worker *worker, int64_t deadline_ns);

/* sdk_answer.c */
/* A frame of the application's is one of ours and held; else NULL. */
struct sdk_held *sdk_held_of(const struct mr_frame *frame);
void sdk_claim_drop(struct sdk_track *track);

/* sdk_say.c */
/* Answers parameters that wait, if any. */
int sdk_answer_params(struct mr_session *session, int status, const char *text);
/* Copies at most bytes - 1 bytes, not cutting a UTF-8 sequence. */
void sdk_copy_text(char *to, size_t bytes, const char *from);

/* sdk_json.c */
/* The text is one JSON object. */
bool sdk_json_is_object(const char *json, size_t bytes);
/* It is one JSON object, without a member. */
bool sdk_json_is_empty(const char *json, size_t bytes);
bool sdk_utf8_is_valid(const char *text, size_t bytes);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * A session: one stream from start to stop as its client sees it
 *
 * It outlives each process that serves it: an ingest, an egress and at any time at most one worker. It ends only when
 * it is asked to stop, when one of its channels is over, or when the service stops. It is freed by sup_session_tick()
 * alone, never from within a callback.
 */
#ifndef MR_SUP_SESSION_H
#define MR_SUP_SESSION_H

#include "proto/ctl.h"
#include "proto/stats.h"
#include "supervisor/sup.h"
#include "supervisor/sup_restart.h"
#include "supervisor/sup_ring.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

enum { SUP_ID_BYTES_MAX = 256, SUP_URL_BYTES_MAX = 4096, SUP_SUSPECTS_MAX = 8, SUP_SKIP_MAX = 4, SUP_CHANNELS = 6,
	SUP_SEAT_IN_WORKER = 0 /* the worker's place in in.video */ };

struct sup_pending;
struct sup_worker;
TAILQ_HEAD(sup_rings, sup_ring);

struct sup_stream { /* what a start request says, checked */
	char *id;
	char log_id[64];	 /* the same, fit for a log line */
	char *url[SUP_CHANNELS]; /* by enum ctl_channel_id; NULL: none */
	json_t *params;		 /* object, coerced */
	uint32_t width, height, max_framerate;
	bool detect_out_resolution, show_loading;
};

struct sup_media { /* ingest or egress of a session */
	struct sup_child child;
	struct sup_state state;
	struct sup_restart restart;
	int64_t due_ns;	    /* BACKOFF: when to start again */
	uint32_t deaths;
	bool session_sent, closed; /* SESSION_OPEN went out; SESSION_CLOSED came back */
	bool ended_itself;  /* a channel of it is over: its death needs no restart */
	uint64_t base[STATS_WORDS_MAX]; /* totals of the incarnations before this one */
	uint64_t progress;  /* counter that shows progress, as last seen in this incarnation */
	char last_end[200];
	char *text;	 /* session text of the incarnation that is starting */
	json_t *resume;	 /* what the last one left; NULL: it is the first */
};

struct sup_channel {
	enum ctl_channel_state state; /* 0: not opened yet */
	int64_t since_ns;
	char text[CTL_TEXT_MAX];
};

struct sup_suspect {
	uint64_t seq;
	uint32_t deaths;
};

struct sup_session {
	uint32_t magic;
#define SUP_SESSION_MAGIC 0x53534553u
	TAILQ_ENTRY(sup_session) link;
	struct sup *sup;
	uint32_t num; /* in control messages */
	struct sup_stream stream;
	struct sup_state state;
	int64_t started_ns, started_wall_ms, over_ns;
	char over_why[SUP_REASON_BYTES];
	int64_t ring_asked_ns; /* the worker's rings on its own request are limited */
	int ring_tokens;
	bool over_by_request; /* stopped, not ended by a channel */
	bool delete_channels; /* a client asked for the end: readers of our channels are told at once */
	bool acknowledged;    /* a stop request was answered: it is not "active" for anybody */
	int64_t close_deadline_ns; /* what is left then is killed */

	struct sup_media ingest, egress;
	struct sup_channel channel[SUP_CHANNELS];
	int upload_fd; /* memfd into which ingest writes control documents; -1: none */

	struct sup_worker *worker; /* NULL: none is bound */
	bool worker_waits;	   /* the bound worker has been asked to close and has not answered */
	int64_t worker_close_ns;   /* when it was asked */
	bool worker_state_owed;	   /* egress was too slow to be told the newest one */
	bool had_worker;
	uint32_t worker_deaths;
	uint64_t results_at_attach; /* sup_session_results() when the present worker took over */
	enum format_id format;
	uint32_t hold_count;	/* of the worker */
	bool worker_audio, worker_doorbell;
	TAILQ_ENTRY(sup_session) worker_link;

	/* rings: sup_broker.c */
	struct sup_rings rings; /* oldest first */
	uint32_t generation[CTL_RING_ID_MAX + 1];
	uint64_t rings_replaced;
	enum ctl_ring_id ring_refused; /* could not be made when it was last asked for; 0: none */
	char ring_error[200];	       /* and why */
	struct sup_suspect suspect[SUP_SUSPECTS_MAX];
	uint64_t skip_seq[SUP_SKIP_MAX];
	uint32_t quarantined;

	/* parameters: sup_update.c */
	json_t *params_now;  /* what the next incarnation of the worker gets */
	json_t *params_good; /* what was in force when a frame was last accepted */
	TAILQ_HEAD(, sup_pending) pending; /* updates that the worker has not answered, oldest first */
	unsigned pending_count;
	uint64_t params_version;
	uint32_t params_deaths; /* of workers, since params_now differs from params_good */
	uint32_t rollbacks;
	char params_error[CTL_TEXT_MAX];
	bool overlay_by_client, overlay_by_worker;
	char overlay_text[CTL_TEXT_MAX];
	int overlay_percent;

	/* watchdog: sup_watchdog.c */
	uint64_t seen_results, seen_input;
	int64_t stalled_since_ns; /* input has moved since the last result; 0: it has not */
	int64_t params_sent_ns;	  /* the oldest unanswered PARAMS; 0: none */
	bool first_result;	  /* this incarnation has answered a frame */
	int64_t worker_opened_ns; /* SESSION_OPEN was sent */

	/* journal: sup_journal.c */
	uint64_t journal_key;	/* 0: it is not in the journal (any more) */
	unsigned journal_slot;	/* of its checkpoint */
	uint64_t point_count;
	int64_t point_out_ns, point_mono_ns; /* output's timestamp and time of the last one */
	int64_t burst_ns;	/* by how much the output gained on the clock between two of them, slowly forgotten */
	bool resumed;		/* a predecessor of this process had started it */
	bool format_from_past;	/* and no worker of this process has taken it yet */
	unsigned journal_crashes, journal_kills; /* of predecessors, while they resumed it */
	int64_t replay_until_ns; /* a suspect until then, should we die; 0: not */
};

/* What a predecessor knew about a session that is resumed. JSON is borrowed but for the two resumes. */
struct sup_past {
	uint64_t key, point_count;
	unsigned slot, crashes, kills;
	int64_t started_wall_ms, burst_ns;
	enum format_id format;
	uint32_t hold_count, max_framerate;
	bool audio, doorbell, show_loading;
	json_t *params_now, *params_good; /* no object: as in the start request, as the former */
	json_t *ingest_resume, *egress_resume; /* NULL: nothing had been published, or sent */
	uint32_t generation[CTL_RING_ID_MAX + 1];
	uint64_t skip_seq[SUP_SKIP_MAX];
	uint32_t quarantined;
};

/* `stream` is consumed. There must be room in the pool. 0: *out stays the supervisor's. -errno. */
int sup_session_start(struct sup *sup, struct sup_stream *stream, struct sup_session **out);
/* The same without a client: `stream` and the resumes of `past` are consumed on success. No worker need be there. */
int sup_session_resume(struct sup *sup, struct sup_stream *stream, struct sup_past *past, struct sup_session **out);
/* A worker that takes other frames than the last one: a resumed session that none has taken yet is made fit for it. */
void sup_session_adapt(struct sup_session *s, const struct ctl_hello *hello);
/* A start request, checked (sup_api_stream.c). false: `why` says why not. *st needs sup_stream_fini() in each case. */
bool sup_stream_read(const json_t *request, enum format_id format, struct sup_stream *st, char *why, size_t why_bytes);
/* Begins the end. `why` is for people; `by_request`: it is stopped, not ended. Idempotent. */
void sup_session_close(struct sup_session *s, bool by_request, const char *why);
void sup_session_tick(struct sup_session *s, int64_t now_ns);
/* Frees a session that is over. */
void sup_session_free(struct sup_session **s);
void sup_stream_fini(struct sup_stream *stream);

static inline bool
sup_session_running(const struct sup_session *s)
{
	return s->state.value == SUP_SESSION_RUNNING;
}
static inline bool
sup_session_over(const struct sup_session *s)
{
	return s->state.value == SUP_SESSION_ENDED || s->state.value == SUP_SESSION_STOPPED;
}
/* The running session of that id, else the newest that is over but was not acknowledged; NULL. */
struct sup_session *sup_session_find(struct sup *sup, const char *id);
unsigned sup_session_count_running(const struct sup *sup);

/* Progress of closing: called whenever something of it may have happened. */
void sup_session_step(struct sup_session *s);

/* ---- the session's worker (called by sup_worker.c) -------------------- */

/* A READY worker begins to serve the session. */
void sup_session_attach(struct sup_session *s, struct sup_worker *w);
/* It answered SESSION_CLOSE, or it died (`death`). */
void sup_session_detach(struct sup_session *s, const struct sup_death *death);
void sup_session_worker_message(struct sup_session *s, const union ctl_msg *msg);
/* Tells egress what the worker is doing, for the slate. */
void sup_session_tell_worker_state(struct sup_session *s);
/* Results that egress accepted since the session began. */
uint64_t sup_session_results(const struct sup_session *s);

/* ---- media children: sup_media.c -------------------------------------- */

void sup_media_init(struct sup_session *s, enum ctl_role role);
void sup_media_start(struct sup_session *s, struct sup_media *m);
void sup_media_close(struct sup_session *s, struct sup_media *m);
void sup_media_fini(struct sup_media *m);
void sup_media_tick(struct sup_session *s, struct sup_media *m, int64_t now_ns);
/* Counter over all incarnations (COUNTER kinds add up, gauges are the newest). */
uint64_t sup_media_total(const struct sup_media *m, unsigned i);
/* CTL_PUBLISH; `text` is JSON. */
void sup_session_publish(struct sup_session *s, enum ctl_channel_id channel, const char *text, size_t bytes);
/* An event in the envelope of the events channel; `event` is consumed. */
void sup_session_event(struct sup_session *s, json_t *event, const char *queue_type);
const char *sup_channel_name(unsigned channel);
const char *sup_channel_state_name(unsigned state);

/* ---- session text: sup_text.c ----------------------------------------- */

/* What a media child is told (proto/session_text.md). The caller decrefs. */
json_t *sup_text_media(const struct sup_session *s, const struct sup_media *m);
/* The `resume` object, from the page of an incarnation that is gone. */
json_t *sup_text_resume(const struct sup_media *m);

/* ---- rings: sup_broker.c ---------------------------------------------- */

/* Why a session of that size cannot have its video rings, for a worker that says `hello`. NULL: it can. */
const char *sup_broker_refusal(struct sup *sup, const struct sup_stream *stream, const struct ctl_hello *hello);
void sup_broker_request(struct sup_session *s, struct sup_child *child, const struct ctl_ring_request *req);
void sup_broker_mapped(struct sup_session *s, struct sup_child *child, const struct ctl_ring_ref *ref);
void sup_broker_closed(struct sup_session *s, struct sup_child *child, const struct ctl_ring_ref *ref);
/* A child of that role has its SESSION_OPEN: give it the rings that it consumes, and the worker its out rings. */
void sup_broker_attach(struct sup_session *s, enum ctl_role role);
/* The child of that role is gone, reaped, and writes nothing more. */
void sup_broker_detach(struct sup_session *s, enum ctl_role role);
/* Books what the dead worker held; two deaths on one frame put it into quarantine. Before sup_broker_detach().
 * Returns how many frames it held. */
unsigned sup_broker_book_holds(struct sup_session *s);
void sup_broker_tick(struct sup_session *s, int64_t now_ns);
/* true: every in ring that the worker consumes has been drained by it. */
bool sup_broker_worker_drained(const struct sup_session *s);
void sup_broker_fini(struct sup_session *s);

/* ---- parameters: sup_update.c ----------------------------------------- */

struct sup_reply;
/* Validated, coerced parameters (an object; borrowed). The answer goes to `reply` (may be NULL: the control channel),
 * at the latest after 1.5 s. */
void sup_update_apply(struct sup_session *s, json_t *params, struct sup_reply *reply);
/* The same, for a document of the control channel, which is input. */
void sup_update_from_control(struct sup_session *s, const char *text, size_t bytes);
void sup_update_result(struct sup_session *s, const struct ctl_params_result *res);
/* The worker died, or the session is over: whoever waits gets an answer. */
void sup_update_abandon(struct sup_session *s, bool accepted, const char *why);
void sup_update_tick(struct sup_session *s, int64_t now_ns);
/* Returns true when the parameters were rolled back. */
bool sup_update_book_death(struct sup_session *s);
void sup_update_frame_accepted(struct sup_session *s);

/* ---- watchdog: sup_watchdog.c ----------------------------------------- */

void sup_watchdog_reset(struct sup_session *s, int64_t now_ns);
void sup_watchdog_tick(struct sup_session *s, int64_t now_ns);

#endif

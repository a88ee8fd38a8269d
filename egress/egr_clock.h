/* SPDX-License-Identifier: MIT */
/*
 * The output clock: which picture is sent for each input frame, and when
 *
 * Every input frame gets exactly one decision, in order of input. Latency policy: a frame waits for its result until
 * its deadline; an answer to a later frame proves that the worker skipped it and ends its wait; without a worker
 * nobody waits. Whatever happens, a decision comes at most EGR_SLACK_NS later, relative to its frame's arrival, than
 * the one before it did, so that the output has no gap beyond one input interval + 100 ms while input flows.
 *
 * Pure: no I/O, no allocation, time is an argument. Results are somebody else's words: they are matched with the
 * frames that were really seen and counted, never asserted on.
 */
#ifndef MR_EGR_CLOCK_H
#define MR_EGR_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

enum egr_policy { EGR_POLICY_PASSTHROUGH, EGR_POLICY_HOLD, EGR_POLICY_OVERLAY, EGR_POLICY_DROP };

/* What is sent for a frame. */
enum egr_picture {
	EGR_PICTURE_RESULT, /* the worker's result for it */
	EGR_PICTURE_INPUT,  /* the input frame itself */
	EGR_PICTURE_LAST,   /* the newest processed picture */
	EGR_PICTURE_SLATE,
	EGR_PICTURE_NONE,   /* nothing */
};

enum egr_why { EGR_WHY_RESULT, EGR_WHY_NO_WORKER, EGR_WHY_DEADLINE, EGR_WHY_WITHHELD, EGR_WHY_PASS, EGR_WHY_ASKED,
	EGR_WHY_START /* before the first result of a new stream: left out */ };

struct egr_decision {
	uint64_t seq;
	int64_t pts_ns;
	int64_t commit_ns;
	enum egr_picture picture;
	enum egr_why why;
	void *input; /* as given to egr_clock_input(); the caller's again */
};

enum {
	EGR_ENTRIES_MAX = 512,	/* frames that are remembered, decided ones included; a power of two */
	EGR_PENDING_MAX = 64,	/* frames that wait; beyond it the oldest is decided at once */
};

#define EGR_SLACK_NS INT64_C(80000000)	 /* 100 ms less encoding and scheduling */
#define EGR_PAUSE_NS INT64_C(200000000)	 /* a longer step between two frames is a pause of the source */
#define EGR_WAIT_MIN_NS INT64_C(25000000) /* every frame may wait so long for its result, however late it came itself */
#define EGR_ALIVE_NS INT64_C(500000000)	 /* a result so recent says: alive and slow */
#define EGR_LOADING_NS INT64_C(1500000000) /* the input passes for so long before a worker that withholds gets a slate */
#define EGR_START_NS INT64_C(500000000)	 /* the first decision waits for the first result, so long at most */

struct egr_clock_config {
	enum egr_policy policy;
	int64_t frame_deadline_ns;
	bool resumed; /* this output goes on where another process stopped: nothing waits for a first result */
};

struct egr_entry {
	uint64_t seq;
	int64_t pts_ns, commit_ns;
	void *input;
	uint8_t state;
};

struct egr_clock {
	struct egr_clock_config config;
	struct egr_entry entries[EGR_ENTRIES_MAX];
	uint64_t head, tail, oldest; /* indices that only grow: oldest <= head (next to decide) <= tail */
	uint64_t newest_seq;	     /* of the input frames seen; 0: none */
	uint64_t last_src_seq;	     /* the newest processed picture answers this frame; 0: there is none */
	int64_t first_ns;	     /* when the first frame arrived */
	int64_t answered_ns;	     /* newest result of any kind that answers a frame; 0: none */
	int64_t real_ns;	     /* newest result with a picture; 0: none */
	int64_t delay_ns;	     /* of the newest decision, after its frame's commit */
	int64_t sent_ns, sent_pts_ns; /* when the newest picture was decided, and its timestamp; 0: none yet */
	uint64_t start;		     /* index of the frame whose result started the stream; 0: something else did */
	unsigned pending_max;
	bool started;		     /* a decision was made, or the first result is there */
	bool worker;
	bool slate_asked;
};

void egr_clock_init(struct egr_clock *c, const struct egr_clock_config *config);

/* A worker is (not) there to answer. */
void egr_clock_set_worker(struct egr_clock *c, bool there);
/* So many frames may wait, 1..EGR_PENDING_MAX: for large frames fewer, because they may have to be copied. */
void egr_clock_set_limit(struct egr_clock *c, unsigned pending_max);
/* Somebody wants the slate on every frame. */
void egr_clock_set_slate(struct egr_clock *c, bool on);

/* false: the sequence number is not above all earlier ones; the frame is not taken over. */
bool egr_clock_input(struct egr_clock *c, uint64_t seq, int64_t pts_ns, int64_t commit_ns, int64_t now_ns,
    void *input);

enum egr_answer { EGR_ANSWER_PICTURE, EGR_ANSWER_WITHHELD, EGR_ANSWER_PASS };

enum egr_result {
	EGR_RESULT_ACCEPTED, /* the next calls of egr_clock_next() decide all frames up to this one; a picture is
			      * wanted by the last of these decisions */
	EGR_RESULT_LATE,     /* its frame has been filled in already */
	EGR_RESULT_LAST,     /* the same, and its picture is newer than the newest processed one: it is that now */
	EGR_RESULT_REPEATED, /* its frame has had a result */
	EGR_RESULT_BAD,	     /* no input frame explains it */
};
enum egr_result egr_clock_result(struct egr_clock *c, uint64_t src_seq, enum egr_answer answer, int64_t now_ns);

/* The next decision that is due. false: none is. Call until then. */
bool egr_clock_next(struct egr_clock *c, int64_t now_ns, struct egr_decision *out);

/* When egr_clock_next() will have something by itself; INT64_MAX: not without new input. */
int64_t egr_clock_due(const struct egr_clock *c, int64_t now_ns);

/* Frames that wait for a decision, and the commit time of the oldest of them (0: none). */
unsigned egr_clock_pending(const struct egr_clock *c, int64_t *oldest_commit_ns);
/* The input of the i-th waiting frame, oldest first. */
void *egr_clock_pending_input(const struct egr_clock *c, unsigned i);

#endif

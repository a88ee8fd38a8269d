/* SPDX-License-Identifier: MIT */
/*
 * What a reply means
 *
 * Pure functions from the status and headers of a reply to what the client does next. They hold no state and do no
 * I/O, so that the protocol's rules can be read, and tested, as a table.
 */
#ifndef MR_PROTO_TRICKLE_TRK_REPLY_H
#define MR_PROTO_TRICKLE_TRK_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRK_SEQ_NONE INT64_C(-1)
#define TRK_SEQ_MAX  INT64_C(1000000000000000) /* larger numbers are taken as nonsense */

struct trk_reply {
	int status;	 /* 0: none yet; 1xx: more will come */
	bool closed;	 /* Lp-Trickle-Closed is there, with any value */
	bool complete;	 /* the headers of the final reply are all there */
	bool informed;	 /* there was a 1xx reply: somebody serves this channel */
	int64_t seq;	 /* Lp-Trickle-Seq, or TRK_SEQ_NONE; never negative otherwise */
	int64_t latest;	 /* Lp-Trickle-Latest, likewise */
};

void trk_reply_init(struct trk_reply *reply);
/* One line of a header block as it came, end of line included: the status line, a field, or the empty line. */
void trk_reply_line(struct trk_reply *reply, const char *line, size_t count);
/* A number as a server writes it, or TRK_SEQ_NONE. Surrounding white space is fine. */
int64_t trk_seq_parse(const char *text, size_t count);

/* ---- subscribers ------------------------------------------------------ */

enum trk_get_act {
	TRK_GET_READ,	/* the body is segment `seq` */
	TRK_GET_GOTO,	/* ask for `seq` instead; `wait`: after a pause of 100-300 ms */
	TRK_GET_RETRY,	/* ask again after a back-off */
	TRK_GET_ABSENT, /* 404 */
	TRK_GET_CLOSED, /* the channel is over */
};
struct trk_get_step {
	enum trk_get_act act;
	int64_t seq;
	bool wait;
	bool gap; /* segments are missed by this */
};
/* When the headers of the reply to GET <tried> are there. */
struct trk_get_step trk_reply_get(const struct trk_reply *reply, int64_t tried);
/* When a segment's body, announced by TRK_GET_READ, turned out to be empty. */
struct trk_get_step trk_reply_get_empty(const struct trk_reply *reply, int64_t tried);

/* ---- publishers ------------------------------------------------------- */

enum trk_post_act {
	TRK_POST_DONE,	 /* the segment is published */
	TRK_POST_NEXT,	 /* somebody closed this seq before we wrote: the same bytes go into the next one */
	TRK_POST_RETRY,	 /* nothing was sent: the same seq again after a back-off */
	TRK_POST_DROP,	 /* somebody closed this seq while we wrote: the rest is of no use */
	TRK_POST_BROKEN, /* the segment is unusable and has to be DELETEd, so that readers do not hang */
	TRK_POST_ABSENT, /* 404 */
	TRK_POST_CLOSED, /* the channel is over */
};
/* The final reply to a POST of which some or all bytes (the end too) had been sent. A reply with status 0 is that of
 * a connection that failed. */
enum trk_post_act trk_reply_post(const struct trk_reply *reply, bool some_sent, bool all_sent);

#endif

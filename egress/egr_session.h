/* SPDX-License-Identifier: MIT */
/*
 * A session inside egress: rings in, channels out, the clock between them
 */
#ifndef MR_EGR_SESSION_H
#define MR_EGR_SESSION_H

#include "egress/egr_channel.h"
#include "egress/egr_clock.h"
#include "egress/egr_config.h"
#include "egress/egr_events.h"
#include "egress/egr_output.h"
#include "egress/egr_rings.h"

#include <stdbool.h>
#include <stdint.h>

struct egr_session {
	uint32_t id;
	struct egr_config config;
	struct trk_loop *loop;
	struct egr_link *link;	  /* borrowed */
	struct stats_page *stats; /* borrowed */
	struct egr_channel media, events, data;
	struct egr_output output;
	struct egr_events messages;
	struct egr_rings rings;
	struct egr_clock clock;
	uint64_t tokens;	 /* results that the worker may still give, see egr_take.c */
	uint32_t worker_state;
	bool closing;
	bool more;		 /* results may be waiting that there was no time for */
	bool delete_channels;	 /* when what was sent has arrived */
	int64_t closed_ns;	 /* when closing ends at the latest */
};

/* `text` is the session text. 0: *out is the caller's. -EINVAL: the text is wrong (logged). */
int egr_session_new(uint32_t id, const char *text, size_t bytes, struct egr_link *link, struct stats_page *stats,
    struct egr_session **out);
void egr_session_free(struct egr_session **s);

/* ---- messages of the supervisor --------------------------------------- */

/* Consumes `fds`. -errno: the ring cannot be mapped. */
int egr_session_ring_open(struct egr_session *s, const struct ctl_ring_open *open, int *fds, unsigned fd_count);
void egr_session_ring_ended(struct egr_session *s, const struct ctl_ring_ref *ref);
void egr_session_worker(struct egr_session *s, const struct ctl_worker *worker);
void egr_session_publish(struct egr_session *s, enum ctl_channel_id channel, const char *text, size_t bytes);
/* Takes what is there, sends it and ends the stream; egr_session_closed() turns true a moment later. */
void egr_session_close(struct egr_session *s);
bool egr_session_closed(struct egr_session *s, int64_t now_ns);

/* ---- the loop --------------------------------------------------------- */

/* Everything that is due: call after every wait. */
void egr_session_run(struct egr_session *s);
/* When the next call is due by itself. */
int64_t egr_session_due(const struct egr_session *s, int64_t now_ns);

/* egr_take.c: what the rings have. */
void egr_take_all(struct egr_session *s);
/* Sends all decisions that are due. `result` is for the one that wants it. */
void egr_take_decide(struct egr_session *s, const struct egr_view *result);

#endif

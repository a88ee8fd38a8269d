/* SPDX-License-Identifier: MIT */
/* A channel that egress publishes on: the publisher, and the reports of its state to the supervisor. */
#ifndef MR_EGR_CHANNEL_H
#define MR_EGR_CHANNEL_H

#include "egress/egr_config.h"
#include "egress/egr_link.h"
#include "proto/trickle.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct egr_channel {
	uint32_t magic;
#define EGR_CHANNEL_MAGIC 0x65677263u
	enum ctl_channel_id id;
	struct trk_pub *pub; /* NULL: not wanted, or over */
	struct egr_link *link;
	uint32_t session;
	bool over;
	uint64_t failed; /* segments whose POST failed */
};

/* url NULL: a channel that swallows everything. 0, or -errno: the URL cannot be used, which was reported. */
int egr_channel_open(struct egr_channel *c, struct trk_loop *loop, struct egr_link *link, uint32_t session,
    enum ctl_channel_id id, const char *url, const struct egr_config *config);
void egr_channel_close(struct egr_channel *c);

/* One message as one segment. false: it was not taken (no channel, or its queue is full). */
bool egr_channel_message(struct egr_channel *c, const char *text, size_t bytes);
/* A stream of segments; what the publisher drops is said by false, once. Without a channel all is well. */
void egr_channel_begin(struct egr_channel *c);
bool egr_channel_write(struct egr_channel *c, const uint8_t *bytes, size_t count);
void egr_channel_end(struct egr_channel *c);
/* Connections that had to be made again. */
uint64_t egr_channel_retries(const struct egr_channel *c);
/* Nothing is queued or unanswered. */
bool egr_channel_idle(const struct egr_channel *c);
/* Ends the channel for its readers, in the background; idle again when that is done. */
void egr_channel_delete(struct egr_channel *c);

#endif

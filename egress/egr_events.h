/* SPDX-License-Identifier: MIT */
/*
 * The events and data channels
 *
 * A heartbeat at once and every 10 s, whatever else happens: the gateway gives up on a stream whose events stop for
 * 30 s. Messages never wait for media and media never waits for messages.
 */
#ifndef MR_EGR_EVENTS_H
#define MR_EGR_EVENTS_H

#include "egress/egr_channel.h"

#include <stdint.h>

struct egr_output;

struct egr_events {
	const struct egr_config *config; /* borrowed, like all below */
	struct egr_channel *events, *data;
	const struct egr_output *output;
	struct stats_page *stats;
	int64_t heartbeat_ns, keepalive_ns; /* when the next one is due */
	bool first_in_told, first_out_told, stopped_told;
};

void egr_events_init(struct egr_events *e, const struct egr_config *config, struct egr_channel *events,
    struct egr_channel *data, const struct egr_output *output, struct stats_page *stats, int64_t now_ns);
/* Sends what is due. */
void egr_events_tick(struct egr_events *e, int64_t now_ns);
int64_t egr_events_due(const struct egr_events *e);

/* A text of the supervisor, as it is. */
void egr_events_publish(struct egr_events *e, const char *text, size_t bytes);
/* One or more lines for the data channel; the last newline is added. */
void egr_events_data(struct egr_events *e, const char *text, size_t bytes, int64_t now_ns);
/* The last words of a session. */
void egr_events_stopped(struct egr_events *e);

#endif

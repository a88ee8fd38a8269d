/* SPDX-License-Identifier: MIT */
/*
 * The supervisor: everything that one process has, once
 *
 * One thread runs one event loop. Whatever is called from the loop returns soon: descriptors are non-blocking, and
 * what must wait is a deadline that sup_tick() looks at ten times a second.
 */
#ifndef MR_SUP_H
#define MR_SUP_H

#include "supervisor/sup_child.h"
#include "supervisor/sup_config.h"
#include "supervisor/sup_states.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

enum { SUP_TICK_MS = 100 };

struct event;
struct event_base;
struct json_t;
struct sup_crashes;
struct sup_http;
struct sup_journal;
struct sup_pool;
struct sup_session;

TAILQ_HEAD(sup_children, sup_child);
TAILQ_HEAD(sup_sessions, sup_session);

struct sup {
	uint32_t magic;
#define SUP_MAGIC 0x53555056u
	struct event_base *base;
	struct event *ev_tick, *ev_term, *ev_int, *ev_chld;
	struct sup_config config;
	struct sup_state service;
	struct sup_children children; /* all that are initialised, running or not */
	struct sup_sessions sessions; /* newest first; those that are over stay for a while */
	struct sup_pool *pool;
	struct sup_http *http;
	struct sup_crashes *crashes;
	struct sup_journal *journal; /* NULL: there is none */
	uint32_t next_session, next_child;
	uint64_t sessions_started;
	/* counters of sessions that were forgotten */
	uint64_t past_ingest[STATS_WORDS_MAX], past_egress[STATS_WORDS_MAX];
	int64_t started_ns, last_tick_ns, stop_deadline_ns;
	int64_t turn_ns_max; /* longest turn of the event loop, seen by the tick */
	int64_t sweep_until_ns; /* adopted orphans are killed on sight until then */
};

/* Begins the end of the process: no more sessions, those that run are closed. */
void sup_stop(struct sup *sup, const char *why);

#endif

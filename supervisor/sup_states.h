/* SPDX-License-Identifier: MIT */
/*
 * State machines: one type, one setter
 *
 * A machine is a table of states (sup_states.def) and of legal transitions (sup_states.c). sup_state_set() is the only
 * assignment: it asserts that the transition is legal, logs one line, counts, stamps the time and remembers the last
 * SUP_HISTORY transitions for /status. Owners wrap it in a function of their own (sup_worker_set() and so on), which
 * is the only caller for its kind.
 */
#ifndef MR_SUP_STATES_H
#define MR_SUP_STATES_H

#include "supervisor/sup_states.def"

#include <stdbool.h>
#include <stdint.h>

enum { SUP_HISTORY = 16, SUP_REASON_BYTES = 160 };

#define X(id, name, text) SUP_##id,
enum sup_service_state { SUP_SERVICE_STATES(X) SUP_SERVICE_STATE_COUNT };
enum sup_worker_state { SUP_WORKER_STATES(X) SUP_WORKER_STATE_COUNT };
enum sup_media_state { SUP_MEDIA_STATES(X) SUP_MEDIA_STATE_COUNT };
enum sup_session_state { SUP_SESSION_STATES(X) SUP_SESSION_STATE_COUNT };
#undef X

enum sup_machine { SUP_MACHINE_SERVICE, SUP_MACHINE_WORKER, SUP_MACHINE_MEDIA, SUP_MACHINE_SESSION, SUP_MACHINE_COUNT };

struct sup_transition {
	int64_t wall_ms;
	unsigned from, to;
	char reason[SUP_REASON_BYTES];
};

struct sup_state {
	enum sup_machine machine;
	unsigned value;	      /* of the machine's enum; changed by sup_state_set() only */
	int64_t since_ns;     /* CLOCK_MONOTONIC of the last change */
	uint64_t transitions; /* all in all */
	struct sup_transition history[SUP_HISTORY]; /* newest at (transitions - 1) % SUP_HISTORY */
};

/* Starts in state 0. */
void sup_state_init(struct sup_state *s, enum sup_machine machine, int64_t now_ns);
/* `who` names the object in the log line; `reason` may be "". */
void sup_state_set(struct sup_state *s, unsigned to, const char *who, const char *reason, int64_t now_ns);
bool sup_state_legal(enum sup_machine machine, unsigned from, unsigned to);
const char *sup_state_name(enum sup_machine machine, unsigned value);
const char *sup_state_text(enum sup_machine machine, unsigned value);
unsigned sup_state_count(enum sup_machine machine);

#endif

/* SPDX-License-Identifier: MIT */
/* State machines: names, legal transitions, the setter. */
#include "supervisor/sup_states.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "supervisor/sup_clean.h"

#include <stdio.h>
#include <string.h>

#include "supervisor/sup_priv.h"

struct state_row {
	const char *name, *text;
};

#define X(id, name, text) { name, text },
static const struct state_row service_rows[] = { SUP_SERVICE_STATES(X) };
static const struct state_row worker_rows[] = { SUP_WORKER_STATES(X) };
static const struct state_row media_rows[] = { SUP_MEDIA_STATES(X) };
static const struct state_row session_rows[] = { SUP_SESSION_STATES(X) };
#undef X

#define TO(s) (1u << SUP_##s)
// clang-format off
static const uint32_t service_legal[] = {
	[SUP_SERVICE_STARTING] = TO(SERVICE_SERVING) | TO(SERVICE_STOPPING),
	[SUP_SERVICE_SERVING]  = TO(SERVICE_STOPPING),
	[SUP_SERVICE_STOPPING] = TO(SERVICE_STOPPED),
	[SUP_SERVICE_STOPPED]  = 0,
};
/* Every state in which a process lives may be followed by each of the three states of the dead. */
#define DEAD (TO(WORKER_BACKOFF) | TO(WORKER_CRASHLOOP) | TO(WORKER_FAILED) | TO(WORKER_DOWN))
static const uint32_t worker_legal[] = {
	[SUP_WORKER_DOWN]      = TO(WORKER_STARTING) | DEAD,
	[SUP_WORKER_STARTING]  = TO(WORKER_LOADING) | TO(WORKER_DRAINING) | DEAD,
	[SUP_WORKER_LOADING]   = TO(WORKER_IDLE) | TO(WORKER_DRAINING) | DEAD,
	[SUP_WORKER_IDLE]      = TO(WORKER_BUSY) | TO(WORKER_DRAINING) | DEAD,
	[SUP_WORKER_BUSY]      = TO(WORKER_IDLE) | TO(WORKER_DRAINING) | DEAD,
	[SUP_WORKER_DRAINING]  = DEAD,
	[SUP_WORKER_BACKOFF]   = TO(WORKER_STARTING) | DEAD,
	[SUP_WORKER_CRASHLOOP] = TO(WORKER_STARTING) | DEAD,
	[SUP_WORKER_FAILED]    = TO(WORKER_STARTING) | DEAD,
};
static const uint32_t media_legal[] = {
	[SUP_MEDIA_DOWN]     = TO(MEDIA_STARTING) | TO(MEDIA_BACKOFF),
	[SUP_MEDIA_STARTING] = TO(MEDIA_OPEN) | TO(MEDIA_CLOSING) | TO(MEDIA_BACKOFF) | TO(MEDIA_DOWN),
	[SUP_MEDIA_OPEN]     = TO(MEDIA_CLOSING) | TO(MEDIA_BACKOFF) | TO(MEDIA_DOWN),
	[SUP_MEDIA_CLOSING]  = TO(MEDIA_DOWN),
	[SUP_MEDIA_BACKOFF]  = TO(MEDIA_STARTING) | TO(MEDIA_BACKOFF) | TO(MEDIA_DOWN),
};
#define OVER (TO(SESSION_ENDED) | TO(SESSION_STOPPED))
static const uint32_t session_legal[] = {
	[SUP_SESSION_RUNNING]        = TO(SESSION_CLOSING_INGEST),
	[SUP_SESSION_CLOSING_INGEST] = TO(SESSION_CLOSING_WORKER) | OVER,
	[SUP_SESSION_CLOSING_WORKER] = TO(SESSION_CLOSING_EGRESS) | OVER,
	[SUP_SESSION_CLOSING_EGRESS] = OVER,
	[SUP_SESSION_ENDED]          = TO(SESSION_STOPPED),
	[SUP_SESSION_STOPPED]        = 0,
};

static const struct {
	const char *topic;
	const struct state_row *rows;
	const uint32_t *legal;
	unsigned count;
} machines[SUP_MACHINE_COUNT] = {
	[SUP_MACHINE_SERVICE] = { "service", service_rows, service_legal, SUP_SERVICE_STATE_COUNT },
	[SUP_MACHINE_WORKER]  = { "worker",  worker_rows,  worker_legal,  SUP_WORKER_STATE_COUNT },
	[SUP_MACHINE_MEDIA]   = { "media",   media_rows,   media_legal,   SUP_MEDIA_STATE_COUNT },
	[SUP_MACHINE_SESSION] = { "session", session_rows, session_legal, SUP_SESSION_STATE_COUNT },
};
// clang-format on

void
sup_state_init(struct sup_state *s, enum sup_machine machine, int64_t now_ns)
{
	memset(s, 0, sizeof(*s));
	s->machine = machine;
	s->since_ns = now_ns;
}

bool
sup_state_legal(enum sup_machine machine, unsigned from, unsigned to)
{
	MR_ASSERT(from < machines[machine].count);
	MR_ASSERT(to < machines[machine].count);
	return (machines[machine].legal[from] & 1u << to) != 0;
}

void
sup_state_set(struct sup_state *s, unsigned to, const char *who, const char *reason, int64_t now_ns)
{
	struct sup_transition *t = &s->history[s->transitions % SUP_HISTORY];
	char quoted[2 * SUP_REASON_BYTES];

	MR_ASSERT(sup_state_legal(s->machine, s->value, to));
	*t = (struct sup_transition){ .wall_ms = clock_wall_ms(), .from = s->value, .to = to };
	snprintf(t->reason, sizeof(t->reason), "%s", reason);
	sup_clean(t->reason, strlen(t->reason)); /* it may have been cut inside a character */
	log_info(machines[s->machine].topic, "state", "who=%s from=%s to=%s after_ms=%lld%s%s", who,
	    sup_state_name(s->machine, s->value), sup_state_name(s->machine, to),
	    (long long)((now_ns - s->since_ns) / CLOCK_MS_NS), reason[0] != '\0' ? " reason=" : "",
	    reason[0] != '\0' ? log_quote(quoted, sizeof(quoted), reason) : "");
	s->value = to;
	s->since_ns = now_ns;
	s->transitions++;
}

const char *
sup_state_name(enum sup_machine machine, unsigned value)
{
	MR_ASSERT(value < machines[machine].count);
	return machines[machine].rows[value].name;
}

const char *
sup_state_text(enum sup_machine machine, unsigned value)
{
	MR_ASSERT(value < machines[machine].count);
	return machines[machine].rows[value].text;
}

unsigned
sup_state_count(enum sup_machine machine)
{
	return machines[machine].count;
}

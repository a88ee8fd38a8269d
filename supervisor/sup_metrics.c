/* SPDX-License-Identifier: MIT */
/*
 * /metrics, in Prometheus' text format
 *
 * Names and help texts come from the tables that define the counters and states. Labels are ours: session numbers
 * are not (there would be one series for each stream for ever), so sessions that run are summed, and those that are
 * over keep counting in the totals of the service. What a worker says about itself is not here.
 */
#include "base/clock.h"
#include "supervisor/sup_crash.h"
#include "supervisor/sup_http.h"
#include "supervisor/sup_journal.h"
#include "supervisor/sup_session.h"
#include "supervisor/sup_worker.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "supervisor/sup_priv.h"

enum kind { COUNTER, GAUGE };

static void
head(FILE *out, const char *name, enum kind kind, const char *unit, const char *text)
{
	fprintf(out, "# HELP millrace_%s %s%s%s\n# TYPE millrace_%s %s\n", name, unit, unit[0] != '\0' ? " " : "", text, name,
	    kind == COUNTER ? "counter" : "gauge");
}

/* Over the sessions that run, and those that are over as long as they are kept. */
static uint64_t
sum(const struct sup *sup, bool ingest, unsigned i, enum kind kind)
{
	const struct sup_session *s;
	uint64_t total = 0;

	TAILQ_FOREACH(s, &sup->sessions, link) {
		const struct sup_media *m = ingest ? &s->ingest : &s->egress;
		uint64_t v = sup_media_total(m, i);

		if (kind == COUNTER)
			total += v;
		else if (!sup_session_over(s) && v > total)
			total = v;
	}
	return total + (kind == COUNTER ? (ingest ? sup->past_ingest[i] : sup->past_egress[i]) : 0);
}

static void
media_metrics(FILE *out, const struct sup *sup)
{
#define X(name, kind, unit, text) \
	head(out, "ingest_" #name, kind, unit, text); \
	fprintf(out, "millrace_ingest_" #name " %" PRIu64 "\n", sum(sup, true, INGEST_##name, kind));
	INGEST_COUNTERS(X)
#undef X
#define X(name, kind, unit, text) \
	head(out, "egress_" #name, kind, unit, text); \
	fprintf(out, "millrace_egress_" #name " %" PRIu64 "\n", sum(sup, false, EGRESS_##name, kind));
	EGRESS_COUNTERS(X)
#undef X
}

static void
worker_metrics(FILE *out, const struct sup_pool *pool)
{
	uint64_t restarts = 0;

	head(out, "workers", GAUGE, "", "workers by state");
	for (unsigned st = 0; st < SUP_WORKER_STATE_COUNT; st++) {
		unsigned n = 0;

		for (unsigned i = 0; i < pool->count; i++)
			n += pool->worker[i].state.value == st;
		fprintf(out, "millrace_workers{state=\"%s\"} %u\n", sup_state_name(SUP_MACHINE_WORKER, st), n);
	}
	for (unsigned i = 0; i < pool->count; i++)
		restarts += pool->worker[i].restarts;
	head(out, "worker_restarts_total", COUNTER, "", "times that a worker was started again");
	fprintf(out, "millrace_worker_restarts_total %" PRIu64 "\n", restarts);
}

static void
service_metrics(FILE *out, const struct sup *sup)
{
	head(out, "sessions", GAUGE, "", "sessions that run");
	fprintf(out, "millrace_sessions %u\n", sup_session_count_running(sup));
	head(out, "capacity", GAUGE, "", "sessions that can run at once");
	fprintf(out, "millrace_capacity %u\n", sup_pool_capacity(sup->pool));
	head(out, "sessions_started_total", COUNTER, "", "sessions started");
	fprintf(out, "millrace_sessions_started_total %" PRIu64 "\n", sup->sessions_started);
	head(out, "deaths_total", COUNTER, "", "children that ended otherwise than asked, by class");
	for (unsigned i = 0; i < SUP_EXIT_COUNT; i++)
		fprintf(out, "millrace_deaths_total{class=\"%s\"} %" PRIu64 "\n", sup_exit_name(i),
		    sup_crashes_total(sup->crashes, i));
	head(out, "supervisor_turn_ns_max", GAUGE, "ns", "longest delay of the supervisor's own clock tick");
	fprintf(out, "millrace_supervisor_turn_ns_max %" PRId64 "\n", sup->turn_ns_max);
	if (sup->journal != NULL) {
		head(out, "journal_ok", GAUGE, "0/1", "the state folder says what is open");
		fprintf(out, "millrace_journal_ok %d\n", !sup->journal->degraded);
		head(out, "sessions_resumed_total", COUNTER, "", "sessions that a predecessor had started");
		fprintf(out, "millrace_sessions_resumed_total %" PRIu64 "\n", sup->journal->resumed);
	}
	head(out, "uptime_seconds", GAUGE, "s", "since the service started");
	fprintf(out, "millrace_uptime_seconds %" PRId64 "\n", (clock_now_ns() - sup->started_ns) / CLOCK_SEC_NS);
}

void
sup_api_metrics(struct sup_reply *r)
{
	const struct sup *sup = sup_reply_sup(r);
	char *text = NULL;
	size_t bytes = 0;
	FILE *out = open_memstream(&text, &bytes);

	if (out == NULL) {
		sup_reply_message(&r, 503, "out of memory");
		return;
	}
	service_metrics(out, sup);
	worker_metrics(out, sup->pool);
	media_metrics(out, sup);
	if (fclose(out) == 0 && text != NULL)
		sup_reply_text(&r, 200, "text/plain; version=0.0.4; charset=utf-8", text);
	else
		sup_reply_message(&r, 503, "out of memory");
	free(text);
}

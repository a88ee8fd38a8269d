/* SPDX-License-Identifier: MIT */
/*
 * Status: what users look at when something is wrong
 *
 * PyTrickle's objects have PyTrickle's keys and no others; everything else is below a key of our own. Counters come from
 * the table in proto/counters.def under its names, summed over the lives of a process.
 */
#include "supervisor/sup_status.h"

#include "base/clock.h"
#include "proto/format.h"
#include "supervisor/sup_journal.h"

#include <stdio.h>
#include <string.h>

#include "supervisor/sup_priv.h"

static void
set(json_t *o, const char *key, json_t *value)
{
	if (json_object_set_new(o, key, value) == -1)
		json_object_del(o, key);
}

static json_t *
ms_since(int64_t since_ns)
{
	return json_integer((json_int_t)((clock_now_ns() - since_ns) / CLOCK_MS_NS));
}

const char *
sup_status_word(const struct sup *sup)
{
	enum sup_pool_health health = sup_pool_health(sup->pool);

	if (sup_session_count_running(sup) > 0)
		return "OK";
	if (health == SUP_POOL_BROKEN)
		return "ERROR";
	return health == SUP_POOL_READY ? "IDLE" : "LOADING";
}

json_t *
sup_status_pipeline(const struct sup *sup)
{
	static const char *const internal[] = { [SUP_POOL_LOADING] = "LOADING", [SUP_POOL_READY] = "IDLE",
		[SUP_POOL_BROKEN] = "ERROR" };
	enum sup_pool_health health = sup_pool_health(sup->pool);
	const char *word = sup_status_word(sup);
	char reason[400];

	sup_pool_reason(sup->pool, reason, sizeof(reason));
	return json_pack("{s:s, s:s, s:s?, s:b, s:i, s:b, s:s, s:{}}", "status", word, "state", word, "error_message",
	    health == SUP_POOL_BROKEN ? reason : NULL, "pipeline_ready", health == SUP_POOL_READY, "active_streams",
	    (int)sup_session_count_running(sup), "startup_complete", health != SUP_POOL_LOADING, "pipeline_state",
	    internal[health], "additional_info");
}

static double
milli(const struct sup_media *m, unsigned i)
{
	return (double)sup_media_total(m, i) / 1000.0;
}

json_t *
sup_status_fps(const struct sup_session *s)
{
	bool live = !sup_session_over(s);

	return json_pack("{s:f, s:f, s:f, s:f}",
	    "ingress_video_fps", live ? milli(&s->ingest, INGEST_fps_milli) : 0.0,
	    "ingress_audio_fps", live ? milli(&s->ingest, INGEST_audio_fps_milli) : 0.0,
	    "egress_video_fps", live ? milli(&s->egress, EGRESS_fps_milli) : 0.0,
	    "egress_audio_fps", live ? milli(&s->egress, EGRESS_audio_fps_milli) : 0.0);
}

static json_t *
counters_of(const struct sup_media *m)
{
	json_t *o = json_object();

	if (m->child.role == CTL_ROLE_INGEST) {
#define X(name, kind, unit, text) set(o, #name, json_integer((json_int_t)sup_media_total(m, INGEST_##name)));
		INGEST_COUNTERS(X)
#undef X
	} else {
#define X(name, kind, unit, text) set(o, #name, json_integer((json_int_t)sup_media_total(m, EGRESS_##name)));
		EGRESS_COUNTERS(X)
#undef X
	}
	return o;
}

static json_t *
history_of(const struct sup_state *st)
{
	uint64_t n = st->transitions < SUP_HISTORY ? st->transitions : SUP_HISTORY;
	json_t *list = json_array();

	for (uint64_t i = st->transitions - n; i < st->transitions; i++) {
		const struct sup_transition *t = &st->history[i % SUP_HISTORY];

		json_array_append_new(list, json_pack("{s:I, s:s, s:s, s:s%}", "time_ms", (json_int_t)t->wall_ms, "from",
		    sup_state_name(st->machine, t->from), "to", sup_state_name(st->machine, t->to), "reason", t->reason,
		    strnlen(t->reason, sizeof(t->reason))));
	}
	return list;
}

/* null, not 0: what is done with a pid by a script must not be done to its own process group. */
static json_t *
pid_json(pid_t pid)
{
	return pid > 0 ? json_integer(pid) : json_null();
}

static json_t *
media_json(const struct sup_media *m)
{
	json_t *o = json_pack("{s:s, s:s, s:o, s:i, s:i, s:s}", "state", sup_state_name(SUP_MACHINE_MEDIA, m->state.value),
	    "state_text", sup_state_text(SUP_MACHINE_MEDIA, m->state.value), "pid", pid_json(m->child.pid), "incarnation",
	    (int)m->child.incarnation, "deaths", (int)m->deaths, "last_end", m->last_end);

	set(o, "messages_dropped", json_integer((json_int_t)m->child.dropped));
	set(o, "counters", counters_of(m));
	set(o, "transitions", history_of(&m->state));
	return o;
}

static json_t *
channels_json(const struct sup_session *s)
{
	json_t *o = json_object();

	for (unsigned i = 1; i < SUP_CHANNELS; i++) {
		const struct sup_channel *ch = &s->channel[i];
		json_t *c;

		if (s->stream.url[i] == NULL)
			continue;
		c = json_pack("{s:s, s:s, s:s}", "url", s->stream.url[i], "state", sup_channel_state_name(ch->state), "text",
		    ch->text);
		if (c != NULL && ch->state != 0)
			set(c, "for_ms", ms_since(ch->since_ns));
		set(o, sup_channel_name(i), c);
	}
	return o;
}

/* What a person should know first: the one thing that is wrong, or "". */
static void
problem_of(const struct sup_session *s, char *out, size_t bytes)
{
	out[0] = '\0';
	if (s->ring_error[0] != '\0' && !sup_session_over(s)) {
		snprintf(out, bytes, "%s", s->ring_error);
		return;
	}
	for (unsigned i = 1; i < SUP_CHANNELS; i++) {
		const struct sup_channel *ch = &s->channel[i];

		if (s->stream.url[i] == NULL || (ch->state != CTL_CHANNEL_RETRYING && ch->state != CTL_CHANNEL_BAD_MEDIA))
			continue;
		snprintf(out, bytes, "%s channel: %s: %s", sup_channel_name(i), sup_channel_state_name(ch->state), ch->text);
		return;
	}
	if (s->worker == NULL && sup_session_running(s)) {
		sup_pool_reason(s->sup->pool, out, bytes);
		if (out[0] == '\0')
			snprintf(out, bytes, "no worker is there at the moment: the fallback is sent");
	} else if (s->params_error[0] != '\0') {
		snprintf(out, bytes, "parameters: %s", s->params_error);
	}
}

static json_t *
rings_json(const struct sup_session *s)
{
	static const char *const stages[] = { "reserving", "offered", "mapped", "live" };
	json_t *list = json_array();
	struct sup_ring *ring;

	TAILQ_FOREACH(ring, &s->rings, link)
		json_array_append_new(list, json_pack("{s:s, s:i, s:s, s:b, s:i, s:i, s:i, s:I}", "ring",
		    sup_ring_name(ring->open.ring_id), "generation", (int)ring->open.generation, "stage", stages[ring->stage],
		    "ended", ring->ended, "width", (int)ring->open.width, "height", (int)ring->open.height, "slots",
		    (int)ring->open.slot_count, "bytes", (json_int_t)ring->data_bytes));
	return list;
}

json_t *
sup_status_worker(const struct sup_worker *w)
{
	const struct sup_child *c = &w->child;
	json_t *o = json_pack("{s:i, s:s, s:s, s:o, s:i, s:i, s:i, s:s, s:s, s:s, s:i}", "index", (int)w->index, "state",
	    sup_state_name(SUP_MACHINE_WORKER, w->state.value), "state_text",
	    sup_state_text(SUP_MACHINE_WORKER, w->state.value), "pid", pid_json(c->pid), "incarnation", (int)c->incarnation,
	    "restarts", (int)w->restarts, "deaths", (int)w->deaths, "name", c->has_hello ? c->hello.name : "", "status",
	    c->status, "last_end", w->last_end, "sessions", (int)w->session_count);

	set(o, "state_for_ms", ms_since(w->state.since_ns));
	if (c->has_hello) {
		set(o, "capacity", json_integer(c->hello.capacity));
		set(o, "hold_count", json_integer(c->hello.hold_count));
		set(o, "format", json_string(format_name((enum format_id)c->hello.format)));
		set(o, "audio", json_boolean(c->hello.flags & CTL_HELLO_AUDIO));
	}
	if (!sup_child_alive(c) && w->due_ns > clock_now_ns())
		set(o, "next_start_ms", json_integer((json_int_t)((w->due_ns - clock_now_ns()) / CLOCK_MS_NS)));
#define X(name, kind, unit, text) set(o, "says_" #name, json_integer((json_int_t)stats_get(c->stats, WORKER_##name)));
	WORKER_COUNTERS(X)
#undef X
	set(o, "transitions", history_of(&w->state));
	return o;
}

json_t *
sup_status_session_brief(const struct sup_session *s)
{
	const struct sup_media *e = &s->egress;
	int64_t end = sup_session_over(s) ? s->over_ns : clock_now_ns();
	char problem[600];
	json_t *o;

	problem_of(s, problem, sizeof(problem));
	o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I}", "id", s->stream.id, "state",
	    sup_state_name(SUP_MACHINE_SESSION, s->state.value), "state_text",
	    sup_state_text(SUP_MACHINE_SESSION, s->state.value), "over_because", s->over_why, "problem", problem,
	    "started_ms", (json_int_t)s->started_wall_ms, "uptime_ms", (json_int_t)((end - s->started_ns) / CLOCK_MS_NS));
	set(o, "frames_in", json_integer((json_int_t)sup_media_total(&s->ingest, INGEST_frames_published)));
	set(o, "frames_out", json_integer((json_int_t)sup_media_total(e, EGRESS_frames_out)));
	set(o, "frames_processed", json_integer((json_int_t)sup_media_total(e, EGRESS_frames_processed)));
	set(o, "frames_filled", json_integer((json_int_t)(sup_media_total(e, EGRESS_frames_passthrough) +
	    sup_media_total(e, EGRESS_frames_held) + sup_media_total(e, EGRESS_frames_overlay))));
	set(o, "longest_gap_ms", json_integer((json_int_t)(sup_media_total(e, EGRESS_gap_ns_max) / CLOCK_MS_NS)));
	set(o, "latency_p50_ms", json_real((double)sup_media_total(e, EGRESS_latency_us_p50) / 1000.0));
	set(o, "latency_p99_ms", json_real((double)sup_media_total(e, EGRESS_latency_us_p99) / 1000.0));
	set(o, "worker", s->worker != NULL ? json_integer(s->worker->index) : json_null());
	set(o, "worker_deaths", json_integer(s->worker_deaths));
	return o;
}

json_t *
sup_status_session(const struct sup_session *s)
{
	json_t *o = sup_status_session_brief(s);

	set(o, "fps", sup_status_fps(s));
	set(o, "width", json_integer(s->stream.width));
	set(o, "height", json_integer(s->stream.height));
	set(o, "max_framerate", json_integer(s->stream.max_framerate));
	set(o, "format", json_string(format_name(s->format)));
	set(o, "fallback", json_string(s->sup->config.fallback));
	set(o, "channels", channels_json(s));
	set(o, "params", json_deep_copy(s->params_now));
	set(o, "params_version", json_integer((json_int_t)s->params_version));
	set(o, "params_error", json_string(s->params_error));
	set(o, "params_rollbacks", json_integer(s->rollbacks));
	set(o, "frames_quarantined", json_integer(s->quarantined));
	set(o, "rings_replaced", json_integer((json_int_t)s->rings_replaced));
	set(o, "ingest", media_json(&s->ingest));
	set(o, "egress", media_json(&s->egress));
	set(o, "rings", rings_json(s));
	set(o, "transitions", history_of(&s->state));
	set(o, "resumed", json_boolean(s->resumed));
	set(o, "journal", sup_journal_json(s->sup));
	if (s->worker != NULL)
		set(o, "worker_state", sup_status_worker(s->worker));
	return o;
}

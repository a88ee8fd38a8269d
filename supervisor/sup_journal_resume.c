/* SPDX-License-Identifier: MIT */
/*
 * Journal: what a predecessor left
 *
 * Each session that was open goes on by itself, from the same start request through the same checks. It does not wait for
 * a worker: what kind of frames the last one took is written down, so that the fallback flows while a model loads.
 *
 * The output must be later than anything that has been sent, and nobody knows when the predecessor died. So it continues
 * after the newest checkpoint by the time that has passed since, which a live input has moved on, too, plus a margin for
 * input that came faster than that: the largest burst of late, MARGIN_NS at least. Frames that are earlier are left out;
 * egress gives the input a second more than that, up to CATCH_UP_MAX_MS, to get there before it moves the timeline, so
 * timestamps of the output remain those of the input.
 *
 * A session may be what the supervisor dies of. Each is marked before it is resumed ("trying"), and cleared REPLAY_NS
 * later. What was marked when a supervisor crashed is a suspect: suspects are resumed one after the other, so that the
 * next crash points to one of them. That one is set aside and reported; stopping it, or starting it anew, removes it. A
 * supervisor that was killed says little about the session, so that takes KILLS_MAX times (the kernel kills for memory).
 */
#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "proto/format.h"
#include "supervisor/sup_journal.h"
#include "supervisor/sup_journal_point.h"
#include "supervisor/sup_last_words.h"
#include "supervisor/sup_session.h"
#include "supervisor/sup_sweep.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "supervisor/sup_priv.h"

#define MARGIN_NS	(500 * CLOCK_MS_NS)
#define BURST_MAX_NS	(20 * CLOCK_SEC_NS)
#define ELAPSED_MAX_NS	(30 * 86400 * CLOCK_SEC_NS)
#define REPLAY_NS	CLOCK_SEC_NS
enum { CATCH_UP_MAX_MS = 1800, INGEST_ELAPSED_MAX_MS = 12 * 3600 * 1000, GENERATION_STEP = 16, ASIDE_MAX = 64 };
enum { CRASHES_MAX = 2, KILLS_MAX = 8, KILLS_SUSPECT = 4 };

static int64_t
number(const json_t *o, const char *key)
{
	return (int64_t)json_integer_value(json_object_get(o, key));
}

static const char *
id_of(const json_t *entry)
{
	const char *id = json_string_value(json_object_get(json_object_get(entry, "stream"), "gateway_request_id"));

	return id != NULL ? id : "";
}

/* ---- reading ---------------------------------------------------------- */

static void
set_aside(struct sup_journal *j, const char *key, json_t *entry, const char *why)
{
	char quoted[600], id[600];

	log_error("journal", "set_aside", "session=%s why=%s next=\"stop it to remove it, or start it anew\"",
	    log_quote(id, sizeof(id), id_of(entry)), log_quote(quoted, sizeof(quoted), why));
	json_object_set_new(entry, "set_aside", json_string(why));
	while (json_object_size(j->aside) >= ASIDE_MAX)
		json_object_del(j->aside, json_object_iter_key(json_object_iter(j->aside)));
	json_object_set(j->aside, key, entry);
}

/* The predecessor died while it resumed this session. */
static void
count_death(json_t *entry, bool crashed)
{
	const char *what = crashed ? "crashes" : "kills";

	json_object_set_new(entry, what, json_integer((json_int_t)number(entry, what) + 1));
	json_object_set_new(entry, "trying", json_false());
}

static void
sort_entries(struct sup_journal *j, const struct sup_jrn_state *st, int crash)
{
	const char *key;
	json_t *entry;

	json_object_foreach(st->sessions, key, entry) {
		const char *why = json_string_value(json_object_get(entry, "set_aside"));

		if (json_is_true(json_object_get(entry, "trying")))
			count_death(entry, crash != 0);
		if (why != NULL)
			json_object_set(j->aside, key, entry);
		else if (number(entry, "crashes") >= CRASHES_MAX)
			set_aside(j, key, entry, "the supervisor crashed twice while it was being resumed");
		else if (number(entry, "kills") >= KILLS_MAX)
			set_aside(j, key, entry, "the supervisor was killed each time that it was being resumed");
		else
			json_object_set(j->waiting, key, entry);
	}
}

static void
report_scan(const struct sup_jrn_scan *scan, unsigned open)
{
	if (scan->damaged_bytes > 0 || scan->unknown > 0)
		log_warn("journal", "damaged", "records=%u skipped_bytes=%llu unknown_records=%u: what they said is lost",
		    scan->records, (unsigned long long)scan->damaged_bytes, scan->unknown);
	if (scan->torn_bytes > 0)
		log_warn("journal", "torn", "bytes=%llu: the end of the journal was not whole and is cut",
		    (unsigned long long)scan->torn_bytes);
	log_info("journal", "read", "records=%u open_sessions=%u", scan->records, open);
}

int
sup_journal_load(struct sup_journal *j)
{
	struct sup_jrn_scan scan;
	struct sup_jrn_state st;
	int r = 0, crash;

	if (j->file.dir_fd == -1)
		r = sup_jrn_open(&j->file, j->sup->config.state_dir);
	if (r != 0) {
		sup_journal_degrade(j, r, "use the journal");
		return r;
	}
	if (!sup_jrn_state_init(&st))
		r = -ENOMEM;
	if (r == 0)
		r = sup_jrn_read(&j->file, sup_jrn_state_apply, &st, &scan);
	if (r < 0) {
		sup_journal_degrade(j, r, "read the journal");
		goto fini_state;
	}
	report_scan(&scan, (unsigned)json_object_size(st.sessions));
	if (j->boot[0] != '\0' && strcmp(st.boot, j->boot) == 0)
		sup_sweep(st.children);
	else
		j->waiting_other_boot = st.boot[0] != '\0';
	if (st.last_key > j->last_key)
		j->last_key = st.last_key;
	crash = sup_last_words_open(j->file.dir_fd);
	if (crash != 0)
		log_warn("journal", "crashed", "signal=%d: the last supervisor crashed", crash);
	sort_entries(j, &st, crash);
	sup_journal_renumber(j);
	j->loaded = true;
	r = sup_point_open(j->file.dir_fd, &j->point_fd);
	if (r < 0)
		log_error("journal", "checkpoint", "error=\"%s\"", strerror(-r));
	sup_journal_rewrite(j);
	r = 0;
fini_state:
	sup_jrn_state_fini(&st);
	return r;
}

/* ---- one session ------------------------------------------------------ */

/* How long ago the checkpoint was written. */
static int64_t
elapsed_since(const struct sup_journal *j, const struct sup_point *p)
{
	int64_t ns = clock_now_ns() - p->mono_ns;

	if (j->waiting_other_boot || ns < 0)
		ns = (clock_wall_ms() - p->wall_ms) * CLOCK_MS_NS;
	return ns < 0 ? 0 : ns > ELAPSED_MAX_NS ? ELAPSED_MAX_NS : ns;
}

static int64_t
margin_of(const struct sup_point *p)
{
	int64_t burst = p->burst_ns + p->burst_ns / 4;

	return burst < MARGIN_NS ? MARGIN_NS : burst > BURST_MAX_NS ? BURST_MAX_NS : burst;
}

static void
resume_from_point(const struct sup_journal *j, const struct sup_point *p, struct sup_past *past)
{
	int64_t elapsed = elapsed_since(j, p), ms = elapsed / CLOCK_MS_NS, margin = margin_of(p), ahead = elapsed + margin;
	int64_t catch_up_ms = margin / CLOCK_MS_NS + 1000;
	bool audio = p->flags & SUP_POINT_HAS_AUDIO;

	past->point_count = p->count;
	past->burst_ns = p->burst_ns;
	for (unsigned i = 0; i <= CTL_RING_ID_MAX; i++)
		past->generation[i] = p->generation[i] + GENERATION_STEP; /* some may have been made since */
	if (p->flags & SUP_POINT_HAD_INPUT)
		past->ingest_resume = json_pack("{s:I, s:I, s:I}", "ts_offset_ns", (json_int_t)p->ts_offset_ns, "last_pts_ns",
		    (json_int_t)p->in_pts_ns, "elapsed_ms", (json_int_t)(ms > INGEST_ELAPSED_MAX_MS ? INGEST_ELAPSED_MAX_MS : ms));
	if (p->flags & SUP_POINT_HAD_OUTPUT)
		past->egress_resume = json_pack("{s:I, s:I, s:i, s:i, s:b, s:b, s:i}", "last_out_pts_ns",
		    (json_int_t)(p->out_pts_ns + ahead), "last_out_audio_pts_ns",
		    (json_int_t)(audio && p->out_audio_pts_ns > 0 ? p->out_audio_pts_ns + ahead : 0), "out_width",
		    (int)p->out_width, "out_height", (int)p->out_height, "has_audio", audio, "had_output", true, "catch_up_ms",
		    (int)(catch_up_ms < CATCH_UP_MAX_MS ? catch_up_ms : CATCH_UP_MAX_MS));
}

static void
read_past(const struct sup_journal *j, const json_t *entry, struct sup_past *past)
{
	const char *format = json_string_value(json_object_get(entry, "format"));
	const json_t *skip = json_object_get(entry, "skip");
	int64_t hold = number(entry, "hold_count");
	struct sup_point point;

	*past = (struct sup_past){
		.key = (uint64_t)number(entry, "key"), .slot = (unsigned)number(entry, "slot"),
		.started_wall_ms = number(entry, "started_ms"), .crashes = (unsigned)number(entry, "crashes"),
		.kills = (unsigned)number(entry, "kills"),
		.format = format != NULL ? format_from_name(format) : FORMAT_NONE,
		.hold_count = hold >= 1 && hold <= RING_HOLDS_MAX ? (uint32_t)hold : 1,
		.audio = json_is_true(json_object_get(entry, "audio")),
		.doorbell = json_is_true(json_object_get(entry, "doorbell")),
		.show_loading = json_is_true(json_object_get(entry, "show_loading")),
		.max_framerate = (uint32_t)number(entry, "max_framerate"),
		.params_now = json_object_get(entry, "params"), .params_good = json_object_get(entry, "good"),
		.quarantined = (uint32_t)number(entry, "quarantined"),
	};
	for (unsigned i = 0; i < SUP_SKIP_MAX; i++)
		past->skip_seq[i] = (uint64_t)json_integer_value(json_array_get(skip, i));
	if (sup_point_read(j->point_fd, past->slot, past->key, &point))
		resume_from_point(j, &point, past);
}

static void
resume_one(struct sup_journal *j, const char *key, json_t *entry)
{
	const char *fallback = json_string_value(json_object_get(entry, "fallback"));
	struct sup_stream stream = { 0 };
	char why[400] = "its record cannot be used";
	struct sup_session *s;
	struct sup_past past;

	read_past(j, entry, &past);
	if (past.format <= FORMAT_NONE || past.format >= FORMAT_VIDEO_COUNT ||
	    !sup_stream_read(json_object_get(entry, "stream"), past.format, &stream, why, sizeof(why)) ||
	    sup_session_resume(j->sup, &stream, &past, &s) < 0) {
		json_decref(past.ingest_resume);
		json_decref(past.egress_resume);
		sup_stream_fini(&stream);
		set_aside(j, key, entry, why);
		sup_journal_append(j, SUP_JRN_UPDATE, json_pack("{s:I, s:s}", "key", (json_int_t)past.key, "set_aside", why));
		return;
	}
	if (fallback != NULL && strcmp(fallback, j->sup->config.fallback) != 0)
		log_info("journal", "fallback", "session=%s was=%s is=%s", s->stream.log_id, fallback, j->sup->config.fallback);
	s->replay_until_ns = clock_now_ns() + REPLAY_NS;
	j->resumed++;
}

static bool
is_suspect(const json_t *entry)
{
	return number(entry, "crashes") > 0 || number(entry, "kills") >= KILLS_SUSPECT;
}

/* Marks one, or with `all` each that is no suspect, and resumes what it has marked. */
static void
resume_some(struct sup_journal *j, bool all)
{
	json_t *now = json_object(), *entry;
	const char *key;

	json_object_foreach(j->waiting, key, entry) {
		if (all ? is_suspect(entry) : json_object_size(now) > 0)
			continue;
		json_object_set_new(entry, "trying", json_true());
		sup_journal_append(j, SUP_JRN_UPDATE, json_pack("{s:I, s:b}", "key", (json_int_t)number(entry, "key"), "trying", 1));
		json_object_set(now, key, entry);
	}
	sup_journal_sync(j);
	json_object_foreach(now, key, entry) {
		json_object_del(j->waiting, key);
		resume_one(j, key, entry);
	}
	json_decref(now);
}

void
sup_journal_resume(struct sup *sup)
{
	if (sup->journal != NULL && json_object_size(sup->journal->waiting) > 0)
		resume_some(sup->journal, true);
}

void
sup_journal_replay_tick(struct sup_journal *j, int64_t now_ns)
{
	struct sup_session *s;
	bool busy = false;

	TAILQ_FOREACH(s, &j->sup->sessions, link) {
		if (s->replay_until_ns == 0)
			continue;
		if (now_ns < s->replay_until_ns && sup_session_running(s)) {
			busy = true;
			continue;
		}
		s->replay_until_ns = 0;
		s->journal_crashes = s->journal_kills = 0;
		if (s->journal_key != 0)
			sup_journal_append(j, SUP_JRN_UPDATE, json_pack("{s:I, s:b, s:i, s:i}", "key", (json_int_t)s->journal_key,
			    "trying", 0, "crashes", 0, "kills", 0));
	}
	if (!busy && json_object_size(j->waiting) > 0 && j->sup->service.value == SUP_SERVICE_SERVING)
		resume_some(j, false);
}

/* ---- for the API ------------------------------------------------------ */

static bool
forget_in(struct sup_journal *j, json_t *entries, const char *id)
{
	const char *key;
	json_t *entry;
	void *next;
	bool found = false;

	json_object_foreach_safe(entries, next, key, entry) {
		json_t *record;

		if (strcmp(id_of(entry), id) != 0)
			continue;
		record = json_pack("{s:I}", "key", (json_int_t)number(entry, "key"));
		json_object_del(entries, key);
		sup_journal_append(j, SUP_JRN_CLOSED, record);
		found = true;
	}
	return found;
}

bool
sup_journal_forget(struct sup *sup, const char *id)
{
	struct sup_journal *j = sup->journal;
	bool found;

	if (j == NULL || id == NULL)
		return false;
	found = forget_in(j, j->aside, id);
	found = forget_in(j, j->waiting, id) || found;
	if (found)
		sup_journal_sync(j);
	return found;
}

const char *
sup_journal_word(const struct sup *sup)
{
	return sup->journal == NULL ? "off" : sup->journal->degraded ? "degraded" : "ok";
}

json_t *
sup_journal_json(const struct sup *sup)
{
	const struct sup_journal *j = sup->journal;
	json_t *o = json_pack("{s:s}", "state", sup_journal_word(sup)), *list, *entry;
	const char *key;

	if (j == NULL || o == NULL)
		return o;
	list = json_array();
	json_object_foreach(j->aside, key, entry)
		json_array_append_new(list, json_pack("{s:s, s:s, s:I}", "id", id_of(entry), "why",
		    json_string_value(json_object_get(entry, "set_aside")), "started_ms", (json_int_t)number(entry, "started_ms")));
	json_object_set_new(o, "problem", json_string(j->why));
	json_object_set_new(o, "resumed", json_integer((json_int_t)j->resumed));
	json_object_set_new(o, "waiting", json_integer((json_int_t)json_object_size(j->waiting)));
	json_object_set_new(o, "set_aside", list);
	json_object_set_new(o, "bytes", json_integer((json_int_t)j->file.bytes));
	json_object_set_new(o, "syncs", json_integer((json_int_t)j->file.syncs));
	json_object_set_new(o, "sync_us_max", json_integer((json_int_t)(j->file.sync_ns_max / 1000)));
	json_object_set_new(o, "checkpoint_us_max", json_integer((json_int_t)(j->point_ns_max / 1000)));
	json_object_set_new(o, "checkpoint_ok", json_boolean(j->point_fd != -1 && !j->points_failed));
	return o;
}

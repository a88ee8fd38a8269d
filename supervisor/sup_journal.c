/* SPDX-License-Identifier: MIT */
/*
 * Journal: writing
 *
 * One thread, so the disk is waited for in the event loop: at a start, at a stop, when the file is exchanged, and at most
 * once a second for what happened in between (parameters, deaths). That is one fdatasync() of a few kilobytes, and media
 * do not pass through this process; the longest wait is shown. Checkpoints and children are written and never waited for.
 *
 * The file is exchanged for a short one when it has grown to several times of what it has to say, and whenever a write has
 * failed, until one succeeds: it is made from the sessions themselves, so nothing that was lost stays lost.
 */
#include "supervisor/sup_journal.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "proto/format.h"
#include "supervisor/sup_journal_point.h"
#include "supervisor/sup_session.h"
#include "supervisor/sup_sweep.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "supervisor/sup_priv.h"

#define RETRY_NS (5 * CLOCK_SEC_NS)
#define SYNC_NS	 CLOCK_SEC_NS
#define SLOW_NS	 (100 * CLOCK_MS_NS)
enum { COMPACT_BYTES_MIN = 256 << 10, COMPACT_TIMES = 4, BURST_FORGET = 512 /* ticks: 51 s */ };

static void
set(json_t *o, const char *key, json_t *value)
{
	if (json_object_set_new(o, key, value) == -1)
		json_object_del(o, key); /* out of memory: the successor takes the default */
}

/* ---- the file --------------------------------------------------------- */

void
sup_journal_degrade(struct sup_journal *j, int r, const char *verb)
{
	j->retry_ns = clock_now_ns() + RETRY_NS;
	snprintf(j->why, sizeof(j->why), "unable to %s in %s: %s; sessions run on, but would not be resumed as they are now",
	    verb, j->sup->config.state_dir, r == SUP_JRN_BUSY ? "another millrace uses the folder" : strerror(-r));
	if (!j->degraded)
		log_error("journal", "degraded", "why=\"%s\" next=\"again every 5 s\"", j->why);
	j->degraded = true;
}

void
sup_journal_append(struct sup_journal *j, enum sup_jrn_type type, json_t *payload)
{
	char *text = j->degraded || payload == NULL ? NULL : json_dumps(payload, JSON_COMPACT);
	int r = -ENOMEM;

	if (j->degraded) /* the next rewrite says it */
		goto put_payload;
	if (text != NULL)
		r = strlen(text) > SUP_JRN_PAYLOAD_MAX ? -EFBIG : sup_jrn_append(&j->file, type, text, strlen(text));
	if (r < 0)
		sup_journal_degrade(j, r, "write the journal");
put_payload:
	free(text);
	json_decref(payload);
}

void
sup_journal_sync(struct sup_journal *j)
{
	int64_t begin = clock_now_ns(), took;
	int r;

	if (j->degraded)
		return;
	r = sup_jrn_sync(&j->file);
	if (r < 0)
		sup_journal_degrade(j, r, "write the journal to the disk");
	took = clock_now_ns() - begin;
	if (took > SLOW_NS)
		log_warn("journal", "slow_disk", "ms=%lld: nothing else happened in the supervisor meanwhile",
		    (long long)(took / CLOCK_MS_NS));
	j->sync_due_ns = begin + took + SYNC_NS;
}

static json_t *
record_boot(const struct sup_journal *j)
{
	return json_pack("{s:s, s:I}", "id", j->boot, "key", (json_int_t)j->last_key);
}

static json_t *
record_child(pid_t pid)
{
	uint64_t start = sup_sweep_start_time(pid);

	return start == 0 ? NULL : json_pack("{s:i, s:I}", "pid", (int)pid, "start", (json_int_t)start);
}

static json_t *
stream_json(const struct sup_session *s)
{
	static const char *const keys[SUP_CHANNELS] = {
		[CTL_CHANNEL_SUBSCRIBE] = "subscribe_url", [CTL_CHANNEL_PUBLISH] = "publish_url",
		[CTL_CHANNEL_CONTROL] = "control_url", [CTL_CHANNEL_EVENTS] = "events_url", [CTL_CHANNEL_DATA] = "data_url",
	};
	json_t *o = json_object();

	set(o, "gateway_request_id", json_string(s->stream.id));
	for (unsigned i = 1; i < SUP_CHANNELS; i++)
		if (s->stream.url[i] != NULL)
			set(o, keys[i], json_string(s->stream.url[i]));
	set(o, "params", json_incref(s->stream.params));
	return o;
}

/* null: the same as those before it. */
static void
set_params(json_t *o, const struct sup_session *s, const json_t *before)
{
	set(o, "params", s->params_now == before ? json_null() : json_incref(s->params_now));
	set(o, "good", s->params_good == s->params_now ? json_null() : json_incref(s->params_good));
	set(o, "max_framerate", json_integer(s->stream.max_framerate));
	set(o, "show_loading", json_boolean(s->overlay_by_client));
}

static void
set_quarantine(json_t *o, const struct sup_session *s)
{
	json_t *skip = json_array();

	for (unsigned i = 0; i < SUP_SKIP_MAX; i++)
		json_array_append_new(skip, json_integer((json_int_t)s->skip_seq[i]));
	set(o, "skip", skip);
	set(o, "quarantined", json_integer(s->quarantined));
}

static json_t *
record_open(const struct sup_session *s)
{
	json_t *o = json_pack("{s:I, s:i, s:o, s:I, s:s, s:i, s:b, s:b, s:s, s:b, s:i, s:i}", "key", (json_int_t)s->journal_key, "slot",
	    (int)s->journal_slot, "stream", stream_json(s), "started_ms", (json_int_t)s->started_wall_ms, "format",
	    format_name(s->format), "hold_count", (int)s->hold_count, "audio", s->worker_audio, "doorbell",
	    s->worker_doorbell, "fallback", s->sup->config.fallback, "trying", s->replay_until_ns != 0,
	    "crashes", (int)s->journal_crashes, "kills", (int)s->journal_kills);

	if (o == NULL)
		return NULL;
	set_params(o, s, s->stream.params);
	set_quarantine(o, s);
	return o;
}

static int
put(struct sup_jrn_file *f, enum sup_jrn_type type, json_t *payload)
{
	char *text = payload == NULL ? NULL : json_dumps(payload, JSON_COMPACT);
	int r = -ENOMEM;

	if (text != NULL)
		r = strlen(text) > SUP_JRN_PAYLOAD_MAX ? -EFBIG : sup_jrn_append(f, type, text, strlen(text));
	free(text);
	json_decref(payload);
	return r;
}

static int
put_entries(struct sup_jrn_file *f, json_t *entries)
{
	const char *key;
	json_t *entry;
	int r = 0;

	json_object_foreach(entries, key, entry) {
		r = put(f, SUP_JRN_OPEN, json_incref(entry));
		if (r < 0)
			break;
	}
	return r;
}

static int
put_all(const struct sup_journal *j, struct sup_jrn_file *f)
{
	const struct sup_session *s;
	const struct sup_child *c;
	int r = put(f, SUP_JRN_BOOT, record_boot(j));

	TAILQ_FOREACH(c, &j->sup->children, link) {
		json_t *record = r == 0 && sup_child_alive(c) ? record_child(c->pid) : NULL;

		if (record != NULL)
			r = put(f, SUP_JRN_CHILD, record);
	}
	if (r == 0)
		r = put_entries(f, j->aside);
	if (r == 0)
		r = put_entries(f, j->waiting);
	TAILQ_FOREACH_REVERSE(s, &j->sup->sessions, sup_sessions, link)
		if (r == 0 && s->journal_key != 0 && sup_session_running(s))
			r = put(f, SUP_JRN_OPEN, record_open(s));
	return r;
}

void
sup_journal_rewrite(struct sup_journal *j)
{
	struct sup_jrn_file fresh;
	int r;

	MR_ASSERT(j->loaded);
	r = sup_jrn_replace_begin(&j->file, &fresh);
	if (r == 0) {
		r = put_all(j, &fresh);
		if (r == 0)
			r = sup_jrn_replace_commit(&j->file, &fresh);
		else
			sup_jrn_replace_abandon(&fresh);
	}
	if (r < 0) {
		sup_journal_degrade(j, r, "write a new journal");
		return;
	}
	j->compact_bytes = j->file.bytes * COMPACT_TIMES;
	if (j->compact_bytes < COMPACT_BYTES_MIN)
		j->compact_bytes = COMPACT_BYTES_MIN;
	if (j->degraded)
		log_info("journal", "ok", "bytes=%llu: all open sessions are in it again", (unsigned long long)j->file.bytes);
	j->degraded = false;
	j->why[0] = '\0';
}

/* ---- what happens to sessions ----------------------------------------- */

/* The lowest place in the checkpoint file that belongs to nobody. */
static unsigned
free_slot(const struct sup_journal *j)
{
	const struct sup_session *s;
	const char *key;
	json_t *entry;

	for (unsigned slot = 0;; slot++) {
		bool used = false;

		TAILQ_FOREACH(s, &j->sup->sessions, link)
			used = used || (s->journal_key != 0 && s->journal_slot == slot);
		json_object_foreach(j->waiting, key, entry)
			used = used || json_integer_value(json_object_get(entry, "slot")) == (json_int_t)slot;
		json_object_foreach(j->aside, key, entry)
			used = used || json_integer_value(json_object_get(entry, "slot")) == (json_int_t)slot;
		if (!used)
			return slot;
	}
}

void
sup_journal_renumber(struct sup_journal *j)
{
	struct sup_session *s;

	TAILQ_FOREACH(s, &j->sup->sessions, link) {
		if (s->journal_key == 0)
			continue;
		s->journal_key = 0;
		s->journal_slot = free_slot(j);
		s->journal_key = ++j->last_key;
	}
}

void
sup_journal_opened(struct sup_session *s)
{
	struct sup_journal *j = s->sup->journal;

	if (j == NULL)
		return;
	s->journal_slot = free_slot(j);
	s->journal_key = ++j->last_key;
	sup_journal_append(j, SUP_JRN_OPEN, record_open(s));
	sup_journal_sync(j);
}

void
sup_journal_params(struct sup_session *s)
{
	json_t *o;

	if (s->sup->journal == NULL || s->journal_key == 0 || !sup_session_running(s))
		return;
	o = json_pack("{s:I}", "key", (json_int_t)s->journal_key);
	set_params(o, s, NULL);
	sup_journal_append(s->sup->journal, SUP_JRN_UPDATE, o);
}

void
sup_journal_quarantined(struct sup_session *s)
{
	json_t *o;

	if (s->sup->journal == NULL || s->journal_key == 0 || !sup_session_running(s))
		return;
	o = json_pack("{s:I}", "key", (json_int_t)s->journal_key);
	set_quarantine(o, s);
	sup_journal_append(s->sup->journal, SUP_JRN_UPDATE, o);
}

void
sup_journal_closed(struct sup_session *s, bool wait)
{
	if (s->sup->journal == NULL || s->journal_key == 0)
		return;
	sup_journal_append(s->sup->journal, SUP_JRN_CLOSED, json_pack("{s:I}", "key", (json_int_t)s->journal_key));
	s->journal_key = 0;
	if (wait)
		sup_journal_sync(s->sup->journal);
}

void
sup_journal_child(struct sup *sup, pid_t pid)
{
	json_t *record = sup->journal == NULL || sup->journal->degraded ? NULL : record_child(pid);

	if (record != NULL)
		sup_journal_append(sup->journal, SUP_JRN_CHILD, record);
}

/* ---- checkpoints ------------------------------------------------------ */

static int64_t
number(const json_t *o, const char *key)
{
	return (int64_t)json_integer_value(json_object_get(o, key));
}

/* Input that comes a segment at a time leaves a segment at a time. */
static void
note_burst(struct sup_session *s, const struct sup_point *p)
{
	int64_t gained = p->out_pts_ns - s->point_out_ns - (p->mono_ns - s->point_mono_ns);

	s->burst_ns -= s->burst_ns / BURST_FORGET;
	if (s->point_out_ns != 0 && p->out_pts_ns != 0 && gained > s->burst_ns)
		s->burst_ns = gained;
	s->point_out_ns = p->out_pts_ns;
	s->point_mono_ns = p->mono_ns;
}

/* false: there is nothing newer than what the place says already. */
static bool
make_point(struct sup_session *s, struct sup_point *p)
{
	json_t *out, *in;

	if (s->resumed && sup_media_total(&s->egress, EGRESS_bytes_out) == 0)
		return false;
	out = sup_text_resume(&s->egress);
	in = sup_text_resume(&s->ingest);
	*p = (struct sup_point){
		.key = s->journal_key, .count = s->point_count + 1, .mono_ns = clock_now_ns(), .wall_ms = clock_wall_ms(),
		.out_pts_ns = number(out, "last_out_pts_ns"), .out_audio_pts_ns = number(out, "last_out_audio_pts_ns"),
		.in_pts_ns = number(in, "last_pts_ns"), .ts_offset_ns = number(in, "ts_offset_ns"),
		.out_width = (uint32_t)number(out, "out_width"), .out_height = (uint32_t)number(out, "out_height"),
		.flags = (json_is_true(json_object_get(out, "has_audio")) ? SUP_POINT_HAS_AUDIO : 0u) |
		    (json_is_true(json_object_get(out, "had_output")) ? SUP_POINT_HAD_OUTPUT : 0u) |
		    (number(in, "last_pts_ns") != 0 ? SUP_POINT_HAD_INPUT : 0u),
	};
	memcpy(p->generation, s->generation, sizeof(p->generation));
	note_burst(s, p);
	p->burst_ns = s->burst_ns;
	json_decref(out);
	json_decref(in);
	return true;
}

static void
write_points(struct sup_journal *j)
{
	int64_t begin = clock_now_ns(), took;
	struct sup_session *s;
	struct sup_point p;
	int r = 0;

	TAILQ_FOREACH(s, &j->sup->sessions, link) {
		if (s->journal_key == 0 || !sup_session_running(s) || s->journal_slot >= SUP_POINT_SLOTS_MAX || !make_point(s, &p))
			continue;
		r = sup_point_write(j->point_fd, s->journal_slot, &p);
		if (r < 0)
			break;
		s->point_count++;
	}
	if (r < 0 && !j->points_failed)
		log_error("journal", "checkpoint", "error=\"%s\": after a restart, outputs would continue with a jump of their "
		    "timestamps", strerror(-r));
	j->points_failed = r < 0;
	took = clock_now_ns() - begin;
	if (took > j->point_ns_max)
		j->point_ns_max = took;
}

/* ---- life ------------------------------------------------------------- */

void
sup_journal_tick(struct sup *sup, int64_t now_ns)
{
	struct sup_journal *j = sup->journal;

	if (j == NULL)
		return;
	if (j->degraded && now_ns >= j->retry_ns) {
		j->retry_ns = now_ns + RETRY_NS;
		if (!j->loaded)
			sup_journal_load(j);
		else
			sup_journal_rewrite(j);
	}
	if (j->point_fd != -1)
		write_points(j);
	if (!j->degraded && j->file.bytes > j->compact_bytes)
		sup_journal_rewrite(j);
	if (j->file.dirty && now_ns >= j->sync_due_ns)
		sup_journal_sync(j);
	sup_journal_replay_tick(j, now_ns);
}

int
sup_journal_new(struct sup *sup, struct sup_journal **out)
{
	struct sup_journal *j;

	*out = NULL;
	if (sup->config.state_dir[0] == '\0')
		return 0;
	j = calloc(1, sizeof(*j));
	if (j == NULL)
		return -ENOMEM;
	j->sup = sup;
	j->point_fd = -1;
	sup_jrn_init(&j->file);
	j->waiting = json_object();
	j->aside = json_object();
	sup_sweep_boot_id(j->boot, sizeof(j->boot));
	if (j->waiting == NULL || j->aside == NULL || sup_journal_load(j) == SUP_JRN_BUSY) {
		sup_journal_free(&j);
		return SUP_JRN_BUSY;
	}
	*out = j;
	return 0;
}

void
sup_journal_free(struct sup_journal **jp)
{
	struct sup_journal *j = *jp;

	if (j == NULL)
		return;
	if (j->loaded)
		sup_journal_sync(j);
	fd_close(&j->point_fd);
	sup_jrn_close(&j->file);
	json_decref(j->waiting);
	json_decref(j->aside);
	free(j);
	*jp = NULL;
}

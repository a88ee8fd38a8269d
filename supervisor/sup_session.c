/* SPDX-License-Identifier: MIT */
/*
 * Sessions: start, the worker's comings and goings, the end
 *
 * The end has an order: the input is closed first, so that its last frames reach the worker; the worker finishes them
 * and stays warm; the output is flushed last. Each step waits for an answer, and no longer than its deadline: what
 * is left at the end of CLOSE_LIMIT_NS is killed. A stop request is answered by then at the latest.
 */
#include "supervisor/sup_session.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/fd.h"
#include "base/log.h"
#include "supervisor/sup_clean.h"
#include "supervisor/sup_coerce.h"
#include "supervisor/sup_http.h"
#include "supervisor/sup_journal.h"
#include "supervisor/sup_json.h"
#include "supervisor/sup_memfd.h"
#include "supervisor/sup_worker.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "supervisor/sup_priv.h"

#define CLOSE_LIMIT_NS	   (1500 * CLOCK_MS_NS) /* of a stop request */
#define CLOSE_LIMIT_END_NS (5 * CLOCK_SEC_NS)	/* of a natural end: nobody waits for it */
#define INGEST_WAIT_NS	   (400 * CLOCK_MS_NS)
#define WORKER_WAIT_NS	   (500 * CLOCK_MS_NS)
enum { OVER_KEPT = 16 }; /* sessions that are over and still shown */

static void
sup_session_set(struct sup_session *s, enum sup_session_state to, const char *reason)
{
	sup_state_set(&s->state, to, s->stream.log_id, reason, clock_now_ns());
}

void
sup_stream_fini(struct sup_stream *stream)
{
	free(stream->id);
	for (unsigned i = 0; i < SUP_CHANNELS; i++)
		free(stream->url[i]);
	json_decref(stream->params);
	memset(stream, 0, sizeof(*stream));
}

/* Forgets the oldest sessions that are over. */
static void
trim(struct sup *sup)
{
	struct sup_session *s, *prev;
	unsigned over = 0;

	TAILQ_FOREACH(s, &sup->sessions, link)
		over += sup_session_over(s);
	for (s = TAILQ_LAST(&sup->sessions, sup_sessions); s != NULL && over > OVER_KEPT; s = prev) {
		prev = TAILQ_PREV(s, sup_sessions, link);
		/* A child that was killed and is not reaped yet still belongs to it. */
		if (sup_session_over(s) && s->worker == NULL && !sup_child_alive(&s->ingest.child) &&
		    !sup_child_alive(&s->egress.child)) {
			sup_session_free(&s);
			over--;
		}
	}
}

static void
take_hello(struct sup_session *s, const struct ctl_hello *hello)
{
	s->format = (enum format_id)hello->format;
	s->hold_count = hello->hold_count;
	s->worker_audio = (hello->flags & CTL_HELLO_AUDIO) != 0;
	s->worker_doorbell = (hello->flags & CTL_HELLO_DOORBELL) != 0;
}

/* Everything but what depends on the worker; `stream` is consumed. */
static struct sup_session *
session_new(struct sup *sup, struct sup_stream *stream)
{
	struct sup_session *s = calloc(1, sizeof(*s));
	int64_t now = clock_now_ns();

	if (s == NULL)
		return NULL;
	s->magic = SUP_SESSION_MAGIC;
	s->sup = sup;
	s->num = ++sup->next_session;
	s->stream = *stream;
	memset(stream, 0, sizeof(*stream));
	s->upload_fd = -1;
	s->params_now = json_incref(s->stream.params);
	s->params_good = json_incref(s->stream.params);
	s->params_version = 1;
	s->overlay_by_client = s->stream.show_loading;
	s->overlay_percent = -1;
	s->started_ns = now;
	s->started_wall_ms = clock_wall_ms();
	TAILQ_INIT(&s->rings);
	TAILQ_INIT(&s->pending);
	sup_state_init(&s->state, SUP_MACHINE_SESSION, now);
	TAILQ_INSERT_HEAD(&sup->sessions, s, link);
	sup->sessions_started++;
	sup_media_init(s, CTL_ROLE_INGEST);
	sup_media_init(s, CTL_ROLE_EGRESS);
	return s;
}

static void
start_processes(struct sup_session *s)
{
	log_info("session", s->resumed ? "resume" : "start", "session=%s width=%u height=%u max_framerate=%u format=%s",
	    s->stream.log_id, s->stream.width, s->stream.height, s->stream.max_framerate, format_name(s->format));
	sup_media_start(s, &s->egress);
	sup_media_start(s, &s->ingest);
	sup_pool_assign(s->sup->pool);
	trim(s->sup);
}

int
sup_session_start(struct sup *sup, struct sup_stream *stream, struct sup_session **out)
{
	struct sup_session *s = session_new(sup, stream);

	MR_ASSERT(sup->pool->has_hello);
	if (s == NULL)
		return err_origin(-ENOMEM);
	take_hello(s, &sup->pool->hello);
	start_processes(s);
	sup_journal_opened(s);
	*out = s;
	return 0;
}

static void
take_past(struct sup_session *s, const struct sup_past *past)
{
	int64_t age_ms = s->started_wall_ms - past->started_wall_ms;

	s->resumed = s->format_from_past = s->had_worker = true;
	s->journal_key = past->key;
	s->journal_slot = past->slot;
	s->journal_crashes = past->crashes;
	s->journal_kills = past->kills;
	s->point_count = past->point_count;
	s->burst_ns = past->burst_ns;
	s->format = past->format;
	s->hold_count = past->hold_count;
	s->worker_audio = past->audio;
	s->worker_doorbell = past->doorbell;
	s->overlay_by_client = past->show_loading;
	if (past->max_framerate >= 1 && past->max_framerate <= SUP_FRAMERATE_MAX)
		s->stream.max_framerate = past->max_framerate;
	if (age_ms > 0) {
		s->started_wall_ms = past->started_wall_ms;
		s->started_ns -= age_ms * CLOCK_MS_NS;
	}
	if (json_is_object(past->params_now)) {
		json_decref(s->params_now);
		s->params_now = json_incref(past->params_now);
	}
	json_decref(s->params_good);
	s->params_good = json_incref(json_is_object(past->params_good) ? past->params_good : s->params_now);
	s->ingest.resume = past->ingest_resume;
	s->egress.resume = past->egress_resume;
	memcpy(s->generation, past->generation, sizeof(s->generation));
	memcpy(s->skip_seq, past->skip_seq, sizeof(s->skip_seq));
	s->quarantined = past->quarantined;
}

int
sup_session_resume(struct sup *sup, struct sup_stream *stream, struct sup_past *past, struct sup_session **out)
{
	struct sup_session *s = session_new(sup, stream);

	if (s == NULL)
		return err_origin(-ENOMEM);
	take_past(s, past);
	start_processes(s);
	*out = s;
	return 0;
}

void
sup_session_adapt(struct sup_session *s, const struct ctl_hello *hello)
{
	bool audio = (hello->flags & CTL_HELLO_AUDIO) != 0, doorbell = (hello->flags & CTL_HELLO_DOORBELL) != 0;
	struct format_layout layout;

	if (!s->format_from_past || !sup_session_running(s) || s->worker != NULL)
		return;
	if (hello->format == (uint32_t)s->format && hello->hold_count <= s->hold_count && audio == s->worker_audio &&
	    doorbell == s->worker_doorbell)
		return;
	if (!format_video_layout((enum format_id)hello->format, s->stream.width, s->stream.height, &layout)) {
		log_warn("session", "format", "session=%s: the worker takes %s, which cannot have this session's size; the "
		    "fallback is sent", s->stream.log_id, format_name((enum format_id)hello->format));
		return;
	}
	log_info("session", "adapt", "session=%s was=%s is=%s", s->stream.log_id, format_name(s->format),
	    format_name((enum format_id)hello->format));
	take_hello(s, hello);
	sup_child_kill(&s->ingest.child, SUP_EXIT_ASKED, "the worker takes other frames than the last one");
	sup_child_kill(&s->egress.child, SUP_EXIT_ASKED, "the worker takes other frames than the last one");
}

void
sup_session_free(struct sup_session **sp)
{
	struct sup_session *s = *sp;

	if (s == NULL)
		return;
	MR_ASSERT(s->magic == SUP_SESSION_MAGIC);
	MR_ASSERT(s->worker == NULL);
	for (unsigned i = 0; i < (unsigned)INGEST_COUNTER_COUNT; i++)
		s->sup->past_ingest[i] += sup_media_total(&s->ingest, i);
	for (unsigned i = 0; i < (unsigned)EGRESS_COUNTER_COUNT; i++)
		s->sup->past_egress[i] += sup_media_total(&s->egress, i);
	TAILQ_REMOVE(&s->sup->sessions, s, link);
	sup_broker_fini(s);
	sup_media_fini(&s->ingest);
	sup_media_fini(&s->egress);
	fd_close(&s->upload_fd);
	json_decref(s->params_now);
	json_decref(s->params_good);
	sup_stream_fini(&s->stream);
	s->magic = 0;
	free(s);
	*sp = NULL;
}

struct sup_session *
sup_session_find(struct sup *sup, const char *id)
{
	struct sup_session *s, *over = NULL;

	TAILQ_FOREACH(s, &sup->sessions, link) {
		if (strcmp(s->stream.id, id) != 0)
			continue;
		if (!sup_session_over(s))
			return s;
		if (over == NULL && !s->acknowledged)
			over = s;
	}
	return over;
}

unsigned
sup_session_count_running(const struct sup *sup)
{
	const struct sup_session *s;
	unsigned n = 0;

	TAILQ_FOREACH(s, &sup->sessions, link)
		n += sup_session_running(s);
	return n;
}

/* ---- the worker ------------------------------------------------------- */

uint64_t
sup_session_results(const struct sup_session *s)
{
	return sup_media_total(&s->egress, EGRESS_results_accepted) + sup_media_total(&s->egress, EGRESS_results_late);
}

void
sup_session_tell_worker_state(struct sup_session *s)
{
	struct sup_worker *w = s->worker;
	union ctl_msg msg;
	const char *text = "";

	if (s->egress.state.value != SUP_MEDIA_OPEN)
		return;
	ctl_init(&msg, CTL_WORKER, s->num);
	msg.worker.state = w != NULL ? w->state.value : (unsigned)SUP_WORKER_BACKOFF;
	msg.worker.progress_percent = s->overlay_percent;
	msg.worker.overlay = s->overlay_by_client || s->overlay_by_worker;
	if (s->overlay_by_worker && s->overlay_text[0] != '\0')
		text = s->overlay_text;
	else if (w != NULL && w->child.status[0] != '\0')
		text = w->child.status;
	else if (w == NULL)
		text = s->had_worker ? "The worker is being restarted" : "Waiting for a worker";
	snprintf(msg.worker.text, sizeof(msg.worker.text), "%s", text);
	s->worker_state_owed = !sup_child_offer(&s->egress.child, &msg, NULL, 0);
}

static bool
send_session_open(struct sup_session *s, struct sup_child *c)
{
	char *text = sup_json_dump(s->params_now, JSON_COMPACT);
	union ctl_msg msg;
	int fd = -1, r;
	bool ok = false;

	r = text == NULL ? -ENOMEM : sup_memfd_text("millrace:params", text, strlen(text), &fd);
	if (r < 0) {
		log_error("session", "memory", "session=%s error=\"%s\"", s->stream.log_id, strerror(-r));
		goto free_text;
	}
	ctl_init(&msg, CTL_SESSION_OPEN, s->num);
	msg.session_open.text_bytes = strlen(text);
	msg.session_open.params_version = s->params_version;
	msg.session_open.width = s->stream.width;
	msg.session_open.height = s->stream.height;
	msg.session_open.recovering = s->had_worker;
	ok = sup_child_send(c, &msg, &fd, 1);
free_text:
	fd_close(&fd);
	free(text);
	return ok;
}

void
sup_session_attach(struct sup_session *s, struct sup_worker *w)
{
	int64_t now = clock_now_ns();

	MR_ASSERT(s->worker == w);
	log_info("session", "worker", "session=%s worker=%u incarnation=%u recovering=%d", s->stream.log_id, w->index,
	    w->child.incarnation, s->had_worker);
	s->results_at_attach = sup_session_results(s);
	s->overlay_by_worker = false;
	s->overlay_percent = -1;
	if (!send_session_open(s, &w->child)) {
		sup_child_kill(&w->child, SUP_EXIT_VIOLATION, "a session could not be handed over");
		return;
	}
	s->had_worker = true;
	s->format_from_past = false;
	s->worker_opened_ns = now;
	s->first_result = false;
	sup_watchdog_reset(s, now);
	sup_broker_attach(s, CTL_ROLE_WORKER);
	sup_session_tell_worker_state(s);
}

void
sup_session_detach(struct sup_session *s, const struct sup_death *death)
{
	MR_ASSERT(s->worker == NULL);
	s->overlay_by_worker = false;
	/* whatever it had not answered yet is what the next one starts with */
	sup_update_abandon(s, true, "");
	if (death != NULL && death->class != SUP_EXIT_ASKED) {
		s->worker_deaths++;
		sup_update_book_death(s);
	}
	sup_broker_detach(s, CTL_ROLE_WORKER);
	sup_session_tell_worker_state(s);
	if (death != NULL && sup_session_running(s))
		sup_session_event(s, json_pack("{s:s, s:s, s:I}", "type", "worker_restart", "reason", death->text,
		    "restart_count", (json_int_t)s->worker_deaths), "ai_stream_events");
	sup_session_step(s);
}

static void
on_overlay(struct sup_session *s, const struct ctl_overlay *m)
{
	s->overlay_by_worker = m->on != 0;
	s->overlay_percent = m->progress_percent < 0 || m->progress_percent > 100 ? -1 : m->progress_percent;
	memcpy(s->overlay_text, m->text, sizeof(s->overlay_text));
	sup_session_tell_worker_state(s);
}

/* A worker's event: one JSON object, in the envelope if it is not in one yet. */
static void
on_event(struct sup_session *s, const struct ctl_text *m)
{
	json_t *event = sup_json_load(m->text, strlen(m->text), NULL);
	char *text;

	if (!json_is_object(event)) {
		json_decref(event);
		return;
	}
	if (json_object_get(event, "event") == NULL) {
		sup_session_event(s, event, "custom_monitoring_event");
		return;
	}
	text = sup_json_dump(event, JSON_COMPACT);
	if (text != NULL)
		sup_session_publish(s, CTL_CHANNEL_EVENTS, text, strlen(text));
	free(text);
	json_decref(event);
}

void
sup_session_worker_message(struct sup_session *s, const union ctl_msg *msg)
{
	struct sup_child *c = sup_worker_child(s->worker);

	MR_ASSERT(c != NULL);
	switch (msg->hdr.type) {
	case CTL_RING_REQUEST:
		sup_broker_request(s, c, &msg->ring_request);
		break;
	case CTL_MAPPED:
		sup_broker_mapped(s, c, &msg->ring_ref);
		sup_watchdog_reset(s, clock_now_ns());
		break;
	case CTL_RING_CLOSED:
		sup_broker_closed(s, c, &msg->ring_ref);
		sup_session_step(s);
		break;
	case CTL_PARAMS_RESULT:
		sup_update_result(s, &msg->params_result);
		break;
	case CTL_EVENT:
		on_event(s, &msg->text);
		break;
	case CTL_DATA:
		sup_session_publish(s, CTL_CHANNEL_DATA, msg->text.text, strlen(msg->text.text));
		break;
	case CTL_OVERLAY:
		on_overlay(s, &msg->overlay);
		break;
	default:
		sup_child_kill(c, SUP_EXIT_VIOLATION, "sent a message that is for media children");
		break;
	}
}

/* ---- the end ---------------------------------------------------------- */

void
sup_session_close(struct sup_session *s, bool by_request, const char *why)
{
	int64_t now = clock_now_ns(), limit = now + (by_request ? CLOSE_LIMIT_NS : CLOSE_LIMIT_END_NS);

	if (!sup_session_running(s)) {
		if (by_request && !sup_session_over(s) && limit < s->close_deadline_ns)
			s->close_deadline_ns = limit;
		return;
	}
	s->over_by_request = by_request;
	s->close_deadline_ns = limit;
	snprintf(s->over_why, sizeof(s->over_why), "%s", why);
	sup_clean(s->over_why, strlen(s->over_why)); /* it may have been cut inside a character */
	sup_journal_closed(s, by_request);
	sup_session_set(s, SUP_SESSION_CLOSING_INGEST, why);
	sup_media_close(s, &s->ingest);
	sup_session_step(s);
}

static bool
media_done(const struct sup_media *m)
{
	return m->closed || !sup_child_alive(&m->child);
}

static void
step_ingest(struct sup_session *s, int64_t now)
{
	if (!media_done(&s->ingest) && now - s->state.since_ns < INGEST_WAIT_NS && now < s->close_deadline_ns)
		return;
	/* Nothing more comes in: consumers drain what is there. */
	if (media_done(&s->ingest))
		sup_broker_detach(s, CTL_ROLE_INGEST);
	sup_session_set(s, SUP_SESSION_CLOSING_WORKER, "");
}

static void
step_worker(struct sup_session *s, int64_t now)
{
	bool late = now - s->state.since_ns >= WORKER_WAIT_NS || now >= s->close_deadline_ns;

	if (s->worker != NULL && !s->worker_waits && (late || sup_broker_worker_drained(s)))
		sup_worker_release(s);
	if (s->worker != NULL && !late)
		return;
	sup_session_set(s, SUP_SESSION_CLOSING_EGRESS, "");
	sup_media_close(s, &s->egress);
}

static void
step_egress(struct sup_session *s, int64_t now)
{
	bool late = now >= s->close_deadline_ns;

	if (!late && (sup_child_alive(&s->egress.child) || sup_child_alive(&s->ingest.child)))
		return;
	if (late) {
		sup_child_kill(&s->ingest.child, SUP_EXIT_ASKED, "its session is over");
		sup_child_kill(&s->egress.child, SUP_EXIT_ASKED, "its session is over");
	}
	s->over_ns = now;
	s->acknowledged = s->acknowledged || s->over_by_request;
	sup_update_abandon(s, false, "the stream is over");
	sup_session_set(s, s->over_by_request ? SUP_SESSION_STOPPED : SUP_SESSION_ENDED, s->over_why);
	log_info("session", "over", "session=%s seconds=%lld frames_in=%llu frames_out=%llu processed=%llu why=\"%s\"",
	    s->stream.log_id, (long long)((now - s->started_ns) / CLOCK_SEC_NS),
	    (unsigned long long)sup_media_total(&s->ingest, INGEST_frames_published),
	    (unsigned long long)sup_media_total(&s->egress, EGRESS_frames_out),
	    (unsigned long long)sup_media_total(&s->egress, EGRESS_frames_processed), s->over_why);
	sup_http_session_over(s->sup->http, s);
}

void
sup_session_step(struct sup_session *s)
{
	int64_t now = clock_now_ns();

	if (s->state.value == SUP_SESSION_CLOSING_INGEST)
		step_ingest(s, now);
	if (s->state.value == SUP_SESSION_CLOSING_WORKER)
		step_worker(s, now);
	if (s->state.value == SUP_SESSION_CLOSING_EGRESS)
		step_egress(s, now);
}

void
sup_session_tick(struct sup_session *s, int64_t now_ns)
{
	sup_media_tick(s, &s->ingest, now_ns);
	sup_media_tick(s, &s->egress, now_ns);
	if (sup_session_over(s)) {
		if (s->worker == NULL && !sup_child_alive(&s->ingest.child) && !sup_child_alive(&s->egress.child))
			sup_broker_fini(s);
		return;
	}
	if (s->worker_state_owed)
		sup_session_tell_worker_state(s);
	sup_broker_tick(s, now_ns);
	sup_update_tick(s, now_ns);
	sup_watchdog_tick(s, now_ns);
	sup_session_step(s);
}

/* SPDX-License-Identifier: MIT */
/*
 * Parameters of a running session
 *
 * What a client sends is an update: keys that it names change, others stay. The worker gets the update, the next
 * incarnation gets everything merged. An update counts from the moment it is sent until the worker refuses it; whoever
 * asked is answered when the worker has, and after REPLY_WAIT_NS in any case. Parameters are good once a frame was
 * accepted under them; when two workers die before that, they are rolled back to the last good ones.
 */
#include "base/assert.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "supervisor/sup_coerce.h"
#include "supervisor/sup_http.h"
#include "supervisor/sup_journal.h"
#include "supervisor/sup_json.h"
#include "supervisor/sup_memfd.h"
#include "supervisor/sup_session.h"
#include "supervisor/sup_worker.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "supervisor/sup_priv.h"

#define REPLY_WAIT_NS (1500 * CLOCK_MS_NS)
enum { PENDING_MAX = 32 };

struct sup_pending {
	TAILQ_ENTRY(sup_pending) link;
	uint64_t version;
	int64_t sent_ns;
	json_t *update;
	struct sup_reply *reply; /* NULL: answered already, or nobody waits */
};

static void
answer(struct sup_pending *p, int code, const char *message)
{
	if (p->reply != NULL)
		sup_reply_message(&p->reply, code, message);
}

static void
pending_free(struct sup_session *s, struct sup_pending *p)
{
	MR_ASSERT(p->reply == NULL);
	TAILQ_REMOVE(&s->pending, p, link);
	s->pending_count--;
	json_decref(p->update);
	free(p);
	s->params_sent_ns = TAILQ_EMPTY(&s->pending) ? 0 : TAILQ_FIRST(&s->pending)->sent_ns;
}

/* `update` over what is in force. */
static void
merge(struct sup_session *s, json_t *update)
{
	json_t *merged = json_copy(s->params_now);

	if (merged == NULL || json_object_update(merged, update) == -1) {
		json_decref(merged);
		log_error("session", "memory", "session=%s: an update of parameters was lost", s->stream.log_id);
		return;
	}
	json_decref(s->params_now);
	s->params_now = merged;
	sup_journal_params(s);
}

static bool
send_params(struct sup_session *s, struct sup_child *c, const json_t *params, uint64_t version)
{
	char *text = sup_json_dump(params, JSON_COMPACT);
	union ctl_msg msg;
	int fd = -1;
	bool ok = false;

	if (text == NULL || sup_memfd_text("millrace:params", text, strlen(text), &fd) < 0)
		goto free_text;
	ctl_init(&msg, CTL_PARAMS, s->num);
	msg.params.version = version;
	msg.params.text_bytes = strlen(text);
	ok = sup_child_send(c, &msg, &fd, 1);
	fd_close(&fd);
free_text:
	free(text);
	return ok;
}

/* What concerns ourselves and ingest. */
static void
apply_ours(struct sup_session *s, const struct sup_coerced *c)
{
	json_t *ours;

	if (c->has_framerate) {
		s->stream.max_framerate = c->framerate;
		ours = json_pack("{s:i}", "max_framerate", (int)c->framerate);
		if (s->ingest.state.value == SUP_MEDIA_OPEN)
			send_params(s, &s->ingest.child, ours, s->params_version);
		json_decref(ours);
	}
	if (c->has_loading) {
		s->overlay_by_client = c->loading;
		sup_session_tell_worker_state(s);
	}
}

static void
tell_updated(struct sup_session *s, json_t *update)
{
	sup_session_event(s, json_pack("{s:s, s:O}", "type", "params_updated", "params", update), "ai_stream_events");
}

static void
take_now(struct sup_session *s, json_t *params, struct sup_reply *reply)
{
	merge(s, params);
	tell_updated(s, params);
	if (reply != NULL)
		sup_reply_message(&reply, 200, "Parameters updated successfully");
}

void
sup_update_apply(struct sup_session *s, json_t *params, struct sup_reply *reply)
{
	struct sup_child *worker = s->worker != NULL && !s->worker_waits ? sup_worker_child(s->worker) : NULL;
	struct sup_coerced ours;
	struct sup_pending *p;

	if (sup_coerce_params(params, false, &ours) != NULL || s->pending_count >= PENDING_MAX) {
		if (reply != NULL)
			sup_reply_message(&reply, 503, "Parameter update failed: too many updates wait for the worker");
		return;
	}
	s->params_version++;
	apply_ours(s, &ours);
	if (worker == NULL || worker->killed || !send_params(s, worker, params, s->params_version)) {
		take_now(s, params, reply); /* the next incarnation starts with them */
		return;
	}
	p = calloc(1, sizeof(*p));
	if (p == NULL) {
		take_now(s, params, reply);
		return;
	}
	p->version = s->params_version;
	p->sent_ns = clock_now_ns();
	p->update = json_incref(params);
	p->reply = reply;
	TAILQ_INSERT_TAIL(&s->pending, p, link);
	s->pending_count++;
	s->params_sent_ns = TAILQ_FIRST(&s->pending)->sent_ns;
}

void
sup_update_from_control(struct sup_session *s, const char *text, size_t bytes)
{
	struct sup_coerced ours;
	json_t *doc = sup_json_load(text, bytes, NULL);
	const char *why = "it is not a JSON object";

	if (json_is_object(doc)) {
		if (json_object_get(doc, "keep") != NULL && json_object_size(doc) == 1)
			goto put_doc;
		why = sup_coerce_params(doc, false, &ours);
	}
	if (why == NULL) {
		sup_update_apply(s, doc, NULL);
	} else {
		snprintf(s->params_error, sizeof(s->params_error), "a document of the control channel was ignored: %s", why);
		log_warn("session", "control", "session=%s bytes=%zu ignored=\"%s\"", s->stream.log_id, bytes, why);
	}
put_doc:
	json_decref(doc);
}

void
sup_update_result(struct sup_session *s, const struct ctl_params_result *res)
{
	struct sup_pending *p;
	char message[CTL_TEXT_MAX + 64];

	if (res->status < 0)
		snprintf(s->params_error, sizeof(s->params_error), "%s", res->text);
	TAILQ_FOREACH(p, &s->pending, link)
		if (p->version == res->version)
			break;
	if (p == NULL) { /* the ones it started with: refused, and nobody waits */
		if (res->status < 0)
			log_warn("session", "params_refused", "session=%s version=%llu why=\"%s\"", s->stream.log_id,
			    (unsigned long long)res->version, res->text);
		return;
	}
	if (res->status >= 0) {
		s->params_error[0] = '\0';
		merge(s, p->update);
		tell_updated(s, p->update);
		answer(p, 200, "Parameters updated successfully");
	} else {
		log_warn("session", "params_refused", "session=%s version=%llu status=%d", s->stream.log_id,
		    (unsigned long long)res->version, res->status);
		snprintf(message, sizeof(message), "Parameter update failed: %s",
		    res->text[0] != '\0' ? res->text : strerror(res->status > -4096 ? -res->status : EINVAL));
		answer(p, 400, message);
	}
	pending_free(s, p);
}

void
sup_update_abandon(struct sup_session *s, bool accepted, const char *why)
{
	struct sup_pending *p;
	char message[256];

	while ((p = TAILQ_FIRST(&s->pending)) != NULL) {
		if (accepted) {
			merge(s, p->update);
			answer(p, 200, "Parameters updated successfully");
		} else {
			snprintf(message, sizeof(message), "Parameter update failed: %s", why);
			answer(p, 400, message);
		}
		pending_free(s, p);
	}
}

void
sup_update_tick(struct sup_session *s, int64_t now_ns)
{
	struct sup_pending *p;

	TAILQ_FOREACH(p, &s->pending, link)
		if (now_ns - p->sent_ns >= REPLY_WAIT_NS)
			answer(p, 200, "Parameters sent; the worker has not confirmed them yet");
}

void
sup_update_frame_accepted(struct sup_session *s)
{
	if (s->params_good == s->params_now || !TAILQ_EMPTY(&s->pending))
		return;
	json_decref(s->params_good);
	s->params_good = json_incref(s->params_now);
	s->params_deaths = 0;
	sup_journal_params(s);
}

bool
sup_update_book_death(struct sup_session *s)
{
	if (s->params_good == s->params_now || ++s->params_deaths < 2)
		return false;
	json_decref(s->params_now);
	s->params_now = json_incref(s->params_good);
	s->params_version++;
	s->params_deaths = 0;
	s->rollbacks++;
	sup_journal_params(s);
	snprintf(s->params_error, sizeof(s->params_error), "two workers died under new parameters; the last good ones are in "
	    "force again");
	log_warn("session", "params_rollback", "session=%s: two workers died before a frame was accepted under the new "
	    "parameters", s->stream.log_id);
	sup_session_event(s, json_pack("{s:s, s:O}", "type", "params_rolled_back", "params", s->params_now),
	    "ai_stream_events");
	return true;
}

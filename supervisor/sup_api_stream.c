/* SPDX-License-Identifier: MIT */
/*
 * start, params, stop, status of a stream
 *
 * Bodies and codes are PyTrickle's where clients depend on them. Where PyTrickle does harm we differ: an invalid or
 * surplus start touches nothing that runs, a stop for another stream stops nothing, bad parameters are 400 and
 * not 500, and what the worker refuses is said.
 */
#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "proto/format.h"
#include "supervisor/sup_clean.h"
#include "supervisor/sup_coerce.h"
#include "supervisor/sup_http.h"
#include "supervisor/sup_journal.h"
#include "supervisor/sup_json.h"
#include "supervisor/sup_session.h"
#include "supervisor/sup_status.h"
#include "supervisor/sup_worker.h"

#include <ctype.h>
#include <event2/http.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "supervisor/sup_priv.h"

enum { WHY_BYTES = 400 };

static const char *const url_keys[SUP_CHANNELS] = {
	[CTL_CHANNEL_SUBSCRIBE] = "subscribe_url", [CTL_CHANNEL_PUBLISH] = "publish_url",
	[CTL_CHANNEL_CONTROL] = "control_url", [CTL_CHANNEL_EVENTS] = "events_url", [CTL_CHANNEL_DATA] = "data_url",
};

/* ---- reading requests ------------------------------------------------- */

/* The body as a JSON object, which the caller decrefs. NULL: `why` says why not. */
static json_t *
read_object(struct sup_reply *r, char *why, size_t why_bytes)
{
	json_error_t err;
	const char *body;
	json_t *root;
	size_t bytes;

	if (!sup_reply_is_json(r)) {
		snprintf(why, why_bytes, "Expected Content-Type: application/json");
		return NULL;
	}
	body = sup_reply_body(r, &bytes);
	root = sup_json_load(body, bytes, &err);
	if (root == NULL) {
		sup_clean(err.text, strlen(err.text));
		snprintf(why, why_bytes, "Invalid JSON: %.200s (line %d, column %d)", err.text, err.line, err.column);
		return NULL;
	}
	if (!json_is_object(root)) {
		snprintf(why, why_bytes, "The body must be a JSON object");
		json_decref(root);
		return NULL;
	}
	return root;
}

static bool
url_ok(const char *url)
{
	struct evhttp_uri *uri;
	const char *scheme, *host;
	bool ok;

	if (strlen(url) > SUP_URL_BYTES_MAX)
		return false;
	for (const unsigned char *c = (const unsigned char *)url; *c != '\0'; c++)
		if (*c <= 0x20 || *c == 0x7f)
			return false;
	uri = evhttp_uri_parse(url);
	if (uri == NULL)
		return false;
	scheme = evhttp_uri_get_scheme(uri);
	host = evhttp_uri_get_host(uri);
	ok = scheme != NULL && (strcasecmp(scheme, "http") == 0 || strcasecmp(scheme, "https") == 0) && host != NULL &&
	    host[0] != '\0' && evhttp_uri_get_port(uri) != 0;
	evhttp_uri_free(uri);
	return ok;
}

static bool
read_id(const json_t *root, struct sup_stream *st, char *why, size_t why_bytes)
{
	const json_t *v = json_object_get(root, "gateway_request_id");
	const char *id = sup_json_text(v);
	size_t i;

	if (id == NULL) {
		snprintf(why, why_bytes, v == NULL ? "gateway_request_id is required" : "gateway_request_id must be a string");
		return false;
	}
	if (id[0] == '\0' || strlen(id) >= SUP_ID_BYTES_MAX) {
		snprintf(why, why_bytes, "gateway_request_id must have 1 to %d bytes", SUP_ID_BYTES_MAX - 1);
		return false;
	}
	st->id = strdup(id);
	for (i = 0; id[i] != '\0' && i < sizeof(st->log_id) - 1; i++)
		st->log_id[i] = isalnum((unsigned char)id[i]) || strchr("._-:", id[i]) != NULL ? id[i] : '_';
	st->log_id[i] = '\0';
	return st->id != NULL;
}

static bool
read_urls(const json_t *root, struct sup_stream *st, char *why, size_t why_bytes)
{
	for (unsigned i = 1; i < SUP_CHANNELS; i++) {
		const json_t *v = json_object_get(root, url_keys[i]);

		if (v == NULL || json_is_null(v) || (json_is_string(v) && json_string_length(v) == 0))
			continue;
		if (sup_json_text(v) == NULL) {
			snprintf(why, why_bytes, "%s must be a string or null", url_keys[i]);
			return false;
		}
		if (!url_ok(json_string_value(v))) {
			snprintf(why, why_bytes, "%s is not an http or https URL: %.200s", url_keys[i], json_string_value(v));
			return false;
		}
		st->url[i] = strdup(json_string_value(v));
	}
	return true;
}

static bool
read_params(const json_t *root, struct sup_stream *st, enum format_id format, char *why, size_t why_bytes)
{
	const json_t *v = json_object_get(root, "params");
	struct format_layout layout;
	struct sup_coerced c;
	const char *bad;

	if (v != NULL && !json_is_null(v) && !json_is_object(v)) {
		snprintf(why, why_bytes, "params must be an object or null");
		return false;
	}
	st->params = json_is_object(v) ? json_copy((json_t *)(uintptr_t)v) : json_object();
	bad = sup_coerce_params(st->params, true, &c);
	if (bad != NULL) {
		snprintf(why, why_bytes, "%s", bad);
		return false;
	}
	st->width = c.has_size ? c.width : SUP_SIDE_DEFAULT;
	st->height = c.has_size ? c.height : SUP_SIDE_DEFAULT;
	st->max_framerate = c.has_framerate ? c.framerate : SUP_FRAMERATE_DEFAULT;
	st->detect_out_resolution = !c.has_detect || c.detect;
	st->show_loading = c.has_loading && c.loading;
	if (!format_video_layout(format, st->width, st->height, &layout)) {
		snprintf(why, why_bytes, "Width and height must be even for a worker that takes %s", format_name(format));
		return false;
	}
	return true;
}

/* ---- start ------------------------------------------------------------ */

static void
refuse_start(struct sup_reply **r, int code, const char *message)
{
	const struct sup *sup = sup_reply_sup(*r);
	char text[WHY_BYTES + 128];

	snprintf(text, sizeof(text), "%s", message);
	sup_clean(text, strlen(text)); /* it may have been cut inside a character */
	log_warn("api", "start_refused", "code=%d", code);
	sup_reply_json(r, code, json_pack("{s:s, s:s, s:o}", "status", "error", "message", text, "current_state",
	    sup_status_pipeline(sup)));
}

/* The pool can serve a session. Otherwise the answer has been sent. */
static bool
pool_is_ready(struct sup_reply **r)
{
	const struct sup *sup = sup_reply_sup(*r);
	enum sup_pool_health health = sup_pool_health(sup->pool);
	char reason[400], message[512];

	if (health == SUP_POOL_READY && sup->service.value == SUP_SERVICE_SERVING)
		return true;
	sup_pool_reason(sup->pool, reason, sizeof(reason));
	if (sup->service.value != SUP_SERVICE_SERVING)
		snprintf(message, sizeof(message), "The service is stopping");
	else if (health == SUP_POOL_BROKEN)
		snprintf(message, sizeof(message), "The worker cannot be started: %s", reason);
	else
		snprintf(message, sizeof(message), "Pipeline is still initializing. Please wait for IDLE status.");
	refuse_start(r, 503, message);
	return false;
}

bool
sup_stream_read(const json_t *request, enum format_id format, struct sup_stream *st, char *why, size_t why_bytes)
{
	return read_id(request, st, why, why_bytes) && read_urls(request, st, why, why_bytes) &&
	    read_params(request, st, format, why, why_bytes);
}

static bool
read_start(struct sup_reply *r, struct sup_stream *st, char *why, size_t why_bytes)
{
	json_t *root = read_object(r, why, why_bytes);
	bool ok;

	if (root == NULL)
		return false;
	ok = sup_stream_read(root, (enum format_id)sup_reply_sup(r)->pool->hello.format, st, why, why_bytes);
	json_decref(root);
	return ok;
}

void
sup_api_start(struct sup_reply *r)
{
	struct sup *sup = sup_reply_sup(r);
	struct sup_stream st = { 0 };
	struct sup_session *s, *old;
	char why[WHY_BYTES] = "out of memory", message[WHY_BYTES + 64], id[SUP_ID_BYTES_MAX];
	const char *impossible;

	if (!pool_is_ready(&r))
		return;
	if (!read_start(r, &st, why, sizeof(why))) {
		snprintf(message, sizeof(message), "Error starting stream: %s", why);
		refuse_start(&r, 400, message);
		goto fini_stream;
	}
	impossible = sup_broker_refusal(sup, &st, &sup->pool->hello);
	if (impossible != NULL) {
		snprintf(message, sizeof(message), "Error starting stream: %s", impossible);
		refuse_start(&r, 400, message);
		goto fini_stream;
	}
	if (sup_session_count_running(sup) >= sup_pool_capacity(sup->pool)) {
		refuse_start(&r, 503, "Pipeline is still in use");
		goto fini_stream;
	}
	old = sup_session_find(sup, st.id);
	if (old != NULL && sup_session_running(old)) {
		refuse_start(&r, 409, "Error starting stream: a stream with this gateway_request_id is running");
		goto fini_stream;
	}
	snprintf(id, sizeof(id), "%s", st.id);
	sup_journal_forget(sup, id);
	if (sup_session_start(sup, &st, &s) < 0) {
		refuse_start(&r, 503, "Error starting stream: out of memory");
		goto fini_stream;
	}
	sup_reply_json(&r, 200, json_pack("{s:s, s:s, s:s, s:o}", "status", "success", "message",
	    "Stream started successfully", "request_id", id, "current_state", sup_status_pipeline(sup)));
fini_stream:
	sup_stream_fini(&st);
}

/* ---- which stream ----------------------------------------------------- */

enum which { WHICH_FOUND, WHICH_NONE, WHICH_UNKNOWN, WHICH_AMBIGUOUS };

/* `id` NULL or "": the only one. Sessions that are over count until a stop was answered. */
static enum which
which_session(struct sup *sup, const char *id, struct sup_session **out)
{
	struct sup_session *s, *over = NULL;
	unsigned running = 0;

	*out = NULL;
	TAILQ_FOREACH(s, &sup->sessions, link) {
		if (!sup_session_over(s)) {
			running++;
			*out = s;
		} else if (!s->acknowledged && over == NULL) {
			over = s;
		}
	}
	if (id != NULL && id[0] != '\0') {
		*out = sup_session_find(sup, id);
		if (*out != NULL)
			return WHICH_FOUND;
		return running == 0 && over == NULL ? WHICH_NONE : WHICH_UNKNOWN;
	}
	if (running > 1)
		return WHICH_AMBIGUOUS;
	if (running == 0)
		*out = over;
	return *out != NULL ? WHICH_FOUND : WHICH_NONE;
}

static void
refuse_which(struct sup_reply **r, enum which which, const char *none)
{
	if (which == WHICH_NONE)
		sup_reply_message(r, 400, none);
	else if (which == WHICH_UNKNOWN)
		sup_reply_message(r, 404, "Unknown stream: none that runs here has this id; nothing was done");
	else
		sup_reply_message(r, 400, "Several streams are running: name one with X-Stream-Id or gateway_request_id");
}

/* ---- params ----------------------------------------------------------- */

static void
refuse_params(struct sup_reply **r, const char *why)
{
	char message[WHY_BYTES + 64];

	snprintf(message, sizeof(message), "Parameter update failed: %s", why);
	sup_reply_message(r, 400, message);
}

void
sup_api_params(struct sup_reply *r)
{
	const char *id = sup_reply_header(r, "X-Stream-Id"), *bad;
	char why[WHY_BYTES], body_id[SUP_ID_BYTES_MAX];
	json_t *params = read_object(r, why, sizeof(why));
	struct sup_session *s;
	struct sup_coerced c;
	enum which which;

	if (params == NULL) {
		refuse_params(&r, why);
		return;
	}
	bad = sup_coerce_params(params, true, &c);
	if (bad != NULL) {
		refuse_params(&r, bad);
		goto put_params;
	}
	if ((id == NULL || id[0] == '\0') && sup_json_text(json_object_get(params, "gateway_request_id")) != NULL) {
		/* an address, not a parameter */
		snprintf(body_id, sizeof(body_id), "%s", json_string_value(json_object_get(params, "gateway_request_id")));
		json_object_del(params, "gateway_request_id");
		id = body_id;
	}
	which = which_session(sup_reply_sup(r), id, &s);
	if (which != WHICH_FOUND)
		refuse_which(&r, which, "No active stream to update");
	else if (!sup_session_running(s))
		sup_reply_message(&r, 400, "No active stream to update");
	else
		sup_update_apply(s, params, r);
put_params:
	json_decref(params);
}

/* ---- stop ------------------------------------------------------------- */

/* Whatever the body is, it is no error; if it is an object with an id, that is the stream. */
static const char *
id_in_body(struct sup_reply *r, char *buf, size_t bytes)
{
	size_t body_bytes;
	const char *body = sup_reply_body(r, &body_bytes);
	json_t *root = body_bytes > 0 ? json_loadb(body, body_bytes, 0, NULL) : NULL;
	const char *id = json_string_value(json_object_get(root, "gateway_request_id"));

	if (id != NULL)
		snprintf(buf, bytes, "%s", id);
	json_decref(root);
	return id != NULL ? buf : NULL;
}

void
sup_api_stop(struct sup_reply *r)
{
	const char *id = sup_reply_header(r, "X-Stream-Id");
	char buf[SUP_ID_BYTES_MAX];
	struct sup_session *s;
	enum which which;

	if (id == NULL || id[0] == '\0')
		id = id_in_body(r, buf, sizeof(buf));
	which = which_session(sup_reply_sup(r), id, &s);
	if (which != WHICH_FOUND && sup_journal_forget(sup_reply_sup(r), id)) {
		sup_reply_message(&r, 200, "Stream stopped successfully");
		return;
	}
	if (which != WHICH_FOUND) {
		refuse_which(&r, which, "No active stream to stop");
		return;
	}
	if (sup_session_over(s)) { /* it ended by itself; this is the first stop after it */
		s->acknowledged = true;
		sup_reply_message(&r, 200, "Stream stopped successfully");
		return;
	}
	s->acknowledged = true;
	sup_reply_when_over(&r, s);
	s->delete_channels = true;
	sup_session_close(s, true, "stop was requested");
}

/* ---- status ----------------------------------------------------------- */

static void
add_client(json_t *o, const struct sup_session *s)
{
	json_object_set_new(o, "client_active", json_boolean(!sup_session_over(s) || !s->acknowledged));
	json_object_set_new(o, "client_running", json_boolean(sup_session_running(s)));
	json_object_set_new(o, "fps", sup_status_fps(s));
	json_object_set_new(o, "current_params", json_pack("{s:s?, s:s?, s:s}", "subscribe_url",
	    s->stream.url[CTL_CHANNEL_SUBSCRIBE], "publish_url", s->stream.url[CTL_CHANNEL_PUBLISH], "gateway_request_id",
	    s->stream.id));
	json_object_set_new(o, "millrace", sup_status_session(s));
}

/* The newest of that id that was stopped and is still remembered; NULL. */
static struct sup_session *
stopped_session(struct sup *sup, const char *id)
{
	struct sup_session *s;

	TAILQ_FOREACH(s, &sup->sessions, link)
		if (id != NULL && strcmp(s->stream.id, id) == 0)
			return s;
	return NULL;
}

void
sup_api_stream_status(struct sup_reply *r)
{
	struct sup *sup = sup_reply_sup(r);
	const char *id = sup_reply_header(r, "X-Stream-Id");
	char buf[SUP_ID_BYTES_MAX];
	struct sup_session *s;
	enum which which;
	json_t *o;

	if (id == NULL || id[0] == '\0')
		id = sup_reply_query(r, "gateway_request_id", buf, sizeof(buf));
	if (id == NULL || id[0] == '\0')
		id = sup_reply_query(r, "stream_id", buf, sizeof(buf));
	which = which_session(sup, id, &s);
	if (which != WHICH_FOUND) {
		s = stopped_session(sup, id);
		which = s != NULL ? WHICH_FOUND : which;
	}
	if (which == WHICH_UNKNOWN || (which == WHICH_NONE && id != NULL && id[0] != '\0')) {
		sup_reply_message(&r, 404, "Unknown stream: none that runs here has this id");
		return;
	}
	o = sup_status_pipeline(sup);
	if (which == WHICH_FOUND) {
		add_client(o, s);
	} else {
		/* none, or several: then the list says what there is, and the id chooses */
		json_t *list = json_array();

		json_object_set_new(o, "client_active", json_boolean(which == WHICH_AMBIGUOUS));
		TAILQ_FOREACH(s, &sup->sessions, link)
			if (!sup_session_over(s))
				json_array_append_new(list, sup_status_session_brief(s));
		json_object_set_new(o, "millrace", json_pack("{s:o, s:o}", "sessions", list, "journal", sup_journal_json(sup)));
	}
	sup_reply_json(&r, 200, o);
}

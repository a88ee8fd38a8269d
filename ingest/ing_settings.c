/* SPDX-License-Identifier: MIT */
/*
 * The session text (proto/session_text.md)
 *
 * The supervisor writes it from what a client sent, after its own checks; ingest checks again what it will use: types,
 * ranges, the format's geometry. URLs are left to the trickle client, which takes http and https only.
 */
#include "ingest/ing.h"

#include "base/clock.h"
#include "proto/format.h"

#include <jansson.h>

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE_DEFAULT = 512, RATE_DEFAULT = 24, RATE_MAX = 1000, GRACE_DEFAULT_MS = 10000, GRACE_MAX_MS = 3600 * 1000 };

struct reader {
	json_t *object;
	char *why;
	size_t why_bytes;
	bool bad;
};

static void __attribute__((format(printf, 2, 3)))
complain(struct reader *r, const char *format, ...)
{
	va_list args;

	if (r->bad)
		return; /* the first one counts */
	r->bad = true;
	va_start(args, format);
	vsnprintf(r->why, r->why_bytes, format, args);
	va_end(args);
}

/* NULL: absent or null. */
static json_t *
get(const struct reader *r, const char *key)
{
	json_t *v = json_object_get(r->object, key);

	return json_is_null(v) ? NULL : v;
}

static int64_t
get_int(struct reader *r, const char *key, int64_t fallback, int64_t min, int64_t max)
{
	json_t *v = get(r, key);
	int64_t n;

	if (v == NULL)
		return fallback;
	n = json_integer_value(v);
	if (!json_is_integer(v) || n < min || n > max) {
		complain(r, "%s must be an integer from %lld to %lld", key, (long long)min, (long long)max);
		return fallback;
	}
	return n;
}

static char *
get_text(struct reader *r, const char *key)
{
	json_t *v = get(r, key);

	if (v == NULL)
		return NULL;
	if (!json_is_string(v) || json_string_length(v) == 0 || json_string_length(v) > ING_URL_MAX) {
		complain(r, "%s must be a text of at most %d bytes", key, ING_URL_MAX);
		return NULL;
	}
	return strdup(json_string_value(v));
}

static bool
get_bool(struct reader *r, const char *key)
{
	json_t *v = get(r, key);

	if (v != NULL && !json_is_boolean(v))
		complain(r, "%s must be true or false", key);
	return json_is_true(v);
}

static void
get_resume(struct reader *r, struct ing_flow_config *flow)
{
	struct reader sub = { .object = get(r, "resume"), .why = r->why, .why_bytes = r->why_bytes };
	const int64_t max = INT64_C(1) << 60;

	if (sub.object == NULL)
		return;
	if (!json_is_object(sub.object)) {
		complain(r, "resume must be an object");
		return;
	}
	flow->ts_offset_ns = get_int(&sub, "ts_offset_ns", 0, -max, max);
	flow->last_pts_ns = get_int(&sub, "last_pts_ns", 0, -max, max);
	flow->elapsed_ns = get_int(&sub, "elapsed_ms", 0, 0, max / CLOCK_MS_NS) * CLOCK_MS_NS;
	/* Nothing had been published: a fresh start. */
	flow->resume = flow->last_pts_ns != 0;
	r->bad = r->bad || sub.bad;
}

static void
get_format(struct reader *r, struct ing_flow_config *flow)
{
	char *name = get_text(r, "format");
	struct format_layout layout;

	flow->format = name != NULL ? format_from_name(name) : FORMAT_RGB24;
	if (flow->format == FORMAT_NONE)
		complain(r, "format is none of rgb24, rgba, bgr24, nv12, i420, rgbf32p");
	else if (!format_video_layout(flow->format, flow->width, flow->height, &layout))
		complain(r, "%s frames cannot be %u x %u", format_name(flow->format), flow->width, flow->height);
	free(name);
}

int
ing_settings_parse(const char *text, size_t bytes, struct ing_settings *out, char *why, size_t why_bytes)
{
	struct reader r = { .object = json_loadb(text, bytes, 0, NULL), .why = why, .why_bytes = why_bytes };
	struct ing_settings s = { 0 };
	int64_t rate;

	if (!json_is_object(r.object))
		complain(&r, "the session text is no JSON object");
	s.subscribe_url = get_text(&r, "subscribe_url");
	s.control_url = get_text(&r, "control_url");
	s.ca_file = get_text(&r, "ca_file");
	s.tls_verify = get_bool(&r, "tls_verify");
	s.absent_grace_ns = get_int(&r, "absent_grace_ms", GRACE_DEFAULT_MS, 0, GRACE_MAX_MS) * CLOCK_MS_NS;
	s.flow.width = (uint32_t)get_int(&r, "width", SIDE_DEFAULT, FORMAT_SIDE_MIN, FORMAT_SIDE_MAX);
	s.flow.height = (uint32_t)get_int(&r, "height", SIDE_DEFAULT, FORMAT_SIDE_MIN, FORMAT_SIDE_MAX);
	rate = get_int(&r, "max_framerate", RATE_DEFAULT, 1, INT64_MAX); /* clients may ask for any number */
	s.flow.max_framerate = rate > RATE_MAX ? RATE_MAX : (unsigned)rate;
	get_format(&r, &s.flow);
	get_resume(&r, &s.flow);
	json_decref(r.object);
	if (r.bad) {
		ing_settings_fini(&s);
		return -EINVAL;
	}
	*out = s;
	return 0;
}

void
ing_settings_fini(struct ing_settings *s)
{
	free(s->subscribe_url);
	free(s->control_url);
	free(s->ca_file);
	memset(s, 0, sizeof(*s));
}

unsigned
ing_params_max_framerate(const char *text, size_t bytes)
{
	json_t *doc = json_loadb(text, bytes, 0, NULL);
	json_t *v = json_object_get(doc, "max_framerate");
	json_int_t n = json_integer_value(v);

	if (!json_is_integer(v) || n < 1)
		n = 0;
	if (n > RATE_MAX)
		n = RATE_MAX;
	json_decref(doc);
	return (unsigned)n;
}

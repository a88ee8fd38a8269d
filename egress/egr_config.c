/* SPDX-License-Identifier: MIT */
/*
 * The session text
 *
 * Written by the supervisor, so a wrong type is a bug of ours and refused; an absent or null key has its default.
 * Numbers are clamped to what the rest of the program can do with them.
 */
#include "egress/egr_config.h"
#include "base/clock.h"
#include "base/err.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "egress/egr_priv.h"

/* Remembers the first thing that is wrong. */
struct reader {
	const json_t *object;
	const char *wrong, *wanted;
};

static const json_t *
get(struct reader *r, const char *key)
{
	const json_t *v = json_object_get(r->object, key);

	return json_is_null(v) ? NULL : v;
}

static void
refuse(struct reader *r, const char *key, const char *wanted)
{
	if (r->wrong == NULL) {
		r->wrong = key;
		r->wanted = wanted;
	}
}

static void
read_string(struct reader *r, const char *key, char **out)
{
	const json_t *v = get(r, key);

	if (v == NULL)
		return;
	if (!json_is_string(v) || (*out = strdup(json_string_value(v))) == NULL)
		refuse(r, key, "a string");
	else if (**out == '\0') {
		free(*out);
		*out = NULL;
	}
}

static int64_t
read_int(struct reader *r, const char *key, int64_t fallback, int64_t min, int64_t max)
{
	const json_t *v = get(r, key);

	if (v == NULL)
		return fallback;
	if (!json_is_integer(v)) {
		refuse(r, key, "an integer");
		return fallback;
	}
	fallback = json_integer_value(v);
	return fallback < min ? min : fallback > max ? max : fallback;
}

static bool
read_bool(struct reader *r, const char *key, bool fallback)
{
	const json_t *v = get(r, key);

	if (v == NULL)
		return fallback;
	if (!json_is_boolean(v)) {
		refuse(r, key, "true or false");
		return fallback;
	}
	return json_is_true(v);
}

static void
read_words(struct reader *r, struct egr_config *c)
{
	static const char *const policies[] = { "passthrough", "hold", "overlay", "drop" };
	const json_t *v = get(r, "fallback");

	c->policy = EGR_POLICY_PASSTHROUGH;
	if (v != NULL) {
		unsigned i = 0;

		while (i < 4 && (!json_is_string(v) || strcmp(json_string_value(v), policies[i]) != 0))
			i++;
		if (i == 4)
			refuse(r, "fallback", "passthrough, hold, overlay or drop");
		else
			c->policy = (enum egr_policy)i;
	}
	c->format = FORMAT_RGB24;
	v = get(r, "format");
	if (v != NULL)
		c->format = json_is_string(v) ? format_from_name(json_string_value(v)) : FORMAT_NONE;
	if (c->format == FORMAT_NONE)
		refuse(r, "format", "the name of a pixel format");
}

static void
read_resume(struct reader *outer, struct egr_config *c)
{
	struct reader r = { .object = get(outer, "resume") };

	c->resume_video_pts_ns = c->resume_audio_pts_ns = -1;
	if (r.object == NULL)
		return;
	if (!json_is_object(r.object)) {
		refuse(outer, "resume", "an object");
		return;
	}
	c->resumed = true;
	c->resume_video_pts_ns = read_int(&r, "last_out_pts_ns", -1, -1, INT64_MAX / 16);
	c->resume_audio_pts_ns = read_int(&r, "last_out_audio_pts_ns", -1, -1, INT64_MAX / 16);
	c->resume_width = (uint32_t)read_int(&r, "out_width", 0, 0, FORMAT_SIDE_MAX);
	c->resume_height = (uint32_t)read_int(&r, "out_height", 0, 0, FORMAT_SIDE_MAX);
	c->resume_catch_up_ns = read_int(&r, "catch_up_ms", 0, 0, 10000) * CLOCK_MS_NS;
	c->resume_has_audio = read_bool(&r, "has_audio", false);
	c->resume_had_output = read_bool(&r, "had_output", false);
	if (r.wrong != NULL)
		refuse(outer, r.wrong, r.wanted);
}

static void
read_all(struct reader *r, struct egr_config *c)
{
	read_string(r, "id", &c->id);
	read_string(r, "subscribe_url", &c->subscribe_url);
	read_string(r, "publish_url", &c->publish_url);
	read_string(r, "control_url", &c->control_url);
	read_string(r, "events_url", &c->events_url);
	read_string(r, "data_url", &c->data_url);
	read_string(r, "ca_file", &c->ca_file);
	c->width = (uint32_t)read_int(r, "width", 512, FORMAT_SIDE_MIN, FORMAT_SIDE_MAX);
	c->height = (uint32_t)read_int(r, "height", 512, FORMAT_SIDE_MIN, FORMAT_SIDE_MAX);
	c->detect_out_resolution = read_bool(r, "detect_out_resolution", true);
	c->worker_audio = read_bool(r, "worker_audio", false);
	c->tls_verify = read_bool(r, "tls_verify", false);
	c->frame_deadline_ns = read_int(r, "frame_deadline_ms", 100, 1, 60000) * CLOCK_MS_NS;
	c->absent_grace_ns = read_int(r, "absent_grace_ms", 10000, 0, INT32_MAX) * CLOCK_MS_NS;
	read_words(r, c);
	read_resume(r, c);
}

int
egr_config_parse(const char *text, size_t bytes, struct egr_config *out, char *why, size_t why_bytes)
{
	struct egr_config c = { 0 };
	json_error_t error;
	json_t *root = json_loadb(text, bytes, 0, &error);
	struct reader r = { .object = root };

	if (root == NULL) {
		snprintf(why, why_bytes, "session text is not JSON: %s at byte %d", error.text, error.position);
		return err_origin(-EINVAL);
	}
	if (json_is_object(root))
		read_all(&r, &c);
	else
		refuse(&r, "session text", "an object");
	if (r.wrong != NULL)
		snprintf(why, why_bytes, "%s must be %s", r.wrong, r.wanted);
	json_decref(root);
	if (r.wrong != NULL) {
		egr_config_fini(&c);
		return err_origin(-EINVAL);
	}
	*out = c;
	return 0;
}

void
egr_config_fini(struct egr_config *c)
{
	free(c->id);
	free(c->subscribe_url);
	free(c->publish_url);
	free(c->control_url);
	free(c->events_url);
	free(c->data_url);
	free(c->ca_file);
	memset(c, 0, sizeof(*c));
}

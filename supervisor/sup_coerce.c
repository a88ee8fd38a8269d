/* SPDX-License-Identifier: MIT */
/*
 * Coercion
 *
 * The texts are PyTrickle's, because clients show them. The bounds of a side are ours: a frame must fit a ring slot.
 */
#include "supervisor/sup_coerce.h"

#include "base/assert.h"
#include "proto/format.h"
#include "supervisor/sup_json.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "supervisor/sup_priv.h"

/* " +1_000 " and so on; never hexadecimal, never "1920.5". */
static bool
int_from_text(const char *text, int64_t *out)
{
	char digits[32];
	size_t n = 0;

	while (isspace((unsigned char)*text))
		text++;
	if (*text == '+' || *text == '-')
		digits[n++] = *text++;
	if (!isdigit((unsigned char)*text))
		return false;
	for (; isdigit((unsigned char)*text) || (*text == '_' && isdigit((unsigned char)text[1])); text++) {
		if (*text == '_')
			continue;
		if (n == sizeof(digits) - 1)
			return false;
		digits[n++] = *text;
	}
	digits[n] = '\0';
	while (isspace((unsigned char)*text))
		text++;
	errno = 0;
	*out = strtoll(digits, NULL, 10);
	return *text == '\0' && errno == 0;
}

bool
sup_coerce_int(const json_t *value, int64_t *out)
{
	if (json_is_integer(value)) {
		*out = json_integer_value(value);
		return true;
	}
	if (json_is_boolean(value)) {
		*out = json_is_true(value);
		return true;
	}
	if (json_is_real(value)) {
		double v = json_real_value(value);

		if (!(v > -9.2e18 && v < 9.2e18))
			return false;
		*out = (int64_t)v;
		return true;
	}
	return sup_json_text(value) != NULL && int_from_text(sup_json_text(value), out);
}

static bool
set_int(json_t *params, const char *key, int64_t v)
{
	return json_object_set_new(params, key, json_integer((json_int_t)v)) == 0;
}

static const char *
coerce_size(json_t *params, struct sup_coerced *out)
{
	const json_t *w = json_object_get(params, "width"), *h = json_object_get(params, "height");
	int64_t width, height;

	if (w == NULL && h == NULL)
		return NULL;
	if (w == NULL || h == NULL)
		return "Both 'width' and 'height' must be provided together";
	if (!sup_coerce_int(w, &width) || !sup_coerce_int(h, &height) || width <= 0 || height <= 0)
		return "Width and height must be valid integers or integer strings";
	if (width < FORMAT_SIDE_MIN || width > FORMAT_SIDE_MAX || height < FORMAT_SIDE_MIN || height > FORMAT_SIDE_MAX)
		return "Width and height must be between 16 and 8192";
	out->has_size = true;
	out->width = (uint32_t)width;
	out->height = (uint32_t)height;
	return set_int(params, "width", width) && set_int(params, "height", height) ? NULL : "out of memory";
}

static const char *
coerce_framerate(json_t *params, bool limit, struct sup_coerced *out)
{
	const json_t *v = json_object_get(params, "max_framerate");
	int64_t rate;

	if (v == NULL)
		return NULL;
	if (!sup_coerce_int(v, &rate))
		return "max_framerate must be a valid integer";
	if (rate <= 0)
		return "max_framerate must be a positive integer";
	if (rate > SUP_FRAMERATE_MAX && limit)
		return "max_framerate cannot exceed 60 FPS";
	if (rate > SUP_FRAMERATE_MAX)
		rate = SUP_FRAMERATE_MAX;
	out->has_framerate = true;
	out->framerate = (uint32_t)rate;
	return set_int(params, "max_framerate", rate) ? NULL : "out of memory";
}

static bool
bool_from_text(const char *text, bool *out)
{
	static const char *const yes[] = { "true", "1", "yes" }, *const no[] = { "false", "0", "no" };

	for (int i = 0; i < 3; i++)
		if (strcasecmp(text, yes[i]) == 0 || strcasecmp(text, no[i]) == 0) {
			*out = strcasecmp(text, yes[i]) == 0;
			return true;
		}
	return false;
}

static const char *
coerce_detect(json_t *params, struct sup_coerced *out)
{
	const json_t *v = json_object_get(params, "detect_out_resolution");

	if (v == NULL)
		return NULL;
	if (json_is_boolean(v))
		out->detect = json_is_true(v);
	else if (json_is_integer(v))
		out->detect = json_integer_value(v) != 0;
	else if (sup_json_text(v) == NULL || !bool_from_text(sup_json_text(v), &out->detect))
		return "detect_out_resolution must be a boolean value";
	out->has_detect = true;
	return json_object_set_new(params, "detect_out_resolution", json_boolean(out->detect)) == 0 ? NULL : "out of memory";
}

const char *
sup_coerce_params(json_t *params, bool limit_framerate, struct sup_coerced *out)
{
	const json_t *loading = json_object_get(params, "show_loading");
	const char *why;

	MR_ASSERT(json_is_object(params));
	memset(out, 0, sizeof(*out));
	why = coerce_size(params, out);
	if (why == NULL)
		why = coerce_framerate(params, limit_framerate, out);
	if (why == NULL)
		why = coerce_detect(params, out);
	if (why != NULL || loading == NULL)
		return why;
	out->has_loading = true;
	out->loading = json_is_true(loading) || (json_is_string(loading) && strcasecmp(json_string_value(loading), "true") == 0);
	return NULL;
}

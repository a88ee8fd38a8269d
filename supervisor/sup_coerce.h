/* SPDX-License-Identifier: MIT */
/* The rules for parameters that PyTrickle's clients rely on: which values are taken for a number or a bool. */
#ifndef MR_SUP_COERCE_H
#define MR_SUP_COERCE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

enum { SUP_FRAMERATE_DEFAULT = 24, SUP_FRAMERATE_MAX = 60, SUP_SIDE_DEFAULT = 512 };

struct sup_coerced { /* what is for us; absent: unchanged */
	bool has_size, has_framerate, has_detect, has_loading;
	uint32_t width, height, framerate;
	bool detect, loading;
};

/*
 * Checks and replaces in `params` (an object): width, height, max_framerate, detect_out_resolution. Everything else
 * passes. `limit_framerate`: refuse more than SUP_FRAMERATE_MAX; else it is taken for SUP_FRAMERATE_MAX.
 * NULL: fine, *out is set. Otherwise why not, for the client.
 */
const char *sup_coerce_params(json_t *params, bool limit_framerate, struct sup_coerced *out);

/* As Python's int(): integers, floats (truncated), bools, strings of digits with blanks around, a sign and single
 * underscores. false: not a number, or beyond 64 bits. */
bool sup_coerce_int(const json_t *value, int64_t *out);

#endif

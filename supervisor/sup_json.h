/* SPDX-License-Identifier: MIT */
/*
 * JSON of clients, which may say more than jansson can hold
 *
 * Numbers beyond 64 bits (or beyond a double), and strings with \u0000, are carried through unchanged: what
 * sup_json_dump() writes has their digits. In between such a number is a string that begins with U+0000, so that nothing
 * here takes it for a number or a text.
 */
#ifndef MR_SUP_JSON_H
#define MR_SUP_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* A tree of more would hold up the loop, and with it everybody's /health, for longer than a moment. */
enum { SUP_JSON_DEPTH_MAX = 32, SUP_JSON_VALUES_MAX = 50000 };

/* As json_loadb(), and NULL for a document that exceeds these limits; the caller decrefs. `err` may be NULL. */
json_t *sup_json_load(const char *text, size_t bytes, json_error_t *err);
/* As json_dumps(); the caller frees. */
char *sup_json_dump(const json_t *json, size_t flags);
/* The value of a string without U+0000; NULL: it is none. */
const char *sup_json_text(const json_t *json);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * JSON of clients: a detour around jansson's limits
 *
 * Before jansson reads a document, each number that it would refuse becomes a string with the mark "\u0000n" in front of
 * its digits, and each string that begins with \u0000 gets the mark "\u0000s", so that the first kind cannot be forged.
 * After jansson has written one, the marks go away again. Documents without either, which is nearly all, are not touched.
 * Both walks look at text outside and inside of strings and at nothing else; what is no JSON stays none. Keys with
 * U+0000 and unpaired surrogates are beyond jansson and refused.
 */
#include "supervisor/sup_json.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "supervisor/sup_priv.h"

#define NUL_ESCAPE "\\u0000"
enum { NUL_ESCAPE_BYTES = 6, MARK_BYTES = NUL_ESCAPE_BYTES + 1, DIGITS_SURE = 18 };

/* From the opening quote to behind the closing one, or to the end. */
static const char *
string_end(const char *s, const char *end)
{
	for (s++; s < end && *s != '"'; s++)
		if (*s == '\\' && s + 1 < end)
			s++;
	return s < end ? s + 1 : end;
}

static const char *
digits_end(const char *s, const char *end)
{
	while (s < end && isdigit((unsigned char)*s))
		s++;
	return s;
}

/* The end of the number at `s` as the grammar of JSON has it; NULL: there is none. */
static const char *
number_end(const char *s, const char *end, bool *real)
{
	const char *first, *t;

	*real = false;
	s += s < end && *s == '-';
	first = s;
	s = digits_end(s, end);
	if (s == first || (*first == '0' && s - first > 1))
		return NULL;
	if (s < end && *s == '.') {
		t = digits_end(s + 1, end);
		if (t == s + 1)
			return NULL;
		*real = true;
		s = t;
	}
	if (s < end && (*s == 'e' || *s == 'E')) {
		s++;
		s += s < end && (*s == '+' || *s == '-');
		t = digits_end(s, end);
		if (t == s)
			return NULL;
		*real = true;
		s = t;
	}
	return s;
}

/* jansson cannot hold it. */
static bool
is_beyond(const char *s, const char *end, bool real)
{
	size_t bytes = (size_t)(end - s);
	char *copy;
	bool beyond;

	if (!real && bytes <= DIGITS_SURE)
		return false;
	copy = strndup(s, bytes);
	if (copy == NULL)
		return false; /* then it is refused */
	errno = 0;
	if (real) {
		beyond = isinf(strtod(copy, NULL));
	} else {
		strtoll(copy, NULL, 10);
		beyond = errno == ERANGE;
	}
	free(copy);
	return beyond;
}

/* Copies the text to `out`, marked; returns how many marks there are. `out` NULL: only counts. */
static size_t
mark(const char *s, const char *end, FILE *out)
{
	size_t marks = 0;

	while (s < end) {
		const char *token = s;
		bool real, marked;

		if (*s == '"') {
			s = string_end(s, end);
			marked = s - token > MARK_BYTES && memcmp(token + 1, NUL_ESCAPE, NUL_ESCAPE_BYTES) == 0;
			if (out != NULL && marked) {
				fputs("\"" NUL_ESCAPE "s", out);
				fwrite(token + 1, 1, (size_t)(s - token - 1), out);
			}
		} else if (*s == '-' || isdigit((unsigned char)*s)) {
			const char *after = number_end(s, end, &real);

			s = after != NULL ? after : s + 1;
			marked = after != NULL && is_beyond(token, after, real);
			if (out != NULL && marked)
				fprintf(out, "\"" NUL_ESCAPE "n%.*s\"", (int)(s - token), token);
		} else {
			s++;
			marked = false;
		}
		marks += marked;
		if (out != NULL && !marked)
			fwrite(token, 1, (size_t)(s - token), out);
	}
	return marks;
}

/* What is wrong with the shape of a document, before anything is allocated for it; NULL: nothing. */
static const char *
shape_wrong(const char *s, const char *end)
{
	unsigned depth = 0, values = 0;

	while (s < end) {
		if (*s == '"') {
			s = string_end(s, end);
			continue;
		}
		if (*s == '[' || *s == '{') {
			depth++;
			values++;
		} else if (*s == ']' || *s == '}') {
			depth -= depth > 0;
		} else if (*s == ',') {
			values++;
		}
		if (depth > SUP_JSON_DEPTH_MAX)
			return "nested deeper than 32 levels";
		if (values > SUP_JSON_VALUES_MAX)
			return "more than 50000 values";
		s++;
	}
	return NULL;
}

json_t *
sup_json_load(const char *text, size_t bytes, json_error_t *err)
{
	const char *end = text + bytes, *wrong = shape_wrong(text, end);
	size_t marked_bytes = 0;
	char *marked = NULL;
	json_t *json = NULL;
	FILE *out;

	if (wrong != NULL) {
		if (err != NULL) {
			memset(err, 0, sizeof(*err));
			snprintf(err->text, sizeof(err->text), "%s", wrong);
		}
		return NULL;
	}
	if (mark(text, end, NULL) == 0)
		return json_loadb(text, bytes, JSON_ALLOW_NUL, err);
	out = open_memstream(&marked, &marked_bytes);
	if (out != NULL) {
		mark(text, end, out);
		if (fclose(out) == 0)
			json = json_loadb(marked, marked_bytes, JSON_ALLOW_NUL, err);
	}
	if (marked == NULL && err != NULL)
		snprintf(err->text, sizeof(err->text), "out of memory");
	free(marked);
	return json;
}

char *
sup_json_dump(const json_t *json, size_t flags)
{
	char *text = json_dumps(json, flags), *to;
	const char *s, *end;

	if (text == NULL || strstr(text, "\"" NUL_ESCAPE) == NULL)
		return text;
	end = text + strlen(text);
	for (s = to = text; s < end;) {
		const char *token = s;
		size_t skip = 0, less = 0;

		s = *s == '"' ? string_end(s, end) : s + 1;
		if (*token == '"' && s - token > MARK_BYTES && memcmp(token + 1, NUL_ESCAPE, NUL_ESCAPE_BYTES) == 0 &&
		    (token[MARK_BYTES] == 'n' || token[MARK_BYTES] == 's')) {
			skip = 1 + MARK_BYTES;
			if (token[MARK_BYTES] == 's')
				*to++ = '"';
			else
				less = 1; /* the closing quote */
		}
		memmove(to, token + skip, (size_t)(s - token) - skip - less);
		to += (size_t)(s - token) - skip - less;
	}
	*to = '\0';
	return text;
}

const char *
sup_json_text(const json_t *json)
{
	const char *text = json_string_value(json);

	return text != NULL && strlen(text) == json_string_length(json) ? text : NULL;
}

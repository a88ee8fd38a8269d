/* SPDX-License-Identifier: MIT */
/*
 * Worker SDK: a scanner for JSON, behind mr_param_*()
 *
 * Strict RFC 8259 and UTF-8, one pass, no allocation, no recursion, nesting up to DEPTH_MAX. It does not build anything:
 * it walks over the whole text and remembers where the value of one member of the outermost object lies. The text is
 * input: every step is bounded by `end`, and a text that is not a JSON object is an error, never a partial result.
 */
#include "sdk_priv.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 64 };

struct scan {
	const unsigned char *p, *end;
};

enum value_kind { VALUE_NONE, VALUE_NULL, VALUE_BOOL, VALUE_NUMBER, VALUE_STRING, VALUE_NESTED };

struct value {
	enum value_kind kind;
	const unsigned char *at; /* its first byte; at least one byte follows it in the text */
	const unsigned char *end;
};

/* ---- UTF-8 ------------------------------------------------------------ */

/* Bytes of the sequence at `p`: 1..4; 0: not UTF-8. */
static unsigned
utf8_bytes(const unsigned char *p, const unsigned char *end)
{
	static const uint32_t least[5] = { 0, 0, 0x80, 0x800, 0x10000 };
	unsigned n = *p < 0x80 ? 1 : (*p & 0xe0) == 0xc0 ? 2 : (*p & 0xf0) == 0xe0 ? 3 : (*p & 0xf8) == 0xf0 ? 4 : 0;
	uint32_t c;

	if (n < 2)
		return n;
	if ((size_t)(end - p) < n)
		return 0;
	c = *p & (0x7fu >> n);
	for (unsigned i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3f);
	}
	return c < least[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff) ? 0 : n;
}

bool
sdk_utf8_is_valid(const char *text, size_t bytes)
{
	const unsigned char *p = (const unsigned char *)text, *end = p + bytes;

	while (p < end) {
		unsigned n = utf8_bytes(p, end);

		if (n == 0)
			return false;
		p += n;
	}
	return true;
}

static unsigned
utf8_put(uint32_t c, unsigned char out[4])
{
	if (c < 0x80) {
		out[0] = (unsigned char)c;
		return 1;
	}
	if (c < 0x800) {
		out[0] = (unsigned char)(0xc0 | c >> 6);
		out[1] = (unsigned char)(0x80 | (c & 0x3f));
		return 2;
	}
	if (c < 0x10000) {
		out[0] = (unsigned char)(0xe0 | c >> 12);
		out[1] = (unsigned char)(0x80 | (c >> 6 & 0x3f));
		out[2] = (unsigned char)(0x80 | (c & 0x3f));
		return 3;
	}
	out[0] = (unsigned char)(0xf0 | c >> 18);
	out[1] = (unsigned char)(0x80 | (c >> 12 & 0x3f));
	out[2] = (unsigned char)(0x80 | (c >> 6 & 0x3f));
	out[3] = (unsigned char)(0x80 | (c & 0x3f));
	return 4;
}

/* ---- tokens ----------------------------------------------------------- */

static void
skip_space(struct scan *s)
{
	while (s->p < s->end && (*s->p == ' ' || *s->p == '\t' || *s->p == '\n' || *s->p == '\r'))
		s->p++;
}

static bool
eat(struct scan *s, char c)
{
	if (s->p == s->end || *s->p != (unsigned char)c)
		return false;
	s->p++;
	return true;
}

static bool
is_digit(const struct scan *s)
{
	return s->p < s->end && *s->p >= '0' && *s->p <= '9';
}

static bool
eat_word(struct scan *s, const char *word)
{
	size_t n = strlen(word);

	if ((size_t)(s->end - s->p) < n || memcmp(s->p, word, n) != 0)
		return false;
	s->p += n;
	return true;
}

static bool
eat_digits(struct scan *s)
{
	if (!is_digit(s))
		return false;
	while (is_digit(s))
		s->p++;
	return true;
}

static bool
eat_number(struct scan *s)
{
	eat(s, '-');
	if (!eat(s, '0') && !eat_digits(s))
		return false;
	if (eat(s, '.') && !eat_digits(s))
		return false;
	if (!eat(s, 'e') && !eat(s, 'E'))
		return true;
	if (!eat(s, '+'))
		eat(s, '-');
	return eat_digits(s);
}

static bool
eat_hex4(struct scan *s, uint32_t *out)
{
	uint32_t v = 0;

	if (s->end - s->p < 4)
		return false;
	for (int i = 0; i < 4; i++) {
		unsigned char c = *s->p++;
		unsigned char low = c | 0x20;

		if (c >= '0' && c <= '9')
			v = v << 4 | (uint32_t)(c - '0');
		else if (low >= 'a' && low <= 'f')
			v = v << 4 | (uint32_t)(low - 'a' + 10);
		else
			return false;
	}
	*out = v;
	return true;
}

/* After "\u": one code point, from a pair of surrogates if need be. */
static bool
eat_code_point(struct scan *s, uint32_t *out)
{
	uint32_t low;

	if (!eat_hex4(s, out))
		return false;
	if (*out < 0xd800 || *out > 0xdfff)
		return true;
	if (*out > 0xdbff || !eat_word(s, "\\u") || !eat_hex4(s, &low) || low < 0xdc00 || low > 0xdfff)
		return false;
	*out = 0x10000 + ((*out - 0xd800) << 10) + (low - 0xdc00);
	return true;
}

/* After the opening quote: the next character, unescaped, as UTF-8. Its bytes; 0: the closing quote; -1: invalid. */
static int
eat_char(struct scan *s, unsigned char out[4])
{
	static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
	const char *e;
	uint32_t c;
	unsigned n;

	if (s->p == s->end || *s->p < 0x20)
		return -1;
	if (eat(s, '"'))
		return 0;
	if (!eat(s, '\\')) {
		n = utf8_bytes(s->p, s->end);
		memcpy(out, s->p, n);
		s->p += n;
		return n > 0 ? (int)n : -1;
	}
	if (eat(s, 'u'))
		return eat_code_point(s, &c) ? (int)utf8_put(c, out) : -1;
	if (s->p == s->end || *s->p == '\0' || (e = strchr(escapes, *s->p)) == NULL)
		return -1;
	s->p++;
	out[0] = (unsigned char)meanings[e - escapes];
	return 1;
}

/* A whole string, from its opening quote. *is_key: it equals `key` (may be NULL). */
static bool
eat_string(struct scan *s, const char *key, bool *is_key)
{
	unsigned char c[4];
	int n;

	if (!eat(s, '"'))
		return false;
	*is_key = key != NULL;
	while ((n = eat_char(s, c)) > 0) {
		/* A NUL in the string equals no byte of the key, also not its end. */
		if (*is_key && strncmp(key, (const char *)c, (size_t)n) == 0 && c[0] != '\0')
			key += n;
		else
			*is_key = false;
	}
	*is_key = *is_key && *key == '\0';
	return n == 0;
}

/* ---- values ----------------------------------------------------------- */

static bool
eat_scalar(struct scan *s, enum value_kind *kind)
{
	bool unused;

	if (s->p == s->end)
		return false;
	switch (*s->p) {
	case '"':
		*kind = VALUE_STRING;
		return eat_string(s, NULL, &unused);
	case 't':
		*kind = VALUE_BOOL;
		return eat_word(s, "true");
	case 'f':
		*kind = VALUE_BOOL;
		return eat_word(s, "false");
	case 'n':
		*kind = VALUE_NULL;
		return eat_word(s, "null");
	default:
		*kind = VALUE_NUMBER;
		return eat_number(s);
	}
}

static bool
eat_member_name(struct scan *s, const char *key, bool *is_key)
{
	skip_space(s);
	if (!eat_string(s, key, is_key))
		return false;
	skip_space(s);
	return eat(s, ':');
}

/* What was open ends, as far as it does. false: invalid. *more: another value follows in the innermost one. */
static bool
close_nested(struct scan *s, uint64_t objects, unsigned *depth, bool *more)
{
	*more = false;
	while (*depth > 0) {
		bool object = (objects >> (*depth - 1) & 1) != 0, unused;

		skip_space(s);
		if (eat(s, ',')) {
			*more = true;
			return !object || eat_member_name(s, NULL, &unused);
		}
		if (!eat(s, object ? '}' : ']'))
			return false;
		(*depth)--;
	}
	return true;
}

/* One value of any kind. Nesting is a bit for each level: 1 object, 0 array. */
static bool
eat_value(struct scan *s, enum value_kind *kind)
{
	uint64_t objects = 0;
	unsigned depth = 0;
	bool first = true, more = true, unused;

	while (more) {
		enum value_kind k = VALUE_NESTED;
		bool object;

		skip_space(s);
		object = eat(s, '{');
		if (object || eat(s, '[')) {
			if (depth == DEPTH_MAX - 1) /* the outermost object is not counted here */
				return false;
			objects = (objects & ~(UINT64_C(1) << depth)) | (uint64_t)object << depth;
			depth++;
			skip_space(s);
			if (eat(s, object ? '}' : ']'))
				depth--;
			else if (object && !eat_member_name(s, NULL, &unused))
				return false;
			else {
				*kind = first ? k : *kind;
				first = false;
				continue;
			}
		} else if (!eat_scalar(s, &k)) {
			return false;
		}
		*kind = first ? k : *kind;
		first = false;
		if (!close_nested(s, objects, &depth, &more))
			return false;
	}
	return true;
}

/* Walks over the whole text. false: not a JSON object. Else *found is the last member called `key`; VALUE_NONE: none. */
static bool
find_member(const char *json, size_t bytes, const char *key, struct value *found)
{
	struct scan s = { (const unsigned char *)json, (const unsigned char *)json + bytes };

	found->kind = VALUE_NONE;
	skip_space(&s);
	if (!eat(&s, '{'))
		return false;
	skip_space(&s);
	if (!eat(&s, '}')) {
		do {
			struct value v = { VALUE_NONE, NULL, NULL };
			bool is_key;

			if (!eat_member_name(&s, key, &is_key))
				return false;
			skip_space(&s);
			v.at = s.p;
			if (!eat_value(&s, &v.kind))
				return false;
			v.end = s.p;
			if (is_key)
				*found = v;
			skip_space(&s);
		} while (eat(&s, ','));
		if (!eat(&s, '}'))
			return false;
	}
	skip_space(&s);
	return s.p == s.end;
}

bool
sdk_json_is_object(const char *json, size_t bytes)
{
	struct value unused;

	return find_member(json, bytes, NULL, &unused);
}

bool
sdk_json_is_empty(const char *json, size_t bytes)
{
	struct scan s = { (const unsigned char *)json, (const unsigned char *)json + bytes };

	if (!sdk_json_is_object(json, bytes))
		return false;
	skip_space(&s);
	eat(&s, '{');
	skip_space(&s);
	return eat(&s, '}');
}

/* ---- typed access ----------------------------------------------------- */

static int
get(const char *json, size_t bytes, const char *key, enum value_kind kind, struct value *v)
{
	if (!find_member(json, bytes, key, v))
		return -EBADMSG;
	if (v->kind == VALUE_NONE || v->kind == VALUE_NULL)
		return -ENOENT;
	return v->kind == kind ? 0 : -EINVAL;
}

/* The number is followed by a byte of the text that cannot continue it, at least the closing brace. */
static int
to_double(const struct value *v, double *out)
{
	locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0); /* the application's decimal point is its own */
	int keep = errno;
	double d;

	if (c == (locale_t)0)
		return -ENOMEM;
	d = strtod_l((const char *)v->at, NULL, c);
	freelocale(c);
	errno = keep;
	if (!isfinite(d))
		return -EINVAL;
	*out = d;
	return 0;
}

int
mr_param_number(const char *json, size_t json_bytes, const char *key, double *value)
{
	struct value v;
	int r = get(json, json_bytes, key, VALUE_NUMBER, &v);

	return r < 0 ? r : to_double(&v, value);
}

int
mr_param_integer(const char *json, size_t json_bytes, const char *key, int64_t *value)
{
	struct value v;
	long long whole;
	double d;
	int r = get(json, json_bytes, key, VALUE_NUMBER, &v), keep = errno;

	if (r < 0)
		return r;
	errno = 0;
	whole = strtoll((const char *)v.at, NULL, 10);
	r = errno;
	errno = keep;
	if (memchr(v.at, '.', (size_t)(v.end - v.at)) == NULL && memchr(v.at, 'e', (size_t)(v.end - v.at)) == NULL &&
	    memchr(v.at, 'E', (size_t)(v.end - v.at)) == NULL) {
		if (r != 0)
			return -EINVAL;
		*value = whole;
		return 0;
	}
	r = to_double(&v, &d);
	if (r < 0)
		return r;
	if (d < -9007199254740992.0 || d > 9007199254740992.0 || (double)(int64_t)d != d) /* 2^53: exact up to here */
		return -EINVAL;
	*value = (int64_t)d;
	return 0;
}

int
mr_param_bool(const char *json, size_t json_bytes, const char *key, bool *value)
{
	struct value v;
	int r = get(json, json_bytes, key, VALUE_BOOL, &v);

	if (r < 0)
		return r;
	*value = *v.at == 't';
	return 0;
}

int
mr_param_string(const char *json, size_t json_bytes, const char *key, char *value, size_t value_bytes)
{
	struct value v;
	struct scan s;
	unsigned char c[4];
	size_t len = 0;
	int r = get(json, json_bytes, key, VALUE_STRING, &v), n;

	if (r < 0)
		return r;
	/* First its length, so that a failure leaves *value as it was. */
	s = (struct scan){ v.at + 1, v.end };
	while ((n = eat_char(&s, c)) > 0) {
		if (c[0] == '\0')
			return -EINVAL;
		len += (size_t)n;
	}
	if (len >= value_bytes)
		return -ENAMETOOLONG;
	s = (struct scan){ v.at + 1, v.end };
	while ((n = eat_char(&s, c)) > 0) {
		memcpy(value, c, (size_t)n);
		value += n;
	}
	*value = '\0';
	return 0;
}

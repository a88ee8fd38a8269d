/* SPDX-License-Identifier: MIT */
/* Request targets: split at slashes first, decode the parts afterwards, so that %2F is part of a name. */
#include "tools/relay/relay_route.h"
#include "tools/relay/relay_channel.h"

#include <string.h>
#include <strings.h>

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* In place. false: a broken escape, or one that means NUL. */
static bool
percent_decode(char *text)
{
	char *to = text;

	for (const char *from = text; *from != '\0'; from++) {
		if (*from != '%') {
			*to++ = *from;
			continue;
		}
		int high = hex_digit(from[1]);
		int low = high == -1 ? -1 : hex_digit(from[2]);

		if (low == -1 || (high == 0 && low == 0))
			return false;
		*to++ = (char)(high * 16 + low);
		from += 2;
	}
	*to = '\0';
	return true;
}

/* Names are told in logs and JSON, so they have to be text. Overlong forms and surrogates are let through. */
static bool
is_utf8(const char *text)
{
	unsigned more = 0; /* continuation bytes to come */

	for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++) {
		if (more > 0) {
			if ((*c & 0xc0) != 0x80)
				return false;
			more--;
		} else if (*c >= 0x80) {
			if (*c < 0xc2 || *c > 0xf4)
				return false;
			more = *c >= 0xf0 ? 3 : *c >= 0xe0 ? 2 : 1;
		}
	}
	return more == 0;
}

/* The path of an absolute URL, or `target` itself. */
static char *
path_of(char *target)
{
	char *slash;

	if (strncasecmp(target, "http://", 7) != 0 && strncasecmp(target, "https://", 8) != 0)
		return target;
	slash = strchr(strchr(target, ':') + 3, '/');
	return slash != NULL ? slash : target;
}

enum relay_route
relay_route_parse(char *target, const char *base, char **name, char **seq)
{
	size_t base_bytes = strlen(base);
	char *path = path_of(target), *slash;

	path[strcspn(path, "?#")] = '\0';
	if (strncmp(path, base, base_bytes) != 0)
		return RELAY_ROUTE_NONE;
	path += base_bytes;
	slash = strchr(path, '/');
	if (slash != NULL) {
		*slash = '\0';
		*seq = slash + 1;
		if (**seq == '\0' || strchr(*seq, '/') != NULL)
			return RELAY_ROUTE_NONE;
		if (!percent_decode(*seq))
			return RELAY_ROUTE_BAD;
	}
	if (*path == '\0')
		return RELAY_ROUTE_NONE;
	if (!percent_decode(path) || strlen(path) > RELAY_NAME_BYTES_MAX || !is_utf8(path))
		return RELAY_ROUTE_BAD;
	*name = path;
	return slash != NULL ? RELAY_ROUTE_SEGMENT : RELAY_ROUTE_CHANNEL;
}

bool
relay_seq_parse(const char *text, int64_t special_min, int64_t *seq)
{
	bool negative = *text == '-';
	int64_t value = 0;

	if (*text == '-' || *text == '+')
		text++;
	if (*text == '\0')
		return false;
	for (; *text != '\0'; text++) {
		if (*text < '0' || *text > '9' || value > (RELAY_SEQ_MAX - 9) / 10)
			return false;
		value = value * 10 + (*text - '0');
	}
	if (negative)
		value = -value;
	if (value < special_min)
		return false;
	*seq = value;
	return true;
}

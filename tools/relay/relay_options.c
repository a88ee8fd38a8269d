/* SPDX-License-Identifier: MIT */
/*
 * The command line: one table for the parser and for --help
 *
 * Times are a number with a unit (250ms, 10s, 5m, 1h), sizes a number with an optional one (64K, 256M, 1G).
 * Where two flavors of server differ in a default, the flavor fills in what was not given.
 */
#include "tools/relay/relay_options.h"
#include "base/clock.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* X(id, option, value's name or NULL, default as text, what it is) */
// clang-format off
#define RELAY_OPTIONS(X)											\
	X(PORT,       "port",          "N",       "2939",      "TCP port; 0 picks a free one")				\
	X(HOST,       "host",          "HOST",    "127.0.0.1", "name or address to listen on; nothing is authenticated")	\
	X(PATH,       "path",          "PATH",    "/",         "base of all URLs")					\
	X(FLAVOR,     "flavor",        "new|old", "new",       "new: as inside go-livepeer; old: as http-trickle")		\
	X(NO_AUTO,    "no-autocreate", NULL,      NULL,        "a POST of a segment does not create its channel")	\
	X(FEED,       "changefeed",    NULL,      NULL,        "tell in channel _changes which channels come and go")	\
	X(IDLE,       "idle-timeout",  "TIME",    "5m",        "close channels without a write for so long")		\
	X(SWEEP,      "sweep-every",   "TIME",    "60s",       "how often to look for them")				\
	X(CONTINUE,   "continue-every","TIME",    "10s",       "100 Continue to a POST that waits for its first byte")	\
	X(KEEPALIVE,  "keepalive",     "TIME",    "10m",       "how long a connection may be idle between requests")	\
	X(READ,       "read-timeout",  "TIME",    NULL,        "of a whole POST; 0: none (new: 0, old: 40s)")		\
	X(WRITE,      "write-timeout", "TIME",    NULL,        "of a whole reply; 0: none (new: 0, old: 45s)")		\
	X(MEMORY,     "memory-max",    "SIZE",    "256M",      "of all segments; beyond it slow readers are cut, then POSTs get 503") \
	X(SEGMENT,    "segment-max",   "SIZE",    "64M",       "of one segment; beyond it its POST gets 413")		\
	X(CHANNELS,   "channels-max",  "N",       "4096",      "beyond it a POST that needs a new channel gets 503")	\
	X(CONNS,      "connections-max", "N",     "16384",     "beyond it new connections wait")			\
	X(HELP,       "help",          NULL,      NULL,        "this text")						\
	X(VERSION,    "version",       NULL,      NULL,        "the version")
// clang-format on

enum option_id {
	OPTION_BEFORE_FIRST = 255,
#define X(id, name, value, fallback, text) OPTION_##id,
	RELAY_OPTIONS(X)
#undef X
};

static void
print_help(void)
{
	static const struct {
		const char *name, *value, *fallback, *text;
	} rows[] = {
#define X(id, name, value, fallback, text) { name, value, fallback, text },
		RELAY_OPTIONS(X)
#undef X
	};

	puts("Usage: millrace relay [OPTION]...\n"
	     "A trickle server: publishers POST segments to URL/CHANNEL/SEQ, subscribers GET them while they\n"
	     "are being written. Prints its URL once it listens.\n");
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char left[40];

		snprintf(left, sizeof(left), "--%s %s", rows[i].name, rows[i].value != NULL ? rows[i].value : "");
		printf("  %-24s %s", left, rows[i].text);
		if (rows[i].fallback != NULL)
			printf(" (%s)", rows[i].fallback);
		putchar('\n');
	}
}

/* A number with one of the units, largest product INT64_MAX. false: not that. */
static bool
parse_with_unit(const char *text, const char *const *units, const int64_t *factors, int64_t *out)
{
	unsigned long long number;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	number = strtoull(text, &end, 10);
	for (int i = 0; units[i] != NULL; i++) {
		if (strcmp(end, units[i]) != 0)
			continue;
		if (number > (unsigned long long)(INT64_MAX / factors[i]))
			return false;
		*out = (int64_t)number * factors[i];
		return true;
	}
	return false;
}

static bool
parse_time(const char *text, int64_t *ns)
{
	static const char *const units[] = { "ms", "s", "m", "h", NULL };
	static const int64_t factors[] = { CLOCK_MS_NS, CLOCK_SEC_NS, 60 * CLOCK_SEC_NS, 3600 * CLOCK_SEC_NS };
	/* A year is for ever, and leaves room for adding it to a clock. */
	const int64_t max_ns = 365 * 24 * 3600 * CLOCK_SEC_NS;

	if (strcmp(text, "0") == 0) {
		*ns = 0;
		return true;
	}
	return parse_with_unit(text, units, factors, ns) && *ns <= max_ns;
}

static bool
parse_positive_time(const char *text, int64_t *ns)
{
	return parse_time(text, ns) && *ns > 0;
}

static bool
parse_size(const char *text, size_t *bytes)
{
	static const char *const units[] = { "", "K", "M", "G", NULL };
	static const int64_t factors[] = { 1, 1024, 1024 * 1024, 1024 * 1024 * 1024 };
	int64_t value;

	if (!parse_with_unit(text, units, factors, &value) || value < 65536)
		return false;
	*bytes = (size_t)value;
	return true;
}

static bool
parse_count(const char *text, int64_t min, int64_t max, int64_t *out)
{
	static const char *const units[] = { "", NULL };
	static const int64_t factors[] = { 1 };

	return parse_with_unit(text, units, factors, out) && *out >= min && *out <= max;
}

static bool
parse_unsigned(const char *text, unsigned *out)
{
	int64_t value;

	if (!parse_count(text, 1, 10000000, &value))
		return false;
	*out = (unsigned)value;
	return true;
}

static bool
parse_port(const char *text, char port[8])
{
	int64_t value;

	if (!parse_count(text, 0, 65535, &value))
		return false;
	snprintf(port, 8, "%d", (int)value);
	return true;
}

/* Slashes are added at both ends. */
static bool
parse_path(const char *text, char *path, size_t path_bytes)
{
	size_t n = strlen(text);
	int r =
	    snprintf(path, path_bytes, "%s%s%s", *text == '/' ? "" : "/", text, n > 0 && text[n - 1] == '/' ? "" : "/");

	if (n == 0)
		r = snprintf(path, path_bytes, "/");
	return r >= 0 && (size_t)r < path_bytes && strpbrk(path, " ?#%") == NULL;
}

static bool
parse_flavor(const char *text, enum relay_flavor *flavor)
{
	if (strcmp(text, "new") != 0 && strcmp(text, "old") != 0)
		return false;
	*flavor = text[0] == 'n' ? RELAY_NEW : RELAY_OLD;
	return true;
}

static bool
option_set(struct relay_options *o, int id, const char *value)
{
	switch (id) {
	case OPTION_PORT:
		return parse_port(value, o->port);
	case OPTION_HOST:
		o->host = value;
		return *value != '\0';
	case OPTION_PATH:
		return parse_path(value, o->path, sizeof(o->path));
	case OPTION_FLAVOR:
		return parse_flavor(value, &o->hub.flavor);
	case OPTION_NO_AUTO:
		o->hub.autocreate = false;
		return true;
	case OPTION_FEED:
		o->hub.changefeed = true;
		return true;
	case OPTION_IDLE:
		return parse_positive_time(value, &o->hub.idle_ns);
	case OPTION_SWEEP:
		return parse_positive_time(value, &o->sweep_ns);
	case OPTION_CONTINUE:
		return parse_positive_time(value, &o->http.continue_ns);
	case OPTION_KEEPALIVE:
		return parse_positive_time(value, &o->http.keepalive_ns);
	case OPTION_READ:
		return parse_time(value, &o->http.read_ns);
	case OPTION_WRITE:
		return parse_time(value, &o->http.write_ns);
	case OPTION_MEMORY:
		return parse_size(value, &o->hub.memory_max_bytes);
	case OPTION_SEGMENT:
		return parse_size(value, &o->hub.segment_max_bytes);
	case OPTION_CHANNELS:
		return parse_unsigned(value, &o->hub.channel_count_max);
	case OPTION_CONNS:
		return parse_unsigned(value, &o->http.conn_count_max);
	default:
		return false;
	}
}

static void
set_defaults(struct relay_options *o)
{
	memset(o, 0, sizeof(*o));
	o->hub.autocreate = true;
	o->http.read_ns = o->http.write_ns = -1;
#define X(id, name, value, fallback, text) \
	if ((fallback) != NULL) \
		option_set(o, OPTION_##id, (fallback));
	RELAY_OPTIONS(X)
#undef X
}

int
relay_options_parse(int argc, char **argv, struct relay_options *o)
{
	static const struct option table[] = {
#define X(id, name, value, fallback, text) \
	{ name, (value) != NULL ? required_argument : no_argument, NULL, OPTION_##id },
		RELAY_OPTIONS(X)
#undef X
		    { NULL, 0, NULL, 0 },
	};
	int id, idx = -1;

	set_defaults(o);
	while ((id = getopt_long(argc, argv, "", table, &idx)) != -1) {
		if (id == '?') /* getopt has said why */
			return RELAY_OPTIONS_BAD;
		if (id == OPTION_HELP || id == OPTION_VERSION) {
			if (id == OPTION_HELP)
				print_help();
			else
				puts("millrace-relay " MR_VERSION);
			return RELAY_OPTIONS_HELP;
		}
		if (!option_set(o, id, optarg)) {
			fprintf(stderr, "millrace relay: \"%s\" is not a value of --%s; see --help\n", optarg,
			    table[idx].name);
			return RELAY_OPTIONS_BAD;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "millrace relay: unexpected argument \"%s\"; see --help\n", argv[optind]);
		return RELAY_OPTIONS_BAD;
	}
	if (o->http.read_ns == -1)
		o->http.read_ns = o->hub.flavor == RELAY_OLD ? 40 * CLOCK_SEC_NS : 0;
	if (o->http.write_ns == -1)
		o->http.write_ns = o->hub.flavor == RELAY_OLD ? 45 * CLOCK_SEC_NS : 0;
	o->http.path = o->path;
	return 0;
}

/* SPDX-License-Identifier: MIT */
/*
 * Settings: one table, four sources
 *
 * Every value goes through set_value() as text, whatever its source, so that a range is checked in one place and an
 * error always names the source. A later source overrides an earlier one; the order of reading is therefore
 * defaults, file, environment, command line, with --config looked up first.
 */
#include "supervisor/sup_config.h"

#include "base/assert.h"
#include "base/fd.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "supervisor/sup_priv.h"

enum param_type { TYPE_INT, TYPE_MS, TYPE_BOOL, TYPE_STR };
enum { CONFIG_FILE_BYTES_MAX = 1 << 20, TOKEN_BYTES_MAX = 4096 };

struct param {
	const char *flag;
	enum param_type type;
	int64_t least, most;
	const char *def, *unit, *text;
	size_t offset;
};

static const struct param params[] = {
#define X(field, flag, type, least, most, def, unit, text) \
	{ flag, TYPE_##type, least, most, def, unit, text, offsetof(struct sup_config, field) },
	SUP_PARAMS(X)
#undef X
};

enum { PARAM_COUNT = sizeof(params) / sizeof(params[0]) };

struct loading {
	struct sup_config *c;
	char *err;
	size_t err_bytes;
};

static bool
fail(struct loading *l, const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool
fail(struct loading *l, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(l->err, l->err_bytes, format, args);
	va_end(args);
	return false;
}

bool
sup_config_parse_ms(const char *text, int64_t *out)
{
	static const struct {
		const char *unit;
		double ms;
	} units[] = { { "", 1 }, { "ms", 1 }, { "s", 1e3 }, { "m", 60e3 }, { "h", 3600e3 } };
	char *end;
	double v;

	if (!isdigit((unsigned char)text[0]))
		return false;
	errno = 0;
	v = strtod(text, &end);
	if (errno != 0 || end == text)
		return false;
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (strcmp(end, units[i].unit) == 0 && v * units[i].ms < 1e15) {
			*out = (int64_t)(v * units[i].ms + 0.5);
			return true;
		}
	return false;
}

static bool
parse_int(const char *text, int64_t *out)
{
	char *end;

	errno = 0;
	*out = strtoll(text, &end, 10);
	return errno == 0 && end != text && *end == '\0';
}

static bool
parse_bool(const char *text, bool *out)
{
	static const char *const yes[] = { "true", "on", "yes", "1" }, *const no[] = { "false", "off", "no", "0" };

	for (int i = 0; i < 4; i++) {
		if (strcmp(text, yes[i]) == 0 || strcmp(text, no[i]) == 0) {
			*out = strcmp(text, yes[i]) == 0;
			return true;
		}
	}
	return false;
}

/* `source` is how the user wrote it: "--port", "MILLRACE_PORT", "port in the configuration file". */
static bool
set_value(struct loading *l, const struct param *p, const char *text, const char *source)
{
	void *field = (char *)l->c + p->offset;
	int64_t v = 0;

	switch (p->type) {
	case TYPE_STR: {
		char *copy = strdup(text);

		if (copy == NULL)
			return fail(l, "out of memory");
		free(*(char **)field);
		*(char **)field = copy;
		return true;
	}
	case TYPE_BOOL:
		if (!parse_bool(text, field))
			return fail(l, "%s: \"%s\" is neither on nor off", source, text);
		return true;
	case TYPE_INT:
		if (!parse_int(text, &v))
			return fail(l, "%s: \"%s\" is not a whole number", source, text);
		break;
	case TYPE_MS:
		if (!sup_config_parse_ms(text, &v))
			return fail(l, "%s: \"%s\" is not a duration such as 2s or 100ms", source, text);
		break;
	}
	if ((p->least != 0 || p->most != 0) && (v < p->least || v > p->most))
		return fail(l, "%s: %s is not in the range %lld to %lld%s", source, text, (long long)p->least,
		    (long long)p->most, p->type == TYPE_MS ? " ms" : "");
	*(int64_t *)field = v;
	return true;
}

static const struct param *
param_find(const char *name, size_t bytes)
{
	for (int i = 0; i < PARAM_COUNT; i++)
		if (strlen(params[i].flag) == bytes && strncmp(params[i].flag, name, bytes) == 0)
			return &params[i];
	return NULL;
}

static void
key_of(const struct param *p, const char *prefix, bool upper, char *out, size_t bytes)
{
	snprintf(out, bytes, "%s%s", prefix, p->flag);
	for (char *c = out + strlen(prefix); *c != '\0'; c++)
		*c = *c == '-' ? '_' : upper ? (char)toupper((unsigned char)*c) : *c;
}

static bool
load_file_value(struct loading *l, const char *key, const json_t *v)
{
	char flag[64], source[160], number[64];
	const struct param *p;
	const char *text = number;

	snprintf(flag, sizeof(flag), "%s", key);
	for (char *c = flag; *c != '\0'; c++)
		*c = *c == '_' ? '-' : *c;
	snprintf(source, sizeof(source), "\"%.60s\" in the configuration file", key);
	p = param_find(flag, strlen(flag));
	if (p == NULL || strcmp(flag, "config") == 0)
		return fail(l, "%s: there is no such setting; `millrace serve --help` lists them", source);
	if (json_is_string(v))
		text = json_string_value(v);
	else if (json_is_boolean(v))
		text = json_is_true(v) ? "true" : "false";
	else if (json_is_integer(v))
		snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(v));
	else
		return fail(l, "%s: must be a string, a whole number, true or false", source);
	return set_value(l, p, text, source);
}

static bool
load_file(struct loading *l, const char *path)
{
	json_error_t jerr;
	json_t *root = NULL, *v;
	const char *key;
	char *data = NULL;
	size_t bytes;
	bool ok = false;
	int r, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd == -1)
		return fail(l, "--config %s: %s", path, strerror(errno));
	r = fd_read_whole(fd, CONFIG_FILE_BYTES_MAX, &data, &bytes);
	fd_close(&fd);
	if (r < 0)
		return fail(l, "--config %s: %s", path, strerror(-r));
	root = json_loadb(data, bytes, 0, &jerr);
	free(data);
	if (!json_is_object(root)) {
		fail(l, "--config %s: must be one JSON object%s%s", path, root == NULL ? ": " : "",
		    root == NULL ? jerr.text : "");
		goto put_root;
	}
	json_object_foreach(root, key, v)
		if (!load_file_value(l, key, v))
			goto put_root;
	ok = true;
put_root:
	json_decref(root);
	return ok;
}

static bool
load_env(struct loading *l)
{
	char name[80];

	for (int i = 0; i < PARAM_COUNT; i++) {
		const char *v;

		key_of(&params[i], "MILLRACE_", true, name, sizeof(name));
		v = getenv(name);
		if (v != NULL && !set_value(l, &params[i], v, name))
			return false;
	}
	return true;
}

/* One argument at argv[*i]; takes its value too. With `only` set, all others are skipped. */
static bool
load_arg(struct loading *l, int argc, char **argv, int *i, const char *only)
{
	const char *arg = argv[*i], *value = strchr(arg, '=');
	const struct param *p = NULL;
	char source[80];

	if (strncmp(arg, "--", 2) == 0)
		p = param_find(arg + 2, strcspn(arg + 2, "="));
	if (p == NULL)
		return fail(l, "%s: there is no such option; `millrace serve --help` lists them", arg);
	if (value != NULL)
		value++;
	else if (p->type == TYPE_BOOL)
		value = "true";
	else if (++*i < argc)
		value = argv[*i];
	else
		return fail(l, "%s: a value is missing (%s)", arg, p->unit);
	if (only != NULL && strcmp(p->flag, only) != 0)
		return true;
	snprintf(source, sizeof(source), "--%s", p->flag);
	return set_value(l, p, value, source);
}

static bool
load_args(struct loading *l, int argc, char **argv, const char *only)
{
	for (int i = 1; i < argc; i++)
		if (!load_arg(l, argc, argv, &i, only))
			return false;
	return true;
}

static void
print_help(void)
{
	char name[80];

	printf("millrace serve: put live streams through a worker\n\n"
	       "usage: millrace serve --worker COMMAND [options]\n\n"
	       "Each option can also be set by an environment variable, or by a key in the file of --config\n"
	       "(its name with _ for -). The command line comes first, then the environment, then the file.\n\n");
	for (int i = 0; i < PARAM_COUNT; i++) {
		const struct param *p = &params[i];

		key_of(p, "MILLRACE_", true, name, sizeof(name));
		printf("  --%s%s%s\n        %s.\n        %s", p->flag, p->type == TYPE_BOOL ? "" : " ", p->unit, p->text, name);
		if (p->def[0] != '\0')
			printf(", default %s", p->def);
		if (p->most != 0)
			printf(", %lld to %lld%s", (long long)p->least, (long long)p->most, p->type == TYPE_MS ? " ms" : "");
		printf("\n");
	}
	printf("  --help, --version\n");
}

static bool
is_loopback(const char *host)
{
	return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 || strcmp(host, "localhost") == 0;
}

static bool
load_token(struct loading *l)
{
	struct sup_config *c = l->c;
	size_t bytes;
	int r, fd;

	if (c->auth_token_file[0] == '\0')
		return true;
	fd = open(c->auth_token_file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	r = fd == -1 ? -errno : fd_read_whole(fd, TOKEN_BYTES_MAX, &c->token, &bytes);
	fd_close(&fd);
	if (r < 0)
		return fail(l, "--auth-token-file %s: %s", c->auth_token_file, strerror(-r));
	c->token[strcspn(c->token, "\r\n")] = '\0';
	if (c->token[0] == '\0')
		return fail(l, "--auth-token-file %s: the file is empty; put the token on its first line", c->auth_token_file);
	return true;
}

static bool
one_of(const char *value, const char *const *words)
{
	for (; *words != NULL; words++)
		if (strcmp(value, *words) == 0)
			return true;
	return false;
}

static bool
check(struct loading *l)
{
	static const char *const fallbacks[] = { "passthrough", "hold", "overlay", "drop", NULL };
	static const char *const sandboxes[] = { "off", "default", NULL };
	static const char *const formats[] = { "text", "json", NULL };
	struct sup_config *c = l->c;

	if (!one_of(c->fallback, fallbacks))
		return fail(l, "--fallback: \"%s\" is none of passthrough, hold, overlay, drop", c->fallback);
	if (strcmp(c->sandbox, "strict") == 0)
		return fail(l, "--sandbox strict is not there yet: run millrace in a container, and use --sandbox default");
	if (!one_of(c->sandbox, sandboxes))
		return fail(l, "--sandbox: \"%s\" is none of off, default", c->sandbox);
	if (!one_of(c->log_format, formats))
		return fail(l, "--log-format: \"%s\" is neither text nor json", c->log_format);
	c->tls_verify_on = strcmp(c->tls_verify, "off") != 0;
	c->tls_ca_file = c->tls_verify_on && strcmp(c->tls_verify, "on") != 0 ? c->tls_verify : NULL;
	if (c->tls_ca_file != NULL && access(c->tls_ca_file, R_OK) == -1)
		return fail(l, "--tls-verify %s: %s (on, off, or a CA bundle that can be read)", c->tls_ca_file,
		    strerror(errno));
	if (c->worker[0] == '\0')
		return fail(l, "--worker is missing: the command that starts the worker, for example --worker green-tint");
	if (!load_token(l))
		return false;
	if (!is_loopback(c->host) && c->token == NULL && !c->insecure_no_auth)
		return fail(l, "--host %s can be reached by others: give a token with --auth-token-file, or allow everybody with "
		    "--insecure-no-auth", c->host);
	return true;
}

static bool
load_defaults(struct loading *l)
{
	for (int i = 0; i < PARAM_COUNT; i++)
		if (!set_value(l, &params[i], params[i].def, params[i].flag))
			return false;
	return true;
}

enum sup_config_result
sup_config_load(struct sup_config *c, int argc, char **argv, char *err, size_t err_bytes)
{
	struct loading l = { .c = c, .err = err, .err_bytes = err_bytes };

	memset(c, 0, sizeof(*c));
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			print_help();
			return SUP_CONFIG_HELP;
		}
		if (strcmp(argv[i], "--version") == 0 || strcmp(argv[i], "-V") == 0) {
			printf("millrace-supervisor %s\n", MR_VERSION);
			return SUP_CONFIG_HELP;
		}
	}
	if (!load_defaults(&l) || !load_env(&l) || !load_args(&l, argc, argv, "config"))
		return SUP_CONFIG_BAD;
	if (c->config[0] != '\0') {
		if (!load_file(&l, c->config) || !load_env(&l))
			return SUP_CONFIG_BAD;
	}
	if (!load_args(&l, argc, argv, NULL) || !check(&l))
		return SUP_CONFIG_BAD;
	return SUP_CONFIG_OK;
}

void
sup_config_fini(struct sup_config *c)
{
	for (int i = 0; i < PARAM_COUNT; i++)
		if (params[i].type == TYPE_STR) {
			char **field = (char **)((char *)c + params[i].offset);

			free(*field);
			*field = NULL;
		}
	free(c->token);
	c->token = NULL;
}

/* SPDX-License-Identifier: MIT */
/*
 * What of our environment a child sees
 *
 * Nothing that is not in these lists: the environment of a service often holds secrets (ORCH_SECRET, cloud
 * credentials), and a worker is somebody else's code. The operator adds names with --worker-env.
 */
#include "supervisor/sup_env.h"

#include "base/assert.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "supervisor/sup_priv.h"

enum { ENV_MAX = 128 };

static const char *const for_all[] = { "PATH", "LANG", "LC_ALL", "TZ", "MILLRACE_LOG_LEVEL", "MILLRACE_LOG_FORMAT",
	"ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS", "TSAN_OPTIONS", NULL };
static const char *const for_media[] = { "SSL_CERT_FILE", "SSL_CERT_DIR", NULL };
static const char *const for_workers[] = { "HOME", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "CUDA_VISIBLE_DEVICES",
	"NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", NULL };

struct building {
	char **env;
	unsigned count;
	bool failed;
};

static void
put(struct building *b, const char *name, size_t name_bytes, const char *value)
{
	char *entry;

	if (b->failed || b->count == ENV_MAX)
		return;
	if (asprintf(&entry, "%.*s=%s", (int)name_bytes, name, value) == -1) {
		b->failed = true;
		return;
	}
	b->env[b->count++] = entry;
}

static void
pass_on(struct building *b, const char *const *names)
{
	for (; *names != NULL; names++)
		if (getenv(*names) != NULL)
			put(b, *names, strlen(*names), getenv(*names));
}

static void
put_extra(struct building *b, const char *extra)
{
	while (*extra != '\0') {
		size_t bytes = strcspn(extra, ",");
		char item[4096];
		char *equals;

		snprintf(item, sizeof(item), "%.*s", (int)bytes, extra);
		equals = strchr(item, '=');
		if (equals != NULL)
			put(b, item, (size_t)(equals - item), equals + 1);
		else if (item[0] != '\0' && getenv(item) != NULL)
			put(b, item, strlen(item), getenv(item));
		extra += bytes;
		extra += *extra == ',';
	}
}

/* A test may have one kind of child killed at a named point: MILLRACE_TESTPOINT_INGEST and so on. */
static void
put_testpoint(struct building *b, const char *name)
{
#ifdef MR_TESTPOINTS
	if (getenv(name) != NULL)
		put(b, "MILLRACE_TESTPOINT", strlen("MILLRACE_TESTPOINT"), getenv(name));
#endif
}

static bool
begin(struct building *b)
{
	*b = (struct building){ .env = calloc(ENV_MAX + 1, sizeof(char *)) };
	if (b->env == NULL)
		return false;
	pass_on(b, for_all);
	return true;
}

static char **
finish(struct building *b)
{
	char *const *env = b->env;

	if (!b->failed)
		return b->env;
	sup_env_free(&env);
	return NULL;
}

char **
sup_env_media(enum ctl_role role)
{
	struct building b;

	if (!begin(&b))
		return NULL;
	pass_on(&b, for_media);
	put_testpoint(&b, role == CTL_ROLE_INGEST ? "MILLRACE_TESTPOINT_INGEST" : "MILLRACE_TESTPOINT_EGRESS");
	return finish(&b);
}

char **
sup_env_worker(const char *extra)
{
	struct building b;

	if (!begin(&b))
		return NULL;
	pass_on(&b, for_workers);
	put(&b, "PYTHONUNBUFFERED", strlen("PYTHONUNBUFFERED"), "1");
	put_testpoint(&b, "MILLRACE_TESTPOINT_WORKER");
	put_extra(&b, extra);
	return finish(&b);
}

void
sup_env_free(char *const **env)
{
	for (char *const *e = *env; e != NULL && *e != NULL; e++)
		free(*e);
	free((void *)(uintptr_t)*env);
	*env = NULL;
}

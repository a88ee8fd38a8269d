/* SPDX-License-Identifier: MIT */
/*
 * What --worker means
 *
 * The first word is looked up: with a slash it is a path; a bare name is a worker that comes with millrace
 * (libexec/millrace/workers), else a program in PATH. A file that ends in .py is run by Python, which finds the package
 * millrace beside our other programs (libexec/millrace/python): PYTHONPATH of this process is what workers inherit.
 * The lookup is repeated at each start of a worker, so that a file that was missing is found once it is there.
 */
#include "base/assert.h"
#include "supervisor/sup_words.h"
#include "supervisor/sup_worker.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "supervisor/sup_priv.h"

static const char python[] = "/usr/bin/python3";

static bool
fail(struct sup_pool *pool, const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool
fail(struct sup_pool *pool, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(pool->command_error, sizeof(pool->command_error), format, args);
	va_end(args);
	return false;
}

static bool
is_file(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

static bool
ends_with(const char *text, const char *end)
{
	size_t n = strlen(text), m = strlen(end);

	return n > m && strcmp(text + n - m, end) == 0;
}

static bool
find_in_path(const char *name, char *out, size_t bytes)
{
	const char *dirs = getenv("PATH");

	for (dirs = dirs != NULL ? dirs : "/usr/local/bin:/usr/bin:/bin"; *dirs != '\0';) {
		size_t n = strcspn(dirs, ":");

		if (n > 0 && (size_t)snprintf(out, bytes, "%.*s/%s", (int)n, dirs, name) < bytes && is_file(out) &&
		    access(out, X_OK) == 0)
			return true;
		dirs += n;
		dirs += *dirs == ':';
	}
	return false;
}

/* " name name ..." of what lies in the folder of workers; as many as fit. */
static void
known_workers(const char *libexec_dir, char *out, size_t bytes)
{
	char path[PATH_MAX];
	struct dirent *entry;
	size_t n = 0;
	DIR *dir;

	out[0] = '\0';
	if ((size_t)snprintf(path, sizeof(path), "%s/workers", libexec_dir) >= sizeof(path) || (dir = opendir(path)) == NULL)
		return;
	while ((entry = readdir(dir)) != NULL && n + strlen(entry->d_name) + 2 < bytes)
		if (strchr(entry->d_name, '.') == NULL)
			n += (size_t)snprintf(out + n, bytes - n, " %s", entry->d_name);
	closedir(dir);
}

static bool
find_file(struct sup_pool *pool, const char *word, const char *libexec_dir, char *out, size_t bytes)
{
	char known[128], *real;

	if (strchr(word, '/') == NULL) {
		if ((size_t)snprintf(out, bytes, "%s/workers/%s", libexec_dir, word) < bytes && is_file(out))
			return true;
		if (!is_file(word)) {
			if (find_in_path(word, out, bytes))
				return true;
			known_workers(libexec_dir, known, sizeof(known));
			return fail(pool, "there is no worker \"%.60s\", neither in PATH nor among those that come with "
			    "millrace:%.120s; a path to a program works too", word, known);
		}
	}
	real = realpath(word, NULL);
	if (real == NULL)
		return fail(pool, "worker %.150s: %s", word, strerror(errno));
	snprintf(out, bytes, "%s", real);
	free(real);
	return is_file(out) || fail(pool, "worker %.150s is not a file", word);
}

static bool
set_argv(struct sup_pool *pool, const char *interpreter)
{
	unsigned n = 0, count = 0;
	char **argv;

	while (pool->words[count] != NULL)
		count++;
	argv = calloc(count + 2, sizeof(*argv));
	if (argv == NULL)
		return fail(pool, "out of memory");
	if (interpreter != NULL) {
		argv[n++] = (char *)(uintptr_t)interpreter;
		argv[n++] = pool->script;
	} else {
		argv[n++] = pool->words[0];
	}
	for (unsigned i = 1; i < count; i++)
		argv[n++] = pool->words[i];
	free(pool->argv);
	pool->argv = argv;
	return true;
}

/* Appends our package to PYTHONPATH, once. A package of the operator's that stands before it wins. */
static void
offer_python_package(const char *libexec_dir)
{
	const char *before = getenv("PYTHONPATH");
	char dir[4200], path[8400];

	snprintf(dir, sizeof(dir), "%s/python", libexec_dir);
	if (access(dir, X_OK) == -1 || (before != NULL && (strcmp(before, dir) == 0 || ends_with(before, dir))))
		return;
	if ((size_t)snprintf(path, sizeof(path), "%s%s%s", before != NULL ? before : "", before != NULL ? ":" : "", dir) <
	    sizeof(path))
		setenv("PYTHONPATH", path, 1);
}

bool
sup_command_resolve(struct sup_pool *pool, const char *command, const char *libexec_dir)
{
	pool->command_error[0] = '\0';
	if (pool->words == NULL && sup_words_split(command, &pool->words) < 0)
		return fail(pool, "--worker: the command is empty, or a quote in it is not closed: %.150s", command);
	if (!find_file(pool, pool->words[0], libexec_dir, pool->file, sizeof(pool->file)))
		return false;
	if (ends_with(pool->file, ".py")) {
		memcpy(pool->script, pool->file, sizeof(pool->script));
		snprintf(pool->file, sizeof(pool->file), "%s", python);
		if (access(pool->script, R_OK) == -1)
			return fail(pool, "worker %.150s: %s", pool->script, strerror(errno));
		offer_python_package(libexec_dir);
		return set_argv(pool, python);
	}
	if (ends_with(pool->file, ".so"))
		return fail(pool, "worker %.150s is a shared library: link it into a program with mr_run()", pool->file);
	if (access(pool->file, X_OK) == -1)
		return fail(pool, "worker %.150s is not executable: %s", pool->file, strerror(errno));
	return set_argv(pool, NULL);
}

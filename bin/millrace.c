/* SPDX-License-Identifier: MIT */
/*
 * millrace: the one command that people type
 *
 * `millrace VERB ARGUMENTS` becomes the program millrace-VERB, in this process, so that each program links only what
 * it needs. Programs are looked for beside this one, in ../libexec/millrace: the build folder has that shape too, and
 * an installation may be moved. Where an installation was given another libexecdir, that is tried next. A verb that is
 * not in the table runs if its program is there: who adds a program adds a verb.
 */
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* X(verb, program, text) */
// clang-format off
#define VERBS(X)										\
	X("serve",   "millrace-supervisor", "the service: a REST API, a pool of workers, live sessions")	\
	X("relay",   "millrace-relay",      "a trickle server, for local use")				\
	X("publish", "millrace-publish",    "a file, a URL or standard input as a live channel")		\
	X("play",    "millrace-play",       "follow a channel to standard output or a file")		\
	X("demo",    "millrace-demo",       "a live stream whose worker is killed while you watch")
// clang-format on

static const struct verb {
	const char *name, *program, *text;
} verbs[] = {
#define X(name, program, text) { name, program, text },
	VERBS(X)
#undef X
};
enum { VERB_COUNT = sizeof(verbs) / sizeof(verbs[0]) };

static void
print_usage(FILE *to)
{
	fputs("usage: millrace VERB [ARGUMENTS]\n\n", to);
	for (int i = 0; i < VERB_COUNT; i++)
		fprintf(to, "  %-8s  %s\n", verbs[i].name, verbs[i].text);
	fputs("\n`millrace VERB --help` tells what a verb takes; `millrace --version` the version.\n", to);
}

/* Letters, digits and dashes: a verb is never a path. */
static bool
is_verb(const char *name)
{
	size_t length = strlen(name);

	return length > 0 && length < 64 && name[0] != '-' &&
	    strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == length;
}

/* The folder of this program's file, without a slash at the end. */
static bool
own_folder(char *out, size_t bytes)
{
	ssize_t n = readlink("/proc/self/exe", out, bytes - 1);
	char *slash;

	if (n <= 0)
		return false;
	out[n] = '\0';
	slash = strrchr(out, '/');
	if (slash == NULL)
		return false;
	*slash = '\0';
	return true;
}

/* Returns only when the program could not be run; errno says why. */
static void
run_from(const char *folder, const char *program, char **argv)
{
	char path[PATH_MAX];
	int n = snprintf(path, sizeof(path), "%s/%s", folder, program);

	if (n < 0 || (size_t)n >= sizeof(path)) {
		errno = ENAMETOOLONG;
		return;
	}
	argv[0] = path;
	execv(path, argv);
}

int
main(int argc, char **argv)
{
	char program[80], beside[PATH_MAX], here[PATH_MAX - 32];
	const char *verb = argc > 1 ? argv[1] : "";

	if (strcmp(verb, "--version") == 0 || strcmp(verb, "-V") == 0) {
		puts("millrace " MR_VERSION);
		return 0;
	}
	if (argc < 2 || strcmp(verb, "help") == 0 || strcmp(verb, "--help") == 0 || strcmp(verb, "-h") == 0) {
		print_usage(argc < 2 ? stderr : stdout);
		return argc < 2 ? 100 : 0;
	}
	if (!is_verb(verb)) {
		fprintf(stderr, "millrace: '%s' is not a verb\n\n", verb);
		print_usage(stderr);
		return 100;
	}
	snprintf(program, sizeof(program), "millrace-%s", verb);
	for (int i = 0; i < VERB_COUNT; i++)
		if (strcmp(verb, verbs[i].name) == 0)
			snprintf(program, sizeof(program), "%s", verbs[i].program);
	errno = ENOENT;
	if (own_folder(here, sizeof(here))) {
		snprintf(beside, sizeof(beside), "%s/../libexec/millrace", here);
		run_from(beside, program, argv + 1);
	}
	if (errno == ENOENT)
		run_from(MR_LIBEXECDIR, program, argv + 1);
	if (errno == ENOENT)
		fprintf(stderr, "millrace: there is no verb '%s'; `millrace help` lists those that there are\n", verb);
	else
		fprintf(stderr, "millrace: fatal: unable to run %s: %s\n", program, strerror(errno));
	return 100;
}

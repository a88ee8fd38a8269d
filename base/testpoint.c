/* SPDX-License-Identifier: MIT */
/* Testpoints: SIGKILL at a named place, see the header. */
#include "base/testpoint.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

void (*testpoint_hook)(const char *name);

static char wanted[96];
static long passes_left;

static void
kill_at_wanted(const char *name)
{
	if (strcmp(name, wanted) == 0 && --passes_left == 0)
		raise(SIGKILL);
}

void
testpoint_open(void)
{
#ifdef MR_TESTPOINTS
	const char *spec = getenv("MILLRACE_TESTPOINT");
	const char *colon;
	size_t n;

	if (spec == NULL || *spec == '\0')
		return;
	/* Names contain one ':' themselves ("ring_publish:after_state"); the count follows the second. */
	colon = strchr(spec, ':');
	colon = colon != NULL ? strchr(colon + 1, ':') : NULL;
	n = colon != NULL ? (size_t)(colon - spec) : strlen(spec);
	if (n >= sizeof(wanted))
		return;
	memcpy(wanted, spec, n);
	wanted[n] = '\0';
	passes_left = colon != NULL ? strtol(colon + 1, NULL, 10) : 1;
	testpoint_hook = kill_at_wanted;
#endif
}

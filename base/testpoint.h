/* SPDX-License-Identifier: MIT */
/*
 * Testpoints: named places at which a test may kill the process that passes them
 *
 * MILLRACE_TESTPOINT=<name>[:<nth>] in a process's environment makes it raise SIGKILL when it passes the point
 * for the nth time (default 1). A test inside one program installs a hook instead. Without the build option
 * `testpoints` the macro is nothing.
 */
#ifndef MR_BASE_TESTPOINT_H
#define MR_BASE_TESTPOINT_H

#ifdef MR_TESTPOINTS
#define MR_TESTPOINT(name)						\
	do {								\
		if (__builtin_expect(testpoint_hook != 0, 0))		\
			testpoint_hook(name);				\
	} while (0)
#else
#define MR_TESTPOINT(name) ((void)0)
#endif

/* NULL: nothing happens. Called with the name of each point that is passed. */
extern void (*testpoint_hook)(const char *name);

/* Reads MILLRACE_TESTPOINT; once, at the start of main(). */
void testpoint_open(void);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Error traces and failed assertions
 *
 * The trace is written at debug level only: in production the edge logs the error once, with its object.
 */
#include "base/assert.h"
#include "base/err.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int
trace(const char *event, int r, const char *func, const char *file, int line)
{
	int keep = errno;

	if (r < 0)
		log_debug("err", event, "func=%s at=%s:%d errno=%d text=\"%s\"", func, file, line, -r, strerror(-r));
	errno = keep;
	return r;
}

int
err_origin_at(int r, const char *func, const char *file, int line)
{
	return trace("origin", r, func, file, line);
}

int
err_trace_at(int r, const char *func, const char *file, int line)
{
	return trace("trace", r, func, file, line);
}

int
err_fold_at(int r, const char *func, const char *file, int line)
{
	return trace("fold", r > 0 ? -ENOTRECOVERABLE : r, func, file, line);
}

_Noreturn void
mr_assert_failed(const char *what, const char *func, const char *file, int line)
{
	fprintf(stderr, "%s:%d: %s: %s\n", file, line, func, what);
	abort();
}

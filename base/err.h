/* SPDX-License-Identifier: MIT */
/*
 * Errors have two levels
 *
 * Negative: a fatal -errno. It is passed up unchanged through err_trace() and logged once, at the edge.
 * Positive: an outcome of the function that returned it, listed in that function's comment and handled by
 * its direct caller; it is never passed on. Zero: success.
 */
#ifndef MR_BASE_ERR_H
#define MR_BASE_ERR_H

/* Where a fatal error was first seen: logs it at debug level and returns `r` unchanged. */
#define err_origin(r) err_origin_at((r), __func__, __FILE__, __LINE__)
/* On the way up: returns `r`; a step of the trace at debug level. */
#define err_trace(r) err_trace_at((r), __func__, __FILE__, __LINE__)
/* An outcome that the caller did not expect becomes a fatal error: positive -> -ENOTRECOVERABLE. */
#define err_fold(r) err_fold_at((r), __func__, __FILE__, __LINE__)

int err_origin_at(int r, const char *func, const char *file, int line);
int err_trace_at(int r, const char *func, const char *file, int line);
int err_fold_at(int r, const char *func, const char *file, int line);

#endif

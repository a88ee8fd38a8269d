/* SPDX-License-Identifier: MIT */
/*
 * What children write to standard output and standard error
 *
 * One pipe for each child. A line becomes one line of our own log, prefixed with the child's name, cut at 4 KiB, with
 * control characters escaped. 64 KB/s with a burst of 256 KB; what is over is read and dropped, and one line says how
 * much it was: a child is never blocked by us, and cannot flood the log. The last 64 KiB are kept for crash records.
 */
#ifndef MR_SUP_LOG_PIPE_H
#define MR_SUP_LOG_PIPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SUP_LOG_LINE_MAX = 4096, SUP_LOG_TAIL_BYTES = 65536 };

struct sup_log_pipe {
	int fd;		       /* our end, non-blocking; -1: closed */
	const char *name;      /* borrowed */
	bool json;
	char line[SUP_LOG_LINE_MAX];
	size_t line_bytes;
	bool skipping;	       /* the rest of a line that was cut */
	int64_t tokens;	       /* bytes that may be written now */
	int64_t refilled_ns;
	uint64_t suppressed;   /* bytes dropped since the last line */
	uint64_t bytes;	       /* all in all */
	char *tail;	       /* circular; allocated at the first byte */
};

/* `name` is borrowed for ever. */
void sup_log_pipe_init(struct sup_log_pipe *p, const char *name, bool json);
/* A new pipe for a new incarnation. 0: *child_fd is the end for the child, the caller's. */
int sup_log_pipe_open(struct sup_log_pipe *p, int *child_fd, int64_t now_ns);
/* Reads what is there, a bounded amount. false: end of file, or an error: close it. */
bool sup_log_pipe_read(struct sup_log_pipe *p, int64_t now_ns);
/* Writes the unfinished line and closes our end. The tail stays. */
void sup_log_pipe_close(struct sup_log_pipe *p);
void sup_log_pipe_fini(struct sup_log_pipe *p);
/* The last bytes, NUL-terminated, at most `bytes` - 1; returns how many. */
size_t sup_log_pipe_tail(const struct sup_log_pipe *p, char *out, size_t bytes);

#endif

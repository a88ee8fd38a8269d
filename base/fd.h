/* SPDX-License-Identifier: MIT */
/* File descriptors. A descriptor in a struct starts at -1; fd_close() puts it back there. */
#ifndef MR_BASE_FD_H
#define MR_BASE_FD_H

#include <stdbool.h>
#include <stddef.h>

/* Closes *fd if it is open and sets it to -1. Preserves errno. */
void fd_close(int *fd);

/* 0, or -errno. */
int fd_set_nonblock(int fd, bool on);

/* Writes everything, retrying on EINTR and short writes. 0, or -errno; the file may then hold a part. */
int fd_write_all(int fd, const void *data, size_t bytes);

/*
 * Reads a whole file of at most `max_bytes` from its beginning (pread, so the offset is nobody's business)
 * into a new heap buffer that has one NUL byte after the data.
 * 0: *data (the caller frees it) and *bytes are set. -EFBIG: larger. -errno otherwise.
 */
int fd_read_whole(int fd, size_t max_bytes, char **data, size_t *bytes);

#endif

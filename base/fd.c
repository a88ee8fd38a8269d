/* SPDX-License-Identifier: MIT */
/* File descriptors: closing without losing errno, whole reads and writes. */
#include "base/fd.h"
#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

void
fd_close(int *fd)
{
	int keep = errno;

	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	errno = keep;
}

int
fd_set_nonblock(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags == -1)
		return err_origin(-errno);
	flags = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
	if (fcntl(fd, F_SETFL, flags) == -1)
		return err_origin(-errno);
	return 0;
}

int
fd_write_all(int fd, const void *data, size_t bytes)
{
	const char *from = data;

	while (bytes > 0) {
		ssize_t n = write(fd, from, bytes);

		if (n == -1 && errno == EINTR)
			continue;
		if (n == -1)
			return err_origin(-errno);
		from += n;
		bytes -= (size_t)n;
	}
	return 0;
}

int
fd_read_whole(int fd, size_t max_bytes, char **data, size_t *bytes)
{
	struct stat st;
	size_t size, have = 0;
	char *buf;
	int r;

	if (fstat(fd, &st) == -1)
		return err_origin(-errno);
	if (st.st_size < 0 || (uint64_t)st.st_size > max_bytes)
		return err_origin(-EFBIG);
	size = (size_t)st.st_size;
	buf = malloc(size + 1);
	if (buf == NULL)
		return err_origin(-ENOMEM);
	while (have < size) {
		ssize_t n = pread(fd, buf + have, size - have, (off_t)have);

		if (n == -1 && errno == EINTR)
			continue;
		if (n == -1) {
			r = err_origin(-errno);
			goto free_buf;
		}
		if (n == 0)
			break;
		have += (size_t)n;
	}
	buf[have] = '\0';
	*data = buf;
	*bytes = have;
	return 0;
free_buf:
	free(buf);
	return r;
}

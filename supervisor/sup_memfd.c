/* SPDX-License-Identifier: MIT */
/*
 * memfds: created, sized, reserved and sealed here and nowhere else
 *
 * A read-only descriptor of a memfd can be reopened for writing through /proc/self/fd; what makes memory read-only is
 * F_SEAL_FUTURE_WRITE, added once the one writer has its mapping. F_SEAL_SHRINK keeps a peer from truncating memory
 * under somebody's feet (SIGBUS), F_SEAL_SEAL keeps it from adding seals of its own.
 */
#include "supervisor/sup_memfd.h"

#include "base/assert.h"
#include "base/err.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "supervisor/sup_priv.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif

static int
create(const char *name)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

	if (fd == -1 && errno == EINVAL) /* before Linux 6.3 */
		fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	return fd == -1 ? err_origin(-errno) : fd;
}

int
sup_memfd_new(const char *name, uint64_t bytes, int *out)
{
	int r, fd = create(name);

	if (fd < 0)
		return fd;
	if (ftruncate(fd, (off_t)bytes) == -1 || fchmod(fd, 0600) == -1 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == -1) {
		r = err_origin(-errno);
		goto close_fd;
	}
	*out = fd;
	return 0;
close_fd:
	fd_close(&fd);
	return r;
}

int
sup_memfd_reserve(int fd, uint64_t offset, uint64_t bytes)
{
	int r = posix_fallocate(fd, (off_t)offset, (off_t)bytes); /* returns the errno */

	return r == 0 ? 0 : err_origin(-r);
}

int
sup_memfd_reopen_ro(int fd, int *out)
{
	char path[40];
	int ro;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	if (ro == -1)
		return err_origin(-errno);
	*out = ro;
	return 0;
}

int
sup_memfd_seal_seals(int fd)
{
	return fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL) == -1 ? err_origin(-errno) : 0;
}

int
sup_memfd_seal_future_write(int fd)
{
	const int want = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL;
	int seals;

	if (fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) == -1)
		return err_origin(-errno);
	seals = fcntl(fd, F_GET_SEALS);
	if (seals == -1)
		return err_origin(-errno);
	return (seals & ~F_SEAL_EXEC) == want ? 0 : err_origin(-EPERM);
}

int
sup_memfd_text(const char *name, const char *text, uint64_t bytes, int *out)
{
	int r, rw = create(name), ro = -1;

	if (rw < 0)
		return rw;
	r = fd_write_all(rw, text, bytes);
	if (r < 0)
		goto close_fds;
	if (fchmod(rw, 0600) == -1 || fcntl(rw, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) == -1) {
		r = err_origin(-errno);
		goto close_fds;
	}
	r = sup_memfd_reopen_ro(rw, &ro);
	if (r < 0)
		goto close_fds;
	*out = ro;
	ro = -1;
close_fds:
	fd_close(&ro);
	fd_close(&rw);
	return r;
}

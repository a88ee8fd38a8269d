/* SPDX-License-Identifier: MIT */
/* Checkpoints. The file is read by the program that wrote it, on the same machine: numbers are in its byte order. */
#include "supervisor/sup_journal_point.h"

#include "base/assert.h"
#include "base/err.h"
#include "supervisor/sup_journal_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "supervisor/sup_priv.h"

enum { POINT_MAGIC = 0x3150524d }; /* "MRP1" */

struct half {
	uint32_t magic, crc; /* crc: of `point` */
	struct sup_point point;
	uint8_t rest[SUP_POINT_HALF_BYTES - 8 - sizeof(struct sup_point)];
};
_Static_assert(sizeof(struct half) == SUP_POINT_HALF_BYTES, "two halves never share a sector's edge");

int
sup_point_open(int dir_fd, int *fd)
{
	*fd = openat(dir_fd, "checkpoint", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
	return *fd == -1 ? err_origin(-errno) : 0;
}

int
sup_point_write(int fd, unsigned slot, const struct sup_point *p)
{
	struct half h = { .magic = POINT_MAGIC, .point = *p };
	ssize_t n;

	MR_ASSERT(slot < SUP_POINT_SLOTS_MAX);
	h.crc = sup_jrn_crc(0, &h.point, sizeof(h.point));
	n = pwrite(fd, &h, sizeof(h), (off_t)slot * SUP_POINT_BYTES + (off_t)(p->count & 1) * SUP_POINT_HALF_BYTES);
	if (n == -1)
		return err_origin(-errno);
	return n == (ssize_t)sizeof(h) ? 0 : err_origin(-ENOSPC);
}

bool
sup_point_read(int fd, unsigned slot, uint64_t key, struct sup_point *out)
{
	struct half h[2];
	bool found = false;

	if (fd == -1 || slot >= SUP_POINT_SLOTS_MAX)
		return false;
	memset(h, 0, sizeof(h));
	if (pread(fd, h, sizeof(h), (off_t)slot * SUP_POINT_BYTES) <= 0)
		return false;
	for (int i = 0; i < 2; i++) {
		if (h[i].magic != POINT_MAGIC || h[i].crc != sup_jrn_crc(0, &h[i].point, sizeof(h[i].point)) ||
		    h[i].point.key != key || (found && h[i].point.count < out->count))
			continue;
		*out = h[i].point;
		found = true;
	}
	return found;
}

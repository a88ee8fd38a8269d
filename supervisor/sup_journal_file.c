/* SPDX-License-Identifier: MIT */
/*
 * Journal file
 *
 * A write that fails half-way is taken back with ftruncate(), so that a full disk costs the record and not those that
 * follow. If even that fails the scan of the next start skips the debris. Names are opened relative to the locked
 * folder and never through a link. fdatasync() is the only thing here that waits; it is timed.
 */
#include "supervisor/sup_journal_file.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/fd.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "supervisor/sup_priv.h"

static const char magic[4] = { 'M', 'R', 'J', '1' };
static const char file_name[] = "journal", fresh_name[] = "journal.new";
enum { LOCK_TRIES = 50, LOCK_PAUSE_MS = 20 };

struct head {
	uint16_t version, type;
	uint32_t bytes, crc;
};

/* Bit by bit over a table of 16: records are small and rare. */
uint32_t
sup_jrn_crc(uint32_t crc, const void *data, size_t bytes)
{
	static const uint32_t table[16] = {
		0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
		0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
	};
	const uint8_t *p = data;

	crc = ~crc;
	for (size_t i = 0; i < bytes; i++) {
		crc ^= p[i];
		crc = crc >> 4 ^ table[crc & 15];
		crc = crc >> 4 ^ table[crc & 15];
	}
	return ~crc;
}

static void
put_head(char *out, uint16_t type, const char *payload, size_t bytes)
{
	uint16_t version = htole16(SUP_JRN_VERSION), t = htole16(type);
	uint32_t n = htole32((uint32_t)bytes), crc;

	memcpy(out, magic, 4);
	memcpy(out + 4, &version, 2);
	memcpy(out + 6, &t, 2);
	memcpy(out + 8, &n, 4);
	crc = htole32(sup_jrn_crc(sup_jrn_crc(0, out + 4, 8), payload, bytes));
	memcpy(out + 12, &crc, 4);
}

static struct head
get_head(const char *from)
{
	struct head h;

	memcpy(&h.version, from + 4, 2);
	memcpy(&h.type, from + 6, 2);
	memcpy(&h.bytes, from + 8, 4);
	memcpy(&h.crc, from + 12, 4);
	return (struct head){ le16toh(h.version), le16toh(h.type), le32toh(h.bytes), le32toh(h.crc) };
}

/* Bytes of the whole record at `data`; 0: there is none. */
static size_t
whole_record(const char *data, size_t bytes, struct head *h)
{
	if (bytes < SUP_JRN_HEAD_BYTES || memcmp(data, magic, 4) != 0)
		return 0;
	*h = get_head(data);
	if (h->bytes > SUP_JRN_PAYLOAD_MAX || h->bytes > bytes - SUP_JRN_HEAD_BYTES)
		return 0;
	if (sup_jrn_crc(sup_jrn_crc(0, data + 4, 8), data + SUP_JRN_HEAD_BYTES, h->bytes) != h->crc)
		return 0;
	return SUP_JRN_HEAD_BYTES + h->bytes;
}

void
sup_jrn_scan(const char *data, size_t bytes, sup_jrn_record_fn *fn, void *arg, struct sup_jrn_scan *out)
{
	size_t at = 0, good_end = 0;

	*out = (struct sup_jrn_scan){ 0 };
	while (at < bytes) {
		struct head h;
		size_t n = whole_record(data + at, bytes - at, &h);
		const char *next;

		if (n == 0) {
			next = memmem(data + at + 1, bytes - at - 1, magic, 4);
			at = next == NULL ? bytes : (size_t)(next - data);
			continue;
		}
		out->damaged_bytes += at - good_end;
		out->records++;
		if (h.version != SUP_JRN_VERSION || !fn(arg, h.type, data + at + SUP_JRN_HEAD_BYTES, h.bytes))
			out->unknown++;
		at += n;
		good_end = at;
	}
	out->torn_bytes = bytes - good_end;
}

/* ---- the folder ------------------------------------------------------- */

void
sup_jrn_init(struct sup_jrn_file *f)
{
	*f = (struct sup_jrn_file){ .dir_fd = -1, .fd = -1 };
}

void
sup_jrn_close(struct sup_jrn_file *f)
{
	fd_close(&f->fd);
	fd_close(&f->dir_fd);
}

/* A predecessor that was killed a moment ago may still be on its way out. */
static int
lock(int fd)
{
	for (int i = 0; i < LOCK_TRIES; i++) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return 0;
		if (errno != EWOULDBLOCK && errno != EINTR)
			return err_origin(-errno);
		poll(NULL, 0, LOCK_PAUSE_MS);
	}
	return SUP_JRN_BUSY;
}

int
sup_jrn_open(struct sup_jrn_file *f, const char *path)
{
	int r;

	MR_ASSERT(f->dir_fd == -1);
	if (mkdir(path, 0700) == -1 && errno != EEXIST)
		return err_origin(-errno);
	f->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (f->dir_fd == -1)
		return err_origin(-errno);
	r = lock(f->dir_fd);
	if (r != 0)
		fd_close(&f->dir_fd);
	return r;
}

int
sup_jrn_read(struct sup_jrn_file *f, sup_jrn_record_fn *fn, void *arg, struct sup_jrn_scan *out)
{
	char *data = NULL;
	size_t bytes = 0;
	int r, fd;

	*out = (struct sup_jrn_scan){ 0 };
	fd = openat(f->dir_fd, file_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd == -1)
		return errno == ENOENT ? 0 : err_origin(-errno);
	r = fd_read_whole(fd, SUP_JRN_FILE_MAX, &data, &bytes);
	fd_close(&fd);
	if (r < 0)
		return err_trace(r);
	sup_jrn_scan(data, bytes, fn, arg, out);
	free(data);
	return 0;
}

/* ---- writing ---------------------------------------------------------- */

int
sup_jrn_append(struct sup_jrn_file *f, uint16_t type, const char *payload, size_t bytes)
{
	char *record;
	int r;

	MR_ASSERT(bytes <= SUP_JRN_PAYLOAD_MAX);
	if (f->fd == -1)
		return err_origin(-EBADF);
	record = malloc(SUP_JRN_HEAD_BYTES + bytes);
	if (record == NULL)
		return err_origin(-ENOMEM);
	put_head(record, type, payload, bytes);
	memcpy(record + SUP_JRN_HEAD_BYTES, payload, bytes);
	r = fd_write_all(f->fd, record, SUP_JRN_HEAD_BYTES + bytes);
	free(record);
	if (r < 0) {
		if (ftruncate(f->fd, (off_t)f->bytes) == -1)
			err_origin(-errno); /* debris: the scan steps over it */
		return err_trace(r);
	}
	f->bytes += SUP_JRN_HEAD_BYTES + bytes;
	f->dirty = true;
	return 0;
}

int
sup_jrn_sync(struct sup_jrn_file *f)
{
	int64_t begin = clock_now_ns(), took;

	if (!f->dirty)
		return 0;
	if (fdatasync(f->fd) == -1)
		return err_origin(-errno);
	took = clock_now_ns() - begin;
	if (took > f->sync_ns_max)
		f->sync_ns_max = took;
	f->syncs++;
	f->dirty = false;
	return 0;
}

/* ---- exchange --------------------------------------------------------- */

int
sup_jrn_replace_begin(const struct sup_jrn_file *f, struct sup_jrn_file *fresh)
{
	sup_jrn_init(fresh);
	fresh->dir_fd = f->dir_fd; /* borrowed */
	if (unlinkat(f->dir_fd, fresh_name, 0) == -1 && errno != ENOENT)
		return err_origin(-errno);
	fresh->fd = openat(f->dir_fd, fresh_name, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fresh->fd == -1)
		return err_origin(-errno);
	fresh->dirty = true; /* an empty file, too, has to reach the disk */
	return 0;
}

int
sup_jrn_replace_commit(struct sup_jrn_file *f, struct sup_jrn_file *fresh)
{
	int r = sup_jrn_sync(fresh);

	if (r == 0 && renameat(f->dir_fd, fresh_name, f->dir_fd, file_name) == -1)
		r = err_origin(-errno);
	if (r < 0) {
		sup_jrn_replace_abandon(fresh);
		return err_trace(r);
	}
	fd_close(&f->fd);
	f->fd = fresh->fd;
	f->bytes = fresh->bytes;
	f->dirty = false;
	f->syncs += fresh->syncs;
	if (fresh->sync_ns_max > f->sync_ns_max)
		f->sync_ns_max = fresh->sync_ns_max;
	fresh->fd = -1;
	/* the rename itself; a failure leaves the old file behind, which is no older than the last exchange */
	return fsync(f->dir_fd) == -1 && errno != EINVAL ? err_origin(-errno) : 0;
}

void
sup_jrn_replace_abandon(struct sup_jrn_file *fresh)
{
	int dir_fd = fresh->dir_fd;

	if (fresh->fd != -1)
		unlinkat(dir_fd, fresh_name, 0);
	fd_close(&fresh->fd);
	fresh->dir_fd = -1;
}

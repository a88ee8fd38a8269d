/* SPDX-License-Identifier: MIT */
/*
 * Frame ring: attaching
 *
 * Checks what came with CTL_RING_OPEN before a byte of it is used: the geometry, whose arithmetic is repeated here, and
 * the descriptors: count, access mode, size, seals, distinct inodes. A memfd without F_SEAL_SHRINK could be truncated
 * under us (SIGBUS); an in ring without F_SEAL_FUTURE_WRITE could be written by a fellow consumer. Pages are mapped and
 * populated once for the life of the ring.
 */
#include "proto/ring_priv.h"

#include "base/assert.h"
#include "base/err.h"
#include "base/fd.h"
#include "proto/ctl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

enum { PAGE = 4096 };
#define PAYLOAD_MAX_LIMIT (UINT64_C(1) << 30)

static bool
video_ok(const struct ctl_ring_open *m, struct format_layout *layout)
{
	if (!format_video_layout((enum format_id)m->format, m->width, m->height, layout) ||
	    layout->payload_bytes != m->payload_max || layout->plane_count != m->plane_count)
		return false;
	for (uint32_t i = 0; i < layout->plane_count; i++)
		if (layout->offset[i] != m->plane_offset[i] || layout->stride[i] != m->plane_stride[i])
			return false;
	return true;
}

static bool
audio_ok(const struct ctl_ring_open *m)
{
	return m->format == FORMAT_F32 && m->sample_rate >= 8000 && m->sample_rate <= 192000 && m->channels >= 1 &&
	    m->channels <= 8 && m->block_samples >= 1 && m->block_samples <= 48000 &&
	    m->payload_max == (uint64_t)m->channels * m->block_samples * 4;
}

static bool
sizes_ok(const struct ctl_ring_open *m)
{
	uint64_t holds = 0;

	if (m->consumer_count < 1 || m->consumer_count > RING_CONSUMERS_MAX || m->slot_count < 3 ||
	    m->slot_count > RING_SLOTS_MAX || m->depth > RING_SLOTS_MAX)
		return false;
	for (uint32_t i = 0; i < m->consumer_count; i++) {
		if (m->hold_count[i] < 1 || m->hold_count[i] > RING_HOLDS_MAX)
			return false;
		holds += m->hold_count[i];
	}
	return m->slot_count >= holds + 2 && m->payload_max >= 1 && m->payload_max <= PAYLOAD_MAX_LIMIT &&
	    m->slot_stride % PAGE == 0 && m->slot_stride <= 2 * PAYLOAD_MAX_LIMIT &&
	    m->slot_stride - RING_TAIL_BYTES >= m->payload_max && m->slot_stride > RING_TAIL_BYTES;
}

int
ring_geom_from_open(const struct ctl_ring_open *m, struct ring_geom *out)
{
	struct ring_geom g = {
		.ring_id = m->ring_id, .generation = m->generation, .policy = m->policy, .depth = m->depth,
		.slot_count = m->slot_count, .consumer_count = m->consumer_count, .consumer_idx = m->consumer_idx,
		.slot_stride = m->slot_stride, .payload_max = m->payload_max, .first_seq = m->first_seq,
		.block_deadline_ns = m->block_deadline_ns, .format = (enum format_id)m->format, .width = m->width,
		.height = m->height, .sample_rate = m->sample_rate, .channels = m->channels,
		.block_samples = m->block_samples, .rate_num = m->rate_num, .rate_den = m->rate_den,
		.recovering = m->recovering != 0, .ended = m->ended != 0,
	};

	if (m->ring_abi_major != RING_ABI_MAJOR || m->memory_kind != CTL_MEMORY_MEMFD)
		return err_origin(-EPROTO);
	if (m->ring_id < 1 || m->ring_id > CTL_RING_ID_MAX || m->generation == 0 ||
	    m->first_seq != ring_first_seq(m->generation))
		return err_origin(-EPROTO);
	if (m->policy != CTL_POLICY_DROP_OLDEST && m->policy != CTL_POLICY_BLOCK)
		return err_origin(-EPROTO);
	if (m->policy == CTL_POLICY_BLOCK && m->consumer_count != 1)
		return err_origin(-EPROTO);
	if (!sizes_ok(m) || m->consumer_idx >= m->consumer_count)
		return err_origin(-EPROTO);
	if (m->format == FORMAT_F32 ? !audio_ok(m) : !video_ok(m, &g.layout))
		return err_origin(-EPROTO);
	for (uint32_t i = 0; i < RING_CONSUMERS_MAX; i++)
		g.hold_count[i] = i < m->consumer_count ? m->hold_count[i] : 0;
	for (int i = 0; i < 4; i++)
		g.skip_seq[i] = m->skip_seq[i];
	*out = g;
	return 0;
}

struct wanted_fd {
	uint64_t bytes;
	int access; /* O_RDONLY or O_RDWR */
	int seals;
};

/* One memfd is what it should be; *st says which it is. */
static bool
fd_ok(int fd, const struct wanted_fd *want, struct stat *st)
{
	int flags = fcntl(fd, F_GETFL), seals = fcntl(fd, F_GET_SEALS);

	if (flags == -1 || seals == -1 || fstat(fd, st) == -1)
		return false;
	return (flags & O_ACCMODE) == want->access && (uint64_t)st->st_size == want->bytes &&
	    (seals & want->seals) == want->seals;
}

static bool
all_fds_ok(const int *fds, const struct wanted_fd *want, unsigned count)
{
	struct stat st[2 + RING_CONSUMERS_MAX];

	for (unsigned i = 0; i < count; i++) {
		if (!fd_ok(fds[i], &want[i], &st[i]))
			return false;
		for (unsigned k = 0; k < i; k++)
			if (st[k].st_dev == st[i].st_dev && st[k].st_ino == st[i].st_ino)
				return false;
	}
	return true;
}

static void *
map(int fd, uint64_t bytes, int access)
{
	int prot = access == O_RDWR ? PROT_READ | PROT_WRITE : PROT_READ;
	void *p = mmap(NULL, bytes, prot, MAP_SHARED | MAP_POPULATE, fd, 0);

	if (p == MAP_FAILED)
		return NULL;
	madvise(p, bytes, MADV_DONTDUMP); /* frames are personal data; failing is harmless */
	return p;
}

static void
unmap(const void *p, uint64_t bytes)
{
	if (p != NULL)
		munmap((void *)(uintptr_t)p, bytes);
}

static void
close_all(int *fds, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		fd_close(&fds[i]);
}

static unsigned
bits(uint32_t mask)
{
	return (unsigned)__builtin_popcount(mask);
}

static bool
is_in_ring(uint32_t ring_id)
{
	return ring_id == CTL_RING_IN_VIDEO || ring_id == CTL_RING_IN_AUDIO_WORKER || ring_id == CTL_RING_IN_AUDIO_EGRESS;
}

int
ring_tx_open(const struct ctl_ring_open *open, int *fds, unsigned fd_count, struct ring_tx **out)
{
	const int seals = F_SEAL_SHRINK | F_SEAL_GROW;
	struct wanted_fd want[2 + RING_CONSUMERS_MAX];
	const struct ring_cons *cons[RING_CONSUMERS_MAX] = { NULL };
	struct ring_prod *prod = NULL;
	uint8_t *data = NULL;
	struct ring_geom g;
	struct ring_tx *tx;
	uint64_t data_bytes;
	int r = ring_geom_from_open(open, &g);

	if (r < 0)
		goto close_fds;
	r = -EPROTO;
	if (open->role != CTL_RING_PRODUCER || (open->doorbell_mask >> g.consumer_count) != 0 ||
	    fd_count != 2 + g.consumer_count + bits(open->doorbell_mask))
		goto close_fds;
	data_bytes = (uint64_t)g.slot_count * g.slot_stride;
	want[0] = (struct wanted_fd){ RING_P_BYTES, O_RDWR, seals };
	want[1] = (struct wanted_fd){ data_bytes, O_RDWR, seals };
	for (uint32_t i = 0; i < g.consumer_count; i++)
		want[2 + i] = (struct wanted_fd){ RING_C_BYTES, O_RDONLY, seals };
	if (!all_fds_ok(fds, want, 2 + g.consumer_count))
		goto close_fds;
	r = -ENOMEM;
	prod = map(fds[0], RING_P_BYTES, O_RDWR);
	data = map(fds[1], data_bytes, O_RDWR);
	if (prod == NULL || data == NULL)
		goto unmap;
	for (uint32_t i = 0; i < g.consumer_count; i++) {
		cons[i] = map(fds[2 + i], RING_C_BYTES, O_RDONLY);
		if (cons[i] == NULL)
			goto unmap;
	}
	r = ring_tx_new(&g, prod, data, cons, &tx);
	if (r < 0)
		goto unmap;
	tx->mapped = true;
	for (uint32_t i = 0, next = 2 + g.consumer_count; i < g.consumer_count; i++)
		if ((open->doorbell_mask & 1u << i) != 0) {
			tx->doorbell[i] = fds[next];
			fds[next++] = -1;
		}
	close_all(fds, fd_count);
	*out = tx;
	return 0;
unmap:
	for (uint32_t i = 0; i < RING_CONSUMERS_MAX; i++)
		unmap(cons[i], RING_C_BYTES);
	unmap(data, data_bytes);
	unmap(prod, RING_P_BYTES);
close_fds:
	close_all(fds, fd_count);
	return r;
}

void
ring_tx_close(struct ring_tx **txp)
{
	struct ring_tx *tx = *txp;

	if (tx == NULL)
		return;
	MR_ASSERT(tx->magic == RING_TX_MAGIC);
	if (tx->mapped) {
		for (uint32_t i = 0; i < tx->geom.consumer_count; i++) {
			unmap(tx->cons[i], RING_C_BYTES);
			fd_close(&tx->doorbell[i]);
		}
		unmap(tx->data, (uint64_t)tx->geom.slot_count * tx->geom.slot_stride);
		unmap(tx->prod, RING_P_BYTES);
	}
	tx->magic = 0;
	free(tx);
	*txp = NULL;
}

int
ring_rx_open(const struct ctl_ring_open *open, int *fds, unsigned fd_count, struct ring_rx **out)
{
	int seals = F_SEAL_SHRINK | F_SEAL_GROW;
	const struct ring_prod *prod = NULL;
	const uint8_t *data = NULL;
	struct ring_cons *cons = NULL;
	struct wanted_fd want[3];
	struct ring_geom g;
	struct ring_rx *rx;
	uint64_t data_bytes;
	bool bell;
	int r = ring_geom_from_open(open, &g);

	if (r < 0)
		goto close_fds;
	r = -EPROTO;
	bell = (open->doorbell_mask & 1u << g.consumer_idx) != 0;
	if (open->role != CTL_RING_CONSUMER || fd_count != 3u + bell)
		goto close_fds;
	data_bytes = (uint64_t)g.slot_count * g.slot_stride;
	want[2] = (struct wanted_fd){ RING_C_BYTES, O_RDWR, seals };
	if (is_in_ring(g.ring_id))
		seals |= F_SEAL_FUTURE_WRITE;
	want[0] = (struct wanted_fd){ RING_P_BYTES, O_RDONLY, seals };
	want[1] = (struct wanted_fd){ data_bytes, O_RDONLY, seals };
	if (!all_fds_ok(fds, want, 3))
		goto close_fds;
	r = -ENOMEM;
	prod = map(fds[0], RING_P_BYTES, O_RDONLY);
	data = map(fds[1], data_bytes, O_RDONLY);
	cons = map(fds[2], RING_C_BYTES, O_RDWR);
	if (prod == NULL || data == NULL || cons == NULL)
		goto unmap;
	r = ring_rx_new(&g, prod, data, cons, &rx);
	if (r < 0)
		goto unmap;
	rx->mapped = true;
	if (bell) {
		rx->doorbell = fds[3];
		fds[3] = -1;
	}
	close_all(fds, fd_count);
	*out = rx;
	return 0;
unmap:
	unmap(cons, RING_C_BYTES);
	unmap(data, data_bytes);
	unmap(prod, RING_P_BYTES);
close_fds:
	close_all(fds, fd_count);
	return r;
}

void
ring_rx_close(struct ring_rx **rxp)
{
	struct ring_rx *rx = *rxp;

	if (rx == NULL)
		return;
	MR_ASSERT(rx->magic == RING_RX_MAGIC);
	if (rx->mapped) {
		unmap(rx->cons, RING_C_BYTES);
		unmap(rx->data, (uint64_t)rx->geom.slot_count * rx->geom.slot_stride);
		unmap(rx->prod, RING_P_BYTES);
		fd_close(&rx->doorbell);
	}
	rx->magic = 0;
	free(rx);
	*rxp = NULL;
}

/* SPDX-License-Identifier: MIT */
/* A ring as the supervisor makes it, see the header. */
#include "ring_world.h"

#include "base/assert.h"
#include "base/fd.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

static int
reopen_ro(int fd)
{
	char path[64];
	int ro;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	MR_ASSERT(ro >= 0);
	return ro;
}

static int
make(const char *name, uint64_t bytes, int seals)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	MR_ASSERT(fd >= 0);
	MR_ASSERT(ftruncate(fd, (off_t)bytes) == 0);
	MR_ASSERT(posix_fallocate(fd, 0, (off_t)bytes) == 0);
	MR_ASSERT(fcntl(fd, F_ADD_SEALS, seals) == 0);
	return fd;
}

static void
describe(struct ctl_ring_open *m, const struct world_spec *spec)
{
	uint32_t generation = spec->generation != 0 ? spec->generation : 1;
	struct format_layout layout;
	union ctl_msg msg;

	ctl_init(&msg, CTL_RING_OPEN, 1);
	*m = msg.ring_open;
	m->ring_abi_major = RING_ABI_MAJOR;
	m->ring_abi_minor = RING_ABI_MINOR;
	m->ring_id = spec->ring_id != 0 ? spec->ring_id : CTL_RING_IN_VIDEO;
	m->generation = generation;
	m->role = CTL_RING_PRODUCER;
	m->policy = spec->policy != 0 ? spec->policy : CTL_POLICY_DROP_OLDEST;
	m->depth = spec->depth;
	m->consumer_count = spec->consumers != 0 ? spec->consumers : 1;
	for (uint32_t i = 0; i < m->consumer_count; i++)
		m->hold_count[i] = spec->holds[i] != 0 ? spec->holds[i] : 1;
	m->memory_kind = CTL_MEMORY_MEMFD;
	m->slot_count = spec->slots != 0 ? spec->slots : ring_slots_needed(m->hold_count, m->consumer_count, spec->depth);
	m->slot_stride = 4096;
	m->payload_max = WORLD_PAYLOAD_BYTES;
	m->first_seq = ring_first_seq(generation);
	m->rate_num = 24;
	m->rate_den = 1;
	if (m->policy == CTL_POLICY_BLOCK) {
		m->format = FORMAT_F32;
		m->sample_rate = 48000;
		m->channels = 2;
		m->block_samples = WORLD_PAYLOAD_BYTES / 8;
		m->block_deadline_ns = 20000000;
		return;
	}
	m->format = FORMAT_RGB24;
	m->width = 32;
	m->height = 16;
	MR_ASSERT(format_video_layout(FORMAT_RGB24, m->width, m->height, &layout));
	m->plane_count = layout.plane_count;
	for (uint32_t i = 0; i < layout.plane_count; i++) {
		m->plane_offset[i] = layout.offset[i];
		m->plane_stride[i] = layout.stride[i];
	}
}

void
world_open(struct world *w, const struct world_spec *spec)
{
	const int seals = F_SEAL_SHRINK | F_SEAL_GROW;

	*w = (struct world){ .p_rw = -1 };
	describe(&w->open, spec);
	w->data_bytes = (uint64_t)w->open.slot_count * w->open.slot_stride;
	w->p_rw = make("ring-p", RING_P_BYTES, seals);
	w->d_rw = make("ring-d", w->data_bytes, seals);
	w->p_ro = reopen_ro(w->p_rw);
	w->d_ro = reopen_ro(w->d_rw);
	for (uint32_t i = 0; i < RING_CONSUMERS_MAX; i++) {
		w->c_rw[i] = w->c_ro[i] = -1;
		if (i >= w->open.consumer_count)
			continue;
		w->c_rw[i] = make("ring-c", RING_C_BYTES, seals | F_SEAL_SEAL);
		w->c_ro[i] = reopen_ro(w->c_rw[i]);
	}
}

void
world_close(struct world *w)
{
	fd_close(&w->p_rw);
	fd_close(&w->d_rw);
	fd_close(&w->p_ro);
	fd_close(&w->d_ro);
	for (uint32_t i = 0; i < RING_CONSUMERS_MAX; i++) {
		fd_close(&w->c_rw[i]);
		fd_close(&w->c_ro[i]);
	}
}

void
world_seal(struct world *w)
{
	MR_ASSERT(fcntl(w->p_rw, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) == 0);
	MR_ASSERT(fcntl(w->d_rw, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) == 0);
	fd_close(&w->p_rw);
	fd_close(&w->d_rw);
}

static int
duplicate(int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	MR_ASSERT(copy >= 0);
	return copy;
}

unsigned
world_fds_producer(const struct world *w, int *fds)
{
	unsigned n = 0;

	fds[n++] = duplicate(w->p_rw);
	fds[n++] = duplicate(w->d_rw);
	for (uint32_t i = 0; i < w->open.consumer_count; i++)
		fds[n++] = duplicate(w->c_ro[i]);
	return n;
}

unsigned
world_fds_consumer(const struct world *w, uint32_t idx, int *fds)
{
	fds[0] = duplicate(w->p_ro);
	fds[1] = duplicate(w->d_ro);
	fds[2] = duplicate(w->c_rw[idx]);
	return 3;
}

struct ctl_ring_open
world_msg_consumer(const struct world *w, uint32_t idx)
{
	struct ctl_ring_open m = w->open;

	m.role = CTL_RING_CONSUMER;
	m.consumer_idx = idx;
	return m;
}

struct ring_tx *
world_tx(const struct world *w)
{
	int fds[WORLD_FDS_MAX];
	unsigned n = world_fds_producer(w, fds);
	struct ring_tx *tx = NULL;

	MR_ASSERT(ring_tx_open(&w->open, fds, n, &tx) == 0);
	return tx;
}

struct ring_rx *
world_rx(const struct world *w, uint32_t idx, bool recovering)
{
	struct ctl_ring_open m = world_msg_consumer(w, idx);
	int fds[WORLD_FDS_MAX];
	unsigned n = world_fds_consumer(w, idx, fds);
	struct ring_rx *rx = NULL;

	m.recovering = recovering;
	MR_ASSERT(ring_rx_open(&m, fds, n, &rx) == 0);
	return rx;
}

struct ring_tx *
world_start(struct world *w, const struct world_spec *spec)
{
	struct ring_tx *tx;

	world_open(w, spec);
	tx = world_tx(w);
	world_seal(w);
	return tx;
}

uint64_t
world_publish(struct ring_tx *tx)
{
	struct ring_desc desc = { .bytes = WORLD_PAYLOAD_BYTES };
	uint64_t seq = ring_tx_next_seq(tx);
	uint64_t *to;
	unsigned slot;

	if (ring_claim(tx, &slot) != RING_CLAIMED)
		return 0;
	to = (uint64_t *)(void *)ring_tx_slot(tx, slot);
	for (unsigned i = 0; i < WORLD_PAYLOAD_BYTES / 8; i++)
		to[i] = seq;
	MR_ASSERT(ring_publish(tx, slot, &desc) == seq);
	return seq;
}

bool
world_payload_ok(const struct ring_frame *frame)
{
	/* volatile: the second reading of a torture test must really read again */
	const volatile uint64_t *from = (const volatile uint64_t *)(const void *)frame->payload;

	for (unsigned i = 0; i < WORLD_PAYLOAD_BYTES / 8; i++)
		if (from[i] != frame->desc.seq)
			return false;
	return true;
}

unsigned
world_count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	MR_ASSERT(dir != NULL);
	while (readdir(dir) != NULL)
		n++;
	closedir(dir);
	return n;
}

/* SPDX-License-Identifier: MIT */
/*
 * Rings: geometry, memory, seals
 *
 * Sizes are computed in 64 bits from numbers that were checked first, and against the operator's limits before a byte
 * is allocated. Sealing takes two steps for in rings, because a consumer must never hold a descriptor of memory that
 * it could map writable: SHRINK | GROW at creation, FUTURE_WRITE | SEAL once ingest has mapped it. Out rings and
 * consumer pages get SEAL before they leave, so that a worker cannot add seals of its own.
 */
#include "supervisor/sup_ring.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/fd.h"
#include "proto/format.h"
#include "proto/ring.h"
#include "supervisor/sup_memfd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "supervisor/sup_priv.h"

#define RESERVE_STEP_BYTES (UINT64_C(64) << 20)
enum { PAGE_BYTES = 4096, EGRESS_HOLDS_MAX = 10 };

// clang-format off
static const struct {
	const char *name;
	enum ctl_role producer;
	enum ctl_role consumer[2]; /* 0: none */
} kinds[CTL_RING_ID_MAX + 1] = {
	[CTL_RING_IN_VIDEO]        = { "in.video",        CTL_ROLE_INGEST, { CTL_ROLE_WORKER, CTL_ROLE_EGRESS } },
	[CTL_RING_IN_AUDIO_WORKER] = { "in.audio.worker", CTL_ROLE_INGEST, { CTL_ROLE_WORKER, 0 } },
	[CTL_RING_IN_AUDIO_EGRESS] = { "in.audio.egress", CTL_ROLE_INGEST, { CTL_ROLE_EGRESS, 0 } },
	[CTL_RING_OUT_VIDEO]       = { "out.video",       CTL_ROLE_WORKER, { CTL_ROLE_EGRESS, 0 } },
	[CTL_RING_OUT_AUDIO]       = { "out.audio",       CTL_ROLE_WORKER, { CTL_ROLE_EGRESS, 0 } },
};
// clang-format on

enum ctl_role
sup_ring_producer_role(enum ctl_ring_id id)
{
	MR_ASSERT(id >= 1 && id <= CTL_RING_ID_MAX);
	return kinds[id].producer;
}

enum ctl_role
sup_ring_consumer_role(enum ctl_ring_id id, unsigned i)
{
	MR_ASSERT(id >= 1 && id <= CTL_RING_ID_MAX);
	return i < 2 ? kinds[id].consumer[i] : 0;
}

const char *
sup_ring_name(enum ctl_ring_id id)
{
	MR_ASSERT(id >= 1 && id <= CTL_RING_ID_MAX);
	return kinds[id].name;
}

/* ---- geometry --------------------------------------------------------- */

uint32_t
sup_ring_egress_holds(int64_t frame_deadline_ns, uint32_t frames_a_second)
{
	int64_t interval = CLOCK_SEC_NS / (frames_a_second > 0 ? frames_a_second : 1);
	int64_t holds = (frame_deadline_ns + interval - 1) / interval + 1;

	return holds > EGRESS_HOLDS_MAX ? EGRESS_HOLDS_MAX : (uint32_t)holds;
}

static bool
plan_payload(const struct sup_ring_spec *s, struct ctl_ring_open *m)
{
	struct format_layout layout;

	if (s->id == CTL_RING_IN_VIDEO || s->id == CTL_RING_OUT_VIDEO) {
		if (!format_video_layout((enum format_id)s->format, s->width, s->height, &layout))
			return false;
		m->payload_max = layout.payload_bytes;
		m->plane_count = layout.plane_count;
		memcpy(m->plane_offset, layout.offset, sizeof(m->plane_offset));
		memcpy(m->plane_stride, layout.stride, sizeof(m->plane_stride));
		m->policy = CTL_POLICY_DROP_OLDEST;
		return true;
	}
	if (s->format != FORMAT_F32 || s->sample_rate < 8000 || s->sample_rate > 192000 || s->channels < 1 ||
	    s->channels > 8 || s->block_samples < 1 || s->block_samples > 48000)
		return false;
	m->payload_max = (uint64_t)s->channels * s->block_samples * sizeof(float);
	m->policy = CTL_POLICY_BLOCK;
	m->block_deadline_ns = CLOCK_SEC_NS * s->block_samples / s->sample_rate;
	return true;
}

enum sup_ring_plan_result
sup_ring_plan(const struct sup_ring_spec *s, struct ctl_ring_open *out)
{
	struct ctl_ring_open m = {
		.ring_abi_major = RING_ABI_MAJOR, .ring_abi_minor = RING_ABI_MINOR, .ring_id = s->id,
		.generation = s->generation, .memory_kind = CTL_MEMORY_MEMFD, .first_seq = ring_first_seq(s->generation),
		.format = s->format, .width = s->width, .height = s->height, .sample_rate = s->sample_rate,
		.channels = s->channels, .block_samples = s->block_samples, .rate_num = s->rate_num,
		.rate_den = s->rate_den, .doorbell_mask = s->doorbell_mask,
	};
	uint64_t holds = 0;
	uint32_t depth = 0;

	MR_ASSERT(s->generation > 0);
	if (!plan_payload(s, &m))
		return SUP_RING_BAD_FORMAT;
	for (unsigned i = 0; i < RING_CONSUMERS_MAX && s->hold_count[i] > 0; i++) {
		m.hold_count[m.consumer_count++] = s->hold_count[i];
		holds += s->hold_count[i];
		depth = s->depth[i] > depth ? s->depth[i] : depth;
	}
	MR_ASSERT(m.consumer_count > 0);
	if (holds + depth + 2 > RING_SLOTS_MAX)
		return SUP_RING_TOO_MANY;
	m.slot_count = ring_slots_needed(m.hold_count, m.consumer_count, depth);
	/* Audio outlasts a restart of its consumer: 64 blocks of 20 ms. Video out: one more for a late egress turn. */
	if (m.policy == CTL_POLICY_BLOCK)
		m.slot_count = RING_SLOTS_MAX;
	else if (s->id == CTL_RING_OUT_VIDEO)
		m.slot_count++;
	if (m.payload_max > s->payload_bytes_max)
		return SUP_RING_TOO_BIG;
	m.slot_stride = (m.payload_max + RING_TAIL_BYTES + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
	if (m.slot_stride * m.slot_count > s->ring_bytes_max)
		return SUP_RING_TOO_BIG;
	*out = m;
	return SUP_RING_OK;
}

const char *
sup_ring_plan_text(enum sup_ring_plan_result r)
{
	switch (r) {
	case SUP_RING_OK:
		return "ok";
	case SUP_RING_BAD_FORMAT:
		return "this pixel format cannot have that size, or the sample rate or the number of channels is impossible";
	case SUP_RING_TOO_BIG:
		return "frames of that size exceed --max-frame-bytes or --max-session-bytes";
	case SUP_RING_TOO_MANY:
		return "the worker holds more frames at once than a ring has slots";
	}
	MR_UNREACHABLE("enum sup_ring_plan_result");
}

/* ---- memory ----------------------------------------------------------- */

static int
write_ident(const struct sup_ring *ring, int fd, uint32_t hold_count)
{
	struct ring_ident ident = {
		.magic = RING_MAGIC, .abi_major = RING_ABI_MAJOR, .abi_minor = RING_ABI_MINOR,
		.ring_id = ring->open.ring_id, .generation = ring->open.generation, .slot_count = ring->open.slot_count,
		.hold_count = hold_count, .slot_stride = ring->open.slot_stride,
	};

	return pwrite(fd, &ident, sizeof(ident), 0) == (ssize_t)sizeof(ident) ? 0 : err_origin(-EIO);
}

static int
new_memory(const struct sup_ring *ring, const char *part, uint64_t bytes, int *rw, int *ro)
{
	char name[64];
	int r;

	snprintf(name, sizeof(name), "millrace:%s:gen%u:%s", sup_ring_name(ring->open.ring_id), ring->open.generation, part);
	r = sup_memfd_new(name, bytes, rw);
	return r < 0 ? err_trace(r) : sup_memfd_reopen_ro(*rw, ro);
}

static int
new_seat(struct sup_ring *ring, unsigned i)
{
	struct sup_seat *seat = &ring->seat[i];
	int r, bell[2];

	r = new_memory(ring, "C", RING_C_BYTES, &seat->c_rw, &seat->c_ro);
	if (r == 0)
		r = sup_memfd_reserve(seat->c_rw, 0, RING_C_BYTES);
	if (r == 0)
		r = write_ident(ring, seat->c_rw, ring->open.hold_count[i]);
	if (r == 0)
		r = sup_memfd_seal_seals(seat->c_rw);
	if (r < 0 || (ring->open.doorbell_mask & 1u << i) == 0)
		return r;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, bell) == -1)
		return err_origin(-errno);
	seat->bell_tx = bell[0];
	seat->bell_rx = bell[1];
	return 0;
}

static int
new_producer_memory(struct sup_ring *ring)
{
	int r;

	r = new_memory(ring, "P", RING_P_BYTES, &ring->p_rw, &ring->p_ro);
	if (r == 0)
		r = new_memory(ring, "D", ring->data_bytes, &ring->d_rw, &ring->d_ro);
	if (r == 0)
		r = sup_memfd_reserve(ring->p_rw, 0, RING_P_BYTES);
	if (r == 0)
		r = write_ident(ring, ring->p_rw, 0);
	if (r == 0 && !sup_ring_is_in(ring->open.ring_id)) {
		r = sup_memfd_seal_seals(ring->p_rw);
		if (r == 0)
			r = sup_memfd_seal_seals(ring->d_rw);
	}
	return r;
}

int
sup_ring_new(const struct sup_ring_spec *spec, const struct ctl_ring_open *plan, struct sup_ring **out)
{
	struct sup_ring *ring = calloc(1, sizeof(*ring));
	int r;

	if (ring == NULL)
		return err_origin(-ENOMEM);
	ring->magic = SUP_RING_MAGIC;
	ring->open = *plan;
	ring->producer_role = sup_ring_producer_role(spec->id);
	ring->data_bytes = plan->slot_stride * plan->slot_count;
	ring->p_rw = ring->p_ro = ring->d_rw = ring->d_ro = -1;
	for (unsigned i = 0; i < RING_CONSUMERS_MAX; i++) {
		struct sup_seat *seat = &ring->seat[i];

		seat->role = sup_ring_consumer_role(spec->id, i);
		seat->depth = spec->depth[i];
		seat->c_rw = seat->c_ro = seat->bell_tx = seat->bell_rx = -1;
	}
	r = new_producer_memory(ring);
	for (unsigned i = 0; i < plan->consumer_count && r == 0; i++)
		r = new_seat(ring, i);
	if (r < 0) {
		sup_ring_free(&ring);
		return r;
	}
	*out = ring;
	return 0;
}

void
sup_ring_free(struct sup_ring **ringp)
{
	struct sup_ring *ring = *ringp;

	if (ring == NULL)
		return;
	MR_ASSERT(ring->magic == SUP_RING_MAGIC);
	fd_close(&ring->p_rw);
	fd_close(&ring->p_ro);
	fd_close(&ring->d_rw);
	fd_close(&ring->d_ro);
	for (unsigned i = 0; i < RING_CONSUMERS_MAX; i++) {
		fd_close(&ring->seat[i].c_rw);
		fd_close(&ring->seat[i].c_ro);
		fd_close(&ring->seat[i].bell_tx);
		fd_close(&ring->seat[i].bell_rx);
	}
	ring->magic = 0;
	free(ring);
	*ringp = NULL;
}

int
sup_ring_reserve(struct sup_ring *ring)
{
	uint64_t left = ring->data_bytes - ring->reserved_bytes;
	uint64_t step = left < RESERVE_STEP_BYTES ? left : RESERVE_STEP_BYTES;
	int r = sup_memfd_reserve(ring->d_rw, ring->reserved_bytes, step);

	if (r < 0)
		return err_trace(r);
	ring->reserved_bytes += step;
	return ring->reserved_bytes < ring->data_bytes ? SUP_RING_MORE : 0;
}

int
sup_ring_seal(struct sup_ring *ring)
{
	int r = 0;

	if (sup_ring_is_in(ring->open.ring_id)) {
		r = sup_memfd_seal_future_write(ring->p_rw);
		if (r == 0)
			r = sup_memfd_seal_future_write(ring->d_rw);
	}
	if (r < 0)
		return err_trace(r);
	fd_close(&ring->p_rw);
	fd_close(&ring->d_rw);
	ring->stage = SUP_RING_MAPPED;
	return 0;
}

/* ---- handing over ----------------------------------------------------- */

bool
sup_ring_offer_producer(struct sup_ring *ring, struct sup_child *producer, uint32_t session)
{
	union ctl_msg msg;
	int fds[CTL_FDS_MAX];
	unsigned n = 0;

	MR_ASSERT(ring->stage == SUP_RING_RESERVING && ring->p_rw != -1);
	fds[n++] = ring->p_rw;
	fds[n++] = ring->d_rw;
	for (uint32_t i = 0; i < ring->open.consumer_count; i++)
		fds[n++] = ring->seat[i].c_ro;
	for (uint32_t i = 0; i < ring->open.consumer_count; i++)
		if (ring->seat[i].bell_tx != -1)
			fds[n++] = ring->seat[i].bell_tx;
	ctl_init(&msg, CTL_RING_OPEN, session);
	ring->open.hdr = msg.hdr;
	msg.ring_open = ring->open;
	msg.ring_open.role = CTL_RING_PRODUCER;
	msg.ring_open.fd_count = n;
	ring->stage = SUP_RING_OFFERED;
	ring->producer_id = producer->id;
	ring->producer_incarnation = producer->incarnation;
	return sup_child_send(producer, &msg, fds, n);
}

bool
sup_ring_offer_consumer(struct sup_ring *ring, unsigned i, struct sup_child *consumer, uint32_t session,
    const uint64_t skip_seq[4])
{
	struct sup_seat *seat = &ring->seat[i];
	union ctl_msg msg;
	int fds[4];
	unsigned n = 0;

	MR_ASSERT(ring->stage >= SUP_RING_MAPPED);
	MR_ASSERT(i < ring->open.consumer_count);
	MR_ASSERT(ring->p_rw == -1 && ring->d_rw == -1);
	fds[n++] = ring->p_ro;
	fds[n++] = ring->d_ro;
	fds[n++] = seat->c_rw;
	if (seat->bell_rx != -1)
		fds[n++] = seat->bell_rx;
	ctl_init(&msg, CTL_RING_OPEN, session);
	ring->open.hdr = msg.hdr;
	msg.ring_open = ring->open;
	msg.ring_open.role = CTL_RING_CONSUMER;
	msg.ring_open.consumer_idx = i;
	msg.ring_open.depth = seat->depth;
	msg.ring_open.recovering = seat->given;
	msg.ring_open.ended = ring->ended;
	msg.ring_open.fd_count = n;
	memcpy(msg.ring_open.skip_seq, skip_seq, sizeof(msg.ring_open.skip_seq));
	seat->stage = SUP_SEAT_OFFERED;
	seat->given = true;
	return sup_child_send(consumer, &msg, fds, n);
}

bool
sup_ring_tell(struct sup_ring *ring, enum ctl_type type, struct sup_child *child, uint32_t session)
{
	union ctl_msg msg;

	ctl_init(&msg, type, session);
	msg.ring_ref.ring_id = ring->open.ring_id;
	msg.ring_ref.generation = ring->open.generation;
	return sup_child_send(child, &msg, NULL, 0);
}

unsigned
sup_ring_held(const struct sup_ring *ring, unsigned i, uint64_t *seq, unsigned max)
{
	uint64_t hold[RING_HOLDS_MAX];
	unsigned n = 0;

	if (pread(ring->seat[i].c_ro, hold, sizeof(hold), offsetof(struct ring_cons, hold)) != (ssize_t)sizeof(hold))
		return 0;
	for (uint32_t k = 0; k < ring->open.hold_count[i] && k < RING_HOLDS_MAX && n < max; k++) {
		uint64_t s = ring_word_seq(hold[k]);

		if (hold[k] != 0 && s >> 32 == ring->open.generation)
			seq[n++] = s;
	}
	return n;
}

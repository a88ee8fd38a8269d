/* SPDX-License-Identifier: MIT */
/*
 * A stage for plays with egress
 *
 * Rings are real: memfds with the supervisor's sizes and seals, opened through proto/ring.h on both sides.
 */
#include "egr_stage.h"
#include "base/clock.h"
#include "base/fd.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

void
stage_begin(struct stage *s, const char *text)
{
	memset(s, 0, sizeof(*s));
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, s->sock), 0);
	egr_link_init(&s->link, s->sock[1]);
	s->stats = aligned_alloc(128, sizeof(*s->stats));
	cr_assert_not_null(s->stats);
	memset(s->stats, 0, sizeof(*s->stats));
	s->pts_ns = 10 * CLOCK_SEC_NS;
	cr_assert_eq(egr_session_new(7, text, strlen(text), &s->link, s->stats, &s->session), 0);
}

void
stage_end(struct stage *s)
{
	int64_t until_ns = clock_now_ns() + 2 * CLOCK_SEC_NS;

	egr_session_close(s->session);
	while (!egr_session_closed(s->session, clock_now_ns()) && clock_now_ns() < until_ns)
		stage_turn(s, 10);
	cr_expect(egr_session_closed(s->session, clock_now_ns()));
	egr_session_free(&s->session);
	cr_expect_eq(s->link.count, 0);
	close(s->sock[0]);
	close(s->sock[1]);
	free(s->stats);
}

/* ---- rings ------------------------------------------------------------ */

static int
memory_new(uint64_t bytes)
{
	int fd = memfd_create("egr_stage", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, (off_t)bytes), 0);
	cr_assert_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
	return fd;
}

static int
reopen(int fd, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	fd = open(path, flags | O_CLOEXEC);
	cr_assert_geq(fd, 0);
	return fd;
}

static bool
is_audio(enum ctl_ring_id id)
{
	return id == CTL_RING_IN_AUDIO_EGRESS || id == CTL_RING_OUT_AUDIO;
}

static struct ctl_ring_open
describe(enum ctl_ring_id id, uint32_t generation)
{
	union ctl_msg msg;
	struct ctl_ring_open *o = &msg.ring_open;

	ctl_init(&msg, CTL_RING_OPEN, 7);
	o->ring_abi_major = RING_ABI_MAJOR;
	o->ring_id = id;
	o->generation = generation;
	o->consumer_count = id == CTL_RING_IN_VIDEO ? 2 : 1;
	o->consumer_idx = o->consumer_count - 1;
	o->memory_kind = CTL_MEMORY_MEMFD;
	o->first_seq = ring_first_seq(generation);
	for (uint32_t i = 0; i < o->consumer_count; i++)
		o->hold_count[i] = id == CTL_RING_IN_VIDEO && i == 1 ? STAGE_HOLDS : 1;
	if (is_audio(id)) {
		o->policy = CTL_POLICY_BLOCK;
		o->format = FORMAT_F32;
		o->sample_rate = 48000;
		o->channels = 2;
		o->block_samples = 960;
		o->payload_max = UINT64_C(960) * 2 * 4;
		o->slot_count = STAGE_AUDIO_SLOTS;
	} else {
		struct format_layout l;

		cr_assert(format_video_layout(FORMAT_RGB24, STAGE_SIDE, STAGE_SIDE, &l));
		o->policy = CTL_POLICY_DROP_OLDEST;
		o->format = FORMAT_RGB24;
		o->width = o->height = STAGE_SIDE;
		o->plane_count = l.plane_count;
		o->plane_offset[0] = l.offset[0];
		o->plane_stride[0] = l.stride[0];
		o->payload_max = l.payload_bytes;
		o->slot_count = id == CTL_RING_IN_VIDEO ? STAGE_IN_SLOTS : STAGE_OUT_SLOTS;
		o->rate_num = 25;
		o->rate_den = 1;
	}
	o->slot_stride = (o->payload_max + RING_TAIL_BYTES + 4095) / 4096 * 4096;
	return *o;
}

struct ring_tx *
stage_ring(struct stage *s, enum ctl_ring_id id, uint32_t generation)
{
	struct ctl_ring_open o = describe(id, generation);
	int p = memory_new(RING_P_BYTES), d = memory_new(o.slot_count * o.slot_stride), c[2], bell[2], fds[12];
	struct ring_tx *tx;
	unsigned n = 0;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, bell), 0);
	o.doorbell_mask = 1u << o.consumer_idx;
	fds[n++] = reopen(p, O_RDWR);
	fds[n++] = reopen(d, O_RDWR);
	for (uint32_t i = 0; i < o.consumer_count; i++) {
		c[i] = memory_new(RING_C_BYTES);
		fds[n++] = reopen(c[i], O_RDONLY);
	}
	fds[n++] = bell[0];
	o.role = CTL_RING_PRODUCER;
	o.fd_count = n;
	cr_assert_eq(ring_tx_open(&o, fds, n, &tx), 0);
	fcntl(p, F_ADD_SEALS, F_SEAL_FUTURE_WRITE);
	fcntl(d, F_ADD_SEALS, F_SEAL_FUTURE_WRITE);
	n = 0;
	fds[n++] = reopen(p, O_RDONLY);
	fds[n++] = reopen(d, O_RDONLY);
	fds[n++] = c[o.consumer_idx];
	fds[n++] = bell[1];
	o.role = CTL_RING_CONSUMER;
	o.fd_count = n;
	cr_assert_eq(egr_session_ring_open(s->session, &o, fds, n), 0);
	close(p);
	close(d);
	if (o.consumer_count == 2)
		close(c[0]);
	return tx;
}

void
stage_ring_ended(struct stage *s, struct ring_tx **tx)
{
	const struct ctl_ring_ref ref = { .ring_id = ring_tx_geom(*tx)->ring_id,
		.generation = ring_tx_geom(*tx)->generation };

	ring_tx_close(tx);
	egr_session_ring_ended(s->session, &ref);
}

/* ---- what happens ----------------------------------------------------- */

static bool
publish(struct ring_tx *tx, const struct ring_desc *desc, int value, uint64_t *seq)
{
	unsigned slot;

	if (ring_claim(tx, &slot) != RING_CLAIMED)
		return false;
	if (desc->bytes > 0 && value >= 0)
		memset(ring_tx_slot(tx, slot), value, desc->bytes);
	*seq = ring_publish(tx, slot, desc);
	return true;
}

uint64_t
stage_input(struct stage *s, struct ring_tx *in)
{
	struct ring_desc desc = { .pts_ns = s->pts_ns, .bytes = (uint32_t)ring_tx_geom(in)->payload_max };
	uint64_t seq;

	cr_assert(publish(in, &desc, 200, &seq));
	s->pts_ns += 40 * CLOCK_MS_NS;
	return seq;
}

void
stage_result(struct stage *s, struct ring_tx *out, const struct ring_desc *desc)
{
	uint64_t seq;

	(void)s;
	cr_assert(publish(out, desc, 50, &seq));
}

void
stage_answer(struct stage *s, struct ring_tx *out, uint64_t src_seq)
{
	struct ring_desc desc = { .src_seq = src_seq, .bytes = (uint32_t)ring_tx_geom(out)->payload_max };

	stage_result(s, out, &desc);
}

void
stage_sound(struct stage *s, struct ring_tx *audio, int64_t offset_ns)
{
	struct ring_desc desc = { .pts_ns = s->pts_ns + offset_ns, .bytes = (uint32_t)ring_tx_geom(audio)->payload_max };
	unsigned slot;
	float *to;

	cr_assert_eq(ring_claim(audio, &slot), RING_CLAIMED);
	to = (float *)ring_tx_slot(audio, slot);
	for (unsigned i = 0; i < 960 * 2; i++)
		to[i] = 0.5f * sinf((float)(i / 2) * 0.05f);
	ring_publish(audio, slot, &desc);
}

static void
read_messages(struct stage *s)
{
	union ctl_msg msg;
	unsigned n;

	while (ctl_recv(s->sock[0], &msg, true, NULL, 0, &n) == 0) {
		s->mapped += msg.hdr.type == CTL_MAPPED;
		s->closed += msg.hdr.type == CTL_RING_CLOSED;
	}
}

void
stage_turn(struct stage *s, int wait_ms)
{
	struct pollfd fds[EGR_RINGS_MAX];
	int64_t now_ns = clock_now_ns(), due_ns = now_ns + wait_ms * CLOCK_MS_NS, t;
	unsigned n = egr_rings_pollfds(&s->session->rings, fds, now_ns);

	t = egr_session_due(s->session, now_ns);
	cr_assert_eq(trk_loop_turn(s->session->loop, fds, n, t < due_ns ? t : due_ns), 0);
	egr_rings_polled(&s->session->rings, fds, n);
	egr_session_run(s->session);
	read_messages(s);
}

void
stage_pass(struct stage *s, int ms)
{
	int64_t until_ns = clock_now_ns() + ms * CLOCK_MS_NS;

	while (clock_now_ns() < until_ns)
		stage_turn(s, clock_poll_ms(until_ns, clock_now_ns(), 50));
}

uint64_t
stage_count(const struct stage *s, enum egress_counter counter)
{
	return stats_get(s->stats, counter);
}

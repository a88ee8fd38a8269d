/* SPDX-License-Identifier: MIT */
/*
 * Goal: nothing that came with RING_OPEN is used before it was checked, each refusal has a twin that is accepted, and
 * whatever happens the descriptors are closed.
 * Method: a ring as the supervisor makes it, and one thing wrong with it at a time.
 */
#include "ring_world.h"

#include "base/clock.h"
#include "base/fd.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

TestSuite(attach, .timeout = 20);

/* ---- geometry --------------------------------------------------------- */

#define BREAK(field, bad)							\
	do {									\
		struct ctl_ring_open m = w.open;				\
		struct ring_geom g;						\
										\
		cr_expect_eq(ring_geom_from_open(&m, &g), 0);			\
		m.field = (bad);						\
		cr_expect_eq(ring_geom_from_open(&m, &g), -EPROTO, #field " = " #bad " was accepted"); \
	} while (0)

Test(attach, geometry_of_video)
{
	struct world w;

	world_open(&w, &(struct world_spec){ .consumers = 2, .depth = 2 });
	BREAK(ring_abi_major, RING_ABI_MAJOR + 1);
	BREAK(memory_kind, 2);
	BREAK(ring_id, 0);
	BREAK(ring_id, CTL_RING_ID_MAX + 1);
	BREAK(generation, 0);
	BREAK(generation, 2); /* first_seq does not belong to it */
	BREAK(first_seq, 1);
	BREAK(first_seq, UINT64_MAX);
	BREAK(policy, 0);
	BREAK(policy, 3);
	BREAK(policy, CTL_POLICY_BLOCK); /* with two consumers */
	BREAK(consumer_count, 0);
	BREAK(consumer_count, RING_CONSUMERS_MAX + 1);
	BREAK(consumer_idx, 2);
	BREAK(slot_count, 3); /* sum of holds + 1 */
	BREAK(slot_count, RING_SLOTS_MAX + 1);
	BREAK(slot_count, UINT32_MAX);
	BREAK(depth, RING_SLOTS_MAX + 1);
	BREAK(hold_count[1], 0);
	BREAK(hold_count[0], RING_HOLDS_MAX + 1);
	BREAK(slot_stride, 0);
	BREAK(slot_stride, 4097);
	BREAK(slot_stride, UINT64_MAX - 4095);
	BREAK(payload_max, 0);
	BREAK(payload_max, WORLD_PAYLOAD_BYTES + 1);
	BREAK(payload_max, UINT64_MAX);
	BREAK(format, FORMAT_NONE);
	BREAK(format, FORMAT_VIDEO_COUNT);
	BREAK(format, FORMAT_RGBA);
	BREAK(width, 33);
	BREAK(width, 0x80000000u);
	BREAK(height, 0);
	BREAK(plane_count, 0);
	BREAK(plane_count, 4);
	BREAK(plane_offset[0], 4);
	BREAK(plane_stride[0], 95);
	world_close(&w);
}

Test(attach, geometry_of_audio)
{
	struct world w;

	world_open(&w, &(struct world_spec){ .ring_id = CTL_RING_OUT_AUDIO, .policy = CTL_POLICY_BLOCK, .slots = 64 });
	BREAK(sample_rate, 0);
	BREAK(sample_rate, 192001);
	BREAK(channels, 0);
	BREAK(channels, 9);
	BREAK(block_samples, 0);
	BREAK(block_samples, UINT32_MAX);
	BREAK(payload_max, WORLD_PAYLOAD_BYTES - 4);
	world_close(&w);
}

/* A payload needs readable bytes behind it: a stride that only just holds it is refused. */
Test(attach, stride_leaves_room_after_the_payload)
{
	struct world w;
	struct ctl_ring_open m;
	struct ring_geom g;

	world_open(&w, &(struct world_spec){ .ring_id = CTL_RING_OUT_AUDIO, .policy = CTL_POLICY_BLOCK, .slots = 4 });
	m = w.open;
	m.channels = 1;
	m.block_samples = (4096 - RING_TAIL_BYTES) / 4;
	m.payload_max = (uint64_t)m.block_samples * 4;
	cr_expect_eq(ring_geom_from_open(&m, &g), 0);
	m.block_samples++;
	m.payload_max += 4;
	cr_expect_eq(ring_geom_from_open(&m, &g), -EPROTO);
	world_close(&w);
}

/* ---- descriptors ------------------------------------------------------ */

static int
try_tx(const struct ctl_ring_open *m, int *fds, unsigned n)
{
	struct ring_tx *tx = NULL;
	int r = ring_tx_open(m, fds, n, &tx);

	cr_expect_eq(r == 0, tx != NULL);
	for (unsigned i = 0; i < n; i++)
		cr_expect_eq(fds[i], -1, "descriptor %u was not consumed", i);
	ring_tx_close(&tx);
	return r;
}

static int
try_rx(const struct ctl_ring_open *m, int *fds, unsigned n)
{
	struct ring_rx *rx = NULL;
	int r = ring_rx_open(m, fds, n, &rx);

	cr_expect_eq(r == 0, rx != NULL);
	for (unsigned i = 0; i < n; i++)
		cr_expect_eq(fds[i], -1, "descriptor %u was not consumed", i);
	ring_rx_close(&rx);
	return r;
}

/* A memfd that is right except for what the caller chose. */
static int
memfd(uint64_t bytes, int seals, bool ro)
{
	int fd = memfd_create("odd", MFD_CLOEXEC | MFD_ALLOW_SEALING), other;
	char path[64];

	cr_assert(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
	cr_assert(seals == 0 || fcntl(fd, F_ADD_SEALS, seals) == 0);
	if (!ro)
		return fd;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	other = open(path, O_RDONLY | O_CLOEXEC);
	close(fd);
	cr_assert(other >= 0);
	return other;
}

static void
replace(int *fd, int by)
{
	fd_close(fd);
	*fd = by;
}

enum { FULL = F_SEAL_SHRINK | F_SEAL_GROW };

Test(attach, producer_refuses_wrong_descriptors)
{
	struct world w;
	int fds[WORLD_FDS_MAX];
	unsigned n, before = world_count_fds();

	world_open(&w, &(struct world_spec){ .consumers = 2 });
	n = world_fds_producer(&w, fds);
	cr_expect_eq(try_tx(&w.open, fds, n), 0);

	n = world_fds_producer(&w, fds);
	cr_expect_eq(try_tx(&w.open, fds, n - 1), -EPROTO, "a missing descriptor");
	fd_close(&fds[n - 1]);
	n = world_fds_producer(&w, fds);
	fds[n] = memfd(4096, FULL, true);
	cr_expect_eq(try_tx(&w.open, fds, n + 1), -EPROTO, "a surplus descriptor");
	for (unsigned i = 0; i < n; i++) {
		uint64_t bytes = i == 0 ? RING_P_BYTES : i == 1 ? w.data_bytes : RING_C_BYTES;

		world_fds_producer(&w, fds);
		replace(&fds[i], memfd(bytes, FULL, i >= 2));
		cr_expect_eq(try_tx(&w.open, fds, n), 0, "twin of %u", i);
		world_fds_producer(&w, fds);
		replace(&fds[i], memfd(bytes, FULL, i < 2));
		cr_expect_eq(try_tx(&w.open, fds, n), -EPROTO, "access mode of %u", i);
		world_fds_producer(&w, fds);
		replace(&fds[i], memfd(bytes - 4096 + (bytes == 4096 ? 8192 : 0), FULL, i >= 2));
		cr_expect_eq(try_tx(&w.open, fds, n), -EPROTO, "size of %u", i);
		world_fds_producer(&w, fds);
		replace(&fds[i], memfd(bytes, F_SEAL_GROW, i >= 2));
		cr_expect_eq(try_tx(&w.open, fds, n), -EPROTO, "%u can be truncated under us", i);
		world_fds_producer(&w, fds);
		replace(&fds[i], memfd(bytes, F_SEAL_SHRINK, i >= 2));
		cr_expect_eq(try_tx(&w.open, fds, n), -EPROTO, "%u can grow", i);
	}
	world_fds_producer(&w, fds);
	replace(&fds[3], fcntl(fds[2], F_DUPFD_CLOEXEC, 0));
	cr_expect_eq(try_tx(&w.open, fds, n), -EPROTO, "the same page twice");
	world_fds_producer(&w, fds);
	replace(&fds[0], open("/dev/null", O_RDWR | O_CLOEXEC));
	cr_expect_eq(try_tx(&w.open, fds, n), -EPROTO, "not a memfd");
	world_close(&w);
	cr_expect_eq(world_count_fds(), before);
}

Test(attach, consumer_refuses_wrong_descriptors)
{
	const int in_seals = FULL | F_SEAL_FUTURE_WRITE;
	struct ctl_ring_open m;
	struct world w;
	int fds[WORLD_FDS_MAX];
	unsigned before = world_count_fds();

	world_open(&w, &(struct world_spec){ .consumers = 2 });
	m = world_msg_consumer(&w, 1);
	world_fds_consumer(&w, 1, fds);
	cr_expect_eq(try_rx(&m, fds, 3), -EPROTO, "an in ring without FUTURE_WRITE: a fellow consumer could write it");
	world_seal(&w);
	world_fds_consumer(&w, 1, fds);
	cr_expect_eq(try_rx(&m, fds, 3), 0);

	world_fds_consumer(&w, 1, fds);
	cr_expect_eq(try_rx(&m, fds, 2), -EPROTO, "a missing descriptor");
	fd_close(&fds[2]);
	world_fds_consumer(&w, 1, fds);
	fds[3] = memfd(4096, FULL, false);
	cr_expect_eq(try_rx(&m, fds, 4), -EPROTO, "a surplus descriptor");
	for (unsigned i = 0; i < 3; i++) {
		uint64_t bytes = i == 0 ? RING_P_BYTES : i == 1 ? w.data_bytes : RING_C_BYTES;
		int seals = i < 2 ? in_seals : FULL;

		world_fds_consumer(&w, 1, fds);
		replace(&fds[i], memfd(bytes, seals, i < 2));
		cr_expect_eq(try_rx(&m, fds, 3), 0, "twin of %u", i);
		world_fds_consumer(&w, 1, fds);
		replace(&fds[i], memfd(bytes, seals, i == 2));
		cr_expect_eq(try_rx(&m, fds, 3), -EPROTO, "access mode of %u", i);
		world_fds_consumer(&w, 1, fds);
		replace(&fds[i], memfd(bytes + 4096, seals, i < 2));
		cr_expect_eq(try_rx(&m, fds, 3), -EPROTO, "size of %u", i);
		world_fds_consumer(&w, 1, fds);
		replace(&fds[i], memfd(bytes, seals & ~F_SEAL_SHRINK, i < 2));
		cr_expect_eq(try_rx(&m, fds, 3), -EPROTO, "%u can be truncated under us", i);
	}
	world_fds_consumer(&w, 1, fds);
	m.role = CTL_RING_PRODUCER;
	cr_expect_eq(try_rx(&m, fds, 3), -EPROTO, "the other role");
	m.role = CTL_RING_CONSUMER;
	m.slot_count++;
	world_fds_consumer(&w, 1, fds);
	cr_expect_eq(try_rx(&m, fds, 3), -EPROTO, "a slot more than there is memory for");
	world_close(&w);
	cr_expect_eq(world_count_fds(), before);
}

Test(attach, out_ring_needs_no_future_write)
{
	struct world w;
	struct ctl_ring_open m;
	int fds[WORLD_FDS_MAX];

	world_open(&w, &(struct world_spec){ .ring_id = CTL_RING_OUT_VIDEO });
	m = world_msg_consumer(&w, 0);
	world_fds_consumer(&w, 0, fds);
	cr_expect_eq(try_rx(&m, fds, 3), 0);
	world_close(&w);
}

/* ---- attached --------------------------------------------------------- */

Test(attach, frames_pass_through_real_memfds_and_nothing_stays_open)
{
	unsigned before = world_count_fds();
	struct world w;
	struct ring_tx *tx = world_start(&w, &(struct world_spec){ .consumers = 2, .holds = { 1, 2 } });
	struct ring_rx *rx[2] = { world_rx(&w, 0, false), world_rx(&w, 1, false) };
	struct ring_frame f;

	for (int i = 0; i < 100; i++) {
		uint64_t seq = world_publish(tx);

		for (int k = 0; k < 2; k++) {
			cr_assert_eq(ring_take(rx[k], &f), RING_TAKEN);
			cr_assert(f.desc.seq == seq && world_payload_ok(&f));
			ring_release(rx[k], &f);
		}
	}
	/* One consumer dies holding a frame; its page goes to the next. */
	world_publish(tx);
	cr_assert_eq(ring_take(rx[1], &f), RING_TAKEN);
	ring_rx_close(&rx[1]);
	rx[1] = world_rx(&w, 1, true);
	cr_assert_eq(ring_take(rx[1], &f), RING_TAKEN);
	cr_expect(f.redelivered && world_payload_ok(&f));
	ring_tx_close(&tx);
	ring_rx_close(&rx[0]);
	ring_rx_close(&rx[1]);
	world_close(&w);
	cr_expect_eq(world_count_fds(), before);
}

Test(attach, doorbell_polls_readable_and_never_blocks_the_producer)
{
	unsigned before = world_count_fds();
	struct world w;
	struct ctl_ring_open m;
	int fds[WORLD_FDS_MAX], bell[2];
	struct ring_tx *tx = NULL;
	struct ring_rx *rx = NULL;
	struct pollfd p;
	int64_t begin;
	unsigned n;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, bell), 0);
	world_open(&w, &(struct world_spec){ .ring_id = CTL_RING_OUT_VIDEO });
	w.open.doorbell_mask = 1;
	n = world_fds_producer(&w, fds);
	fds[n++] = bell[0];
	cr_assert_eq(ring_tx_open(&w.open, fds, n, &tx), 0);
	m = world_msg_consumer(&w, 0);
	n = world_fds_consumer(&w, 0, fds);
	fds[n++] = bell[1];
	cr_assert_eq(ring_rx_open(&m, fds, n, &rx), 0);
	p = (struct pollfd){ .fd = ring_rx_fd(rx), .events = POLLIN };
	cr_assert_geq(p.fd, 0);
	cr_expect_eq(poll(&p, 1, 0), 0);
	world_publish(tx);
	cr_expect_eq(poll(&p, 1, 1000), 1);
	ring_rx_clear_doorbell(rx);
	cr_expect_eq(poll(&p, 1, 0), 0);
	begin = clock_now_ns(); /* far more than the socket holds */
	for (int i = 0; i < 5000; i++)
		cr_assert_neq(world_publish(tx), 0);
	cr_expect_leq(clock_now_ns() - begin, 5 * CLOCK_SEC_NS);
	ring_tx_close(&tx);
	cr_expect_eq(poll(&p, 1, 0), 1);
	cr_expect((p.revents & POLLHUP) != 0, "the producer's end shows as HUP");
	ring_rx_close(&rx);
	world_close(&w);
	cr_expect_eq(world_count_fds(), before);
}

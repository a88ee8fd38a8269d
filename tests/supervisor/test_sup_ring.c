/* SPDX-License-Identifier: MIT */
/*
 * Goal: a ring that the supervisor makes is one that its peers accept, within the operator's limits, and its memory
 * cannot be written by those who may only read it.
 * Method: geometry is compared with what the receivers compute themselves; seals are tried on real memory.
 */
#include "base/clock.h"
#include "base/fd.h"
#include "proto/format.h"
#include "proto/ring.h"
#include "supervisor/sup_memfd.h"
#include "supervisor/sup_ring.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SEC CLOCK_SEC_NS
#define MS  CLOCK_MS_NS

static struct sup_ring_spec
video_spec(uint32_t width, uint32_t height, uint32_t format)
{
	return (struct sup_ring_spec){
		.id = CTL_RING_IN_VIDEO, .generation = 1, .format = format, .width = width, .height = height, .rate_num = 24,
		.rate_den = 1, .hold_count = { 1, 4 }, .depth = { 2, 0 }, .doorbell_mask = 3,
		.payload_bytes_max = UINT64_C(64) << 20, .ring_bytes_max = UINT64_C(1) << 30,
	};
}

Test(ring, geometry_as_the_design_computes_it)
{
	struct sup_ring_spec spec = video_spec(512, 512, FORMAT_RGB24);
	struct ctl_ring_open plan;
	struct ring_geom geom;

	cr_assert_eq(sup_ring_plan(&spec, &plan), SUP_RING_OK);
	cr_expect_eq(plan.slot_count, 8);
	cr_expect_eq(plan.payload_max, 512 * 512 * 3);
	cr_expect(plan.slot_stride % 4096 == 0 && plan.slot_stride >= plan.payload_max + RING_TAIL_BYTES);
	cr_expect_eq(plan.first_seq, (UINT64_C(1) << 32) + 1);
	cr_expect_eq(plan.policy, CTL_POLICY_DROP_OLDEST);
	cr_expect_eq(ring_geom_from_open(&plan, &geom), 0, "the other side agrees");
}

Test(ring, every_plan_is_one_that_the_peers_accept)
{
	struct ctl_ring_open plan;
	struct ring_geom geom;
	unsigned planned = 0;

	for (uint32_t format = 1; format < FORMAT_VIDEO_COUNT; format++)
		for (uint32_t side = 16; side <= 4096; side += 117)
			for (uint32_t holds = 1; holds <= 16; holds += 5) {
				struct sup_ring_spec spec = video_spec(side, side + 3, format);

				spec.hold_count[0] = holds;
				if (sup_ring_plan(&spec, &plan) != SUP_RING_OK)
					continue;
				planned++;
				cr_assert_eq(ring_geom_from_open(&plan, &geom), 0);
				cr_assert_leq(plan.slot_stride * plan.slot_count, spec.ring_bytes_max);
			}
	cr_expect_gt(planned, 100);
}

Test(ring, limits_and_nonsense)
{
	struct sup_ring_spec spec = video_spec(8192, 8192, FORMAT_RGBA);
	struct ctl_ring_open plan;

	cr_expect_eq(sup_ring_plan(&spec, &plan), SUP_RING_TOO_BIG);
	spec = video_spec(4096, 4096, FORMAT_RGBA);
	spec.ring_bytes_max = 100 << 20;
	cr_expect_eq(sup_ring_plan(&spec, &plan), SUP_RING_TOO_BIG);
	spec = video_spec(0, 512, FORMAT_RGB24);
	cr_expect_eq(sup_ring_plan(&spec, &plan), SUP_RING_BAD_FORMAT);
	spec = video_spec(UINT32_MAX, UINT32_MAX, FORMAT_RGB24);
	cr_expect_eq(sup_ring_plan(&spec, &plan), SUP_RING_BAD_FORMAT);
	spec = video_spec(513, 512, FORMAT_NV12);
	cr_expect_eq(sup_ring_plan(&spec, &plan), SUP_RING_BAD_FORMAT);
	spec = video_spec(512, 512, 99);
	cr_expect_eq(sup_ring_plan(&spec, &plan), SUP_RING_BAD_FORMAT);
	spec = video_spec(512, 512, FORMAT_RGB24);
	spec.hold_count[0] = spec.hold_count[1] = 40;
	cr_expect_eq(sup_ring_plan(&spec, &plan), SUP_RING_TOO_MANY);
	spec = (struct sup_ring_spec){ .id = CTL_RING_OUT_AUDIO, .generation = 1, .format = FORMAT_F32, .hold_count = { 1 },
		.sample_rate = 0, .channels = 2, .block_samples = 960, .payload_bytes_max = 1 << 20, .ring_bytes_max = 1 << 30 };
	cr_expect_eq(sup_ring_plan(&spec, &plan), SUP_RING_BAD_FORMAT, "no division by zero");
	spec.sample_rate = 48000;
	cr_assert_eq(sup_ring_plan(&spec, &plan), SUP_RING_OK);
	cr_expect(plan.slot_count == 64 && plan.policy == CTL_POLICY_BLOCK && plan.block_deadline_ns == 20 * MS);
}

Test(ring, holds_of_egress)
{
	cr_expect_eq(sup_ring_egress_holds(100 * MS, 24), 4);
	cr_expect_eq(sup_ring_egress_holds(100 * MS, 30), 5, "33.333 ms is a little less than a third");
	cr_expect_eq(sup_ring_egress_holds(100 * MS, 60), 8);
	cr_expect_eq(sup_ring_egress_holds(1 * MS, 1), 2);
	cr_expect_eq(sup_ring_egress_holds(10 * SEC, 60), 10);
	cr_expect_eq(sup_ring_egress_holds(100 * MS, 0), 2);
}

Test(ring, memory_has_the_seals_it_must_have)
{
	struct sup_ring_spec spec = video_spec(64, 64, FORMAT_RGB24);
	struct ctl_ring_open plan;
	struct sup_ring *ring;
	void *writer;
	int ro;

	cr_assert_eq(sup_ring_plan(&spec, &plan), SUP_RING_OK);
	cr_assert_eq(sup_ring_new(&spec, &plan, &ring), 0);
	cr_assert_eq(sup_ring_reserve(ring), 0);
	writer = mmap(NULL, ring->data_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring->d_rw, 0);
	cr_assert_neq(writer, MAP_FAILED);
	ro = dup(ring->d_ro);
	cr_assert_eq(sup_ring_seal(ring), 0);
	cr_expect(ring->d_rw == -1 && ring->p_rw == -1 && ring->stage == SUP_RING_MAPPED);
	memset(writer, 1, 64); /* the mapping that was there stays writable */
	cr_expect_eq(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ro, 0), MAP_FAILED);
	{
		char path[40];
		int again;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", ro);
		again = open(path, O_RDWR | O_CLOEXEC);
		cr_expect(again == -1 || mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0) == MAP_FAILED);
		fd_close(&again);
	}
	munmap(writer, ring->data_bytes);
	fd_close(&ro);
	sup_ring_free(&ring);
	cr_expect_null(ring);
}

Test(ring, a_foreign_seal_is_noticed)
{
	struct sup_ring_spec spec = video_spec(64, 64, FORMAT_RGB24);
	struct ctl_ring_open plan;
	struct sup_ring *ring;

	cr_assert_eq(sup_ring_plan(&spec, &plan), SUP_RING_OK);
	cr_assert_eq(sup_ring_new(&spec, &plan, &ring), 0);
	cr_assert_eq(sup_memfd_seal_seals(ring->d_rw), 0);
	cr_expect_eq(sup_ring_seal(ring), -EPERM);
	sup_ring_free(&ring);
}

Test(ring, held_frames_are_read_as_what_they_are)
{
	struct sup_ring_spec spec = video_spec(64, 64, FORMAT_RGB24);
	struct ctl_ring_open plan;
	struct sup_ring *ring;
	uint64_t word = ring_word((UINT64_C(1) << 32) + 5, 3), seq[4];

	cr_assert_eq(sup_ring_plan(&spec, &plan), SUP_RING_OK);
	cr_assert_eq(sup_ring_new(&spec, &plan, &ring), 0);
	cr_expect_eq(sup_ring_held(ring, 0, seq, 4), 0);
	cr_assert_eq(pwrite(ring->seat[0].c_rw, &word, sizeof(word), offsetof(struct ring_cons, hold)), (ssize_t)sizeof(word));
	cr_expect_eq(sup_ring_held(ring, 0, seq, 4), 1);
	cr_expect_eq(seq[0], (UINT64_C(1) << 32) + 5);
	word = UINT64_MAX; /* a worker may write anything: no frame of this generation */
	cr_assert_eq(pwrite(ring->seat[0].c_rw, &word, sizeof(word), offsetof(struct ring_cons, hold)), (ssize_t)sizeof(word));
	cr_expect_eq(sup_ring_held(ring, 0, seq, 4), 0);
	sup_ring_free(&ring);
}

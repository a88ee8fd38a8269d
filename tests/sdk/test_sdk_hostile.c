/* SPDX-License-Identifier: MIT */
/*
 * Goal: whatever arrives on descriptor 3 or lies in a ring, a worker ends with an exit code or goes on; it neither
 * crashes nor hangs.
 * Method: the stage sends what a broken or foreign supervisor might. Under a sanitizer a crash has another exit code.
 */
#include "millrace.h"

#include "tests/sdk/sdk_stage.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SESSION = 3, WIDTH = 64, HEIGHT = 32, PROTOCOL = 101 };

TestSuite(sdk_hostile, .timeout = 60);

static void
send_raw(struct stage *st, const void *bytes, size_t n)
{
	cr_assert_eq(send(st->sock, bytes, n, MSG_NOSIGNAL), (ssize_t)n);
}

Test(sdk_hostile, another_version_in_the_handshake)
{
	union ctl_msg msg;
	struct stage st;

	stage_start_program(&st, "passthrough", NULL, NULL);
	stage_expect(&st, CTL_HELLO, &msg);
	ctl_init(&msg, CTL_CONFIG, 0);
	msg.hdr.major = CTL_MAJOR + 1;
	send_raw(&st, &msg, msg.hdr.size);
	cr_assert_eq(stage_wait(&st), PROTOCOL);
}

Test(sdk_hostile, handshake_without_a_page)
{
	union ctl_msg msg;
	struct stage st;

	stage_start_program(&st, "passthrough", NULL, NULL);
	stage_expect(&st, CTL_HELLO, &msg);
	ctl_init(&msg, CTL_CONFIG, 0);
	stage_send(&st, &msg, NULL, 0);
	cr_assert_eq(stage_wait(&st), PROTOCOL);
}

Test(sdk_hostile, handshake_with_a_page_that_is_too_short)
{
	int fd = memfd_create("short", MFD_CLOEXEC);
	union ctl_msg msg;
	struct stage st;

	stage_start_program(&st, "passthrough", NULL, NULL);
	stage_expect(&st, CTL_HELLO, &msg);
	ctl_init(&msg, CTL_CONFIG, 0);
	stage_send(&st, &msg, &fd, 1);
	cr_assert_eq(stage_wait(&st), PROTOCOL);
	close(fd);
}

Test(sdk_hostile, supervisor_that_leaves_during_the_handshake)
{
	union ctl_msg msg;
	struct stage st;

	stage_start_program(&st, "passthrough", NULL, NULL);
	stage_expect(&st, CTL_HELLO, &msg);
	cr_assert_eq(stage_hang_up(&st), 0);
}

Test(sdk_hostile, garbage)
{
	static const size_t sizes[] = { 1, 7, 16, 200, 512, 3000 };
	uint8_t bytes[3000];

	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct stage st;

		stage_open_program(&st, "passthrough");
		memset(bytes, (int)(0x55 + i), sizeof(bytes));
		send_raw(&st, bytes, sizes[i]);
		cr_assert_eq(stage_wait(&st), PROTOCOL);
	}
}

Test(sdk_hostile, messages_out_of_place)
{
	static const enum ctl_type types[] = { CTL_CONFIG, CTL_PUBLISH, CTL_WORKER, CTL_CONTROL_TAKEN };

	for (unsigned i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		union ctl_msg msg;
		struct stage st;

		stage_open_program(&st, "passthrough");
		ctl_init(&msg, types[i], 0);
		stage_send(&st, &msg, NULL, 0);
		cr_assert_eq(stage_wait(&st), PROTOCOL);
	}
}

/* What refers to something that is gone, or not there yet, is a race and no reason to die. */
Test(sdk_hostile, messages_about_nothing)
{
	static const enum ctl_type types[] = { CTL_RING_LIVE, CTL_RING_ENDED, CTL_SESSION_CLOSE, CTL_PARAMS, CTL_RING_OPEN };
	int fd = stage_text_fd("{}", 2);
	struct stage_ring in, out;
	union ctl_msg msg;
	unsigned fds;
	struct stage st;

	stage_open_program(&st, "passthrough");
	stage_session_open(&st, SESSION, "{}");
	stage_ring_make_in(&in, 1, WIDTH, HEIGHT, 1);
	stage_ring_give(&st, SESSION, &in, false);
	stage_ring_grant(&st, SESSION, &out, 1);
	stage_expect_answer(&out, stage_publish(&in, 1), 0, 1);
	fds = stage_count_fds(&st);
	for (unsigned i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		ctl_init(&msg, types[i], SESSION + 1);
		stage_send(&st, &msg, &fd, types[i] >= CTL_PARAMS || types[i] == CTL_RING_OPEN);
	}
	ctl_init(&msg, CTL_RING_LIVE, SESSION);
	msg.ring_ref.ring_id = CTL_RING_OUT_VIDEO;
	msg.ring_ref.generation = 99;
	stage_send(&st, &msg, NULL, 0);
	msg.hdr.type = CTL_RING_ENDED;
	msg.ring_ref.ring_id = CTL_RING_IN_VIDEO;
	stage_send(&st, &msg, NULL, 0);
	for (int i = 0; i < 3; i++)
		stage_expect_answer(&out, stage_publish(&in, 2), 0, 2);
	cr_assert_eq(stage_params(&st, SESSION, 2, "{}", NULL), 0, "everything before it has been read");
	cr_assert_eq(stage_count_fds(&st), fds);
	stage_session_close(&st, SESSION);
	cr_assert_eq(stage_hang_up(&st), 0);
	stage_ring_close(&in);
	stage_ring_close(&out);
	close(fd);
}

Test(sdk_hostile, session_texts)
{
	static const uint64_t said[] = { 1, 3, UINT64_MAX };

	for (unsigned i = 0; i < 4; i++) {
		int fd = stage_text_fd("{}", 2);
		union ctl_msg msg;
		struct stage st;

		stage_open_program(&st, "passthrough");
		ctl_init(&msg, CTL_SESSION_OPEN, SESSION);
		msg.session_open.text_bytes = i < 3 ? said[i] : 2;
		stage_send(&st, &msg, &fd, i < 3 ? 1 : 0);
		cr_assert_eq(stage_wait(&st), PROTOCOL);
		close(fd);
	}
}

Test(sdk_hostile, more_sessions_than_it_can)
{
	struct stage st;

	stage_open_program(&st, "passthrough");
	for (uint32_t i = 0; i <= st.hello.capacity; i++)
		stage_session_open(&st, SESSION + i, "{}");
	cr_assert_eq(stage_wait(&st), PROTOCOL);
}

/* Each change makes a RING_OPEN impossible. */
static void
spoil(unsigned i, struct ctl_ring_open *m, const struct stage_ring *r, int fds[4])
{
	switch (i) {
	case 0:
		m->role = CTL_RING_PRODUCER;
		break;
	case 1:
		m->width = 2 * WIDTH;
		break;
	case 2:
		m->slot_count = 63;
		break;
	case 3:
		m->payload_max = UINT64_MAX;
		break;
	case 4:
		m->first_seq = 1;
		break;
	case 5:
		m->ring_id = 77;
		break;
	case 6:
		m->ring_id = CTL_RING_IN_AUDIO_EGRESS;
		break;
	case 7:
		m->ring_abi_major = RING_ABI_MAJOR + 1;
		break;
	case 8:
		m->doorbell_mask = 0;
		break;
	case 9:
		fds[2] = r->c_ro; /* its own page, but read-only */
		break;
	case 10:
		fds[1] = r->p_ro; /* the same memory twice */
		break;
	case 11:
		fds[0] = r->d_ro;
		break;
	default:
		m->format = FORMAT_RGBA; /* not what it asked for */
		m->payload_max = WIDTH * HEIGHT * 4;
		m->plane_stride[0] = WIDTH * 4;
		break;
	}
}

Test(sdk_hostile, impossible_rings)
{
	for (unsigned i = 0; i < 13; i++) {
		struct stage_ring in;
		struct ctl_ring_open m;
		struct stage st;
		int fds[4];

		stage_open_program(&st, "passthrough");
		stage_session_open(&st, SESSION, "{}");
		stage_ring_make_in(&in, 1, WIDTH, HEIGHT, 1);
		m = in.open;
		m.hdr.session = SESSION;
		m.role = CTL_RING_CONSUMER;
		m.fd_count = 4;
		fds[0] = in.p_ro;
		fds[1] = in.d_ro;
		fds[2] = in.c_rw;
		fds[3] = in.bell[1];
		spoil(i, &m, &in, fds);
		stage_ring_give_raw(&st, &m, fds, 4);
		cr_assert_eq(stage_wait(&st), PROTOCOL, "case %u", i);
		stage_ring_close(&in);
	}
}

Test(sdk_hostile, rings_without_descriptors)
{
	for (unsigned n = 0; n < 4; n++) {
		struct stage_ring in;
		struct ctl_ring_open m;
		struct stage st;
		int fds[4];

		stage_open_program(&st, "passthrough");
		stage_session_open(&st, SESSION, "{}");
		stage_ring_make_in(&in, 1, WIDTH, HEIGHT, 1);
		m = in.open;
		m.hdr.session = SESSION;
		m.role = CTL_RING_CONSUMER;
		m.fd_count = n;
		fds[0] = in.p_ro;
		fds[1] = in.d_ro;
		fds[2] = in.c_rw;
		fds[3] = in.bell[1];
		stage_ring_give_raw(&st, &m, fds, n);
		cr_assert_eq(stage_wait(&st), PROTOCOL);
		stage_ring_close(&in);
	}
}

/* Frames whose descriptor makes no sense are let go; those after them are processed. */
Test(sdk_hostile, incomplete_frames)
{
	struct stage_ring in, out;
	struct stage st;

	stage_open_program(&st, "passthrough");
	stage_session_open(&st, SESSION, "{}");
	stage_ring_make_in(&in, 1, WIDTH, HEIGHT, 1);
	stage_ring_give(&st, SESSION, &in, false);
	stage_ring_grant(&st, SESSION, &out, 1);
	for (uint32_t i = 0; i < 20; i++) {
		struct ring_desc d = { .bytes = i % 2 == 0 ? 0 : WIDTH * HEIGHT * 3 - 1, .flags = i % 3 == 0 ? 0x80 : 0 };
		unsigned slot;

		cr_assert_eq(ring_claim(in.tx, &slot), RING_CLAIMED);
		ring_publish(in.tx, slot, &d);
	}
	stage_expect_answer(&out, stage_publish(&in, 5), 0, 5);
	stage_session_close(&st, SESSION);
	cr_assert_eq(stage_hang_up(&st), 0);
	stage_ring_close(&in);
	stage_ring_close(&out);
}

/* Any bytes at all, behind a header that is right. */
Test(sdk_hostile, random_messages)
{
	uint32_t x = 12345;

	for (unsigned round = 0; round < 150; round++) {
		union ctl_msg msg;
		struct stage st;
		int fd, code;

		stage_open_program(&st, "crash-test");
		stage_session_open(&st, SESSION, "{}");
		for (unsigned i = 0; i < 4; i++) {
			uint32_t type = CTL_SESSION_OPEN + x % 8;

			ctl_init(&msg, (enum ctl_type)type, i % 2 == 0 ? SESSION : 0);
			for (size_t b = sizeof(struct ctl_hdr); b < msg.hdr.size; b++) {
				x = x * 1664525 + 1013904223;
				msg.bytes[b] = x >> 28 < 9 ? 0 : (uint8_t)(x >> 16);
			}
			fd = stage_text_fd("{}", 2);
			if (ctl_send(st.sock, &msg, &fd, x >> 8 & 1) < 0)
				i = 4; /* it has ended already */
			close(fd);
		}
		shutdown(st.sock, SHUT_WR);
		code = stage_wait(&st);
		cr_assert(code == 0 || code == PROTOCOL, "round %u: exit code %d", round, code);
	}
}

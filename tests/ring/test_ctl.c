/* SPDX-License-Identifier: MIT */
/*
 * Goal: control messages arrive as they were sent, with their descriptors, and every violation is refused without
 * leaking a descriptor. The sizes are a promise to workers that were built earlier: the table below is a literal copy.
 */
#include "proto/ctl.h"
#include "ring_world.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

TestSuite(ctl, .timeout = 20);

struct pinned {
	uint32_t type, size;
	const char *name;
	bool from_child;
};

/* Changing a line breaks every worker that exists: that is a new CTL_MAJOR. */
static const struct pinned pinned[] = {
	{ 1, 112, "HELLO", true },	    { 2, 16, "READY", true },
	{ 3, 24, "MAPPED", true },	    { 4, 56, "RING_REQUEST", true },
	{ 5, 24, "RING_CLOSED", true },	    { 6, 472, "PARAMS_RESULT", true },
	{ 7, 464, "STATUS", true },	    { 8, 464, "EVENT", true },
	{ 9, 464, "DATA", true },	    { 10, 16, "SESSION_CLOSED", true },
	{ 11, 464, "CHANNEL", true },	    { 12, 24, "CONTROL", true },
	{ 13, 464, "OVERLAY", true },	    { 64, 40, "CONFIG", false },
	{ 65, 56, "SESSION_OPEN", false },  { 66, 224, "RING_OPEN", false },
	{ 67, 24, "RING_LIVE", false },	    { 68, 24, "RING_ENDED", false },
	{ 69, 32, "PARAMS", false },	    { 70, 16, "SESSION_CLOSE", false },
	{ 71, 16, "DRAIN", false },	    { 72, 32, "PUBLISH", false },
	{ 73, 472, "WORKER", false },	    { 74, 16, "CONTROL_TAKEN", false },
	{ 75, 16, "DELETE_CHANNELS", false },
};
enum { PINNED_COUNT = sizeof(pinned) / sizeof(pinned[0]) };

static void
pair(int *s)
{
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
}

Test(ctl, sizes_and_names_are_those_that_workers_know)
{
	uint32_t known = 0;

	for (size_t i = 0; i < PINNED_COUNT; i++) {
		cr_expect_eq(ctl_size(pinned[i].type), pinned[i].size, "%s: %u", pinned[i].name, ctl_size(pinned[i].type));
		cr_expect_str_eq(ctl_type_name(pinned[i].type), pinned[i].name);
	}
	for (uint32_t type = 0; type < 70000; type++)
		known += ctl_size(type) != 0;
	cr_expect_eq(known, PINNED_COUNT, "a message without a line in this table");
	cr_expect_str_eq(ctl_type_name(999), "?");
}

Test(ctl, offsets_are_those_that_workers_know)
{
	cr_expect(offsetof(struct ctl_hdr, size) == 4 && offsetof(struct ctl_hdr, txn) == 12);
	cr_expect(offsetof(struct ctl_hello, role) == 20 && offsetof(struct ctl_hello, name) == 48);
	cr_expect(offsetof(struct ctl_ring_open, ring_id) == 20 && offsetof(struct ctl_ring_open, slot_count) == 52);
	cr_expect(offsetof(struct ctl_ring_open, slot_stride) == 56 && offsetof(struct ctl_ring_open, first_seq) == 72);
	cr_expect(offsetof(struct ctl_ring_open, plane_offset) == 104 && offsetof(struct ctl_ring_open, hold_count) == 156);
	cr_expect(offsetof(struct ctl_ring_open, doorbell_mask) == 172 && offsetof(struct ctl_ring_open, skip_seq) == 192);
	cr_expect(offsetof(struct ctl_session_open, params_version) == 24 && offsetof(struct ctl_session_open, width) == 40);
	cr_expect(offsetof(struct ctl_params_result, status) == 24 && offsetof(struct ctl_params_result, text) == 32);
	cr_expect(offsetof(struct ctl_text, text) == 24 && offsetof(struct ctl_channel, text) == 24);
}

Test(ctl, every_message_arrives_as_it_was_sent)
{
	int s[2];

	pair(s);
	for (size_t i = 0; i < PINNED_COUNT; i++) {
		union ctl_msg in, out;
		unsigned n = 99;

		ctl_init(&in, (enum ctl_type)pinned[i].type, 42);
		in.hdr.txn = (uint32_t)i;
		cr_assert_eq(ctl_send(s[0], &in, NULL, 0), 0);
		cr_assert_eq(ctl_recv(s[1], &out, pinned[i].from_child, NULL, 0, &n), 0, "%s", pinned[i].name);
		cr_expect_eq(n, 0);
		cr_expect_eq(memcmp(&in, &out, sizeof(in)), 0);
		/* the same from the wrong side */
		cr_assert_eq(ctl_send(s[0], &in, NULL, 0), 0);
		cr_expect_eq(ctl_recv(s[1], &out, !pinned[i].from_child, NULL, 0, &n), -EPROTO, "%s", pinned[i].name);
	}
	close(s[0]);
	close(s[1]);
}

Test(ctl, messages_keep_their_boundaries_and_descriptors)
{
	unsigned before = world_count_fds(), n = 0;
	int s[2], p[2], fds[CTL_FDS_MAX], sent[CTL_FDS_MAX];
	union ctl_msg in, out;
	char byte = 0;

	pair(s);
	cr_assert_eq(pipe2(p, O_CLOEXEC), 0);
	for (int i = 0; i < CTL_FDS_MAX; i++)
		sent[i] = p[1];
	ctl_init(&in, CTL_PARAMS, 1);
	cr_assert_eq(ctl_send(s[0], &in, sent, 1), 0);
	ctl_init(&in, CTL_DRAIN, 1);
	cr_assert_eq(ctl_send(s[0], &in, NULL, 0), 0);
	ctl_init(&in, CTL_RING_OPEN, 1);
	cr_assert_eq(ctl_send(s[0], &in, sent, CTL_FDS_MAX), 0);

	cr_assert_eq(ctl_recv(s[1], &out, false, fds, CTL_FDS_MAX, &n), 0);
	cr_assert(out.hdr.type == CTL_PARAMS && n == 1);
	cr_expect_eq(fcntl(fds[0], F_GETFD), FD_CLOEXEC);
	cr_assert_eq(write(fds[0], "x", 1), 1);
	cr_expect(read(p[0], &byte, 1) == 1 && byte == 'x', "it is the same pipe");
	close(fds[0]);
	cr_assert_eq(ctl_recv(s[1], &out, false, fds, CTL_FDS_MAX, &n), 0);
	cr_assert(out.hdr.type == CTL_DRAIN && n == 0);
	cr_assert_eq(ctl_recv(s[1], &out, false, fds, CTL_FDS_MAX, &n), 0);
	cr_assert(out.hdr.type == CTL_RING_OPEN && n == CTL_FDS_MAX);
	for (unsigned i = 0; i < n; i++)
		close(fds[i]);
	cr_expect_eq(ctl_recv(s[1], &out, false, fds, CTL_FDS_MAX, &n), -EAGAIN);
	close(s[0]);
	cr_expect_eq(ctl_recv(s[1], &out, false, fds, CTL_FDS_MAX, &n), -ESHUTDOWN);
	close(s[1]);
	close(p[0]);
	close(p[1]);
	cr_expect_eq(world_count_fds(), before);
}

/* ---- violations ------------------------------------------------------- */

static int
send_raw(int sock, const void *data, size_t bytes)
{
	return send(sock, data, bytes, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)bytes ? 0 : -errno;
}

static int
recv_raw(int *s, const void *data, size_t bytes, bool from_child)
{
	union ctl_msg out;
	unsigned n = 0;

	cr_assert_eq(send_raw(s[0], data, bytes), 0);
	return ctl_recv(s[1], &out, from_child, NULL, 0, &n);
}

Test(ctl, wrong_headers_are_refused)
{
	union ctl_msg good, m;
	int s[2];

	pair(s);
	ctl_init(&good, CTL_HELLO, 0);
	cr_assert_eq(recv_raw(s, &good, good.hdr.size, true), 0);
	m = good;
	m.hdr.major++;
	cr_expect_eq(recv_raw(s, &m, m.hdr.size, true), -EPROTO, "major version");
	m = good;
	m.hdr.minor++;
	cr_expect_eq(recv_raw(s, &m, m.hdr.size, true), 0, "minor versions differ freely");
	m = good;
	m.hdr.size--;
	cr_expect_eq(recv_raw(s, &m, good.hdr.size, true), -EPROTO, "size is not that of the datagram");
	cr_expect_eq(recv_raw(s, &m, good.hdr.size - 1, true), -EPROTO, "truncated");
	cr_expect_eq(recv_raw(s, &good, good.hdr.size - 1, true), -EPROTO, "cut short");
	cr_expect_eq(recv_raw(s, &good, sizeof(struct ctl_hdr) - 1, true), -EPROTO, "less than a header");
	for (uint32_t type = 0; type < 300; type++) {
		if (ctl_size(type) != 0)
			continue;
		m = good;
		m.hdr.type = (uint16_t)type;
		cr_expect_eq(recv_raw(s, &m, m.hdr.size, true), -EPROTO, "type %u", type);
		cr_expect_eq(recv_raw(s, &m, m.hdr.size, false), -EPROTO, "type %u", type);
	}
	close(s[0]);
	close(s[1]);
}

/* A newer supervisor may send more than we know; a newer worker may not. */
Test(ctl, trailing_fields_are_for_children_only)
{
	union ctl_msg m;
	uint8_t big[CTL_BYTES_MAX + 64] = { 0 };
	int s[2];

	pair(s);
	ctl_init(&m, CTL_RING_LIVE, 0);
	m.hdr.size += 8;
	cr_expect_eq(recv_raw(s, &m, m.hdr.size, false), 0);
	ctl_init(&m, CTL_MAPPED, 0);
	m.hdr.size += 8;
	cr_expect_eq(recv_raw(s, &m, m.hdr.size, true), -EPROTO);
	ctl_init(&m, CTL_RING_LIVE, 0);
	m.hdr.size = sizeof(big);
	memcpy(big, &m.hdr, sizeof(m.hdr));
	cr_expect_eq(recv_raw(s, big, sizeof(big), false), -EPROTO, "larger than any message");
	close(s[0]);
	close(s[1]);
}

static void
expect_text_checked(int *s, uint32_t type, size_t at, size_t max, bool from_child)
{
	union ctl_msg m;

	ctl_init(&m, (enum ctl_type)type, 0);
	memset(m.bytes + at, 'a', max - 1);
	cr_expect_eq(recv_raw(s, &m, m.hdr.size, from_child), 0, "%s: full text", ctl_type_name(type));
	m.bytes[at + max - 1] = 'a';
	cr_expect_eq(recv_raw(s, &m, m.hdr.size, from_child), -EPROTO, "%s: no terminator", ctl_type_name(type));
}

Test(ctl, texts_without_an_end_are_refused)
{
	int s[2];

	pair(s);
	expect_text_checked(s, CTL_HELLO, 48, 64, true);
	expect_text_checked(s, CTL_PARAMS_RESULT, 32, CTL_TEXT_MAX, true);
	expect_text_checked(s, CTL_STATUS, 24, CTL_TEXT_MAX, true);
	expect_text_checked(s, CTL_EVENT, 24, CTL_TEXT_MAX, true);
	expect_text_checked(s, CTL_DATA, 24, CTL_TEXT_MAX, true);
	expect_text_checked(s, CTL_CHANNEL, 24, CTL_TEXT_MAX, true);
	expect_text_checked(s, CTL_OVERLAY, 24, CTL_TEXT_MAX, true);
	expect_text_checked(s, CTL_WORKER, 32, CTL_TEXT_MAX, false);
	close(s[0]);
	close(s[1]);
}

Test(ctl, reserved_fields_must_be_zero)
{
	static const struct {
		uint32_t type;
		size_t at;
		bool from_child;
	} rows[] = {
		{ CTL_HELLO, offsetof(struct ctl_hello, reserved), true },
		{ CTL_RING_REQUEST, offsetof(struct ctl_ring_request, reserved), true },
		{ CTL_PARAMS_RESULT, offsetof(struct ctl_params_result, reserved), true },
		{ CTL_STATUS, offsetof(struct ctl_text, reserved), true },
		{ CTL_CONFIG, offsetof(struct ctl_config, reserved), false },
		{ CTL_SESSION_OPEN, offsetof(struct ctl_session_open, reserved), false },
		{ CTL_RING_OPEN, offsetof(struct ctl_ring_open, reserved), false },
		{ CTL_PUBLISH, offsetof(struct ctl_publish, reserved), false },
		{ CTL_WORKER, offsetof(struct ctl_worker, reserved), false },
	};
	int s[2];

	pair(s);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		for (int byte = 0; byte < 4; byte++) {
			union ctl_msg m;

			ctl_init(&m, (enum ctl_type)rows[i].type, 0);
			m.bytes[rows[i].at + (size_t)byte] = 1;
			cr_expect_eq(recv_raw(s, &m, m.hdr.size, rows[i].from_child), -EPROTO, "%s",
			    ctl_type_name(rows[i].type));
		}
	close(s[0]);
	close(s[1]);
}

/* More descriptors than the receiver has room for, or descriptors where none may come: none of them stays. */
Test(ctl, surplus_descriptors_never_stay)
{
	unsigned before = world_count_fds(), n = 0;
	int s[2], fds[CTL_FDS_MAX], sent[CTL_FDS_MAX];
	union ctl_msg m, out;

	pair(s);
	for (int i = 0; i < CTL_FDS_MAX; i++)
		sent[i] = s[0];
	ctl_init(&m, CTL_CONFIG, 0);
	cr_assert_eq(ctl_send(s[0], &m, sent, 3), 0);
	cr_expect_eq(ctl_recv(s[1], &out, false, fds, 2, &n), -EPROTO);
	cr_assert_eq(ctl_send(s[0], &m, sent, 2), 0);
	cr_expect_eq(ctl_recv(s[1], &out, false, fds, 2, &n), 0);
	cr_expect_eq(n, 2);
	close(fds[0]);
	close(fds[1]);
	/* an invalid message with descriptors */
	m.hdr.major++;
	cr_assert_eq(ctl_send(s[0], &m, sent, 2), 0);
	cr_expect_eq(ctl_recv(s[1], &out, false, fds, 2, &n), -EPROTO);
	/* a worker passes some: the supervisor has no room for any, and they do not enter it */
	ctl_init(&m, CTL_READY, 0);
	cr_assert_eq(ctl_send(s[0], &m, sent, CTL_FDS_MAX), 0);
	n = 99;
	cr_expect_eq(ctl_recv(s[1], &out, true, NULL, 0, &n), 0);
	cr_expect_eq(n, 0);
	close(s[0]);
	close(s[1]);
	cr_expect_eq(world_count_fds(), before);
}

Test(ctl, full_socket_and_dead_peer_are_told_apart)
{
	union ctl_msg m;
	int s[2], r = 0, sent = 0;

	pair(s);
	ctl_init(&m, CTL_DATA, 0);
	while ((r = ctl_send(s[0], &m, NULL, 0)) == 0)
		cr_assert_lt(++sent, 100000);
	cr_expect_eq(r, -EAGAIN);
	close(s[1]);
	r = ctl_send(s[0], &m, NULL, 0);
	cr_expect(r == -EPIPE || r == -ECONNRESET, "%d", r);
	close(s[0]);
}

/* SPDX-License-Identifier: MIT */
/*
 * Control messages: one table, sending and receiving with descriptors
 *
 * A received message is input. It is copied out of the socket once and checked here, so that a handler sees a known
 * type, the right size, texts with a terminator and reserved fields that are 0; the meaning of each field is checked
 * by its handler.
 */
#include "proto/ctl.h"

#include "base/assert.h"
#include "base/err.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct ctl_row {
	const char *name;
	uint32_t size;
	uint32_t text_at;  /* offset of a NUL-terminated text; 0: none */
	uint32_t text_max; /* its size */
	uint32_t zero_at;  /* offset of a reserved 32-bit field; 0: none */
};

#define TEXT(type, field) offsetof(struct type, field), sizeof(((struct type *)0)->field)
#define ZERO(type) offsetof(struct type, reserved)

// clang-format off
static const struct ctl_row rows[] = {
	[CTL_HELLO]          = { "HELLO",          sizeof(struct ctl_hello), TEXT(ctl_hello, name), ZERO(ctl_hello) },
	[CTL_READY]          = { "READY",          sizeof(struct ctl_hdr), 0, 0, 0 },
	[CTL_MAPPED]         = { "MAPPED",         sizeof(struct ctl_ring_ref), 0, 0, 0 },
	[CTL_RING_REQUEST]   = { "RING_REQUEST",   sizeof(struct ctl_ring_request), 0, 0, ZERO(ctl_ring_request) },
	[CTL_RING_CLOSED]    = { "RING_CLOSED",    sizeof(struct ctl_ring_ref), 0, 0, 0 },
	[CTL_PARAMS_RESULT]  = { "PARAMS_RESULT",  sizeof(struct ctl_params_result), TEXT(ctl_params_result, text), ZERO(ctl_params_result) },
	[CTL_STATUS]         = { "STATUS",         sizeof(struct ctl_text), TEXT(ctl_text, text), ZERO(ctl_text) },
	[CTL_EVENT]          = { "EVENT",          sizeof(struct ctl_text), TEXT(ctl_text, text), ZERO(ctl_text) },
	[CTL_DATA]           = { "DATA",           sizeof(struct ctl_text), TEXT(ctl_text, text), ZERO(ctl_text) },
	[CTL_SESSION_CLOSED] = { "SESSION_CLOSED", sizeof(struct ctl_hdr), 0, 0, 0 },
	[CTL_CHANNEL]        = { "CHANNEL",        sizeof(struct ctl_channel), TEXT(ctl_channel, text), 0 },
	[CTL_CONTROL]        = { "CONTROL",        sizeof(struct ctl_control), 0, 0, 0 },
	[CTL_OVERLAY]        = { "OVERLAY",        sizeof(struct ctl_overlay), TEXT(ctl_overlay, text), 0 },
	[CTL_CONFIG]         = { "CONFIG",         sizeof(struct ctl_config), 0, 0, ZERO(ctl_config) },
	[CTL_SESSION_OPEN]   = { "SESSION_OPEN",   sizeof(struct ctl_session_open), 0, 0, ZERO(ctl_session_open) },
	[CTL_RING_OPEN]      = { "RING_OPEN",      sizeof(struct ctl_ring_open), 0, 0, ZERO(ctl_ring_open) },
	[CTL_RING_LIVE]      = { "RING_LIVE",      sizeof(struct ctl_ring_ref), 0, 0, 0 },
	[CTL_RING_ENDED]     = { "RING_ENDED",     sizeof(struct ctl_ring_ref), 0, 0, 0 },
	[CTL_PARAMS]         = { "PARAMS",         sizeof(struct ctl_params), 0, 0, 0 },
	[CTL_SESSION_CLOSE]  = { "SESSION_CLOSE",  sizeof(struct ctl_hdr), 0, 0, 0 },
	[CTL_DRAIN]          = { "DRAIN",          sizeof(struct ctl_hdr), 0, 0, 0 },
	[CTL_PUBLISH]        = { "PUBLISH",        sizeof(struct ctl_publish), 0, 0, ZERO(ctl_publish) },
	[CTL_WORKER]         = { "WORKER",         sizeof(struct ctl_worker), TEXT(ctl_worker, text), ZERO(ctl_worker) },
	[CTL_CONTROL_TAKEN]  = { "CONTROL_TAKEN",  sizeof(struct ctl_hdr), 0, 0, 0 },
	[CTL_DELETE_CHANNELS] = { "DELETE_CHANNELS", sizeof(struct ctl_hdr), 0, 0, 0 },
};
// clang-format on

static const struct ctl_row *
row_of(uint32_t type)
{
	if (type >= sizeof(rows) / sizeof(rows[0]) || rows[type].size == 0)
		return NULL;
	return &rows[type];
}

uint32_t
ctl_size(uint32_t type)
{
	const struct ctl_row *row = row_of(type);

	return row != NULL ? row->size : 0;
}

const char *
ctl_type_name(uint32_t type)
{
	const struct ctl_row *row = row_of(type);

	return row != NULL ? row->name : "?";
}

void
ctl_init(union ctl_msg *msg, enum ctl_type type, uint32_t session)
{
	MR_ASSERT(ctl_size(type) != 0);
	memset(msg, 0, sizeof(*msg));
	msg->hdr = (struct ctl_hdr){
		.type = (uint16_t)type, .major = CTL_MAJOR, .minor = CTL_MINOR, .size = ctl_size(type), .session = session,
	};
}

int
ctl_send(int sock, const union ctl_msg *msg, const int *fds, unsigned fd_count)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * CTL_FDS_MAX)];
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)msg, .iov_len = msg->hdr.size };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	MR_ASSERT(fd_count <= CTL_FDS_MAX);
	MR_ASSERT(msg->hdr.size == ctl_size(msg->hdr.type));
	if (fd_count > 0) {
		struct cmsghdr *c;

		m.msg_control = control.bytes;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * fd_count);
	}
	for (;;) {
		if (sendmsg(sock, &m, MSG_DONTWAIT | MSG_NOSIGNAL) != -1)
			return 0;
		if (errno == EINTR)
			continue;
		return errno == EAGAIN ? -EAGAIN : err_origin(-errno);
	}
}

static bool
is_valid(const union ctl_msg *msg, size_t bytes, bool from_child)
{
	const struct ctl_row *row;
	uint32_t reserved;

	if (bytes < sizeof(struct ctl_hdr) || msg->hdr.major != CTL_MAJOR || msg->hdr.size != bytes)
		return false;
	row = row_of(msg->hdr.type);
	if (row == NULL || from_child != (msg->hdr.type <= CTL_CHILD_LAST))
		return false;
	if (from_child ? bytes != row->size : bytes < row->size)
		return false;
	if (row->text_max != 0 && memchr(msg->bytes + row->text_at, '\0', row->text_max) == NULL)
		return false;
	if (row->zero_at == 0)
		return true;
	memcpy(&reserved, msg->bytes + row->zero_at, sizeof(reserved));
	return reserved == 0;
}

/* Collects descriptors; those beyond fds_max are closed and make the message a violation. */
static bool
collect_fds(struct msghdr *m, int *fds, unsigned fds_max, unsigned *fd_count)
{
	bool ok = (m->msg_flags & MSG_CTRUNC) == 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c != NULL; c = CMSG_NXTHDR(m, c)) {
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (*fd_count < fds_max) {
				fds[(*fd_count)++] = fd;
			} else {
				close(fd);
				ok = false;
			}
		}
	}
	return ok;
}

int
ctl_recv(int sock, union ctl_msg *msg, bool from_child, int *fds, unsigned fds_max, unsigned *fd_count)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * CTL_FDS_MAX)];
	} control;
	struct iovec iov = { .iov_base = msg, .iov_len = sizeof(*msg) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	unsigned count = 0;
	ssize_t n;
	bool ok;

	memset(msg, 0, sizeof(*msg));
	if (fds_max > 0) {
		m.msg_control = control.bytes;
		m.msg_controllen = sizeof(control.bytes);
	}
	do
		n = recvmsg(sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n == -1 && errno == EINTR);
	if (n == -1)
		return errno == EAGAIN ? -EAGAIN : errno == ECONNRESET ? -ESHUTDOWN : err_origin(-errno);
	/* With no room for descriptors the kernel drops what was passed and sets MSG_CTRUNC: not an error. */
	ok = fds_max == 0 || collect_fds(&m, fds, fds_max, &count);
	if (n == 0 && count == 0)
		return -ESHUTDOWN;
	if (!ok || (m.msg_flags & MSG_TRUNC) != 0 || !is_valid(msg, (size_t)n, from_child)) {
		for (unsigned i = 0; i < count; i++)
			close(fds[i]);
		return err_origin(-EPROTO);
	}
	if (fd_count != NULL)
		*fd_count = count;
	return 0;
}

/* SPDX-License-Identifier: MIT */
/*
 * Worker SDK: connecting and leaving
 *
 * The handshake is HELLO, CONFIG; the application then loads its model and says READY. Everything that this library
 * does to the process as a whole happens here: descriptor 3 becomes close-on-exec, the process becomes undumpable.
 */
#include "sdk_priv.h"

#include "base/assert.h"
#include "base/err.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/testpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef __has_feature
#define __has_feature(x) 0
#endif

static_assert((int)MR_FORMAT_RGB24 == FORMAT_RGB24 && (int)MR_FORMAT_RGBA == FORMAT_RGBA &&
    (int)MR_FORMAT_BGR24 == FORMAT_BGR24 && (int)MR_FORMAT_NV12 == FORMAT_NV12 &&
    (int)MR_FORMAT_I420 == FORMAT_I420 && (int)MR_FORMAT_RGBF32P == FORMAT_RGBF32P &&
    (int)MR_FORMAT_F32 == FORMAT_F32, "the header's own words mean what the protocol's do");
static_assert((int)MR_REASON_ERROR == RING_REASON_ERROR && (int)MR_REASON_BUSY == RING_REASON_BUSY &&
    (int)MR_REASON_LOADING == RING_REASON_LOADING && (int)MR_REASON_LOADING == RING_REASON_MAX, "likewise");
static_assert(MR_TEXT_MAX == CTL_TEXT_MAX - 1, "likewise");

const char *
mr_version(void)
{
	return MR_VERSION;
}

void
mr_worker_config_init(struct mr_worker_config *config, size_t size)
{
	const struct mr_worker_config defaults = {
		.size = size, .format = MR_FORMAT_RGB24, .capacity = 1, .hold_count = 1,
	};

	memset(config, 0, size);
	memcpy(config, &defaults, size < sizeof(defaults) ? size : sizeof(defaults));
}

void
mr_worker_callbacks_init(struct mr_worker_callbacks *callbacks, size_t size)
{
	memset(callbacks, 0, size);
	callbacks->size = size;
}

static bool
is_supervised(void)
{
	int type = 0, domain = 0;
	socklen_t bytes = sizeof(int);

	return getsockopt(CTL_FD, SOL_SOCKET, SO_TYPE, &type, &bytes) == 0 && type == SOCK_SEQPACKET &&
	    getsockopt(CTL_FD, SOL_SOCKET, SO_DOMAIN, &domain, &bytes) == 0 && domain == AF_UNIX;
}

static void
explain_alone(void)
{
	fprintf(stderr, "%s: this program is a millrace worker: it processes the frames of a stream that millrace hands "
	    "to it, and does nothing by itself.\nStart it with: millrace serve --worker %s\n",
	    program_invocation_short_name, program_invocation_name);
}

/* Checks the caller's settings into the library's copy of today's size. */
static int
take_config(const struct mr_worker_config *from, struct mr_worker_config *to)
{
	mr_worker_config_init(to, sizeof(*to));
	if (from != NULL) {
		if (from->size < offsetof(struct mr_worker_config, format) || from->size > 4096)
			return err_origin(-EINVAL);
		memcpy(to, from, from->size < sizeof(*to) ? from->size : sizeof(*to));
		to->size = sizeof(*to);
	}
	if (to->format < MR_FORMAT_RGB24 || to->format > MR_FORMAT_RGBF32P || to->capacity < 1 ||
	    to->capacity > SDK_CAPACITY_MAX || to->hold_count < 1 || to->hold_count > RING_HOLDS_MAX)
		return err_origin(-EINVAL);
	if (to->name == NULL)
		to->name = program_invocation_short_name;
	return 0;
}

static int
say_hello(struct mr_worker *w)
{
	union ctl_msg msg;

	ctl_init(&msg, CTL_HELLO, 0);
	msg.hello.ring_abi_major = RING_ABI_MAJOR;
	msg.hello.ring_abi_minor = RING_ABI_MINOR;
	msg.hello.role = CTL_ROLE_WORKER;
	msg.hello.flags = CTL_HELLO_DOORBELL | (w->config.audio ? CTL_HELLO_AUDIO : 0);
	msg.hello.format = w->config.format;
	msg.hello.capacity = w->config.capacity;
	msg.hello.hold_count = w->config.hold_count;
	msg.hello.pid = (uint32_t)getpid();
	sdk_copy_text(msg.hello.name, sizeof(msg.hello.name), w->config.name);
	return sdk_must_send(w, &msg);
}

/* Another version is worth a sentence of its own. */
static void
explain_version(int sock)
{
	struct ctl_hdr hdr;

	if (recv(sock, &hdr, sizeof(hdr), MSG_PEEK | MSG_DONTWAIT) == (ssize_t)sizeof(hdr) && hdr.major != CTL_MAJOR)
		log_error("sdk", "version", "unable to work with this supervisor: it speaks version %u.%u of the worker "
		    "protocol, libmillrace " MR_VERSION " speaks %d.%d: install the two together", hdr.major, hdr.minor,
		    CTL_MAJOR, CTL_MINOR);
}

static int
wait_for_config(struct mr_worker *w, union ctl_msg *msg, int *fd)
{
	int64_t deadline_ns = clock_now_ns() + SDK_HANDSHAKE_MS * CLOCK_MS_NS;
	unsigned fd_count = 0;
	int r;

	for (;;) {
		struct pollfd p = { .fd = w->ctl, .events = POLLIN };
		int64_t now_ns = clock_now_ns();

		if (now_ns >= deadline_ns)
			return err_origin(-ETIMEDOUT);
		if (poll(&p, 1, clock_poll_ms(deadline_ns, now_ns, SDK_HANDSHAKE_MS)) == -1 && errno != EINTR)
			return err_origin(-errno);
		explain_version(w->ctl);
		r = ctl_recv(w->ctl, msg, false, fd, 1, &fd_count);
		if (r != -EAGAIN)
			break;
	}
	if (r < 0)
		return err_trace(r);
	if (msg->hdr.type != CTL_CONFIG || fd_count != 1) {
		fd_close(fd);
		return err_origin(-EPROTO);
	}
	return 0;
}

static int
handshake(struct mr_worker *w)
{
	union ctl_msg msg;
	int fd = -1, r;

	r = say_hello(w);
	if (r < 0)
		return err_trace(r);
	r = wait_for_config(w, &msg, &fd);
	if (r < 0)
		return err_trace(r);
	w->child_id = msg.config.child_id;
	w->stats = stats_map(fd, 1);
	fd_close(&fd);
	return w->stats == NULL ? err_origin(-errno) : 0;
}

/* Other processes of this user shall not read our memory, but a leak checker of our own must. */
static void
hide_memory(void)
{
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !__has_feature(address_sanitizer)
	const char *keep = getenv("MILLRACE_DUMPABLE");

	if ((keep == NULL || strcmp(keep, "1") != 0) && prctl(PR_SET_DUMPABLE, 0) == -1)
		log_warn("sdk", "dumpable", "unable to hide the memory of this process: %s", strerror(errno));
#endif
}

int
mr_open(const struct mr_worker_config *config, struct mr_worker **out)
{
	struct epoll_event ev = { .events = EPOLLIN };
	struct mr_worker *w;
	int r;

	if (!is_supervised()) {
		explain_alone();
		return err_origin(-ENOTCONN);
	}
	log_open("worker");
	testpoint_open();
	w = calloc(1, sizeof(*w));
	if (w == NULL)
		return err_origin(-ENOMEM);
	w->magic = SDK_WORKER_MAGIC;
	w->ctl = CTL_FD;
	w->epoll = -1;
	w->ctl_look = true;
	w->say_tokens = SDK_SAY_BURST;
	w->say_ns = clock_now_ns();
	r = take_config(config, &w->config);
	if (r < 0)
		goto free_worker;
	hide_memory();
	if (fcntl(w->ctl, F_SETFD, FD_CLOEXEC) == -1 || (w->epoll = epoll_create1(EPOLL_CLOEXEC)) == -1 ||
	    epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->ctl, &ev) == -1) { /* data.ptr NULL: the control socket */
		r = err_origin(-errno);
		goto close_epoll;
	}
	r = handshake(w);
	if (r < 0)
		goto close_epoll;
	w->config.name = NULL; /* was borrowed */
	*out = w;
	return 0;
close_epoll:
	fd_close(&w->epoll);
free_worker:
	w->magic = 0;
	free(w);
	return r;
}

int
mr_ready(struct mr_worker *w)
{
	union ctl_msg msg;
	int r;

	MR_ASSERT(w->magic == SDK_WORKER_MAGIC);
	if (w->is_ready)
		return 0;
	ctl_init(&msg, CTL_READY, 0);
	r = sdk_must_send(w, &msg);
	if (r < 0)
		return err_trace(r);
	w->is_ready = true;
	return 0;
}

void
mr_close(struct mr_worker **wp)
{
	struct mr_worker *w = *wp;

	if (w == NULL)
		return;
	MR_ASSERT(w->magic == SDK_WORKER_MAGIC);
	for (unsigned i = 0; i < SDK_CAPACITY_MAX; i++) {
		if (w->session[i] == NULL)
			continue;
		sdk_session_fini(w->session[i]);
		w->session[i]->magic = 0;
		free(w->session[i]);
	}
	stats_unmap(&w->stats);
	fd_close(&w->epoll);
	fd_close(&w->ctl);
	w->magic = 0;
	free(w);
	*wp = NULL;
}

int
mr_pollfd(const struct mr_worker *w)
{
	MR_ASSERT(w->magic == SDK_WORKER_MAGIC);
	return w->epoll;
}

int
mr_exit_code(int error)
{
	switch (error) {
	case 0:
	case -ESHUTDOWN:
	case -EPIPE:
	case -ECONNRESET:
		return 0;
	case -ENOTCONN:
		return 64;
	case -EINVAL:
		return 100;
	case -EPROTO:
		return 101;
	case MR_LOAD_PERMANENT:
		return 125;
	default:
		return 111;
	}
}

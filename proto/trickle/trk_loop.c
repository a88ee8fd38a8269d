/* SPDX-License-Identifier: MIT */
/*
 * The loop
 *
 * One turn is: work, wait, work. To work is to let libcurl move bytes, note what it finished, and pump every member,
 * again and again until nothing that was pumped gave libcurl anything new to do. So bytes written before a turn, or by
 * a callback inside it, are on the wire when it returns, and no timeout stands between a write and its packet.
 *
 * A member that is closed, perhaps by its own callback, is only unlinked and freed between passes; until then its
 * memory and what its callbacks were handed stay valid.
 *
 * SIGPIPE is set to be ignored unless somebody handles it: libcurl cannot keep TLS libraries from raising it.
 */
#include "base/fd.h"
#include "proto/trickle/trk_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define TRK_CA_BYTES_MAX  (8u << 20)
#define TRK_ROUNDS_MAX	  64	/* of one work phase: a writer faster than us cannot keep a turn for ever */
#define TRK_WAIT_MS_MAX	  60000

static void
curl_init(void)
{
	struct sigaction old;

	curl_global_init(CURL_GLOBAL_DEFAULT);
	if (sigaction(SIGPIPE, NULL, &old) == 0 && old.sa_handler == SIG_DFL) {
		struct sigaction ignore = { .sa_handler = SIG_IGN };

		(void)sigaction(SIGPIPE, &ignore, NULL);
	}
}

/* Certificates are read while files may still be opened. */
static int
ca_load(struct trk_loop *loop, const char *path)
{
	const char *chosen = path ? path : curl_version_info(CURLVERSION_NOW)->cainfo;
	int r, fd;

	if (chosen == NULL)
		return 0;
	fd = open(chosen, O_RDONLY | O_CLOEXEC);
	if (fd == -1)
		return path ? err_origin(-errno) : 0;
	r = fd_read_whole(fd, TRK_CA_BYTES_MAX, &loop->ca_blob, &loop->ca_blob_bytes);
	fd_close(&fd);
	return path ? err_trace(r) : 0;
}

int
trk_loop_new(const struct trk_loop_config *config, struct trk_loop **out)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct trk_loop *loop;
	const char *proxy;
	int r;

	(void)pthread_once(&once, curl_init);
	loop = calloc(1, sizeof(*loop));
	if (loop == NULL)
		return err_origin(-ENOMEM);
	loop->magic = TRK_LOOP_MAGIC;
	loop->tls_verify = config->tls_verify;
	loop->rng = config->seed ? config->seed : (uint64_t)clock_now_ns() | 1;
	proxy = getenv("MILLRACE_PROXY"); /* only this one: a media path is no business of http_proxy */
	loop->proxy = proxy ? proxy : "";
	loop->multi = curl_multi_init();
	r = loop->multi == NULL ? err_origin(-ENOMEM) : 0;
	if (r == 0 && config->tls_verify)
		r = ca_load(loop, config->ca_file);
	if (r != 0) {
		trk_loop_free(&loop);
		return r;
	}
	*out = loop;
	return 0;
}

void
trk_loop_add(struct trk_loop *loop, struct trk_member *member)
{
	MR_ASSERT(loop->magic == TRK_LOOP_MAGIC);
	member->loop = loop;
	member->next = loop->members;
	loop->members = member;
}

static void
members_reap(struct trk_loop *loop, bool all)
{
	struct trk_member **at = &loop->members;

	while (*at != NULL) {
		struct trk_member *member = *at;

		if (!all && !member->closed) {
			at = &member->next;
			continue;
		}
		*at = member->next;
		member->closed = true;
		member->free(member);
	}
}

void
trk_loop_close_member(struct trk_member *member)
{
	member->closed = true;
	if (!member->loop->in_turn)
		members_reap(member->loop, false);
}

void
trk_loop_free(struct trk_loop **loopp)
{
	struct trk_loop *loop = *loopp;

	if (loop == NULL)
		return;
	*loopp = NULL;
	MR_ASSERT(loop->magic == TRK_LOOP_MAGIC);
	MR_ASSERT(!loop->in_turn);
	members_reap(loop, true);
	if (loop->multi != NULL)
		curl_multi_cleanup(loop->multi);
	free(loop->ca_blob);
	free(loop->wait_fds);
	loop->magic = 0;
	free(loop);
}

static void
finished_note(struct trk_loop *loop)
{
	struct CURLMsg *message;
	int left;

	while ((message = curl_multi_info_read(loop->multi, &left)) != NULL) {
		char *arg = NULL;
		struct trk_req *req;

		if (message->msg != CURLMSG_DONE)
			continue;
		(void)curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &arg);
		req = MR_CAST(struct trk_req, (void *)arg, TRK_REQ_MAGIC);
		req->code = req->failed_memory ? CURLE_OUT_OF_MEMORY : message->data.result;
		req->done = true;
	}
}

/* Returns when a timer is due, or TRK_NEVER_NS. */
static int64_t
loop_work(struct trk_loop *loop, bool perform)
{
	int64_t wake = TRK_NEVER_NS;
	int running;

	loop->kick = loop->kick || perform;
	for (unsigned round = 0; round == 0 || (loop->kick && round < TRK_ROUNDS_MAX); round++) {
		int64_t now;

		if (loop->kick) {
			loop->kick = false;
			(void)curl_multi_perform(loop->multi, &running);
			finished_note(loop);
			for (struct trk_req *req = loop->uploads; perform && req != NULL; req = req->next_upload)
				trk_req_check_hangup(req);
		}
		wake = TRK_NEVER_NS;
		now = clock_now_ns();
		for (struct trk_member *m = loop->members; m != NULL; m = m->next) {
			int64_t due = m->closed ? TRK_NEVER_NS : m->pump(m, now);

			wake = due < wake ? due : wake;
		}
		members_reap(loop, false);
	}
	return loop->kick ? 0 : wake;
}

static unsigned
uploads_count(const struct trk_loop *loop)
{
	unsigned count = 0;

	for (const struct trk_req *req = loop->uploads; req != NULL; req = req->next_upload)
		count++;
	return count;
}

/* The caller's descriptors, then those of the uploads. */
static int
wait_fds_set(struct trk_loop *loop, const struct pollfd *extra, unsigned count)
{
	unsigned all = count + uploads_count(loop), at = count;

	if (all > loop->wait_fds_count) {
		struct curl_waitfd *more = realloc(loop->wait_fds, all * sizeof(*more));

		if (more == NULL)
			return err_origin(-ENOMEM);
		loop->wait_fds = more;
		loop->wait_fds_count = all;
	}
	for (const struct trk_req *req = loop->uploads; req != NULL; req = req->next_upload, at++)
		loop->wait_fds[at] = (struct curl_waitfd){ .fd = trk_req_watch_fd(req), .events = CURL_WAIT_POLLIN };
	for (unsigned i = 0; i < count; i++) {
		loop->wait_fds[i] = (struct curl_waitfd){ .fd = extra[i].fd };
		if (extra[i].events & POLLIN)
			loop->wait_fds[i].events |= CURL_WAIT_POLLIN;
		if (extra[i].events & POLLPRI)
			loop->wait_fds[i].events |= CURL_WAIT_POLLPRI;
		if (extra[i].events & POLLOUT)
			loop->wait_fds[i].events |= CURL_WAIT_POLLOUT;
	}
	return 0;
}

static int
loop_wait(struct trk_loop *loop, struct pollfd *extra, unsigned count, int64_t deadline_ns)
{
	int ms = clock_poll_ms(deadline_ns, clock_now_ns(), TRK_WAIT_MS_MAX), r;

	r = wait_fds_set(loop, extra, count);
	if (r != 0)
		return err_trace(r);
	if (curl_multi_poll(loop->multi, loop->wait_fds, count + uploads_count(loop), ms, NULL) != CURLM_OK)
		return err_origin(-EIO);
	/* libcurl tells neither POLLHUP nor POLLERR, which are what a caller of poll() may be waiting for */
	if (count > 0 && poll(extra, count, 0) == -1 && errno != EINTR)
		return err_origin(-errno);
	return 0;
}

int
trk_loop_turn(struct trk_loop *loop, struct pollfd *extra, unsigned extra_count, int64_t deadline_ns)
{
	uint64_t called = loop->called;
	int64_t wake;
	int r;

	MR_ASSERT(loop->magic == TRK_LOOP_MAGIC);
	MR_ASSERT(!loop->in_turn);
	loop->in_turn = true;
	wake = loop_work(loop, false);
	if (called != loop->called)
		wake = 0;
	r = loop_wait(loop, extra, extra_count, wake < deadline_ns ? wake : deadline_ns);
	if (r == 0)
		(void)loop_work(loop, true);
	loop->in_turn = false;
	return r;
}

bool
trk_state_set(struct trk_state *state, const char *name, const char *detail)
{
	if (state->name != NULL && strcmp(state->name, name) == 0 && strcmp(state->detail, detail) == 0)
		return false;
	state->name = name;
	snprintf(state->detail, sizeof(state->detail), "%s", detail);
	return true;
}

int64_t
trk_state_waiting_ns(const struct trk_state *state, int64_t request_started_ns)
{
	bool trouble = state->name != NULL && state->detail[0] != '\0';

	return request_started_ns + (trouble ? 300 * CLOCK_MS_NS : 0);
}

const char *
trk_end_text(enum trk_end end)
{
	switch (end) {
	case TRK_END_CLOSED:
		return "its server closed it";
	case TRK_END_GONE:
		return "it is gone (404)";
	case TRK_END_ABSENT:
		return "it never was there (404 for longer than --absent-grace)";
	}
	return "unknown";
}

const char *
trk_end_name(enum trk_end end)
{
	switch (end) {
	case TRK_END_CLOSED:
		return "closed";
	case TRK_END_GONE:
		return "gone";
	case TRK_END_ABSENT:
		return "absent";
	}
	return "unknown";
}

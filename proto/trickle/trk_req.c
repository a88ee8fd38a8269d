/* SPDX-License-Identifier: MIT */
/*
 * One HTTP request
 *
 * Every request has a TCP connection of its own. Trickle's requests are long (a segment is seconds), the next one is
 * always made ahead of its need, and most ways for a trickle connection to end forbid its reuse: an early reply, an
 * abort, a body cut short. A fresh connection also proves that the path still works. So the handshake costs nothing
 * that anybody waits for, and "never reuse that connection" holds by construction. TLS sessions are still resumed.
 *
 * No limit is put on how long a transfer takes. A peer that vanished without a word is found by the kernel: keepalive
 * on an idle connection, TCP_USER_TIMEOUT on one with unacknowledged data; a peer that is there but silent is found by
 * the owner's timers, which look at moved_ns.
 *
 * A request that is aborted is closed in the middle of its chunked body, so that no server can mistake it for the
 * end of a segment.
 */
#include "proto/trickle/trk_priv.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define TRK_CONNECT_TIMEOUT_MS 5000L
#define TRK_UPLOAD_BUFFER      32768L
#define TRK_REPLY_BYTES_MAX    4096

static int
on_socket(void *arg, curl_socket_t fd, curlsocktype purpose)
{
	const unsigned user_timeout_ms = 10000;
	const int idle_s = 5, interval_s = 2, probes = 3, on = 1, receive_bytes = 512 << 10;

	struct trk_req *req = MR_CAST(struct trk_req, arg, TRK_REQ_MAGIC);

	(void)purpose;
	req->tried_fds[req->tried_count++ % TRK_TRIED_MAX] = fd;
	/* back-pressure begins here: left alone, the kernel would take tens of megabytes for a reader that is paused */
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof(receive_bytes));
	/* best effort: each only shortens the time in which a vanished peer is noticed */
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout_ms, sizeof(user_timeout_ms));
	return CURL_SOCKOPT_OK;
}

static int
local_port_of(int fd)
{
	struct sockaddr_storage address = { 0 };
	socklen_t bytes = sizeof(address);

	if (getsockname(fd, (struct sockaddr *)&address, &bytes) == -1)
		return -1;
	if (address.ss_family == AF_INET)
		return ntohs(((struct sockaddr_in *)&address)->sin_port);
	if (address.ss_family == AF_INET6)
		return ntohs(((struct sockaddr_in6 *)&address)->sin6_port);
	return -1;
}

/* The request is about to go out. Of the sockets that were tried (one for each address family) one was chosen. */
static int
on_connected(void *arg, char *peer, char *local, int peer_port, int local_port)
{
	struct trk_req *req = MR_CAST(struct trk_req, arg, TRK_REQ_MAGIC);

	(void)peer;
	(void)local;
	(void)peer_port;
	for (unsigned i = 0; i < TRK_TRIED_MAX && i < req->tried_count; i++)
		if (local_port_of(req->tried_fds[i]) == local_port)
			req->fd = req->tried_fds[i];
	req->connected = true;
	req->connected_ns = req->moved_ns = clock_now_ns();
	return CURL_PREREQFUNC_OK;
}

static size_t
on_header(char *line, size_t size, size_t count, void *arg)
{
	struct trk_req *req = MR_CAST(struct trk_req, arg, TRK_REQ_MAGIC);

	trk_reply_line(&req->reply, line, size * count);
	return size * count;
}

static size_t
on_body(char *bytes, size_t size, size_t count, void *arg)
{
	struct trk_req *req = MR_CAST(struct trk_req, arg, TRK_REQ_MAGIC);

	if (trk_buf_count(&req->body) >= req->body_bytes_max) {
		req->recv_paused = true;
		return CURL_WRITEFUNC_PAUSE;
	}
	if (trk_buf_put(&req->body, bytes, size * count) != 0) {
		req->failed_memory = true;
		return 0;
	}
	req->body_bytes += size * count;
	req->moved_ns = clock_now_ns();
	return size * count;
}

static size_t
on_send(char *bytes, size_t size, size_t count, void *arg)
{
	struct trk_req *req = MR_CAST(struct trk_req, arg, TRK_REQ_MAGIC);
	bool end = false;
	size_t n = 0;

	if (req->pull != NULL && !req->reply.complete)
		n = req->pull(req->pull_arg, bytes, size * count, &end);
	if (n > 0) {
		req->sent_bytes += n;
		req->moved_ns = clock_now_ns();
		req->loop->kick = true; /* libcurl sends one buffer a round; there may be more */
		return n;
	}
	if (end) {
		req->send_ended = true;
		req->moved_ns = clock_now_ns();
		return 0;
	}
	req->send_paused = true;
	return CURL_READFUNC_PAUSE;
}

static CURLcode
add_header(struct trk_req *req, const char *name, const char *value)
{
	struct curl_slist *longer;
	char line[512];

	if ((size_t)snprintf(line, sizeof(line), "%s:%s%s", name, *value ? " " : "", value) >= sizeof(line))
		return CURLE_OUT_OF_MEMORY;
	longer = curl_slist_append(req->headers, line);
	if (longer == NULL)
		return CURLE_OUT_OF_MEMORY;
	req->headers = longer;
	return CURLE_OK;
}

/* Each option is set by name and one failure is enough, as in a chain of &&. */
#define SET(option, value) (code = code != CURLE_OK ? code : curl_easy_setopt(req->easy, (option), (value)))
#define ADD(name, value)   (code = code != CURLE_OK ? code : add_header(req, (name), (value)))

static CURLcode
set_transport(struct trk_req *req, const struct trk_req_config *config)
{
	struct trk_loop *loop = req->loop;
	CURLcode code = CURLE_OK;

	SET(CURLOPT_URL, config->url);
	SET(CURLOPT_PRIVATE, req);
	SET(CURLOPT_PROTOCOLS_STR, "http,https");
	SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_PROXY, loop->proxy);
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_QUICK_EXIT, 1L); /* an abort does not wait for a name server */
	SET(CURLOPT_TCP_NODELAY, 1L);
	SET(CURLOPT_FRESH_CONNECT, 1L);
	SET(CURLOPT_FORBID_REUSE, 1L);
	SET(CURLOPT_CONNECTTIMEOUT_MS, TRK_CONNECT_TIMEOUT_MS);
	SET(CURLOPT_UPLOAD_BUFFERSIZE, TRK_UPLOAD_BUFFER);
	SET(CURLOPT_USERAGENT, "millrace/" MR_VERSION);
	SET(CURLOPT_SOCKOPTFUNCTION, on_socket);
	SET(CURLOPT_SOCKOPTDATA, req);
	SET(CURLOPT_PREREQFUNCTION, on_connected);
	SET(CURLOPT_PREREQDATA, req);
	SET(CURLOPT_HEADERFUNCTION, on_header);
	SET(CURLOPT_HEADERDATA, req);
	SET(CURLOPT_WRITEFUNCTION, on_body);
	SET(CURLOPT_WRITEDATA, req);
	SET(CURLOPT_SSL_VERIFYPEER, loop->tls_verify ? 1L : 0L);
	SET(CURLOPT_SSL_VERIFYHOST, loop->tls_verify ? 2L : 0L);
	if (loop->ca_blob != NULL) {
		struct curl_blob blob = {
			.data = loop->ca_blob, .len = loop->ca_blob_bytes, .flags = CURL_BLOB_NOCOPY,
		};

		SET(CURLOPT_CAINFO_BLOB, &blob);
		SET(CURLOPT_CAPATH, NULL); /* these and no others */
	}
	return code;
}

static CURLcode
set_method(struct trk_req *req, const struct trk_req_config *config)
{
	CURLcode code = CURLE_OK;

	switch (config->method) {
	case TRK_GET:
		SET(CURLOPT_HTTPGET, 1L);
		break;
	case TRK_POST_STREAM:
		SET(CURLOPT_POST, 1L);
		SET(CURLOPT_READFUNCTION, on_send);
		SET(CURLOPT_READDATA, req);
		ADD("Transfer-Encoding", "chunked");
		ADD("Expect", ""); /* ours is 1xx enough already */
		break;
	case TRK_POST_EMPTY:
		SET(CURLOPT_POST, 1L);
		SET(CURLOPT_POSTFIELDS, "");
		SET(CURLOPT_POSTFIELDSIZE, 0L);
		break;
	case TRK_DELETE:
		SET(CURLOPT_CUSTOMREQUEST, "DELETE");
		break;
	}
	ADD("Content-Type", config->mime ? config->mime : ""); /* empty: libcurl sends none of its own */
	if (config->expect != NULL)
		ADD("Expect-Content", config->expect);
	if (config->reset)
		ADD("Lp-Trickle-Reset", "1");
	SET(CURLOPT_HTTPHEADER, req->headers);
	return code;
}

int
trk_req_start(struct trk_loop *loop, const struct trk_req_config *config, struct trk_req **out)
{
	struct trk_req *req = calloc(1, sizeof(*req));

	if (req == NULL || config->url == NULL)
		goto no_memory;
	req->magic = TRK_REQ_MAGIC;
	req->loop = loop;
	req->fd = -1;
	req->started_ns = req->moved_ns = clock_now_ns();
	req->body_bytes_max = config->body_bytes_max ? config->body_bytes_max : TRK_REPLY_BYTES_MAX;
	trk_reply_init(&req->reply);
	req->easy = curl_easy_init();
	if (req->easy == NULL || set_transport(req, config) != CURLE_OK || set_method(req, config) != CURLE_OK ||
	    curl_multi_add_handle(loop->multi, req->easy) != CURLM_OK)
		goto no_memory;
	loop->kick = true;
	if (config->method == TRK_POST_STREAM) {
		req->next_upload = loop->uploads;
		loop->uploads = req;
	}
	*out = req;
	return 0;
no_memory:
	trk_req_abort(&req);
	return err_origin(-ENOMEM);
}

static void
upload_forget(struct trk_req *req)
{
	struct trk_req **at = &req->loop->uploads;

	while (*at != NULL && *at != req)
		at = &(*at)->next_upload;
	if (*at != NULL)
		*at = req->next_upload;
}

void
trk_req_abort(struct trk_req **reqp)
{
	struct trk_req *req = *reqp;

	if (req == NULL)
		return;
	*reqp = NULL;
	if (req->loop != NULL)
		upload_forget(req);
	if (req->easy != NULL) {
		(void)curl_multi_remove_handle(req->loop->multi, req->easy); /* of one that was never added: no effect */
		curl_easy_cleanup(req->easy);
	}
	curl_slist_free_all(req->headers);
	trk_buf_fini(&req->body);
	req->magic = 0;
	free(req);
}

static void
set_pause(struct trk_req *req)
{
	int mask = (req->recv_paused ? CURLPAUSE_RECV : 0) | (req->send_paused ? CURLPAUSE_SEND : 0);

	(void)curl_easy_pause(req->easy, mask); /* what it may find wrong is reported again at the end of the transfer */
	req->loop->kick = true;
}

void
trk_req_send(struct trk_req *req, trk_pull_fn *pull, void *arg)
{
	req->pull = pull;
	req->pull_arg = arg;
	if (!req->send_paused || req->done)
		return;
	req->send_paused = false;
	req->moved_ns = clock_now_ns(); /* the silence until now was ours */
	set_pause(req);
}

void
trk_req_body_drop(struct trk_req *req, size_t count)
{
	trk_buf_drop(&req->body, count);
	if (!req->recv_paused || req->done || trk_buf_count(&req->body) > req->body_bytes_max / 2)
		return;
	req->recv_paused = false;
	set_pause(req);
}

int
trk_req_watch_fd(const struct trk_req *req)
{
	return req->connected && !trk_req_answered(req) ? req->fd : -1;
}

void
trk_req_check_hangup(struct trk_req *req)
{
	int fd = trk_req_watch_fd(req);
	char byte;

	/* what there was to read libcurl has read before; the end of the stream can be read again and again */
	if (fd == -1 || recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) != 0)
		return;
	req->code = CURLE_GOT_NOTHING;
	req->done = true;
}

bool
trk_req_answered(const struct trk_req *req)
{
	return req->reply.complete || req->done;
}

bool
trk_req_failed(const struct trk_req *req)
{
	return req->done && (req->code != CURLE_OK || !req->reply.complete);
}

const char *
trk_req_why(const struct trk_req *req)
{
	static _Thread_local char text[80];
	long number = 0;

	if (req->reply.complete && (req->reply.status != 200 || req->code == CURLE_OK)) {
		snprintf(text, sizeof(text), "HTTP %d", req->reply.status);
		return text;
	}
	switch (req->code) {
	case CURLE_COULDNT_RESOLVE_HOST:
		return "host name not found";
	case CURLE_OPERATION_TIMEDOUT:
		return "no connection in time";
	case CURLE_GOT_NOTHING:
		return "closed without a reply";
	case CURLE_PARTIAL_FILE:
		return "broken off";
	default:
		break;
	}
	(void)curl_easy_getinfo(req->easy, CURLINFO_OS_ERRNO, &number);
	if (number != 0)
		snprintf(text, sizeof(text), "%s", strerror((int)number));
	else
		snprintf(text, sizeof(text), "%s", curl_easy_strerror(req->code));
	return text;
}

/* SPDX-License-Identifier: MIT */
/*
 * HTTP server on libevent's evhttp
 *
 * The path is taken from the request line as it came: callers join a base URL and a path as strings, so "//stream/start"
 * is the same as "/stream/start", and libevent would take its first word for a host. Every method is let in, so that a
 * wrong one is answered 405 with Allow by us. Everything is bounded: headers, bodies, and the time that an idle
 * connection may stay (longer than the 60 s after which the orchestrator closes it).
 */
#include "supervisor/sup_http.h"

#include "base/assert.h"
#include "base/err.h"
#include "base/log.h"
#include "supervisor/sup_clean.h"
#include "supervisor/sup_json.h"
#include "supervisor/sup_session.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/queue.h>
#include <sys/socket.h>

#include "supervisor/sup_priv.h"

enum { HEADERS_MAX = 64 * 1024, IDLE_SECONDS = 75, PATH_MAX_BYTES = 1024 };
enum { GET = EVHTTP_REQ_GET | EVHTTP_REQ_HEAD, POST = EVHTTP_REQ_POST };

TAILQ_HEAD(replies, sup_reply);

struct sup_http {
	struct sup *sup;
	struct evhttp *server;
	struct evhttp_bound_socket *socket;
	char url[160];
	struct replies owed;
	unsigned owed_count;
};

struct sup_reply {
	uint32_t magic;
#define SUP_REPLY_MAGIC 0x53524550u
	TAILQ_ENTRY(sup_reply) link;
	struct sup_http *http;
	struct evhttp_request *req;
	bool head;
	uint32_t waits_for; /* number of the session whose end it waits for; 0: none */
	char arg[SUP_ID_BYTES_MAX];
};

struct route {
	const char *path; /* {} stands for one segment */
	int methods;
	bool open;	  /* no token needed: probes */
	void (*handle)(struct sup_reply *r);
};

// clang-format off
static const struct route routes[] = {
	{ "/api/stream/start",        POST, false, sup_api_start },
	{ "/stream/start",            POST, false, sup_api_start },
	{ "/live-video-to-video",     POST, false, sup_api_start },
	{ "/api/stream/params",       POST, false, sup_api_params },
	{ "/stream/params",           POST, false, sup_api_params },
	{ "/api/stream/update",       POST, false, sup_api_params },
	{ "/stream/update",           POST, false, sup_api_params },
	{ "/api/stream/stop",         POST, false, sup_api_stop },
	{ "/stream/stop",             POST, false, sup_api_stop },
	{ "/api/stream/status",       GET,  false, sup_api_stream_status },
	{ "/stream/status",           GET,  false, sup_api_stream_status },
	{ "/health",                  GET,  true,  sup_api_health },
	{ "/livez",                   GET,  true,  sup_api_livez },
	{ "/readyz",                  GET,  true,  sup_api_readyz },
	{ "/version",                 GET,  true,  sup_api_version },
	{ "/app-version",             GET,  true,  sup_api_app_version },
	{ "/hardware/info",           GET,  false, sup_api_hardware_info },
	{ "/hardware/stats",          GET,  false, sup_api_hardware_stats },
	{ "/metrics",                 GET,  false, sup_api_metrics },
	{ "/api/sessions",            GET,  false, sup_api_sessions },
	{ "/api/sessions/{}",         GET,  false, sup_api_session },
	{ "/api/workers",             GET,  false, sup_api_workers },
	{ "/api/workers/{}",          GET,  false, sup_api_worker },
	{ "/api/workers/{}/restart",  POST, false, sup_api_worker_restart },
	{ "/api/crashes",             GET,  false, sup_api_crashes },
};
// clang-format on

/* ---- the answer ------------------------------------------------------- */

static const char *
reason_of(int code)
{
	switch (code) {
	case 200:
		return "OK";
	case 202:
		return "Accepted";
	case 400:
		return "Bad Request";
	case 401:
		return "Unauthorized";
	case 404:
		return "Not Found";
	case 405:
		return "Method Not Allowed";
	case 409:
		return "Conflict";
	case 503:
		return "Service Unavailable";
	default:
		return "Error";
	}
}

static void
send_bytes(struct sup_reply **rp, int code, const char *content_type, const char *text, size_t bytes)
{
	struct sup_reply *r = *rp;
	struct evkeyvalq *headers = evhttp_request_get_output_headers(r->req);
	struct evbuffer *body = evbuffer_new();
	char length[24];

	MR_ASSERT(r->magic == SUP_REPLY_MAGIC);
	snprintf(length, sizeof(length), "%zu", bytes);
	evhttp_add_header(headers, "Content-Type", content_type);
	evhttp_add_header(headers, "Content-Length", length);
	if (body != NULL && !r->head)
		evbuffer_add(body, text, bytes);
	evhttp_send_reply(r->req, code, reason_of(code), body);
	if (body != NULL)
		evbuffer_free(body);
	TAILQ_REMOVE(&r->http->owed, r, link);
	r->http->owed_count--;
	r->magic = 0;
	free(r);
	*rp = NULL;
}

void
sup_reply_text(struct sup_reply **r, int code, const char *content_type, const char *text)
{
	send_bytes(r, code, content_type, text, strlen(text));
}

void
sup_reply_json(struct sup_reply **r, int code, json_t *body)
{
	char *text = sup_json_dump(body, JSON_COMPACT | JSON_REAL_PRECISION(6));

	if (text == NULL)
		code = 500;
	sup_reply_text(r, code, "application/json; charset=utf-8",
	    text != NULL ? text : "{\"status\":\"error\",\"message\":\"the answer could not be written\"}");
	free(text);
	json_decref(body);
}

void
sup_reply_message(struct sup_reply **r, int code, const char *message)
{
	char text[640];

	snprintf(text, sizeof(text), "%s", message);
	sup_clean(text, strlen(text)); /* it may have been cut inside a character */
	sup_reply_json(r, code, json_pack("{s:s, s:s}", "status", code < 400 ? "success" : "error", "message", text));
}

void
sup_reply_when_over(struct sup_reply **r, const struct sup_session *s)
{
	MR_ASSERT(s->num != 0 && (*r)->waits_for == 0);
	(*r)->waits_for = s->num;
	*r = NULL;
}

void
sup_http_session_over(struct sup_http *http, const struct sup_session *s)
{
	struct sup_reply *r, *next;

	for (r = TAILQ_FIRST(&http->owed); r != NULL; r = next) {
		next = TAILQ_NEXT(r, link);
		if (r->waits_for == s->num)
			sup_reply_message(&r, 200, "Stream stopped successfully");
	}
}

/* ---- the request ------------------------------------------------------ */

struct sup *
sup_reply_sup(const struct sup_reply *r)
{
	return r->http->sup;
}

const char *
sup_reply_arg(const struct sup_reply *r)
{
	return r->arg;
}

const char *
sup_reply_header(const struct sup_reply *r, const char *name)
{
	return evhttp_find_header(evhttp_request_get_input_headers(r->req), name);
}

const char *
sup_reply_query(const struct sup_reply *r, const char *name, char *buf, size_t bytes)
{
	const char *uri = evhttp_request_get_uri(r->req), *query = uri != NULL ? strchr(uri, '?') : NULL, *value;
	struct evkeyvalq pairs;
	bool found = false;

	if (query == NULL || evhttp_parse_query_str(query + 1, &pairs) == -1)
		return NULL;
	value = evhttp_find_header(&pairs, name);
	if (value != NULL) {
		snprintf(buf, bytes, "%s", value);
		found = true;
	}
	evhttp_clear_headers(&pairs);
	return found ? buf : NULL;
}

bool
sup_reply_is_json(const struct sup_reply *r)
{
	const char *type = sup_reply_header(r, "Content-Type");

	return type != NULL && strncasecmp(type, "application/json", strlen("application/json")) == 0;
}

const char *
sup_reply_body(struct sup_reply *r, size_t *bytes)
{
	struct evbuffer *in = evhttp_request_get_input_buffer(r->req);

	*bytes = evbuffer_get_length(in);
	return *bytes == 0 ? "" : (const char *)evbuffer_pullup(in, -1);
}

/* ---- routing ---------------------------------------------------------- */

/* Without query, with single slashes, without one at the end. false: too long. */
static bool
clean_path(const char *uri, char *out, size_t bytes)
{
	size_t n = 0;

	for (; *uri != '\0' && *uri != '?' && *uri != '#'; uri++) {
		if (*uri == '/' && n > 0 && out[n - 1] == '/')
			continue;
		if (n + 1 == bytes)
			return false;
		out[n++] = *uri;
	}
	if (n > 1 && out[n - 1] == '/')
		n--;
	out[n] = '\0';
	return true;
}

static bool
matches(const char *pattern, const char *path, char *arg, size_t arg_bytes)
{
	const char *hole = strstr(pattern, "{}");
	size_t before, n;
	char *decoded;

	if (hole == NULL)
		return strcmp(pattern, path) == 0;
	before = (size_t)(hole - pattern);
	if (strncmp(pattern, path, before) != 0)
		return false;
	n = strcspn(path + before, "/");
	if (n == 0 || n >= arg_bytes || strcmp(path + before + n, hole + 2) != 0)
		return false;
	snprintf(arg, arg_bytes, "%.*s", (int)n, path + before);
	decoded = evhttp_uridecode(arg, 0, NULL);
	if (decoded != NULL)
		snprintf(arg, arg_bytes, "%s", decoded);
	free(decoded);
	return true;
}

/* The time it takes says nothing about where the two differ. */
static bool
token_ok(const struct sup_reply *r)
{
	const char *want = r->http->sup->config.token, *have = sup_reply_header(r, "Authorization");
	size_t want_bytes, have_bytes;
	unsigned char diff = 0;

	if (want == NULL)
		return true;
	if (have == NULL || strncasecmp(have, "Bearer ", 7) != 0)
		return false;
	have += 7;
	want_bytes = strlen(want);
	have_bytes = strlen(have);
	for (size_t i = 0; i < have_bytes; i++)
		diff |= (unsigned char)(have[i] ^ want[i % want_bytes]);
	return diff == 0 && have_bytes == want_bytes;
}

static void
refuse_token(struct sup_reply *r)
{
	evhttp_add_header(evhttp_request_get_output_headers(r->req), "WWW-Authenticate", "Bearer");
	sup_reply_json(&r, 401, json_pack("{s:{s:s}}", "detail", "msg", "Invalid bearer token."));
}

static void
dispatch(struct sup_reply *r, const char *path)
{
	int method = (int)evhttp_request_get_command(r->req), allowed = 0;

	for (size_t i = 0; i < sizeof(routes) / sizeof(routes[0]); i++) {
		if (!matches(routes[i].path, path, r->arg, sizeof(r->arg)))
			continue;
		if ((routes[i].methods & method) == 0) {
			allowed = routes[i].methods;
			continue;
		}
		if (!routes[i].open && !token_ok(r))
			refuse_token(r);
		else
			routes[i].handle(r);
		return;
	}
	if (allowed == 0) {
		sup_reply_text(&r, 404, "text/plain; charset=utf-8", "404: Not Found");
		return;
	}
	evhttp_add_header(evhttp_request_get_output_headers(r->req), "Allow", allowed == POST ? "POST" : "GET,HEAD");
	sup_reply_text(&r, 405, "text/plain; charset=utf-8", "405: Method Not Allowed");
}

static void
on_request(struct evhttp_request *req, void *arg)
{
	struct sup_http *http = arg;
	struct sup_reply *r = calloc(1, sizeof(*r));
	const char *uri = evhttp_request_get_uri(req);
	char path[PATH_MAX_BYTES];

	if (r == NULL) {
		evhttp_send_error(req, 503, NULL);
		return;
	}
	r->magic = SUP_REPLY_MAGIC;
	r->http = http;
	r->req = req;
	r->head = evhttp_request_get_command(req) == EVHTTP_REQ_HEAD;
	TAILQ_INSERT_TAIL(&http->owed, r, link);
	http->owed_count++;
	if (uri == NULL || !clean_path(uri, path, sizeof(path)))
		sup_reply_text(&r, 404, "text/plain; charset=utf-8", "404: Not Found");
	else
		dispatch(r, path);
}

/* ---- the server ------------------------------------------------------- */

static void
find_url(struct sup_http *http)
{
	struct sockaddr_storage addr = { 0 };
	socklen_t bytes = sizeof(addr);
	char host[INET6_ADDRSTRLEN] = "?";
	unsigned port = 0;

	if (getsockname(evhttp_bound_socket_get_fd(http->socket), (struct sockaddr *)&addr, &bytes) == -1)
		bytes = 0;
	if (addr.ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&addr;

		inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
		port = ntohs(in6->sin6_port);
	} else if (addr.ss_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)&addr;

		inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
		port = ntohs(in->sin_port);
	}
	snprintf(http->url, sizeof(http->url), addr.ss_family == AF_INET6 ? "http://[%s]:%u" : "http://%s:%u", host, port);
}

int
sup_http_new(struct sup *sup, struct sup_http **out)
{
	struct sup_http *http = calloc(1, sizeof(*http));
	int r;

	if (http == NULL)
		return err_origin(-ENOMEM);
	http->sup = sup;
	TAILQ_INIT(&http->owed);
	http->server = evhttp_new(sup->base);
	if (http->server == NULL) {
		r = err_origin(-ENOMEM);
		goto free_http;
	}
	evhttp_set_max_body_size(http->server, SUP_HTTP_BODY_MAX);
	evhttp_set_max_headers_size(http->server, HEADERS_MAX);
	evhttp_set_timeout(http->server, IDLE_SECONDS);
	evhttp_set_allowed_methods(http->server, EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_HEAD | EVHTTP_REQ_PUT |
	    EVHTTP_REQ_DELETE | EVHTTP_REQ_OPTIONS | EVHTTP_REQ_PATCH | EVHTTP_REQ_TRACE);
	evhttp_set_gencb(http->server, on_request, http);
	errno = 0;
	http->socket = evhttp_bind_socket_with_handle(http->server, sup->config.host, (uint16_t)sup->config.port);
	if (http->socket == NULL) {
		r = errno != 0 ? -errno : -EADDRNOTAVAIL;
		goto free_http;
	}
	find_url(http);
	*out = http;
	return 0;
free_http:
	sup_http_free(&http);
	return r;
}

void
sup_http_free(struct sup_http **httpp)
{
	struct sup_http *http = *httpp;

	if (http == NULL)
		return;
	MR_ASSERT(http->owed_count == 0);
	if (http->server != NULL)
		evhttp_free(http->server);
	free(http);
	*httpp = NULL;
}

const char *
sup_http_url(const struct sup_http *http)
{
	return http->url;
}

void
sup_http_stop_listening(struct sup_http *http)
{
	if (http->socket != NULL)
		evhttp_del_accept_socket(http->server, http->socket);
	http->socket = NULL;
}

unsigned
sup_http_owed(const struct sup_http *http)
{
	return http->owed_count;
}

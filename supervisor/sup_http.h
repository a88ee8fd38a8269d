/* SPDX-License-Identifier: MIT */
/*
 * HTTP: server, routes, replies
 *
 * A handler gets a struct sup_reply and owes it exactly one answer, now or later; sending it consumes it. The client
 * may be gone by then: the answer goes nowhere and nothing else happens.
 */
#ifndef MR_SUP_HTTP_H
#define MR_SUP_HTTP_H

#include "supervisor/sup.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SUP_HTTP_BODY_MAX = 10 * 1024 * 1024 };

struct sup_reply;
struct sup_session;

/* Listens. 0: *out is the caller's. -errno: not (address in use, ...). */
int sup_http_new(struct sup *sup, struct sup_http **out);
/* No answer may be owed any more. */
void sup_http_free(struct sup_http **http);
/* "http://127.0.0.1:8000" */
const char *sup_http_url(const struct sup_http *http);
/* No new connections; those that are open are served on. */
void sup_http_stop_listening(struct sup_http *http);
unsigned sup_http_owed(const struct sup_http *http);

/* ---- the request ------------------------------------------------------ */

struct sup *sup_reply_sup(const struct sup_reply *r);
/* The part of the path that {} stands for; "". */
const char *sup_reply_arg(const struct sup_reply *r);
/* NULL: not there. */
const char *sup_reply_header(const struct sup_reply *r, const char *name);
/* Value of a query parameter in `buf`; NULL: not there. */
const char *sup_reply_query(const struct sup_reply *r, const char *name, char *buf, size_t bytes);
bool sup_reply_is_json(const struct sup_reply *r);
/* The body; borrowed until the answer is sent. */
const char *sup_reply_body(struct sup_reply *r, size_t *bytes);

/* ---- the answer ------------------------------------------------------- */

/* `body` is consumed. */
void sup_reply_json(struct sup_reply **r, int code, json_t *body);
/* {"status":"success"|"error","message":...} */
void sup_reply_message(struct sup_reply **r, int code, const char *message);
void sup_reply_text(struct sup_reply **r, int code, const char *content_type, const char *text);
/* The answer to a stop request is sent when the session is over. */
void sup_reply_when_over(struct sup_reply **r, const struct sup_session *s);
void sup_http_session_over(struct sup_http *http, const struct sup_session *s);

/* ---- handlers: sup_api_stream.c, sup_api_system.c, sup_metrics.c ------- */

void sup_api_start(struct sup_reply *r);
void sup_api_params(struct sup_reply *r);
void sup_api_stop(struct sup_reply *r);
void sup_api_stream_status(struct sup_reply *r);
void sup_api_health(struct sup_reply *r);
void sup_api_version(struct sup_reply *r);
void sup_api_app_version(struct sup_reply *r);
void sup_api_hardware_info(struct sup_reply *r);
void sup_api_hardware_stats(struct sup_reply *r);
void sup_api_livez(struct sup_reply *r);
void sup_api_readyz(struct sup_reply *r);
void sup_api_metrics(struct sup_reply *r);
void sup_api_sessions(struct sup_reply *r);
void sup_api_session(struct sup_reply *r);
void sup_api_workers(struct sup_reply *r);
void sup_api_worker(struct sup_reply *r);
void sup_api_worker_restart(struct sup_reply *r);
void sup_api_crashes(struct sup_reply *r);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Health, versions, hardware, lists
 *
 * /health is what PyTrickle's is: 200 in every state. /livez says that this process answers; /readyz that a stream can
 * start, and it does not flap: a worker that is being restarted after it was ready does not make it 503, since
 * an orchestrator that sees one bad answer ends every session.
 */
#include "base/clock.h"
#include "supervisor/sup_crash.h"
#include "supervisor/sup_http.h"
#include "supervisor/sup_journal.h"
#include "supervisor/sup_status.h"
#include "supervisor/sup_worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "supervisor/sup_priv.h"

static const char *
pipeline_name(void)
{
	const char *name = getenv("PIPELINE");

	return name != NULL && name[0] != '\0' ? name : "byoc";
}

static const char *
model_name(const struct sup *sup)
{
	const char *name = getenv("CAPABILITY_NAME");

	if (sup->config.name[0] != '\0')
		return sup->config.name;
	if (name == NULL || name[0] == '\0')
		name = getenv("MODEL_ID");
	return name != NULL ? name : "";
}

void
sup_api_health(struct sup_reply *r)
{
	sup_reply_json(&r, 200, json_pack("{s:s}", "status", sup_status_word(sup_reply_sup(r))));
}

void
sup_api_livez(struct sup_reply *r)
{
	sup_reply_message(&r, 200, "alive");
}

void
sup_api_readyz(struct sup_reply *r)
{
	const struct sup *sup = sup_reply_sup(r);
	char reason[400];

	if (sup->service.value == SUP_SERVICE_SERVING && sup_pool_health(sup->pool) == SUP_POOL_READY) {
		sup_reply_message(&r, 200, "ready");
		return;
	}
	sup_pool_reason(sup->pool, reason, sizeof(reason));
	sup_reply_message(&r, 503, reason[0] != '\0' ? reason : "the service is stopping");
}

void
sup_api_version(struct sup_reply *r)
{
	sup_reply_json(&r, 200, json_pack("{s:s, s:s, s:s}", "pipeline", pipeline_name(), "model_id",
	    model_name(sup_reply_sup(r)), "version", MR_VERSION));
}

void
sup_api_app_version(struct sup_reply *r)
{
	const char *version = getenv("APP_VERSION");

	sup_reply_json(&r, 200, json_pack("{s:s}", "version", version != NULL ? version : "0.0.1"));
}

static void
hardware(struct sup_reply *r, const char *key)
{
	/* The supervisor opens no GPU; with none to report the object is empty, as PyTrickle's is without NVML. */
	sup_reply_json(&r, 200, json_pack("{s:s, s:s, s:{}}", "pipeline", pipeline_name(), "model_id",
	    model_name(sup_reply_sup(r)), key));
}

void
sup_api_hardware_info(struct sup_reply *r)
{
	hardware(r, "gpu_info");
}

void
sup_api_hardware_stats(struct sup_reply *r)
{
	hardware(r, "gpu_stats");
}

/* ---- lists ------------------------------------------------------------ */

void
sup_api_sessions(struct sup_reply *r)
{
	const struct sup *sup = sup_reply_sup(r);
	const struct sup_session *s;
	json_t *list = json_array();

	TAILQ_FOREACH(s, &sup->sessions, link)
		json_array_append_new(list, sup_status_session_brief(s));
	sup_reply_json(&r, 200, json_pack("{s:i, s:i, s:o, s:o}", "capacity", (int)sup_pool_capacity(sup->pool),
	    "running", (int)sup_session_count_running(sup), "sessions", list, "journal", sup_journal_json(sup)));
}

/* Those that are over are found here too, for as long as they are kept. */
void
sup_api_session(struct sup_reply *r)
{
	struct sup *sup = sup_reply_sup(r);
	const char *id = sup_reply_arg(r);
	struct sup_session *s = sup_session_find(sup, id);

	if (s == NULL)
		TAILQ_FOREACH(s, &sup->sessions, link)
			if (strcmp(s->stream.id, id) == 0)
				break;
	if (s == NULL)
		sup_reply_message(&r, 404, "Unknown session");
	else
		sup_reply_json(&r, 200, sup_status_session(s));
}

void
sup_api_workers(struct sup_reply *r)
{
	const struct sup_pool *pool = sup_reply_sup(r)->pool;
	char reason[400];
	json_t *list = json_array();

	for (unsigned i = 0; i < pool->count; i++)
		json_array_append_new(list, sup_status_worker(&pool->worker[i]));
	sup_pool_reason(pool, reason, sizeof(reason));
	sup_reply_json(&r, 200, json_pack("{s:s, s:s, s:i, s:o}", "command", pool->sup->config.worker, "problem", reason,
	    "capacity", (int)sup_pool_capacity(pool), "workers", list));
}

static struct sup_worker *
worker_of(const struct sup_reply *r)
{
	struct sup_pool *pool = sup_reply_sup(r)->pool;
	char *end;
	unsigned long n = strtoul(sup_reply_arg(r), &end, 10);

	return *end == '\0' && n < pool->count ? &pool->worker[n] : NULL;
}

void
sup_api_worker(struct sup_reply *r)
{
	struct sup_worker *w = worker_of(r);

	if (w == NULL)
		sup_reply_message(&r, 404, "Unknown worker");
	else
		sup_reply_json(&r, 200, sup_status_worker(w));
}

void
sup_api_worker_restart(struct sup_reply *r)
{
	struct sup_worker *w = worker_of(r);

	if (w == NULL) {
		sup_reply_message(&r, 404, "Unknown worker");
		return;
	}
	if (sup_reply_sup(r)->service.value != SUP_SERVICE_SERVING) {
		sup_reply_message(&r, 503, "The service is stopping");
		return;
	}
	sup_worker_restart(w);
	sup_reply_message(&r, 200, "The worker is being restarted");
}

void
sup_api_crashes(struct sup_reply *r)
{
	sup_reply_json(&r, 200, json_pack("{s:o}", "crashes", sup_crashes_json(sup_reply_sup(r)->crashes)));
}

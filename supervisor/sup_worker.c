/* SPDX-License-Identifier: MIT */
/*
 * Workers
 *
 * A worker's word counts for little: READY says that sessions may be bound to it, everything else about its health is
 * what egress accepted. Whatever a worker does wrong ends one process; its sessions go on with the fallback until the
 * next worker takes over.
 */
#include "supervisor/sup_worker.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "supervisor/sup_clean.h"
#include "supervisor/sup_crash.h"
#include "supervisor/sup_env.h"
#include "supervisor/sup_words.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "supervisor/sup_priv.h"

#define RESTART_CAP_NS	(30 * CLOCK_SEC_NS)
#define CRASHLOOP_NS	(60 * CLOCK_SEC_NS)
#define CLOSE_WAIT_NS	(2 * CLOCK_SEC_NS)
#define SLOW_CLOSE_NS	(250 * CLOCK_MS_NS)
#define COMMAND_WAIT_NS (10 * CLOCK_SEC_NS)
#define DRAIN_WAIT_NS	CLOCK_SEC_NS
enum { STARTS_AT_ONCE = 4 };

static void
sup_worker_set(struct sup_worker *w, enum sup_worker_state to, const char *reason)
{
	struct sup_session *s;

	sup_state_set(&w->state, to, w->child.name, reason, clock_now_ns());
	TAILQ_FOREACH(s, &w->sessions, worker_link)
		sup_session_tell_worker_state(s);
}

struct sup_child *
sup_worker_child(struct sup_worker *w)
{
	return sup_child_alive(&w->child) ? &w->child : NULL;
}

static bool
is_ready(const struct sup_worker *w)
{
	return w->state.value == SUP_WORKER_IDLE || w->state.value == SUP_WORKER_BUSY;
}

static unsigned
capacity_of(const struct sup_pool *pool, const struct ctl_hello *hello)
{
	unsigned limit = (unsigned)pool->sup->config.capacity;

	return limit != 0 && limit < hello->capacity ? limit : hello->capacity;
}

/* ---- sessions --------------------------------------------------------- */

/* Rings are made for one pixel format and one number of holds. */
static bool
fits(const struct sup_worker *w, const struct sup_session *s)
{
	return w->child.hello.format == (uint32_t)s->format && w->child.hello.hold_count <= s->hold_count;
}

/* It owes an answer to a SESSION_CLOSE: it may hang, and will be killed soon if it does. */
static bool
is_slow_to_close(const struct sup_worker *w)
{
	const struct sup_session *s;

	TAILQ_FOREACH(s, &w->sessions, worker_link)
		if (s->worker_waits && clock_now_ns() - s->worker_close_ns > SLOW_CLOSE_NS)
			return true;
	return false;
}

static struct sup_worker *
worker_with_room(struct sup_pool *pool, const struct sup_session *s)
{
	struct sup_worker *best = NULL;

	for (unsigned i = 0; i < pool->count; i++) {
		struct sup_worker *w = &pool->worker[i];

		if (!is_ready(w) || sup_child_going(&w->child) || w->session_count >= capacity_of(pool, &w->child.hello) || !fits(w, s) ||
		    is_slow_to_close(w))
			continue;
		if (best == NULL || w->session_count < best->session_count)
			best = w;
	}
	return best;
}

static void
unbind(struct sup_session *s)
{
	struct sup_worker *w = s->worker;

	MR_ASSERT(w != NULL && w->session_count > 0);
	TAILQ_REMOVE(&w->sessions, s, worker_link);
	w->session_count--;
	s->worker = NULL;
	s->worker_waits = false;
}

void
sup_pool_assign(struct sup_pool *pool)
{
	struct sup_session *s;

	TAILQ_FOREACH_REVERSE(s, &pool->sup->sessions, sup_sessions, link) {
		struct sup_worker *w;

		if (!sup_session_running(s) || s->worker != NULL)
			continue;
		w = worker_with_room(pool, s);
		if (w == NULL)
			continue;
		s->worker = w;
		TAILQ_INSERT_TAIL(&w->sessions, s, worker_link);
		w->session_count++;
		if (w->state.value == SUP_WORKER_IDLE)
			sup_worker_set(w, SUP_WORKER_BUSY, "");
		sup_session_attach(s, w);
	}
}

void
sup_worker_release(struct sup_session *s)
{
	union ctl_msg msg;

	if (s->worker == NULL || s->worker_waits)
		return;
	ctl_init(&msg, CTL_SESSION_CLOSE, s->num);
	s->worker_waits = true;
	s->worker_close_ns = clock_now_ns();
	sup_child_send(&s->worker->child, &msg, NULL, 0);
}

static struct sup_session *
find_session(struct sup_worker *w, uint32_t num)
{
	struct sup_session *s;

	TAILQ_FOREACH(s, &w->sessions, worker_link)
		if (s->num == num)
			return s;
	return NULL;
}

static void
on_session_closed(struct sup_worker *w, struct sup_session *s)
{
	if (!s->worker_waits) {
		sup_child_kill(&w->child, SUP_EXIT_VIOLATION, "closed a session unasked");
		return;
	}
	unbind(s);
	if (w->state.value == SUP_WORKER_BUSY && w->session_count == 0)
		sup_worker_set(w, SUP_WORKER_IDLE, "");
	sup_session_detach(s, NULL);
	sup_pool_assign(w->sup->pool);
}

/* ---- messages --------------------------------------------------------- */

static void
on_ready(struct sup_worker *w)
{
	struct sup_pool *pool = w->sup->pool;
	struct sup_session *s;

	if (w->state.value != SUP_WORKER_LOADING)
		return;
	pool->hello = w->child.hello;
	pool->has_hello = true;
	TAILQ_FOREACH(s, &w->sup->sessions, link)
		sup_session_adapt(s, &pool->hello);
	sup_worker_set(w, SUP_WORKER_IDLE, "");
	sup_pool_assign(pool);
}

static void
on_message(struct sup_child *c, const union ctl_msg *msg)
{
	struct sup_worker *w = MR_CAST(struct sup_worker, c->owner, SUP_WORKER_MAGIC);
	struct sup_session *s;

	if (msg->hdr.type == CTL_HELLO) {
		if (w->state.value == SUP_WORKER_STARTING)
			sup_worker_set(w, SUP_WORKER_LOADING, c->hello.name);
		return;
	}
	if (msg->hdr.type == CTL_READY) {
		on_ready(w);
		return;
	}
	if (msg->hdr.type == CTL_STATUS) {
		TAILQ_FOREACH(s, &w->sessions, worker_link)
			sup_session_tell_worker_state(s);
		return;
	}
	s = find_session(w, msg->hdr.session);
	if (s == NULL) /* it was closed in the meantime, or is not one of its own: nobody is concerned */
		return;
	if (msg->hdr.type == CTL_SESSION_CLOSED)
		on_session_closed(w, s);
	else
		sup_session_worker_message(s, msg);
}

/* ---- life ------------------------------------------------------------- */

static void
start_later(struct sup_worker *w, enum sup_worker_state state, int64_t delay_ns, const char *why)
{
	w->due_ns = clock_now_ns() + delay_ns;
	sup_worker_set(w, state, why);
}

static void
start_failed(struct sup_worker *w, const char *why, int64_t delay_ns)
{
	snprintf(w->last_end, sizeof(w->last_end), "%s", why);
	log_error("worker", "cannot_start", "worker=%u why=\"%s\"", w->index, why);
	start_later(w, SUP_WORKER_CRASHLOOP, delay_ns, why);
}

static void
start(struct sup_worker *w)
{
	struct sup_pool *pool = w->sup->pool;
	struct sup_program program = { .dir = NULL };
	int r;

	if (!sup_command_resolve(pool, w->sup->config.worker, w->sup->config.libexec_dir)) {
		start_failed(w, pool->command_error, COMMAND_WAIT_NS);
		return;
	}
	program.file = pool->file;
	program.argv = pool->argv;
	program.env = sup_env_worker(w->sup->config.worker_env);
	sup_restart_begin(&w->restart);
	r = program.env == NULL ? -ENOMEM : sup_child_start(&w->child, &program, clock_now_ns());
	sup_env_free(&program.env);
	if (r < 0) {
		start_failed(w, strerror(-r), CLOCK_SEC_NS);
		return;
	}
	sup_worker_set(w, SUP_WORKER_STARTING, "");
}

/* Sessions of a dead worker wait for the next one. Returns how many frames it held. */
static unsigned
let_go(struct sup_worker *w, const struct sup_death *d)
{
	struct sup_session *s;
	unsigned in_flight = 0;

	while ((s = TAILQ_FIRST(&w->sessions)) != NULL) {
		if (d->class != SUP_EXIT_ASKED)
			in_flight += sup_broker_book_holds(s);
		unbind(s);
		sup_session_detach(s, d);
	}
	return in_flight;
}

static uint64_t
results_of_sessions(const struct sup_worker *w)
{
	const struct sup_session *s;
	uint64_t sum = 0;

	TAILQ_FOREACH(s, &w->sessions, worker_link)
		sum += sup_session_results(s) - s->results_at_attach;
	return sum;
}

/* Of all its sessions; one that leaves takes its results along, which is no progress. */
static void
see_progress(struct sup_worker *w, int64_t now_ns)
{
	uint64_t results = results_of_sessions(w);

	if (results > w->results_seen)
		sup_restart_progress(&w->restart, now_ns);
	w->results_seen = results;
}

static void
after_death(struct sup_worker *w, const struct sup_death *d, const struct sup_restart_verdict *v)
{
	if (w->sup->service.value >= SUP_SERVICE_STOPPING) {
		sup_worker_set(w, SUP_WORKER_DOWN, d->text);
	} else if (w->restart_asked) {
		w->restart_asked = false;
		start_later(w, SUP_WORKER_BACKOFF, 0, "restart requested");
		start(w);
	} else if (sup_exit_permanent(d->class)) {
		sup_worker_set(w, SUP_WORKER_FAILED, d->text);
	} else if (v->loop || d->class == SUP_EXIT_UNKILLABLE) {
		start_later(w, SUP_WORKER_CRASHLOOP, v->delay_ns, d->text);
	} else {
		start_later(w, SUP_WORKER_BACKOFF, v->delay_ns, d->text);
		if (v->delay_ns == 0)
			start(w);
	}
}

static void
on_died(struct sup_child *c, const struct sup_death *d)
{
	struct sup_worker *w = MR_CAST(struct sup_worker, c->owner, SUP_WORKER_MAGIC);
	struct sup_restart_verdict v = { 0 };
	uint64_t frames = results_of_sessions(w);
	const char *session = TAILQ_EMPTY(&w->sessions) ? NULL : TAILQ_FIRST(&w->sessions)->stream.id;
	bool stopping = w->sup->service.value >= SUP_SERVICE_STOPPING;
	unsigned in_flight;

	snprintf(w->last_end, sizeof(w->last_end), "%s", d->text);
	see_progress(w, clock_now_ns());
	if (!stopping && !w->restart_asked)
		v = sup_restart_died(&w->restart, sup_restart_was_steady(&w->restart), clock_now_ns());
	w->results_seen = 0;
	if (d->class != SUP_EXIT_ASKED) {
		w->deaths++;
		sup_crash_record(w->sup->crashes, c, d, frames, session);
	}
	in_flight = let_go(w, d);
	sup_obituary(c, d, frames, in_flight, w->deaths, stopping ? "none" : sup_exit_permanent(d->class) ? "failed" :
	    v.loop ? "crashloop" : v.delay_ns > 0 ? "backoff" : "restart", v.delay_ns);
	if (!stopping)
		w->restarts++;
	after_death(w, d, &v);
	sup_pool_assign(w->sup->pool);
}

void
sup_worker_kill(struct sup_worker *w, enum sup_exit_class class, const char *why)
{
	sup_child_kill(&w->child, class, why);
}

void
sup_worker_restart(struct sup_worker *w)
{
	sup_restart_clear(&w->restart);
	if (sup_child_alive(&w->child)) {
		w->restart_asked = true;
		sup_child_kill(&w->child, SUP_EXIT_ASKED, "a restart was requested");
	} else {
		start(w);
	}
}

/* ---- the pool --------------------------------------------------------- */

int
sup_pool_new(struct sup *sup, struct sup_pool **out)
{
	static const struct sup_child_ops ops = { .message = on_message, .died = on_died };
	struct sup_pool *pool = calloc(1, sizeof(*pool));
	int64_t now = clock_now_ns();

	if (pool == NULL)
		return err_origin(-ENOMEM);
	pool->sup = sup;
	pool->count = (unsigned)(sup->config.workers + sup->config.standby);
	pool->worker = calloc(pool->count, sizeof(*pool->worker));
	if (pool->worker == NULL) {
		free(pool);
		return err_origin(-ENOMEM);
	}
	for (unsigned i = 0; i < pool->count; i++) {
		struct sup_worker *w = &pool->worker[i];
		char name[32];

		w->magic = SUP_WORKER_MAGIC;
		w->sup = sup;
		w->index = i;
		TAILQ_INIT(&w->sessions);
		snprintf(name, sizeof(name), "worker.%u", i);
		sup_child_init(&w->child, sup, CTL_ROLE_WORKER, name, &ops, w);
		sup_state_init(&w->state, SUP_MACHINE_WORKER, now);
		sup_restart_init(&w->restart, RESTART_CAP_NS, CRASHLOOP_NS, (uint64_t)now ^ (uint64_t)i << 32);
	}
	*out = pool;
	return 0;
}

void
sup_pool_free(struct sup_pool **poolp)
{
	struct sup_pool *pool = *poolp;

	if (pool == NULL)
		return;
	for (unsigned i = 0; i < pool->count; i++)
		sup_child_fini(&pool->worker[i].child);
	sup_words_free(&pool->words);
	free(pool->argv);
	free(pool->worker);
	free(pool);
	*poolp = NULL;
}

/* At most so many load their model at once: many that died together are no stampede. */
static bool
may_start(const struct sup_pool *pool)
{
	unsigned loading = 0;

	for (unsigned i = 0; i < pool->count; i++)
		loading += pool->worker[i].state.value == SUP_WORKER_STARTING ||
		    pool->worker[i].state.value == SUP_WORKER_LOADING;
	return loading < STARTS_AT_ONCE;
}

void
sup_pool_start(struct sup_pool *pool)
{
	for (unsigned i = 0; i < pool->count; i++) {
		if (may_start(pool))
			start(&pool->worker[i]);
		else
			start_later(&pool->worker[i], SUP_WORKER_BACKOFF, 0, "waits for others to load");
	}
}

static void
check_deadlines(struct sup_worker *w, int64_t now_ns)
{
	bool loading = w->state.value == SUP_WORKER_STARTING || w->state.value == SUP_WORKER_LOADING;
	struct sup_session *s;

	if (loading && now_ns - w->child.started_ns > w->sup->config.start_timeout_ms * CLOCK_MS_NS)
		sup_child_kill(&w->child, SUP_EXIT_START_TIMEOUT, "never said READY");
	TAILQ_FOREACH(s, &w->sessions, worker_link)
		if (s->worker_waits && now_ns - s->worker_close_ns > CLOSE_WAIT_NS)
			sup_child_kill(&w->child, SUP_EXIT_WATCHDOG, "did not close a session within 2 s");
}

void
sup_pool_tick(struct sup_pool *pool, int64_t now_ns)
{
	bool stopping = pool->sup->service.value >= SUP_SERVICE_STOPPING;

	for (unsigned i = 0; i < pool->count; i++) {
		struct sup_worker *w = &pool->worker[i];
		unsigned st = w->state.value;

		sup_child_tick(&w->child, now_ns);
		if (sup_child_alive(&w->child)) {
			check_deadlines(w, now_ns);
			see_progress(w, now_ns);
		} else if ((st == SUP_WORKER_BACKOFF || st == SUP_WORKER_CRASHLOOP) && !stopping && now_ns >= w->due_ns &&
		    may_start(pool)) {
			start(w);
		}
	}
	if (!stopping)
		sup_pool_assign(pool);
}

void
sup_pool_stop(struct sup_pool *pool)
{
	union ctl_msg msg;

	for (unsigned i = 0; i < pool->count; i++) {
		struct sup_worker *w = &pool->worker[i];

		if (!sup_child_alive(&w->child))
			continue;
		if (w->state.value == SUP_WORKER_DRAINING) {
			if (!w->child.terminated && clock_now_ns() - w->state.since_ns >= DRAIN_WAIT_NS)
				sup_child_terminate(&w->child);
			continue;
		}
		ctl_init(&msg, CTL_DRAIN, 0);
		w->child.asked = true;
		if (!w->child.has_hello || !sup_child_send(&w->child, &msg, NULL, 0))
			sup_child_terminate(&w->child);
		sup_worker_set(w, SUP_WORKER_DRAINING, "the service stops");
	}
}

bool
sup_pool_gone(const struct sup_pool *pool)
{
	for (unsigned i = 0; i < pool->count; i++)
		if (sup_child_alive(&pool->worker[i].child))
			return false;
	return true;
}

void
sup_pool_kill(struct sup_pool *pool)
{
	for (unsigned i = 0; i < pool->count; i++)
		sup_child_kill(&pool->worker[i].child, SUP_EXIT_ASKED, "the service stops");
}

unsigned
sup_pool_capacity(const struct sup_pool *pool)
{
	return pool->has_hello ? (unsigned)pool->sup->config.workers * capacity_of(pool, &pool->hello) : 0;
}

enum sup_pool_health
sup_pool_health(const struct sup_pool *pool)
{
	bool hope = false;

	for (unsigned i = 0; i < pool->count; i++) {
		unsigned st = pool->worker[i].state.value;

		if (is_ready(&pool->worker[i]))
			return SUP_POOL_READY;
		hope = hope || (st != SUP_WORKER_CRASHLOOP && st != SUP_WORKER_FAILED);
	}
	if (!hope)
		return SUP_POOL_BROKEN;
	return pool->has_hello ? SUP_POOL_READY : SUP_POOL_LOADING;
}

void
sup_pool_reason(const struct sup_pool *pool, char *out, size_t bytes)
{
	const struct sup_worker *w = NULL;

	out[0] = '\0';
	if (sup_pool_health(pool) == SUP_POOL_READY)
		return;
	for (unsigned i = 0; i < pool->count && (w == NULL || w->last_end[0] == '\0'); i++)
		w = &pool->worker[i];
	if (w->last_end[0] != '\0')
		snprintf(out, bytes, "worker %u (%s): %s", w->index, sup_state_name(SUP_MACHINE_WORKER, w->state.value),
		    w->last_end);
	else if (w->child.status[0] != '\0')
		snprintf(out, bytes, "worker %u (loading): %s", w->index, w->child.status);
	else
		snprintf(out, bytes, "worker %u (%s)", w->index, sup_state_name(SUP_MACHINE_WORKER, w->state.value));
	sup_clean(out, strlen(out)); /* it may have been cut inside a character */
}

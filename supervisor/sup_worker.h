/* SPDX-License-Identifier: MIT */
/*
 * Workers: a pool of processes that run somebody else's code
 *
 * All are started with the service and stay warm. A session is bound to a worker that is READY and has room; when the
 * worker dies, its sessions wait in line for the next one with room: a standby at once, otherwise the one that was
 * started again. No session is turned away for a crash, only for want of capacity: workers x what each can hold.
 */
#ifndef MR_SUP_WORKER_H
#define MR_SUP_WORKER_H

#include "supervisor/sup.h"
#include "supervisor/sup_restart.h"
#include "supervisor/sup_session.h"

#include <stdbool.h>
#include <stdint.h>

TAILQ_HEAD(sup_worker_sessions, sup_session);

struct sup_worker {
	uint32_t magic;
#define SUP_WORKER_MAGIC 0x53574f52u
	struct sup *sup;
	unsigned index;
	struct sup_child child;
	struct sup_state state;
	struct sup_restart restart;
	int64_t due_ns; /* BACKOFF, CRASHLOOP: when to start again */
	uint32_t deaths, restarts;
	bool restart_asked; /* by the API: the next death is answered by a start at once */
	uint64_t results_seen; /* of its present sessions, that egress has accepted from this incarnation */
	char last_end[200]; /* how the last incarnation ended */
	struct sup_worker_sessions sessions;
	unsigned session_count;
};

struct sup_pool {
	struct sup *sup;
	struct sup_worker *worker; /* config.workers + config.standby of them */
	unsigned count;
	char **words;		   /* --worker, split */
	char command_error[300];   /* why the command cannot be used; "" it can */
	char file[4200];	   /* what is executed */
	char script[4200];	   /* what it runs, when that is an interpreter */
	char **argv;		   /* borrowed strings */
	bool has_hello;		   /* some worker has been READY */
	struct ctl_hello hello;	   /* of the last worker that was READY */
};

/* 0 or -errno. Workers that cannot be started are a state of the pool, not an error. */
int sup_pool_new(struct sup *sup, struct sup_pool **out);
void sup_pool_free(struct sup_pool **pool);
void sup_pool_start(struct sup_pool *pool);
void sup_pool_tick(struct sup_pool *pool, int64_t now_ns);
/* DRAIN to all, and SIGTERM a second later to those that are still there. To be called again and again. */
void sup_pool_stop(struct sup_pool *pool);
bool sup_pool_gone(const struct sup_pool *pool);
void sup_pool_kill(struct sup_pool *pool);

/* Sessions that may run at once; 0 while no worker has been READY yet. */
unsigned sup_pool_capacity(const struct sup_pool *pool);
enum sup_pool_health {
	SUP_POOL_LOADING, /* not ready yet */
	SUP_POOL_READY,	  /* a session can start: a worker is ready, or is being restarted after it had been */
	SUP_POOL_BROKEN,  /* no worker can be had: see the reason */
};
enum sup_pool_health sup_pool_health(const struct sup_pool *pool);
/* Why sessions cannot start; "" when they can. */
void sup_pool_reason(const struct sup_pool *pool, char *out, size_t bytes);

/* Gives waiting sessions to workers with room. */
void sup_pool_assign(struct sup_pool *pool);
/* Asks the session's worker to close it; the answer comes as sup_session_detach(). */
void sup_worker_release(struct sup_session *s);
/* Kills the worker; it is started again at once. */
void sup_worker_restart(struct sup_worker *w);
void sup_worker_kill(struct sup_worker *w, enum sup_exit_class class, const char *why);
/* NULL: it does not live. */
struct sup_child *sup_worker_child(struct sup_worker *w);

/* sup_command.c: what --worker means. false: pool->command_error says why. */
bool sup_command_resolve(struct sup_pool *pool, const char *command, const char *libexec_dir);

#endif

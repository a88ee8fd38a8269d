/* SPDX-License-Identifier: MIT */
/*
 * A child process: what workers, ingest and egress have in common
 *
 * Alive (its pidfd), ready (READY was received) and progressing (what egress accepted; the owner's business) are
 * three signals, never mixed. A child struct outlives its process: each start is an incarnation. Its owner is called
 * for each checked message and once for each death, never from within a function that the owner called.
 */
#ifndef MR_SUP_CHILD_H
#define MR_SUP_CHILD_H

#include "proto/ctl.h"
#include "proto/format.h"
#include "proto/stats.h"
#include "supervisor/sup_exit.def"
#include "supervisor/sup_log_pipe.h"
#include "supervisor/sup_spawn.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/resource.h>

struct event;
struct sup;
struct sup_child;

#define X(id, name, permanent, text) SUP_EXIT_##id,
enum sup_exit_class { SUP_EXIT_CLASSES(X) SUP_EXIT_COUNT };
#undef X

struct sup_death {
	enum sup_exit_class class;
	int code;	/* exit code or signal */
	bool signaled;
	struct sup_setup_report setup;
	struct rusage usage;
	int64_t uptime_ns;
	int64_t ready_ns; /* from start to READY; -1: never */
	char text[200];	  /* for people: "was killed by signal 11 (Segmentation fault)" */
	char why[160];	  /* our reason, when we killed it; "" otherwise */
};

struct sup_child_ops {
	void (*message)(struct sup_child *c, const union ctl_msg *msg);
	void (*died)(struct sup_child *c, const struct sup_death *death);
};

struct sup_child {
	uint32_t magic;
#define SUP_CHILD_MAGIC 0x53434844u
	struct sup *sup;
	const struct sup_child_ops *ops;
	void *owner;
	enum ctl_role role;
	char name[80]; /* "worker.0", "ingest.<session>" */
	uint32_t id;
	uint32_t incarnation; /* +1 at every start */
	TAILQ_ENTRY(sup_child) link;

	pid_t pid; /* 0: not running */
	int pidfd, ctl_fd, setup_fd;
	struct event *ev_pidfd, *ev_ctl, *ev_setup, *ev_log;
	struct sup_log_pipe log;
	struct stats_page *stats; /* of the newest incarnation; stays after its death */
	int stats_fd;		  /* until it was passed on */

	bool has_hello, ready, exec_done;
	struct ctl_hello hello; /* of the newest incarnation */
	char status[CTL_TEXT_MAX];
	int64_t started_ns, ready_at_ns, ctl_eof_ns, kill_ns, throttled_ns;
	int64_t message_tokens, message_refilled_ns;
	bool throttled;
	uint64_t dropped; /* messages that all its incarnations were too slow for */

	bool asked;	/* a clean exit is expected */
	bool terminated; /* we sent SIGTERM */
	bool killed;	/* we sent SIGKILL */
	bool dying;	/* it is dead; what it still said is being read */
	enum sup_exit_class kill_class;
	char kill_why[160];
	struct sup_setup_report setup;
};

struct sup_program {
	const char *file;
	char *const *argv;
	char *const *env;
	const char *dir;
};

/* `name` is copied. */
void sup_child_init(struct sup_child *c, struct sup *sup, enum ctl_role role, const char *name,
    const struct sup_child_ops *ops, void *owner);
/* The process must be gone. Idempotent. */
void sup_child_fini(struct sup_child *c);
/* 0: it runs; its death will be reported. -errno: nothing was started. */
int sup_child_start(struct sup_child *c, const struct sup_program *program, int64_t now_ns);
static inline bool
sup_child_alive(const struct sup_child *c)
{
	return c->pid != 0;
}

/* It has been killed, is dead and not reaped yet, or has closed its end: nothing that it is given arrives. */
static inline bool
sup_child_going(const struct sup_child *c)
{
	return c->killed || c->dying || c->ctl_eof_ns != 0;
}

/* Never blocks. A child that does not read what it must get is killed. true: sent. */
bool sup_child_send(struct sup_child *c, const union ctl_msg *msg, const int *fds, unsigned fd_count);
/* The same for what may be lost: it is dropped and counted when the child is slow to read, and leaves room for the rest. */
bool sup_child_offer(struct sup_child *c, const union ctl_msg *msg, const int *fds, unsigned fd_count);
/* SIGKILL. The first class and reason given are the ones in the obituary. */
void sup_child_kill(struct sup_child *c, enum sup_exit_class class, const char *why);
/* SIGTERM and SIGCONT: please exit. */
void sup_child_terminate(struct sup_child *c);
/* Deadlines: message throttle, closed control socket. */
void sup_child_tick(struct sup_child *c, int64_t now_ns);
/* Handles the death of a process that waitid() has shown. */
void sup_child_reap(struct sup_child *c);

const char *sup_exit_name(enum sup_exit_class class);
const char *sup_exit_text(enum sup_exit_class class);
bool sup_exit_permanent(enum sup_exit_class class);
/* The one log line of a death, always the same keys. `next`: what happens now ("restart", "backoff", "none"). */
void sup_obituary(const struct sup_child *c, const struct sup_death *d, uint64_t frames, unsigned in_flight,
    uint32_t deaths, const char *next, int64_t delay_ns);

#endif

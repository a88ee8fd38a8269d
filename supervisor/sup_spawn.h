/* SPDX-License-Identifier: MIT */
/*
 * Starting a child: the one place that forks
 *
 * struct sup_heritage is the complete inheritance of a child. What is not named there does not survive exec.
 */
#ifndef MR_SUP_SPAWN_H
#define MR_SUP_SPAWN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum sup_child_fd {
	SUP_FD_NULL = 0,  /* standard input: /dev/null */
	SUP_FD_OUT = 1,	  /* log pipe */
	SUP_FD_ERR = 2,	  /* the same pipe */
	SUP_FD_CTL = 3,	  /* SOCK_SEQPACKET: HELLO, CONFIG, READY ...; everything else arrives over it */
	SUP_FD_SETUP = 4, /* set-up pipe, closed by exec; says why exec was not reached */
};

struct sup_heritage {
	const char *file;  /* absolute path of the program */
	char *const *argv; /* NULL-terminated */
	char *const *env;  /* NULL-terminated; the whole environment */
	const char *dir;   /* working directory; NULL: ours */
	int ctl_fd;	   /* borrowed until sup_spawn() returns, as the next two */
	int log_fd;
	uint64_t open_files_max;
	bool no_new_privs;
};

enum sup_stage {
	SUP_STAGE_NONE,
	SUP_STAGE_SESSION,	/* setsid */
	SUP_STAGE_PARENT,	/* parent-death signal; the parent is gone already */
	SUP_STAGE_DIR,
	SUP_STAGE_LIMITS,
	SUP_STAGE_FDS,
	SUP_STAGE_PRIVS,
	SUP_STAGE_EXEC,
	SUP_STAGE_COUNT,
};

struct sup_setup_report { /* what comes out of the set-up pipe; nothing: exec succeeded */
	uint32_t stage;	  /* enum sup_stage */
	int32_t error;	  /* errno */
};

struct sup_spawned {
	pid_t pid;
	int pidfd;
	int setup_fd; /* end of file: exec was reached; non-blocking */
};

/* 0: *out is the caller's. -errno: nothing was started. */
int sup_spawn(const struct sup_heritage *h, struct sup_spawned *out);
const char *sup_stage_name(uint32_t stage);

/* Orphans that were left to us by children (we are their reaper): kills those that are not in `known`.
 * Returns how many were killed. */
unsigned sup_kill_adopted(const pid_t *known, unsigned known_count);

#endif

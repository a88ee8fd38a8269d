/* SPDX-License-Identifier: MIT */
/*
 * The journal: what a supervisor leaves to its successor
 *
 * With --state-dir, every open session is written down before the answer to its start is sent, every change that matters
 * when it happens, and its end before the answer to its stop. A supervisor that is started on the folder of one that died
 * resumes what was open, without anybody's help. Nothing in here can end a session or refuse one: a journal that cannot be
 * written is reported (log, /status, /api/sessions, metrics) and tried again, and sessions run on without it.
 *
 * Every function does nothing when there is no journal.
 */
#ifndef MR_SUP_JOURNAL_H
#define MR_SUP_JOURNAL_H

#include "supervisor/sup.h"
#include "supervisor/sup_journal_file.h"
#include "supervisor/sup_journal_state.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct sup_session;

struct sup_journal {
	struct sup *sup;
	struct sup_jrn_file file;
	int point_fd;
	bool loaded;   /* what the predecessor left has been read */
	bool degraded; /* the file does not say what is open */
	char why[300]; /* degraded: what is wrong */
	char boot[64];
	uint64_t last_key;
	uint64_t compact_bytes; /* exchanged when it is larger */
	int64_t retry_ns, sync_due_ns;
	int64_t point_ns_max;	/* longest write of the checkpoints */
	bool points_failed;
	json_t *waiting; /* key -> entry: to be resumed, but not yet */
	bool waiting_other_boot; /* they were written before the machine was started anew, or on another one */
	json_t *aside;	 /* key -> entry: set aside; "set_aside" says why */
	uint64_t resumed; /* sessions, in this life */
};

/* 0: *out is the caller's; NULL without --state-dir. SUP_JRN_BUSY: another supervisor has the folder. -ENOMEM. */
int sup_journal_new(struct sup *sup, struct sup_journal **out);
void sup_journal_free(struct sup_journal **j);
/* Resumes what was open. The pool has been started. */
void sup_journal_resume(struct sup *sup);
void sup_journal_tick(struct sup *sup, int64_t now_ns);

/* ---- what happens to sessions ----------------------------------------- */

/* On the disk when it returns. */
void sup_journal_opened(struct sup_session *s);
void sup_journal_params(struct sup_session *s);
void sup_journal_quarantined(struct sup_session *s);
/* `wait`: on the disk when it returns. */
void sup_journal_closed(struct sup_session *s, bool wait);
void sup_journal_child(struct sup *sup, pid_t pid);

/* ---- for the API ------------------------------------------------------ */

/* A session of that id that is not running but in the journal will not be resumed. true: there was one. */
bool sup_journal_forget(struct sup *sup, const char *id);
/* The caller decrefs. */
json_t *sup_journal_json(const struct sup *sup);
/* "off", "ok" or "degraded" */
const char *sup_journal_word(const struct sup *sup);

/* ---- between sup_journal.c and sup_journal_resume.c --------------------- */

/* `payload` is consumed. Failures degrade the journal. */
void sup_journal_append(struct sup_journal *j, enum sup_jrn_type type, json_t *payload);
void sup_journal_sync(struct sup_journal *j);
void sup_journal_degrade(struct sup_journal *j, int r, const char *verb);
/* Writes a new file that says what is open now. */
void sup_journal_rewrite(struct sup_journal *j);
/* Sessions that began before the folder could be read get numbers that nobody else has. */
void sup_journal_renumber(struct sup_journal *j);
/* Opens, locks and reads the folder. 0, SUP_JRN_BUSY, or -errno (degraded). */
int sup_journal_load(struct sup_journal *j);
void sup_journal_replay_tick(struct sup_journal *j, int64_t now_ns);

#endif

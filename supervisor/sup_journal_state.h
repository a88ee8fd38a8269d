/* SPDX-License-Identifier: MIT */
/*
 * What the records of the journal say together
 *
 * Payloads are JSON objects. Each record sets values and none adds to one, so that a record that is read twice, or a whole
 * journal that is, changes nothing.
 *
 *   boot     {"id"}: the machine's boot in which the records after it were written; pids of earlier ones mean nothing
 *   open     a session: {"key", "slot", "stream": the start request, "params", "good", ...}, see sup_journal.c
 *   update   {"key", ...}: values of an open session that have changed
 *   closed   {"key"}: it is over, and nobody resumes it
 *   child    {"pid", "start"}: a process, and when it was started, in clock ticks since boot
 */
#ifndef MR_SUP_JOURNAL_STATE_H
#define MR_SUP_JOURNAL_STATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum sup_jrn_type {
	SUP_JRN_BOOT = 1, SUP_JRN_OPEN = 2, SUP_JRN_UPDATE = 3, SUP_JRN_CLOSED = 4, SUP_JRN_CHILD = 5,
};
enum { SUP_JRN_CHILDREN_MAX = 4096 };

struct sup_jrn_state {
	json_t *sessions; /* object: decimal key -> what is known of an open session, oldest first */
	json_t *children; /* object: decimal pid -> start, of the last boot */
	char boot[64];
	uint64_t last_key; /* greatest that was ever used */
};

bool sup_jrn_state_init(struct sup_jrn_state *st);
void sup_jrn_state_fini(struct sup_jrn_state *st);
/* A sup_jrn_record_fn; `arg` is the state. */
bool sup_jrn_state_apply(void *arg, uint16_t type, const char *payload, size_t bytes);

#endif

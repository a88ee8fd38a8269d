/* SPDX-License-Identifier: MIT */
/* Records of deaths, for /api/crashes: the last of each child's kind, with the end of its log. */
#ifndef MR_SUP_CRASH_H
#define MR_SUP_CRASH_H

#include "supervisor/sup_child.h"

#include <jansson.h>

struct sup_crashes;

struct sup_crashes *sup_crashes_new(void);
void sup_crashes_free(struct sup_crashes **c);
/* `session` may be NULL. */
void sup_crash_record(struct sup_crashes *c, const struct sup_child *child, const struct sup_death *d, uint64_t frames,
    const char *session);
/* An array, newest first; the caller decrefs. */
json_t *sup_crashes_json(const struct sup_crashes *c);
uint64_t sup_crashes_total(const struct sup_crashes *c, enum sup_exit_class class);

#endif

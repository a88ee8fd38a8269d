/* SPDX-License-Identifier: MIT */
/* Environments of children: built from nothing, each variable by name. */
#ifndef MR_SUP_ENV_H
#define MR_SUP_ENV_H

#include "proto/ctl.h"

/* NULL-terminated vectors; NULL: out of memory. Freed with sup_env_free(). */
char **sup_env_media(enum ctl_role role);
/* `extra`: --worker-env, NAME and NAME=VALUE by comma. */
char **sup_env_worker(const char *extra);
void sup_env_free(char *const **env);

#endif

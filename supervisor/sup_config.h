/* SPDX-License-Identifier: MIT */
/*
 * Settings, from sup_params.def
 *
 * In order of weight: command line, environment (MILLRACE_PORT and so on), configuration file, defaults.
 */
#ifndef MR_SUP_CONFIG_H
#define MR_SUP_CONFIG_H

#include "supervisor/sup_params.def"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SUP_C_INT  int64_t
#define SUP_C_MS   int64_t
#define SUP_C_BOOL bool
#define SUP_C_STR  char *

struct sup_config {
#define X(field, flag, type, least, most, def, unit, text) SUP_C_##type field;
	SUP_PARAMS(X)
#undef X
	char *token;		   /* from auth_token_file; NULL: none */
	bool tls_verify_on;
	const char *tls_ca_file;   /* borrowed from tls_verify; NULL: the system's */
	char libexec_dir[4096];	   /* where our other programs are */
};

enum sup_config_result { SUP_CONFIG_OK = 0, SUP_CONFIG_HELP = 1, SUP_CONFIG_BAD = 2 };

/*
 * SUP_CONFIG_OK: *c is the caller's until sup_config_fini(). SUP_CONFIG_HELP: help or version was printed.
 * SUP_CONFIG_BAD: `err` says what is wrong and what to do. *c needs sup_config_fini() in each case.
 */
enum sup_config_result sup_config_load(struct sup_config *c, int argc, char **argv, char *err, size_t err_bytes);
void sup_config_fini(struct sup_config *c);

/* "2s", "100ms", "1.5s", "2m", "250" (ms). false: not a duration. */
bool sup_config_parse_ms(const char *text, int64_t *out);

#endif

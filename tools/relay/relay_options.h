/* SPDX-License-Identifier: MIT */
/* The command line of millrace-relay. */
#ifndef MR_RELAY_OPTIONS_H
#define MR_RELAY_OPTIONS_H

#include "tools/relay/relay_conn.h"

struct relay_options {
	const char *host; /* name or address; all of its addresses are listened on */
	char port[8];
	char path[512];
	struct relay_hub_config hub;
	struct relay_http_config http;
	int64_t sweep_ns; /* between looks for idle channels */
};

enum relay_options_result {
	RELAY_OPTIONS_HELP = 1, /* printed what was asked for: exit with 0 */
	RELAY_OPTIONS_BAD,      /* told on standard error: exit with 100 */
};
/* 0 or enum relay_options_result. *options points into itself and into argv. */
int relay_options_parse(int argc, char **argv, struct relay_options *options);

#endif

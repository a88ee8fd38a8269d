/* SPDX-License-Identifier: MIT */
/* What `millrace publish` was asked to do. */
#ifndef MR_TOOLS_PUBLISH_PUB_OPTIONS_H
#define MR_TOOLS_PUBLISH_PUB_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

enum pub_speed {
	PUB_SPEED_AUTO, /* as it comes when the input cannot be rewound, else in real time */
	PUB_SPEED_REALTIME,
	PUB_SPEED_MAX,
};

struct pub_options {
	const char *input; /* as FFmpeg names it; "-": standard input */
	const char *format; /* FFmpeg's name of the input format; NULL: probe */
	const char *url;
	bool loop, keep, verbose;
	enum pub_speed speed;
	int64_t segment_ns, linger_ns;
	bool tls_verify;
	const char *ca_file;
};

/* 0; 1 (PUB_OPTIONS_DONE): help or version was printed; 100: not understood, and said so. */
enum { PUB_OPTIONS_DONE = 1, PUB_OPTIONS_BAD = 100 };
int pub_options_parse(struct pub_options *options, int argc, char **argv);

#endif

/* SPDX-License-Identifier: MIT */
/* The URL of a channel, and those of the things in it. */
#ifndef MR_PROTO_TRICKLE_TRK_URL_H
#define MR_PROTO_TRICKLE_TRK_URL_H

#include <stdint.h>

struct trk_url {
	char *prefix; /* "http://host:port/path", without a slash at the end */
	char *suffix; /* "" or "?query" */
};

/* 0; -EINVAL: not an absolute http or https URL with a host and a path; -ENOMEM. */
int trk_url_init(struct trk_url *url, const char *text);
void trk_url_fini(struct trk_url *url);

/* The channel itself (tail NULL) or something in it ("next"). The caller frees it; NULL: out of memory. */
char *trk_url_make(const struct trk_url *url, const char *tail);
char *trk_url_make_seq(const struct trk_url *url, int64_t seq);

#endif

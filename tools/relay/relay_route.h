/* SPDX-License-Identifier: MIT */
/* Request targets: which channel and which segment a path means. Pure functions. */
#ifndef MR_RELAY_ROUTE_H
#define MR_RELAY_ROUTE_H

#include <stdbool.h>
#include <stdint.h>

enum relay_route {
	RELAY_ROUTE_NONE,    /* 404 */
	RELAY_ROUTE_BAD,     /* 400: cannot be decoded, or a name that is too long or not UTF-8 */
	RELAY_ROUTE_CHANNEL, /* {name} */
	RELAY_ROUTE_SEGMENT, /* {name}/{seq}; `seq` is the text, valid or not */
};

/*
 * Takes `target` ("/path?query" or an absolute URL) apart in place. `base` begins and ends with a slash. On
 * CHANNEL and SEGMENT *name, and on SEGMENT *seq, point into `target`, percent-decoded.
 */
enum relay_route relay_route_parse(char *target, const char *base, char **name, char **seq);

/*
 * A seq: an optional sign and decimal digits. The newest and the next segment (-2, -1) only where
 * `special_min` lets them through (-2, -1 or 0); other negative numbers never. false: not a seq.
 */
bool relay_seq_parse(const char *text, int64_t special_min, int64_t *seq);

#endif

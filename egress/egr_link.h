/* SPDX-License-Identifier: MIT */
/* The control socket: messages to the supervisor are sent at once or, while it does not read, kept in order. */
#ifndef MR_EGR_LINK_H
#define MR_EGR_LINK_H

#include "proto/ctl.h"

#include <stdbool.h>

enum { EGR_LINK_WAITING_MAX = 64 };

struct egr_link {
	int sock; /* borrowed */
	union ctl_msg waiting[EGR_LINK_WAITING_MAX];
	unsigned first, count;
};

void egr_link_init(struct egr_link *l, int sock);
/* Never blocks. When the supervisor has not read for so long that the queue is full, reports of state are lost;
 * anything else that is lost ends the process (it would be stuck). */
void egr_link_send(struct egr_link *l, const union ctl_msg *msg);
/* Tries what waits; call every turn. */
void egr_link_flush(struct egr_link *l);

#endif

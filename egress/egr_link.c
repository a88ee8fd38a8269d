/* SPDX-License-Identifier: MIT */
/* The control socket, sending side. */
#include "egress/egr_link.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>

#include "egress/egr_priv.h"

void
egr_link_init(struct egr_link *l, int sock)
{
	*l = (struct egr_link){ .sock = sock };
}

void
egr_link_flush(struct egr_link *l)
{
	while (l->count > 0) {
		if (ctl_send(l->sock, &l->waiting[l->first], NULL, 0) == -EAGAIN)
			return;
		/* Any other failure means that the supervisor is gone, which the receiving side will see. */
		l->first = (l->first + 1) % EGR_LINK_WAITING_MAX;
		l->count--;
	}
}

void
egr_link_send(struct egr_link *l, const union ctl_msg *msg)
{
	egr_link_flush(l);
	if (l->count == 0 && ctl_send(l->sock, msg, NULL, 0) != -EAGAIN)
		return;
	if (l->count == EGR_LINK_WAITING_MAX) {
		if (msg->hdr.type == CTL_CHANNEL)
			return;
		log_error("ctl", "stuck", "message=%s why=\"the supervisor does not read\"", ctl_type_name(msg->hdr.type));
		exit(EGR_EXIT_TEMPORARY);
	}
	l->waiting[(l->first + l->count++) % EGR_LINK_WAITING_MAX] = *msg;
}

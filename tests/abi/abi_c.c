/* SPDX-License-Identifier: MIT */
/* millrace.h alone in C11; the layout; a worker as the header shows it. Must compile and link; it is not run. */
#include <millrace.h>

#include "abi_header.h"

static int
invert(struct mr_session *s, const struct mr_frame *in, struct mr_output *out, void *user)
{
	(void)s;
	(void)user;
	for (size_t i = 0; i < in->bytes; i++)
		out->data[i] = (uint8_t)(255 - in->data[i]);
	return MR_OK;
}

int
main(void)
{
	struct mr_worker_config config;
	struct mr_worker_callbacks callbacks;

	mr_worker_config_init(&config, sizeof(config));
	mr_worker_callbacks_init(&callbacks, sizeof(callbacks));
	callbacks.video = invert;
	return mr_run(&config, &callbacks, NULL);
}

/* SPDX-License-Identifier: MIT */
/* millrace.h alone in C++17; the same layout; a worker. Must compile and link; it is not run. */
#include <millrace.h>

#include "abi_header.h"

#include <algorithm>

static int
invert(mr_session *, const mr_frame *in, mr_output *out, void *)
{
	std::transform(in->data, in->data + in->bytes, out->data, [](uint8_t v) { return uint8_t(255 - v); });
	return MR_OK;
}

int
main()
{
	mr_worker_config config;
	mr_worker_callbacks callbacks;

	mr_worker_config_init(&config, sizeof(config));
	mr_worker_callbacks_init(&callbacks, sizeof(callbacks));
	callbacks.video = invert;
	return mr_run(&config, &callbacks, nullptr);
}

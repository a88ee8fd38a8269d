/* SPDX-License-Identifier: MIT */
/*
 * passthrough: the smallest worker that writes its results
 *
 * Each picture is copied from the input slot to the output slot: one memcpy() a frame, which is what a worker costs
 * before it does anything. (To send the original without even that, a worker returns MR_PASS.) With --audio it copies
 * audio as well.
 */
#include <millrace.h>

#include <stdio.h>
#include <string.h>

static int
copy(struct mr_session *session, const struct mr_frame *in, struct mr_output *out, void *user)
{
	(void)session;
	(void)user;
	memcpy(out->data, in->data, in->bytes);
	return MR_OK;
}

int
main(int argc, char **argv)
{
	struct mr_worker_config config;
	struct mr_worker_callbacks callbacks;

	mr_worker_config_init(&config, sizeof(config));
	config.name = "passthrough";
	config.capacity = 4;
	mr_worker_callbacks_init(&callbacks, sizeof(callbacks));
	callbacks.video = copy;
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--audio") != 0) {
			fprintf(stderr, "passthrough: unknown argument \"%s\"; there is one: --audio\n", argv[i]);
			return 100;
		}
		callbacks.audio = copy;
	}
	return mr_run(&config, &callbacks, NULL);
}

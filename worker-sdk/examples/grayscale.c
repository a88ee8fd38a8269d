/* SPDX-License-Identifier: MIT */
/*
 * grayscale: takes the colour out of every picture
 *
 * Luma by BT.601, exactly: gray = (77 * red + 150 * green + 29 * blue + 128) / 256.
 */
#include <millrace.h>

static int
video(struct mr_session *session, const struct mr_frame *in, struct mr_output *out, void *user)
{
	const uint8_t *restrict from = in->data;
	uint8_t *restrict to = out->data;
	size_t pixels = in->bytes / 3;

	(void)session;
	(void)user;
	for (size_t i = 0; i < pixels; i++) {
		unsigned gray = (77u * from[3 * i] + 150u * from[3 * i + 1] + 29u * from[3 * i + 2] + 128) >> 8;

		to[3 * i] = to[3 * i + 1] = to[3 * i + 2] = (uint8_t)gray;
	}
	return MR_OK;
}

int
main(void)
{
	struct mr_worker_config config;
	struct mr_worker_callbacks callbacks;

	mr_worker_config_init(&config, sizeof(config));
	config.name = "grayscale";
	config.format = MR_FORMAT_RGB24;
	config.capacity = 4;
	mr_worker_callbacks_init(&callbacks, sizeof(callbacks));
	callbacks.video = video;
	return mr_run(&config, &callbacks, NULL);
}

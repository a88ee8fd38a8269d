/* SPDX-License-Identifier: MIT */
/*
 * green-tint: mixes pure green into every picture; how much can be changed while the stream runs
 *
 * Parameters: {"intensity": 0..1}, 0.5 at first; 0 leaves pictures unchanged, 1 is half green. Exactly, so that a test can
 * repeat it: with k = (int)(intensity * 128 + 0.5) and all values 0..255,
 *
 *     red'   = (red   * (256 - k)           + 128) / 256
 *     green' = (green * (256 - k) + 255 * k + 128) / 256
 *     blue'  = (blue  * (256 - k)           + 128) / 256
 */
#include <millrace.h>

#include <errno.h>
#include <stdlib.h>

enum { CHUNK = 48 }; /* bytes: 16 pixels, a whole number of vector registers */

struct tint {
	uint16_t keep;	     /* 256 - k */
	uint16_t add[CHUNK]; /* 255 * k + 128 for green, 128 for the others */
};

static void
tint_set(struct tint *t, double intensity)
{
	unsigned k = (unsigned)(intensity * 128 + 0.5);

	t->keep = (uint16_t)(256 - k);
	for (unsigned i = 0; i < CHUNK; i++)
		t->add[i] = (uint16_t)(i % 3 == 1 ? 255 * k + 128 : 128);
}

/* An update that does not name the intensity leaves it as it is. */
static int
apply(struct mr_session *s, const char *json, size_t json_bytes, struct tint *t)
{
	double intensity;
	int r = mr_param_number(json, json_bytes, "intensity", &intensity);

	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return mr_fail(s, r, "intensity must be a number from 0 to 1");
	if (!(intensity >= 0 && intensity <= 1))
		return mr_fail(s, -EINVAL, "intensity must be from 0 to 1, not %g", intensity);
	tint_set(t, intensity);
	return 0;
}

static int
start(struct mr_session *s, const struct mr_stream *stream, void *user)
{
	struct tint *t = mr_session_user(s);

	(void)user;
	if (t == NULL)
		t = calloc(1, sizeof(*t));
	if (t == NULL)
		return mr_fail(s, -ENOMEM, "out of memory");
	mr_session_set_user(s, t);
	tint_set(t, 0.5);
	return apply(s, stream->params, stream->params_bytes, t);
}

static int
params(struct mr_session *s, const char *json, size_t json_bytes, void *user)
{
	(void)user;
	return apply(s, json, json_bytes, mr_session_user(s));
}

/* No product or sum exceeds 16 bits: 255 * 256 + 128 at most. */
static void
mix(const struct tint *t, const uint8_t *restrict in, uint8_t *restrict out, size_t bytes)
{
	size_t i = 0;

	for (; i + CHUNK <= bytes; i += CHUNK)
		for (size_t k = 0; k < CHUNK; k++)
			out[i + k] = (uint8_t)((uint16_t)(in[i + k] * t->keep + t->add[k]) >> 8);
	for (size_t k = 0; i < bytes; i++, k++)
		out[i] = (uint8_t)((uint16_t)(in[i] * t->keep + t->add[k]) >> 8);
}

static int
video(struct mr_session *s, const struct mr_frame *in, struct mr_output *out, void *user)
{
	(void)user;
	mix(mr_session_user(s), in->data, out->data, in->bytes);
	return MR_OK;
}

static void
stop(struct mr_session *s, void *user)
{
	(void)user;
	free(mr_session_user(s));
	mr_session_set_user(s, NULL);
}

int
main(void)
{
	struct mr_worker_config config;
	struct mr_worker_callbacks callbacks;

	mr_worker_config_init(&config, sizeof(config));
	config.name = "green-tint";
	config.format = MR_FORMAT_RGB24;
	config.capacity = 4;
	mr_worker_callbacks_init(&callbacks, sizeof(callbacks));
	callbacks.stream_start = start;
	callbacks.video = video;
	callbacks.params = params;
	callbacks.stream_stop = stop;
	return mr_run(&config, &callbacks, NULL);
}

/* SPDX-License-Identifier: MIT */
/*
 * crash-test: a worker that misbehaves on request, to see what becomes of the stream
 *
 * It copies pictures like passthrough until its parameters say otherwise, and it is written with mr_take() instead of
 * callbacks, as an example of that level. Parameters, of which an update may name some and leave the others:
 *
 *     mode       what to do to a frame, one of
 *                  pass      copy it (default)
 *                  original  MR_PASS: have the original sent
 *                  withhold  MR_WITHHOLD: answer that there is no result
 *                  raise     fail: the original, with MR_REASON_ERROR, as a callback that returns an error
 *                  silent    let go of it without an answer
 *                  hoard     keep it, without an answer
 *                  segv      die of SIGSEGV
 *                  abort     die of SIGABRT
 *                  exit      leave with exit code `exit_code`
 *                  hang      compute for ever
 *                  sleep     sleep for ever
 *                  leak      copy it, and keep `leak_mb` MB of memory for each frame
 *     after      frames of the stream that are copied before that (0)
 *     at         "frame": mode applies to frames (default); "params": it applies when these parameters arrive; only
 *                segv, abort, exit, hang and sleep
 *     poison     apply mode only to the frame whose sequence number has these lower 32 bits; 0: to all (0)
 *     slow_ms    sleep so long before each answer (0)
 *     exit_code  (1)
 *     leak_mb    (8)
 *     refuse     true: refuse these parameters
 *
 * Arguments, for the time before a stream: --load-ms N: loading takes so long; --load-exit N: loading ends with exit
 * code N.
 */
#include <millrace.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum mode {
	MODE_PASS, MODE_ORIGINAL, MODE_WITHHOLD, MODE_RAISE, MODE_SILENT, MODE_HOARD, MODE_SEGV, MODE_ABORT, MODE_EXIT,
	MODE_HANG, MODE_SLEEP, MODE_LEAK, MODE_COUNT,
};

static const char *const mode_names[MODE_COUNT] = {
	"pass", "original", "withhold", "raise", "silent", "hoard", "segv", "abort", "exit", "hang", "sleep", "leak",
};

struct plan {
	unsigned mode;	    /* enum mode */
	unsigned at_params; /* 0: at a frame */
	int64_t after, poison, slow_ms, exit_code, leak_mb;
	int64_t seen; /* frames since the stream started */
	const struct mr_frame *hoard[8];
	unsigned hoarded;
};

static void
sleep_ms(int64_t ms)
{
	struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &t, &t) == EINTR)
		;
}

static void
hang(void)
{
	for (;;)
		__asm__ volatile(""); /* a loop without an effect may be removed */
}

/* A sanitizer has a handler, and would make an exit code of it. */
static void
segv(void)
{
	struct sigaction by_default = { .sa_handler = SIG_DFL };

	sigaction(SIGSEGV, &by_default, NULL);
	raise(SIGSEGV);
}

/* Ends the process, or never returns, for the modes that do. */
static void
misbehave(const struct plan *p)
{
	switch (p->mode) {
	case MODE_SEGV:
		segv();
		break;
	case MODE_ABORT:
		abort();
	case MODE_EXIT:
		exit((int)p->exit_code);
	case MODE_HANG:
		hang();
		break;
	case MODE_SLEEP:
		for (;;)
			sleep_ms(1000);
	default:
		break;
	}
}

static void
leak(int64_t mb)
{
	size_t bytes = (size_t)mb << 20;
	char *lost = malloc(bytes);

	if (lost != NULL)
		memset(lost, 1, bytes); /* touched, or it would cost nothing */
	__asm__ volatile("" : : "r"(lost) : "memory"); /* or the compiler would see that nobody needs it */
}

/* ---- parameters ------------------------------------------------------- */

static int
read_number(const char *json, size_t bytes, const char *key, int64_t least, int64_t most, int64_t *value)
{
	int r = mr_param_integer(json, bytes, key, value);

	if (r == -ENOENT)
		return 0;
	return r < 0 || *value < least || *value > most ? -EINVAL : 0;
}

/* false: it is something else. */
static bool
read_word(const char *json, size_t bytes, const char *key, const char *const *words, unsigned count, unsigned *index)
{
	char word[16];
	int r = mr_param_string(json, bytes, key, word, sizeof(word));

	if (r == -ENOENT)
		return true;
	for (unsigned i = 0; r == 0 && i < count; i++) {
		if (strcmp(word, words[i]) != 0)
			continue;
		*index = i;
		return true;
	}
	return false;
}

/* Returns what is wrong; NULL: nothing. */
static const char *
read_plan(const char *json, size_t bytes, struct plan *p)
{
	static const char *const places[] = { "frame", "params" };
	bool refuse = false;
	int r;

	if (!read_word(json, bytes, "mode", mode_names, MODE_COUNT, &p->mode))
		return "mode must be the name of a mode";
	if (!read_word(json, bytes, "at", places, 2, &p->at_params))
		return "at must be \"frame\" or \"params\"";
	if (read_number(json, bytes, "after", 0, INT32_MAX, &p->after) < 0 ||
	    read_number(json, bytes, "poison", 0, UINT32_MAX, &p->poison) < 0 ||
	    read_number(json, bytes, "slow_ms", 0, 3600000, &p->slow_ms) < 0 ||
	    read_number(json, bytes, "exit_code", 0, 255, &p->exit_code) < 0 ||
	    read_number(json, bytes, "leak_mb", 0, 65536, &p->leak_mb) < 0)
		return "a number is not one, or out of range";
	r = mr_param_bool(json, bytes, "refuse", &refuse);
	if (r < 0 && r != -ENOENT)
		return "refuse must be true or false";
	return refuse ? "refused, as these parameters asked for" : NULL;
}

static struct plan *
new_plan(void)
{
	struct plan *p = calloc(1, sizeof(*p));

	if (p == NULL)
		abort();
	p->exit_code = 1;
	p->leak_mb = 8;
	return p;
}

static void
on_params(const struct mr_item *item)
{
	struct plan *p = mr_session_user(item->session), fresh = *p;
	const char *wrong = read_plan(item->params, item->params_bytes, &fresh);

	if (wrong == NULL) {
		*p = fresh;
		if (p->at_params)
			misbehave(p);
	}
	mr_params_result(item->session, wrong == NULL ? 0 : -EINVAL, wrong);
}

/* ---- frames ----------------------------------------------------------- */

static void
copy(struct mr_worker *w, const struct mr_frame *in)
{
	struct mr_output out = { .size = sizeof(out) };

	if (mr_claim(w, in, &out) < 0)
		return;
	memcpy(out.data, in->data, in->bytes);
	mr_publish(w, &out);
}

static void
on_frame(struct mr_worker *w, const struct mr_frame *in)
{
	struct plan *p = mr_session_user(in->session);
	bool now = !p->at_params && p->seen++ >= p->after &&
	    (p->poison == 0 || (in->seq & UINT32_MAX) == (uint64_t)p->poison);
	unsigned mode = now ? p->mode : MODE_PASS;

	if (now)
		misbehave(p);
	if (p->slow_ms > 0)
		sleep_ms(p->slow_ms);
	if (mode == MODE_LEAK)
		leak(p->leak_mb);
	if (mode == MODE_PASS || mode == MODE_LEAK)
		copy(w, in);
	else if (mode == MODE_WITHHOLD)
		mr_answer(w, in, MR_WITHHOLD, MR_REASON_BUSY);
	else if (mode == MODE_ORIGINAL || mode == MODE_RAISE)
		mr_answer(w, in, MR_PASS, mode == MODE_RAISE ? MR_REASON_ERROR : MR_REASON_BUSY);
	if (mode == MODE_HOARD && p->hoarded < sizeof(p->hoard) / sizeof(p->hoard[0]))
		p->hoard[p->hoarded++] = in;
	else
		mr_release(w, in);
}

/* ---- life ------------------------------------------------------------- */

static void
on_stop(struct mr_worker *w, struct mr_session *session)
{
	struct plan *p = mr_session_user(session);

	for (unsigned i = 0; i < p->hoarded; i++)
		mr_release(w, p->hoard[i]);
	free(p);
}

static void
on_item(struct mr_worker *w, const struct mr_item *item)
{
	switch (item->kind) {
	case MR_ITEM_START:
		mr_session_set_user(item->session, new_plan());
		on_params(item);
		break;
	case MR_ITEM_PARAMS:
		on_params(item);
		break;
	case MR_ITEM_STOP:
		on_stop(w, item->session);
		break;
	default:
		on_frame(w, item->frame);
	}
}

static int
load(int argc, char **argv)
{
	for (int i = 1; i + 1 < argc; i += 2) {
		long n = strtol(argv[i + 1], NULL, 10);

		if (strcmp(argv[i], "--load-ms") == 0)
			sleep_ms(n);
		else if (strcmp(argv[i], "--load-exit") == 0)
			return (int)n;
	}
	return -1;
}

int
main(int argc, char **argv)
{
	struct mr_worker_config config;
	struct mr_worker *w;
	int r, code;

	mr_worker_config_init(&config, sizeof(config));
	config.name = "crash-test";
	config.capacity = 4;
	config.hold_count = 2;
	r = mr_open(&config, &w);
	if (r < 0)
		return mr_exit_code(r);
	code = load(argc, argv);
	if (code >= 0)
		return code;
	r = mr_ready(w);
	while (r == 0 || r == -EINTR) {
		struct mr_item item = { .size = sizeof(item) };

		r = mr_take(w, &item, MR_FOREVER);
		if (r == 0)
			on_item(w, &item);
	}
	mr_close(&w);
	return mr_exit_code(r);
}

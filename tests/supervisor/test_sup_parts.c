/* SPDX-License-Identifier: MIT */
/*
 * Goal: the parts of the supervisor that are arithmetic or text do what their headers say, for whatever comes in.
 * Method: tables of cases; the restart policy is driven with a clock that is a number.
 */
#include "base/clock.h"
#include "base/fd.h"
#include "supervisor/sup_clean.h"
#include "supervisor/sup_coerce.h"
#include "supervisor/sup_config.h"
#include "supervisor/sup_env.h"
#include "supervisor/sup_json.h"
#include "supervisor/sup_log_pipe.h"
#include "supervisor/sup_restart.h"
#include "supervisor/sup_states.h"
#include "supervisor/sup_words.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SEC CLOCK_SEC_NS
#define MS  CLOCK_MS_NS

/* ---- words ------------------------------------------------------------ */

static void
expect_words(const char *text, const char *joined)
{
	char got[512] = "", **words = NULL;
	size_t n = 0;

	cr_assert_eq(sup_words_split(text, &words), 0, "%s", text);
	for (char **w = words; *w != NULL && n < sizeof(got); w++)
		n += (size_t)snprintf(got + n, sizeof(got) - n, "%s|", *w);
	cr_expect_str_eq(got, joined, "%s became %s", text, got);
	sup_words_free(&words);
	cr_expect_null(words);
}

Test(words, split)
{
	expect_words("worker", "worker|");
	expect_words("  a  b\tc\n", "a|b|c|");
	expect_words("a 'b c' d", "a|b c|d|");
	expect_words("a \"b 'c'\" d", "a|b 'c'|d|");
	expect_words("a\\ b c", "a b|c|");
	expect_words("a '' b", "a||b|");
	expect_words("x\"y\"'z'", "xyz|");
	expect_words("\"a\\\"b\" \"c\\nd\"", "a\"b|c\\nd|");
	expect_words("$HOME `id` *", "$HOME|`id`|*|");
}

Test(words, refused)
{
	static const char *const bad[] = { "", "   ", "'a", "\"a", "a\\" };
	char many[SUP_WORDS_MAX * 2 + 8] = "", **words = NULL;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		cr_expect_eq(sup_words_split(bad[i], &words), -EINVAL, "%s", bad[i]);
		cr_expect_null(words);
	}
	memset(many, ' ', sizeof(many) - 1);
	for (int i = 0; i < SUP_WORDS_MAX + 1; i++)
		many[2 * i] = 'x';
	cr_expect_eq(sup_words_split(many, &words), -EINVAL);
}

/* ---- parameters ------------------------------------------------------- */

static const char *
coerce(const char *text, bool limit, struct sup_coerced *out, char *after, size_t bytes)
{
	json_t *o = json_loads(text, 0, NULL);
	const char *why;
	char *dump;

	cr_assert(json_is_object(o), "%s", text);
	why = sup_coerce_params(o, limit, out);
	dump = json_dumps(o, JSON_COMPACT | JSON_SORT_KEYS);
	snprintf(after, bytes, "%s", dump);
	free(dump);
	json_decref(o);
	return why;
}

Test(coerce, accepted)
{
	static const struct {
		const char *in, *out;
		uint32_t width, height, framerate;
	} cases[] = {
		{ "{}", "{}", 0, 0, 0 },
		{ "{\"width\":640,\"height\":\"480\"}", "{\"height\":480,\"width\":640}", 640, 480, 0 },
		{ "{\"width\":640.9,\"height\":\" +4_80 \"}", "{\"height\":480,\"width\":640}", 640, 480, 0 },
		{ "{\"max_framerate\":\"60\"}", "{\"max_framerate\":60}", 0, 0, 60 },
		{ "{\"max_framerate\":true}", "{\"max_framerate\":1}", 0, 0, 1 },
		{ "{\"max_framerate\":30.99}", "{\"max_framerate\":30}", 0, 0, 30 },
		{ "{\"a\":null,\"prompts\":[{\"b\":1}]}", "{\"a\":null,\"prompts\":[{\"b\":1}]}", 0, 0, 0 },
	};
	struct sup_coerced c;
	char after[256];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *why = coerce(cases[i].in, true, &c, after, sizeof(after));

		cr_expect_null(why, "%s: %s", cases[i].in, why);
		cr_expect_str_eq(after, cases[i].out);
		cr_expect_eq(c.has_size, cases[i].width != 0);
		cr_expect(c.width == cases[i].width && c.height == cases[i].height && c.framerate == cases[i].framerate);
	}
}

Test(coerce, refused)
{
	static const char both[] = "Both 'width' and 'height' must be provided together";
	static const char size[] = "Width and height must be valid integers or integer strings";
	static const struct {
		const char *in, *why;
	} cases[] = {
		{ "{\"width\":640}", both },
		{ "{\"height\":640}", both },
		{ "{\"width\":null,\"height\":4}", size },
		{ "{\"width\":\"1920.5\",\"height\":4}", size },
		{ "{\"width\":0,\"height\":400}", size },
		{ "{\"width\":-640,\"height\":400}", size },
		{ "{\"width\":[],\"height\":400}", size },
		{ "{\"width\":\"\",\"height\":400}", size },
		{ "{\"width\":\"1__0\",\"height\":400}", size },
		{ "{\"width\":\"0x10\",\"height\":400}", size },
		{ "{\"width\":1e300,\"height\":400}", size },
		{ "{\"width\":\"99999999999999999999\",\"height\":400}", size },
		{ "{\"width\":15,\"height\":400}", "Width and height must be between 16 and 8192" },
		{ "{\"width\":400,\"height\":9000}", "Width and height must be between 16 and 8192" },
		{ "{\"max_framerate\":null}", "max_framerate must be a valid integer" },
		{ "{\"max_framerate\":\"x\"}", "max_framerate must be a valid integer" },
		{ "{\"max_framerate\":0}", "max_framerate must be a positive integer" },
		{ "{\"max_framerate\":61}", "max_framerate cannot exceed 60 FPS" },
		{ "{\"detect_out_resolution\":\"maybe\"}", "detect_out_resolution must be a boolean value" },
		{ "{\"detect_out_resolution\":null}", "detect_out_resolution must be a boolean value" },
		{ "{\"detect_out_resolution\":1.5}", "detect_out_resolution must be a boolean value" },
	};
	struct sup_coerced c;
	char after[256];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *why = coerce(cases[i].in, true, &c, after, sizeof(after));

		cr_assert_not_null(why, "%s", cases[i].in);
		cr_expect_str_eq(why, cases[i].why, "%s: %s", cases[i].in, why);
	}
}

Test(coerce, bools_and_the_control_channel)
{
	static const struct {
		const char *in;
		bool detect;
	} cases[] = {
		{ "{\"detect_out_resolution\":true}", true }, { "{\"detect_out_resolution\":0}", false },
		{ "{\"detect_out_resolution\":7}", true }, { "{\"detect_out_resolution\":\"YES\"}", true },
		{ "{\"detect_out_resolution\":\"No\"}", false }, { "{\"detect_out_resolution\":\"1\"}", true },
	};
	struct sup_coerced c;
	char after[256];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		cr_expect_null(coerce(cases[i].in, true, &c, after, sizeof(after)));
		cr_expect(c.has_detect && c.detect == cases[i].detect, "%s", cases[i].in);
	}
	cr_expect_null(coerce("{\"max_framerate\":120}", false, &c, after, sizeof(after)));
	cr_expect_eq(c.framerate, 60);
	cr_expect_null(coerce("{\"show_loading\":\"true\"}", true, &c, after, sizeof(after)));
	cr_expect(c.has_loading && c.loading);
	cr_expect_null(coerce("{\"show_loading\":0}", true, &c, after, sizeof(after)));
	cr_expect(c.has_loading && !c.loading);
}

/* ---- JSON that jansson cannot hold ------------------------------------ */

Test(json, comes_out_as_it_went_in)
{
	static const char *const same[] = {
		"{}", "{\"a\":1}", "[9223372036854775807,-9223372036854775808,0,-0.0]",
		"{\"seed\":18446744073709551615}", "[-9223372036854775809,123456789012345678901234567890]",
		"[1e999,-1.5E+400]", "{\"a\":\"\\u0000\"}", "[\"x\\u0000y\",\"\\u0000n5\",\"\\u0000s\",\"\\u0000\\u0000n\"]",
		"[\"18446744073709551615\",\"a\\\\\",18446744073709551615,\"\\\"18446744073709551616\"]",
	};
	static const char *const refused[] = {
		"", "{", "[018446744073709551615]", "[18446744073709551615", "[18446744073709551615.]", "[-]", "[1e999e1]",
		"[18446744073709551615 18446744073709551615]", "{18446744073709551615:1}", "{\"\\u0000k\":1}",
		"[\"18446744073709551615]", "[+18446744073709551615]", "[\"\\ud800\"]", "[NaN]", "[\"\\u0000", "[\"\\",
	};

	for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
		json_t *o = sup_json_load(same[i], strlen(same[i]), NULL);
		char *text = sup_json_dump(o, JSON_COMPACT);

		cr_assert_not_null(text, "%s", same[i]);
		cr_expect_str_eq(text, same[i]);
		free(text);
		json_decref(o);
	}
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		json_error_t err;

		cr_expect_null(sup_json_load(refused[i], strlen(refused[i]), &err), "%s", refused[i]);
	}
}

Test(json, what_is_no_text)
{
	static const char doc[] = "[\"ok\",\"a\\u0000b\",18446744073709551615,5]";
	json_t *o = sup_json_load(doc, strlen(doc), NULL);
	int64_t v;

	cr_assert_eq(json_array_size(o), 4);
	cr_expect_str_eq(sup_json_text(json_array_get(o, 0)), "ok");
	for (size_t i = 1; i < 4; i++)
		cr_expect_null(sup_json_text(json_array_get(o, i)));
	cr_expect_not(sup_coerce_int(json_array_get(o, 2), &v));
	json_decref(o);
}

/* ---- restart ---------------------------------------------------------- */

Test(restart, after_progress_at_once_for_ever)
{
	struct sup_restart r;
	int64_t now = 1000 * SEC;

	sup_restart_init(&r, 30 * SEC, 60 * SEC, 7);
	for (int i = 0; i < 300; i++, now += SEC) {
		struct sup_restart_verdict v = sup_restart_died(&r, true, now);

		cr_assert(v.delay_ns == 0 && !v.loop, "death %d", i);
	}
}

Test(restart, without_progress_slower_then_a_crash_loop)
{
	struct sup_restart r;
	int64_t now = 1000 * SEC, most = 100 * MS;

	sup_restart_init(&r, 30 * SEC, 60 * SEC, 7);
	for (int i = 0; i < 12; i++) {
		struct sup_restart_verdict v = sup_restart_died(&r, false, now);

		if (i >= SUP_RESTART_LOOP) {
			cr_expect(v.loop && v.delay_ns >= 30 * SEC && v.delay_ns <= 60 * SEC, "death %d", i);
			now += 10 * MS;
			continue;
		}
		cr_expect_not(v.loop);
		cr_expect(i == 0 ? v.delay_ns == 0 : v.delay_ns >= most / 2 && v.delay_ns <= most, "death %d: %lld", i,
		    (long long)v.delay_ns);
		most = i == 0 ? 200 * MS : most * 2;
		now += v.delay_ns + 10 * MS;
	}
}

Test(restart, a_quarter_of_a_second_of_progress_is_steady)
{
	struct sup_restart r;
	int64_t now = 1000 * SEC;

	sup_restart_init(&r, 30 * SEC, 60 * SEC, 7);
	cr_expect_not(sup_restart_was_steady(&r));
	sup_restart_progress(&r, now);
	cr_expect_not(sup_restart_was_steady(&r));
	sup_restart_progress(&r, now + 100 * MS);
	cr_expect_not(sup_restart_was_steady(&r));
	sup_restart_progress(&r, now + 250 * MS);
	cr_expect(sup_restart_was_steady(&r));
	for (int i = 1; i <= 100; i++)
		sup_restart_progress(&r, now + i * SEC);
	cr_expect(sup_restart_was_steady(&r));
	sup_restart_begin(&r);
	cr_expect_not(sup_restart_was_steady(&r));
}

Test(restart, media_children_never_wait_long)
{
	struct sup_restart r;
	int64_t now = 1000 * SEC;

	sup_restart_init(&r, SEC, 0, 1);
	for (int i = 0; i < 100; i++) {
		struct sup_restart_verdict v = sup_restart_died(&r, false, now);

		cr_assert(!v.loop && v.delay_ns <= SEC, "death %d", i);
		now += v.delay_ns + 5 * MS;
	}
}

Test(restart, a_minute_of_progress_clears_the_record)
{
	struct sup_restart r;
	int64_t now = 1000 * SEC;

	sup_restart_init(&r, 30 * SEC, 60 * SEC, 3);
	for (int i = 0; i < 4; i++)
		sup_restart_died(&r, false, now += SEC);
	cr_expect_gt(sup_restart_died(&r, false, now += SEC).delay_ns, 0);
	for (int i = 0; i <= 61; i++)
		sup_restart_progress(&r, now += SEC);
	cr_expect_eq(sup_restart_died(&r, false, now).delay_ns, 0);
	sup_restart_died(&r, false, now);
	sup_restart_clear(&r);
	cr_expect_eq(sup_restart_died(&r, false, now).delay_ns, 0);
}

/* ---- states ----------------------------------------------------------- */

Test(states, every_state_has_words_and_can_be_left_or_is_an_end)
{
	for (unsigned m = 0; m < SUP_MACHINE_COUNT; m++)
		for (unsigned from = 0; from < sup_state_count(m); from++) {
			bool reachable = from == 0;

			cr_expect_gt(strlen(sup_state_name(m, from)), 0);
			cr_expect_gt(strlen(sup_state_text(m, from)), 0);
			for (unsigned i = 0; i < sup_state_count(m); i++)
				reachable = reachable || (i != from && sup_state_legal(m, i, from));
			cr_expect(reachable, "%s", sup_state_name(m, from));
		}
	cr_expect_not(sup_state_legal(SUP_MACHINE_WORKER, SUP_WORKER_FAILED, SUP_WORKER_IDLE));
	cr_expect_not(sup_state_legal(SUP_MACHINE_SESSION, SUP_SESSION_STOPPED, SUP_SESSION_RUNNING));
}

/* ---- text ------------------------------------------------------------- */

Test(clean, anything_becomes_utf8_without_controls)
{
	char text[256];

	for (unsigned seed = 1; seed < 2000; seed++) {
		uint32_t x = seed * 2654435761u;
		size_t n;

		for (size_t i = 0; i < sizeof(text); i++) {
			x ^= x << 13;
			x ^= x >> 17;
			x ^= x << 5;
			text[i] = (char)x;
		}
		sup_clean(text, sizeof(text));
		for (size_t i = 0; i < sizeof(text); i += n) {
			n = sup_utf8_at((unsigned char *)text + i, sizeof(text) - i);
			cr_assert_gt(n, 0);
			cr_assert(n > 1 || (unsigned char)text[i] >= 0x20 || text[i] == '\n' || text[i] == '\t');
		}
	}
}

Test(clean, what_is_no_utf8)
{
	static const char *const bad[] = { "\x80", "\xc0\xaf", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xff", "\xc3" };

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_expect_eq(sup_utf8_at((const unsigned char *)bad[i], strlen(bad[i])), 0, "case %zu", i);
	cr_expect_eq(sup_utf8_at((const unsigned char *)"\xc3\xa9", 2), 2);
	cr_expect_eq(sup_utf8_at((const unsigned char *)"\xf0\x9f\x98\x80", 4), 4);
}

/* Everything that comes out of our standard error while `p` reads what was written to its other end. */
static size_t
pump(struct sup_log_pipe *p, const char *data, size_t bytes, char *out, size_t out_bytes)
{
	int keep = dup(STDERR_FILENO), capture = memfd_create("stderr", MFD_CLOEXEC), child;
	int64_t now = 1000 * SEC;
	ssize_t n;

	cr_assert_eq(sup_log_pipe_open(p, &child, now), 0);
	fd_set_nonblock(child, true);
	dup2(capture, STDERR_FILENO);
	while (bytes > 0) {
		n = write(child, data, bytes);
		if (n > 0) {
			data += n;
			bytes -= (size_t)n;
		}
		sup_log_pipe_read(p, now);
	}
	fd_close(&child);
	while (sup_log_pipe_read(p, now))
		;
	sup_log_pipe_close(p);
	dup2(keep, STDERR_FILENO);
	fd_close(&keep);
	n = pread(capture, out, out_bytes - 1, 0);
	cr_assert_geq(n, 0);
	out[n] = '\0';
	fd_close(&capture);
	return (size_t)n;
}

Test(log_pipe, lines_get_a_prefix_and_lose_their_controls)
{
	static const char said[] = "one\r\n\x1b[31mred\x07\n\xff\xfe\nunfinished";
	struct sup_log_pipe p;
	char out[1024], tail[256];

	sup_log_pipe_init(&p, "worker.0", false);
	pump(&p, said, sizeof(said) - 1, out, sizeof(out));
	cr_expect_str_eq(out, "worker.0| one\nworker.0| \\x1b[31mred\\x07\nworker.0| \\xff\\xfe\nworker.0| unfinished\n");
	cr_expect_eq(sup_log_pipe_tail(&p, tail, sizeof(tail)), sizeof(said) - 1);
	cr_expect_str_eq(tail, said);
	sup_log_pipe_fini(&p);
}

Test(log_pipe, a_line_of_a_child_is_a_value_in_json)
{
	static const char said[] = "{\"level\":\"error\"}\\ \x01\n";
	struct sup_log_pipe p;
	char out[1024];
	json_t *line;

	sup_log_pipe_init(&p, "worker.0", true);
	pump(&p, said, sizeof(said) - 1, out, sizeof(out));
	line = json_loads(out, 0, NULL);
	cr_assert_not_null(line, "%s", out);
	cr_expect_str_eq(json_string_value(json_object_get(line, "line")), "{\"level\":\"error\"}\\ \x01");
	json_decref(line);
	sup_log_pipe_fini(&p);
}

Test(log_pipe, a_flood_is_cut_and_counted)
{
	enum { BYTES = 2 * 1024 * 1024, OUT = 1024 * 1024 };
	struct sup_log_pipe p;
	char *said = malloc(BYTES), *out = malloc(OUT);
	size_t n;

	for (size_t i = 0; i < BYTES; i++)
		said[i] = i % 100 == 99 ? '\n' : 'x';
	sup_log_pipe_init(&p, "w", false);
	n = pump(&p, said, BYTES, out, OUT);
	cr_expect(n > 100 * 1024 && n < 300 * 1024, "%zu bytes", n);
	cr_expect_gt(p.suppressed, BYTES / 2);
	memset(said, 'y', 100000);
	n = pump(&p, said, 100000, out, OUT); /* one endless line */
	cr_expect_lt(n, 2 * SUP_LOG_LINE_MAX);
	sup_log_pipe_fini(&p);
	free(said);
	free(out);
}

/* ---- settings --------------------------------------------------------- */

static enum sup_config_result
load(const char *args, struct sup_config *c, char *err, size_t err_bytes)
{
	enum sup_config_result r;
	char line[512], **words;
	int n = 0;

	snprintf(line, sizeof(line), "serve %s", args);
	cr_assert_eq(sup_words_split(line, &words), 0);
	while (words[n] != NULL)
		n++;
	r = sup_config_load(c, n, words, err, err_bytes);
	sup_words_free(&words);
	return r;
}

Test(config, sources_in_order)
{
	char path[] = "/tmp/millrace-test-XXXXXX", args[256], err[300] = "";
	static const char text[] = "{\"port\": 1111, \"frame_timeout\": \"3s\", \"workers\": 4, \"standby\": \"2\"}";
	int fd = mkstemp(path);
	struct sup_config c;

	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
	setenv("MILLRACE_WORKERS", "5", 1);
	setenv("MILLRACE_FRAME_TIMEOUT", "4s", 1);
	snprintf(args, sizeof(args), "--worker 'a b' --frame-timeout=500ms --config %s", path);
	cr_assert_eq(load(args, &c, err, sizeof(err)), SUP_CONFIG_OK, "%s", err);
	cr_expect(c.port == 1111 && c.workers == 5 && c.standby == 2 && c.frame_timeout_ms == 500);
	cr_expect_eq(c.frame_deadline_ms, 100);
	cr_expect_str_eq(c.worker, "a b");
	sup_config_fini(&c);
	unlink(path);
}

Test(config, refusals_name_the_source)
{
	static const struct {
		const char *args, *word;
	} cases[] = {
		{ "", "--worker" }, { "--worker", "value is missing" }, { "--worker x --port 70000", "--port" },
		{ "--worker x --port 1x", "whole number" }, { "--worker x --frame-timeout soon", "duration" },
		{ "--worker x --frame-timeout 1ms", "range" }, { "--worker x --fallback maybe", "--fallback" },
		{ "--worker x --nonsense", "--nonsense" }, { "--worker x y", "y" }, { "--worker x --host 0.0.0.0", "--insecure-no-auth" },
		{ "--worker x --config /nonexistent", "/nonexistent" }, { "--worker x --auth-token-file /dev/null", "empty" },
		{ "--worker x --tls-verify /nonexistent", "--tls-verify" }, { "--worker x --workers 0", "--workers" },
		{ "--worker x --insecure-no-auth=perhaps", "neither on nor off" },
	};
	struct sup_config c;
	char err[600];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		cr_expect_eq(load(cases[i].args, &c, err, sizeof(err)), SUP_CONFIG_BAD, "%s", cases[i].args);
		cr_expect_not_null(strstr(err, cases[i].word), "%s: %s", cases[i].args, err);
		sup_config_fini(&c);
	}
}

Test(config, durations)
{
	int64_t ms;

	cr_expect(sup_config_parse_ms("2s", &ms) && ms == 2000);
	cr_expect(sup_config_parse_ms("1.5s", &ms) && ms == 1500);
	cr_expect(sup_config_parse_ms("250", &ms) && ms == 250);
	cr_expect(sup_config_parse_ms("2m", &ms) && ms == 120000);
	cr_expect_not(sup_config_parse_ms("-1s", &ms));
	cr_expect_not(sup_config_parse_ms("s", &ms));
	cr_expect_not(sup_config_parse_ms("1 s", &ms));
	cr_expect_not(sup_config_parse_ms("inf", &ms));
	cr_expect_not(sup_config_parse_ms("1e300s", &ms));
}

/* ---- environment ------------------------------------------------------ */

Test(env, nothing_that_is_not_named)
{
	char **env;
	bool found = false, set = false;

	setenv("ORCH_SECRET", "s3cret", 1);
	setenv("MODEL_DIR", "/models", 1);
	env = sup_env_worker("MODEL_DIR,MODE=a=b");
	cr_assert_not_null(env);
	for (char **e = env; *e != NULL; e++) {
		cr_expect_null(strstr(*e, "s3cret"));
		found = found || strcmp(*e, "MODEL_DIR=/models") == 0;
		set = set || strcmp(*e, "MODE=a=b") == 0;
	}
	cr_expect(found && set);
	sup_env_free((char *const **)&env);
	env = sup_env_media(CTL_ROLE_EGRESS);
	cr_assert_not_null(env);
	for (char **e = env; *e != NULL; e++)
		cr_expect_null(strstr(*e, "s3cret"));
	sup_env_free((char *const **)&env);
}

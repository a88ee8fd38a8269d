/* SPDX-License-Identifier: MIT */
/*
 * Goal: mr_param_*() accept exactly RFC 8259 in UTF-8 and never read outside the text.
 * Method: tables; then mutations of valid texts in buffers that end where the text ends, for the sanitizers to watch.
 */
#include "millrace.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(sdk_params, .timeout = 60);

static int
number(const char *json, double *v)
{
	return mr_param_number(json, strlen(json), "k", v);
}

Test(sdk_params, numbers)
{
	static const struct {
		const char *json;
		int result;
		double value;
	} cases[] = {
		{ "{\"k\":0}", 0, 0 },
		{ "{\"k\":-0.5}", 0, -0.5 },
		{ " { \"k\" : 1e3 } ", 0, 1000 },
		{ "{\"k\":12.25E-1}", 0, 1.225 },
		{ "{\"a\":[1,{\"k\":9},[]],\"k\":0.25,\"b\":{}}", 0, 0.25 },
		{ "{\"k\":1,\"k\":2}", 0, 2 },
		{ "{\"\\u006b\":3}", 0, 3 },
		{ "{\"k\":null}", -ENOENT, 0 },
		{ "{}", -ENOENT, 0 },
		{ "{\"kk\":1,\"\":2,\"K\":3}", -ENOENT, 0 },
		{ "{\"k\\u0000\":1}", -ENOENT, 0 },
		{ "{\"k\":\"1\"}", -EINVAL, 0 },
		{ "{\"k\":true}", -EINVAL, 0 },
		{ "{\"k\":[1]}", -EINVAL, 0 },
		{ "{\"k\":1e999}", -EINVAL, 0 },
		{ "{\"k\":1}x", -EBADMSG, 0 },
		{ "[1]", -EBADMSG, 0 },
		{ "", -EBADMSG, 0 },
		{ "{", -EBADMSG, 0 },
		{ "{\"k\"}", -EBADMSG, 0 },
		{ "{\"k\":}", -EBADMSG, 0 },
		{ "{\"k\":1,}", -EBADMSG, 0 },
		{ "{,}", -EBADMSG, 0 },
		{ "{\"k\":01}", -EBADMSG, 0 },
		{ "{\"k\":+1}", -EBADMSG, 0 },
		{ "{\"k\":.5}", -EBADMSG, 0 },
		{ "{\"k\":1.}", -EBADMSG, 0 },
		{ "{\"k\":1e}", -EBADMSG, 0 },
		{ "{\"k\":0x1}", -EBADMSG, 0 },
		{ "{\"k\":NaN}", -EBADMSG, 0 },
		{ "{\"k\":Infinity}", -EBADMSG, 0 },
		{ "{\"k\":-}", -EBADMSG, 0 },
		{ "{'k':1}", -EBADMSG, 0 },
		{ "{k:1}", -EBADMSG, 0 },
		{ "{\"k\":1 \"b\":2}", -EBADMSG, 0 },
		{ "{\"k\":[1,]}", -EBADMSG, 0 },
		{ "{\"k\":[1}}", -EBADMSG, 0 },
		{ "{\"k\":{\"a\"]}", -EBADMSG, 0 },
		{ "{\"k\":tru}", -EBADMSG, 0 },
		{ "{\"k\":1}\"", -EBADMSG, 0 },
		{ "{\"a\":\"\t\",\"k\":1}", -EBADMSG, 0 },
		{ "{\"a\":\"\\x\",\"k\":1}", -EBADMSG, 0 },
		{ "{\"a\":\"\\ud800\",\"k\":1}", -EBADMSG, 0 },
		{ "{\"a\":\"\\udc00\",\"k\":1}", -EBADMSG, 0 },
		{ "{\"a\":\"\xc0\x80\",\"k\":1}", -EBADMSG, 0 },
		{ "{\"a\":\"\xed\xa0\x80\",\"k\":1}", -EBADMSG, 0 },
		{ "{\"a\":\"\xf4\x90\x80\x80\",\"k\":1}", -EBADMSG, 0 },
		{ "{\"a\":\"\xe2\x82", -EBADMSG, 0 },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		double v = 77;

		cr_expect_eq(number(cases[i].json, &v), cases[i].result, "%s", cases[i].json);
		cr_expect(v == (cases[i].result == 0 ? cases[i].value : 77), "%s gives %g", cases[i].json, v);
	}
}

Test(sdk_params, nesting_has_a_limit)
{
	char json[400];

	for (int depth = 1; depth < 100; depth++) {
		double v = 0;
		int at = snprintf(json, sizeof(json), "{\"a\":");

		for (int i = 1; i < depth; i++)
			json[at++] = '[';
		for (int i = 1; i < depth; i++)
			json[at++] = ']';
		if (depth == 1)
			json[at++] = '1';
		snprintf(json + at, sizeof(json) - (size_t)at, ",\"k\":5}");
		cr_expect_eq(number(json, &v), depth <= 64 ? 0 : -EBADMSG, "%d levels", depth);
	}
}

Test(sdk_params, integers)
{
	static const struct {
		const char *text;
		int result;
		int64_t value;
	} cases[] = {
		{ "3", 0, 3 }, { "-3", 0, -3 }, { "3.0", 0, 3 }, { "3e2", 0, 300 }, { "30e-1", 0, 3 },
		{ "9223372036854775807", 0, INT64_MAX }, { "-9223372036854775808", 0, INT64_MIN },
		{ "9223372036854775808", -EINVAL, 0 }, { "3.5", -EINVAL, 0 }, { "1e30", -EINVAL, 0 },
		{ "1e999", -EINVAL, 0 }, { "\"3\"", -EINVAL, 0 }, { "null", -ENOENT, 0 },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char json[64];
		int64_t v = 77;
		int r;

		snprintf(json, sizeof(json), "{\"k\":%s}", cases[i].text);
		errno = 42;
		r = mr_param_integer(json, strlen(json), "k", &v);
		cr_expect(errno == 42, "errno is the application's");
		cr_expect_eq(r, cases[i].result, "%s", json);
		cr_expect_eq(v, cases[i].result == 0 ? cases[i].value : 77, "%s", json);
	}
}

Test(sdk_params, booleans)
{
	static const char json[] = "{\"t\":true,\"f\":false,\"n\":0}";
	bool v = false;

	cr_expect(mr_param_bool(json, strlen(json), "t", &v) == 0 && v);
	cr_expect(mr_param_bool(json, strlen(json), "f", &v) == 0 && !v);
	cr_expect_eq(mr_param_bool(json, strlen(json), "n", &v), -EINVAL);
	cr_expect_eq(mr_param_bool(json, strlen(json), "x", &v), -ENOENT);
}

Test(sdk_params, strings)
{
	static const char json[] = "{\"plain\":\"abc\",\"esc\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e4\\u20AC\\ud83d\\ude00\","
	    "\"raw\":\"\xc3\xa4\xf0\x9f\x98\x80\",\"nul\":\"a\\u0000b\",\"empty\":\"\"}";
	char v[32] = "before";

	cr_expect_eq(mr_param_string(json, strlen(json), "plain", v, 3), -ENAMETOOLONG);
	cr_expect_eq(mr_param_string(json, strlen(json), "nul", v, sizeof(v)), -EINVAL);
	cr_expect_eq(mr_param_string(json, strlen(json), "none", v, sizeof(v)), -ENOENT);
	cr_expect_str_eq(v, "before");
	cr_expect_eq(mr_param_string(json, strlen(json), "plain", v, 4), 0);
	cr_expect_str_eq(v, "abc");
	cr_expect_eq(mr_param_string(json, strlen(json), "esc", v, sizeof(v)), 0);
	cr_expect_str_eq(v, "\"\\/\b\f\n\r\t\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80");
	cr_expect_eq(mr_param_string(json, strlen(json), "raw", v, sizeof(v)), 0);
	cr_expect_str_eq(v, "\xc3\xa4\xf0\x9f\x98\x80");
	cr_expect_eq(mr_param_string(json, strlen(json), "empty", v, 1), 0);
	cr_expect_str_eq(v, "");
}

Test(sdk_params, decimal_point_of_the_application)
{
	static const char *const names[] = { "de_DE.UTF-8", "fr_FR.UTF-8", "C.UTF-8" };
	double v;

	for (unsigned i = 0; i < 3; i++) {
		setlocale(LC_ALL, names[i]); /* may not be installed */
		cr_expect(number("{\"k\":0.5}", &v) == 0 && v == 0.5, "%s", names[i]);
	}
}

static void
ask_everything(const char *json, size_t bytes)
{
	char *copy = malloc(bytes > 0 ? bytes : 1), text[8]; /* ends where the text ends */
	double d;
	int64_t i;
	bool b;

	memcpy(copy, json, bytes);
	mr_param_number(copy, bytes, "num", &d);
	mr_param_integer(copy, bytes, "num", &i);
	mr_param_bool(copy, bytes, "b", &b);
	mr_param_string(copy, bytes, "s\xc3\xa4", text, sizeof(text));
	free(copy);
}

Test(sdk_params, mutations)
{
	static const char seed[] =
	    "{\"num\":-12.5e1,\"s\\u00e4\":\"\\ud83d\\ude00\xf0\x9f\x98\x80\\n\",\"b\":true,\"x\":[1,{\"y\":[null,{}]},\"z\"]}";
	static const char alphabet[] = "{}[]\",:\\u0d8e-+.tfn \x80\xff";
	char text[sizeof(seed)];
	uint32_t x = 1;

	for (size_t n = 0; n < sizeof(seed); n++)
		ask_everything(seed, n);
	for (unsigned round = 0; round < 100000; round++) {
		memcpy(text, seed, sizeof(seed));
		for (unsigned i = 0; i < 1 + round % 4; i++) {
			x = x * 1664525 + 1013904223;
			text[(x >> 8) % (sizeof(seed) - 1)] = alphabet[(x >> 24) % (sizeof(alphabet) - 1)];
		}
		ask_everything(text, sizeof(seed) - 1 - (round % 7 == 0 ? x >> 16 & 31 : 0));
	}
}

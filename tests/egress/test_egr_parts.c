/* SPDX-License-Identifier: MIT */
/* Goal: session text, meters and slate take what they are given. */
#include "egress/egr_config.h"
#include "egress/egr_meter.h"
#include "egress/egr_slate.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int
parse(const char *text, struct egr_config *c)
{
	char why[200];

	return egr_config_parse(text, strlen(text), c, why, sizeof(why));
}

Test(egr_config, defaults)
{
	struct egr_config c;

	cr_assert_eq(parse("{\"id\":\"a\",\"publish_url\":null,\"data_url\":\"\"}", &c), 0);
	cr_expect_str_eq(c.id, "a");
	cr_expect_null(c.publish_url);
	cr_expect_null(c.data_url);
	cr_expect_eq(c.width, 512);
	cr_expect_eq(c.format, FORMAT_RGB24);
	cr_expect(c.detect_out_resolution);
	cr_expect_not(c.resumed);
	cr_expect_eq(c.frame_deadline_ns, 100000000);
	cr_expect_eq(c.resume_video_pts_ns, -1);
	egr_config_fini(&c);
}

Test(egr_config, everything)
{
	struct egr_config c;

	cr_assert_eq(parse("{\"publish_url\":\"http://h/p\",\"fallback\":\"overlay\",\"format\":\"nv12\",\"width\":99999,"
	    "\"frame_deadline_ms\":250,\"worker_audio\":true,\"unknown\":[1],\"resume\":{\"last_out_pts_ns\":5,"
	    "\"out_width\":640,\"out_height\":360,\"has_audio\":true,\"had_output\":true}}", &c), 0);
	cr_expect_eq(c.policy, EGR_POLICY_OVERLAY);
	cr_expect_eq(c.format, FORMAT_NV12);
	cr_expect_eq(c.width, FORMAT_SIDE_MAX);
	cr_expect(c.worker_audio && c.resumed && c.resume_has_audio && c.resume_had_output);
	cr_expect_eq(c.resume_video_pts_ns, 5);
	cr_expect_eq(c.resume_audio_pts_ns, -1);
	egr_config_fini(&c);
}

Test(egr_config, refusals)
{
	static const char *const bad[] = { "", "[]", "{", "{\"width\":\"512\"}", "{\"fallback\":\"no\"}",
		"{\"fallback\":3}", "{\"format\":\"yuv\"}", "{\"id\":5}", "{\"tls_verify\":1}", "{\"resume\":true}",
		"{\"resume\":{\"out_width\":\"1\"}}" };

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct egr_config c;

		cr_expect_eq(parse(bad[i], &c), -EINVAL, "%s", bad[i]);
	}
}

Test(egr_meter, rate)
{
	static struct egr_rate r;
	int64_t now = 0;

	cr_expect_eq(egr_rate_milli(&r, 0), 0);
	for (int i = 0; i < 1000; i++)
		egr_rate_add(&r, now = i * INT64_C(40000000));
	cr_expect_eq(egr_rate_milli(&r, now), 25000);
	cr_expect_eq(egr_rate_milli(&r, now + 11 * INT64_C(1000000000)), 0);
}

Test(egr_meter, spread)
{
	static struct egr_spread s;
	uint32_t p50, p99;

	egr_spread_get(&s, &p50, &p99);
	cr_expect_eq(p99, 0);
	for (uint32_t i = 0; i < 1000; i++)
		egr_spread_add(&s, i);
	egr_spread_get(&s, &p50, &p99);
	cr_expect_eq(p50, 744 + 128);
	cr_expect_eq(p99, 744 + 253);
}

/* Every size, also tiny ones, with any text: nothing is written outside the planes, and the slate is not empty. */
Test(egr_slate, stays_inside)
{
	static const int sizes[][2] = { { 16, 16 }, { 18, 1000 }, { 1000, 16 }, { 320, 240 }, { 512, 512 }, { 1922, 1082 } };
	struct egr_slate slate = { .progress_percent = -1 };

	memset(slate.text, 'W', sizeof(slate.text) - 1);
	slate.text[3] = '\xff';
	slate.text[40] = ' ';
	for (unsigned i = 0; i < 6; i++) {
		int w = sizes[i][0], h = sizes[i][1];

		for (unsigned interleaved = 0; interleaved < 2; interleaved++) {
			/* exactly as large as needed: the sanitizer watches the ends */
			uint8_t *y = calloc((size_t)w, (size_t)h), *u = calloc((size_t)w, (size_t)h / 2),
				*v = calloc((size_t)w / 2, (size_t)h / 2);
			struct egr_canvas c = { .plane = { y, u, v }, .width = w, .height = h,
				.stride = { w, interleaved ? w : w / 2, w / 2 }, .interleaved = interleaved };

			for (unsigned phase = 0; phase < 2000; phase += 333)
				egr_slate_draw(&slate, &c, phase);
			slate.progress_percent = 150;
			egr_slate_draw(&slate, &c, 0);
			slate.progress_percent = -1;
			cr_expect_eq(y[0], 42); /* 30,30,30 in limited range */
			free(y);
			free(u);
			free(v);
		}
	}
}

/* SPDX-License-Identifier: MIT */
/*
 * Goal: the rules of the trickle protocol, one by one, without a network.
 * Method: tables of replies as servers send them and of what has to follow; the helpers' edges.
 */
#include "proto/trickle/trk_backoff.h"
#include "proto/trickle/trk_buf.h"
#include "proto/trickle/trk_reply.h"
#include "proto/trickle/trk_url.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct trk_reply
parse(const char *text)
{
	struct trk_reply reply;

	trk_reply_init(&reply);
	for (const char *end; (end = strchr(text, '\n')) != NULL; text = end + 1)
		trk_reply_line(&reply, text, (size_t)(end - text) + 1);
	return reply;
}

#define R(status, fields) "HTTP/1.1 " status "\r\n" fields "\r\n"
#define SEQ(n)	  "Lp-Trickle-Seq: " #n "\r\n"
#define LATEST(n) "Lp-Trickle-Latest: " #n "\r\n"
#define CLOSED	  "Lp-Trickle-Closed: terminated\r\n"

// clang-format off
static const struct get_case {
	const char *name, *reply;
	int64_t tried;
	struct trk_get_step want;
} get_cases[] = {
	{ "data at the edge", R("200 OK", SEQ(7)), 7, { TRK_GET_READ, 7, false, false } },
	{ "data of the newest", R("200 OK", SEQ(7) LATEST(8)), -2, { TRK_GET_READ, 7, false, false } },
	{ "another seq than asked for", R("200 OK", SEQ(9)), 7, { TRK_GET_READ, 9, false, true } },
	{ "no seq, but asked for one", R("200 OK", ""), 7, { TRK_GET_READ, 7, false, false } },
	{ "no seq, and none asked for", R("200 OK", ""), -2, { TRK_GET_RETRY, -2, false, false } },
	{ "a seq that is no number", R("200 OK", "Lp-Trickle-Seq: x\r\n"), 7, { TRK_GET_READ, 7, false, false } },
	{ "too far behind", R("470 status code 470", SEQ(3) LATEST(9)), 3, { TRK_GET_GOTO, 9, false, true } },
	{ "latest is where we are", R("470 status code 470", SEQ(3) LATEST(3)), 3, { TRK_GET_GOTO, 3, true, false } },
	{ "the publisher began again", R("470 status code 470", SEQ(9) LATEST(1)), 9, { TRK_GET_GOTO, 1, false, true } },
	{ "470 to -2", R("470 status code 470", SEQ(-2) LATEST(4)), -2, { TRK_GET_GOTO, 4, false, false } },
	{ "470 without latest", R("470 x", ""), 3, { TRK_GET_GOTO, -1, true, true } },
	{ "470 with an absurd latest", R("470 x", LATEST(99999999999999999999)), 3, { TRK_GET_GOTO, -1, true, true } },
	{ "absent", R("404 Not Found", ""), 3, { TRK_GET_ABSENT, 3, false, false } },
	{ "closed, empty body", R("200 OK", SEQ(4) CLOSED), 4, { TRK_GET_CLOSED, 4, false, false } },
	{ "closed comes before 470", R("470 x", LATEST(9) CLOSED), 4, { TRK_GET_CLOSED, 4, false, false } },
	{ "closed comes before 404", R("404 x", CLOSED), 4, { TRK_GET_CLOSED, 4, false, false } },
	{ "closed with any value", R("200 OK", SEQ(4) "lp-trickle-closed:\r\n"), 4, { TRK_GET_CLOSED, 4, false, false } },
	{ "server error", R("503 Service Unavailable", ""), 4, { TRK_GET_RETRY, 4, false, false } },
	{ "redirect", R("302 Found", "Location: http://x/\r\n"), 4, { TRK_GET_RETRY, 4, false, false } },
	{ "bad request", R("400 Bad Request", ""), 4, { TRK_GET_RETRY, 4, false, false } },
	{ "no content", R("204 No Content", ""), 4, { TRK_GET_RETRY, 4, false, false } },
};

static const struct get_case empty_cases[] = {
	{ "dropped segment", R("200 OK", SEQ(5) LATEST(6)), 5, { TRK_GET_GOTO, 6, false, false } },
	{ "dropped segment, far behind", R("200 OK", SEQ(5) LATEST(9)), 5, { TRK_GET_GOTO, 6, false, false } },
	{ "the publisher began again", R("200 OK", SEQ(5) LATEST(0)), 5, { TRK_GET_GOTO, 0, false, true } },
	{ "no headers", R("200 OK", ""), 5, { TRK_GET_GOTO, 6, false, false } },
};

static const struct post_case {
	const char *name, *reply;
	bool some_sent, all_sent;
	enum trk_post_act want;
} post_cases[] = {
	{ "published", R("200 OK", SEQ(1)), true, true, TRK_POST_DONE },
	{ "published, 201", R("201 Created", ""), true, true, TRK_POST_DONE },
	{ "seq closed while parked", R("200 OK", "Connection: close\r\n"), false, false, TRK_POST_NEXT },
	{ "seq closed while writing", R("200 OK", ""), true, false, TRK_POST_DROP },
	{ "channel closed while parked", R("200 OK", CLOSED), false, false, TRK_POST_CLOSED },
	{ "channel closed while writing", R("200 OK", CLOSED), true, false, TRK_POST_CLOSED },
	{ "absent", R("404 Not Found", ""), false, false, TRK_POST_ABSENT },
	{ "absent while writing", R("404 Not Found", ""), true, false, TRK_POST_ABSENT },
	{ "refused before a byte", R("503 x", ""), false, false, TRK_POST_RETRY },
	{ "refused while writing", R("500 x", ""), true, false, TRK_POST_BROKEN },
	{ "refused after all", R("500 x", ""), true, true, TRK_POST_BROKEN },
	{ "lost before a byte", "", false, false, TRK_POST_RETRY },
	{ "lost while writing", "", true, false, TRK_POST_BROKEN },
	{ "lost after all", R("100 Continue", ""), true, true, TRK_POST_BROKEN },
};
// clang-format on

static void
check_get(const struct get_case *c, struct trk_get_step got)
{
	cr_expect_eq(got.act, c->want.act, "%s: act %d", c->name, got.act);
	cr_expect_eq(got.seq, c->want.seq, "%s: seq %ld", c->name, (long)got.seq);
	cr_expect_eq(got.wait, c->want.wait, "%s: wait", c->name);
	cr_expect_eq(got.gap, c->want.gap, "%s: gap", c->name);
}

Test(trk_reply, get)
{
	for (size_t i = 0; i < sizeof(get_cases) / sizeof(get_cases[0]); i++) {
		struct trk_reply reply = parse(get_cases[i].reply);

		cr_expect(reply.complete, "%s", get_cases[i].name);
		check_get(&get_cases[i], trk_reply_get(&reply, get_cases[i].tried));
	}
}

Test(trk_reply, get_empty)
{
	for (size_t i = 0; i < sizeof(empty_cases) / sizeof(empty_cases[0]); i++) {
		struct trk_reply reply = parse(empty_cases[i].reply);

		check_get(&empty_cases[i], trk_reply_get_empty(&reply, empty_cases[i].tried));
	}
}

Test(trk_reply, post)
{
	for (size_t i = 0; i < sizeof(post_cases) / sizeof(post_cases[0]); i++) {
		const struct post_case *c = &post_cases[i];
		struct trk_reply reply = parse(c->reply);

		cr_expect_eq(trk_reply_post(&reply, c->some_sent, c->all_sent), c->want, "%s", c->name);
	}
}

Test(trk_reply, informational_replies_are_not_final)
{
	struct trk_reply reply = parse(R("100 Continue", "") R("100 Continue", SEQ(9)) R("102 Processing", ""));

	cr_expect_not(reply.complete);
	cr_expect(reply.informed);
	cr_expect_eq(reply.seq, TRK_SEQ_NONE);
	reply = parse(R("100 Continue", SEQ(9)) R("200 OK", ""));
	cr_expect(reply.complete);
	cr_expect(reply.informed);
	cr_expect_eq(reply.status, 200);
	cr_expect_eq(reply.seq, TRK_SEQ_NONE, "headers of a 1xx are not those of the reply");
}

Test(trk_reply, trailers_change_nothing)
{
	struct trk_reply reply = parse(R("200 OK", SEQ(3)) SEQ(4) CLOSED "\r\n");

	cr_expect_eq(reply.seq, 3);
	cr_expect_not(reply.closed);
}

Test(trk_reply, numbers)
{
	static const struct {
		const char *text;
		int64_t want;
	} cases[] = {
		{ "0", 0 }, { " 17 \r\n", 17 }, { "007", 7 }, { "-1", TRK_SEQ_NONE }, { "", TRK_SEQ_NONE },
		{ "1x", TRK_SEQ_NONE }, { "1 2", TRK_SEQ_NONE }, { "+3", TRK_SEQ_NONE },
		{ "1000000000000000", TRK_SEQ_MAX }, { "1000000000000001", TRK_SEQ_NONE },
		{ "99999999999999999999999999", TRK_SEQ_NONE },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		cr_expect_eq(trk_seq_parse(cases[i].text, strlen(cases[i].text)), cases[i].want, "%s", cases[i].text);
}

Test(trk_backoff, grows_to_its_limit_within_its_jitter)
{
	struct trk_backoff b = { 0 };
	uint64_t rng = 42;
	int64_t step = TRK_BACKOFF_FIRST_NS;

	for (int i = 0; i < 12; i++) {
		int64_t wait = trk_backoff_next_ns(&b, &rng);

		cr_expect(wait >= step / 2 && wait <= step, "try %d: %ld", i, (long)wait);
		step = step * 2 > TRK_BACKOFF_MAX_NS ? TRK_BACKOFF_MAX_NS : step * 2;
	}
	trk_backoff_reset(&b);
	cr_expect_leq(trk_backoff_next_ns(&b, &rng), TRK_BACKOFF_FIRST_NS);
}

Test(trk_backoff, two_clients_do_not_come_back_together)
{
	struct trk_backoff a = { 0 }, b = { 0 };
	uint64_t rng_a = 1, rng_b = 2;
	int same = 0;

	for (int i = 0; i < 20; i++)
		same += trk_backoff_next_ns(&a, &rng_a) == trk_backoff_next_ns(&b, &rng_b);
	cr_expect_leq(same, 1);
}

Test(trk_buf, keeps_order_through_growth_and_wrap)
{
	struct trk_buf b = { 0 };
	uint8_t next_in = 0, next_out = 0, piece[3000];

	for (int round = 0; round < 500; round++) {
		size_t in = (size_t)(round * 7919 % 3000), out;

		for (size_t i = 0; i < in; i++)
			piece[i] = next_in++;
		cr_assert_eq(trk_buf_put(&b, piece, in), 0);
		out = trk_buf_count(&b) * (size_t)(round % 4) / 3;
		for (size_t i = 0; i < out; i++)
			cr_assert_eq(trk_buf_front(&b)[i], next_out++);
		trk_buf_drop(&b, out);
	}
	trk_buf_fini(&b);
}

Test(trk_url, what_is_a_channel)
{
	static const char *const bad[] = {
		"", "channel", "/a/b", "ftp://h/c", "file:///etc/passwd", "http://", "http://h", "http://h/", "http:///c",
		"https://h:99999/c", "http://h:x/c", "javascript:alert(1)", "http://h/c\r\nX: y", "http://h/a b",
	};
	struct trk_url url;

	cr_expect_eq(trk_url_init(&url, NULL), -EINVAL);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_expect_eq(trk_url_init(&url, bad[i]), -EINVAL, "%s", bad[i]);
}

Test(trk_url, of_a_segment)
{
	static const struct {
		const char *channel, *seven;
	} cases[] = {
		{ "http://h:1/c", "http://h:1/c/7" }, { "https://h/ai/trickle/c/", "https://h/ai/trickle/c/7" },
		{ "http://h/c?k=v#f", "http://h/c/7?k=v" }, { "http://u:p@[::1]:8/c//", "http://u:p@[::1]:8/c/7" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct trk_url url;
		char *made;

		cr_assert_eq(trk_url_init(&url, cases[i].channel), 0, "%s", cases[i].channel);
		made = trk_url_make_seq(&url, 7);
		cr_expect_str_eq(made, cases[i].seven);
		free(made);
		trk_url_fini(&url);
	}
}

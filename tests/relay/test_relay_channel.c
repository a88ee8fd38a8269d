/* SPDX-License-Identifier: MIT */
/*
 * Goal: the rules of a channel's numbers, of memory and of time hold without a network and without waiting.
 * Method: calls in a chosen order on the state machine, with a clock that is a variable; a watch counts.
 */
#include "base/log.h"
#include "tools/relay/relay_channel.h"
#include "tools/relay/relay_route.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECOND INT64_C(1000000000)

static struct relay_hub hub;
static struct relay_channel *channel;
static int64_t now_ns;
static unsigned changes;

static void
count_change(struct relay_watch *watch)
{
	changes++;
}

static void
open_hub(enum relay_flavor flavor, size_t memory_max, size_t segment_max)
{
	log_set_level(LOG_LEVEL_ERROR);
	relay_hub_init(&hub,
	    &(struct relay_hub_config){ .flavor = flavor,
		.memory_max_bytes = memory_max,
		.segment_max_bytes = segment_max,
		.channel_count_max = 3,
		.idle_ns = 300 * SECOND });
	cr_assert_eq(relay_hub_create(&hub, "a", "video/MP2T", now_ns, &channel), 0);
}

static void
open_new(void)
{
	open_hub(RELAY_NEW, 8 << 20, 1 << 20);
}

static void
close_hub(void)
{
	relay_hub_close(&hub, now_ns);
	cr_expect_eq(hub.channel_count, 0);
	cr_expect_eq(hub.memory.used_bytes, 0, "chunks leak");
	cr_expect(TAILQ_EMPTY(&hub.memory.detached), "segments leak");
}

/* Handles are declared in place: their watches are linked by address. */
#define PUB(name, seq) \
	struct relay_pub name = { .watch.changed = count_change }; \
	cr_assert_eq(relay_pub_open(&name, channel, (seq), false), 0)
#define SUB(name, seq) \
	struct relay_sub name = { .watch.changed = count_change }; \
	cr_assert_eq(relay_sub_open(&name, channel, (seq)), 0)

static void
publish(int64_t seq, size_t bytes)
{
	static uint8_t data[4 << 20];

	PUB(pub, seq);
	cr_assert_eq(relay_pub_write(&pub, data, bytes, now_ns), 0);
	relay_pub_end(&pub, now_ns);
	relay_pub_close(&pub);
}

static int
sub_result(int64_t seq)
{
	struct relay_sub sub = { .watch.changed = count_change };
	int r = relay_sub_open(&sub, channel, seq);

	relay_sub_close(&sub);
	return r;
}

/* Reads what there is into `text`; returns what comes after it. */
static enum relay_read
read_all(struct relay_sub *sub, char *text, size_t text_bytes)
{
	struct relay_chunk *chunk;
	const uint8_t *bytes;
	size_t count, n = 0;
	enum relay_read r;

	while ((r = relay_sub_peek(sub, 3, &chunk, &bytes, &count)) == RELAY_READ_BYTES) {
		cr_assert(count <= 3 && n + count < text_bytes);
		memcpy(text + n, bytes, count);
		n += count;
		relay_sub_take(sub, count);
	}
	text[n] = '\0';
	return r;
}

TestSuite(relay, .timeout = 10);

Test(relay, next_write_moves_with_the_first_byte, .init = open_new, .fini = close_hub)
{
	PUB(pub, 4);

	cr_expect_eq(channel->next_write, 0);
	cr_expect_eq(relay_pub_state(&pub), RELAY_PUB_PARKED);
	now_ns += SECOND;
	relay_pub_write(&pub, (const uint8_t *)"x", 1, now_ns);
	cr_expect_eq(channel->next_write, 5);
	cr_expect_eq(channel->written_ns, now_ns);
	cr_expect_eq(relay_pub_state(&pub), RELAY_PUB_FLOWING);
	now_ns += SECOND;
	relay_pub_write(&pub, (const uint8_t *)"y", 1, now_ns);
	cr_expect_neq(channel->written_ns, now_ns, "the start of a write counts");
	relay_pub_close(&pub);
	publish(1, 1);
	cr_expect_eq(channel->next_write, 2, "it goes back too");
}

Test(relay, window_for_readers, .init = open_new, .fini = close_hub)
{
	cr_expect_eq(sub_result(0), 0);
	cr_expect_eq(sub_result(1), 0);
	cr_expect_eq(sub_result(2), RELAY_SUB_ABSENT);
	for (int i = 0; i < 8; i++)
		publish(i, 1);
	cr_expect_eq(sub_result(2), RELAY_SUB_ABSENT);
	for (int i = 3; i < 8; i++)
		cr_expect_eq(sub_result(i), 0, "%d", i);
	cr_expect_eq(sub_result(9), RELAY_SUB_ABSENT);
	cr_expect_eq(sub_result(8), 0);
	cr_expect_eq(sub_result(3), RELAY_SUB_ABSENT, "a reader's segment took the slot");
	cr_expect_eq(sub_result(RELAY_SEQ_NEXT), 0);
	cr_expect_eq(sub_result(RELAY_SEQ_NEWEST), 0);
	cr_expect_eq(sub_result(RELAY_SEQ_MAX), RELAY_SUB_ABSENT);
}

Test(relay, largest_seq, .init = open_new, .fini = close_hub)
{
	publish(RELAY_SEQ_MAX, 1);
	cr_expect_eq(sub_result(RELAY_SEQ_NEXT), 0);
	publish(RELAY_SEQ_NEXT, 1);
	cr_expect_eq(channel->next_write, RELAY_SEQ_MAX + 2);
}

Test(relay, readers_share_the_bytes, .init = open_new, .fini = close_hub)
{
	char text[16];

	SUB(early, 0);
	PUB(pub, 0);
	changes = 0;
	relay_pub_write(&pub, (const uint8_t *)"hello ", 6, now_ns);
	cr_expect_eq(changes, 2, "reader and writer watch");
	cr_expect_eq(read_all(&early, text, sizeof(text)), RELAY_READ_WAIT);
	cr_expect_str_eq(text, "hello ");
	SUB(late, 0);
	relay_pub_write(&pub, (const uint8_t *)"world", 5, now_ns);
	relay_pub_end(&pub, now_ns);
	cr_expect_eq(read_all(&early, text, sizeof(text)), RELAY_READ_END);
	cr_expect_str_eq(text, "world");
	cr_expect_eq(read_all(&late, text, sizeof(text)), RELAY_READ_END);
	cr_expect_str_eq(text, "hello world");
	cr_expect_eq(early.latest_at_open, 0);
	cr_expect_eq(late.latest_at_open, 1);
	relay_pub_close(&pub);
	relay_sub_close(&early);
	relay_sub_close(&late);
	relay_sub_close(&late);
}

Test(relay, slot_taken_by_a_writer_is_closed_by_a_reader_not, .init = open_new, .fini = close_hub)
{
	char text[16];

	SUB(zero, 0);
	PUB(five, 5);
	cr_expect_eq(read_all(&zero, text, sizeof(text)), RELAY_READ_END);
	relay_pub_write(&five, (const uint8_t *)"x", 1, now_ns);
	PUB(nine, 9);
	relay_pub_write(&nine, (const uint8_t *)"x", 1, now_ns);
	SUB(ten, 10);
	cr_expect_not(five.segment->closed);
	cr_expect_eq(relay_channel_close_segment(channel, 5), RELAY_CLOSE_NONEXISTENT);
	relay_sub_close(&zero);
	relay_sub_close(&ten);
	relay_pub_close(&five);
	relay_pub_close(&nine);
}

Test(relay, closing_a_channel_tells_who_waits, .init = open_new, .fini = close_hub)
{
	char text[16];

	PUB(parked, 0);
	SUB(waiting, 0);
	PUB(flowing, 1);
	relay_pub_write(&flowing, (const uint8_t *)"x", 1, now_ns);
	changes = 0;
	relay_channel_close(channel, now_ns);
	cr_expect_eq(changes, 3);
	cr_expect_null(relay_hub_find(&hub, "a"));
	cr_expect_eq(relay_pub_state(&parked), RELAY_PUB_TERMINATED);
	cr_expect_eq(relay_pub_state(&flowing), RELAY_PUB_FLOWING);
	cr_expect_eq(relay_pub_write(&flowing, (const uint8_t *)"y", 1, now_ns), 0, "swallowed");
	relay_pub_end(&flowing, now_ns);
	cr_expect_eq(read_all(&waiting, text, sizeof(text)), RELAY_READ_END);
	cr_expect(waiting.channel->closed);
	relay_pub_close(&parked);
	relay_pub_close(&flowing);
	relay_sub_close(&waiting);
}

Test(relay, reset_closes_what_is_older, .init = open_new, .fini = close_hub)
{
	struct relay_pub late = { .watch.changed = count_change };

	PUB(old, 6);
	PUB(ahead, 9);
	cr_assert_eq(relay_pub_open(&late, channel, 8, true), 0);
	cr_expect_eq(relay_pub_state(&old), RELAY_PUB_CLOSED);
	cr_expect_eq(relay_pub_state(&ahead), RELAY_PUB_PARKED);
	cr_expect_eq(relay_pub_state(&late), RELAY_PUB_PARKED);
	relay_pub_close(&old);
	relay_pub_close(&ahead);
	relay_pub_close(&late);
}

Test(relay, dead_publisher_leaves_the_segment_open, .init = open_new, .fini = close_hub)
{
	char text[16];

	PUB(pub, 0);
	relay_pub_write(&pub, (const uint8_t *)"x", 1, now_ns);
	relay_pub_close(&pub);
	SUB(sub, 0);
	cr_expect_eq(read_all(&sub, text, sizeof(text)), RELAY_READ_WAIT);
	cr_expect_eq(relay_channel_close_segment(channel, 0), 0);
	cr_expect_eq(read_all(&sub, text, sizeof(text)), RELAY_READ_END);
	relay_sub_close(&sub);
}

Test(relay, empty_segments_by_flavor)
{
	for (enum relay_flavor flavor = RELAY_NEW; flavor <= RELAY_OLD; flavor++) {
		open_hub(flavor, 1 << 20, 1 << 20);
		PUB(pub, 3);
		relay_pub_end(&pub, now_ns);
		relay_pub_close(&pub);
		cr_expect_eq(channel->next_write, flavor == RELAY_NEW ? 4 : 0);
		close_hub();
	}
}

Test(relay, second_post_by_flavor)
{
	char text[16];

	for (enum relay_flavor flavor = RELAY_NEW; flavor <= RELAY_OLD; flavor++) {
		open_hub(flavor, 1 << 20, 1 << 20);
		PUB(one, 0);
		relay_pub_write(&one, (const uint8_t *)"x", 1, now_ns);
		SUB(sub, 0);
		PUB(two, 0);
		relay_pub_write(&two, (const uint8_t *)"y", 1, now_ns);
		relay_pub_write(&one, (const uint8_t *)"z", 1, now_ns);
		relay_pub_end(&one, now_ns);
		cr_expect_eq(
		    read_all(&sub, text, sizeof(text)), flavor == RELAY_NEW ? RELAY_READ_END : RELAY_READ_WAIT);
		cr_expect_str_eq(text, flavor == RELAY_NEW ? "xyz" : "y");
		relay_pub_end(&two, now_ns);
		relay_pub_close(&one);
		relay_pub_close(&two);
		relay_sub_close(&sub);
		close_hub();
	}
}

Test(relay, sweep_by_the_clock, .init = open_new, .fini = close_hub)
{
	struct relay_channel *other;

	cr_assert_eq(relay_hub_create(&hub, "_kept", "", now_ns, &other), 0);
	now_ns += 200 * SECOND;
	cr_assert_eq(relay_hub_create(&hub, "b", "", now_ns, &other), 0);
	now_ns += 100 * SECOND;
	cr_expect_eq(relay_hub_sweep(&hub, now_ns), 0, "more than, not as long as");
	now_ns += 1;
	cr_expect_eq(relay_hub_sweep(&hub, now_ns), 1);
	cr_expect_null(relay_hub_find(&hub, "a"));
	now_ns += 1000 * SECOND;
	cr_expect_eq(relay_hub_sweep(&hub, now_ns), 1);
	cr_expect_not_null(relay_hub_find(&hub, "_kept"));
}

Test(relay, channels_are_counted, .init = open_new, .fini = close_hub)
{
	struct relay_channel *c;

	cr_expect_eq(relay_hub_create(&hub, "a", "text/x", now_ns, &c), 0);
	cr_expect_str_eq(c->mime, "video/MP2T");
	cr_expect_eq(relay_hub_create(&hub, "b", "", now_ns, &c), 0);
	cr_expect_eq(relay_hub_create(&hub, "c", "", now_ns, &c), 0);
	cr_expect_eq(relay_hub_create(&hub, "d", "", now_ns, &c), RELAY_CREATE_TOO_MANY);
	relay_channel_close(channel, now_ns);
	cr_expect_eq(relay_hub_create(&hub, "d", "", now_ns, &c), 0);
}

Test(relay, a_segment_has_a_limit, .init = open_new, .fini = close_hub)
{
	static const uint8_t data[1 << 20];

	PUB(pub, 0);
	cr_expect_eq(relay_pub_write(&pub, data, sizeof(data), now_ns), 0);
	cr_expect_eq(relay_pub_write(&pub, data, 1, now_ns), RELAY_APPEND_SEGMENT_FULL);
	cr_expect(pub.segment->closed, "readers must not hang");
	cr_expect_eq(relay_pub_write(&pub, data, 1, now_ns), 0, "swallowed");
	relay_pub_close(&pub);
}

/* Bytes that a slow reader has not even asked for yet go first; the window is never touched. */
Test(relay, memory_is_taken_from_slow_readers_then_refused)
{
	static const uint8_t data[1 << 20];
	char text[16];

	open_hub(RELAY_NEW, (4 << 20) - 65536, 2 << 20);
	publish(0, 1 << 20);
	SUB(slow, 0);
	for (int i = 1; i <= 5; i++)
		publish(i, 1 << 18);
	cr_expect_eq(hub.memory.cut_count, 0, "there is still room");
	PUB(big, 6);
	cr_expect_eq(relay_pub_write(&big, data, sizeof(data), now_ns), 0);
	cr_expect_eq(relay_pub_write(&big, data, sizeof(data), now_ns), 0);
	cr_expect_eq(hub.memory.cut_count, 1);
	cr_expect_eq(read_all(&slow, text, sizeof(text)), RELAY_READ_CUT);
	PUB(more, 7);
	cr_expect_eq(relay_pub_write(&more, data, sizeof(data), now_ns), 0);
	cr_expect_eq(relay_pub_write(&more, data, sizeof(data), now_ns), RELAY_APPEND_MEMORY_FULL);
	cr_expect(hub.memory.used_bytes <= hub.memory.max_bytes);
	cr_expect_eq(sub_result(6), 0);
	relay_sub_close(&slow);
	relay_pub_close(&big);
	relay_pub_close(&more);
	close_hub();
}

Test(relay, a_chunk_outlives_its_segment, .init = open_new, .fini = close_hub)
{
	struct relay_chunk *chunk = NULL;
	const uint8_t *bytes;
	size_t count;

	publish(0, 100);
	SUB(sub, 0);
	cr_assert_eq(relay_sub_peek(&sub, 64, &chunk, &bytes, &count), RELAY_READ_BYTES);
	cr_expect_eq(count, 64);
	relay_chunk_ref(chunk);
	relay_sub_close(&sub);
	relay_channel_close(channel, now_ns);
	cr_expect_gt(hub.memory.used_bytes, 0, "what is on its way to a reader counts");
	cr_expect_eq(bytes[63], 0);
	relay_chunk_unref(chunk);
}

/* ---- targets ---------------------------------------------------------- */

struct target_case {
	const char *target, *base;
	enum relay_route route;
	const char *name, *seq;
};

Test(relay, targets)
{
	static const struct target_case cases[] = {
		{ "/a", "/", RELAY_ROUTE_CHANNEL, "a", NULL },
		{ "/a/0", "/", RELAY_ROUTE_SEGMENT, "a", "0" },
		{ "/x/y/a/-1?q=/", "/x/y/", RELAY_ROUTE_SEGMENT, "a", "-1" },
		{ "http://host:1/a/next#f", "/", RELAY_ROUTE_SEGMENT, "a", "next" },
		{ "HTTPS://h/a%2f%20/%31", "/", RELAY_ROUTE_SEGMENT, "a/ ", "1" },
		{ "/", "/", RELAY_ROUTE_NONE, NULL, NULL },
		{ "", "/", RELAY_ROUTE_NONE, NULL, NULL },
		{ "*", "/", RELAY_ROUTE_NONE, NULL, NULL },
		{ "http://host", "/", RELAY_ROUTE_NONE, NULL, NULL },
		{ "/a/", "/", RELAY_ROUTE_NONE, NULL, NULL },
		{ "//0", "/", RELAY_ROUTE_NONE, NULL, NULL },
		{ "/a/0/1", "/", RELAY_ROUTE_NONE, NULL, NULL },
		{ "/b/a", "/x/", RELAY_ROUTE_NONE, NULL, NULL },
		{ "/a%", "/", RELAY_ROUTE_BAD, NULL, NULL },
		{ "/a%4", "/", RELAY_ROUTE_BAD, NULL, NULL },
		{ "/a%zz", "/", RELAY_ROUTE_BAD, NULL, NULL },
		{ "/a%00b", "/", RELAY_ROUTE_BAD, NULL, NULL },
		{ "/%c3%a9\xe2\x82\xac/0", "/", RELAY_ROUTE_SEGMENT, "\xc3\xa9\xe2\x82\xac", "0" },
		{ "/a%ff", "/", RELAY_ROUTE_BAD, NULL, NULL },
		{ "/a\xc3/0", "/", RELAY_ROUTE_BAD, NULL, NULL },
		{ "/a/%0", "/", RELAY_ROUTE_BAD, NULL, NULL },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct target_case *c = &cases[i];
		char target[64], *name = NULL, *seq = NULL;

		snprintf(target, sizeof(target), "%s", c->target);
		cr_expect_eq(relay_route_parse(target, c->base, &name, &seq), c->route, "%s", c->target);
		if (c->name != NULL)
			cr_expect_str_eq(name, c->name);
		if (c->seq != NULL)
			cr_expect_str_eq(seq, c->seq);
	}
}

Test(relay, seqs)
{
	static const char *const bad[] = { "", "+", "-", "x", "1x", " 1", "1 ", "--1", "0x1", "-3", "-5",
		"9223372036854775807", "9223372036854775808", "99999999999999999999999" };
	int64_t seq = 77;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_expect_not(relay_seq_parse(bad[i], RELAY_SEQ_NEWEST, &seq), "%s", bad[i]);
	cr_expect_eq(seq, 77, "untouched");
	cr_expect(relay_seq_parse("+007", 0, &seq) && seq == 7);
	cr_expect(relay_seq_parse("-0", 0, &seq) && seq == 0);
	cr_expect(relay_seq_parse("-2", RELAY_SEQ_NEWEST, &seq) && seq == -2);
	cr_expect_not(relay_seq_parse("-2", RELAY_SEQ_NEXT, &seq));
	cr_expect_not(relay_seq_parse("-1", 0, &seq));
	cr_expect(relay_seq_parse("4000000000000000000", 0, &seq) && seq == INT64_C(4000000000000000000));
}

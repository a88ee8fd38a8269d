/* SPDX-License-Identifier: MIT */
/*
 * Channels: what a trickle server remembers
 *
 * The server's state without any HTTP: time is an argument, and whoever waits is told through a watch. A
 * channel is a window of RELAY_SLOT_COUNT segments (slot = seq mod RELAY_SLOT_COUNT) and the number of the
 * segment that comes next. Two flavors are known: NEW is the server inside go-livepeer, OLD is the standalone
 * http-trickle server; each difference is marked in relay_channel.c.
 *
 * Latency policy: a reader sees a byte as soon as its publisher's bytes were read. Nothing is held back until
 * a segment is complete, and nobody is slowed down by a slow reader, who keeps segments alive (memory is
 * bounded, see relay_segment.h) but never a publisher waiting.
 *
 * Seqs are what the caller parsed: RELAY_SEQ_NEXT and RELAY_SEQ_NEWEST, or 0 .. RELAY_SEQ_MAX.
 */
#ifndef MR_RELAY_CHANNEL_H
#define MR_RELAY_CHANNEL_H

#include "tools/relay/relay_segment.h"

enum { RELAY_SLOT_COUNT = 5, RELAY_NAME_BYTES_MAX = 512 };

#define RELAY_CHANGEFEED_NAME "_changes"

#define RELAY_SEQ_NEXT INT64_C(-1)
#define RELAY_SEQ_NEWEST INT64_C(-2)
#define RELAY_SEQ_MAX (INT64_MAX / 2) /* leaves room for any number of POSTs to -1 */

enum relay_flavor { RELAY_NEW, RELAY_OLD };

struct relay_hub_config {
	enum relay_flavor flavor;
	bool autocreate; /* the first POST of a segment creates its channel (a rule for the caller to apply) */
	bool changefeed; /* tell in RELAY_CHANGEFEED_NAME, once somebody created it, which channels come and go */
	size_t memory_max_bytes, segment_max_bytes;
	unsigned channel_count_max;
	int64_t idle_ns; /* a channel without a write for longer is closed by the sweep */
};

struct relay_channel {
	uint32_t magic;
#define RELAY_CHANNEL_MAGIC 0xc4a22e1u
	unsigned refs;
	bool closed; /* out of the hub; only requests that were waiting still see it */
	int64_t next_write;
	int64_t written_ns; /* of the last write's first byte, or of the creation */
	struct relay_segment *slots[RELAY_SLOT_COUNT];
	struct relay_hub *hub;
	char *name, *mime; /* mime: fixed at creation, may be "" */
	LIST_ENTRY(relay_channel) bucket;
	TAILQ_ENTRY(relay_channel) link;
};

enum { RELAY_BUCKET_COUNT = 1024 };

struct relay_hub {
	struct relay_hub_config config;
	struct relay_memory memory;
	unsigned channel_count;
	TAILQ_HEAD(, relay_channel) channels;
	LIST_HEAD(, relay_channel) buckets[RELAY_BUCKET_COUNT];
};

void relay_hub_init(struct relay_hub *hub, const struct relay_hub_config *config);
/* Closes every channel. */
void relay_hub_close(struct relay_hub *hub, int64_t now_ns);
/* Closes idle channels, except those whose name starts with an underscore. Returns how many. */
unsigned relay_hub_sweep(struct relay_hub *hub, int64_t now_ns);

/* Borrowed until the channel is closed; NULL: there is none. */
struct relay_channel *relay_hub_find(struct relay_hub *hub, const char *name);

enum relay_create { RELAY_CREATE_TOO_MANY = 1 };
/* Idempotent. 0, enum relay_create or -ENOMEM. Not subject to config.autocreate: that is the caller's rule. */
int relay_hub_create(
    struct relay_hub *hub, const char *name, const char *mime, int64_t now_ns, struct relay_channel **out);
void relay_channel_close(struct relay_channel *channel, int64_t now_ns);

enum relay_close_segment { RELAY_CLOSE_NONEXISTENT = 1 };
int relay_channel_close_segment(struct relay_channel *channel, int64_t seq);

/* ---- reading ---------------------------------------------------------- */

struct relay_sub {
	struct relay_watch watch;      /* `changed` is set by the caller before relay_sub_open() */
	struct relay_channel *channel; /* NULL: not open */
	struct relay_segment *segment;
	struct relay_cursor cursor;
	int64_t latest_at_open;
};

enum relay_sub_result {
	RELAY_SUB_ABSENT = 1, /* outside the window: 470 */
};
/* 0, enum relay_sub_result or -ENOMEM. Whatever is not 0 leaves `sub` closed. */
int relay_sub_open(struct relay_sub *sub, struct relay_channel *channel, int64_t seq);

enum relay_read {
	RELAY_READ_BYTES, /* *bytes; take them with relay_sub_take() */
	RELAY_READ_WAIT,  /* nothing now; the watch will tell */
	RELAY_READ_END,   /* the segment is over */
	RELAY_READ_CUT,   /* its bytes were taken away from this slow reader */
};
enum relay_read relay_sub_peek(
    struct relay_sub *sub, size_t max, struct relay_chunk **chunk, const uint8_t **bytes, size_t *count);
void relay_sub_take(struct relay_sub *sub, size_t count);
/* Idempotent. */
void relay_sub_close(struct relay_sub *sub);

/* ---- publishing ------------------------------------------------------- */

struct relay_pub {
	struct relay_watch watch;      /* `changed` is set by the caller before relay_pub_open() */
	struct relay_channel *channel; /* NULL: not open */
	struct relay_segment *segment;
	unsigned epoch;     /* of the segment when it was opened */
	int64_t seq;        /* -1 resolved */
	int64_t next_write; /* of the channel once the first byte is here */
	bool started;       /* a byte was seen */
};

/* Takes the slot. `reset`: close older segments of the window. 0 or -ENOMEM (`pub` stays closed). */
int relay_pub_open(struct relay_pub *pub, struct relay_channel *channel, int64_t seq, bool reset);

enum relay_pub_state {
	RELAY_PUB_PARKED,     /* no byte yet */
	RELAY_PUB_FLOWING,    /* bytes were seen; stays so whatever happens to the segment */
	RELAY_PUB_CLOSED,     /* parked, and the segment was closed: answer now */
	RELAY_PUB_TERMINATED, /* parked, and the channel was closed: answer now */
};
enum relay_pub_state relay_pub_state(const struct relay_pub *pub);

/* Bytes for a segment that was closed meanwhile are swallowed. 0, enum relay_append (the segment is closed and
 * the publisher must be told) or -ENOMEM. */
int relay_pub_write(struct relay_pub *pub, const uint8_t *bytes, size_t count, int64_t now_ns);
/* The body ended as it should: closes the segment. */
void relay_pub_end(struct relay_pub *pub, int64_t now_ns);
/* Lets go. Without relay_pub_end() before it the publisher died, and the segment stays open. Idempotent. */
void relay_pub_close(struct relay_pub *pub);

#endif

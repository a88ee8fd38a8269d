/* SPDX-License-Identifier: MIT */
/*
 * Channels: the window of segments and the rules of its numbers
 *
 * Invariants:
 *   - a channel in the hub is open; closing it takes it out at once and keeps the object for those who hold it;
 *   - a slot holds the segment with its number, or an older or newer one with the same remainder, or nothing;
 *   - the sequence is not validated: whoever publishes may jump ahead or go back, and next_write follows;
 *   - a writer that takes a slot closes what was in it, a reader that creates a segment in advance does not.
 */
#include "tools/relay/relay_channel.h"
#include "base/assert.h"
#include "base/err.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the hub ---------------------------------------------------------- */

static unsigned
bucket_of(const char *name)
{
	uint32_t hash = 2166136261u; /* FNV-1a */

	for (; *name != '\0'; name++)
		hash = (hash ^ (unsigned char)*name) * 16777619u;
	return hash % RELAY_BUCKET_COUNT;
}

void
relay_hub_init(struct relay_hub *hub, const struct relay_hub_config *config)
{
	memset(hub, 0, sizeof(*hub));
	hub->config = *config;
	relay_memory_init(&hub->memory, config->memory_max_bytes, config->segment_max_bytes);
	TAILQ_INIT(&hub->channels);
}

struct relay_channel *
relay_hub_find(struct relay_hub *hub, const char *name)
{
	struct relay_channel *channel;

	LIST_FOREACH(channel, &hub->buckets[bucket_of(name)], bucket)
		if (strcmp(channel->name, name) == 0)
			return channel;
	return NULL;
}

static void
channel_unref(struct relay_channel **channelp)
{
	struct relay_channel *channel = *channelp;

	*channelp = NULL;
	MR_ASSERT(channel->magic == RELAY_CHANNEL_MAGIC && channel->refs > 0);
	if (--channel->refs > 0)
		return;
	MR_ASSERT(channel->closed);
	channel->magic = 0;
	free(channel->name);
	free(channel->mime);
	free(channel);
}

static struct relay_channel *
channel_new(struct relay_hub *hub, const char *name, const char *mime, int64_t now_ns)
{
	struct relay_channel *channel = calloc(1, sizeof(*channel));

	if (channel == NULL)
		return NULL;
	channel->name = strdup(name);
	channel->mime = strdup(mime);
	if (channel->name == NULL || channel->mime == NULL) {
		free(channel->name);
		free(channel->mime);
		free(channel);
		return NULL;
	}
	channel->magic = RELAY_CHANNEL_MAGIC;
	channel->refs = 1;
	channel->written_ns = now_ns;
	channel->hub = hub;
	LIST_INSERT_HEAD(&hub->buckets[bucket_of(name)], channel, bucket);
	TAILQ_INSERT_TAIL(&hub->channels, channel, link);
	hub->channel_count++;
	return channel;
}

static void changefeed_tell(struct relay_hub *hub, const char *what, const char *name, int64_t now_ns);

int
relay_hub_create(struct relay_hub *hub, const char *name, const char *mime, int64_t now_ns, struct relay_channel **out)
{
	struct relay_channel *channel = relay_hub_find(hub, name);
	char quoted[256];

	if (channel == NULL) {
		if (hub->channel_count >= hub->config.channel_count_max)
			return RELAY_CREATE_TOO_MANY;
		channel = channel_new(hub, name, mime, now_ns);
		if (channel == NULL)
			return err_origin(-ENOMEM);
		log_info("channel", "created", "name=%s", log_quote(quoted, sizeof(quoted), name));
		changefeed_tell(hub, "added", name, now_ns);
	}
	*out = channel;
	return 0;
}

void
relay_channel_close(struct relay_channel *channel, int64_t now_ns)
{
	struct relay_hub *hub = channel->hub;
	char quoted[256];

	if (channel->closed)
		return;
	channel->closed = true; /* before the segments, so that those who wake see it */
	for (int i = 0; i < RELAY_SLOT_COUNT; i++) {
		if (channel->slots[i] != NULL)
			relay_segment_close(channel->slots[i]);
		relay_segment_detach(&channel->slots[i]);
	}
	LIST_REMOVE(channel, bucket);
	TAILQ_REMOVE(&hub->channels, channel, link);
	hub->channel_count--;
	log_info("channel", "closed", "name=%s", log_quote(quoted, sizeof(quoted), channel->name));
	changefeed_tell(hub, "removed", channel->name, now_ns);
	channel_unref(&channel);
}

void
relay_hub_close(struct relay_hub *hub, int64_t now_ns)
{
	hub->config.changefeed = false;
	while (!TAILQ_EMPTY(&hub->channels))
		relay_channel_close(TAILQ_FIRST(&hub->channels), now_ns);
}

unsigned
relay_hub_sweep(struct relay_hub *hub, int64_t now_ns)
{
	struct relay_channel *channel = TAILQ_FIRST(&hub->channels), *next;
	unsigned count = 0;

	for (; channel != NULL; channel = next) {
		next = TAILQ_NEXT(channel, link);
		if (channel->name[0] == '_' || now_ns - channel->written_ns <= hub->config.idle_ns)
			continue;
		relay_channel_close(channel, now_ns);
		count++;
	}
	return count;
}

/* ---- slots ------------------------------------------------------------ */

static struct relay_segment **
slot_of(struct relay_channel *channel, int64_t seq)
{
	MR_ASSERT(seq >= 0);
	return &channel->slots[seq % RELAY_SLOT_COUNT];
}

static bool
slot_holds(struct relay_segment *const *slot, int64_t seq)
{
	return *slot != NULL && (*slot)->seq == seq;
}

/* Puts a new segment into the slot; what was there lives on for those who hold it. */
static int
slot_renew(struct relay_channel *channel, struct relay_segment **slot, int64_t seq)
{
	struct relay_segment *fresh = relay_segment_new(&channel->hub->memory, seq);

	if (fresh == NULL)
		return err_origin(-ENOMEM);
	relay_segment_detach(slot);
	*slot = fresh;
	return 0;
}

int
relay_channel_close_segment(struct relay_channel *channel, int64_t seq)
{
	struct relay_segment **slot = slot_of(channel, seq);

	if (!slot_holds(slot, seq))
		return RELAY_CLOSE_NONEXISTENT;
	relay_segment_close(*slot);
	return 0;
}

/* ---- reading ---------------------------------------------------------- */

/* May a reader wait for a segment that nobody has begun? */
static bool
may_precreate(const struct relay_channel *channel, int64_t seq)
{
	return seq == channel->next_write || (channel->next_write == 0 && seq == 1);
}

int
relay_sub_open(struct relay_sub *sub, struct relay_channel *channel, int64_t seq)
{
	struct relay_segment **slot;
	int r;

	MR_ASSERT(!channel->closed);
	if (seq == RELAY_SEQ_NEXT)
		seq = channel->next_write;
	else if (seq == RELAY_SEQ_NEWEST)
		seq = channel->next_write > 0 ? channel->next_write - 1 : 0;
	slot = slot_of(channel, seq);
	if (!slot_holds(slot, seq)) {
		if (!may_precreate(channel, seq))
			return RELAY_SUB_ABSENT;
		r = slot_renew(channel, slot, seq);
		if (r < 0)
			return err_trace(r);
	}
	channel->refs++;
	sub->channel = channel;
	sub->segment = relay_segment_ref(*slot);
	sub->cursor = (struct relay_cursor){ .epoch = (*slot)->epoch };
	sub->latest_at_open = channel->next_write;
	relay_segment_watch(sub->segment, &sub->watch);
	return 0;
}

enum relay_read
relay_sub_peek(struct relay_sub *sub, size_t max, struct relay_chunk **chunk, const uint8_t **bytes, size_t *count)
{
	struct relay_segment *segment = sub->segment;

	if (segment->cut)
		return RELAY_READ_CUT;
	if (sub->cursor.epoch != segment->epoch) { /* OLD: the bytes were replaced */
		if (sub->cursor.bytes > 0)
			return RELAY_READ_END;
		sub->cursor = (struct relay_cursor){ .epoch = segment->epoch };
	}
	*count = relay_cursor_peek(&sub->cursor, segment, max, chunk, bytes);
	if (*count > 0)
		return RELAY_READ_BYTES;
	return segment->closed ? RELAY_READ_END : RELAY_READ_WAIT;
}

void
relay_sub_take(struct relay_sub *sub, size_t count)
{
	relay_cursor_advance(&sub->cursor, count);
}

void
relay_sub_close(struct relay_sub *sub)
{
	if (sub->channel == NULL)
		return;
	relay_segment_unwatch(sub->segment, &sub->watch);
	relay_segment_unref(&sub->segment);
	channel_unref(&sub->channel);
}

/* ---- publishing ------------------------------------------------------- */

static void
close_older(struct relay_channel *channel, int64_t seq)
{
	for (int i = 0; i < RELAY_SLOT_COUNT; i++)
		if (channel->slots[i] != NULL && channel->slots[i]->seq < seq)
			relay_segment_close(channel->slots[i]);
}

int
relay_pub_open(struct relay_pub *pub, struct relay_channel *channel, int64_t seq, bool reset)
{
	/* OLD forgets what -1 stood for, so that next_write becomes 0 */
	bool literal = channel->hub->config.flavor == RELAY_OLD;
	int64_t next_write = seq == RELAY_SEQ_NEXT && !literal ? channel->next_write + 1 : seq + 1;
	struct relay_segment **slot;
	int r;

	MR_ASSERT(!channel->closed);
	if (seq == RELAY_SEQ_NEXT)
		seq = channel->next_write;
	slot = slot_of(channel, seq);
	if (!slot_holds(slot, seq)) {
		if (*slot != NULL)
			relay_segment_close(*slot);
		r = slot_renew(channel, slot, seq);
		if (r < 0)
			return err_trace(r);
	} else if (channel->hub->config.flavor == RELAY_OLD && ((*slot)->closed || (*slot)->bytes > 0)) {
		relay_segment_reset(*slot); /* NEW appends */
	}
	if (reset && channel->hub->config.flavor == RELAY_NEW)
		close_older(channel, seq);
	channel->refs++;
	pub->channel = channel;
	pub->segment = relay_segment_ref(*slot);
	pub->epoch = (*slot)->epoch;
	pub->seq = seq;
	pub->next_write = next_write;
	pub->started = false;
	relay_segment_watch(pub->segment, &pub->watch);
	return 0;
}

enum relay_pub_state
relay_pub_state(const struct relay_pub *pub)
{
	if (pub->started)
		return RELAY_PUB_FLOWING;
	if (pub->channel->closed)
		return RELAY_PUB_TERMINATED;
	if (pub->segment->closed || pub->segment->epoch != pub->epoch)
		return RELAY_PUB_CLOSED;
	return RELAY_PUB_PARKED;
}

static void
pub_start(struct relay_pub *pub, int64_t now_ns)
{
	pub->started = true;
	pub->channel->next_write = pub->next_write;
	pub->channel->written_ns = now_ns;
}

int
relay_pub_write(struct relay_pub *pub, const uint8_t *bytes, size_t count, int64_t now_ns)
{
	int r;

	if (count == 0)
		return 0;
	if (!pub->started)
		pub_start(pub, now_ns);
	if (pub->segment->closed || pub->segment->epoch != pub->epoch)
		return 0;
	r = relay_segment_append(pub->segment, bytes, count);
	if (r != 0)
		relay_segment_close(pub->segment); /* better an early end than readers that hang */
	return r;
}

void
relay_pub_end(struct relay_pub *pub, int64_t now_ns)
{
	/* An empty segment uses up its number; OLD leaves next_write alone. */
	if (!pub->started && pub->channel->hub->config.flavor == RELAY_NEW)
		pub_start(pub, now_ns);
	if (pub->segment->epoch == pub->epoch)
		relay_segment_close(pub->segment);
}

void
relay_pub_close(struct relay_pub *pub)
{
	if (pub->channel == NULL)
		return;
	relay_segment_unwatch(pub->segment, &pub->watch);
	relay_segment_unref(&pub->segment);
	channel_unref(&pub->channel);
}

/* ---- the changefeed --------------------------------------------------- */

static void
watch_nothing(struct relay_watch *watch)
{
}

/* The inside of a JSON string. */
static void
json_name(char *out, size_t out_bytes, const char *name)
{
	size_t n = 0;

	for (const unsigned char *c = (const unsigned char *)name; *c != '\0' && n + 8 < out_bytes; c++)
		if (*c == '"' || *c == '\\')
			n += (size_t)snprintf(out + n, out_bytes - n, "\\%c", *c);
		else if (*c < 0x20 || *c == 0x7f)
			n += (size_t)snprintf(out + n, out_bytes - n, "\\u%04x", *c);
		else
			out[n++] = (char)*c;
	out[n] = '\0';
}

/* One segment a change: {"added":["name"]}. Best effort: a full memory loses the note, not the channel. */
static void
changefeed_tell(struct relay_hub *hub, const char *what, const char *name, int64_t now_ns)
{
	struct relay_pub pub = { .watch.changed = watch_nothing };
	struct relay_channel *feed;
	char escaped[6 * RELAY_NAME_BYTES_MAX + 8], line[sizeof(escaped) + 20];
	int n;

	if (!hub->config.changefeed)
		return;
	feed = relay_hub_find(hub, RELAY_CHANGEFEED_NAME);
	if (feed == NULL || relay_pub_open(&pub, feed, feed->next_write, false) != 0)
		return;
	json_name(escaped, sizeof(escaped), name);
	n = snprintf(line, sizeof(line), "{\"%s\":[\"%s\"]}", what, escaped);
	if (relay_pub_write(&pub, (const uint8_t *)line, (size_t)n, now_ns) == 0)
		relay_pub_end(&pub, now_ns);
	relay_pub_close(&pub);
}

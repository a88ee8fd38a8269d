/* SPDX-License-Identifier: MIT */
/*
 * Segments: refcounted chunks and those who wait for them
 *
 * The first chunk of a segment is small, because most channels carry a line of JSON a segment; each further
 * one is twice as large, up to 64 KiB. A chunk's used bytes never change, so a reference into it stays valid
 * while the chunk grows behind it.
 */
#include "tools/relay/relay_segment.h"
#include "base/assert.h"
#include "base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_BYTES_MIN = 2048, CHUNK_BYTES_MAX = 65536 };

void
relay_memory_init(struct relay_memory *memory, size_t max_bytes, size_t segment_max_bytes)
{
	*memory = (struct relay_memory){ .max_bytes = max_bytes, .segment_max_bytes = segment_max_bytes };
	TAILQ_INIT(&memory->detached);
}

/* ---- chunks ----------------------------------------------------------- */

static struct relay_chunk *
chunk_new(struct relay_memory *memory, uint32_t capacity)
{
	struct relay_chunk *chunk = malloc(sizeof(*chunk) + capacity);

	if (chunk == NULL)
		return NULL;
	*chunk = (struct relay_chunk){ .refs = 1, .capacity = capacity, .memory = memory };
	memory->used_bytes += capacity;
	return chunk;
}

struct relay_chunk *
relay_chunk_ref(struct relay_chunk *chunk)
{
	MR_ASSERT(chunk->refs > 0);
	chunk->refs++;
	return chunk;
}

void
relay_chunk_unref(struct relay_chunk *chunk)
{
	MR_ASSERT(chunk->refs > 0);
	if (--chunk->refs > 0)
		return;
	MR_ASSERT(chunk->memory->used_bytes >= chunk->capacity);
	chunk->memory->used_bytes -= chunk->capacity;
	free(chunk);
}

static void
chunks_drop(struct relay_segment *segment)
{
	struct relay_chunk *next;

	for (struct relay_chunk *c = segment->first; c != NULL; c = next) {
		next = c->next;
		c->next = NULL;
		relay_chunk_unref(c);
	}
	segment->first = segment->last = NULL;
	segment->bytes = 0;
}

/* ---- segments --------------------------------------------------------- */

struct relay_segment *
relay_segment_new(struct relay_memory *memory, int64_t seq)
{
	struct relay_segment *segment = malloc(sizeof(*segment));

	if (segment == NULL)
		return NULL;
	*segment = (struct relay_segment){ .magic = RELAY_SEGMENT_MAGIC, .refs = 1, .seq = seq, .memory = memory };
	TAILQ_INIT(&segment->watches);
	return segment;
}

struct relay_segment *
relay_segment_ref(struct relay_segment *segment)
{
	MR_ASSERT(segment->magic == RELAY_SEGMENT_MAGIC && segment->refs > 0);
	segment->refs++;
	return segment;
}

void
relay_segment_unref(struct relay_segment **segmentp)
{
	struct relay_segment *segment = *segmentp;

	*segmentp = NULL;
	if (segment == NULL)
		return;
	MR_ASSERT(segment->magic == RELAY_SEGMENT_MAGIC && segment->refs > 0);
	if (--segment->refs > 0)
		return;
	MR_ASSERT(TAILQ_EMPTY(&segment->watches));
	if (segment->detached)
		TAILQ_REMOVE(&segment->memory->detached, segment, link);
	chunks_drop(segment);
	segment->magic = 0;
	free(segment);
}

void
relay_segment_watch(struct relay_segment *segment, struct relay_watch *watch)
{
	TAILQ_INSERT_TAIL(&segment->watches, watch, link);
}

void
relay_segment_unwatch(struct relay_segment *segment, struct relay_watch *watch)
{
	TAILQ_REMOVE(&segment->watches, watch, link);
}

static void
segment_changed(struct relay_segment *segment)
{
	struct relay_watch *watch;

	TAILQ_FOREACH(watch, &segment->watches, link)
		watch->changed(watch);
}

/* Takes the bytes of segments that only slow readers hold until `need` more fit. */
static bool
memory_make_room(struct relay_memory *memory, size_t need, const struct relay_segment *keep)
{
	struct relay_segment *old;

	TAILQ_FOREACH(old, &memory->detached, link) {
		if (memory->used_bytes + need <= memory->max_bytes)
			break;
		if (old == keep || old->cut || old->first == NULL)
			continue;
		old->cut = old->closed = true;
		memory->cut_count++;
		chunks_drop(old);
		segment_changed(old);
	}
	return memory->used_bytes + need <= memory->max_bytes;
}

static int
segment_grow(struct relay_segment *segment, size_t want)
{
	struct relay_memory *memory = segment->memory;
	size_t capacity = segment->last == NULL ? CHUNK_BYTES_MIN : 2 * (size_t)segment->last->capacity;
	struct relay_chunk *chunk;

	while (capacity < want && capacity < CHUNK_BYTES_MAX)
		capacity *= 2;
	if (capacity > CHUNK_BYTES_MAX)
		capacity = CHUNK_BYTES_MAX;
	if (memory->used_bytes + capacity > memory->max_bytes && !memory_make_room(memory, capacity, segment))
		return RELAY_APPEND_MEMORY_FULL;
	chunk = chunk_new(memory, (uint32_t)capacity);
	if (chunk == NULL)
		return err_origin(-ENOMEM);
	if (segment->last == NULL)
		segment->first = chunk;
	else
		segment->last->next = chunk;
	segment->last = chunk;
	return 0;
}

int
relay_segment_append(struct relay_segment *segment, const uint8_t *bytes, size_t count)
{
	MR_ASSERT(!segment->closed);
	if (count > segment->memory->segment_max_bytes - segment->bytes)
		return RELAY_APPEND_SEGMENT_FULL;
	while (count > 0) {
		struct relay_chunk *chunk = segment->last;
		size_t room = chunk == NULL ? 0 : chunk->capacity - chunk->used;
		size_t n = count < room ? count : room;

		if (n == 0) {
			int r = segment_grow(segment, count);

			if (r == 0)
				continue;
			segment_changed(segment); /* a part may have been added */
			return r;
		}
		memcpy(chunk->bytes + chunk->used, bytes, n);
		chunk->used += (uint32_t)n;
		segment->bytes += n;
		bytes += n;
		count -= n;
	}
	segment_changed(segment);
	return 0;
}

void
relay_segment_close(struct relay_segment *segment)
{
	if (segment->closed)
		return;
	segment->closed = true;
	segment_changed(segment);
}

void
relay_segment_reset(struct relay_segment *segment)
{
	chunks_drop(segment);
	segment->epoch++;
	segment->closed = false;
	segment_changed(segment);
}

void
relay_segment_detach(struct relay_segment **slot)
{
	struct relay_segment *segment = *slot;

	if (segment == NULL)
		return;
	MR_ASSERT(!segment->detached);
	segment->detached = true;
	TAILQ_INSERT_TAIL(&segment->memory->detached, segment, link);
	relay_segment_unref(slot);
}

/* ---- cursors ---------------------------------------------------------- */

size_t
relay_cursor_peek(struct relay_cursor *cursor, const struct relay_segment *segment, size_t max,
    struct relay_chunk **chunk, const uint8_t **bytes)
{
	size_t n;

	MR_ASSERT(cursor->epoch == segment->epoch && !segment->cut);
	if (cursor->chunk == NULL) {
		cursor->chunk = segment->first;
		cursor->offset = 0;
	}
	if (cursor->chunk == NULL)
		return 0;
	if (cursor->offset == cursor->chunk->used && cursor->chunk->next != NULL) {
		cursor->chunk = cursor->chunk->next;
		cursor->offset = 0;
	}
	n = cursor->chunk->used - cursor->offset;
	*chunk = cursor->chunk;
	*bytes = cursor->chunk->bytes + cursor->offset;
	return n < max ? n : max;
}

void
relay_cursor_advance(struct relay_cursor *cursor, size_t count)
{
	MR_ASSERT(cursor->chunk != NULL && count <= cursor->chunk->used - cursor->offset);
	cursor->offset += (uint32_t)count;
	cursor->bytes += count;
}

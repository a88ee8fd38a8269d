/* SPDX-License-Identifier: MIT */
/*
 * Segments: bytes that only grow, shared by everybody who reads them
 *
 * A segment's bytes live in chunks that never move and are never copied for a reader: a reader walks them with
 * a cursor of its own and hands the network references to them. Segments are reference-counted (by the slot
 * of their channel, by publishers and by readers), chunks too (by their segment and by output queues).
 *
 * All chunks are counted in one struct relay_memory. When it is full, segments that left their channel's
 * window and are only kept by slow readers are cut, oldest first; what then does not fit is refused.
 *
 * One thread. A watch's `changed` may be called from inside any function that changes a segment: it only notes
 * the fact, it touches no segment, channel or watch.
 */
#ifndef MR_RELAY_SEGMENT_H
#define MR_RELAY_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

struct relay_segment;
TAILQ_HEAD(relay_segment_list, relay_segment);

struct relay_memory {
	size_t used_bytes;                  /* capacity of all chunks, whoever holds them */
	size_t max_bytes;                   /* of all segments together */
	size_t segment_max_bytes;           /* of the data of one */
	struct relay_segment_list detached; /* out of their channel's window but still held; oldest first */
	uint64_t cut_count;                 /* segments that were taken from slow readers */
};

struct relay_chunk {
	unsigned refs;
	uint32_t used, capacity; /* bytes */
	struct relay_memory *memory;
	struct relay_chunk *next; /* borrowed from the segment's list */
	uint8_t bytes[];
};

struct relay_watch {
	TAILQ_ENTRY(relay_watch) link;
	void (*changed)(struct relay_watch *watch);
};
TAILQ_HEAD(relay_watch_list, relay_watch);

struct relay_segment {
	uint32_t magic;
#define RELAY_SEGMENT_MAGIC 0x5e63e27u
	unsigned refs;
	int64_t seq;
	bool closed;    /* no byte will follow; stays in the window until its slot is reused */
	bool detached;  /* on memory->detached */
	bool cut;       /* its bytes were taken back; readers must be told by breaking the connection */
	unsigned epoch; /* +1 when the bytes were replaced (old flavor) */
	uint64_t bytes;
	struct relay_chunk *first, *last;
	struct relay_memory *memory;
	struct relay_watch_list watches;
	TAILQ_ENTRY(relay_segment) link; /* of memory->detached */
};

/* Where a reader is. All zero: at the beginning. */
struct relay_cursor {
	struct relay_chunk *chunk; /* NULL before the first byte */
	uint32_t offset;
	unsigned epoch;
	uint64_t bytes; /* passed so far */
};

void relay_memory_init(struct relay_memory *memory, size_t max_bytes, size_t segment_max_bytes);

/* NULL: out of memory. The caller owns one reference. */
struct relay_segment *relay_segment_new(struct relay_memory *memory, int64_t seq);
struct relay_segment *relay_segment_ref(struct relay_segment *segment);
/* Nulls the pointer; NULL is fine. */
void relay_segment_unref(struct relay_segment **segment);

enum relay_append {
	RELAY_APPEND_SEGMENT_FULL = 1, /* it would exceed segment_max_bytes */
	RELAY_APPEND_MEMORY_FULL,      /* all segments together would exceed max_bytes */
};
/* Copies the bytes in and wakes the readers. 0, enum relay_append (then nothing was added) or -ENOMEM. */
int relay_segment_append(struct relay_segment *segment, const uint8_t *bytes, size_t count);
/* Idempotent; wakes everybody. */
void relay_segment_close(struct relay_segment *segment);
/* Forgets the bytes and opens it again: readers in the middle get an end, parked publishers are let go. */
void relay_segment_reset(struct relay_segment *segment);
/* Its slot was given to another one: gives up the slot's reference and nulls it. NULL is fine. */
void relay_segment_detach(struct relay_segment **slot);

void relay_segment_watch(struct relay_segment *segment, struct relay_watch *watch);
void relay_segment_unwatch(struct relay_segment *segment, struct relay_watch *watch);

/* The bytes at the cursor, contiguous, at most `max`; 0: none now. The caller refs *chunk to keep the bytes. */
size_t relay_cursor_peek(struct relay_cursor *cursor, const struct relay_segment *segment, size_t max,
    struct relay_chunk **chunk, const uint8_t **bytes);
void relay_cursor_advance(struct relay_cursor *cursor, size_t count);

struct relay_chunk *relay_chunk_ref(struct relay_chunk *chunk);
void relay_chunk_unref(struct relay_chunk *chunk);

#endif

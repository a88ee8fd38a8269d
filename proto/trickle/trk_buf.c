/* SPDX-License-Identifier: MIT */
/*
 * A queue of bytes
 *
 * One allocation that doubles; the bytes move to its front when room at the end runs out and half of it is free,
 * so that a byte is moved a constant number of times. Limits are the owner's business.
 */
#include "base/assert.h"
#include "base/err.h"
#include "proto/trickle/trk_buf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TRK_BUF_FIRST_BYTES 4096

int
trk_buf_put(struct trk_buf *b, const void *bytes, size_t count)
{
	size_t have = trk_buf_count(b), capacity = b->capacity ? b->capacity : TRK_BUF_FIRST_BYTES;
	uint8_t *bigger;

	if (count == 0)
		return 0;
	if (b->capacity - b->tail < count && b->capacity - have >= count && b->head >= b->capacity / 2) {
		memmove(b->bytes, b->bytes + b->head, have);
		b->head = 0;
		b->tail = have;
	}
	if (b->capacity - b->tail < count) {
		while (capacity - have < count) {
			if (capacity > SIZE_MAX / 2)
				return err_origin(-ENOMEM);
			capacity *= 2;
		}
		bigger = malloc(capacity);
		if (bigger == NULL)
			return err_origin(-ENOMEM);
		if (have > 0)
			memcpy(bigger, b->bytes + b->head, have);
		free(b->bytes);
		b->bytes = bigger;
		b->capacity = capacity;
		b->head = 0;
		b->tail = have;
	}
	memcpy(b->bytes + b->tail, bytes, count);
	b->tail += count;
	return 0;
}

void
trk_buf_drop(struct trk_buf *b, size_t count)
{
	MR_ASSERT(count <= trk_buf_count(b));
	b->head += count;
	if (b->head == b->tail)
		b->head = b->tail = 0;
}

void
trk_buf_fini(struct trk_buf *b)
{
	free(b->bytes);
	*b = (struct trk_buf){ 0 };
}

/* SPDX-License-Identifier: MIT */
/* A queue of bytes in one piece of memory: put at the end, dropped from the front. All zero is a valid empty one. */
#ifndef MR_PROTO_TRICKLE_TRK_BUF_H
#define MR_PROTO_TRICKLE_TRK_BUF_H

#include <stddef.h>
#include <stdint.h>

struct trk_buf {
	uint8_t *bytes;
	size_t head, tail, capacity;
};

static inline size_t
trk_buf_count(const struct trk_buf *b)
{
	return b->tail - b->head;
}

/* Valid until the next put or fini. */
static inline const uint8_t *
trk_buf_front(const struct trk_buf *b)
{
	return b->bytes + b->head;
}

/* 0, or -ENOMEM and nothing was put. */
int trk_buf_put(struct trk_buf *b, const void *bytes, size_t count);
void trk_buf_drop(struct trk_buf *b, size_t count);
void trk_buf_fini(struct trk_buf *b);

#endif

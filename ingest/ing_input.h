/* SPDX-License-Identifier: MIT */
/* What has arrived on the subscription and waits to be demultiplexed: bytes and segment borders, in order. */
#ifndef MR_ING_INPUT_H
#define MR_ING_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The subscription is paused long before; what comes on top of this is dropped, as a gap. */
enum { ING_INPUT_BYTES_MAX = 16 * 1024 * 1024 };

enum ing_item_kind {
	ING_ITEM_BYTES,
	ING_ITEM_BEGIN,	     /* flag: a gap before it */
	ING_ITEM_END,	     /* flag: complete */
	ING_ITEM_CHANNEL_END /* nothing will follow */
};

struct ing_item {
	struct ing_item *next;
	enum ing_item_kind kind;
	bool flag;
	size_t count, used;
	uint8_t bytes[];
};

struct ing_input {
	struct ing_item *first, *last;
	size_t bytes;
	bool lost; /* something was dropped: the next segment begins with a gap */
};

void ing_input_mark(struct ing_input *in, enum ing_item_kind kind, bool flag);
/* Copies. */
void ing_input_bytes(struct ing_input *in, const uint8_t *bytes, size_t count);
/* NULL: empty. */
struct ing_item *ing_input_first(struct ing_input *in);
void ing_input_pop(struct ing_input *in);
void ing_input_clear(struct ing_input *in);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * Input that waits
 *
 * Empty in normal operation: bytes are demultiplexed in the callback that brings them. It fills only while a frame waits
 * for its ring or its consumer, and then the subscription is paused, so little more than one delivery lies here.
 */
#include "ingest/ing_input.h"

#include <stdlib.h>
#include <string.h>

static void
append(struct ing_input *in, struct ing_item *item)
{
	if (in->last != NULL)
		in->last->next = item;
	else
		in->first = item;
	in->last = item;
	in->bytes += item->count;
}

void
ing_input_mark(struct ing_input *in, enum ing_item_kind kind, bool flag)
{
	struct ing_item *item = calloc(1, sizeof(*item));

	if (item == NULL) {
		in->lost = true;
		return;
	}
	item->kind = kind;
	item->flag = flag;
	if (kind == ING_ITEM_BEGIN && in->lost) {
		item->flag = true;
		in->lost = false;
	}
	append(in, item);
}

void
ing_input_bytes(struct ing_input *in, const uint8_t *bytes, size_t count)
{
	struct ing_item *item;

	if (in->lost)
		return; /* until the next segment */
	item = in->bytes + count <= ING_INPUT_BYTES_MAX ? malloc(sizeof(*item) + count) : NULL;
	if (item == NULL) {
		in->lost = true;
		return;
	}
	memset(item, 0, sizeof(*item));
	item->kind = ING_ITEM_BYTES;
	item->count = count;
	memcpy(item->bytes, bytes, count);
	append(in, item);
}

struct ing_item *
ing_input_first(struct ing_input *in)
{
	return in->first;
}

void
ing_input_pop(struct ing_input *in)
{
	struct ing_item *item = in->first;

	if (item == NULL)
		return;
	in->first = item->next;
	if (in->first == NULL)
		in->last = NULL;
	in->bytes -= item->count;
	free(item);
}

void
ing_input_clear(struct ing_input *in)
{
	while (in->first != NULL)
		ing_input_pop(in);
	in->lost = false;
}

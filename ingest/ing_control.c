/* SPDX-License-Identifier: MIT */
/*
 * Control documents
 *
 * The supervisor reads the file only between CTL_CONTROL and CTL_CONTROL_TAKEN, so it is written only outside of that. What
 * is not a JSON object is skipped, as the peers expect; {"keep":"alive"} says nothing.
 */
#include "ingest/ing_control.h"

#include "base/fd.h"
#include "base/log.h"

#include <jansson.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PART_CAP_MIN = 4096 };

void
ing_control_init(struct ing_control *c, int upload_fd, uint64_t upload_bytes)
{
	memset(c, 0, sizeof(*c));
	c->upload = upload_fd;
	c->upload_bytes = upload_bytes;
}

void
ing_control_fini(struct ing_control *c)
{
	fd_close(&c->upload);
	free(c->part);
	c->part = NULL;
	while (c->count > 0)
		free(c->doc[--c->count].text);
}

void
ing_control_begin(struct ing_control *c)
{
	c->part_bytes = 0;
	c->too_long = false;
}

void
ing_control_bytes(struct ing_control *c, const uint8_t *bytes, size_t count)
{
	size_t cap = c->part_cap != 0 ? c->part_cap : PART_CAP_MIN;
	char *part;

	if (c->too_long)
		return;
	if (count > ING_DOC_BYTES_MAX - c->part_bytes) {
		c->too_long = true;
		return;
	}
	while (cap < c->part_bytes + count)
		cap *= 2;
	if (cap != c->part_cap) {
		part = realloc(c->part, cap);
		if (part == NULL) {
			c->too_long = true;
			return;
		}
		c->part = part;
		c->part_cap = cap;
	}
	memcpy(c->part + c->part_bytes, bytes, count);
	c->part_bytes += count;
}

/* An object that says something. */
static bool
worth_sending(const char *text, size_t bytes)
{
	/* the supervisor holds numbers of any size and \u0000; here they only must not be in the way */
	json_t *doc = json_loadb(text, bytes, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, NULL);
	const char *keep;
	bool worth;

	if (!json_is_object(doc)) {
		json_decref(doc);
		return false;
	}
	keep = json_string_value(json_object_get(doc, "keep"));
	worth = !(json_object_size(doc) == 1 && keep != NULL && strcmp(keep, "alive") == 0);
	json_decref(doc);
	return worth;
}

static bool
keeps_alive(const char *text, size_t bytes)
{
	return bytes <= 64 && memmem(text, bytes, "\"keep\"", 6) != NULL && memmem(text, bytes, "\"alive\"", 7) != NULL;
}

static void
forget_oldest(struct ing_control *c)
{
	free(c->doc[0].text);
	memmove(&c->doc[0], &c->doc[1], sizeof(c->doc[0]) * (ING_DOCS_MAX - 1));
	c->count--;
	c->dropped++;
	log_warn("control", "dropped", "reason=\"documents come faster than they are taken\" total=%llu",
	    (unsigned long long)c->dropped);
}

void
ing_control_end(struct ing_control *c, bool complete)
{
	if (!complete || c->too_long) {
		if (c->part_bytes > 0 || c->too_long)
			log_warn("control", "dropped", "reason=\"%s\" bytes=%zu",
			    c->too_long ? "larger than 10 MiB" : "cut off", c->part_bytes);
		c->part_bytes = 0;
		return;
	}
	if (c->part_bytes == 0)
		return;
	if (!worth_sending(c->part, c->part_bytes) || c->part_bytes > c->upload_bytes) {
		if (!keeps_alive(c->part, c->part_bytes)) {
			c->bad++;
			log_warn("control", "skipped", "reason=\"no JSON object\" bytes=%zu", c->part_bytes);
		}
		c->part_bytes = 0;
		return;
	}
	if (c->count == ING_DOCS_MAX)
		forget_oldest(c);
	c->doc[c->count++] = (struct ing_doc){ c->part, c->part_bytes };
	c->part = NULL;
	c->part_cap = c->part_bytes = 0;
}

uint64_t
ing_control_offer(struct ing_control *c)
{
	struct ing_doc doc;
	size_t done = 0;

	if (c->count == 0 || c->offered || c->upload == -1)
		return 0;
	doc = c->doc[0];
	memmove(&c->doc[0], &c->doc[1], sizeof(c->doc[0]) * (ING_DOCS_MAX - 1));
	c->count--;
	while (done < doc.bytes) {
		ssize_t n = pwrite(c->upload, doc.text + done, doc.bytes - done, (off_t)done);

		if (n <= 0)
			break;
		done += (size_t)n;
	}
	free(doc.text);
	if (done < doc.bytes) {
		log_error("control", "upload_failed", "bytes=%zu", doc.bytes);
		return 0;
	}
	c->offered = true;
	return doc.bytes;
}

void
ing_control_taken(struct ing_control *c)
{
	c->offered = false;
}

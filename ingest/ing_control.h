/* SPDX-License-Identifier: MIT */
/*
 * Documents of the control channel: one segment, one JSON object
 *
 * A segment is collected whole, checked, and handed to the supervisor through a shared file (the upload memfd), one at a
 * time. Of documents that wait, the newest ING_DOCS_MAX are kept.
 */
#ifndef MR_ING_CONTROL_H
#define MR_ING_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ING_DOC_BYTES_MAX = 10 * 1024 * 1024, ING_DOCS_MAX = 4 };

struct ing_doc {
	char *text;
	size_t bytes;
};

struct ing_control {
	int upload; /* -1: none */
	uint64_t upload_bytes;
	char *part; /* of the segment being received */
	size_t part_bytes, part_cap;
	bool too_long; /* the rest of the segment is skipped */
	struct ing_doc doc[ING_DOCS_MAX];
	unsigned count;
	bool offered; /* the file holds one that the supervisor has not taken */
	uint64_t bad, dropped;
};

/* `upload_fd` is consumed; -1: documents are dropped. */
void ing_control_init(struct ing_control *c, int upload_fd, uint64_t upload_bytes);
void ing_control_fini(struct ing_control *c);
void ing_control_begin(struct ing_control *c);
void ing_control_bytes(struct ing_control *c, const uint8_t *bytes, size_t count);
void ing_control_end(struct ing_control *c, bool complete);
/* Writes the next document to the file. 0: there is none, or the file is in use; else its size: tell the supervisor. */
uint64_t ing_control_offer(struct ing_control *c);
void ing_control_taken(struct ing_control *c);

#endif

/* SPDX-License-Identifier: MIT */
/* Reads just enough of MPEG-TS to check the reader under test, written apart from it. */
#include "ing_clip.h"

#include "ing_stage.h"

#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

static bool
stuffed(const uint8_t *p)
{
	unsigned need = 1;

	if (!(p[3] & 0x20))
		return false;
	if (p[4] == 0)
		return true;
	need += p[5] & 0x10 ? 6 : 0;
	need += p[5] & 0x08 ? 6 : 0;
	return p[4] > need;
}

static void
begin_pes(struct clip *c, const uint8_t *p, size_t at, uint16_t pid)
{
	struct clip_pes *e = &c->pes[c->pes_count++];
	const uint8_t *b = p + 4 + (p[3] & 0x20 ? 1 + p[4] : 0);

	cr_assert_lt(c->pes_count, CLIP_PES_MAX);
	cr_assert(b[0] == 0 && b[1] == 0 && b[2] == 1);
	e->pid = pid;
	e->begin = at;
	e->bounded = (b[4] | b[5]) != 0;
	e->key = (p[3] & 0x20) && p[4] > 0 && (p[5] & 0x40);
	e->pts = (int64_t)(b[9] >> 1 & 7) << 30 | (int64_t)b[10] << 22 | (int64_t)(b[11] >> 1) << 15 | (int64_t)b[12] << 7 |
	    b[13] >> 1;
}

void
clip_open(struct clip *c)
{
	const char *path = getenv("MILLRACE_TEST_CLIP");
	int last[2] = { -1, -1 };

	memset(c, 0, sizeof(*c));
	cr_assert_not_null(path, "MILLRACE_TEST_CLIP is not set: run this test with meson test");
	c->data = stage_file(path, &c->bytes);
	for (size_t at = 0; at + 188 <= c->bytes; at += 188) {
		const uint8_t *p = c->data + at;
		uint16_t pid = (uint16_t)((p[1] & 0x1f) << 8 | p[2]);
		int i = pid - CLIP_VIDEO_PID;

		if (pid == 0 && c->tables[0] == 0) {
			memcpy(c->tables, p, 188);
			memcpy(c->tables + 188, p + 188, 188);
		}
		if (i != 0 && i != 1)
			continue;
		if (p[1] & 0x40) {
			last[i] = (int)c->pes_count;
			begin_pes(c, p, at, pid);
		}
		cr_assert_neq(last[i], -1);
		c->pes[last[i]].end = at + 188;
		c->pes[last[i]].exact = !c->pes[last[i]].bounded && !stuffed(p);
	}
}

void
clip_close(struct clip *c)
{
	free(c->data);
}

unsigned
clip_key(const struct clip *c, unsigned nth)
{
	for (unsigned i = 0; i < c->pes_count; i++)
		if (c->pes[i].pid == CLIP_VIDEO_PID && c->pes[i].key && nth-- == 0)
			return i;
	cr_assert_fail("the clip has too few keyframes");
	return 0;
}

unsigned
clip_gop(const struct clip *c, unsigned from, size_t *end)
{
	unsigned n = 0;

	*end = c->bytes;
	for (unsigned i = from; i < c->pes_count; i++) {
		if (c->pes[i].pid != CLIP_VIDEO_PID)
			continue;
		if (i != from && c->pes[i].key) {
			*end = c->pes[i].begin;
			break;
		}
		n++;
	}
	return n;
}

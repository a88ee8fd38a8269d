/* SPDX-License-Identifier: MIT */
/*
 * The slate
 *
 * A dark picture with a box in the middle: a line or two of text, and a progress bar below. It is drawn straight into
 * the planes that are encoded, so showing it costs a few memset()s. Text comes from outside: bytes that the font lacks
 * become question marks, what does not fit is cut.
 */
#include "egress/egr_slate.h"
#include "base/assert.h"

#include <stddef.h>
#include <string.h>

#include "egress/egr_priv.h"

struct colour {
	uint8_t y, u, v;
};

/* Where things are; all even, so that luma and chroma agree. */
struct rect {
	int x, y, w, h;
};

enum { BOX_WIDTH = 400, BOX_HEIGHT = 200, BAR_HEIGHT = 6, LINES_MAX = 3 };

static uint8_t
level(double v)
{
	return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v + 0.5);
}

static struct colour
colour_rgb(bool bt709, int r, int g, int b)
{
	double kr = bt709 ? 0.2126 : 0.299, kb = bt709 ? 0.0722 : 0.114;
	double y = kr * r + (1 - kr - kb) * g + kb * b;

	return (struct colour){
		.y = level(16 + y * 219 / 255),
		.u = level(128 + (b - y) / (2 * (1 - kb)) * 224 / 255),
		.v = level(128 + (r - y) / (2 * (1 - kr)) * 224 / 255),
	};
}

static void
fill(const struct egr_canvas *c, struct rect r, struct colour colour)
{
	MR_ASSERT(r.x >= 0 && r.y >= 0 && r.x + r.w <= c->width && r.y + r.h <= c->height);
	MR_ASSERT(((r.x | r.y | r.w | r.h) & 1) == 0);
	for (int y = r.y; y < r.y + r.h; y++)
		memset(c->plane[0] + (ptrdiff_t)y * c->stride[0] + r.x, colour.y, (size_t)r.w);
	for (int y = r.y / 2; y < (r.y + r.h) / 2; y++) {
		if (c->interleaved) {
			uint8_t *uv = c->plane[1] + (ptrdiff_t)y * c->stride[1] + r.x;

			for (int x = 0; x < r.w; x += 2) {
				uv[x] = colour.u;
				uv[x + 1] = colour.v;
			}
		} else {
			memset(c->plane[1] + (ptrdiff_t)y * c->stride[1] + r.x / 2, colour.u, (size_t)r.w / 2);
			memset(c->plane[2] + (ptrdiff_t)y * c->stride[2] + r.x / 2, colour.v, (size_t)r.w / 2);
		}
	}
}

/* Text is grey, so luma alone makes it. */
static void
draw_glyph(const struct egr_canvas *c, const uint8_t *glyph, int x0, int y0, int scale, uint8_t luma)
{
	for (int row = 0; row < EGR_FONT_ROWS * scale; row++) {
		int y = y0 + row;

		if (y < 0 || y >= c->height)
			continue;
		for (int col = 0; col < EGR_FONT_COLUMNS * scale; col++) {
			int x = x0 + col;

			if (x >= 0 && x < c->width && glyph[row / scale] >> (4 - col / scale) & 1)
				c->plane[0][(ptrdiff_t)y * c->stride[0] + x] = luma;
		}
	}
}

static void
draw_line(const struct egr_canvas *c, const char *text, size_t count, int y, int scale)
{
	int advance = (EGR_FONT_COLUMNS + 1) * scale;
	int x = (c->width - (int)count * advance) / 2;

	for (size_t i = 0; i < count; i++, x += advance)
		draw_glyph(c, egr_font_glyph(text[i]), x, y, scale, 225);
}

/* How much of `text` goes on a line of `room` characters: up to the last space that fits. */
static size_t
line_length(const char *text, size_t room)
{
	size_t n = strlen(text), at = room;

	if (n <= room)
		return n;
	while (at > 0 && text[at] != ' ')
		at--;
	return at > 0 ? at : room;
}

static void
draw_text(const struct egr_canvas *c, struct rect box, const char *text)
{
	int scale = box.w >= 280 ? 2 : 1;
	int line_height = (EGR_FONT_ROWS + 3) * scale;
	size_t room = (size_t)(box.w - 8) / (size_t)((EGR_FONT_COLUMNS + 1) * scale);
	int y = box.y + box.h / 4;

	for (int line = 0; line < LINES_MAX && *text != '\0' && room > 0; line++, y += line_height) {
		size_t n = line_length(text, room);

		if (y + line_height > box.y + box.h - BAR_HEIGHT)
			break;
		draw_line(c, text, n, y, scale);
		text += n;
		while (*text == ' ')
			text++;
	}
}

static void
draw_bar(const struct egr_canvas *c, struct rect box, int percent, unsigned phase)
{
	struct rect track = { .x = (box.x + box.w / 10) & ~1, .y = (box.y + box.h * 3 / 4) & ~1,
		.w = (box.w * 8 / 10) & ~1, .h = BAR_HEIGHT };
	struct rect done = track;

	if (track.w < 16 || track.y + track.h > box.y + box.h)
		return;
	fill(c, track, colour_rgb(c->bt709, 70, 70, 70));
	if (percent >= 0) {
		done.w = (int)((int64_t)track.w * (percent > 100 ? 100 : percent) / 100) & ~1;
	} else {
		done.w = (track.w / 4) & ~1;
		done.x += (int)((int64_t)(track.w - done.w) * (phase < 500 ? phase : 1000 - phase) / 500) & ~1;
	}
	fill(c, done, colour_rgb(c->bt709, 100, 150, 255));
}

void
egr_slate_draw(const struct egr_slate *slate, const struct egr_canvas *canvas, unsigned phase)
{
	int w = canvas->width, h = canvas->height;
	struct rect all = { 0, 0, w, h };
	struct rect box = { .w = (w * 4 / 5 < BOX_WIDTH ? w * 4 / 5 : BOX_WIDTH) & ~1,
		.h = (h * 3 / 5 < BOX_HEIGHT ? h * 3 / 5 : BOX_HEIGHT) & ~1 };

	MR_ASSERT(((w | h) & 1) == 0);
	box.x = ((w - box.w) / 2) & ~1;
	box.y = ((h - box.h) / 2) & ~1;
	fill(canvas, all, colour_rgb(canvas->bt709, 30, 30, 30));
	fill(canvas, box, colour_rgb(canvas->bt709, 45, 45, 45));
	draw_text(canvas, box, slate->text[0] != '\0' ? slate->text : "Loading...");
	draw_bar(canvas, box, slate->progress_percent, phase % 1000);
}

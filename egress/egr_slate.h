/* SPDX-License-Identifier: MIT */
/* The slate: what is shown in place of a picture that is not there, drawn in the encoder's own format. */
#ifndef MR_EGR_SLATE_H
#define MR_EGR_SLATE_H

#include <stdbool.h>
#include <stdint.h>

enum { EGR_FONT_COLUMNS = 5, EGR_FONT_ROWS = 9, EGR_SLATE_TEXT_MAX = 200 };

struct egr_slate {
	char text[EGR_SLATE_TEXT_MAX]; /* "": "Loading..." */
	int progress_percent;	       /* -1: unknown, the bar moves */
};

/* A 4:2:0 picture: three planes, or two with `interleaved` chroma (NV12). Even sides. */
struct egr_canvas {
	uint8_t *plane[3];
	int stride[3];
	int width, height;
	bool interleaved;
	bool bt709; /* matrix of the colours; else BT.601 */
};

/* `phase` 0..999 moves the bar when the progress is unknown. */
void egr_slate_draw(const struct egr_slate *slate, const struct egr_canvas *canvas, unsigned phase);

/* EGR_FONT_ROWS rows; a question mark for what the font lacks. */
const uint8_t *egr_font_glyph(char c);

#endif

/* SPDX-License-Identifier: MIT */
/* Frame formats: names and geometry. All arithmetic in 64 bits before anything is narrowed. */
#include "proto/format.h"

#include <string.h>

static const char *const names[FORMAT_VIDEO_COUNT] = {
	[FORMAT_RGB24] = "rgb24",
	[FORMAT_RGBA] = "rgba",
	[FORMAT_BGR24] = "bgr24",
	[FORMAT_NV12] = "nv12",
	[FORMAT_I420] = "i420",
	[FORMAT_RGBF32P] = "rgbf32p",
};

static uint32_t
align32(uint32_t n)
{
	return (n + 31) & ~UINT32_C(31);
}

static void
add_plane(struct format_layout *l, uint32_t stride, uint32_t rows)
{
	l->offset[l->plane_count] = (uint32_t)l->payload_bytes;
	l->stride[l->plane_count] = stride;
	l->plane_count++;
	l->payload_bytes += (uint64_t)stride * rows;
}

bool
format_video_layout(enum format_id format, uint32_t width, uint32_t height, struct format_layout *out)
{
	struct format_layout l = { 0 };

	if (width < FORMAT_SIDE_MIN || width > FORMAT_SIDE_MAX || height < FORMAT_SIDE_MIN || height > FORMAT_SIDE_MAX)
		return false;
	switch (format) {
	case FORMAT_RGB24:
	case FORMAT_BGR24:
		add_plane(&l, width * 3, height);
		break;
	case FORMAT_RGBA:
		add_plane(&l, width * 4, height);
		break;
	case FORMAT_NV12:
		if ((width | height) & 1)
			return false;
		add_plane(&l, align32(width), height);
		add_plane(&l, align32(width), height / 2);
		break;
	case FORMAT_I420:
		if ((width | height) & 1)
			return false;
		add_plane(&l, align32(width), height);
		add_plane(&l, align32(width / 2), height / 2);
		add_plane(&l, align32(width / 2), height / 2);
		break;
	case FORMAT_RGBF32P:
		for (int i = 0; i < 3; i++)
			add_plane(&l, width * 4, height);
		break;
	default:
		return false;
	}
	*out = l;
	return true;
}

const char *
format_name(enum format_id format)
{
	if (format == FORMAT_F32)
		return "f32";
	return (unsigned)format < FORMAT_VIDEO_COUNT ? names[format] : NULL;
}

enum format_id
format_from_name(const char *name)
{
	for (int i = 1; i < FORMAT_VIDEO_COUNT; i++)
		if (strcmp(name, names[i]) == 0)
			return (enum format_id)i;
	return FORMAT_NONE;
}

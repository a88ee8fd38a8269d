/* SPDX-License-Identifier: MIT */
/*
 * Program tables
 *
 * The codec of a stream follows from its stream type or, for private data, from its descriptors. The two tables here are
 * the whole list of codecs that can ever be opened: nothing in the stream's bytes chooses another one.
 */
#include "ingest/ing_psi.h"

#include <libavcodec/avcodec.h>
#include <libavutil/crc.h>

#include <string.h>

struct type_codec {
	uint8_t type;
	enum AVCodecID codec;
};

static const struct type_codec type_codecs[] = {
	{ 0x01, AV_CODEC_ID_MPEG2VIDEO }, /* MPEG-1, same decoder */
	{ 0x02, AV_CODEC_ID_MPEG2VIDEO },
	{ 0x03, AV_CODEC_ID_MP3 },
	{ 0x04, AV_CODEC_ID_MP3 },
	{ 0x0f, AV_CODEC_ID_AAC },
	{ 0x10, AV_CODEC_ID_MPEG4 },
	{ 0x11, AV_CODEC_ID_AAC_LATM },
	{ 0x1b, AV_CODEC_ID_H264 },
	{ 0x1c, AV_CODEC_ID_AAC },
	{ 0x21, AV_CODEC_ID_JPEG2000 },
	{ 0x24, AV_CODEC_ID_HEVC },
	{ 0x42, AV_CODEC_ID_CAVS },
	{ 0x80, AV_CODEC_ID_MPEG2VIDEO },
	{ 0x81, AV_CODEC_ID_AC3 },
	{ 0x82, AV_CODEC_ID_DTS },
	{ 0x83, AV_CODEC_ID_TRUEHD },
	{ 0x84, AV_CODEC_ID_EAC3 },
	{ 0x85, AV_CODEC_ID_DTS },
	{ 0x86, AV_CODEC_ID_DTS },
	{ 0x87, AV_CODEC_ID_EAC3 },
	{ 0xd1, AV_CODEC_ID_DIRAC },
	{ 0xea, AV_CODEC_ID_VC1 },
};

struct name_codec {
	char name[5];
	enum AVCodecID codec;
};

static const struct name_codec registrations[] = {
	{ "Opus", AV_CODEC_ID_OPUS },
	{ "AC-3", AV_CODEC_ID_AC3 },
	{ "EAC3", AV_CODEC_ID_EAC3 },
	{ "HEVC", AV_CODEC_ID_HEVC },
	{ "H264", AV_CODEC_ID_H264 },
	{ "VC-1", AV_CODEC_ID_VC1 },
	{ "drac", AV_CODEC_ID_DIRAC },
	{ "DTS1", AV_CODEC_ID_DTS },
	{ "DTS2", AV_CODEC_ID_DTS },
	{ "DTS3", AV_CODEC_ID_DTS },
	{ "BSSD", AV_CODEC_ID_S302M },
};

static const struct type_codec descriptors[] = {
	{ 0x6a, AV_CODEC_ID_AC3 },
	{ 0x7a, AV_CODEC_ID_EAC3 },
	{ 0x7b, AV_CODEC_ID_DTS },
	{ 0x7c, AV_CODEC_ID_AAC },
};

void
ing_section_reset(struct ing_section *s)
{
	s->active = false;
	s->have = 0;
}

static size_t
section_bytes(const struct ing_section *s)
{
	return 3 + (((size_t)s->data[1] & 0x0f) << 8 | s->data[2]);
}

/* Appends what fits and returns how many bytes of `p` were used. */
static size_t
section_append(struct ing_section *s, const uint8_t *p, size_t n,
    void (*done)(void *arg, const uint8_t *section, size_t bytes), void *arg)
{
	size_t used = 0, want;

	while (used < n && s->active) {
		want = s->have < 3 ? 3 : section_bytes(s);
		if (want > sizeof(s->data)) {
			ing_section_reset(s);
			return n;
		}
		want -= s->have;
		if (want > n - used)
			want = n - used;
		memcpy(s->data + s->have, p + used, want);
		s->have += (unsigned)want;
		used += want;
		if (s->have < 3 || s->have < section_bytes(s))
			continue;
		/* Long form only: the short one has no checksum, and neither PAT nor PMT uses it. */
		if ((s->data[1] & 0x80) != 0 && s->have >= 12 &&
		    av_crc(av_crc_get_table(AV_CRC_32_IEEE), UINT32_MAX, s->data, s->have) == 0)
			done(arg, s->data, s->have);
		ing_section_reset(s);
	}
	return used;
}

void
ing_section_feed(struct ing_section *s, const uint8_t *p, size_t n, bool unit_start,
    void (*done)(void *arg, const uint8_t *section, size_t bytes), void *arg)
{
	size_t skip;

	if (!unit_start) {
		section_append(s, p, n, done, arg);
		return;
	}
	if (n < 1 || p[0] > n - 1)
		return;
	skip = p[0];
	section_append(s, p + 1, skip, done, arg); /* the end of the one before */
	p += 1 + skip;
	n -= 1 + skip;
	while (n > 0 && p[0] != 0xff) {
		size_t used;

		ing_section_reset(s);
		s->active = true;
		used = section_append(s, p, n, done, arg);
		p += used;
		n -= used;
	}
}

int
ing_pat_parse(const uint8_t *s, size_t n, uint16_t *pids, unsigned max)
{
	unsigned count = 0;

	if (n < 12 || s[0] != 0x00)
		return -1;
	for (size_t i = 8; i + 4 <= n - 4 && count < max; i += 4)
		if ((s[i] | s[i + 1]) != 0) /* program 0 is the network table */
			pids[count++] = (uint16_t)((s[i + 2] & 0x1f) << 8 | s[i + 3]);
	return (int)count;
}

static enum AVCodecID
registration_codec(const uint8_t *name)
{
	for (size_t i = 0; i < sizeof(registrations) / sizeof(registrations[0]); i++)
		if (memcmp(name, registrations[i].name, 4) == 0)
			return registrations[i].codec;
	return AV_CODEC_ID_NONE;
}

static enum AVCodecID
table_codec(const struct type_codec *table, size_t count, uint8_t key)
{
	for (size_t i = 0; i < count; i++)
		if (table[i].type == key)
			return table[i].codec;
	return AV_CODEC_ID_NONE;
}

static void
parse_descriptors(const uint8_t *d, size_t n, struct ing_stream *out)
{
	while (n >= 2 && d[1] <= n - 2) {
		enum AVCodecID codec = AV_CODEC_ID_NONE;

		if (d[0] == 0x05 && d[1] >= 4)
			codec = registration_codec(d + 2);
		else if (d[0] == 0x7f && d[1] >= 2 && d[2] == 0x80)
			out->opus_channels = d[3];
		else
			codec = table_codec(descriptors, sizeof(descriptors) / sizeof(descriptors[0]), d[0]);
		if (codec != AV_CODEC_ID_NONE && out->codec == AV_CODEC_ID_NONE)
			out->codec = codec;
		n -= 2 + (size_t)d[1];
		d += 2 + d[1];
	}
}

static void
choose(struct ing_pmt *pmt, const struct ing_stream *st, uint8_t type)
{
	enum AVMediaType kind = avcodec_get_type(st->codec);

	if (st->codec == AV_CODEC_ID_NONE || avcodec_find_decoder(st->codec) == NULL)
		pmt->odd_type = type;
	else if (kind == AVMEDIA_TYPE_VIDEO && pmt->video.codec == AV_CODEC_ID_NONE)
		pmt->video = *st;
	else if (kind == AVMEDIA_TYPE_AUDIO && pmt->audio.codec == AV_CODEC_ID_NONE)
		pmt->audio = *st;
}

bool
ing_pmt_parse(const uint8_t *s, size_t n, struct ing_pmt *out)
{
	struct ing_pmt pmt = { 0 };
	size_t i, end, info;

	if (n < 16 || s[0] != 0x02)
		return false;
	end = n - 4;
	i = 12 + ((size_t)(s[10] & 0x0f) << 8 | s[11]);
	for (; i + 5 <= end; i += 5 + info) {
		struct ing_stream st = { 0 };

		info = (size_t)(s[i + 3] & 0x0f) << 8 | s[i + 4];
		if (info > end - i - 5)
			break;
		st.pid = (uint16_t)((s[i + 1] & 0x1f) << 8 | s[i + 2]);
		st.codec = table_codec(type_codecs, sizeof(type_codecs) / sizeof(type_codecs[0]), s[i]);
		parse_descriptors(s + i + 5, info, &st);
		pmt.streams++;
		choose(&pmt, &st, s[i]);
	}
	*out = pmt;
	return true;
}

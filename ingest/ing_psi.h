/* SPDX-License-Identifier: MIT */
/* Program tables of MPEG-TS: which PIDs carry what. Input is hostile: every length is checked against what is there. */
#ifndef MR_ING_PSI_H
#define MR_ING_PSI_H

#include <libavcodec/codec_id.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ING_SECTION_BYTES_MAX = 1024 };
enum { ING_PROGRAMS_MAX = 8 };
enum { ING_PID_NULL = 0x1fff };

struct ing_stream {
	uint16_t pid;
	enum AVCodecID codec; /* AV_CODEC_ID_NONE: no such stream */
	uint8_t opus_channels; /* channel_config_code of Opus; 0: unknown */
};

/* Puts one section together from the payloads of TS packets. */
struct ing_section {
	uint8_t data[ING_SECTION_BYTES_MAX];
	unsigned have;
	bool active;
};

/* Calls `done` for each complete section with a correct checksum. `payload` follows the TS header. */
void ing_section_feed(struct ing_section *s, const uint8_t *payload, size_t bytes, bool unit_start,
    void (*done)(void *arg, const uint8_t *section, size_t bytes), void *arg);
void ing_section_reset(struct ing_section *s);

/* PIDs of the program map tables, at most `max`; the number of them, or -1 if this is no program association table. */
int ing_pat_parse(const uint8_t *section, size_t bytes, uint16_t *pids, unsigned max);

struct ing_pmt {
	struct ing_stream video, audio; /* the first of each that we can decode */
	unsigned streams;		/* of any kind */
	uint8_t odd_type;		/* stream type of one that we cannot decode; 0: none */
};
/* false: no program map table. */
bool ing_pmt_parse(const uint8_t *section, size_t bytes, struct ing_pmt *out);

#endif

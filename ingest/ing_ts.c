/* SPDX-License-Identifier: MIT */
/*
 * MPEG-TS front end
 *
 * Why not libavformat's demuxer: it hands a PES of unknown length on only when the next one begins (a frame interval of
 * latency), reads its input for a probe before it says anything, and cannot be fed packet by packet. What a live input
 * needs of MPEG-TS is small, and with it this process links no demuxer at all (docs/decisions).
 *
 * When is a PES complete?
 *   - its length is written: when so many bytes are there;
 *   - it is not (video, usually): a muxer fills the last packet of a PES with stuffing in the adaptation field, so a
 *     packet that carries stuffing is the last one. When the payload happens to fit exactly there is no stuffing. Then
 *     the first packet of another stream tells, provided that this source has never put one inside a PES. Then the next
 *     PES of the stream, or the end of the segment.
 * The two guesses are checked: when a PES that was taken for complete goes on, that guess is not used any more for this
 * stream.
 *
 * Invariants: at most one packet's worth of input is consumed a call; a PES never exceeds ING_PES_BYTES_MAX; a lost
 * sync is found again within two packets.
 */
#include "ingest/ing_ts.h"

#include "base/assert.h"

#include <stdlib.h>
#include <string.h>

enum { PES_PAD = 64, PES_HEAD = 9, PID_UNSET = 0xffff, NEIGHBOUR_PROOF = 16 };
enum guess { GUESS_NONE, GUESS_STUFFING, GUESS_NEIGHBOUR };

struct pes {
	struct ing_stream stream;
	uint8_t *buf;
	size_t bytes, cap;
	size_t total;	     /* of the whole PES; 0: not written in it, or not known yet */
	bool open;	     /* begun and not handed on */
	bool damaged;
	bool neighbour;	     /* a packet of another stream came since its newest one */
	bool interrupted;    /* such a packet came inside it */
	unsigned contiguous; /* PES in a row without such a packet */
	enum guess ended_by; /* how the one before was found to be complete */
	bool wrong[3];	     /* guesses that failed for this stream */
	int cc;		     /* of its newest packet; -1: none since the segment began */
};

struct packet {
	uint16_t pid;
	bool unit_start, stuffed;
	int cc;
	const uint8_t *payload;
	size_t bytes;
};

struct ing_ts {
	const struct ing_ts_callbacks *callbacks;
	void *arg;
	bool synced;
	unsigned part_bytes;
	uint8_t part[2 * ING_TS_BYTES];
	struct ing_section pat, pmt[ING_PROGRAMS_MAX];
	uint16_t pmt_pid[ING_PROGRAMS_MAX];
	unsigned programs;
	unsigned parsing; /* index of the program whose section is being fed */
	int program;	  /* the one that we take; -1: none yet */
	bool have_pmt;
	uint8_t odd_type;
	struct pes pes[ING_TRACK_COUNT];
	struct ing_ts_counts counts;
};

struct ing_ts *
ing_ts_new(const struct ing_ts_callbacks *callbacks, void *arg)
{
	struct ing_ts *ts = calloc(1, sizeof(*ts));

	if (ts == NULL)
		return NULL;
	ts->callbacks = callbacks;
	ts->arg = arg;
	ts->program = -1;
	ts->synced = true;
	for (int i = 0; i < ING_TRACK_COUNT; i++) {
		ts->pes[i].stream.pid = PID_UNSET;
		ts->pes[i].cc = -1;
	}
	return ts;
}

void
ing_ts_free(struct ing_ts **tsp)
{
	struct ing_ts *ts = *tsp;

	if (ts == NULL)
		return;
	for (int i = 0; i < ING_TRACK_COUNT; i++)
		free(ts->pes[i].buf);
	free(ts);
	*tsp = NULL;
}

/* ---- PES -------------------------------------------------------------- */

static void
pes_drop(struct ing_ts *ts, struct pes *p)
{
	if (p->open)
		ts->counts.pes_dropped++;
	p->open = false;
	p->bytes = 0;
}

static int64_t
pes_timestamp(const uint8_t *b)
{
	return (int64_t)(b[0] >> 1 & 7) << 30 | (int64_t)b[1] << 22 | (int64_t)(b[2] >> 1) << 15 |
	    (int64_t)b[3] << 7 | b[4] >> 1;
}

/* Stream ids whose packets have no PES header. */
static bool
pes_headless(uint8_t id)
{
	return id == 0xbc || id == 0xbe || id == 0xbf || (id >= 0xf0 && id <= 0xf2) || id == 0xf8 || id == 0xff;
}

static void
pes_emit(struct ing_ts *ts, struct pes *p, size_t bytes, enum guess by)
{
	struct ing_pes out = { .track = (enum ing_track)(p - ts->pes), .pts = -1, .dts = -1, .damaged = p->damaged };
	const uint8_t *b = p->buf;
	size_t head;

	MR_ASSERT(p->open);
	if (bytes < PES_HEAD || b[0] != 0 || b[1] != 0 || b[2] != 1 || pes_headless(b[3]) || (b[6] & 0xc0) != 0x80 ||
	    PES_HEAD + (size_t)b[8] > bytes) {
		pes_drop(ts, p);
		return;
	}
	head = PES_HEAD + (size_t)b[8];
	if ((b[7] & 0x80) != 0 && b[8] >= 5)
		out.pts = pes_timestamp(b + PES_HEAD);
	if ((b[7] & 0xc0) == 0xc0 && b[8] >= 10)
		out.dts = pes_timestamp(b + PES_HEAD + 5);
	out.data = b + head;
	out.bytes = bytes - head;
	p->open = false;
	p->ended_by = by;
	p->contiguous = p->interrupted ? 0 : p->contiguous + 1;
	ts->counts.pes_damaged += p->damaged;
	memset(p->buf + bytes, 0, PES_PAD);
	if (out.bytes > 0)
		ts->callbacks->pes(ts->arg, &out);
	p->bytes = 0;
}

/* There is no more of it: the next one begins, or the segment is over. */
static void
pes_finish(struct ing_ts *ts, struct pes *p)
{
	if (!p->open)
		return;
	if (p->total == 0 && p->bytes > PES_HEAD)
		pes_emit(ts, p, p->bytes, GUESS_NONE);
	else
		pes_drop(ts, p);
}

static bool
pes_reserve(struct pes *p, size_t more)
{
	size_t want = p->bytes + more + PES_PAD, cap = p->cap != 0 ? p->cap : 16384;
	uint8_t *buf;

	if (want > ING_PES_BYTES_MAX)
		return false;
	if (want <= p->cap)
		return true;
	while (cap < want)
		cap *= 2;
	buf = realloc(p->buf, cap);
	if (buf == NULL)
		return false;
	p->buf = buf;
	p->cap = cap;
	return true;
}

static void
pes_begin(struct ing_ts *ts, struct pes *p)
{
	pes_finish(ts, p);
	p->open = true;
	p->bytes = 0;
	p->total = 0;
	p->damaged = p->neighbour = p->interrupted = false;
	p->ended_by = GUESS_NONE;
}

/* A packet that repeats the one before, as the standard allows. */
static bool
pes_repeated(const struct pes *p, const struct packet *k)
{
	return p->cc == k->cc && !k->unit_start && p->bytes >= k->bytes &&
	    memcmp(p->buf + p->bytes - k->bytes, k->payload, k->bytes) == 0;
}

static void
pes_packet(struct ing_ts *ts, struct pes *p, const struct packet *k)
{
	if (k->unit_start) {
		pes_begin(ts, p);
	} else if (!p->open) {
		if (p->ended_by != GUESS_NONE) {
			p->wrong[p->ended_by] = true;
			p->ended_by = GUESS_NONE;
			ts->counts.guesses_wrong++;
		}
		return;
	} else if (p->cc != -1 && k->cc != ((p->cc + 1) & 15)) {
		if (pes_repeated(p, k))
			return;
		p->damaged = true;
	}
	p->cc = k->cc;
	p->interrupted = p->interrupted || p->neighbour;
	p->neighbour = false;
	if (!pes_reserve(p, k->bytes)) {
		pes_drop(ts, p);
		return;
	}
	memcpy(p->buf + p->bytes, k->payload, k->bytes);
	p->bytes += k->bytes;
	if (p->total == 0 && p->bytes >= 6 && (p->buf[4] | p->buf[5]) != 0)
		p->total = 6 + ((size_t)p->buf[4] << 8 | p->buf[5]);
	if (p->total != 0) {
		if (p->bytes >= p->total)
			pes_emit(ts, p, p->total, GUESS_NONE);
	} else if (k->stuffed && !p->wrong[GUESS_STUFFING] && p->bytes > PES_HEAD) {
		pes_emit(ts, p, p->bytes, GUESS_STUFFING);
	}
}

/* A packet of another stream came. */
static void
pes_neighbour(struct ing_ts *ts, struct pes *p, const struct packet *k)
{
	if (!p->open || p->total != 0 || p->bytes <= PES_HEAD)
		return;
	p->neighbour = true;
	if (k->unit_start && p->contiguous >= NEIGHBOUR_PROOF && !p->wrong[GUESS_NEIGHBOUR])
		pes_emit(ts, p, p->bytes, GUESS_NEIGHBOUR);
}

/* ---- tables ----------------------------------------------------------- */

static void
set_stream(struct ing_ts *ts, enum ing_track track, const struct ing_stream *st)
{
	struct pes *p = &ts->pes[track];
	bool present = st->codec != AV_CODEC_ID_NONE;
	bool same = p->stream.codec == st->codec && p->stream.opus_channels == st->opus_channels;

	if (same && (!present || p->stream.pid == st->pid))
		return;
	pes_finish(ts, p);
	p->stream = *st;
	if (!present)
		p->stream.pid = PID_UNSET;
	p->cc = -1;
	p->ended_by = GUESS_NONE;
	p->contiguous = 0;
	memset(p->wrong, 0, sizeof(p->wrong));
	if (!same)
		ts->callbacks->stream(ts->arg, track, present ? &p->stream : NULL);
}

static void
on_pmt(void *arg, const uint8_t *section, size_t bytes)
{
	struct ing_ts *ts = arg;
	struct ing_pmt pmt;

	if (ts->program != -1 && ts->program != (int)ts->parsing)
		return;
	if (!ing_pmt_parse(section, bytes, &pmt))
		return;
	ts->counts.tables++;
	ts->have_pmt = true;
	ts->odd_type = pmt.odd_type;
	if (ts->program == -1 && pmt.video.codec == AV_CODEC_ID_NONE &&
	    (pmt.audio.codec == AV_CODEC_ID_NONE || ts->programs > 1))
		return;
	ts->program = (int)ts->parsing;
	set_stream(ts, ING_VIDEO, &pmt.video);
	set_stream(ts, ING_AUDIO, &pmt.audio);
}

static void
on_pat(void *arg, const uint8_t *section, size_t bytes)
{
	struct ing_ts *ts = arg;
	uint16_t pids[ING_PROGRAMS_MAX];
	int count = ing_pat_parse(section, bytes, pids, ING_PROGRAMS_MAX);

	if (count < 0)
		return;
	ts->counts.tables++;
	if ((unsigned)count == ts->programs && memcmp(pids, ts->pmt_pid, (size_t)count * sizeof(pids[0])) == 0)
		return;
	memcpy(ts->pmt_pid, pids, (size_t)count * sizeof(pids[0]));
	ts->programs = (unsigned)count;
	ts->program = -1;
	for (int i = 0; i < ING_PROGRAMS_MAX; i++)
		ing_section_reset(&ts->pmt[i]);
}

/* ---- packets ---------------------------------------------------------- */

static void
route(struct ing_ts *ts, const struct packet *k)
{
	if (k->pid == 0) {
		ing_section_feed(&ts->pat, k->payload, k->bytes, k->unit_start, on_pat, ts);
		return;
	}
	for (unsigned i = 0; i < ts->programs; i++) {
		if (k->pid == ts->pmt_pid[i]) {
			ts->parsing = i;
			ing_section_feed(&ts->pmt[i], k->payload, k->bytes, k->unit_start, on_pmt, ts);
			return;
		}
	}
	if (k->pid < 0x20 || k->pid == ING_PID_NULL)
		return;
	for (int i = 0; i < ING_TRACK_COUNT; i++)
		if (k->pid != ts->pes[i].stream.pid)
			pes_neighbour(ts, &ts->pes[i], k);
	for (int i = 0; i < ING_TRACK_COUNT; i++)
		if (k->pid == ts->pes[i].stream.pid)
			pes_packet(ts, &ts->pes[i], k);
}

/* Bytes that the fields of an adaptation field need, its flags included. */
static unsigned
adaptation_needs(const uint8_t *af, unsigned length)
{
	unsigned n = 1;

	if (af[1] & 0x10)
		n += 6;
	if (af[1] & 0x08)
		n += 6;
	if (af[1] & 0x04)
		n += 1;
	if ((af[1] & 0x02) != 0 && n < length)
		n += 1 + af[1 + n];
	if ((af[1] & 0x01) != 0 && n < length)
		n += 1 + af[1 + n];
	return n;
}

static void
packet(struct ing_ts *ts, const uint8_t *b)
{
	struct packet k = { 0 };
	size_t head = 4;

	ts->counts.packets++;
	k.pid = (uint16_t)((b[1] & 0x1f) << 8 | b[2]);
	k.unit_start = (b[1] & 0x40) != 0;
	k.cc = b[3] & 15;
	if ((b[1] & 0x80) != 0 || (b[3] & 0xc0) != 0 || (b[3] & 0x10) == 0)
		return; /* damaged, scrambled, or without payload */
	if (b[3] & 0x20) {
		if (b[4] > ING_TS_BYTES - 6)
			return;
		head += 1 + (size_t)b[4];
		k.stuffed = b[4] == 0 || b[4] > adaptation_needs(b + 4, b[4]);
	}
	k.payload = b + head;
	k.bytes = ING_TS_BYTES - head;
	route(ts, &k);
}

/* Moves the first sync byte at or behind `from` to the front. */
static void
realign(struct ing_ts *ts, unsigned from)
{
	unsigned i = from;

	while (i < ts->part_bytes && ts->part[i] != 0x47)
		i++;
	ts->counts.junk_bytes += i;
	memmove(ts->part, ts->part + i, ts->part_bytes - i);
	ts->part_bytes -= i;
}

/* Sync was lost: a packet counts only when the next sync byte is where it must be. */
static void
search(struct ing_ts *ts)
{
	realign(ts, 0);
	while (ts->part_bytes > ING_TS_BYTES) {
		if (ts->part[ING_TS_BYTES] != 0x47) {
			realign(ts, 1);
			continue;
		}
		ts->synced = true;
		packet(ts, ts->part);
		ts->part_bytes -= ING_TS_BYTES;
		memmove(ts->part, ts->part + ING_TS_BYTES, ts->part_bytes);
		return;
	}
}

size_t
ing_ts_feed(struct ing_ts *ts, const uint8_t *bytes, size_t count)
{
	size_t n;

	if (ts->synced && ts->part_bytes == 0 && count >= ING_TS_BYTES && bytes[0] == 0x47) {
		packet(ts, bytes);
		return ING_TS_BYTES;
	}
	n = (ts->synced ? ING_TS_BYTES : ING_TS_BYTES + 1) - ts->part_bytes;
	if (n > count)
		n = count;
	memcpy(ts->part + ts->part_bytes, bytes, n);
	ts->part_bytes += (unsigned)n;
	if (ts->synced && ts->part[0] != 0x47)
		ts->synced = false;
	if (!ts->synced) {
		search(ts);
	} else if (ts->part_bytes == ING_TS_BYTES) {
		packet(ts, ts->part);
		ts->part_bytes = 0;
	}
	return n;
}

/* ---- segments --------------------------------------------------------- */

static void
cut(struct ing_ts *ts, bool complete)
{
	for (int i = 0; i < ING_TRACK_COUNT; i++) {
		struct pes *p = &ts->pes[i];

		if (complete)
			pes_finish(ts, p);
		else
			pes_drop(ts, p);
		p->cc = -1;
		p->ended_by = GUESS_NONE;
	}
	ts->counts.junk_bytes += ts->part_bytes;
	ts->part_bytes = 0;
	ts->synced = true;
	ing_section_reset(&ts->pat);
	for (int i = 0; i < ING_PROGRAMS_MAX; i++)
		ing_section_reset(&ts->pmt[i]);
}

void
ing_ts_segment_begin(struct ing_ts *ts, bool gap)
{
	cut(ts, !gap);
}

void
ing_ts_segment_end(struct ing_ts *ts, bool complete)
{
	cut(ts, complete);
}

const struct ing_ts_counts *
ing_ts_counts(const struct ing_ts *ts)
{
	return &ts->counts;
}

const char *
ing_ts_trouble(const struct ing_ts *ts)
{
	if (ts->counts.packets < 3)
		return "it is not MPEG-TS: no packets of 188 bytes that begin with 0x47";
	if (ts->counts.tables == 0)
		return "MPEG-TS without program tables (PAT and PMT)";
	if (!ts->have_pmt)
		return "MPEG-TS without a program map table";
	if (ts->program == -1)
		return ts->odd_type != 0 ? "none of its streams has a codec that can be decoded" :
					   "its program map table names no video and no audio";
	return NULL;
}

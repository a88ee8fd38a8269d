/* SPDX-License-Identifier: MIT */
/*
 * The journal's file: records on disk, and nothing about what they mean
 *
 * A record, little-endian:
 *
 *      0  u32  magic "MRJ1"       4  u16  version      6  u16  type
 *      8  u32  payload bytes     12  u32  CRC-32 of bytes 4..11 and the payload
 *     16  payload
 *
 * Records are only ever appended; the file as a whole is exchanged by rename. A process that dies while it writes leaves
 * a torn record at the end, a disk may damage one anywhere: the scan goes on at the next record that is whole, and
 * what follows the last one is the tail that the next exchange cuts.
 */
#ifndef MR_SUP_JOURNAL_FILE_H
#define MR_SUP_JOURNAL_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	SUP_JRN_VERSION = 1, SUP_JRN_HEAD_BYTES = 16,
	SUP_JRN_PAYLOAD_MAX = 64 << 20, /* three times the largest parameters */
	SUP_JRN_FILE_MAX = 1 << 30,	/* more is not read */
};
enum { SUP_JRN_BUSY = 1 }; /* outcome: another process has the folder */

struct sup_jrn_file {
	int dir_fd, fd;	       /* -1: not open */
	uint64_t bytes;	       /* of whole records */
	bool dirty;	       /* something was appended that is not on the disk yet */
	uint64_t syncs;
	int64_t sync_ns_max;   /* longest wait for the disk */
};

struct sup_jrn_scan { /* what was found */
	unsigned records, unknown; /* unknown: of another version, or refused by the callback */
	uint64_t damaged_bytes;	   /* between whole records */
	uint64_t torn_bytes;	   /* after the last one */
};

/* false: the record is of no known type, or says nothing that can be used. `payload` is borrowed. */
typedef bool sup_jrn_record_fn(void *arg, uint16_t type, const char *payload, size_t bytes);

uint32_t sup_jrn_crc(uint32_t crc, const void *data, size_t bytes);
/* Pure: the records in `data`, oldest first. */
void sup_jrn_scan(const char *data, size_t bytes, sup_jrn_record_fn *fn, void *arg, struct sup_jrn_scan *out);

void sup_jrn_init(struct sup_jrn_file *f);
/* Opens (and makes) the folder and locks it for the life of this process. 0, SUP_JRN_BUSY, -errno. */
int sup_jrn_open(struct sup_jrn_file *f, const char *path);
void sup_jrn_close(struct sup_jrn_file *f);
/* 0 (no file: no records) or -errno. */
int sup_jrn_read(struct sup_jrn_file *f, sup_jrn_record_fn *fn, void *arg, struct sup_jrn_scan *out);
/* -errno: the file is as it was. Not on the disk before sup_jrn_sync(). */
int sup_jrn_append(struct sup_jrn_file *f, uint16_t type, const char *payload, size_t bytes);
/* Waits for the disk. */
int sup_jrn_sync(struct sup_jrn_file *f);

/* Exchange: begin, append to *fresh, commit (which syncs and renames; *f becomes the new file) or abandon. */
int sup_jrn_replace_begin(const struct sup_jrn_file *f, struct sup_jrn_file *fresh);
int sup_jrn_replace_commit(struct sup_jrn_file *f, struct sup_jrn_file *fresh);
void sup_jrn_replace_abandon(struct sup_jrn_file *fresh);

#endif

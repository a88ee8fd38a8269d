/* SPDX-License-Identifier: MIT */
/*
 * Frame ring: the bytes that two processes share
 *
 * Layout only. A ring is one direction of one track of one session in one generation. It consists of three kinds
 * of memfd, which the supervisor creates, sizes and seals and which it does not map:
 *
 *     P      state words, bell, descriptors      written by the producer only     12 KiB
 *     D      slots, the payload                  written by the producer only     slot_count x slot_stride
 *     C[i]   hold words, `taken`, bell           written by consumer i only        4 KiB
 *
 * Every word has exactly one writing process, everybody else maps it read-only. The protocol is in ring.h, the
 * checks on what a peer handed over are in ring_attach.h. Geometry is never read from here: it travels in
 * CTL_RING_OPEN. `ident` is for tools and post-mortems, no party to the ring reads it.
 *
 * A change of any struct is a new RING_ABI_MAJOR.
 */
#ifndef MR_PROTO_RING_LAYOUT_H
#define MR_PROTO_RING_LAYOUT_H

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { RING_ABI_MAJOR = 1, RING_ABI_MINOR = 0 };
enum { RING_SLOTS_MAX = 64, RING_HOLDS_MAX = 16, RING_CONSUMERS_MAX = 4, RING_PLANES_MAX = 4 };
enum { RING_P_BYTES = 12288, RING_C_BYTES = 4096 };
/* Media code reads past the end of a payload: so many readable bytes follow each one. */
enum { RING_TAIL_BYTES = 64 };

#define RING_MAGIC 0x474e524du /* "MRNG" */

/* State and hold word: STEAL:1 | seq:55 | slot:8. 0: nothing here. */
#define RING_STEAL (UINT64_C(1) << 63)

struct ring_ident { /* written once by the supervisor, with pwrite */
	uint32_t magic; /* RING_MAGIC */
	uint16_t abi_major, abi_minor;
	uint32_t ring_id, generation;
	uint32_t slot_count, hold_count;
	uint64_t slot_stride;
	uint8_t reserved[96]; /* 0 */
};

/* Descriptor flags of a frame. Unknown bits are a violation. */
enum {
	RING_FRAME_DISCONTINUITY = 1u << 0, /* the source's timeline jumped before this frame */
	RING_FRAME_WITHHELD = 1u << 1,	    /* out rings: the worker has no result for src_seq; bytes is 0 */
	RING_FRAME_PASS = 1u << 2,	    /* out rings: send the input frame src_seq as it is; bytes is 0 */
	RING_FRAME_KNOWN = 7u,
};

/* Why a worker passed or withheld a frame, as it says itself; for counters. */
enum {
	RING_REASON_NONE = 0,
	RING_REASON_ERROR = 1,	 /* the model raised */
	RING_REASON_BUSY = 2,	 /* the model chose to skip */
	RING_REASON_LOADING = 3, /* the model is not ready for this frame */
	RING_REASON_MAX = 3,
};

struct ring_desc { /* the private copy; in P it is 16 words */
	uint64_t seq;	      /* as in the state word */
	uint64_t src_seq;     /* out rings: seq of the input frame this answers; in rings: 0 */
	int64_t pts_ns;	      /* session clock */
	int64_t duration_ns;  /* 0: unknown */
	int64_t commit_ns;    /* CLOCK_MONOTONIC just before publish */
	uint32_t bytes;	      /* of the payload, <= payload_max */
	uint32_t flags;	      /* RING_FRAME_* */
	uint32_t reason;      /* RING_REASON_* */
	uint32_t reserved0;   /* 0 */
	uint64_t user[8];     /* opaque, copied from an in frame to its answer by the SDK */
	uint64_t reserved1;   /* 0 */
};

struct ring_prod {				    /* P: written by the producer only */
	struct ring_ident ident;		    /*    0 */
	_Alignas(128) _Atomic uint64_t state[64];   /*  128 */
	_Alignas(128) _Atomic uint32_t bell;	    /*  640  +1 for each published frame; futex word */
	_Alignas(128) _Atomic uint64_t desc[64][16]; /* 768  struct ring_desc, word by word */
};						    /* 8960 */

struct ring_cons {				  /* C[i]: written by that consumer only */
	struct ring_ident ident;		  /*    0 */
	_Alignas(128) _Atomic uint64_t hold[16];  /*  128  0 or the word of a held frame */
	_Alignas(128) _Atomic uint64_t taken;	  /*  256  newest seq taken; never goes back */
	_Alignas(128) _Atomic uint32_t bell;	  /*  384  +1 for each release; futex word */
};						  /*  512 */

static_assert(sizeof(struct ring_ident) == 128, "ABI");
static_assert(sizeof(struct ring_desc) == 128 && offsetof(struct ring_desc, user) == 56, "ABI");
static_assert(offsetof(struct ring_prod, state) == 128 && offsetof(struct ring_prod, bell) == 640 &&
    offsetof(struct ring_prod, desc) == 768 && sizeof(struct ring_prod) == 8960, "ABI");
static_assert(offsetof(struct ring_cons, hold) == 128 && offsetof(struct ring_cons, taken) == 256 &&
    offsetof(struct ring_cons, bell) == 384 && sizeof(struct ring_cons) == 512, "ABI");
static_assert(sizeof(struct ring_prod) <= RING_P_BYTES && sizeof(struct ring_cons) <= RING_C_BYTES, "ABI");
static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2, "words shared between processes");

static inline uint64_t
ring_word(uint64_t seq, unsigned slot)
{
	return seq << 8 | slot;
}

static inline uint64_t
ring_word_seq(uint64_t word)
{
	return (word & ~RING_STEAL) >> 8;
}

static inline unsigned
ring_word_slot(uint64_t word)
{
	return (unsigned)(word & 0xff);
}

/* Sequence numbers are unique over the life of a session: the generation is their upper half. */
static inline uint64_t
ring_first_seq(uint32_t generation)
{
	return (uint64_t)generation << 32 | 1;
}

#endif

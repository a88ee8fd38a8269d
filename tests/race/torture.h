/* SPDX-License-Identifier: MIT */
/*
 * Torture of the frame ring: what the parent and its victims share
 *
 * The board is memory that survives every kill. What a victim says there is believed: the victims are our own code, and
 * only their deaths are sudden.
 */
#ifndef MR_TESTS_TORTURE_H
#define MR_TESTS_TORTURE_H

#include "ring_world.h"

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

enum role { PRODUCER, CONSUMER_0, CONSUMER_1, ROLES };
enum { CONSUMERS = 2, HOLDS = 2, POINTS_MAX = 40, FINALS = 8 };

/* One hold of one consumer, as the consumer sees it: seq << 2 | phase. */
enum {
	USE_ACTIVE = 1,	   /* taken: after a death it must come again */
	USE_RELEASING = 2, /* being released: it may come again */
};

struct consumer_board {
	_Atomic uint64_t use[HOLDS];
	_Atomic uint64_t last_seen;
	_Atomic uint64_t final_seen[FINALS]; /* last_seen when it left generation n (modulo) */
	_Atomic uint64_t delivered, redelivered, skipped, given_up;
	/* must all stay 0 */
	_Atomic uint64_t torn, duplicate, unordered, lost_in_flight, lost_in_block, refused;
};

struct board {
	_Atomic int kill_at[ROLES];    /* index of a testpoint, or -1 */
	_Atomic int kill_after[ROLES]; /* passes of it to survive */
	_Atomic uint64_t hits[POINTS_MAX];
	_Atomic uint64_t published; /* newest sequence for which ring_publish() has returned */
	_Atomic uint64_t frames;
	_Atomic int unknown_point; /* a testpoint that torture_points[] does not list */
	struct consumer_board c[CONSUMERS];
};

struct torture_point {
	const char *name;
	bool producer, consumer;
};

extern const struct torture_point torture_points[];
extern const int torture_point_count;
extern struct board *board;

/* The victims; they never return. `sock` is a control socket. */
_Noreturn void torture_produce(int sock, unsigned seed);
_Noreturn void torture_consume(int sock, unsigned idx, unsigned seed);

#endif

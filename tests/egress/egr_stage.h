/* SPDX-License-Identifier: MIT */
/* A stage for plays with egress: the test is supervisor, ingest and worker, and calls the session's loop itself. */
#ifndef MR_TESTS_EGR_STAGE_H
#define MR_TESTS_EGR_STAGE_H

#include "egress/egr_session.h"
#include "proto/ctl.h"
#include "proto/ring.h"

#include <stdint.h>

enum { STAGE_SIDE = 64, STAGE_HOLDS = 4, STAGE_IN_SLOTS = 8, STAGE_OUT_SLOTS = 4, STAGE_AUDIO_SLOTS = 16 };

struct stage {
	int sock[2]; /* supervisor's end, egress's end */
	struct egr_link link;
	struct stats_page *stats;
	struct egr_session *session;
	int64_t pts_ns;
	unsigned mapped, closed; /* messages of egress */
};

/* `text` is the session text. */
void stage_begin(struct stage *s, const char *text);
/* Ends the session as the supervisor does, and checks that nothing is left. */
void stage_end(struct stage *s);

/* Makes a ring, maps its producer's side here and gives the other to egress. */
struct ring_tx *stage_ring(struct stage *s, enum ctl_ring_id id, uint32_t generation);
/* The producer is dead. */
void stage_ring_ended(struct stage *s, struct ring_tx **tx);

/* Publishes an input frame of one colour, 40 ms after the last one. Returns its seq. */
uint64_t stage_input(struct stage *s, struct ring_tx *in);
/* Publishes what `desc` says, with a picture if desc->bytes is not 0. */
void stage_result(struct stage *s, struct ring_tx *out, const struct ring_desc *desc);
/* A good result. */
void stage_answer(struct stage *s, struct ring_tx *out, uint64_t src_seq);
/* 20 ms of a tone, at the stage's time plus `offset_ns`. */
void stage_sound(struct stage *s, struct ring_tx *audio, int64_t offset_ns);

/* One turn of egress's loop, after waiting for what is due at most `wait_ms`. */
void stage_turn(struct stage *s, int wait_ms);
/* Turns for so long. */
void stage_pass(struct stage *s, int ms);

uint64_t stage_count(const struct stage *s, enum egress_counter counter);

#endif

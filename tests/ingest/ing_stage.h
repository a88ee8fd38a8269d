/* SPDX-License-Identifier: MIT */
/*
 * A stage for millrace-ingest: this process plays the supervisor, the worker, egress and the publisher
 *
 * Everything but ingest itself is on one thread: a turn of the stage moves the publisher's bytes, answers ingest's
 * messages (rings are made, sealed and opened as the supervisor does it) and lets the consumers take frames, each of which
 * is checked and handed to the test. The relay and ingest are the real programs.
 */
#ifndef MR_TESTS_ING_STAGE_H
#define MR_TESTS_ING_STAGE_H

#include "proto/ctl.h"
#include "proto/ring.h"
#include "proto/stats.h"
#include "proto/trickle.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { STAGE_RINGS = 3, STAGE_FRAMES_MAX = 4096 };
enum stage_consumer { STAGE_WORKER, STAGE_EGRESS };

struct stage_seen {
	uint64_t seq;
	int64_t pts_ns, at_ns;
	uint32_t flags;
	uint32_t sum; /* of some of the payload's bytes: tells frames apart */
};

struct stage_ring {
	struct ctl_ring_open open;
	int p, d, c[2], c_ro[2], p_ro, d_ro; /* -1: closed */
	struct ring_rx *rx[2];
	bool sealed;
};

struct stage {
	pid_t relay, ingest;
	char url[128]; /* of the relay */
	int sock;
	int stats_fd, upload_fd;
	struct stats_page *stats;
	struct trk_loop *loop;
	struct trk_pub *pub, *control;
	uint32_t generation;
	struct stage_ring ring[CTL_RING_ID_MAX + 1], old_video;
	struct ctl_ring_request request[CTL_RING_ID_MAX + 1];
	bool hold_live; /* do not say RING_LIVE */
	bool ready, closed, worker_audio;
	bool worker_sleeps; /* the worker takes nothing */
	bool egress_sleeps;
	unsigned ring_closed; /* RING_CLOSED messages */
	struct ctl_channel channel[6];
	unsigned channel_told[6];
	unsigned bad_media_told;
	/* video, by consumer; audio of egress */
	struct stage_seen *video[2], *audio;
	unsigned video_count[2], audio_count;
	uint64_t lost[2]; /* late and stolen, as the consumers counted */
	char *document;	  /* newest from the control channel */
	size_t document_bytes;
	unsigned documents;
};

/* Starts relay and ingest up to READY. Paths come from MILLRACE_TEST_RELAY and MILLRACE_TEST_INGEST. */
void stage_init(struct stage *s);
/* Ends all, checks that ingest ended with 0 unless `any_exit`. */
void stage_fini(struct stage *s, bool any_exit);
/* Publishers of the input and the control channel on the relay. */
void stage_publish(struct stage *s);
/* `more` is put into the session text: "\"width\":640,". */
void stage_session(struct stage *s, const char *more);
/* One turn, waiting at most `wait_ms`. */
void stage_turn(struct stage *s, int wait_ms);
/* Turns until `done` says so; fails the test after `limit_ms`. */
void stage_until(struct stage *s, bool (*done)(struct stage *s, void *arg), void *arg, int limit_ms, const char *what);
void stage_for(struct stage *s, int ms);
void stage_send(struct stage *s, const union ctl_msg *msg, const int *fds, unsigned count);
/* A new generation of the in.video ring in another format. */
void stage_new_video_ring(struct stage *s, enum format_id format);

/* Whole file; the caller frees it. */
uint8_t *stage_file(const char *path, size_t *bytes);

#endif

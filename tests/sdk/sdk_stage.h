/* SPDX-License-Identifier: MIT */
/*
 * A stage for workers: the supervisor, ingest and egress, played by a test
 *
 * The worker runs in a process of its own, the real program or a function of the test, with its descriptor 3 connected
 * to the stage. The stage speaks the real protocol with real memfds. Every wait has a deadline; what does not come in
 * time fails the test.
 */
#ifndef MR_TESTS_SDK_STAGE_H
#define MR_TESTS_SDK_STAGE_H

#include "proto/ctl.h"
#include "proto/ring.h"
#include "proto/stats.h"

#include <sys/types.h>

struct stage {
	pid_t pid;
	int sock;
	struct stats_page *stats; /* the worker's */
	struct ctl_hello hello;
};

/* Starts a program (libexec path in the environment variable WORKERS) or a function in a child process. */
void stage_start_program(struct stage *st, const char *name, const char *arg1, const char *arg2);
void stage_start_function(struct stage *st, int (*worker)(void));
/* HELLO, CONFIG. */
void stage_greet(struct stage *st);
/* HELLO, CONFIG, READY. */
void stage_open_program(struct stage *st, const char *name);
void stage_open_function(struct stage *st, int (*worker)(void));
/* Waits for the worker's end: its exit code, or 256 + signal. Closes the stage. */
int stage_wait(struct stage *st);
/* End of file on the worker's descriptor 3, then stage_wait(). */
int stage_hang_up(struct stage *st);
/* DRAIN, then stage_wait(). */
int stage_drain(struct stage *st);
/* SIGKILL, then closes the stage. */
void stage_kill(struct stage *st);
/* Open descriptors of the worker. */
unsigned stage_count_fds(const struct stage *st);

/* The next message must be of this type. */
void stage_expect(struct stage *st, enum ctl_type type, union ctl_msg *msg);
/* Nothing comes within `ms`. */
void stage_expect_silence(struct stage *st, int ms);
void stage_send(struct stage *st, const union ctl_msg *msg, const int *fds, unsigned fd_count);
/* A sealed memfd with a text. The caller closes it. */
int stage_text_fd(const char *text, size_t bytes);

void stage_session_open(struct stage *st, uint32_t session, const char *json);
/* SESSION_CLOSE, and its answer. */
void stage_session_close(struct stage *st, uint32_t session);
/* Sends PARAMS, returns the status of the result; *text (CTL_TEXT_MAX bytes, may be NULL) gets its text. */
int stage_params(struct stage *st, uint32_t session, uint64_t version, const char *json, char *text);

/* One ring, of which the stage is producer or consumer. */
struct stage_ring {
	struct ctl_ring_open open; /* without role, fds and what is particular to one party */
	uint64_t data_bytes;
	int p_rw, d_rw, p_ro, d_ro, c_rw, c_ro, bell[2];
	struct ring_tx *tx; /* in rings: ours */
	struct ring_rx *rx; /* out rings: ours */
};

/* An in ring of the given size: the stage produces. No message is sent. */
void stage_ring_make_in(struct stage_ring *r, uint32_t generation, uint32_t width, uint32_t height, uint32_t holds);
void stage_ring_make_audio_in(struct stage_ring *r, uint32_t generation, uint32_t channels);
/* RING_OPEN to the worker as a consumer, and MAPPED. */
void stage_ring_give(struct stage *st, uint32_t session, struct stage_ring *r, bool recovering);
/* RING_OPEN alone, with the message as the test wants it. */
void stage_ring_give_raw(struct stage *st, const struct ctl_ring_open *open, const int *fds, unsigned fd_count);
/* Waits for RING_REQUEST and grants it: RING_OPEN, MAPPED, RING_LIVE. */
void stage_ring_grant(struct stage *st, uint32_t session, struct stage_ring *r, uint32_t generation);
/* The same for a request that the test has received already. */
void stage_ring_grant_request(struct stage *st, const struct ctl_ring_request *q, struct stage_ring *r,
    uint32_t generation);
void stage_ring_tell(struct stage *st, enum ctl_type type, uint32_t session, const struct stage_ring *r);
void stage_ring_close(struct stage_ring *r);

/* Publishes a picture, or a block, of which every byte is `fill`. Returns its seq. */
uint64_t stage_publish(struct stage_ring *in, uint8_t fill);
/* The next answer, which must come; the stage holds it until ring_release(out->rx, frame). */
void stage_answer(struct stage_ring *out, struct ring_frame *frame);
/* The answer to stage_publish(): checks src_seq and flags, and that every byte of a result is `fill`; releases it. */
void stage_expect_answer(struct stage_ring *out, uint64_t src_seq, uint32_t flags, uint8_t fill);
/* No answer comes within `ms`. */
void stage_expect_no_answer(struct stage_ring *out, int ms);

#endif

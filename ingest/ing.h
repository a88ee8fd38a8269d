/* SPDX-License-Identifier: MIT */
/*
 * millrace-ingest: the process
 *
 * One thread. It waits in trk_loop_turn() (in poll() while there is no session) for the control socket and the network;
 * everything else happens in callbacks of these two and in ing_flow_run(). One session at a time.
 *
 *     ing_main      process, loop
 *     ing_ctl       messages from and to the supervisor
 *     ing_session   settings, channels, their states
 *     ing_control   documents of the control channel
 *     ing_flow      bytes to frames; with ing_input, ing_ts, ing_psi, ing_es, ing_decode, ing_time, ing_scale, ing_audio
 *     ing_publish   frames to rings; with ing_rings
 */
#ifndef MR_ING_H
#define MR_ING_H

#include "ingest/ing_control.h"
#include "ingest/ing_flow.h"
#include "ingest/ing_rings.h"
#include "proto/ctl.h"
#include "proto/stats.h"
#include "proto/trickle.h"

#include <stdbool.h>
#include <stdint.h>

enum { ING_EXIT_OK = 0, ING_EXIT_CONFIG = 100, ING_EXIT_BUG = 101, ING_EXIT_SYSTEM = 111 };
enum { ING_OUT_MAX = 64 };
enum { ING_URL_MAX = 2048, ING_SESSION_TEXT_MAX = 256 * 1024 };

struct ing_session;

struct ing {
	int ctl;
	bool said_ready, draining;
	int exit_code; /* -1: go on */
	struct stats_page *stats;
	struct ing_session *session; /* NULL: none */
	/* Messages that the supervisor had no room for yet, oldest first. */
	union ctl_msg out[ING_OUT_MAX];
	unsigned out_count;
	int64_t busy_ns; /* work done in this turn of the loop */
};

/* ---- ing_ctl.c -------------------------------------------------------- */

void ing_ctl_hello(struct ing *ing);
/* Reads and handles what is there. */
void ing_ctl_readable(struct ing *ing);
void ing_ctl_send(struct ing *ing, const union ctl_msg *msg);
/* Tries again what did not go. */
void ing_ctl_flush(struct ing *ing);

/* ---- ing_session.c ---------------------------------------------------- */

struct ing_settings {
	char *subscribe_url, *control_url, *ca_file; /* NULL: none; owned */
	bool tls_verify;
	int64_t absent_grace_ns;
	struct ing_flow_config flow;
};

struct ing_channel {
	enum ctl_channel_id id;
	struct trk_sub *sub;
	enum ctl_channel_state state; /* as last told; 0: nothing yet */
	int64_t quiet_ns;	      /* nothing has flowed since, which was not told yet; 0: it flows */
	char text[CTL_TEXT_MAX];
};

struct ing_session {
	uint32_t magic;
#define ING_SESSION_MAGIC 0x696e6773u
	struct ing *ing;
	uint32_t id;
	struct ing_settings settings;
	struct trk_loop *loop;
	struct ing_channel subscribe, control;
	enum trk_end subscribe_end;
	bool subscribe_over; /* ended, but not everything that came has been handed on */
	const char *trouble; /* bytes come and no frames; borrowed from the flow */
	struct ing_rings rings;
	struct ing_flow flow;
	struct ing_control docs;
};

/* `text` is a session text (proto/session_text.md), `upload_fd` is consumed. 0: ing->session is set. -EINVAL: the text is
 * wrong, and was logged. -errno otherwise. */
int ing_session_open(struct ing *ing, uint32_t id, const char *text, size_t bytes, int upload_fd, uint64_t upload_bytes);
/* Leaves nothing of the session. */
void ing_session_close(struct ing *ing);
/* Work between two waits; returns when to be called again, INT64_MAX: when something arrives. */
int64_t ing_session_run(struct ing_session *s);

/* ---- ing_settings.c --------------------------------------------------- */

/* 0; -EINVAL: not what it must be; `why` says so for people. */
int ing_settings_parse(const char *text, size_t bytes, struct ing_settings *out, char *why, size_t why_bytes);
void ing_settings_fini(struct ing_settings *s);
/* max_framerate of a client's parameter object; 0: it names none, or nonsense. */
unsigned ing_params_max_framerate(const char *text, size_t bytes);

#endif

/* SPDX-License-Identifier: MIT */
/* A session as egress is told about it: proto/session_text.md. */
#ifndef MR_EGR_CONFIG_H
#define MR_EGR_CONFIG_H

#include "egress/egr_clock.h"
#include "proto/format.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct egr_config {
	/* NULL: absent; owned */
	char *id, *subscribe_url, *publish_url, *control_url, *events_url, *data_url, *ca_file;
	uint32_t width, height;
	enum format_id format;
	bool detect_out_resolution, worker_audio, tls_verify;
	enum egr_policy policy;
	int64_t frame_deadline_ns, absent_grace_ns;
	/* What a predecessor of this process has sent. */
	bool resumed, resume_had_output, resume_has_audio;
	int64_t resume_video_pts_ns, resume_audio_pts_ns; /* -1: nothing */
	int64_t resume_catch_up_ns;			  /* 0: the default */
	uint32_t resume_width, resume_height;		  /* 0: not known */
};

/* 0: *out is the caller's until egr_config_fini(). -EINVAL: `why` says what is wrong. */
int egr_config_parse(const char *text, size_t bytes, struct egr_config *out, char *why, size_t why_bytes);
void egr_config_fini(struct egr_config *c);

#endif

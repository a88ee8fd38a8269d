/* SPDX-License-Identifier: MIT */
/* What is going on, as JSON. The caller decrefs what it gets. */
#ifndef MR_SUP_STATUS_H
#define MR_SUP_STATUS_H

#include "supervisor/sup_session.h"
#include "supervisor/sup_worker.h"

#include <jansson.h>

/* LOADING, IDLE, OK or ERROR: what /health says. */
const char *sup_status_word(const struct sup *sup);
/* The pipeline state object that PyTrickle puts into its replies. */
json_t *sup_status_pipeline(const struct sup *sup);
json_t *sup_status_session(const struct sup_session *s);
/* One line of a list. */
json_t *sup_status_session_brief(const struct sup_session *s);
json_t *sup_status_worker(const struct sup_worker *w);
/* {ingress_video_fps, ingress_audio_fps, egress_video_fps, egress_audio_fps} */
json_t *sup_status_fps(const struct sup_session *s);

#endif

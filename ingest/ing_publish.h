/* SPDX-License-Identifier: MIT */
/* The last steps of the flow (ing_flow.h): decoded frames into the rings, and whether any come out at all. */
#ifndef MR_ING_PUBLISH_H
#define MR_ING_PUBLISH_H

#include "ingest/ing_flow.h"

/* A frame from the decoder: becomes the frame that waits, or is left out. Only while none waits. */
void ing_publish_video(struct ing_flow *f, AVFrame *decoded);
void ing_publish_audio(struct ing_flow *f, const AVFrame *decoded);
/* Publishes what can be. false: something waits, until *until_ns at most. */
bool ing_publish_pending(struct ing_flow *f, int64_t *until_ns);
/* So many bytes came in. */
void ing_flow_came(struct ing_flow *f, size_t count);
/* Tells when no pictures come out of what comes in. */
void ing_flow_check(struct ing_flow *f, bool segment_end);

#endif

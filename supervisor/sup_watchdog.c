/* SPDX-License-Identifier: MIT */
/*
 * Watchdog: is the worker of a session making progress?
 *
 * Only what trusted processes saw counts: ingest published a frame, egress took a result (also a late one: slow is not
 * hung). The clock runs while frames have come in since the last result and none has come out. How long is allowed:
 *   - until the worker has mapped in.video: --stream-start-timeout, because that is when it prepares the session;
 *   - until its first result, and while parameters are being applied: --first-frame-timeout;
 *   - else --frame-timeout.
 * It stands still while egress is not there to take results. A pause of our own (a stopped virtual machine) is forgiven.
 */
#include "base/clock.h"
#include "base/log.h"
#include "supervisor/sup_session.h"
#include "supervisor/sup_worker.h"

#include <stdio.h>

#include "supervisor/sup_priv.h"

#define OWN_PAUSE_NS CLOCK_SEC_NS

static uint64_t
input_of(const struct sup_session *s)
{
	return sup_media_total(&s->ingest, INGEST_frames_published);
}

void
sup_watchdog_reset(struct sup_session *s, int64_t now_ns)
{
	s->seen_results = sup_session_results(s);
	s->seen_input = input_of(s);
	s->stalled_since_ns = 0;
}

static bool
worker_has_input(const struct sup_session *s)
{
	const struct sup_ring *ring;

	TAILQ_FOREACH(ring, &s->rings, link)
		if (ring->open.ring_id == CTL_RING_IN_VIDEO && ring->seat[0].stage == SUP_SEAT_MAPPED)
			return true;
	return false;
}

/* It was handed in.video and has not mapped it: it is still busy with the start of the stream. */
static bool
worker_is_starting(const struct sup_session *s)
{
	const struct sup_ring *ring;

	TAILQ_FOREACH(ring, &s->rings, link)
		if (ring->seat[0].role == CTL_ROLE_WORKER && ring->seat[0].stage == SUP_SEAT_OFFERED)
			return true;
	return false;
}

static void
kill_worker(struct sup_session *s, int64_t after_ns, const char *what)
{
	char why[160];

	snprintf(why, sizeof(why), "%s for %lld ms", what, (long long)(after_ns / CLOCK_MS_NS));
	log_warn("watchdog", "stalled", "session=%s worker=%u why=\"%s\"", s->stream.log_id, s->worker->index, why);
	sup_worker_kill(s->worker, SUP_EXIT_WATCHDOG, why);
}

/* Parameters that were sent to a worker that had stopped answering before do not buy it time. */
static bool
is_applying_params(const struct sup_session *s)
{
	return s->params_sent_ns != 0 && s->params_sent_ns <= s->stalled_since_ns + 2 * SUP_TICK_MS * CLOCK_MS_NS;
}

static void
check_progress(struct sup_session *s, int64_t now_ns)
{
	const struct sup_config *c = &s->sup->config;
	uint64_t results = sup_session_results(s), input = input_of(s);
	int64_t allowed_ms = c->frame_timeout_ms;

	if (results != s->seen_results) {
		if (!s->first_result)
			s->first_result = results > s->results_at_attach;
		sup_update_frame_accepted(s);
		sup_watchdog_reset(s, now_ns);
		return;
	}
	if (input == s->seen_input && s->stalled_since_ns == 0)
		return;
	if (s->stalled_since_ns == 0)
		s->stalled_since_ns = now_ns;
	if ((!s->first_result || is_applying_params(s)) && c->first_frame_timeout_ms > allowed_ms)
		allowed_ms = c->first_frame_timeout_ms;
	if (now_ns - s->stalled_since_ns > allowed_ms * CLOCK_MS_NS)
		kill_worker(s, now_ns - s->stalled_since_ns, "frames came in, and it answered none");
}

void
sup_watchdog_tick(struct sup_session *s, int64_t now_ns)
{
	struct sup_child *worker = s->worker != NULL ? sup_worker_child(s->worker) : NULL;

	if (worker == NULL || worker->killed || s->worker_waits || !sup_session_running(s))
		return;
	if (now_ns - s->sup->last_tick_ns > OWN_PAUSE_NS) {
		sup_watchdog_reset(s, now_ns);
		s->worker_opened_ns = now_ns;
		return;
	}
	if (s->egress.state.value != SUP_MEDIA_OPEN) {
		sup_watchdog_reset(s, now_ns);
		return;
	}
	if (worker_has_input(s))
		check_progress(s, now_ns);
	else if (worker_is_starting(s) && !s->first_result &&
	    now_ns - s->worker_opened_ns > s->sup->config.stream_start_timeout_ms * CLOCK_MS_NS)
		kill_worker(s, now_ns - s->worker_opened_ns, "it was preparing the session");
}

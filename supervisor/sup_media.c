/* SPDX-License-Identifier: MIT */
/*
 * Ingest and egress of a session
 *
 * They are started with their session and again whenever they die, for as long as it runs: at once after progress,
 * within a second otherwise, for ever. When one dies its page is read for the last time: counters are added to the
 * session's totals, and the text of its successor says where the timeline stood.
 */
#include "supervisor/sup_session.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "supervisor/sup_crash.h"
#include "supervisor/sup_env.h"
#include "supervisor/sup_memfd.h"
#include "supervisor/sup_worker.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "supervisor/sup_priv.h"

#define RESTART_CAP_NS CLOCK_SEC_NS

enum counter_kind { COUNTER, GAUGE };
static const uint8_t ingest_kinds[] = {
#define X(n, kind, u, t) kind,
	INGEST_COUNTERS(X)
};
static const uint8_t egress_kinds[] = {
	EGRESS_COUNTERS(X)
#undef X
};

static bool
is_counter(const struct sup_media *m, unsigned i)
{
	return m->child.role == CTL_ROLE_INGEST ? ingest_kinds[i] == COUNTER : egress_kinds[i] == COUNTER;
}

static unsigned
counter_count(const struct sup_media *m)
{
	return m->child.role == CTL_ROLE_INGEST ? (unsigned)INGEST_COUNTER_COUNT : (unsigned)EGRESS_COUNTER_COUNT;
}

uint64_t
sup_media_total(const struct sup_media *m, unsigned i)
{
	uint64_t now = stats_get(m->child.stats, i);

	MR_ASSERT(i < counter_count(m));
	if (m->child.stats == NULL)
		return m->base[i];
	if (m->child.role == CTL_ROLE_EGRESS && i == EGRESS_gap_ns_max)
		return now > m->base[i] ? now : m->base[i];
	return is_counter(m, i) ? m->base[i] + now : now;
}

static struct sup_session *
session_of(struct sup_child *c)
{
	return MR_CAST(struct sup_session, c->owner, SUP_SESSION_MAGIC);
}

static struct sup_media *
media_of(struct sup_session *s, const struct sup_child *c)
{
	return c->role == CTL_ROLE_INGEST ? &s->ingest : &s->egress;
}

static void
sup_media_set(struct sup_media *m, enum sup_media_state to, const char *reason)
{
	sup_state_set(&m->state, to, m->child.name, reason, clock_now_ns());
}

/* ---- starting --------------------------------------------------------- */

static int
new_upload(struct sup_session *s)
{
	int r;

	if (s->upload_fd != -1)
		return 0;
	r = sup_memfd_new("millrace:control", CTL_PARAMS_BYTES_MAX, &s->upload_fd);
	return r < 0 ? r : sup_memfd_seal_seals(s->upload_fd);
}

/* SESSION_OPEN with the text; the child is READY. */
static bool
open_session(struct sup_session *s, struct sup_media *m, const char *text)
{
	bool ingest = m->child.role == CTL_ROLE_INGEST;
	union ctl_msg msg;
	int fds[2] = { -1, -1 }, r;
	bool ok = false;

	r = sup_memfd_text("millrace:session", text, strlen(text), &fds[0]);
	if (r == 0 && ingest)
		r = new_upload(s);
	if (r < 0) {
		log_error("media", "memory", "child=%s error=\"%s\"", m->child.name, strerror(-r));
		goto close_text;
	}
	fds[1] = s->upload_fd; /* borrowed */
	ctl_init(&msg, CTL_SESSION_OPEN, s->num);
	msg.session_open.text_bytes = strlen(text);
	msg.session_open.upload_bytes = ingest ? CTL_PARAMS_BYTES_MAX : 0;
	msg.session_open.recovering = m->deaths > 0 || m->resume != NULL;
	ok = sup_child_send(&m->child, &msg, fds, ingest ? 2 : 1);
close_text:
	fd_close(&fds[0]);
	return ok;
}

static void
on_ready(struct sup_session *s, struct sup_media *m)
{
	bool ok;

	if (m->state.value != SUP_MEDIA_STARTING)
		return;
	MR_ASSERT(m->text != NULL);
	ok = open_session(s, m, m->text);
	free(m->text);
	m->text = NULL;
	if (!ok) {
		sup_child_kill(&m->child, SUP_EXIT_START_FAILED, "its session could not be handed over");
		return;
	}
	m->session_sent = true;
	sup_media_set(m, SUP_MEDIA_OPEN, "");
	sup_broker_attach(s, m->child.role);
	if (m->child.role == CTL_ROLE_EGRESS)
		sup_session_tell_worker_state(s);
}

static void
start_later(struct sup_media *m, const char *why, int64_t delay_ns)
{
	m->due_ns = clock_now_ns() + delay_ns;
	sup_media_set(m, SUP_MEDIA_BACKOFF, why);
}

void
sup_media_start(struct sup_session *s, struct sup_media *m)
{
	const char *verb = m->child.role == CTL_ROLE_INGEST ? "ingest" : "egress";
	char file[4200], argv0[64], *argv[2] = { argv0, NULL };
	struct sup_program program = { .file = file, .argv = argv, .dir = "/" };
	struct sup_restart_verdict verdict;
	json_t *text = sup_text_media(s, m);
	int r;

	snprintf(argv0, sizeof(argv0), "millrace-%s", verb);
	snprintf(file, sizeof(file), "%s/%s", s->sup->config.libexec_dir, argv0);
	free(m->text);
	m->text = json_dumps(text, JSON_COMPACT);
	json_decref(text);
	m->session_sent = m->closed = m->ended_itself = false;
	m->progress = 0;
	program.env = sup_env_media(m->child.role);
	r = program.env == NULL || m->text == NULL ? -ENOMEM : sup_child_start(&m->child, &program, clock_now_ns());
	sup_env_free(&program.env);
	if (r == 0) {
		sup_media_set(m, SUP_MEDIA_STARTING, "");
		return;
	}
	verdict = sup_restart_died(&m->restart, false, clock_now_ns());
	m->deaths++;
	start_later(m, strerror(-r), verdict.delay_ns + SUP_TICK_MS * CLOCK_MS_NS);
}

/* ---- messages --------------------------------------------------------- */

/* Events, data and control come and go all the time: between waiting and flowing there is nothing to tell. */
static bool
is_traffic(const struct ctl_channel *ch, enum ctl_channel_state before)
{
	return ch->channel != CTL_CHANNEL_SUBSCRIBE && ch->channel != CTL_CHANNEL_PUBLISH &&
	    (ch->state == CTL_CHANNEL_WAITING || ch->state == CTL_CHANNEL_FLOWING) &&
	    (before == CTL_CHANNEL_WAITING || before == CTL_CHANNEL_FLOWING);
}

static void
on_channel(struct sup_session *s, struct sup_media *m, const struct ctl_channel *ch)
{
	bool input = ch->channel == CTL_CHANNEL_SUBSCRIBE || ch->channel == CTL_CHANNEL_CONTROL;
	char why[SUP_REASON_BYTES], quoted[600];
	struct sup_channel *mine;

	if (ch->channel < 1 || ch->channel >= SUP_CHANNELS || ch->state < 1 || ch->state > CTL_CHANNEL_BAD_MEDIA ||
	    input != (m->child.role == CTL_ROLE_INGEST)) {
		sup_child_kill(&m->child, SUP_EXIT_VIOLATION, "spoke of a channel that it does not have");
		return;
	}
	mine = &s->channel[ch->channel];
	if (mine->state != ch->state) {
		mine->since_ns = clock_now_ns();
		log_event(is_traffic(ch, mine->state) ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO, "channel",
		    sup_channel_state_name(ch->state), "session=%s channel=%s text=%s", s->stream.log_id,
		    sup_channel_name(ch->channel), log_quote(quoted, sizeof(quoted), ch->text));
	}
	mine->state = ch->state;
	memcpy(mine->text, ch->text, sizeof(mine->text));
	if (ch->state != CTL_CHANNEL_ENDED)
		return;
	m->ended_itself = true;
	snprintf(why, sizeof(why), "the %s channel is over: %.100s", sup_channel_name(ch->channel), ch->text);
	sup_session_close(s, false, why);
}

/* A control document: copied out of the shared memory before anything looks at it. */
static void
on_control(struct sup_session *s, const struct ctl_control *m)
{
	union ctl_msg taken;
	char *text;

	ctl_init(&taken, CTL_CONTROL_TAKEN, s->num);
	if (m->bytes == 0 || m->bytes > CTL_PARAMS_BYTES_MAX) {
		sup_child_kill(&s->ingest.child, SUP_EXIT_VIOLATION, "a control document of an impossible size");
		return;
	}
	text = malloc(m->bytes);
	if (text != NULL && pread(s->upload_fd, text, m->bytes, 0) == (ssize_t)m->bytes)
		sup_update_from_control(s, text, m->bytes);
	free(text);
	sup_child_send(&s->ingest.child, &taken, NULL, 0);
}

static void
on_message(struct sup_child *c, const union ctl_msg *msg)
{
	struct sup_session *s = session_of(c);
	struct sup_media *m = media_of(s, c);

	if (msg->hdr.session != 0 && msg->hdr.session != s->num) {
		sup_child_kill(c, SUP_EXIT_VIOLATION, "spoke of a session that is not its own");
		return;
	}
	switch (msg->hdr.type) {
	case CTL_READY:
		on_ready(s, m);
		break;
	case CTL_RING_REQUEST:
		sup_broker_request(s, c, &msg->ring_request);
		break;
	case CTL_MAPPED:
		sup_broker_mapped(s, c, &msg->ring_ref);
		break;
	case CTL_RING_CLOSED:
		sup_broker_closed(s, c, &msg->ring_ref);
		break;
	case CTL_CHANNEL:
		on_channel(s, m, &msg->channel);
		break;
	case CTL_CONTROL:
		on_control(s, &msg->control);
		break;
	case CTL_SESSION_CLOSED:
		m->closed = true;
		sup_session_step(s);
		break;
	default: /* HELLO and STATUS were handled; a media child has nothing else to say that we need */
		break;
	}
}

/* ---- dying ------------------------------------------------------------ */

/* Keeps what the dead one's page says: totals for us, `resume` for its successor. */
static void
keep_page(struct sup_media *m)
{
	json_t *resume = sup_text_resume(m);

	json_decref(m->resume);
	m->resume = resume;
	for (unsigned i = 0; i < counter_count(m); i++)
		m->base[i] = sup_media_total(m, i);
	stats_unmap(&m->child.stats);
}

static uint64_t
progress_now(const struct sup_media *m)
{
	return stats_get(m->child.stats, m->child.role == CTL_ROLE_INGEST ? (unsigned)INGEST_frames_published :
	    (unsigned)EGRESS_frames_out);
}

static void
on_died(struct sup_child *c, const struct sup_death *d)
{
	struct sup_session *s = session_of(c);
	struct sup_media *m = media_of(s, c);
	bool again = sup_session_running(s) && s->sup->service.value < SUP_SERVICE_STOPPING;
	struct sup_restart_verdict verdict = { 0 };
	uint64_t frames = progress_now(m);

	keep_page(m);
	snprintf(m->last_end, sizeof(m->last_end), "%s", d->text);
	if (again)
		verdict = sup_restart_died(&m->restart, frames > 0, clock_now_ns());
	if (d->class != SUP_EXIT_ASKED && !(m->ended_itself && !again)) {
		m->deaths++;
		sup_crash_record(s->sup->crashes, c, d, frames, s->stream.id);
	}
	sup_obituary(c, d, frames, 0, m->deaths, again ? (verdict.delay_ns > 0 ? "backoff" : "restart") : "none",
	    verdict.delay_ns);
	sup_watchdog_reset(s, clock_now_ns());
	if (!again) {
		m->session_sent = false;
		sup_media_set(m, SUP_MEDIA_DOWN, d->text);
		sup_broker_detach(s, c->role);
		sup_session_step(s);
		return;
	}
	start_later(m, d->text, verdict.delay_ns);
	m->session_sent = false;
	sup_broker_detach(s, c->role);
	if (verdict.delay_ns == 0)
		sup_media_start(s, m);
}

void
sup_media_init(struct sup_session *s, enum ctl_role role)
{
	static const struct sup_child_ops ops = { .message = on_message, .died = on_died };
	struct sup_media *m = role == CTL_ROLE_INGEST ? &s->ingest : &s->egress;
	char name[80];

	snprintf(name, sizeof(name), "%s.s%u", role == CTL_ROLE_INGEST ? "ingest" : "egress", s->num);
	sup_child_init(&m->child, s->sup, role, name, &ops, s);
	sup_state_init(&m->state, SUP_MACHINE_MEDIA, clock_now_ns());
	sup_restart_init(&m->restart, RESTART_CAP_NS, 0, (uint64_t)clock_now_ns() ^ s->num << 8 ^ role);
}

void
sup_media_fini(struct sup_media *m)
{
	sup_child_fini(&m->child);
	free(m->text);
	m->text = NULL;
	json_decref(m->resume);
	m->resume = NULL;
}

void
sup_media_close(struct sup_session *s, struct sup_media *m)
{
	union ctl_msg msg;

	if (!sup_child_alive(&m->child)) {
		if (m->state.value == SUP_MEDIA_BACKOFF)
			sup_media_set(m, SUP_MEDIA_DOWN, "the session is being closed");
		return;
	}
	m->child.asked = true;
	if (m->state.value == SUP_MEDIA_STARTING) { /* it has nothing to close */
		sup_media_set(m, SUP_MEDIA_CLOSING, "");
		sup_child_kill(&m->child, SUP_EXIT_ASKED, "the session is being closed");
		return;
	}
	if (m->state.value != SUP_MEDIA_OPEN)
		return;
	sup_media_set(m, SUP_MEDIA_CLOSING, "");
	if (s->delete_channels && m == &s->egress) {
		ctl_init(&msg, CTL_DELETE_CHANNELS, s->num);
		sup_child_send(&m->child, &msg, NULL, 0);
	}
	ctl_init(&msg, CTL_SESSION_CLOSE, s->num);
	sup_child_send(&m->child, &msg, NULL, 0);
	ctl_init(&msg, CTL_DRAIN, 0);
	sup_child_send(&m->child, &msg, NULL, 0);
}

void
sup_media_tick(struct sup_session *s, struct sup_media *m, int64_t now_ns)
{
	uint64_t progress = progress_now(m);

	sup_child_tick(&m->child, now_ns);
	if (sup_child_alive(&m->child)) {
		if (progress != m->progress)
			sup_restart_progress(&m->restart, now_ns);
		m->progress = progress;
		if (m->state.value == SUP_MEDIA_STARTING && now_ns - m->state.since_ns > 10 * CLOCK_SEC_NS)
			sup_child_kill(&m->child, SUP_EXIT_START_TIMEOUT, "not READY after 10 s");
	} else if (m->state.value == SUP_MEDIA_BACKOFF && now_ns >= m->due_ns) {
		sup_media_start(s, m);
	}
}

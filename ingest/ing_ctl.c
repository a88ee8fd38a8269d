/* SPDX-License-Identifier: MIT */
/*
 * Messages from and to the supervisor
 *
 * ctl_recv() has checked a message's form; here it is checked that it makes sense now. A message about a session that is
 * not open is late and ignored. Anything else that is wrong is a bug of one of the two programs: the process ends with
 * ING_EXIT_BUG and is started again.
 */
#include "ingest/ing.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MESSAGES_A_TURN = 64 };

static void
fatal(struct ing *ing, int code, const char *what, int r)
{
	log_error("ctl", "fatal", "what=\"%s\" errno=%d text=\"%s\" exit=%d", what, -r, strerror(-r), code);
	ing->exit_code = code;
}

static int
exit_code_for(int r)
{
	return r == -ENOMEM || r == -ENFILE || r == -EMFILE ? ING_EXIT_SYSTEM : ING_EXIT_BUG;
}

/* ---- sending ---------------------------------------------------------- */

void
ing_ctl_flush(struct ing *ing)
{
	unsigned sent = 0;
	int r = 0;

	while (sent < ing->out_count && (r = ctl_send(ing->ctl, &ing->out[sent], NULL, 0)) == 0)
		sent++;
	ing->out_count -= sent;
	memmove(&ing->out[0], &ing->out[sent], ing->out_count * sizeof(ing->out[0]));
	/* A supervisor that is gone shows as the end of the socket, on the reading side. */
	if (r != 0 && r != -EAGAIN)
		ing->out_count = 0;
}

/* Of a channel only the newest state is worth telling to a supervisor that was busy. */
static bool
replace_waiting(struct ing *ing, const union ctl_msg *msg)
{
	for (unsigned i = 0; msg->hdr.type == CTL_CHANNEL && i < ing->out_count; i++) {
		union ctl_msg *old = &ing->out[i];

		if (old->hdr.type == CTL_CHANNEL && old->hdr.session == msg->hdr.session &&
		    old->channel.channel == msg->channel.channel) {
			*old = *msg;
			return true;
		}
	}
	return false;
}

void
ing_ctl_send(struct ing *ing, const union ctl_msg *msg)
{
	if (replace_waiting(ing, msg))
		return;
	if (ing->out_count == ING_OUT_MAX) {
		fatal(ing, ING_EXIT_SYSTEM, "the supervisor does not read", -EAGAIN);
		return;
	}
	ing->out[ing->out_count++] = *msg;
	ing_ctl_flush(ing);
}

static void
send_plain(struct ing *ing, enum ctl_type type, uint32_t session, uint32_t txn)
{
	union ctl_msg msg;

	ctl_init(&msg, type, session);
	msg.hdr.txn = txn;
	ing_ctl_send(ing, &msg);
}

void
ing_ctl_hello(struct ing *ing)
{
	union ctl_msg msg;

	ctl_init(&msg, CTL_HELLO, 0);
	msg.hello.ring_abi_major = RING_ABI_MAJOR;
	msg.hello.ring_abi_minor = RING_ABI_MINOR;
	msg.hello.role = CTL_ROLE_INGEST;
	msg.hello.capacity = 1;
	msg.hello.hold_count = 1;
	msg.hello.pid = (uint32_t)getpid();
	snprintf(msg.hello.name, sizeof(msg.hello.name), "millrace-ingest %s", MR_VERSION);
	ing_ctl_send(ing, &msg);
}

/* ---- receiving -------------------------------------------------------- */

struct incoming {
	union ctl_msg msg;
	int fds[CTL_FDS_MAX];
	unsigned fd_count;
};

static void
on_config(struct ing *ing, struct incoming *in)
{
	if (in->fd_count != 1 || in->msg.config.stats_bytes < STATS_BYTES || ing->stats != NULL) {
		fatal(ing, ING_EXIT_BUG, "CONFIG without its statistics page, or a second one", -EPROTO);
		return;
	}
	ing->stats = stats_map(in->fds[0], 1);
	if (ing->stats == NULL) {
		fatal(ing, exit_code_for(-errno), "unable to map the statistics page", -errno);
		return;
	}
	send_plain(ing, CTL_READY, 0, 0);
}

static void
on_session_open(struct ing *ing, struct incoming *in)
{
	const struct ctl_session_open *m = &in->msg.session_open;
	int upload = -1, r;
	char *text = NULL;
	size_t bytes = 0;

	if (in->fd_count < 1 || in->fd_count > 2 || ing->session != NULL || ing->stats == NULL) {
		fatal(ing, ING_EXIT_BUG, "SESSION_OPEN at the wrong time or with the wrong descriptors", -EPROTO);
		return;
	}
	r = fd_read_whole(in->fds[0], ING_SESSION_TEXT_MAX, &text, &bytes);
	if (r != 0) {
		fatal(ing, exit_code_for(r), "unable to read the session text", r);
		return;
	}
	if (in->fd_count == 2) {
		upload = in->fds[1];
		in->fds[1] = -1;
	}
	/* The text's memfd may be longer than the text. */
	if (m->text_bytes < bytes)
		bytes = (size_t)m->text_bytes;
	r = ing_session_open(ing, m->hdr.session, text, bytes, upload, m->upload_bytes);
	free(text);
	if (r != 0)
		fatal(ing, r == -EINVAL ? ING_EXIT_CONFIG : exit_code_for(r), "unable to open the session", r);
}

static void
on_session_close(struct ing *ing, const struct ctl_hdr *hdr)
{
	ing_session_close(ing);
	send_plain(ing, CTL_SESSION_CLOSED, hdr->session, hdr->txn);
	log_info("session", "closed", "session=%u", hdr->session);
	if (ing->draining)
		ing->exit_code = ING_EXIT_OK;
}

static void
on_params(struct ing *ing, struct incoming *in)
{
	char *text = NULL;
	size_t bytes = 0;
	unsigned rate;

	if (in->fd_count != 1 || fd_read_whole(in->fds[0], CTL_PARAMS_BYTES_MAX, &text, &bytes) != 0)
		return;
	rate = ing_params_max_framerate(text, bytes);
	free(text);
	if (rate == 0)
		return;
	ing_flow_set_max_framerate(&ing->session->flow, rate);
	log_info("session", "params", "max_framerate=%u", rate);
}

static void
on_ring_open(struct ing *ing, struct incoming *in)
{
	int r = ing_rings_on_open(&ing->session->rings, &in->msg.ring_open, in->fds, in->fd_count, clock_now_ns());

	if (r != 0)
		fatal(ing, exit_code_for(r), "unable to map a ring", r);
}

static void
about_session(struct ing *ing, struct incoming *in)
{
	struct ing_session *s = ing->session;

	switch (in->msg.hdr.type) {
	case CTL_RING_OPEN:
		on_ring_open(ing, in);
		break;
	case CTL_RING_LIVE:
		ing_rings_on_live(&s->rings, &in->msg.ring_ref, clock_now_ns());
		break;
	case CTL_RING_ENDED:
		ing_rings_on_ended(&s->rings, &in->msg.ring_ref);
		break;
	case CTL_PARAMS:
		on_params(ing, in);
		break;
	case CTL_CONTROL_TAKEN:
		ing_control_taken(&s->docs);
		break;
	case CTL_SESSION_CLOSE:
		on_session_close(ing, &in->msg.hdr);
		break;
	default:
		log_warn("ctl", "unexpected", "type=%s", ctl_type_name(in->msg.hdr.type));
		break;
	}
}

static void
dispatch(struct ing *ing, struct incoming *in)
{
	const struct ctl_hdr *hdr = &in->msg.hdr;

	log_debug("ctl", "message", "type=%s session=%u fds=%u", ctl_type_name(hdr->type), hdr->session, in->fd_count);
	switch (hdr->type) {
	case CTL_CONFIG:
		on_config(ing, in);
		break;
	case CTL_DRAIN:
		ing->draining = true;
		if (ing->session == NULL)
			ing->exit_code = ING_EXIT_OK;
		break;
	case CTL_SESSION_OPEN:
		on_session_open(ing, in);
		break;
	default:
		if (ing->session != NULL && ing->session->id == hdr->session)
			about_session(ing, in);
		else if (hdr->type == CTL_SESSION_CLOSE)
			send_plain(ing, CTL_SESSION_CLOSED, hdr->session, hdr->txn);
		break;
	}
	for (unsigned i = 0; i < in->fd_count; i++)
		fd_close(&in->fds[i]);
}

void
ing_ctl_readable(struct ing *ing)
{
	int64_t start = clock_now_ns();

	for (int i = 0; i < MESSAGES_A_TURN && ing->exit_code == -1; i++) {
		struct incoming in = { .fd_count = 0 };
		int r = ctl_recv(ing->ctl, &in.msg, false, in.fds, CTL_FDS_MAX, &in.fd_count);

		if (r == -EAGAIN)
			break;
		if (r == -ESHUTDOWN) {
			log_info("ctl", "supervisor_gone", "%s", "");
			ing->exit_code = ING_EXIT_OK;
		} else if (r != 0) {
			fatal(ing, exit_code_for(r), "the control socket failed", r);
		} else {
			dispatch(ing, &in);
		}
	}
	ing->busy_ns += clock_now_ns() - start;
}

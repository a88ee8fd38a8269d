/* SPDX-License-Identifier: MIT */
/*
 * Children: start, talk, reap
 *
 * A death is noticed by the pidfd (or by SIGCHLD, whichever comes first) and handled once, here: what the child still
 * said is read, its process group is killed while the zombie keeps the pid from being used again, it is reaped, and
 * only then is the owner told. So when an owner hands a ring page on, nobody writes to it any more.
 */
#include "supervisor/sup_child.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/fd.h"
#include "base/log.h"
#include "supervisor/sup.h"
#include "supervisor/sup_clean.h"
#include "supervisor/sup_journal.h"
#include "supervisor/sup_memfd.h"

#include <errno.h>
#include <event2/event.h>
#include <linux/sockios.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "supervisor/sup_priv.h"

enum {
	MESSAGES_A_TURN = 64, MESSAGES_A_SECOND = 200, MESSAGES_BURST = 400, CHILD_OPEN_FILES = 1024, DROPS_A_LINE = 1000,
};
#define CTL_EOF_GRACE_NS  CLOCK_SEC_NS
#define FLOOD_NS	  (5 * CLOCK_SEC_NS)
#define UNKILLABLE_NS	  (10 * CLOCK_SEC_NS)

void
sup_child_init(struct sup_child *c, struct sup *sup, enum ctl_role role, const char *name,
    const struct sup_child_ops *ops, void *owner)
{
	memset(c, 0, sizeof(*c));
	c->magic = SUP_CHILD_MAGIC;
	c->sup = sup;
	c->ops = ops;
	c->owner = owner;
	c->role = role;
	c->id = ++sup->next_child;
	c->pidfd = c->ctl_fd = c->setup_fd = c->stats_fd = -1;
	snprintf(c->name, sizeof(c->name), "%s", name);
	sup_log_pipe_init(&c->log, c->name, strcmp(sup->config.log_format, "json") == 0);
	TAILQ_INSERT_TAIL(&sup->children, c, link);
}

static void
event_drop(struct event **ev)
{
	if (*ev != NULL)
		event_free(*ev);
	*ev = NULL;
}

/* Everything that belongs to a process that is gone or was never started. */
static void
release_process(struct sup_child *c)
{
	event_drop(&c->ev_pidfd);
	event_drop(&c->ev_ctl);
	event_drop(&c->ev_setup);
	event_drop(&c->ev_log);
	sup_log_pipe_close(&c->log);
	fd_close(&c->pidfd);
	fd_close(&c->ctl_fd);
	fd_close(&c->setup_fd);
	fd_close(&c->stats_fd);
	c->pid = 0;
}

void
sup_child_fini(struct sup_child *c)
{
	if (c->magic == 0)
		return;
	MR_ASSERT(c->magic == SUP_CHILD_MAGIC);
	MR_ASSERT(!sup_child_alive(c));
	release_process(c);
	stats_unmap(&c->stats);
	sup_log_pipe_fini(&c->log);
	TAILQ_REMOVE(&c->sup->children, c, link);
	c->magic = 0;
}

/* ---- messages --------------------------------------------------------- */

static bool
hello_ok(struct sup_child *c, const struct ctl_hello *h)
{
	if (c->has_hello || h->role != (uint32_t)c->role || (h->flags & ~(uint32_t)CTL_HELLO_KNOWN) != 0)
		return false;
	if (h->ring_abi_major != RING_ABI_MAJOR) {
		log_error("child", "abi", "child=%s ring_abi=%u ours=%d", c->name, h->ring_abi_major, RING_ABI_MAJOR);
		return false;
	}
	if (c->role != CTL_ROLE_WORKER)
		return true;
	return h->format > FORMAT_NONE && h->format < FORMAT_VIDEO_COUNT && h->capacity >= 1 && h->capacity <= 64 &&
	    h->hold_count >= 1 && h->hold_count <= RING_HOLDS_MAX;
}

static bool
on_hello(struct sup_child *c, const struct ctl_hello *h)
{
	union ctl_msg msg;

	if (!hello_ok(c, h))
		return false;
	c->hello = *h;
	c->has_hello = true;
	ctl_init(&msg, CTL_CONFIG, 0);
	msg.config.child_id = c->id;
	msg.config.incarnation = c->incarnation;
	msg.config.frame_timeout_ns = c->sup->config.frame_timeout_ms * CLOCK_MS_NS;
	msg.config.stats_bytes = STATS_BYTES;
	sup_child_send(c, &msg, &c->stats_fd, 1);
	fd_close(&c->stats_fd);
	return true;
}

/* And not reaped yet. */
static bool
is_dead(const struct sup_child *c)
{
	siginfo_t info = { 0 };

	return c->dying || (waitid(P_PID, (id_t)c->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0);
}

static void
on_message(struct sup_child *c, const union ctl_msg *msg)
{
	bool ok = true;

	switch (msg->hdr.type) {
	case CTL_HELLO:
		ok = on_hello(c, &msg->hello);
		break;
	case CTL_READY:
		ok = c->has_hello && !c->ready;
		c->ready = true;
		c->ready_at_ns = clock_now_ns();
		break;
	case CTL_STATUS:
		snprintf(c->status, sizeof(c->status), "%s", msg->text.text);
		break;
	default:
		ok = c->ready || (c->has_hello && (msg->hdr.type == CTL_EVENT || msg->hdr.type == CTL_DATA));
		break;
	}
	if (!ok) {
		char why[96];

		snprintf(why, sizeof(why), "unexpected or impossible %s message", ctl_type_name(msg->hdr.type));
		sup_child_kill(c, SUP_EXIT_VIOLATION, why);
		return;
	}
	if (msg->hdr.type == CTL_READY && is_dead(c)) /* it is known to have been; there is nothing to give it any more */
		return;
	c->ops->message(c, msg);
}

/* Workers may send so many messages; beyond it their socket is read no faster. */
static bool
may_read(struct sup_child *c, int64_t now_ns)
{
	int64_t ms = (now_ns - c->message_refilled_ns) / CLOCK_MS_NS;

	if (c->role != CTL_ROLE_WORKER)
		return true;
	if (ms > 0) {
		c->message_tokens += (ms > 10000 ? 10000 : ms) * MESSAGES_A_SECOND;
		if (c->message_tokens > (int64_t)MESSAGES_BURST * 1000)
			c->message_tokens = (int64_t)MESSAGES_BURST * 1000;
		c->message_refilled_ns += ms * CLOCK_MS_NS;
	}
	if (c->message_tokens < 1000)
		return false;
	c->message_tokens -= 1000;
	return true;
}

static void
read_messages(struct sup_child *c, bool dying)
{
	int64_t now = clock_now_ns();
	union ctl_msg msg;

	for (int i = 0; i < MESSAGES_A_TURN && c->ctl_fd != -1; i++) {
		int r;

		if (!dying && !may_read(c, now)) {
			event_del(c->ev_ctl);
			if (!c->throttled)
				c->throttled_ns = now;
			c->throttled = true;
			return;
		}
		r = ctl_recv(c->ctl_fd, &msg, true, NULL, 0, NULL);
		if (r == -EAGAIN)
			break;
		if (r == -ESHUTDOWN) {
			/* It may be dying, and how is what the pidfd will say; sup_child_tick() does not wait long. */
			event_del(c->ev_ctl);
			c->ctl_eof_ns = now;
			break;
		}
		if (r < 0) {
			event_del(c->ev_ctl);
			sup_child_kill(c, SUP_EXIT_VIOLATION, "malformed control message");
			break;
		}
		sup_clean_message(&msg);
		if (!c->killed || dying)
			on_message(c, &msg);
	}
	c->throttled = false;
}

static void
on_ctl(evutil_socket_t fd, short what, void *arg)
{
	struct sup_child *c = MR_CAST(struct sup_child, arg, SUP_CHILD_MAGIC);

	MR_ASSERT(fd == c->ctl_fd);
	read_messages(c, false);
}

bool
sup_child_send(struct sup_child *c, const union ctl_msg *msg, const int *fds, unsigned fd_count)
{
	int r;

	if (c->ctl_fd == -1 || c->killed)
		return false;
	r = ctl_send(c->ctl_fd, msg, fds, fd_count);
	if (r == 0)
		return true;
	if (r == -EPIPE || r == -ECONNRESET) /* it is gone: its death is about to be noticed */
		return false;
	log_warn("child", "send_failed", "child=%s message=%s error=\"%s\"", c->name, ctl_type_name(msg->hdr.type),
	    strerror(-r));
	sup_child_kill(c, SUP_EXIT_VIOLATION, r == -EAGAIN ? "does not read its control socket" : "cannot be talked to");
	return false;
}

/* Half of the room is for messages that must arrive. */
static bool
has_room_to_spare(int fd)
{
	int queued = 0, room = 0;
	socklen_t bytes = sizeof(room);

	if (ioctl(fd, SIOCOUTQ, &queued) == -1 || getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, &bytes) == -1)
		return true;
	return queued < room / 2;
}

bool
sup_child_offer(struct sup_child *c, const union ctl_msg *msg, const int *fds, unsigned fd_count)
{
	if (c->ctl_fd == -1 || c->killed)
		return false;
	if (has_room_to_spare(c->ctl_fd) && ctl_send(c->ctl_fd, msg, fds, fd_count) == 0)
		return true;
	if (c->dropped++ % DROPS_A_LINE == 0)
		log_warn("child", "dropped", "child=%s message=%s dropped=%llu: it does not read its control socket fast enough",
		    c->name, ctl_type_name(msg->hdr.type), (unsigned long long)c->dropped);
	return false;
}

/* ---- life and death --------------------------------------------------- */

static void
on_log(evutil_socket_t fd, short what, void *arg)
{
	struct sup_child *c = MR_CAST(struct sup_child, arg, SUP_CHILD_MAGIC);

	MR_ASSERT(fd == c->log.fd);
	if (!sup_log_pipe_read(&c->log, clock_now_ns())) {
		event_drop(&c->ev_log);
		sup_log_pipe_close(&c->log);
	}
}

static void
read_setup(struct sup_child *c)
{
	struct sup_setup_report report;
	ssize_t n;

	if (c->setup_fd == -1)
		return;
	n = read(c->setup_fd, &report, sizeof(report));
	if (n == -1 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n == (ssize_t)sizeof(report))
		c->setup = report;
	else
		c->exec_done = true;
	event_drop(&c->ev_setup);
	fd_close(&c->setup_fd);
}

static void
on_setup(evutil_socket_t fd, short what, void *arg)
{
	struct sup_child *c = MR_CAST(struct sup_child, arg, SUP_CHILD_MAGIC);

	MR_ASSERT(fd == c->setup_fd);
	read_setup(c);
}

static void
on_pidfd(evutil_socket_t fd, short what, void *arg)
{
	struct sup_child *c = MR_CAST(struct sup_child, arg, SUP_CHILD_MAGIC);

	MR_ASSERT(fd == c->pidfd);
	sup_child_reap(c);
}

static int
add_event(struct sup_child *c, struct event **ev, int fd, event_callback_fn callback)
{
	*ev = event_new(c->sup->base, fd, EV_READ | EV_PERSIST, callback, c);
	return *ev == NULL || event_add(*ev, NULL) == -1 ? err_origin(-ENOMEM) : 0;
}

static int
new_stats(struct sup_child *c)
{
	int r, ro = -1;

	stats_unmap(&c->stats);
	r = sup_memfd_new("millrace:stats", STATS_BYTES, &c->stats_fd);
	if (r < 0)
		return err_trace(r);
	r = sup_memfd_reserve(c->stats_fd, 0, STATS_BYTES);
	if (r == 0)
		r = sup_memfd_seal_seals(c->stats_fd);
	if (r == 0)
		r = sup_memfd_reopen_ro(c->stats_fd, &ro);
	if (r == 0) {
		c->stats = stats_map(ro, 0);
		r = c->stats == NULL ? err_origin(-errno) : 0;
	}
	fd_close(&ro);
	return r;
}

static void
reset_incarnation(struct sup_child *c, int64_t now_ns)
{
	c->incarnation++;
	c->dying = false;
	c->has_hello = c->ready = c->exec_done = c->asked = c->terminated = c->killed = c->throttled = false;
	c->status[0] = c->kill_why[0] = '\0';
	c->setup = (struct sup_setup_report){ 0 };
	c->started_ns = c->message_refilled_ns = now_ns;
	c->ready_at_ns = c->ctl_eof_ns = c->kill_ns = 0;
	c->message_tokens = (int64_t)MESSAGES_BURST * 1000;
}

int
sup_child_start(struct sup_child *c, const struct sup_program *program, int64_t now_ns)
{
	struct sup_heritage h = {
		.file = program->file, .argv = program->argv, .env = program->env, .dir = program->dir,
		.open_files_max = CHILD_OPEN_FILES, .no_new_privs = strcmp(c->sup->config.sandbox, "off") != 0,
	};
	struct sup_spawned spawned;
	int r, pair[2] = { -1, -1 }, log_fd = -1;

	MR_ASSERT(!sup_child_alive(c));
	reset_incarnation(c, now_ns);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == -1)
		return err_origin(-errno);
	fd_set_nonblock(pair[0], true);
	r = new_stats(c);
	if (r == 0)
		r = sup_log_pipe_open(&c->log, &log_fd, now_ns);
	if (r < 0)
		goto close_fds;
	h.ctl_fd = pair[1];
	h.log_fd = log_fd;
	r = sup_spawn(&h, &spawned);
	if (r < 0)
		goto close_fds;
	c->pid = spawned.pid;
	c->pidfd = spawned.pidfd;
	c->setup_fd = spawned.setup_fd;
	c->ctl_fd = pair[0];
	pair[0] = -1;
	r = add_event(c, &c->ev_pidfd, c->pidfd, on_pidfd);
	if (r == 0)
		r = add_event(c, &c->ev_ctl, c->ctl_fd, on_ctl);
	if (r == 0)
		r = add_event(c, &c->ev_setup, c->setup_fd, on_setup);
	if (r == 0)
		r = add_event(c, &c->ev_log, c->log.fd, on_log);
	if (r < 0) /* it runs but we cannot watch it: SIGCHLD will tell */
		sup_child_kill(c, SUP_EXIT_START_FAILED, "out of memory");
	r = 0;
	log_info("child", "started", "child=%s incarnation=%u pid=%d", c->name, c->incarnation, (int)c->pid);
	sup_journal_child(c->sup, c->pid);
close_fds:
	fd_close(&pair[0]);
	fd_close(&pair[1]);
	fd_close(&log_fd);
	if (r < 0)
		release_process(c);
	return r;
}

void
sup_child_kill(struct sup_child *c, enum sup_exit_class class, const char *why)
{
	if (!sup_child_alive(c))
		return;
	if (!c->killed) {
		c->killed = true;
		c->kill_class = class;
		c->kill_ns = clock_now_ns();
		snprintf(c->kill_why, sizeof(c->kill_why), "%s", why);
		log_warn("child", "kill", "child=%s incarnation=%u pid=%d class=%s why=\"%s\"", c->name, c->incarnation,
		    (int)c->pid, sup_exit_name(class), why);
	}
	if (syscall(SYS_pidfd_send_signal, c->pidfd, SIGKILL, NULL, 0) == -1)
		kill(c->pid, SIGKILL); /* our child and not reaped: the pid is still its own */
}

void
sup_child_terminate(struct sup_child *c)
{
	if (!sup_child_alive(c))
		return;
	c->asked = c->terminated = true;
	kill(c->pid, SIGTERM);
	kill(c->pid, SIGCONT);
}

void
sup_child_tick(struct sup_child *c, int64_t now_ns)
{
	if (!sup_child_alive(c))
		return;
	if (c->ctl_eof_ns != 0 && now_ns - c->ctl_eof_ns > CTL_EOF_GRACE_NS)
		sup_child_kill(c, c->asked ? SUP_EXIT_ASKED : SUP_EXIT_VIOLATION, "closed its control socket and went on");
	if (c->throttled && now_ns - c->throttled_ns > FLOOD_NS)
		sup_child_kill(c, SUP_EXIT_VIOLATION, "floods its control socket");
	else if (c->throttled && c->ctl_eof_ns == 0)
		event_add(c->ev_ctl, NULL);
	if (c->killed && now_ns - c->kill_ns > UNKILLABLE_NS && c->kill_class != SUP_EXIT_UNKILLABLE) {
		log_error("child", "unkillable", "child=%s pid=%d: still there 10 s after SIGKILL", c->name, (int)c->pid);
		c->kill_class = SUP_EXIT_UNKILLABLE;
	}
}

static enum sup_exit_class
classify(const struct sup_child *c, const struct sup_death *d)
{
	if (c->setup.stage != SUP_STAGE_NONE)
		return SUP_EXIT_START_FAILED;
	if (c->killed)
		return c->kill_class;
	if (d->signaled) {
		if (c->asked && (d->code == SIGTERM || d->code == SIGKILL))
			return SUP_EXIT_ASKED;
		if (d->code == SIGSYS)
			return SUP_EXIT_SANDBOX;
		if (d->code == SIGXCPU || d->code == SIGXFSZ)
			return SUP_EXIT_RLIMIT;
		return d->code == SIGKILL || d->code == SIGTERM ? SUP_EXIT_KILLED_BY_OTHER : SUP_EXIT_SIGNAL;
	}
	if (d->code == 78 || d->code == 100 || d->code == 125)
		return SUP_EXIT_CONFIG;
	if (c->asked)
		return d->code == 0 ? SUP_EXIT_ASKED : SUP_EXIT_ERROR;
	return d->code == 0 ? SUP_EXIT_DONE : SUP_EXIT_ERROR;
}

static void
describe(struct sup_death *d)
{
	if (d->class == SUP_EXIT_START_FAILED && d->setup.stage != SUP_STAGE_NONE)
		snprintf(d->text, sizeof(d->text), "could not be started: %s: %s", sup_stage_name(d->setup.stage),
		    strerror(d->setup.error));
	else if (d->why[0] != '\0')
		snprintf(d->text, sizeof(d->text), "%s: %s", sup_exit_text(d->class), d->why);
	else if (d->signaled)
		snprintf(d->text, sizeof(d->text), "%s: signal %d (%s)", sup_exit_text(d->class), d->code,
		    strsignal(d->code));
	else
		snprintf(d->text, sizeof(d->text), "%s (exit code %d)", sup_exit_text(d->class), d->code);
}

void
sup_child_reap(struct sup_child *c)
{
	siginfo_t info = { 0 };
	struct sup_death d = { 0 };
	int64_t now = clock_now_ns();
	int status = 0;

	if (!sup_child_alive(c) || waitid(P_PID, (id_t)c->pid, &info, WEXITED | WNOHANG | WNOWAIT) == -1 || info.si_pid == 0)
		return;
	read_setup(c);
	c->dying = true;
	if (!c->killed)
		read_messages(c, true);
	if (c->ev_log != NULL)
		sup_log_pipe_read(&c->log, now);
	/* The zombie keeps its pid, which is also its group's number: this hits nobody else. */
	kill(-c->pid, SIGKILL);
	if (wait4(c->pid, &status, 0, &d.usage) == -1)
		log_error("child", "wait", "child=%s error=\"%s\"", c->name, strerror(errno));
	d.signaled = WIFSIGNALED(status);
	d.code = d.signaled ? WTERMSIG(status) : WEXITSTATUS(status);
	d.setup = c->setup;
	d.uptime_ns = now - c->started_ns;
	d.ready_ns = c->ready ? c->ready_at_ns - c->started_ns : -1;
	d.class = classify(c, &d);
	snprintf(d.why, sizeof(d.why), "%s", c->kill_why);
	describe(&d);
	release_process(c);
	c->sup->sweep_until_ns = now + CLOCK_SEC_NS;
	c->ops->died(c, &d);
}

/* ---- words ------------------------------------------------------------ */

static const struct {
	const char *name, *text;
	bool permanent;
} classes[SUP_EXIT_COUNT] = {
#define X(id, name, permanent, text) { name, text, permanent },
	SUP_EXIT_CLASSES(X)
#undef X
};

const char *
sup_exit_name(enum sup_exit_class class)
{
	MR_ASSERT(class < SUP_EXIT_COUNT);
	return classes[class].name;
}

const char *
sup_exit_text(enum sup_exit_class class)
{
	MR_ASSERT(class < SUP_EXIT_COUNT);
	return classes[class].text;
}

bool
sup_exit_permanent(enum sup_exit_class class)
{
	MR_ASSERT(class < SUP_EXIT_COUNT);
	return classes[class].permanent;
}

void
sup_obituary(const struct sup_child *c, const struct sup_death *d, uint64_t frames, unsigned in_flight,
    uint32_t deaths, const char *next, int64_t delay_ns)
{
	char quoted[400];

	log_event(d->class == SUP_EXIT_ASKED ? LOG_LEVEL_INFO : LOG_LEVEL_WARN, "child", "died",
	    "child=%s incarnation=%u class=%s end=%s:%d uptime_ms=%lld ready_ms=%lld frames=%llu in_flight=%u rss_kb=%ld "
	    "deaths=%u next=%s delay_ms=%lld text=%s", c->name, c->incarnation, sup_exit_name(d->class),
	    d->signaled ? "signal" : "exit", d->code, (long long)(d->uptime_ns / CLOCK_MS_NS),
	    d->ready_ns < 0 ? -1LL : (long long)(d->ready_ns / CLOCK_MS_NS), (unsigned long long)frames, in_flight,
	    d->usage.ru_maxrss, deaths, next, (long long)(delay_ns / CLOCK_MS_NS), log_quote(quoted, sizeof(quoted), d->text));
}

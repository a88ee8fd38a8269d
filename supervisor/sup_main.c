/* SPDX-License-Identifier: MIT */
/*
 * millrace-supervisor: main loop, signals, the end
 *
 * SIGTERM and SIGINT end the service: sessions are closed as by a stop request, workers are drained, get SIGTERM a second
 * later, and what is left after STOP_KILL_NS is killed. We are the reaper of orphans that children leave behind: those are killed.
 */
#include "supervisor/sup.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/testpoint.h"
#include "supervisor/sup_crash.h"
#include "supervisor/sup_http.h"
#include "supervisor/sup_journal.h"
#include "supervisor/sup_session.h"
#include "supervisor/sup_worker.h"

#include <errno.h>
#include <event2/event.h>
#include <jansson.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "supervisor/sup_priv.h"

#define STOP_LIMIT_NS (5 * CLOCK_SEC_NS)
#define STOP_KILL_NS  (3500 * CLOCK_MS_NS) /* workers that have not left by then get SIGKILL */
enum { EXIT_CONFIG = 100, EXIT_TEMPORARY = 111, CHILDREN_MAX = 1024 };

static void
sup_service_set(struct sup *sup, enum sup_service_state to, const char *why)
{
	sup_state_set(&sup->service, to, "service", why, clock_now_ns());
}

/* ---- the end ---------------------------------------------------------- */

void
sup_stop(struct sup *sup, const char *why)
{
	struct sup_session *s;

	if (sup->service.value >= SUP_SERVICE_STOPPING)
		return;
	sup_service_set(sup, SUP_SERVICE_STOPPING, why);
	sup->stop_deadline_ns = clock_now_ns() + STOP_LIMIT_NS;
	sup_http_stop_listening(sup->http);
	TAILQ_FOREACH(s, &sup->sessions, link)
		sup_session_close(s, true, why);
}

static bool
sessions_over(const struct sup *sup)
{
	const struct sup_session *s;

	TAILQ_FOREACH(s, &sup->sessions, link)
		if (!sup_session_over(s))
			return false;
	return true;
}

static bool
children_gone(const struct sup *sup)
{
	const struct sup_child *c;

	TAILQ_FOREACH(c, &sup->children, link)
		if (sup_child_alive(c))
			return false;
	return true;
}

static void
stop_step(struct sup *sup, int64_t now_ns)
{
	struct sup_child *c;

	if (sessions_over(sup))
		sup_pool_stop(sup->pool);
	if (now_ns > sup->stop_deadline_ns - STOP_LIMIT_NS + STOP_KILL_NS)
		TAILQ_FOREACH(c, &sup->children, link)
			if (!c->killed)
				sup_child_kill(c, SUP_EXIT_ASKED, "the service stops");
	if ((sessions_over(sup) && children_gone(sup)) || now_ns >= sup->stop_deadline_ns) {
		sup_service_set(sup, SUP_SERVICE_STOPPED, "");
		event_base_loopexit(sup->base, &(struct timeval){ .tv_usec = 20000 }); /* answers leave the socket */
	}
}

/* ---- events ----------------------------------------------------------- */

static void
on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct sup *sup = MR_CAST(struct sup, arg, SUP_MAGIC);
	struct sup_session *s, *next;
	int64_t now = clock_now_ns(), late;

	late = sup->last_tick_ns == 0 ? 0 : now - sup->last_tick_ns - SUP_TICK_MS * CLOCK_MS_NS;
	if (late > sup->turn_ns_max)
		sup->turn_ns_max = late;
	for (s = TAILQ_FIRST(&sup->sessions); s != NULL; s = next) {
		next = TAILQ_NEXT(s, link);
		sup_session_tick(s, now);
	}
	sup_pool_tick(sup->pool, now);
	sup_journal_tick(sup, now);
	sup->last_tick_ns = now;
	if (sup->service.value == SUP_SERVICE_STOPPING)
		stop_step(sup, now);
}

static void
on_signal(evutil_socket_t sig, short what, void *arg)
{
	struct sup *sup = MR_CAST(struct sup, arg, SUP_MAGIC);

	sup_stop(sup, sig == SIGTERM ? "SIGTERM" : "SIGINT");
}

static unsigned
known_pids(const struct sup *sup, pid_t *out)
{
	const struct sup_child *c;
	unsigned n = 0;

	TAILQ_FOREACH(c, &sup->children, link)
		if (sup_child_alive(c) && n < CHILDREN_MAX)
			out[n++] = c->pid;
	return n;
}

static struct sup_child *
child_of_pid(const struct sup *sup, pid_t pid)
{
	struct sup_child *c;

	TAILQ_FOREACH(c, &sup->children, link)
		if (c->pid == pid)
			return c;
	return NULL;
}

/* Known children are reaped by their own function, whoever notices first; the rest are orphans that were left to us. */
static void
on_sigchld(evutil_socket_t sig, short what, void *arg)
{
	struct sup *sup = MR_CAST(struct sup, arg, SUP_MAGIC);
	pid_t known[CHILDREN_MAX];
	unsigned n;

	for (;;) {
		siginfo_t info = { 0 };
		struct sup_child *c;

		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == -1 || info.si_pid == 0)
			break;
		c = child_of_pid(sup, info.si_pid);
		if (c != NULL)
			sup_child_reap(c);
		else
			waitpid(info.si_pid, NULL, WNOHANG);
	}
	if (clock_now_ns() > sup->sweep_until_ns)
		return;
	n = known_pids(sup, known);
	n = sup_kill_adopted(known, n);
	if (n > 0)
		log_warn("child", "orphans", "killed=%u: processes that a dead child had left behind", n);
}

static bool
add_events(struct sup *sup)
{
	struct timeval tick = { .tv_usec = SUP_TICK_MS * 1000 };

	sup->ev_tick = event_new(sup->base, -1, EV_PERSIST, on_tick, sup);
	sup->ev_term = evsignal_new(sup->base, SIGTERM, on_signal, sup);
	sup->ev_int = evsignal_new(sup->base, SIGINT, on_signal, sup);
	sup->ev_chld = evsignal_new(sup->base, SIGCHLD, on_sigchld, sup);
	return sup->ev_tick != NULL && sup->ev_term != NULL && sup->ev_int != NULL && sup->ev_chld != NULL &&
	    event_add(sup->ev_tick, &tick) == 0 && event_add(sup->ev_term, NULL) == 0 &&
	    event_add(sup->ev_int, NULL) == 0 && event_add(sup->ev_chld, NULL) == 0;
}

/* ---- start ------------------------------------------------------------ */

/* Our other programs lie beside this one. */
static bool
find_libexec(struct sup *sup)
{
	ssize_t n = readlink("/proc/self/exe", sup->config.libexec_dir, sizeof(sup->config.libexec_dir) - 1);
	char *slash;

	if (n <= 0)
		return false;
	sup->config.libexec_dir[n] = '\0';
	slash = strrchr(sup->config.libexec_dir, '/');
	if (slash == NULL)
		return false;
	*slash = '\0';
	return true;
}

/* Rings cost descriptors: a dozen each. */
static void
raise_open_files(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) == -1 || lim.rlim_cur == lim.rlim_max)
		return;
	lim.rlim_cur = lim.rlim_max < 65536 ? lim.rlim_max : 65536;
	if (setrlimit(RLIMIT_NOFILE, &lim) == -1)
		log_warn("service", "rlimit", "unable to raise the number of open files: %s", strerror(errno));
}

/* Both are errors of the call that meets them: a client that is gone, a file that may not grow. */
static void
ignore_signals(void)
{
	struct sigaction action = { .sa_handler = SIG_IGN };

	sigaction(SIGPIPE, &action, NULL);
	sigaction(SIGXFSZ, &action, NULL);
}

static int
open_service(struct sup *sup)
{
	int r;

	sup->base = event_base_new();
	sup->crashes = sup_crashes_new();
	if (sup->base == NULL || sup->crashes == NULL || !add_events(sup))
		return -ENOMEM;
	r = sup_pool_new(sup, &sup->pool);
	if (r < 0)
		return r;
	r = sup_http_new(sup, &sup->http);
	if (r < 0) {
		log_error("service", "listen", "unable to listen on %s port %lld: %s", sup->config.host,
		    (long long)sup->config.port, strerror(-r));
		return r;
	}
	return 0;
}

static void
close_service(struct sup *sup)
{
	struct sup_session *s;

	while ((s = TAILQ_FIRST(&sup->sessions)) != NULL) {
		if (s->worker != NULL || sup_child_alive(&s->ingest.child) || sup_child_alive(&s->egress.child))
			return; /* something did not die in time: exiting takes it along */
		sup_session_free(&s);
	}
	if (sup->pool != NULL && !sup_pool_gone(sup->pool))
		return;
	sup_pool_free(&sup->pool);
	if (sup->http == NULL || sup_http_owed(sup->http) == 0)
		sup_http_free(&sup->http);
	sup_journal_free(&sup->journal);
	sup_crashes_free(&sup->crashes);
	if (sup->ev_tick != NULL)
		event_free(sup->ev_tick);
	if (sup->ev_term != NULL)
		event_free(sup->ev_term);
	if (sup->ev_int != NULL)
		event_free(sup->ev_int);
	if (sup->ev_chld != NULL)
		event_free(sup->ev_chld);
	if (sup->base != NULL && sup->http == NULL)
		event_base_free(sup->base);
	sup_config_fini(&sup->config);
}

static int
serve(struct sup *sup)
{
	int r = open_service(sup);

	if (r < 0)
		return EXIT_TEMPORARY;
	sup_service_set(sup, SUP_SERVICE_SERVING, sup_http_url(sup->http));
	printf("%s\n", sup_http_url(sup->http));
	fflush(stdout);
	sup_pool_start(sup->pool);
	sup_journal_resume(sup);
	event_base_dispatch(sup->base);
	return 0;
}

int
main(int argc, char **argv)
{
	static struct sup sup = { .magic = SUP_MAGIC };
	char err[600];
	enum sup_config_result r;
	int code;

	log_open("supervisor");
	testpoint_open();
	TAILQ_INIT(&sup.children);
	TAILQ_INIT(&sup.sessions);
	sup.started_ns = clock_now_ns();
	sup_state_init(&sup.service, SUP_MACHINE_SERVICE, sup.started_ns);
	r = sup_config_load(&sup.config, argc, argv, err, sizeof(err));
	if (r == SUP_CONFIG_BAD)
		fprintf(stderr, "millrace serve: fatal: %s\n", err);
	if (r != SUP_CONFIG_OK) {
		sup_config_fini(&sup.config);
		return r == SUP_CONFIG_BAD ? EXIT_CONFIG : 0;
	}
	log_set_json(strcmp(sup.config.log_format, "json") == 0);
	if (!find_libexec(&sup)) {
		fprintf(stderr, "millrace serve: fatal: unable to find where it is installed: %s\n", strerror(errno));
		return EXIT_TEMPORARY;
	}
	raise_open_files();
	ignore_signals();
	if (prctl(PR_SET_CHILD_SUBREAPER, 1) == -1)
		log_warn("service", "subreaper", "orphans of workers will not be seen: %s", strerror(errno));
	if (sup_journal_new(&sup, &sup.journal) == SUP_JRN_BUSY) {
		fprintf(stderr, "millrace serve: fatal: --state-dir %s: another millrace uses it; give each a folder of its own\n",
		    sup.config.state_dir);
		sup_config_fini(&sup.config);
		return EXIT_CONFIG;
	}
	code = serve(&sup);
	close_service(&sup);
	log_info("service", "exit", "code=%d", code);
	return code;
}

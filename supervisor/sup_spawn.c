/* SPDX-License-Identifier: MIT */
/*
 * fork and exec
 *
 * The child runs alone between fork and exec (this process has one thread), so ordinary library calls are safe there.
 * The order of steps is fixed: the parent-death signal comes after everything that would clear it, and the parent is
 * checked after that, because it may have died in between; descriptors come before no_new_privs and exec. A step
 * that fails is reported through the set-up pipe as {stage, errno}: "could not be started" is not "crashed".
 */
#include "supervisor/sup_spawn.h"

#include "base/assert.h"
#include "base/err.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "supervisor/sup_priv.h"

enum { FD_PARKED = 16 }; /* descriptors wait above here while 0..4 are arranged */

static void
report_and_exit(int fd, enum sup_stage stage, int error)
{
	struct sup_setup_report report = { .stage = (uint32_t)stage, .error = error };

	/* the parent may be gone; then nobody wants to know */
	if (write(fd, &report, sizeof(report)) == -1)
		_exit(111);
	_exit(111);
}

static void
reset_signals(void)
{
	struct sigaction action = { .sa_handler = SIG_DFL };
	sigset_t none;

	for (int s = 1; s < NSIG; s++)
		sigaction(s, &action, NULL); /* fails for KILL, STOP and the C library's own: nothing to reset there */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static int
set_limits(uint64_t open_files_max)
{
	struct rlimit none = { 0, 0 }, files;

	if (setrlimit(RLIMIT_CORE, &none) == -1 || getrlimit(RLIMIT_NOFILE, &files) == -1)
		return -errno;
	if (files.rlim_max > open_files_max) /* never more than we may give */
		files.rlim_max = open_files_max;
	files.rlim_cur = files.rlim_max;
	return setrlimit(RLIMIT_NOFILE, &files) == -1 ? -errno : 0;
}

static int
close_from(unsigned first)
{
	if (syscall(SYS_close_range, first, ~0U, 0) == 0)
		return 0;
	if (errno != ENOSYS && errno != EPERM)
		return -errno;
	for (int fd = (int)first; fd < 65536; fd++)
		close(fd);
	return 0;
}

/* Arranges 0..4 and closes everything else; *setup_fd becomes SUP_FD_SETUP. */
static int
arrange_fds(int null_fd, int ctl_fd, int log_fd, int *setup_fd)
{
	const int from[] = { null_fd, log_fd, log_fd, ctl_fd, *setup_fd };
	int parked[5];

	for (int i = 0; i < 5; i++) {
		parked[i] = fcntl(from[i], F_DUPFD_CLOEXEC, FD_PARKED);
		if (parked[i] == -1)
			return -errno;
	}
	*setup_fd = parked[SUP_FD_SETUP];
	for (int i = 0; i < 5; i++)
		if (dup3(parked[i], i, i == SUP_FD_SETUP ? O_CLOEXEC : 0) == -1)
			return -errno;
	*setup_fd = SUP_FD_SETUP;
	return close_from(SUP_FD_SETUP + 1);
}

_Noreturn static void
run_child(const struct sup_heritage *h, int null_fd, int setup_fd, pid_t parent)
{
	int r;

	if (setsid() == -1)
		report_and_exit(setup_fd, SUP_STAGE_SESSION, errno);
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) == -1)
		report_and_exit(setup_fd, SUP_STAGE_PARENT, errno);
	if (getppid() != parent)
		report_and_exit(setup_fd, SUP_STAGE_PARENT, ESRCH);
	reset_signals();
	umask(077);
	if (h->dir != NULL && chdir(h->dir) == -1)
		report_and_exit(setup_fd, SUP_STAGE_DIR, errno);
	r = set_limits(h->open_files_max);
	if (r < 0)
		report_and_exit(setup_fd, SUP_STAGE_LIMITS, -r);
	r = arrange_fds(null_fd, h->ctl_fd, h->log_fd, &setup_fd);
	if (r < 0)
		report_and_exit(setup_fd, SUP_STAGE_FDS, -r);
	if (h->no_new_privs && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == -1)
		report_and_exit(setup_fd, SUP_STAGE_PRIVS, errno);
	execve(h->file, h->argv, h->env);
	report_and_exit(setup_fd, SUP_STAGE_EXEC, errno);
	MR_UNREACHABLE("report_and_exit() does not return");
}

int
sup_spawn(const struct sup_heritage *h, struct sup_spawned *out)
{
	int pipe_fd[2] = { -1, -1 }, null_fd, pidfd, r;
	pid_t pid, parent = getpid();

	MR_ASSERT(h->file[0] == '/');
	MR_ASSERT(h->ctl_fd >= 0 && h->log_fd >= 0);
	null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (null_fd == -1)
		return err_origin(-errno);
	if (pipe2(pipe_fd, O_CLOEXEC | O_NONBLOCK) == -1) {
		r = err_origin(-errno);
		goto close_fds;
	}
	pid = fork();
	if (pid == -1) {
		r = err_origin(-errno);
		goto close_fds;
	}
	if (pid == 0)
		run_child(h, null_fd, pipe_fd[1], parent);
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd == -1) {
		r = err_origin(-errno);
		kill(pid, SIGKILL);
		goto close_fds; /* reaped as an adopted child */
	}
	fcntl(pidfd, F_SETFD, FD_CLOEXEC);
	*out = (struct sup_spawned){ .pid = pid, .pidfd = pidfd, .setup_fd = pipe_fd[0] };
	pipe_fd[0] = -1;
	r = 0;
close_fds:
	fd_close(&pipe_fd[0]);
	fd_close(&pipe_fd[1]);
	fd_close(&null_fd);
	return r;
}

const char *
sup_stage_name(uint32_t stage)
{
	static const char *const names[SUP_STAGE_COUNT] = {
		[SUP_STAGE_NONE] = "none", [SUP_STAGE_SESSION] = "setsid", [SUP_STAGE_PARENT] = "parent",
		[SUP_STAGE_DIR] = "chdir", [SUP_STAGE_LIMITS] = "rlimits", [SUP_STAGE_FDS] = "descriptors",
		[SUP_STAGE_PRIVS] = "no_new_privs", [SUP_STAGE_EXEC] = "exec",
	};

	return stage < SUP_STAGE_COUNT ? names[stage] : "?";
}

static bool
is_known(pid_t pid, const pid_t *known, unsigned known_count)
{
	for (unsigned i = 0; i < known_count; i++)
		if (known[i] == pid)
			return true;
	return false;
}

unsigned
sup_kill_adopted(const pid_t *known, unsigned known_count)
{
	char path[64], text[8192], *next = text;
	unsigned killed = 0;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd == -1)
		return 0;
	n = read(fd, text, sizeof(text) - 1);
	fd_close(&fd);
	text[n > 0 ? n : 0] = '\0';
	for (;;) {
		char *end;
		long pid = strtol(next, &end, 10);

		if (end == next || pid <= 1)
			return killed;
		next = end;
		if (!is_known((pid_t)pid, known, known_count) && kill((pid_t)pid, SIGKILL) == 0)
			killed++;
	}
}

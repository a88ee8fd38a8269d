/* SPDX-License-Identifier: MIT */
/*
 * Sweep. The pidfd is opened first and the start time read after it: when the time is the one that was recorded, the
 * descriptor means that process and the signal cannot hit another one. Each child leads a process group of its own.
 */
#include "supervisor/sup_sweep.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "supervisor/sup_priv.h"

enum { LEFT_MAX = 256, WAIT_MS = 1000, FIELD_STATE = 3, FIELD_START = 22 };

static ssize_t
read_file(const char *path, char *out, size_t bytes)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	out[0] = '\0';
	if (fd == -1)
		return -1;
	n = read(fd, out, bytes - 1);
	fd_close(&fd);
	out[n > 0 ? n : 0] = '\0';
	return n;
}

uint64_t
sup_sweep_start_time(pid_t pid)
{
	char path[64], text[1024];
	const char *at;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	if (read_file(path, text, sizeof(text)) <= 0)
		return 0;
	at = strrchr(text, ')'); /* field 2 is the name, which may hold anything */
	if (at == NULL || at[1] != ' ')
		return 0;
	at += 2;
	for (int field = FIELD_STATE; field < FIELD_START; field++) {
		at = strchr(at, ' ');
		if (at == NULL)
			return 0;
		at++;
	}
	return strtoull(at, NULL, 10);
}

void
sup_sweep_boot_id(char *out, size_t bytes)
{
	read_file("/proc/sys/kernel/random/boot_id", out, bytes);
	out[strcspn(out, "\n")] = '\0';
}

/* A zombie that nobody has reaped is none of our business. */
static bool
has_exited(int pidfd)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}

static void
wait_for_exit(const int *pidfd, unsigned count)
{
	int64_t deadline = clock_now_ns() + WAIT_MS * CLOCK_MS_NS;

	for (unsigned i = 0; i < count; i++) {
		struct pollfd p = { .fd = pidfd[i], .events = POLLIN };

		poll(&p, 1, clock_poll_ms(deadline, clock_now_ns(), WAIT_MS));
	}
}

unsigned
sup_sweep(const json_t *children)
{
	int pidfd[LEFT_MAX];
	unsigned count = 0;
	const char *key;
	json_t *start;

	json_object_foreach((json_t *)(uintptr_t)children, key, start) {
		pid_t pid = (pid_t)strtol(key, NULL, 10);
		int fd;

		if (pid <= 1 || count == LEFT_MAX)
			continue;
		fd = (int)syscall(SYS_pidfd_open, pid, 0);
		if (fd == -1)
			continue;
		if (sup_sweep_start_time(pid) != (uint64_t)json_integer_value(start) || has_exited(fd)) {
			fd_close(&fd);
			continue;
		}
		log_warn("journal", "leftover", "pid=%d: a child of the last supervisor outlived it, and is killed", (int)pid);
		kill(-pid, SIGKILL);
		syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
		pidfd[count++] = fd;
	}
	wait_for_exit(pidfd, count);
	for (unsigned i = 0; i < count; i++)
		fd_close(&pidfd[i]);
	return count;
}

/* SPDX-License-Identifier: MIT */
/*
 * The handler runs on a stack of its own, calls pwrite() and nothing else, and lets the signal have its usual end. A
 * handler that is there already (a sanitizer's) is left alone. Children set all signals back before they exec.
 */
#include "supervisor/sup_last_words.h"

#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <unistd.h>

#include "supervisor/sup_priv.h"

enum { STACK_BYTES = 16384 };

static int words_fd = -1;
static uint8_t stack[STACK_BYTES];

static void
on_fatal(int sig)
{
	uint8_t word = (uint8_t)sig;

	if (pwrite(words_fd, &word, 1, 0) == 1)
		fdatasync(words_fd);
	raise(sig); /* the handler was one-shot: this is the default action */
}

static void
install(void)
{
	static const int fatal[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGTRAP };
	stack_t alt = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction action = { .sa_handler = on_fatal, .sa_flags = (int)(SA_RESETHAND | SA_ONSTACK | SA_NODEFER) }, old;

	if (sigaltstack(&alt, NULL) == -1)
		action.sa_flags &= ~SA_ONSTACK;
	for (unsigned i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++)
		if (sigaction(fatal[i], NULL, &old) == 0 && (old.sa_flags & SA_SIGINFO) == 0 && old.sa_handler == SIG_DFL)
			sigaction(fatal[i], &action, NULL);
}

int
sup_last_words_open(int dir_fd)
{
	uint8_t word = 0, none = 0;

	words_fd = openat(dir_fd, "crashed", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
	if (words_fd == -1)
		return 0;
	if (pread(words_fd, &word, 1, 0) != 1)
		word = 0;
	/* This byte must exist: a full disk has no room for it later. */
	if (pwrite(words_fd, &none, 1, 0) == 1)
		install();
	return word;
}

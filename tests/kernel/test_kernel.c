/* SPDX-License-Identifier: MIT */
/*
 * Goal: what Linux promises about seals, futexes, death and descriptor passing, and what millrace builds on.
 * Method: each promise alone, and beside each refusal the same call where it must succeed. A kernel that lacks something
 * optional makes a visible skip, not a pass.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

enum { PAGE = 4096, BASE_SEALS = F_SEAL_SHRINK | F_SEAL_GROW };

TestSuite(kernel, .timeout = 20);

static int64_t
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int
reopen(int fd, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags | O_CLOEXEC);
}

/* The memory of a ring page: sized, reserved, and sealed against resizing. */
static int
make_memfd(void)
{
	int fd = memfd_create("kernel-test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, PAGE), 0);
	cr_assert_eq(posix_fallocate(fd, 0, PAGE), 0);
	cr_assert_eq(fcntl(fd, F_ADD_SEALS, BASE_SEALS), 0);
	return fd;
}

static void *
map(int fd, int prot)
{
	return mmap(NULL, PAGE, prot, MAP_SHARED, fd, 0);
}

/* 0, or the errno of a call that returned -1 or MAP_FAILED. */
#define ERR_OF(call) ((call) == -1 ? errno : 0)

static int
err_of_mapping(int fd, int prot)
{
	void *p = map(fd, prot);

	if (p == MAP_FAILED)
		return errno;
	munmap(p, PAGE);
	return 0;
}

static int
err_of_mprotect(int fd)
{
	void *p = map(fd, PROT_READ);
	int r;

	cr_assert_neq(p, MAP_FAILED);
	r = ERR_OF(mprotect(p, PAGE, PROT_READ | PROT_WRITE));
	munmap(p, PAGE);
	return r;
}

/* ---- seals ------------------------------------------------------------ */

/* Every way for somebody who has a descriptor to change the bytes. `want`: 0, or whether it must fail. */
static void
expect_ways_to_write(int fd, bool possible)
{
	int rw = reopen(fd, O_RDWR), ro = reopen(fd, O_RDONLY);

	cr_assert(rw >= 0 && ro >= 0, "a memfd can be opened again for writing: this is why seals are needed");
	cr_expect_eq(ERR_OF(pwrite(rw, "x", 1, 0)), possible ? 0 : EPERM);
	cr_expect_eq(err_of_mapping(rw, PROT_READ | PROT_WRITE), possible ? 0 : EPERM);
	cr_expect_eq(err_of_mprotect(rw), possible ? 0 : EACCES);
	cr_expect_eq(ERR_OF(fallocate(rw, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE)), possible ? 0 : EPERM);
	cr_expect_eq(err_of_mapping(rw, PROT_READ), 0);
	cr_expect_eq(err_of_mapping(ro, PROT_READ), 0);
	cr_expect_eq(err_of_mapping(ro, PROT_READ | PROT_WRITE), EACCES);
	cr_expect_eq(err_of_mprotect(ro), EACCES);
	close(rw);
	close(ro);
}

Test(kernel, future_write_leaves_the_live_mapping_and_nothing_else)
{
	int fd = make_memfd();
	volatile uint8_t *writer = map(fd, PROT_READ | PROT_WRITE), *reader;

	cr_assert_neq(writer, MAP_FAILED);
	expect_ways_to_write(fd, true);
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) == -1 && errno == EINVAL)
		cr_skip_test("this kernel has no F_SEAL_FUTURE_WRITE (Linux 5.1)");
	cr_expect_eq(fcntl(fd, F_GET_SEALS) & ~F_SEAL_EXEC, BASE_SEALS | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL);
	expect_ways_to_write(fd, false);
	cr_expect_eq(ERR_OF(pwrite(fd, "x", 1, 0)), EPERM, "not even through the descriptor that made it");
	reader = map(fd, PROT_READ);
	writer[7] = 42;
	cr_expect_eq(reader[7], 42, "the mapping that existed still writes");
	close(fd);
}

Test(kernel, resizing_is_refused_and_so_sigbus_is_impossible)
{
	int sealed = make_memfd(), open_one = memfd_create("twin", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	cr_expect_eq(ERR_OF(ftruncate(open_one, PAGE)), 0);
	cr_expect_eq(ERR_OF(ftruncate(open_one, 0)), 0);
	cr_expect_eq(ERR_OF(ftruncate(sealed, 0)), EPERM);
	cr_expect_eq(ERR_OF(ftruncate(sealed, 2 * PAGE)), EPERM);
	cr_expect_eq(ERR_OF(fallocate(sealed, 0, 0, 2 * PAGE)), EPERM);
	close(sealed);
	close(open_one);
}

/* Somebody with a writable descriptor may seal first: then ours fails, and that is how it is noticed. */
Test(kernel, foreign_seals_are_noticed)
{
	int mine = make_memfd(), theirs = make_memfd(), peer = reopen(theirs, O_RDWR);

	cr_expect_eq(ERR_OF(fcntl(mine, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL)), 0);
	cr_expect_eq(ERR_OF(fcntl(peer, F_ADD_SEALS, F_SEAL_SEAL)), 0);
	cr_expect_eq(ERR_OF(fcntl(theirs, F_ADD_SEALS, F_SEAL_FUTURE_WRITE)), EPERM);
	/* and with SEAL in place before the descriptor leaves us, nobody adds any */
	cr_expect_eq(ERR_OF(fcntl(reopen(mine, O_RDWR), F_ADD_SEALS, F_SEAL_WRITE)), EPERM);
	close(mine);
	close(theirs);
	close(peer);
}

Test(kernel, seals_cannot_be_added_through_a_read_only_descriptor)
{
	int fd = make_memfd(), ro = reopen(fd, O_RDONLY);

	cr_expect_eq(ERR_OF(fcntl(ro, F_ADD_SEALS, F_SEAL_SEAL)), EPERM);
	cr_expect_eq(fcntl(ro, F_GET_SEALS) & ~F_SEAL_EXEC, BASE_SEALS, "but they can be read");
	cr_expect_eq(fcntl(ro, F_GETFL) & O_ACCMODE, O_RDONLY);
	cr_expect_eq(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR);
	close(fd);
	close(ro);
}

Test(kernel, private_mapping_of_a_read_only_descriptor_is_writable_and_private)
{
	int fd = make_memfd(), ro = reopen(fd, O_RDONLY);
	uint8_t *own = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, ro, 0);
	const volatile uint8_t *shared = map(ro, PROT_READ);

	cr_assert(own != MAP_FAILED && shared != MAP_FAILED);
	own[0] = 9;
	cr_expect_eq(shared[0], 0);
	close(fd);
	close(ro);
}

Test(kernel, noexec_seal)
{
	int fd = memfd_create("noexec", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
	struct stat st;

	if (fd == -1 && errno == EINVAL)
		cr_skip_test("this kernel has no MFD_NOEXEC_SEAL (Linux 6.3)");
	cr_assert_geq(fd, 0);
	cr_expect_neq(fcntl(fd, F_GET_SEALS) & F_SEAL_EXEC, 0);
	cr_expect(fstat(fd, &st) == 0 && (st.st_mode & 0111) == 0);
	cr_expect_eq(ERR_OF(fchmod(fd, 0700)), EPERM);
	cr_expect_eq(ERR_OF(fchmod(fd, 0600)), 0);
	close(fd);
}

/* ---- futex ------------------------------------------------------------ */

static int
futex_wait(const _Atomic uint32_t *word, uint32_t value, int64_t ms)
{
	struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	return ERR_OF(syscall(SYS_futex, word, FUTEX_WAIT, value, &t, NULL, 0));
}

static int
futex_wake(const _Atomic uint32_t *word)
{
	return (int)syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

/* A child that waits on a read-only mapping and exits with the errno, or 0 if it was woken. */
static pid_t
fork_waiter(int ro)
{
	pid_t pid = fork();

	cr_assert_geq(pid, 0);
	if (pid == 0) {
		const _Atomic uint32_t *word = map(ro, PROT_READ);

		if (word == MAP_FAILED)
			_exit(99);
		_exit(futex_wait(word, 0, 10000));
	}
	return pid;
}

static bool
exits_with(pid_t pid, int code)
{
	int status;

	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == code;
}

Test(kernel, futex_waits_on_a_read_only_mapping_of_a_read_only_descriptor)
{
	int fd = make_memfd(), ro = reopen(fd, O_RDONLY);
	_Atomic uint32_t *word = map(fd, PROT_READ | PROT_WRITE);
	const _Atomic uint32_t *seen = map(ro, PROT_READ);
	int64_t begin = now_ms();
	pid_t pid;

	cr_assert(word != MAP_FAILED && seen != MAP_FAILED);
	cr_expect_eq(futex_wait(seen, 1, 10000), EAGAIN, "another value: does not sleep");
	cr_expect_eq(futex_wait(seen, 0, 20), ETIMEDOUT);
	cr_expect_geq(now_ms() - begin, 19);
	pid = fork_waiter(ro);
	while (futex_wake(word) == 0) /* until it sleeps */
		cr_assert_lt(now_ms() - begin, 10000);
	cr_expect(exits_with(pid, 0), "woken through the other mapping");
	/* A change before the wait is not slept through, though nobody wakes. */
	atomic_store(word, 5);
	pid = fork_waiter(ro);
	cr_expect(exits_with(pid, EAGAIN));
	close(fd);
	close(ro);
}

Test(kernel, wakers_may_have_a_read_only_mapping_too)
{
	int fd = make_memfd(), ro = reopen(fd, O_RDONLY);
	const _Atomic uint32_t *word = map(ro, PROT_READ);
	int64_t begin = now_ms();
	pid_t pid = fork_waiter(ro);

	while (futex_wake(word) == 0) /* hence every wait of ours looks again: a peer can wake it at will */
		cr_assert_lt(now_ms() - begin, 10000);
	cr_expect(exits_with(pid, 0));
	close(fd);
	close(ro);
}

struct waitv { /* struct futex_waitv, which older headers lack */
	uint64_t val, uaddr;
	uint32_t flags, reserved;
};

Test(kernel, futex_waitv_on_read_only_mappings)
{
	int fd[2] = { make_memfd(), make_memfd() }, ro[2];
	struct waitv w[2] = { { 0 } };
	struct timespec deadline;
	_Atomic uint32_t *word = map(fd[1], PROT_READ | PROT_WRITE);
	int64_t begin = now_ms();
	int status;
	long r;
	pid_t pid;

	for (int i = 0; i < 2; i++) {
		ro[i] = reopen(fd[i], O_RDONLY);
		w[i].uaddr = (uintptr_t)map(ro[i], PROT_READ);
		w[i].flags = 2; /* FUTEX_32, shared */
	}
	clock_gettime(CLOCK_MONOTONIC, &deadline);
	deadline.tv_nsec += 20000000;
	if (deadline.tv_nsec >= 1000000000) {
		deadline.tv_sec++;
		deadline.tv_nsec -= 1000000000;
	}
	r = syscall(449, w, 2, 0, &deadline, CLOCK_MONOTONIC);
	if (r == -1 && errno == ENOSYS)
		cr_skip_test("this kernel has no futex_waitv (Linux 5.16)");
	cr_expect(r == -1 && errno == ETIMEDOUT);
	pid = fork();
	if (pid == 0) {
		deadline.tv_sec += 10;
		_exit(syscall(449, w, 2, 0, &deadline, CLOCK_MONOTONIC) == 1 ? 0 : 1);
	}
	while (futex_wake(word) == 0)
		cr_assert_lt(now_ms() - begin, 10000);
	cr_expect(waitpid(pid, &status, 0) == pid && status == 0, "woken by the second word, and told so");
}

/* ---- death ------------------------------------------------------------ */

/* A child that keeps one end of the pair and sleeps. */
static pid_t
fork_peer(int *pair)
{
	pid_t pid = fork();

	cr_assert_geq(pid, 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed test leaves nobody behind */
		close(pair[0]);
		for (;;)
			pause();
	}
	close(pair[1]);
	return pid;
}

static void
expect_hangup_on_kill(int type)
{
	struct pollfd p = { .events = POLLIN };
	int pair[2];
	char byte;
	pid_t pid;

	cr_assert_eq(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair), 0);
	pid = fork_peer(pair);
	p.fd = pair[0];
	cr_expect_eq(poll(&p, 1, 20), 0, "nothing while it lives");
	kill(pid, SIGKILL);
	cr_expect_eq(poll(&p, 1, 5000), 1);
	cr_expect_neq(p.revents & POLLHUP, 0);
	cr_expect_eq(recv(pair[0], &byte, 1, MSG_DONTWAIT), 0, "end of file");
	cr_expect(send(pair[0], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
	waitpid(pid, NULL, 0);
	close(pair[0]);
}

Test(kernel, peer_killed_shows_as_hangup)
{
	expect_hangup_on_kill(SOCK_SEQPACKET); /* control socket */
	expect_hangup_on_kill(SOCK_STREAM);    /* doorbell */
}

Test(kernel, what_was_sent_before_death_is_still_read)
{
	int pair[2];
	char buf[8];
	pid_t pid;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	pid = fork();
	if (pid == 0) {
		if (send(pair[1], "last", 4, 0) != 4)
			_exit(1);
		raise(SIGKILL);
	}
	close(pair[1]);
	waitpid(pid, NULL, 0);
	cr_expect_eq(recv(pair[0], buf, sizeof(buf), MSG_DONTWAIT), 4);
	cr_expect_eq(recv(pair[0], buf, sizeof(buf), MSG_DONTWAIT), 0);
	close(pair[0]);
}

Test(kernel, pidfd_becomes_readable_at_death)
{
	struct pollfd p = { .events = POLLIN };
	siginfo_t info = { .si_pid = 0 };
	int pair[2];
	pid_t pid;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	pid = fork_peer(pair);
	p.fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (p.fd == -1 && errno == ENOSYS)
		cr_skip_test("this kernel has no pidfd_open (Linux 5.3)");
	cr_assert_geq(p.fd, 0);
	cr_expect_eq(poll(&p, 1, 20), 0, "not while it lives");
	cr_expect_eq(syscall(SYS_pidfd_send_signal, p.fd, SIGKILL, NULL, 0), 0);
	cr_expect_eq(poll(&p, 1, 5000), 1, "before it is reaped");
	cr_expect_eq(waitid(P_PID, (id_t)pid, &info, WEXITED), 0);
	cr_expect(info.si_code == CLD_KILLED && info.si_status == SIGKILL);
	cr_expect(syscall(SYS_pidfd_send_signal, p.fd, SIGKILL, NULL, 0) == -1 && errno == ESRCH, "never somebody else");
	close(p.fd);
	close(pair[0]);
}

/* What a killed process has stored is in the page: nothing of it is lost with the process. */
Test(kernel, stores_of_a_killed_process_are_visible)
{
	for (int i = 0; i < 20; i++) {
		int fd = make_memfd();
		volatile uint32_t *page = map(fd, PROT_READ | PROT_WRITE);
		pid_t pid = fork();

		cr_assert(page != MAP_FAILED && pid >= 0);
		if (pid == 0) {
			for (uint32_t k = 0; k < PAGE / 4; k++)
				page[k] = k + 1;
			raise(SIGKILL);
		}
		waitpid(pid, NULL, 0);
		for (uint32_t k = 0; k < PAGE / 4; k++)
			cr_assert_eq(page[k], k + 1);
		munmap((void *)(uintptr_t)page, PAGE);
		close(fd);
	}
}

/* ---- messages with descriptors ---------------------------------------- */

union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(4 * sizeof(int))];
};

static void
send_with_fds(int sock, const void *data, size_t bytes, int fd, unsigned count)
{
	union control control = { .bytes = { 0 } };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)data, .iov_len = bytes };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (count > 0) {
		struct cmsghdr *c;

		m.msg_control = control.bytes;
		m.msg_controllen = CMSG_SPACE(count * sizeof(int));
		c = CMSG_FIRSTHDR(&m);
		*c = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS,
			.cmsg_len = CMSG_LEN(count * sizeof(int)) };
		for (unsigned i = 0; i < count; i++)
			memcpy(CMSG_DATA(c) + i * sizeof(int), &fd, sizeof(fd));
	}
	cr_assert_eq(sendmsg(sock, &m, MSG_NOSIGNAL), (ssize_t)bytes);
}

struct received {
	ssize_t bytes;
	int flags;
	unsigned fd_count;
	int fds[4];
};

static struct received
receive(int sock, size_t room, int flags, bool take_fds)
{
	union control control = { .bytes = { 0 } };
	char data[64];
	struct iovec iov = { .iov_base = data, .iov_len = room };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct received r = { 0 };
	struct cmsghdr *c;

	if (take_fds) {
		m.msg_control = control.bytes;
		m.msg_controllen = sizeof(control.bytes);
	}
	r.bytes = recvmsg(sock, &m, flags | MSG_DONTWAIT);
	if (r.bytes == -1)
		return r;
	r.flags = m.msg_flags;
	c = CMSG_FIRSTHDR(&m);
	if (take_fds && c != NULL) {
		r.fd_count = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(r.fds, CMSG_DATA(c), r.fd_count * sizeof(int));
	}
	return r;
}

static unsigned
lowest_free_fd(void)
{
	int fd = dup(0);

	cr_assert_geq(fd, 0);
	close(fd);
	return (unsigned)fd;
}

Test(kernel, seqpacket_keeps_boundaries_and_descriptors)
{
	int s[2], fd = make_memfd();
	struct received r;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
	send_with_fds(s[0], "aaa", 3, fd, 1);
	send_with_fds(s[0], "bb", 2, fd, 0);
	send_with_fds(s[0], "cccccc", 6, fd, 3);
	r = receive(s[1], 64, MSG_CMSG_CLOEXEC, true);
	cr_expect(r.bytes == 3 && r.fd_count == 1);
	cr_expect_eq(fcntl(r.fds[0], F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	r = receive(s[1], 64, MSG_CMSG_CLOEXEC, true);
	cr_expect(r.bytes == 2 && r.fd_count == 0);
	r = receive(s[1], 4, 0, true);
	cr_expect(r.bytes == 4 && (r.flags & MSG_TRUNC) != 0 && r.fd_count == 3, "a message is cut, never continued");
	cr_expect_eq(fcntl(r.fds[0], F_GETFD) & FD_CLOEXEC, 0, "without the flag it would be inherited");
	r = receive(s[1], 64, 0, true);
	cr_expect(r.bytes == -1 && errno == EAGAIN);
}

Test(kernel, descriptors_without_room_never_enter)
{
	int s[2], fd = make_memfd();
	struct received r;
	unsigned before;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0);
	before = lowest_free_fd();
	send_with_fds(s[0], "a", 1, fd, 4);
	r = receive(s[1], 64, MSG_CMSG_CLOEXEC, false);
	cr_expect(r.bytes == 1 && (r.flags & MSG_CTRUNC) != 0);
	cr_expect_eq(lowest_free_fd(), before);
	send_with_fds(s[0], "a", 1, fd, 4);
	r = receive(s[1], 64, MSG_CMSG_CLOEXEC, true);
	cr_expect(r.fd_count == 4 && (r.flags & MSG_CTRUNC) == 0);
	cr_expect_neq(lowest_free_fd(), before);
}

/* A doorbell that nobody empties: full, not blocking. */
Test(kernel, full_stream_socket_says_eagain)
{
	int s[2], sent = 0;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
	while (send(s[0], "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1)
		cr_assert_lt(++sent, 1000000);
	cr_expect_eq(errno, EAGAIN);
	cr_expect_gt(sent, 16);
	/* O_NONBLOCK of a shared description is the peer's to change; MSG_DONTWAIT is ours */
	cr_expect_eq(fcntl(s[0], F_GETFL) & O_NONBLOCK, 0);
}

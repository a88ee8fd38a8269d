/* SPDX-License-Identifier: MIT */
/* A stage for workers: processes, messages, rings; see the header. */
#include "tests/sdk/sdk_stage.h"

#include "base/clock.h"
#include "base/fd.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATIENCE_MS = 8000, CLOSE_REST = 4 };
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

/* ---- processes -------------------------------------------------------- */

/* In the child: the world as the supervisor leaves it. */
static void
become_worker(int sock)
{
	if (dup2(sock, CTL_FD) == -1)
		_exit(99);
	if (sock == CTL_FD)
		fcntl(CTL_FD, F_SETFD, 0);
	syscall(SYS_close_range, CLOSE_REST, ~0u, 0);
	setenv("MILLRACE_DUMPABLE", "1", 1); /* so that stage_count_fds() works for anybody */
}

static bool
fork_worker(struct stage *st, int *sock)
{
	int pair[2];

	*st = (struct stage){ .sock = -1 };
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	st->pid = fork();
	cr_assert_neq(st->pid, -1);
	if (st->pid == 0) {
		*sock = pair[1];
		return true;
	}
	close(pair[1]);
	st->sock = pair[0];
	return false;
}

void
stage_start_program(struct stage *st, const char *name, const char *arg1, const char *arg2)
{
	const char *folder = getenv("WORKERS");
	char path[4096];
	int sock;

	cr_assert(folder != NULL, "WORKERS must name the folder of the workers");
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	if (!fork_worker(st, &sock))
		return;
	become_worker(sock);
	execl(path, path, arg1, arg2, (char *)NULL);
	_exit(98);
}

void
stage_start_function(struct stage *st, int (*worker)(void))
{
	int sock;

	if (!fork_worker(st, &sock))
		return;
	become_worker(sock);
	_exit(worker());
}

void
stage_greet(struct stage *st)
{
	union ctl_msg msg;
	int fd;

	stage_expect(st, CTL_HELLO, &msg);
	st->hello = msg.hello;
	fd = memfd_create("stats", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	cr_assert(fd != -1 && ftruncate(fd, STATS_BYTES) == 0);
	st->stats = stats_map(fd, 0);
	cr_assert(st->stats != NULL);
	ctl_init(&msg, CTL_CONFIG, 0);
	msg.config.child_id = 7;
	msg.config.incarnation = 1;
	msg.config.frame_timeout_ns = 2 * CLOCK_SEC_NS;
	msg.config.stats_bytes = STATS_BYTES;
	stage_send(st, &msg, &fd, 1);
	close(fd);
}

void
stage_open_program(struct stage *st, const char *name)
{
	union ctl_msg msg;

	stage_start_program(st, name, NULL, NULL);
	stage_greet(st);
	stage_expect(st, CTL_READY, &msg);
}

void
stage_open_function(struct stage *st, int (*worker)(void))
{
	union ctl_msg msg;

	stage_start_function(st, worker);
	stage_greet(st);
	stage_expect(st, CTL_READY, &msg);
}

int
stage_wait(struct stage *st)
{
	struct pollfd p = { .fd = (int)syscall(SYS_pidfd_open, st->pid, 0), .events = POLLIN };
	int status;

	cr_assert(p.fd != -1);
	if (poll(&p, 1, PATIENCE_MS) != 1) {
		kill(st->pid, SIGKILL);
		cr_assert(false, "the worker did not end");
	}
	close(p.fd);
	cr_assert_eq(waitpid(st->pid, &status, 0), st->pid);
	fd_close(&st->sock);
	stats_unmap(&st->stats);
	return WIFSIGNALED(status) ? 256 + WTERMSIG(status) : WEXITSTATUS(status);
}

int
stage_hang_up(struct stage *st)
{
	fd_close(&st->sock);
	return stage_wait(st);
}

int
stage_drain(struct stage *st)
{
	union ctl_msg msg;

	ctl_init(&msg, CTL_DRAIN, 0);
	stage_send(st, &msg, NULL, 0);
	return stage_wait(st);
}

void
stage_kill(struct stage *st)
{
	kill(st->pid, SIGKILL);
	cr_assert_eq(stage_wait(st), 256 + SIGKILL);
}

unsigned
stage_count_fds(const struct stage *st)
{
	char path[64];
	unsigned n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", st->pid);
	dir = opendir(path);
	cr_assert(dir != NULL, "%s: %s", path, strerror(errno));
	while (readdir(dir) != NULL)
		n++;
	closedir(dir);
	return n;
}

/* ---- messages --------------------------------------------------------- */

static void
receive(struct stage *st, enum ctl_type wanted, union ctl_msg *msg)
{
	struct pollfd p = { .fd = st->sock, .events = POLLIN };
	int r;

	cr_assert_eq(poll(&p, 1, PATIENCE_MS), 1, "%s did not come", ctl_type_name(wanted));
	r = ctl_recv(st->sock, msg, true, NULL, 0, NULL);
	cr_assert_eq(r, 0, "instead of %s: %s", ctl_type_name(wanted), strerror(-r));
}

void
stage_expect(struct stage *st, enum ctl_type type, union ctl_msg *msg)
{
	receive(st, type, msg);
	cr_assert_eq(msg->hdr.type, type, "%s came, not %s", ctl_type_name(msg->hdr.type), ctl_type_name(type));
}

void
stage_expect_silence(struct stage *st, int ms)
{
	struct pollfd p = { .fd = st->sock, .events = POLLIN };
	union ctl_msg msg = { .hdr.type = 0 };

	if (poll(&p, 1, ms) == 1)
		ctl_recv(st->sock, &msg, true, NULL, 0, NULL);
	cr_assert_eq(msg.hdr.type, 0, "%s came", ctl_type_name(msg.hdr.type));
}

void
stage_send(struct stage *st, const union ctl_msg *msg, const int *fds, unsigned fd_count)
{
	cr_assert_eq(ctl_send(st->sock, msg, fds, fd_count), 0);
}

int
stage_text_fd(const char *text, size_t bytes)
{
	int fd = memfd_create("text", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	cr_assert(fd != -1 && fd_write_all(fd, text, bytes) == 0);
	cr_assert_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL), 0);
	return fd;
}

void
stage_session_open(struct stage *st, uint32_t session, const char *json)
{
	int fd = stage_text_fd(json, strlen(json));
	union ctl_msg msg;

	ctl_init(&msg, CTL_SESSION_OPEN, session);
	msg.session_open.text_bytes = strlen(json);
	msg.session_open.params_version = 1;
	msg.session_open.width = 64;
	msg.session_open.height = 32;
	stage_send(st, &msg, &fd, 1);
	close(fd);
}

void
stage_session_close(struct stage *st, uint32_t session)
{
	union ctl_msg msg;

	ctl_init(&msg, CTL_SESSION_CLOSE, session);
	msg.hdr.txn = 77;
	stage_send(st, &msg, NULL, 0);
	do
		receive(st, CTL_SESSION_CLOSED, &msg);
	while (msg.hdr.type == CTL_RING_REQUEST); /* asked for before it knew */
	cr_assert_eq(msg.hdr.type, CTL_SESSION_CLOSED, "%s came", ctl_type_name(msg.hdr.type));
	cr_assert_eq(msg.hdr.session, session);
	cr_assert_eq(msg.hdr.txn, 77);
}

int
stage_params(struct stage *st, uint32_t session, uint64_t version, const char *json, char *text)
{
	int fd = stage_text_fd(json, strlen(json));
	union ctl_msg msg;

	ctl_init(&msg, CTL_PARAMS, session);
	msg.hdr.txn = (uint32_t)version + 1000;
	msg.params.version = version;
	msg.params.text_bytes = strlen(json);
	stage_send(st, &msg, &fd, 1);
	close(fd);
	stage_expect(st, CTL_PARAMS_RESULT, &msg);
	cr_assert_eq(msg.hdr.session, session);
	cr_assert_eq(msg.params_result.version, version);
	cr_assert_eq(msg.hdr.txn, version + 1000);
	if (text != NULL)
		memcpy(text, msg.params_result.text, CTL_TEXT_MAX);
	return msg.params_result.status;
}

/* ---- rings ------------------------------------------------------------ */

static void
new_memory(uint64_t bytes, int *rw, int *ro, int seals)
{
	char path[64];

	*rw = memfd_create("ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	cr_assert(*rw != -1 && ftruncate(*rw, (off_t)bytes) == 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", *rw);
	*ro = open(path, O_RDONLY | O_CLOEXEC);
	cr_assert(*ro != -1 && fcntl(*rw, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | seals) == 0);
}

static void
make(struct stage_ring *r, uint32_t generation, uint32_t ring_id, uint32_t holds)
{
	struct ctl_ring_open *m = &r->open;
	uint32_t slots;

	m->ring_abi_major = RING_ABI_MAJOR;
	m->ring_abi_minor = RING_ABI_MINOR;
	m->ring_id = ring_id;
	m->generation = generation;
	m->consumer_count = 1;
	m->memory_kind = CTL_MEMORY_MEMFD;
	m->first_seq = ring_first_seq(generation);
	m->hold_count[0] = holds;
	m->doorbell_mask = 1;
	slots = m->policy == CTL_POLICY_BLOCK ? 8 : ring_slots_needed(m->hold_count, 1, 4);
	m->slot_count = slots;
	m->slot_stride = (m->payload_max + RING_TAIL_BYTES + 4095) & ~UINT64_C(4095);
	r->data_bytes = m->slot_stride * slots;
	r->tx = NULL;
	r->rx = NULL;
	new_memory(RING_P_BYTES, &r->p_rw, &r->p_ro, 0);
	new_memory(r->data_bytes, &r->d_rw, &r->d_ro, 0);
	new_memory(RING_C_BYTES, &r->c_rw, &r->c_ro, F_SEAL_SEAL);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, r->bell), 0);
}

static void
describe_video(struct ctl_ring_open *m, uint32_t format, uint32_t width, uint32_t height)
{
	struct format_layout layout;

	cr_assert(format_video_layout((enum format_id)format, width, height, &layout));
	m->policy = CTL_POLICY_DROP_OLDEST;
	m->payload_max = layout.payload_bytes;
	m->format = format;
	m->width = width;
	m->height = height;
	m->rate_num = 24;
	m->rate_den = 1;
	m->plane_count = layout.plane_count;
	memcpy(m->plane_offset, layout.offset, sizeof(m->plane_offset));
	memcpy(m->plane_stride, layout.stride, sizeof(m->plane_stride));
}

static void
describe_audio(struct ctl_ring_open *m, uint32_t channels)
{
	m->policy = CTL_POLICY_BLOCK;
	m->block_deadline_ns = 20 * CLOCK_MS_NS;
	m->payload_max = (uint64_t)channels * 960 * 4;
	m->format = FORMAT_F32;
	m->sample_rate = 48000;
	m->channels = channels;
	m->block_samples = 960;
}

/* The stage becomes the producer; nobody else can write from now on. */
static void
attach_producer(struct stage_ring *r)
{
	struct ctl_ring_open m = r->open;
	int fds[4] = { dup(r->p_rw), dup(r->d_rw), dup(r->c_ro), dup(r->bell[0]) };

	m.role = CTL_RING_PRODUCER;
	m.fd_count = 4;
	cr_assert_eq(ring_tx_open(&m, fds, 4, &r->tx), 0);
	cr_assert_eq(fcntl(r->p_rw, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL), 0);
	cr_assert_eq(fcntl(r->d_rw, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL), 0);
	fd_close(&r->p_rw);
	fd_close(&r->d_rw);
	fd_close(&r->bell[0]);
}

void
stage_ring_make_in(struct stage_ring *r, uint32_t generation, uint32_t width, uint32_t height, uint32_t holds)
{
	memset(r, 0, sizeof(*r));
	describe_video(&r->open, FORMAT_RGB24, width, height);
	make(r, generation, CTL_RING_IN_VIDEO, holds);
	attach_producer(r);
}

void
stage_ring_make_audio_in(struct stage_ring *r, uint32_t generation, uint32_t channels)
{
	memset(r, 0, sizeof(*r));
	describe_audio(&r->open, channels);
	make(r, generation, CTL_RING_IN_AUDIO_WORKER, 1);
	attach_producer(r);
}

void
stage_ring_give_raw(struct stage *st, const struct ctl_ring_open *open, const int *fds, unsigned fd_count)
{
	union ctl_msg msg;

	ctl_init(&msg, CTL_RING_OPEN, open->hdr.session);
	msg.ring_open = *open;
	msg.ring_open.hdr.type = CTL_RING_OPEN;
	msg.ring_open.hdr.major = CTL_MAJOR;
	msg.ring_open.hdr.size = sizeof(*open);
	stage_send(st, &msg, fds, fd_count);
}

void
stage_ring_give(struct stage *st, uint32_t session, struct stage_ring *r, bool recovering)
{
	struct ctl_ring_open m = r->open;
	int fds[4] = { r->p_ro, r->d_ro, r->c_rw, r->bell[1] };
	union ctl_msg msg;

	m.hdr.session = session;
	m.role = CTL_RING_CONSUMER;
	m.fd_count = 4;
	m.recovering = recovering;
	stage_ring_give_raw(st, &m, fds, 4);
	stage_expect(st, CTL_MAPPED, &msg);
	cr_assert_eq(msg.ring_ref.ring_id, r->open.ring_id);
	cr_assert_eq(msg.ring_ref.generation, r->open.generation);
}

void
stage_ring_grant_request(struct stage *st, const struct ctl_ring_request *q, struct stage_ring *r, uint32_t generation)
{
	struct ctl_ring_open m;
	union ctl_msg msg;
	int fds[4];

	memset(r, 0, sizeof(*r));
	if (q->ring_id == CTL_RING_OUT_VIDEO)
		describe_video(&r->open, q->format, q->width, q->height);
	else
		describe_audio(&r->open, q->channels);
	make(r, generation, q->ring_id, 2);
	cr_assert_eq(fcntl(r->p_rw, F_ADD_SEALS, F_SEAL_SEAL), 0);
	cr_assert_eq(fcntl(r->d_rw, F_ADD_SEALS, F_SEAL_SEAL), 0);
	m = r->open;
	m.hdr.session = q->hdr.session;
	m.role = CTL_RING_PRODUCER;
	m.fd_count = 4;
	fds[0] = r->p_rw;
	fds[1] = r->d_rw;
	fds[2] = r->c_ro;
	fds[3] = r->bell[0];
	stage_ring_give_raw(st, &m, fds, 4);
	stage_expect(st, CTL_MAPPED, &msg);
	cr_assert_eq(msg.ring_ref.generation, generation);
	m = r->open;
	m.role = CTL_RING_CONSUMER;
	m.fd_count = 4;
	fds[0] = dup(r->p_ro);
	fds[1] = dup(r->d_ro);
	fds[2] = dup(r->c_rw);
	fds[3] = dup(r->bell[1]);
	cr_assert_eq(ring_rx_open(&m, fds, 4, &r->rx), 0);
	stage_ring_tell(st, CTL_RING_LIVE, q->hdr.session, r);
}

void
stage_ring_grant(struct stage *st, uint32_t session, struct stage_ring *r, uint32_t generation)
{
	union ctl_msg msg;

	stage_expect(st, CTL_RING_REQUEST, &msg);
	cr_assert_eq(msg.hdr.session, session);
	stage_ring_grant_request(st, &msg.ring_request, r, generation);
}

void
stage_ring_tell(struct stage *st, enum ctl_type type, uint32_t session, const struct stage_ring *r)
{
	union ctl_msg msg;

	ctl_init(&msg, type, session);
	msg.ring_ref.ring_id = r->open.ring_id;
	msg.ring_ref.generation = r->open.generation;
	stage_send(st, &msg, NULL, 0);
}

void
stage_ring_close(struct stage_ring *r)
{
	int *fds[] = { &r->p_rw, &r->d_rw, &r->p_ro, &r->d_ro, &r->c_rw, &r->c_ro, &r->bell[0], &r->bell[1] };

	ring_tx_close(&r->tx);
	ring_rx_close(&r->rx);
	for (unsigned i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		fd_close(fds[i]);
}

/* ---- frames ----------------------------------------------------------- */

uint64_t
stage_publish(struct stage_ring *in, uint8_t fill)
{
	uint64_t seq = ring_tx_next_seq(in->tx);
	struct ring_desc d = {
		.pts_ns = (int64_t)(seq & 0xffff) * 41666667, .duration_ns = 41666667,
		.bytes = (uint32_t)in->open.payload_max, .user = { seq, 2, 3, 4, 5, 6, 7, ~seq },
	};
	unsigned slot;

	cr_assert_eq(ring_claim(in->tx, &slot), RING_CLAIMED);
	memset(ring_tx_slot(in->tx, slot), fill, in->open.payload_max);
	return ring_publish(in->tx, slot, &d);
}

void
stage_answer(struct stage_ring *out, struct ring_frame *frame)
{
	int64_t deadline_ns = clock_now_ns() + PATIENCE_MS * CLOCK_MS_NS;

	while (ring_take(out->rx, frame) != RING_TAKEN) {
		cr_assert_lt(clock_now_ns(), deadline_ns, "no answer came");
		ring_rx_wait(out->rx, deadline_ns);
	}
}

void
stage_expect_answer(struct stage_ring *out, uint64_t src_seq, uint32_t flags, uint8_t fill)
{
	struct ring_frame f;
	uint32_t different = 0;

	stage_answer(out, &f);
	cr_assert_eq(f.desc.src_seq, src_seq, "an answer to %lx came, not to %lx", f.desc.src_seq, src_seq);
	cr_assert_eq(f.desc.flags, flags, "flags are %x, not %x", f.desc.flags, flags);
	cr_assert_eq(f.desc.pts_ns, (int64_t)(src_seq & 0xffff) * 41666667);
	cr_assert_eq(f.desc.duration_ns, 41666667);
	cr_assert_eq(f.desc.user[0], src_seq);
	cr_assert_eq(f.desc.user[7], ~src_seq);
	cr_assert_eq(f.desc.bytes, flags != 0 ? 0 : out->open.payload_max);
	for (uint32_t i = 0; i < f.desc.bytes; i++)
		different += f.payload[i] != fill;
	cr_assert_eq(different, 0, "%u bytes are not %u; the first is %u", different, fill, f.payload[0]);
	ring_release(out->rx, &f);
}

void
stage_expect_no_answer(struct stage_ring *out, int ms)
{
	int64_t deadline_ns = clock_now_ns() + ms * CLOCK_MS_NS;
	struct ring_frame f;

	while (clock_now_ns() < deadline_ns) {
		cr_assert_neq(ring_take(out->rx, &f), RING_TAKEN, "an answer came");
		ring_rx_wait(out->rx, deadline_ns);
	}
}

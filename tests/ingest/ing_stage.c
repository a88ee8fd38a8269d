/* SPDX-License-Identifier: MIT */
/* The stage: processes, messages, rings. */
#include "ing_stage.h"

#include "base/clock.h"
#include "base/fd.h"

#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define UPLOAD_BYTES (10 * 1024 * 1024)

/* ---- processes -------------------------------------------------------- */

static const char *
program(const char *name)
{
	const char *path = getenv(name);

	cr_assert_not_null(path, "%s is not set: run this test with meson test", name);
	return path;
}

static void
start_relay(struct stage *s)
{
	int out[2];
	size_t n = 0;

	cr_assert_eq(pipe2(out, O_CLOEXEC), 0);
	s->relay = fork();
	cr_assert_neq(s->relay, -1);
	if (s->relay == 0) {
		dup2(out[1], STDOUT_FILENO);
		execl(program("MILLRACE_TEST_RELAY"), "millrace-relay", "--port", "0", (char *)NULL);
		_exit(127);
	}
	close(out[1]);
	while (n < sizeof(s->url) - 1 && read(out[0], s->url + n, 1) == 1 && s->url[n] != '\n')
		n++;
	s->url[n] = '\0';
	close(out[0]);
	cr_assert_not_null(strstr(s->url, "http://"), "the relay said: %s", s->url);
	memmove(s->url, strstr(s->url, "http://"), strlen(strstr(s->url, "http://")) + 1);
	while (n = strlen(s->url), n > 0 && (s->url[n - 1] == '/' || s->url[n - 1] == ' '))
		s->url[n - 1] = '\0';
}

static void
start_ingest(struct stage *s)
{
	int pair[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	s->ingest = fork();
	cr_assert_neq(s->ingest, -1);
	if (s->ingest == 0) {
		dup2(pair[1], CTL_FD);
		if (pair[1] == CTL_FD)
			fcntl(CTL_FD, F_SETFD, 0);
		execl(program("MILLRACE_TEST_INGEST"), "millrace-ingest", (char *)NULL);
		_exit(127);
	}
	close(pair[1]);
	s->sock = pair[0];
}

static int
memory(const char *name, uint64_t bytes, int seals)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	cr_assert_neq(fd, -1);
	cr_assert_eq(ftruncate(fd, (off_t)bytes), 0);
	cr_assert_eq(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static int
read_only(int fd)
{
	char path[64];
	int ro;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	cr_assert_neq(ro, -1);
	return ro;
}

static void
ring_clear(struct stage_ring *r)
{
	memset(r, 0, sizeof(*r));
	r->p = r->d = r->p_ro = r->d_ro = -1;
	r->c[0] = r->c[1] = r->c_ro[0] = r->c_ro[1] = -1;
}

static void
ring_close(struct stage_ring *r)
{
	for (int i = 0; i < 2; i++) {
		ring_rx_close(&r->rx[i]);
		fd_close(&r->c[i]);
		fd_close(&r->c_ro[i]);
	}
	fd_close(&r->p);
	fd_close(&r->d);
	fd_close(&r->p_ro);
	fd_close(&r->d_ro);
	ring_clear(r);
}

static bool
is_ready(struct stage *s, void *arg)
{
	return s->ready;
}

void
stage_init(struct stage *s)
{
	const struct trk_loop_config config = { .tls_verify = false };

	memset(s, 0, sizeof(*s));
	for (int i = 0; i <= CTL_RING_ID_MAX; i++)
		ring_clear(&s->ring[i]);
	ring_clear(&s->old_video);
	for (int i = 0; i < 2; i++)
		s->video[i] = calloc(STAGE_FRAMES_MAX, sizeof(*s->video[i]));
	s->audio = calloc(STAGE_FRAMES_MAX, sizeof(*s->audio));
	start_relay(s);
	start_ingest(s);
	cr_assert_eq(trk_loop_new(&config, &s->loop), 0);
	s->stats_fd = memory("stats", STATS_BYTES, F_SEAL_SHRINK | F_SEAL_GROW);
	s->stats = stats_map(s->stats_fd, 0);
	s->upload_fd = memory("upload", UPLOAD_BYTES, F_SEAL_SHRINK | F_SEAL_GROW);
	stage_until(s, is_ready, NULL, 5000, "READY");
}

void
stage_fini(struct stage *s, bool any_exit)
{
	int status = 0;

	close(s->sock);
	cr_assert_eq(waitpid(s->ingest, &status, 0), s->ingest);
	if (!any_exit)
		cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "ingest ended with status %x", status);
	trk_pub_close(&s->pub);
	trk_pub_close(&s->control);
	trk_loop_free(&s->loop);
	kill(s->relay, SIGKILL);
	waitpid(s->relay, &status, 0);
	for (int i = 0; i <= CTL_RING_ID_MAX; i++)
		ring_close(&s->ring[i]);
	ring_close(&s->old_video);
	stats_unmap(&s->stats);
	fd_close(&s->stats_fd);
	fd_close(&s->upload_fd);
	for (int i = 0; i < 2; i++)
		free(s->video[i]);
	free(s->audio);
	free(s->document);
}

/* ---- messages --------------------------------------------------------- */

void
stage_send(struct stage *s, const union ctl_msg *msg, const int *fds, unsigned count)
{
	cr_assert_eq(ctl_send(s->sock, msg, fds, count), 0);
}

static void
offer_ring(struct stage *s, struct stage_ring *r, const struct ctl_ring_request *q, uint32_t id)
{
	union ctl_msg msg;
	struct format_layout layout = { 0 };
	bool video = id == CTL_RING_IN_VIDEO;
	int fds[4];
	const int seals = F_SEAL_SHRINK | F_SEAL_GROW;

	ctl_init(&msg, CTL_RING_OPEN, q->hdr.session);
	r->open = (struct ctl_ring_open){ .hdr = msg.hdr, .ring_abi_major = RING_ABI_MAJOR, .ring_abi_minor = RING_ABI_MINOR,
		.ring_id = id, .generation = ++s->generation, .role = CTL_RING_PRODUCER,
		.consumer_count = video ? 2 : 1, .policy = video ? CTL_POLICY_DROP_OLDEST : CTL_POLICY_BLOCK,
		.memory_kind = CTL_MEMORY_MEMFD, .slot_count = video ? 8 : 64, .format = q->format, .width = q->width,
		.height = q->height, .sample_rate = q->sample_rate, .channels = q->channels,
		.block_samples = q->block_samples, .rate_num = q->rate_num, .rate_den = q->rate_den,
		.hold_count = { 1, video ? 4 : 0 }, .block_deadline_ns = video ? 0 : 20 * CLOCK_MS_NS };
	r->open.first_seq = ring_first_seq(r->open.generation);
	r->open.fd_count = 2 + r->open.consumer_count;
	if (video) {
		cr_assert(format_video_layout((enum format_id)q->format, q->width, q->height, &layout));
		r->open.payload_max = layout.payload_bytes;
		r->open.plane_count = layout.plane_count;
		memcpy(r->open.plane_offset, layout.offset, sizeof(layout.offset));
		memcpy(r->open.plane_stride, layout.stride, sizeof(layout.stride));
	} else {
		r->open.payload_max = (uint64_t)q->channels * q->block_samples * sizeof(float);
	}
	r->open.slot_stride = (r->open.payload_max + RING_TAIL_BYTES + 4095) / 4096 * 4096;
	r->p = memory("P", RING_P_BYTES, seals);
	r->d = memory("D", r->open.slot_stride * r->open.slot_count, seals);
	fds[0] = r->p;
	fds[1] = r->d;
	for (uint32_t i = 0; i < r->open.consumer_count; i++) {
		r->c[i] = memory("C", RING_C_BYTES, seals | F_SEAL_SEAL);
		r->c_ro[i] = read_only(r->c[i]);
		fds[2 + i] = r->c_ro[i];
	}
	r->p_ro = read_only(r->p);
	r->d_ro = read_only(r->d);
	msg.ring_open = r->open;
	stage_send(s, &msg, fds, r->open.fd_count);
}

static void
on_request(struct stage *s, const struct ctl_ring_request *q)
{
	s->request[q->ring_id] = *q;
	offer_ring(s, &s->ring[q->ring_id], q, q->ring_id);
	if (q->ring_id == CTL_RING_IN_AUDIO_EGRESS && s->worker_audio)
		offer_ring(s, &s->ring[CTL_RING_IN_AUDIO_WORKER], q, CTL_RING_IN_AUDIO_WORKER);
}

void
stage_new_video_ring(struct stage *s, enum format_id format)
{
	struct ctl_ring_request q = s->request[CTL_RING_IN_VIDEO];

	s->old_video = s->ring[CTL_RING_IN_VIDEO];
	ring_clear(&s->ring[CTL_RING_IN_VIDEO]);
	q.format = format;
	offer_ring(s, &s->ring[CTL_RING_IN_VIDEO], &q, CTL_RING_IN_VIDEO);
}

static void
on_mapped(struct stage *s, const struct ctl_ring_ref *ref)
{
	struct stage_ring *r = &s->ring[ref->ring_id];
	struct ctl_ring_open open = r->open;
	union ctl_msg msg;

	cr_assert_eq(ref->generation, r->open.generation);
	cr_assert_eq(fcntl(r->p, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL), 0, "%s", strerror(errno));
	cr_assert_eq(fcntl(r->d, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL), 0);
	r->sealed = true;
	open.role = CTL_RING_CONSUMER;
	open.fd_count = 3;
	for (uint32_t i = 0; i < r->open.consumer_count; i++) {
		int fds[3] = { dup(r->p_ro), dup(r->d_ro), dup(r->c[i]) };

		open.consumer_idx = i;
		open.depth = r->open.ring_id == CTL_RING_IN_VIDEO && i == STAGE_WORKER ? 2 : 0;
		cr_assert_eq(ring_rx_open(&open, fds, 3, &r->rx[i]), 0);
	}
	if (s->hold_live)
		return;
	ctl_init(&msg, CTL_RING_LIVE, ref->hdr.session);
	msg.ring_ref.ring_id = ref->ring_id;
	msg.ring_ref.generation = ref->generation;
	stage_send(s, &msg, NULL, 0);
}

static void
on_control(struct stage *s, const struct ctl_control *m)
{
	union ctl_msg msg;

	free(s->document);
	s->document = calloc(1, m->bytes + 1);
	s->document_bytes = m->bytes;
	cr_assert_eq(pread(s->upload_fd, s->document, m->bytes, 0), (ssize_t)m->bytes);
	s->documents++;
	ctl_init(&msg, CTL_CONTROL_TAKEN, m->hdr.session);
	stage_send(s, &msg, NULL, 0);
}

static void
on_message(struct stage *s, const union ctl_msg *m)
{
	union ctl_msg msg;

	switch (m->hdr.type) {
	case CTL_HELLO:
		cr_assert_eq(m->hello.role, CTL_ROLE_INGEST);
		ctl_init(&msg, CTL_CONFIG, 0);
		msg.config.child_id = msg.config.incarnation = 1;
		msg.config.stats_bytes = STATS_BYTES;
		stage_send(s, &msg, &s->stats_fd, 1);
		break;
	case CTL_READY:
		s->ready = true;
		break;
	case CTL_RING_REQUEST:
		on_request(s, &m->ring_request);
		break;
	case CTL_MAPPED:
		on_mapped(s, &m->ring_ref);
		break;
	case CTL_RING_CLOSED:
		s->ring_closed++;
		break;
	case CTL_CHANNEL:
		cr_assert_leq(m->channel.channel, 5);
		s->channel[m->channel.channel] = m->channel;
		s->channel_told[m->channel.channel]++;
		s->bad_media_told += m->channel.state == CTL_CHANNEL_BAD_MEDIA;
		break;
	case CTL_CONTROL:
		on_control(s, &m->control);
		break;
	case CTL_SESSION_CLOSED:
		s->closed = true;
		break;
	default:
		cr_assert_fail("ingest sent %s", ctl_type_name(m->hdr.type));
	}
}

static void
messages(struct stage *s)
{
	union ctl_msg m;
	unsigned count;
	int r;

	while ((r = ctl_recv(s->sock, &m, true, NULL, 0, &count)) == 0)
		on_message(s, &m);
	cr_assert_eq(r, -EAGAIN, "control socket: %s", strerror(-r));
}

/* ---- consumers -------------------------------------------------------- */

static void
look(const struct ring_frame *f, struct stage_seen *seen)
{
	uint32_t sum = 2166136261u;

	for (uint32_t i = 0; i < f->desc.bytes; i += 997)
		sum = (sum ^ f->payload[i]) * 16777619u;
	*seen = (struct stage_seen){ f->desc.seq, f->desc.pts_ns, clock_now_ns(), f->desc.flags, sum };
}

static void
take_all(struct stage *s, struct ring_rx *rx, struct stage_seen *seen, unsigned *count)
{
	struct ring_frame f;

	while (rx != NULL && ring_take(rx, &f) == RING_TAKEN) {
		cr_assert_lt(*count, STAGE_FRAMES_MAX);
		look(&f, &seen[*count]);
		if (*count > 0)
			cr_assert_gt(seen[*count].pts_ns, seen[*count - 1].pts_ns, "timestamps must increase");
		++*count;
		ring_release(rx, &f);
	}
}

static void
consumers(struct stage *s)
{
	struct stage_ring *r = &s->ring[CTL_RING_IN_VIDEO];

	for (int i = 0; i < 2; i++) {
		struct ring_rx_counts c;

		if ((i == STAGE_WORKER ? s->worker_sleeps : s->egress_sleeps))
			continue;
		take_all(s, s->old_video.rx[i], s->video[i], &s->video_count[i]);
		take_all(s, r->rx[i], s->video[i], &s->video_count[i]);
		if (r->rx[i] == NULL)
			continue;
		ring_rx_get_counts(r->rx[i], &c);
		s->lost[i] = c.late + c.stolen;
		cr_assert_eq(c.violations, 0);
	}
	if (!s->egress_sleeps)
		take_all(s, s->ring[CTL_RING_IN_AUDIO_EGRESS].rx[0], s->audio, &s->audio_count);
}

void
stage_turn(struct stage *s, int wait_ms)
{
	struct pollfd p = { .fd = s->sock, .events = POLLIN };

	cr_assert_eq(trk_loop_turn(s->loop, &p, 1, clock_now_ns() + wait_ms * CLOCK_MS_NS), 0);
	messages(s);
	consumers(s);
}

void
stage_until(struct stage *s, bool (*done)(struct stage *s, void *arg), void *arg, int limit_ms, const char *what)
{
	int64_t limit = clock_now_ns() + limit_ms * CLOCK_MS_NS;

	while (!done(s, arg)) {
		cr_assert_lt(clock_now_ns(), limit, "timed out: %s", what);
		stage_turn(s, 1);
	}
}

void
stage_for(struct stage *s, int ms)
{
	int64_t limit = clock_now_ns() + ms * CLOCK_MS_NS;

	while (clock_now_ns() < limit)
		stage_turn(s, 1);
}

/* ---- channels and session --------------------------------------------- */

static void
on_pub_ended(void *arg, enum trk_end why)
{
}

static const struct trk_pub_callbacks pub_callbacks = { .ended = on_pub_ended };

static struct trk_pub *
publisher(struct stage *s, const char *name, const char *mime, bool preconnect)
{
	char url[256];
	struct trk_pub_config config = { .url = url, .mime = mime, .create = true, .preconnect = preconnect,
		.absent_grace_ns = 5 * CLOCK_SEC_NS, .callbacks = &pub_callbacks, .arg = s };
	struct trk_pub *pub = NULL;

	snprintf(url, sizeof(url), "%s/%s", s->url, name);
	cr_assert_eq(trk_pub_open(s->loop, &config, &pub), 0);
	return pub;
}

void
stage_publish(struct stage *s)
{
	s->pub = publisher(s, "in", "video/MP2T", true);
	s->control = publisher(s, "control", "application/json", false);
	stage_for(s, 50);
}

void
stage_session(struct stage *s, const char *more)
{
	char text[1024];
	union ctl_msg msg;
	int fds[2];

	for (int i = 0; i <= CTL_RING_ID_MAX; i++)
		ring_close(&s->ring[i]); /* of a session before */
	s->closed = false;
	snprintf(text, sizeof(text),
	    "{\"id\":\"t\",\"subscribe_url\":\"%s/in\",\"control_url\":\"%s/control\",\"absent_grace_ms\":60000,"
	    "%s\"tls_verify\":false}",
	    s->url, s->url, more);
	fds[0] = memory("session", strlen(text), F_SEAL_SHRINK | F_SEAL_GROW);
	fds[1] = s->upload_fd;
	cr_assert_eq(pwrite(fds[0], text, strlen(text), 0), (ssize_t)strlen(text));
	ctl_init(&msg, CTL_SESSION_OPEN, 7);
	msg.session_open.text_bytes = strlen(text);
	msg.session_open.upload_bytes = UPLOAD_BYTES;
	stage_send(s, &msg, fds, 2);
	close(fds[0]);
}

uint8_t *
stage_file(const char *path, size_t *bytes)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *data = NULL;

	cr_assert_neq(fd, -1, "%s: %s", path, strerror(errno));
	cr_assert_eq(fd_read_whole(fd, 64 << 20, &data, bytes), 0);
	close(fd);
	return (uint8_t *)data;
}

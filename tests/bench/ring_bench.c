/* SPDX-License-Identifier: MIT */
/*
 * What does it cost to hand a frame to another process?
 *
 * usage: ring_bench [SECONDS] [FRAMES_PER_SECOND]
 *
 * One process fills a frame of 512x512 RGB (0.8 MB) and hands it over at a steady rate, another one waits for it,
 * asleep, and adds up all its bytes. The same is done over a ring whose consumer is parked on the bell (a futex) or
 * in poll() on the doorbell, over a pipe and over a stream socketpair, both with the largest buffers they get.
 *
 * Latency: from the moment the filled frame is handed over to the moment the other process can read the whole frame.
 * CPU: of both processes together, a frame, less what filling and adding up cost within one process.
 *
 * The rings are opened as the supervisor's children open them: memfds with their seals, descriptors of the right
 * access mode, every check on. Prints one line of key=value pairs for each way.
 */
#include "base/assert.h"
#include "base/clock.h"
#include "base/fd.h"
#include "proto/ctl.h"
#include "proto/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

enum { SIDE = 512, FRAME_BYTES = SIDE * SIDE * 3, FRAMES_MAX = 60000, STREAM_BUFFER = 1 << 20 };

enum way { WAY_NONE, WAY_RING_BELL, WAY_RING_DOORBELL, WAY_PIPE, WAY_SOCKETPAIR, WAY_COUNT };
static const char *const way_name[WAY_COUNT] = { "in-process", "ring-bell", "ring-doorbell", "pipe", "socketpair" };

struct bench {
	enum way way;
	int frames;
	int64_t interval_ns;
	int64_t *latency_ns; /* shared with the consumer, which writes it; -1: never came */
	struct ctl_ring_open open;
	int prod_fd, data_fd, cons_fd, bell[2]; /* ring */
	int stream[2];				/* pipe, socketpair: consumer's end, producer's end */
};

static void
fail(const char *what)
{
	fprintf(stderr, "ring_bench: fatal: unable to %s: %s\n", what, strerror(errno));
	exit(111);
}

/* ---- the frame: written once, read once ------------------------------- */

static void
fill(uint8_t *frame, int n)
{
	memset(frame, n & 0xff, FRAME_BYTES);
}

static uint64_t
add_up(const uint8_t *frame)
{
	uint64_t sum = 0, word;

	for (size_t i = 0; i < FRAME_BYTES; i += sizeof(word)) {
		memcpy(&word, frame + i, sizeof(word));
		sum += word;
	}
	return sum;
}

static void
check_sum(uint64_t sum, uint8_t byte)
{
	MR_ASSERT(sum == (uint64_t)(FRAME_BYTES / 8) * (UINT64_C(0x0101010101010101) * byte));
}

/* ---- the ways --------------------------------------------------------- */

static int
sealed_memfd(uint64_t bytes)
{
	int fd = memfd_create("millrace:bench", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd == -1 || ftruncate(fd, (off_t)bytes) == -1 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == -1)
		fail("make a memfd");
	return fd;
}

static int
reopen(int fd, int flags)
{
	char path[64];
	int again;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, flags | O_CLOEXEC);
	if (again == -1)
		fail("reopen a memfd");
	return again;
}

static void
ring_prepare(struct bench *b)
{
	struct ctl_ring_open *o = &b->open;
	struct format_layout layout;
	union ctl_msg msg;

	MR_ASSERT(format_video_layout(FORMAT_RGB24, SIDE, SIDE, &layout));
	ctl_init(&msg, CTL_RING_OPEN, 1);
	*o = msg.ring_open;
	o->ring_abi_major = RING_ABI_MAJOR;
	o->ring_id = CTL_RING_IN_VIDEO;
	o->generation = 1;
	o->consumer_count = 1;
	o->policy = CTL_POLICY_DROP_OLDEST;
	o->depth = 2;
	o->memory_kind = CTL_MEMORY_MEMFD;
	o->hold_count[0] = 1;
	o->slot_count = ring_slots_needed(o->hold_count, 1, o->depth);
	o->payload_max = layout.payload_bytes;
	o->slot_stride = (layout.payload_bytes + RING_TAIL_BYTES + 4095) / 4096 * 4096;
	o->first_seq = ring_first_seq(1);
	o->format = FORMAT_RGB24;
	o->width = o->height = SIDE;
	o->plane_count = layout.plane_count;
	for (int i = 0; i < RING_PLANES_MAX; i++) {
		o->plane_offset[i] = layout.offset[i];
		o->plane_stride[i] = layout.stride[i];
	}
	o->doorbell_mask = b->way == WAY_RING_DOORBELL;
	b->prod_fd = sealed_memfd(RING_P_BYTES);
	b->data_fd = sealed_memfd(o->slot_count * o->slot_stride);
	b->cons_fd = sealed_memfd(RING_C_BYTES);
	if (o->doorbell_mask != 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, b->bell) == -1)
		fail("make a doorbell");
}

static struct ring_tx *
ring_producer(struct bench *b)
{
	int fds[4] = { reopen(b->prod_fd, O_RDWR), reopen(b->data_fd, O_RDWR), reopen(b->cons_fd, O_RDONLY), b->bell[1] };
	struct ring_tx *tx;

	b->open.role = CTL_RING_PRODUCER;
	b->bell[1] = -1;
	if (ring_tx_open(&b->open, fds, 3 + b->open.doorbell_mask, &tx) < 0)
		fail("open the ring as its producer");
	if (fcntl(b->prod_fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == -1 ||
	    fcntl(b->data_fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == -1)
		fail("seal the ring");
	return tx;
}

static struct ring_rx *
ring_consumer(struct bench *b)
{
	int fds[4] = { reopen(b->prod_fd, O_RDONLY), reopen(b->data_fd, O_RDONLY), reopen(b->cons_fd, O_RDWR), b->bell[0] };
	struct ring_rx *rx;

	b->open.role = CTL_RING_CONSUMER;
	b->bell[0] = -1;
	if (ring_rx_open(&b->open, fds, 3 + b->open.doorbell_mask, &rx) < 0)
		fail("open the ring as its consumer");
	return rx;
}

static void
stream_prepare(struct bench *b)
{
	int size = STREAM_BUFFER;

	if (b->way == WAY_PIPE) {
		if (pipe2(b->stream, O_CLOEXEC) == -1)
			fail("make a pipe");
		fcntl(b->stream[1], F_SETPIPE_SZ, size); /* refused: the default is what users get, too */
		return;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, b->stream) == -1)
		fail("make a socketpair");
	setsockopt(b->stream[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

/* ---- the consumer, a process of its own ------------------------------- */

static void
consume_ring(struct bench *b)
{
	struct ring_rx *rx = ring_consumer(b);
	struct ring_frame frame;
	int64_t deadline_ns = clock_now_ns() + 2 * CLOCK_SEC_NS;

	while (clock_now_ns() < deadline_ns) {
		enum ring_take_result r;

		ring_rx_clear_doorbell(rx);
		r = ring_take(rx, &frame);
		if (r == RING_TAKEN) {
			int64_t now_ns = clock_now_ns();
			uint64_t n = frame.desc.seq - ring_first_seq(1);

			MR_ASSERT(n < (uint64_t)b->frames);
			b->latency_ns[n] = now_ns - frame.desc.commit_ns;
			check_sum(add_up(frame.payload), (uint8_t)n);
			ring_release(rx, &frame);
			if (n + 1 == (uint64_t)b->frames)
				break;
			deadline_ns = now_ns + 2 * CLOCK_SEC_NS;
		} else if (b->way == WAY_RING_DOORBELL) {
			struct pollfd p = { .fd = ring_rx_fd(rx), .events = POLLIN };

			poll(&p, 1, 100);
		} else {
			ring_rx_wait(rx, deadline_ns);
		}
	}
	ring_rx_close(&rx);
}

static bool
read_all(int fd, void *buffer, size_t bytes)
{
	uint8_t *at = buffer;

	while (bytes > 0) {
		ssize_t n = read(fd, at, bytes);

		if (n <= 0)
			return false;
		at += n;
		bytes -= (size_t)n;
	}
	return true;
}

static void
consume_stream(struct bench *b)
{
	uint8_t *frame = malloc(FRAME_BYTES);
	int64_t sent_ns;

	MR_ASSERT(frame != NULL);
	memset(frame, 1, FRAME_BYTES);
	for (int n = 0; n < b->frames; n++) {
		if (!read_all(b->stream[0], &sent_ns, sizeof(sent_ns)) || !read_all(b->stream[0], frame, FRAME_BYTES))
			break;
		b->latency_ns[n] = clock_now_ns() - sent_ns;
		check_sum(add_up(frame), (uint8_t)n);
	}
	free(frame);
}

/* ---- the producer ----------------------------------------------------- */

static void
wait_until(int64_t at_ns)
{
	struct timespec t = { .tv_sec = at_ns / CLOCK_SEC_NS, .tv_nsec = at_ns % CLOCK_SEC_NS };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		continue;
}

static void
produce_one(struct bench *b, struct ring_tx *tx, uint8_t *frame, int n)
{
	struct ring_desc desc = { .pts_ns = n * b->interval_ns, .bytes = FRAME_BYTES };
	int64_t now_ns;
	unsigned slot;

	if (tx != NULL) {
		if (ring_claim(tx, &slot) != RING_CLAIMED)
			return;
		fill(ring_tx_slot(tx, slot), n);
		ring_publish(tx, slot, &desc);
		return;
	}
	fill(frame, n);
	if (b->way == WAY_NONE) {
		check_sum(add_up(frame), (uint8_t)n);
		return;
	}
	now_ns = clock_now_ns();
	if (fd_write_all(b->stream[1], &now_ns, sizeof(now_ns)) < 0 ||
	    fd_write_all(b->stream[1], frame, FRAME_BYTES) < 0)
		fail("write a frame");
}

static void
produce(struct bench *b, struct ring_tx *tx)
{
	uint8_t *frame = malloc(FRAME_BYTES);
	int64_t start_ns = clock_now_ns() + 200 * CLOCK_MS_NS;

	MR_ASSERT(frame != NULL);
	memset(frame, 1, FRAME_BYTES);
	for (int n = 0; n < b->frames; n++) {
		wait_until(start_ns + n * b->interval_ns);
		produce_one(b, tx, frame, n);
	}
	free(frame);
}

/* ---- one way, measured ------------------------------------------------ */

static double
cpu_us(const struct rusage *u)
{
	return (double)(u->ru_utime.tv_sec + u->ru_stime.tv_sec) * 1e6 + (double)(u->ru_utime.tv_usec + u->ru_stime.tv_usec);
}

static int
by_value(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return x < y ? -1 : x > y;
}

static pid_t
start_consumer(struct bench *b)
{
	pid_t pid = fork();

	if (pid == -1)
		fail("fork");
	if (pid != 0)
		return pid;
	if (b->way == WAY_RING_BELL || b->way == WAY_RING_DOORBELL) {
		fd_close(&b->bell[1]);
		consume_ring(b);
	} else {
		fd_close(&b->stream[1]);
		consume_stream(b);
	}
	_exit(0);
}

/* CPU of both processes, microseconds. */
static double
run(struct bench *b)
{
	struct rusage before, after, consumer = { .ru_utime.tv_sec = 0 };
	struct ring_tx *tx = NULL;
	pid_t pid = -1;
	int status = 0;

	if (b->way == WAY_RING_BELL || b->way == WAY_RING_DOORBELL) {
		ring_prepare(b);
		tx = ring_producer(b);
	} else if (b->way != WAY_NONE) {
		stream_prepare(b);
	}
	if (b->way != WAY_NONE)
		pid = start_consumer(b);
	getrusage(RUSAGE_SELF, &before);
	produce(b, tx);
	getrusage(RUSAGE_SELF, &after);
	fd_close(&b->stream[1]);
	if (pid > 0 && (wait4(pid, &status, 0, &consumer) == -1 || status != 0))
		fail("consume all frames");
	ring_tx_close(&tx);
	fd_close(&b->stream[0]);
	fd_close(&b->bell[0]);
	fd_close(&b->prod_fd);
	fd_close(&b->data_fd);
	fd_close(&b->cons_fd);
	return cpu_us(&after) - cpu_us(&before) + cpu_us(&consumer);
}

static void
report(struct bench *b, double cpu, double baseline)
{
	int64_t *l = b->latency_ns;
	int got = 0;

	for (int i = 0; i < b->frames; i++)
		if (l[i] >= 0)
			l[got++] = l[i];
	qsort(l, (size_t)got, sizeof(*l), by_value);
	printf("way=%s frames=%d lost=%d", way_name[b->way], b->frames, b->way == WAY_NONE ? 0 : b->frames - got);
	if (got > 0)
		printf(" p50_us=%.1f p99_us=%.1f", (double)l[got / 2] / 1e3, (double)l[got * 99 / 100] / 1e3);
	printf(" cpu_us=%.1f handover_cpu_us=%.1f\n", cpu / b->frames, (cpu - baseline) / b->frames);
	fflush(stdout);
}

int
main(int argc, char **argv)
{
	double seconds = argc > 1 ? strtod(argv[1], NULL) : 5, fps = argc > 2 ? strtod(argv[2], NULL) : 60;
	struct bench b = { .prod_fd = -1, .data_fd = -1, .cons_fd = -1, .bell = { -1, -1 }, .stream = { -1, -1 } };
	double baseline = 0;

	if (seconds <= 0 || fps <= 0 || seconds * fps < 2 || seconds * fps > FRAMES_MAX) {
		fprintf(stderr, "usage: ring_bench [SECONDS] [FRAMES_PER_SECOND]; at most %d frames\n", FRAMES_MAX);
		return 100;
	}
	b.frames = (int)(seconds * fps);
	b.interval_ns = (int64_t)(1e9 / fps);
	b.latency_ns = mmap(NULL, sizeof(int64_t) * FRAMES_MAX, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (b.latency_ns == MAP_FAILED)
		fail("map the results");
	for (int way = 0; way < WAY_COUNT; way++) {
		double cpu;

		b.way = (enum way)way;
		for (int i = 0; i < b.frames; i++)
			b.latency_ns[i] = -1;
		cpu = run(&b);
		if (way == WAY_NONE)
			baseline = cpu;
		report(&b, cpu, baseline);
	}
	return 0;
}

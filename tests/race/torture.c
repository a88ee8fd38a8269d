/* SPDX-License-Identifier: MIT */
/*
 * Torture of the frame ring
 *
 * Goal: at whatever instruction a process dies, no frame is torn, none arrives out of order, none twice except after its
 * consumer's death, a frame that a consumer held comes again, the newest frame of a dead producer still arrives, in BLOCK
 * none is lost, and whoever survives carries on.
 * Method: a producer and consumers, each a process of its own, run the shipped code at full speed over real memfds. The
 * parent plays the supervisor and kills: first at each testpoint in turn, then at random points and times, one or
 * several at once. A dead producer is replaced by a new generation, a dead consumer recovers on the same page.
 *
 * usage: torture drop|block SECONDS [SEED]
 *        torture mutant SECONDS [SEED]      exit 0 as soon as a torn frame is seen: for code that lacks a fence
 * Prints TAP. Torture is not proof: some mistakes only tests/model finds.
 */
#include "torture.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/fd.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RINGS_MAX = 2 };

struct generation {
	struct world world;
	uint32_t number; /* 0: this place is free */
	bool mapped, ended;
	bool sent[CONSUMERS], closed[CONSUMERS];
};

struct victim {
	pid_t pid; /* 0: none */
	int sock;
	int next_kill; /* testpoint at which its next incarnation is to die, -1: none */
};

struct board *board;

static struct victim victims[ROLES];
static struct generation rings[RINGS_MAX]; /* oldest first */
static uint32_t next_number = 1, consumers;
static uint32_t policy;
static bool stopping;
static unsigned long seed = 7, deaths[ROLES], generations;
static uint64_t newest_lost;   /* a drained ring whose newest frame did not arrive */
static uint64_t too_many_lost; /* a producer's death that cost more than the frame being written */
static int tests_done, tests_failed;

static unsigned
random_below(unsigned n)
{
	seed = seed * 6364136223846793005ul + 1442695040888963407ul;
	return (unsigned)(seed >> 33) % n;
}

static void
test(bool ok, const char *what)
{
	printf("%s %d - %s\n", ok ? "ok" : "not ok", ++tests_done, what);
	tests_failed += !ok;
}

/* ---- the supervisor's part -------------------------------------------- */

static void
start(enum role which)
{
	struct victim *v = &victims[which];
	pid_t parent = getpid();
	int s[2];

	MR_ASSERT(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s) == 0);
	atomic_store(&board->kill_after[which], 0);
	atomic_store(&board->kill_at[which], v->next_kill);
	v->next_kill = -1;
	fflush(stdout);
	v->pid = fork();
	MR_ASSERT(v->pid >= 0);
	if (v->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent || dup2(s[1], CTL_FD) != CTL_FD || close_range(CTL_FD + 1, ~0u, 0) != 0)
			_exit(2);
		if (which == PRODUCER)
			torture_produce(CTL_FD, random_below(1000));
		torture_consume(CTL_FD, which - CONSUMER_0, random_below(1000));
	}
	close(s[1]);
	v->sock = s[0];
}

static void
tell(enum role which, enum ctl_type type, const struct generation *g)
{
	union ctl_msg msg;

	if (victims[which].pid == 0)
		return;
	ctl_init(&msg, type, 1);
	msg.ring_ref.ring_id = CTL_RING_IN_VIDEO;
	msg.ring_ref.generation = g->number;
	ctl_send(victims[which].sock, &msg, NULL, 0); /* it may be dead by now */
}

static void
send_open(enum role which, struct generation *g)
{
	int fds[WORLD_FDS_MAX];
	union ctl_msg msg = { .hdr = { 0 } };
	unsigned n, idx = which - CONSUMER_0;

	if (which == PRODUCER) {
		msg.ring_open = g->world.open;
		n = world_fds_producer(&g->world, fds);
	} else {
		msg.ring_open = world_msg_consumer(&g->world, idx);
		msg.ring_open.recovering = g->sent[idx];
		msg.ring_open.ended = g->ended;
		n = world_fds_consumer(&g->world, idx, fds);
		g->sent[idx] = true;
	}
	msg.ring_open.fd_count = n;
	ctl_send(victims[which].sock, &msg, fds, n);
	while (n > 0)
		close(fds[--n]);
}

/* The newest sequence in P, as a post-mortem reads it. */
static uint64_t
newest_in(const struct generation *g)
{
	uint64_t state[RING_SLOTS_MAX], newest = 0;

	MR_ASSERT(pread(g->world.p_ro, state, sizeof(state), offsetof(struct ring_prod, state)) == sizeof(state));
	for (unsigned i = 0; i < RING_SLOTS_MAX; i++)
		if (ring_word_seq(state[i]) > newest)
			newest = ring_word_seq(state[i]);
	return newest;
}

static void
free_generation(struct generation *g)
{
	world_close(&g->world);
	if (g == &rings[0])
		rings[0] = rings[1];
	memset(&rings[1], 0, sizeof(rings[1]));
}

static struct generation *
current(void)
{
	for (int i = 0; i < RINGS_MAX; i++)
		if (rings[i].number != 0 && !rings[i].ended)
			return &rings[i];
	return NULL;
}

static void
new_generation(void)
{
	struct world_spec spec = { .generation = next_number, .policy = policy, .consumers = consumers,
		.holds = { 1, 2 } };
	struct generation *g = &rings[rings[0].number == 0 ? 0 : 1];

	if (policy == CTL_POLICY_BLOCK) {
		spec.holds[0] = 2;
		spec.slots = 6;
	}
	MR_ASSERT(g->number == 0);
	world_open(&g->world, &spec);
	g->number = next_number++;
	generations++;
	atomic_store(&board->published, 0);
	start(PRODUCER);
	send_open(PRODUCER, g);
}

static void
producer_mapped(struct generation *g)
{
	world_seal(&g->world);
	g->mapped = true;
	for (uint32_t i = 0; i < consumers; i++)
		if (victims[CONSUMER_0 + i].pid != 0)
			send_open(CONSUMER_0 + i, g);
	tell(PRODUCER, CTL_RING_LIVE, g);
}

static void
consumer_closed(uint32_t idx, uint32_t number)
{
	for (int i = 0; i < RINGS_MAX; i++) {
		struct generation *g = &rings[i];
		bool all = g->ended;

		if (g->number != number || number == 0)
			continue;
		g->closed[idx] = true;
		if (atomic_load(&board->c[idx].final_seen[number % FINALS]) != newest_in(g))
			newest_lost++;
		for (uint32_t k = 0; k < consumers; k++)
			all &= g->closed[k];
		if (all)
			free_generation(g);
		return;
	}
}

static void
listen_to(enum role which)
{
	union ctl_msg msg;
	unsigned n;

	while (victims[which].sock >= 0 && ctl_recv(victims[which].sock, &msg, true, NULL, 0, &n) == 0) {
		if (msg.hdr.type == CTL_MAPPED && current() != NULL)
			producer_mapped(current());
		else if (msg.hdr.type == CTL_RING_CLOSED)
			consumer_closed(which - CONSUMER_0, msg.ring_ref.generation);
	}
}

static void
producer_died(void)
{
	struct generation *g = current();
	uint64_t newest;

	if (g == NULL)
		return;
	if (!g->mapped) { /* nobody else knows of it */
		free_generation(g);
		return;
	}
	newest = newest_in(g);
	/* What publish() returned for is there; and at most one more that it did not live to report. */
	if (atomic_load(&board->published) != newest && newest != g->world.open.first_seq &&
	    newest != atomic_load(&board->published) + 1)
		too_many_lost++;
	g->ended = true;
	for (uint32_t i = 0; i < consumers; i++)
		tell(CONSUMER_0 + i, CTL_RING_ENDED, g);
}

static void
bury(enum role which)
{
	listen_to(which); /* what it managed to say */
	fd_close(&victims[which].sock);
	victims[which].pid = 0;
	deaths[which]++;
	if (which == PRODUCER)
		producer_died();
}

/* One turn: bury the dead, all of them before anybody is started, and replace them. */
static void
turn(void)
{
	pid_t pid;

	while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
		for (int i = 0; i < ROLES; i++)
			if (victims[i].pid == pid)
				bury((enum role)i);
	for (int i = 0; i < ROLES; i++)
		listen_to((enum role)i);
	if (stopping)
		return;
	if (victims[PRODUCER].pid == 0 && current() == NULL && rings[1].number == 0)
		new_generation();
	for (uint32_t i = 0; i < consumers; i++) {
		if (victims[CONSUMER_0 + i].pid != 0)
			continue;
		start(CONSUMER_0 + i);
		for (int k = 0; k < RINGS_MAX; k++)
			if (rings[k].number != 0 && rings[k].mapped && !rings[k].closed[i])
				send_open(CONSUMER_0 + i, &rings[k]);
	}
}

static void
turns_for(int64_t ns)
{
	const struct timespec pause = { .tv_nsec = 100000 };
	int64_t end = clock_now_ns() + ns;

	do {
		turn();
		nanosleep(&pause, NULL);
	} while (clock_now_ns() < end);
}

/* ---- killing ---------------------------------------------------------- */

static bool
applies(int point, enum role which)
{
	return which == PRODUCER ? torture_points[point].producer : torture_points[point].consumer;
}

static enum role
random_role(void)
{
	return (enum role)random_below(1 + consumers);
}

static void
arm_random(enum role which)
{
	int point;

	do
		point = (int)random_below((unsigned)torture_point_count);
	while (!applies(point, which));
	atomic_store(&board->kill_after[which], (int)random_below(3));
	atomic_store(&board->kill_at[which], point);
}

static void
kill_now(enum role which)
{
	if (victims[which].pid != 0)
		kill(victims[which].pid, SIGKILL);
}

static int
point_named(const char *name)
{
	int point = 0;

	while (strcmp(torture_points[point].name, name) != 0)
		point++;
	return point;
}

/* Kills one role at one testpoint, with half a second to get there. A point of recovery needs a death before: one that
 * leaves a hold whose frame is still there, or has gone. */
static void
kill_at_point(enum role which, int point)
{
	int64_t end = clock_now_ns() + CLOCK_SEC_NS / 2;
	unsigned long wanted = deaths[which] + 1;

	if (strncmp(torture_points[point].name, "ring_recover:", 13) == 0) {
		victims[which].next_kill = point;
		wanted++;
		point = point_named(point == point_named("ring_recover:cleared") ? "ring_take:lost" : "ring_take:hold");
	}
	atomic_store(&board->kill_after[which], 0);
	atomic_store(&board->kill_at[which], point);
	while (deaths[which] < wanted && clock_now_ns() < end)
		turns_for(CLOCK_MS_NS / 5);
	atomic_store(&board->kill_at[which], -1);
	victims[which].next_kill = -1;
}

/* All testpoints in turn, or those at which nobody has died yet. */
static void
kill_at_points(bool missing_only)
{
	for (int point = 0; point < torture_point_count; point++)
		for (uint32_t which = 0; which <= consumers; which++)
			if (applies(point, (enum role)which) && (!missing_only || atomic_load(&board->hits[point]) == 0))
				kill_at_point((enum role)which, point);
}

static void
strike(void)
{
	enum role which = random_role(), other = random_role();

	switch (random_below(5)) {
	case 0: /* any instruction */
		turns_for(random_below(300) * 1000);
		kill_now(which);
		break;
	case 1: /* two at once */
		kill_now(which);
		kill_now(other);
		break;
	case 2: /* two, each at a point of its own */
		arm_random(which);
		arm_random(other);
		break;
	case 3: /* again, as soon as it is back */
		if (which != PRODUCER)
			victims[which].next_kill = (int)random_below((unsigned)torture_point_count);
		arm_random(which);
		break;
	default:
		arm_random(which);
	}
	turns_for(400000);
	for (int i = 0; i < ROLES; i++)
		if (random_below(2) == 0)
			atomic_store(&board->kill_at[i], -1);
}

/* In BLOCK nobody races for a slot, so some points are never passed. */
static int
points_without_death(void)
{
	int never = 0;

	for (int i = 0; i < torture_point_count; i++)
		never += atomic_load(&board->hits[i]) == 0;
	return never;
}

static void
disarm(void)
{
	for (int i = 0; i < ROLES; i++) {
		victims[i].next_kill = -1;
		atomic_store(&board->kill_at[i], -1);
	}
}

/* ---- judging ---------------------------------------------------------- */

static uint64_t
sum(size_t offset)
{
	uint64_t total = 0;

	for (uint32_t i = 0; i < consumers; i++)
		total += atomic_load((_Atomic uint64_t *)(void *)((char *)&board->c[i] + offset));
	return total;
}
#define SUM(field) sum(offsetof(struct consumer_board, field))

/* Everybody left gets something done within two seconds. */
static bool
all_alive(void)
{
	int64_t end = clock_now_ns() + 2 * CLOCK_SEC_NS;
	uint64_t before[CONSUMERS], frames = atomic_load(&board->frames);

	disarm();
	turns_for(20 * CLOCK_MS_NS);
	for (uint32_t i = 0; i < consumers; i++)
		before[i] = atomic_load(&board->c[i].delivered);
	while (clock_now_ns() < end) {
		bool all = atomic_load(&board->frames) > frames + 10;

		turns_for(CLOCK_MS_NS);
		for (uint32_t i = 0; i < consumers; i++)
			all &= atomic_load(&board->c[i].delivered) > before[i] + 10;
		if (all)
			return true;
	}
	return false;
}

/* The producer dies for good; consumers drain, leave, and are ended. */
static bool
wind_up(void)
{
	int64_t end = clock_now_ns() + 2 * CLOCK_SEC_NS;

	stopping = true;
	kill_now(PRODUCER);
	while (rings[0].number != 0 && clock_now_ns() < end)
		turns_for(CLOCK_MS_NS);
	for (uint32_t i = 0; i < consumers; i++)
		kill_now(CONSUMER_0 + i);
	turns_for(50 * CLOCK_MS_NS);
	return rings[0].number == 0 && waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD;
}

static void
report(double seconds)
{
	printf("# %.1f s: deaths of the producer %lu, of consumers %lu %lu; generations %lu\n", seconds, deaths[PRODUCER],
	    deaths[CONSUMER_0], deaths[CONSUMER_1], generations);
	printf("# published %" PRIu64 " delivered %" PRIu64 " redelivered %" PRIu64 " skipped %" PRIu64 " given up %" PRIu64
	    "\n# killed at", atomic_load(&board->frames), SUM(delivered), SUM(redelivered), SUM(skipped), SUM(given_up));
	for (int i = 0; i < torture_point_count; i++)
		printf(" %s:%" PRIu64, torture_points[i].name, atomic_load(&board->hits[i]));
	printf("\n# testpoints at which nobody died: %d of %d\n", points_without_death(), torture_point_count);
}

static void
judge(bool alive, bool wound_up, bool same_fds)
{
	test(SUM(torn) == 0, "no torn frame");
	test(SUM(unordered) == 0, "no frame out of order");
	test(SUM(duplicate) == 0, "no frame twice, except after its consumer's death");
	test(SUM(lost_in_flight) == 0, "what a consumer held when it died came again");
	test(SUM(lost_in_block) == 0, "nothing lost in BLOCK");
	test(newest_lost == 0, "the newest frame of each dead producer arrived");
	test(too_many_lost == 0, "a producer's death costs the frame being written and no other");
	test(SUM(refused) == 0, "every new incarnation could attach");
	test(atomic_load(&board->unknown_point) == 0, "every testpoint of the ring is in the list");
	if (policy == CTL_POLICY_DROP_OLDEST)
		test(points_without_death() == 0, "somebody died at every testpoint");
	test(alive, "everybody alive and working afterwards");
	test(wound_up, "drained, closed, no process left");
	test(same_fds, "no descriptor left");
}

static void
run_mutant(int64_t end)
{
	while (clock_now_ns() < end && SUM(torn) == 0)
		strike();
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		printf("ok %d - # SKIP a missing fence does nothing on one core\n", ++tests_done);
	else
		test(SUM(torn) != 0, "the missing fence was noticed");
	stopping = true;
	for (int i = 0; i < ROLES; i++)
		kill_now((enum role)i);
	turns_for(20 * CLOCK_MS_NS);
}

int
main(int argc, char **argv)
{
	unsigned fds_before = world_count_fds();
	bool mutant = argc > 1 && strcmp(argv[1], "mutant") == 0, alive, wound_up;
	double seconds = argc > 2 ? strtod(argv[2], NULL) : 0;
	int64_t begin = clock_now_ns(), end = begin + (int64_t)(seconds * 1e9);

	if (argc < 3 || seconds <= 0 || (!mutant && strcmp(argv[1], "drop") != 0 && strcmp(argv[1], "block") != 0)) {
		fprintf(stderr, "usage: %s drop|block|mutant SECONDS [SEED]\n", argv[0]);
		return 2;
	}
	if (argc > 3)
		seed = strtoul(argv[3], NULL, 10);
	policy = strcmp(argv[1], "block") == 0 ? CTL_POLICY_BLOCK : CTL_POLICY_DROP_OLDEST;
	consumers = policy == CTL_POLICY_BLOCK ? 1 : CONSUMERS;
	board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	MR_ASSERT(board != MAP_FAILED);
	for (int i = 0; i < ROLES; i++)
		victims[i] = (struct victim){ .sock = -1, .next_kill = -1 };
	disarm();
	turn();
	if (mutant) {
		run_mutant(end);
	} else {
		kill_at_points(false);
		while (clock_now_ns() < end)
			strike();
		while (policy == CTL_POLICY_DROP_OLDEST && points_without_death() > 0 && clock_now_ns() < end + 60 * CLOCK_SEC_NS)
			kill_at_points(true);
		alive = all_alive();
		wound_up = wind_up();
		judge(alive, wound_up, world_count_fds() == fds_before);
	}
	report((double)(clock_now_ns() - begin) / 1e9);
	printf("1..%d\n", tests_done);
	return tests_failed != 0;
}

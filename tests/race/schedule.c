/* SPDX-License-Identifier: MIT */
/*
 * Goal: the shipped ring code, not a model of it, keeps its promises in every order of its steps that is close to the
 * usual one, with a death of either side at any step.
 * Method: producer and consumer are coroutines of one thread, and every testpoint of the ring hands control back here. A
 * schedule is the usual run (the producer works until it is done or must wait, then the consumer) with deviations: at
 * step n switch to the other side, kill the consumer (its next incarnation runs at once), the producer, or both. All
 * schedules with one and with two deviations are run, and those with three that begin with two close switches: that is
 * how a steal and a take come to overlap. Then random ones with up to seven. The same schedule gives the same run.
 *
 * What it cannot see: reordered memory accesses (tests/model, tests/race/torture.c) and what happens between two
 * testpoints.
 *
 * usage: schedule [RANDOM_RUNS [SEED]]     Prints TAP.
 */
#include "ring_bare.h"

#include "base/clock.h"
#include "base/testpoint.h"

#include <stdio.h>
#include <ucontext.h>

enum { FRAMES = 5, SLOTS = 3, STEPS_MAX = 4000, DEVIATIONS_MAX = 7, STACK_BYTES = 65536 };
enum side { PRODUCER, CONSUMER };
enum action { SWITCH, KILL_CONSUMER, KILL_PRODUCER, KILL_BOTH, ACTIONS };

struct deviation {
	int step;
	enum action action;
};

/* One run; zeroed at its start. */
static struct run {
	struct bare b;
	enum side current;
	bool running;	 /* a coroutine runs: testpoints yield */
	bool done[2];	 /* the producer has published all, the consumer has taken all */
	bool dead;	 /* the producer was killed */
	bool waits;	 /* whoever yielded last cannot go on alone */
	bool recovering; /* the consumer is in ring_rx_new() */
	bool reborn;	 /* it has not taken anything yet */
	bool killed;	 /* somebody was killed in this run */
	uint64_t active; /* what the consumer holds and has not begun to release */
	uint64_t releasing;
	uint64_t expected; /* what the dead consumer held: must come again */
	uint64_t last_seen;
	int steps;
	const char *wrong;
} run;

static ucontext_t scheduler, side_context[2];
static char stacks[2][STACK_BYTES];
static unsigned long runs, failures;
static int tests;

static void
wrong(const char *what)
{
	if (run.wrong == NULL)
		run.wrong = what;
}

static void
yield(bool waits)
{
	run.waits = waits;
	run.running = false;
	swapcontext(&side_context[run.current], &scheduler);
	run.running = true;
}

static void
pass_point(const char *name)
{
	if (run.running) /* a new consumer that waits for the producer's decision cannot go on alone */
		yield(strcmp(name, "ring_recover:looked") == 0);
}

/* ---- the two sides ---------------------------------------------------- */

static void
produce(void)
{
	struct ring_desc desc = { .bytes = BARE_PAYLOAD_BYTES };

	run.running = true;
	for (int i = 0; i < FRAMES; i++) {
		enum ring_claim_result r;
		uint64_t *to;
		unsigned slot;

		while ((r = ring_claim(run.b.tx, &slot)) == RING_FULL)
			yield(true);
		if (r != RING_CLAIMED) {
			wrong("the producer found no slot");
			break;
		}
		to = (uint64_t *)(void *)ring_tx_slot(run.b.tx, slot);
		for (unsigned k = 0; k < BARE_PAYLOAD_BYTES / 8; k++) {
			to[k] = ring_tx_next_seq(run.b.tx);
			if (k == BARE_PAYLOAD_BYTES / 16)
				yield(false);
		}
		ring_publish(run.b.tx, slot, &desc);
	}
	run.done[PRODUCER] = true;
	run.running = false;
}

static void
use(const struct ring_frame *f)
{
	uint64_t seq = f->desc.seq;

	if (!bare_payload_ok(f))
		wrong("torn frame");
	if (run.reborn && run.expected != 0 && seq != run.expected)
		wrong("a frame that the dead consumer held did not come again");
	if (f->redelivered ? seq < run.last_seen : seq <= run.last_seen)
		wrong("out of order, or twice");
	if (f->redelivered && !run.reborn)
		wrong("redelivered without a death");
	if (run.b.geom.policy == CTL_POLICY_BLOCK && seq > run.last_seen + 1 && run.last_seen != 0)
		wrong("a gap in BLOCK");
	run.reborn = false;
	run.expected = 0;
	run.active = run.last_seen = seq;
	yield(false);
	if (!bare_payload_ok(f))
		wrong("a held frame changed");
	run.active = 0;
	run.releasing = seq;
	ring_release(run.b.rx[0], f);
	run.releasing = 0;
}

static void
consume(void)
{
	struct ring_frame f;

	run.running = true;
	if (run.reborn) {
		struct ring_geom g = run.b.geom;
		int64_t begin = clock_now_ns();

		g.recovering = run.recovering = true;
		g.ended = run.dead;
		ring_rx_close(&run.b.rx[0]);
		MR_ASSERT(ring_rx_new(&g, run.b.prod, run.b.data, run.b.cons[0], &run.b.rx[0]) == 0);
		run.recovering = false;
		if (clock_now_ns() - begin > 45 * CLOCK_MS_NS) /* this machine stood still: the frame may be given up */
			run.expected = 0;
	}
	for (;;) {
		bool last_look = run.done[PRODUCER] || run.dead;
		enum ring_take_result r = ring_take(run.b.rx[0], &f);

		if (r == RING_TAKEN)
			use(&f);
		else if (r != RING_EMPTY)
			wrong("impossible result of ring_take()");
		else if (last_look)
			break;
		else
			yield(true);
	}
	if (run.expected != 0)
		wrong("a frame that the dead consumer held never came again");
	run.done[CONSUMER] = true;
	run.running = false;
}

static void
start(enum side side)
{
	ucontext_t *c = &side_context[side];

	getcontext(c);
	c->uc_stack.ss_sp = stacks[side];
	c->uc_stack.ss_size = STACK_BYTES;
	c->uc_link = &scheduler;
	makecontext(c, side == PRODUCER ? produce : consume, 0);
}

/* ---- the scheduler ---------------------------------------------------- */

static bool
runnable(enum side side)
{
	return !run.done[side] && !(side == PRODUCER && run.dead);
}

static void
kill_consumer(void)
{
	if (run.done[CONSUMER])
		return;
	if (run.active != 0)
		run.expected = run.active;
	run.active = run.releasing = 0;
	run.reborn = run.killed = true;
	run.recovering = false;
	start(CONSUMER);
	run.current = CONSUMER;
}

static void
kill_producer(void)
{
	/* A consumer in recovery would wait 50 ms of real time for a decision that cannot come. */
	if (!runnable(PRODUCER) || run.recovering)
		return;
	run.dead = run.killed = true;
	if (run.b.rx[0] != NULL) /* else the next consumer is told when it attaches */
		ring_rx_set_ended(run.b.rx[0]);
}

static void
deviate(enum action action)
{
	enum side other = run.current == PRODUCER ? CONSUMER : PRODUCER;

	if (action == KILL_PRODUCER || action == KILL_BOTH)
		kill_producer();
	if (action == KILL_CONSUMER || action == KILL_BOTH)
		kill_consumer();
	if (action == SWITCH && runnable(other))
		run.current = other;
}

static uint64_t
newest_in_page(void)
{
	uint64_t newest = 0;

	for (unsigned i = 0; i < SLOTS; i++)
		if (ring_word_seq(bare_state(&run.b, i)) > newest)
			newest = ring_word_seq(bare_state(&run.b, i));
	return newest;
}

static void
check_end(void)
{
	struct ring_rx_counts c;

	ring_rx_get_counts(run.b.rx[0], &c);
	if (run.last_seen != newest_in_page())
		wrong("the newest frame did not arrive");
	if (!run.killed && c.taken + c.late + c.stolen != FRAMES)
		wrong("a frame was counted twice or not at all");
	if (c.violations + c.bad_desc != 0)
		wrong("a violation where nobody lied");
}

/* Runs one schedule; deviations are in order of their steps. */
static void
run_schedule(uint32_t policy, uint32_t depth, const struct deviation *d, int count)
{
	run = (struct run){ .current = PRODUCER };
	bare_open(&run.b, policy, SLOTS, 1, 1, depth);
	start(PRODUCER);
	start(CONSUMER);
	for (int next = 0; (runnable(PRODUCER) || runnable(CONSUMER)) && run.wrong == NULL; run.steps++) {
		if (run.steps > STEPS_MAX)
			wrong("does not come to an end");
		if (run.waits)
			deviate(SWITCH);
		run.waits = false;
		for (; next < count && d[next].step == run.steps; next++)
			deviate(d[next].action);
		if (!runnable(run.current))
			run.current = run.current == PRODUCER ? CONSUMER : PRODUCER;
		swapcontext(&scheduler, &side_context[run.current]);
	}
	if (run.wrong == NULL)
		check_end();
	runs++;
	if (run.wrong != NULL && failures++ < 5) {
		printf("# %s; policy %u depth %u, deviations", run.wrong, policy, depth);
		for (int i = 0; i < count; i++)
			printf(" %d:%d", d[i].step, (int)d[i].action);
		printf("\n");
	}
	bare_close(&run.b);
}

static void
run_all(uint32_t policy, uint32_t depth)
{
	int steps;

	run_schedule(policy, depth, NULL, 0);
	steps = run.steps;
	for (int i = 0; i < steps; i++)
		for (int a = 0; a < ACTIONS; a++) {
			struct deviation d[2] = { { i, (enum action)a } };
			int longer;

			run_schedule(policy, depth, d, 1);
			longer = run.steps;
			for (d[1].step = i; d[1].step < longer; d[1].step++)
				for (int b = 0; b < ACTIONS; b++) {
					d[1].action = (enum action)b;
					run_schedule(policy, depth, d, 2);
				}
		}
}

static void
run_overlaps(uint32_t policy, uint32_t depth)
{
	enum { CLOSE = 16 };
	int steps;

	run_schedule(policy, depth, NULL, 0);
	steps = run.steps;
	for (int i = 0; i < steps; i++)
		for (int j = 1; j < CLOSE; j++)
			for (int k = 0; k < CLOSE / 2; k++)
				for (int a = 0; a < ACTIONS; a++)
					run_schedule(policy, depth, (const struct deviation[]){ { i, SWITCH }, { i + j, SWITCH },
					    { i + j + k, (enum action)a } }, 3);
}

static void
run_random(uint32_t policy, uint32_t depth, unsigned long how_many, uint64_t seed)
{
	for (; how_many > 0; how_many--) {
		struct deviation d[DEVIATIONS_MAX];
		int step = 0, count;

		seed = seed * 6364136223846793005u + 1442695040888963407u;
		count = 3 + (int)((seed >> 40) % (DEVIATIONS_MAX - 2));
		for (int i = 0; i < count; i++) {
			seed = seed * 6364136223846793005u + 1442695040888963407u;
			step += (int)((seed >> 33) % 25);
			/* mostly switches: what is interesting needs several of them */
			d[i] = (struct deviation){ step, (seed >> 58) % 8 < 5 ? SWITCH : (enum action)((seed >> 50) % ACTIONS) };
		}
		run_schedule(policy, depth, d, count);
	}
}

static void
report(const char *what)
{
	printf("%s %d - %s: %lu schedules, %lu wrong\n", failures == 0 ? "ok" : "not ok", ++tests, what, runs, failures);
	runs = failures = 0;
}

int
main(int argc, char **argv)
{
	unsigned long how_many = argc > 1 ? strtoul(argv[1], NULL, 10) : 20000;
	uint64_t seed = argc > 2 ? strtoul(argv[2], NULL, 10) : 7;
	static const struct {
		uint32_t policy, depth;
		const char *name;
	} worlds[] = {
		{ CTL_POLICY_DROP_OLDEST, 0, "DROP_OLDEST" },
		{ CTL_POLICY_DROP_OLDEST, 2, "DROP_OLDEST, depth 2" },
		{ CTL_POLICY_BLOCK, 0, "BLOCK" },
	};
	unsigned long wrong_ones = 0;

	testpoint_hook = pass_point;
	for (int i = 0; i < 3; i++) {
		char line[96];

		run_all(worlds[i].policy, worlds[i].depth);
		wrong_ones += failures;
		snprintf(line, sizeof(line), "%s, up to two deviations", worlds[i].name);
		report(line);
		run_overlaps(worlds[i].policy, worlds[i].depth);
		wrong_ones += failures;
		snprintf(line, sizeof(line), "%s, two close switches and a third deviation", worlds[i].name);
		report(line);
		run_random(worlds[i].policy, worlds[i].depth, how_many, seed);
		wrong_ones += failures;
		snprintf(line, sizeof(line), "%s, random, seed %lu", worlds[i].name, (unsigned long)seed);
		report(line);
	}
	printf("1..%d\n", tests);
	return wrong_ones != 0;
}

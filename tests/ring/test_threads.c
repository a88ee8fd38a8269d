/* SPDX-License-Identifier: MIT */
/*
 * Goal: the ring's accesses to payloads are ordered by its words, as the thread sanitizer understands order.
 * Method: one producer and two consumers as threads over one mapping (the sanitizer cannot know that two mappings of a
 * page are one). Payloads are plain memory, so every access to them is checked.
 *
 * The sanitizer does not understand atomic_thread_fence(). It need not: what orders payload accesses are the release and
 * acquire operations on state and hold words. The seq_cst fences decide who wins a race for a slot, and a wrong winner
 * shows as a data race here, or as a torn frame.
 *
 * usage: test_threads [SECONDS]     Prints TAP.
 */
#include "ring_bare.h"

#include "base/clock.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>

enum { CONSUMERS = 2 };

struct shared {
	struct bare b;
	_Atomic int stop;
	uint64_t published;
	struct {
		uint64_t taken, torn, unordered, last;
		struct ring_rx_counts counts;
	} c[CONSUMERS];
};

struct consumer_arg {
	struct shared *s;
	unsigned idx;
};

static void *
produce(void *arg)
{
	struct shared *s = arg;
	bool block = s->b.geom.policy == CTL_POLICY_BLOCK;

	/* relaxed: the flag orders nothing */
	for (unsigned turn = 0; !atomic_load_explicit(&s->stop, memory_order_relaxed); turn++) {
		if (bare_publish(&s->b) != 0)
			s->published++;
		else if (block)
			ring_tx_wait(s->b.tx, 0, clock_now_ns() + CLOCK_MS_NS);
		if (turn % 8 == 0)
			sched_yield();
	}
	return NULL;
}

static void *
consume(void *arg)
{
	struct consumer_arg *a = arg;
	struct shared *s = a->s;
	struct ring_rx *rx = s->b.rx[a->idx];
	struct ring_frame f[2];
	unsigned held = 0;

	for (;;) {
		/* acquire, and before looking: what was published before the stop is there */
		bool stopped = atomic_load_explicit(&s->stop, memory_order_acquire) > 1;
		enum ring_take_result r = ring_take(rx, &f[held]);

		if (r == RING_TAKEN) {
			s->c[a->idx].taken++;
			s->c[a->idx].torn += !bare_payload_ok(&f[held]);
			s->c[a->idx].unordered += f[held].desc.seq <= s->c[a->idx].last;
			s->c[a->idx].last = f[held++].desc.seq;
		}
		if (held == 2 || (held == 1 && (r != RING_TAKEN || f[0].desc.seq % 3 == 0))) {
			s->c[a->idx].torn += !bare_payload_ok(&f[0]);
			ring_release(rx, &f[0]);
			f[0] = f[1];
			held--;
		} else if (r == RING_EMPTY) {
			if (stopped)
				break;
			ring_rx_wait(rx, clock_now_ns() + CLOCK_MS_NS);
		}
	}
	ring_rx_get_counts(rx, &s->c[a->idx].counts);
	return NULL;
}

static int tests, failed;

static void
test(bool ok, const char *policy, const char *what)
{
	printf("%s %d - %s: %s\n", ok ? "ok" : "not ok", ++tests, policy, what);
	failed += !ok;
}

static void
run(uint32_t policy, unsigned consumers, int64_t ns)
{
	const char *name = policy == CTL_POLICY_BLOCK ? "BLOCK" : "DROP_OLDEST";
	struct shared *s = calloc(1, sizeof(*s));
	struct timespec t = { .tv_sec = ns / CLOCK_SEC_NS, .tv_nsec = ns % CLOCK_SEC_NS };
	struct consumer_arg args[CONSUMERS];
	pthread_t producer, consumer[CONSUMERS];
	uint64_t unaccounted = 0, torn = 0, unordered = 0, lost = 0, taken = 0;

	MR_ASSERT(s != NULL);
	bare_open(&s->b, policy, 2 * consumers + 2, consumers, 2, 0);
	for (unsigned i = 0; i < consumers; i++) {
		args[i] = (struct consumer_arg){ s, i };
		MR_ASSERT(pthread_create(&consumer[i], NULL, consume, &args[i]) == 0);
	}
	MR_ASSERT(pthread_create(&producer, NULL, produce, s) == 0);
	nanosleep(&t, NULL);
	atomic_store(&s->stop, 1);
	pthread_join(producer, NULL);
	atomic_store(&s->stop, 2); /* consumers drain */
	for (unsigned i = 0; i < consumers; i++) {
		pthread_join(consumer[i], NULL);
		torn += s->c[i].torn;
		unordered += s->c[i].unordered;
		taken += s->c[i].taken;
		lost += s->c[i].counts.late + s->c[i].counts.stolen;
		unaccounted += s->published - s->c[i].counts.taken - s->c[i].counts.late - s->c[i].counts.stolen;
	}
	printf("# %s: published %lu, taken %lu, lost %lu\n", name, (unsigned long)s->published, (unsigned long)taken,
	    (unsigned long)lost);
	test(torn == 0, name, "no torn frame");
	test(unordered == 0, name, "in order, none twice");
	test(unaccounted == 0, name, "each frame was taken or counted as lost, once");
	test(s->published > 100 && taken > 100, name, "frames flowed");
	if (policy == CTL_POLICY_BLOCK)
		test(lost == 0, name, "nothing lost");
	bare_close(&s->b);
	free(s);
}

int
main(int argc, char **argv)
{
	double seconds = argc > 1 ? strtod(argv[1], NULL) : 2;

	run(CTL_POLICY_DROP_OLDEST, CONSUMERS, (int64_t)(seconds * 0.6e9));
	run(CTL_POLICY_BLOCK, 1, (int64_t)(seconds * 0.4e9));
	printf("1..%d\n", tests);
	return failed != 0;
}

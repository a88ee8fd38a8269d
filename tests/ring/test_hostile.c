/* SPDX-License-Identifier: MIT */
/*
 * Goal: whatever a peer writes into its page, and whenever, our side neither crashes, nor leaves the ring's memory, nor
 * exceeds the time of a call. Most useful under the address and undefined behaviour sanitizers.
 * Method: the real readers over pages full of nearly plausible words: once with the words changed between two calls, from
 * a fixed seed, so that a failure comes again; once with a thread that changes them during the calls. Payloads are
 * allocated to the byte, so that one byte too far is noticed.
 *
 * usage: test_hostile [SECONDS [SEED]]     Prints TAP.
 */
#include "ring_bare.h"

#include "base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SLOTS = 6, CALL_NS_MAX = 20 * 1000 * 1000 };

static uint64_t seed = 20;
static int tests, failed;
static int64_t longest_ns;
static uint64_t out_of_bounds, sink;

static uint64_t
next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state * 0x2545f4914f6cdd1dull;
}

static void
test(bool ok, const char *what)
{
	printf("%s %d - %s\n", ok ? "ok" : "not ok", ++tests, what);
	failed += !ok;
}

/* CPU time of this thread: what a call costs, whoever else runs. */
static int64_t
cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (int64_t)t.tv_sec * CLOCK_SEC_NS + t.tv_nsec;
}

static void
timed(int64_t begin)
{
	int64_t took = cpu_ns() - begin;

	if (took > longest_ns)
		longest_ns = took;
}

/* A word that comes close to what belongs there. */
static uint64_t
word_like(uint64_t *random, const struct bare *b, unsigned slot)
{
	/* relaxed: any word near the truth will do */
	uint64_t near = ring_word_seq(atomic_load_explicit(&b->prod->state[next_random(random) % SLOTS], memory_order_relaxed));
	uint64_t r = next_random(random), seq = near + next_random(random) % 8 - 3;

	switch (r % 10) {
	case 0: return 0;
	case 1: return r;
	case 2: return UINT64_MAX;
	case 3: return ring_word(seq, slot) | RING_STEAL;
	case 4: return ring_word(seq, (unsigned)(r >> 8 & 0xff));
	case 5: return ring_word(seq + (UINT64_C(1) << (r >> 8) % 55), slot);
	case 6: return ring_word(b->geom.first_seq + (r >> 8) % 64, slot);
	default: return ring_word(seq, slot);
	}
}

static void
scribble_prod(uint64_t *random, const struct bare *b)
{
	unsigned slot = (unsigned)(next_random(random) % SLOTS), i = (unsigned)(next_random(random) % 16);
	uint64_t r = next_random(random);

	/* relaxed: a peer that lies does not keep order either */
	if (r % 4 != 0)
		atomic_store_explicit(&b->prod->state[slot], word_like(random, b, slot), memory_order_relaxed);
	else if (r % 8 != 0)
		atomic_store_explicit(&b->prod->desc[slot][i], i == 0 ? word_like(random, b, slot) >> 8 : r >> (r % 64),
		    memory_order_relaxed);
	else
		atomic_store_explicit(&b->prod->bell, (uint32_t)r, memory_order_relaxed);
}

static void
scribble_cons(uint64_t *random, const struct bare *b)
{
	unsigned k = (unsigned)(next_random(random) % RING_HOLDS_MAX), slot = (unsigned)(next_random(random) % SLOTS);
	uint64_t r = next_random(random);

	/* relaxed: as above. Mostly the very word of a slot: that is the hold that stops a steal. */
	if (r % 4 != 0)
		atomic_store_explicit(&b->cons[0]->hold[k], r % 3 != 0 ?
		    atomic_load_explicit(&b->prod->state[slot], memory_order_relaxed) & ~RING_STEAL :
		    word_like(random, b, slot), memory_order_relaxed);
	else if (r % 8 != 0)
		atomic_store_explicit(&b->cons[0]->taken, word_like(random, b, 0) >> 8, memory_order_relaxed);
	else
		atomic_store_explicit(&b->cons[0]->bell, (uint32_t)r, memory_order_relaxed);
}

/* ---- our side --------------------------------------------------------- */

static void
read_frame(const struct bare *b, const struct ring_frame *f)
{
	if (f->slot >= SLOTS || f->desc.bytes > BARE_PAYLOAD_BYTES || f->payload != b->data + (size_t)f->slot * BARE_STRIDE ||
	    (f->desc.flags & ~(uint32_t)RING_FRAME_KNOWN) != 0 || f->desc.reason > RING_REASON_MAX) {
		out_of_bounds++;
		return;
	}
	for (uint32_t i = 0; i < f->desc.bytes; i++)
		sink += f->payload[i];
}

static void
take_and_release(const struct bare *b)
{
	struct ring_frame f;
	int64_t begin = cpu_ns();
	enum ring_take_result r = ring_take(b->rx[0], &f);

	timed(begin);
	if (r != RING_TAKEN)
		return;
	read_frame(b, &f);
	begin = cpu_ns();
	ring_release(b->rx[0], &f);
	timed(begin);
}

static void
claim_and_publish(struct bare *b)
{
	struct ring_desc desc = { .bytes = BARE_PAYLOAD_BYTES };
	int64_t begin = cpu_ns();
	unsigned slot = SLOTS;
	enum ring_claim_result r = ring_claim(b->tx, &slot);

	timed(begin);
	if (r != RING_CLAIMED)
		return;
	if (slot >= SLOTS) {
		out_of_bounds++;
		return;
	}
	memset(ring_tx_slot(b->tx, slot), (int)slot, BARE_PAYLOAD_BYTES + RING_TAIL_BYTES);
	ring_publish(b->tx, slot, &desc);
}

static void
open_world(struct bare *b)
{
	bare_open(b, CTL_POLICY_DROP_OLDEST, SLOTS, 1, 2, 0);
}

/* ---- changes between calls -------------------------------------------- */

/* Each round begins afresh, because one lie (a sequence far ahead) may silence the rest of a ring's life. */
static void
fuzz_between_calls(int64_t end)
{
	uint64_t random = seed, rounds = 0;

	while (clock_now_ns() < end) {
		struct bare b;

		open_world(&b);
		for (int i = 0; i < 200; i++) {
			uint64_t r = next_random(&random);

			if (r % 3 == 0)
				scribble_prod(&random, &b);
			if (r % 5 == 0)
				scribble_cons(&random, &b);
			if (r % 97 == 0)
				ring_rx_set_ended(b.rx[0]);
			claim_and_publish(&b);
			take_and_release(&b);
			ring_tx_taken(b.tx, 0);
			ring_rx_wait(b.rx[0], 0);
			ring_tx_wait(b.tx, 0, 0);
		}
		rounds++;
		bare_close(&b);
	}
	printf("# %lu rounds of 200 calls between changes\n", (unsigned long)rounds);
	test(rounds > 10, "changes between calls");
}

/* A new incarnation over a page that may say anything. */
static void
fuzz_recovery(int64_t end)
{
	uint64_t random = seed + 1, rounds = 0;
	int64_t longest = 0;

	while (clock_now_ns() < end) {
		struct bare b;
		int64_t begin;

		open_world(&b);
		for (int i = 0; i < 8; i++)
			claim_and_publish(&b);
		for (uint64_t i = next_random(&random) % 20; i > 0; i--)
			scribble_cons(&random, &b);
		for (uint64_t i = next_random(&random) % 10; i > 0; i--)
			scribble_prod(&random, &b);
		begin = clock_now_ns();
		bare_restart(&b, 0);
		if (clock_now_ns() - begin > longest)
			longest = clock_now_ns() - begin;
		for (int i = 0; i < 20; i++)
			take_and_release(&b);
		for (unsigned k = 2; k < RING_HOLDS_MAX; k++)
			/* relaxed: single-threaded here */
			out_of_bounds += atomic_load_explicit(&b.cons[0]->hold[k], memory_order_relaxed) != 0;
		rounds++;
		bare_close(&b);
	}
	printf("# %lu recoveries, longest %.1f ms\n", (unsigned long)rounds, (double)longest / 1e6);
	test(rounds > 10 && longest < CLOCK_SEC_NS, "recovery over a forged page");
}

/* ---- changes during calls --------------------------------------------- */

struct scribbler {
	const struct bare *b;
	void (*scribble)(uint64_t *random, const struct bare *b);
	_Atomic int stop;
};

static void *
scribble_until_stopped(void *arg)
{
	struct scribbler *s = arg;
	uint64_t random = seed + 2;

	while (!atomic_load(&s->stop))
		s->scribble(&random, s->b);
	return NULL;
}

static void
fuzz_during_calls(int64_t end, void (*scribble)(uint64_t *random, const struct bare *b), void (*call)(struct bare *b),
    const char *what)
{
	uint64_t calls = 0;

	while (clock_now_ns() < end) {
		struct bare b;
		struct scribbler s = { .b = &b, .scribble = scribble };
		pthread_t thread;

		open_world(&b);
		for (int i = 0; i < 10; i++)
			claim_and_publish(&b);
		MR_ASSERT(pthread_create(&thread, NULL, scribble_until_stopped, &s) == 0);
		for (int i = 0; i < 5000; i++, calls++)
			call(&b);
		atomic_store(&s.stop, 1);
		pthread_join(thread, NULL);
		bare_close(&b);
	}
	printf("# %lu calls\n", (unsigned long)calls);
	test(calls > 0, what);
}

static void
call_take(struct bare *b)
{
	take_and_release(b);
}

/* ---- control messages ------------------------------------------------- */

static void
fuzz_ctl(int64_t end)
{
	uint64_t random = seed + 3, accepted = 0, refused = 0;
	int s[2];

	MR_ASSERT(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s) == 0);
	while (clock_now_ns() < end) {
		union ctl_msg msg, out;
		uint32_t type = (uint32_t)(next_random(&random) % 80);
		size_t bytes = next_random(&random) % sizeof(msg);
		int fds[CTL_FDS_MAX];
		unsigned n = 0;
		int r;

		for (size_t i = 0; i < sizeof(msg); i++)
			msg.bytes[i] = next_random(&random) % 2 != 0 ? (uint8_t)next_random(&random) : 0;
		if (next_random(&random) % 4 != 0 && ctl_size(type) != 0) {
			ctl_init(&msg, (enum ctl_type)type, 1);
			bytes = msg.hdr.size;
			for (uint64_t i = next_random(&random) % 3; i > 0; i--)
				msg.bytes[next_random(&random) % bytes] ^= (uint8_t)(1u << next_random(&random) % 8);
		}
		if (bytes == 0)
			bytes = 1;
		MR_ASSERT(send(s[0], &msg, bytes, MSG_DONTWAIT) == (ssize_t)bytes);
		r = ctl_recv(s[1], &out, next_random(&random) % 2 != 0, fds, CTL_FDS_MAX, &n);
		MR_ASSERT(r == 0 || r == -EPROTO);
		if (r == 0) {
			struct ring_geom g;

			accepted++;
			if (out.hdr.type == CTL_RING_OPEN)
				MR_ASSERT(ring_geom_from_open(&out.ring_open, &g) == -EPROTO || g.slot_count >= 3);
		}
		refused += r != 0;
	}
	close(s[0]);
	close(s[1]);
	printf("# %lu messages accepted, %lu refused\n", (unsigned long)accepted, (unsigned long)refused);
	test(accepted > 100 && refused > 100, "control messages of any bytes");
}

int
main(int argc, char **argv)
{
	double seconds = argc > 1 ? strtod(argv[1], NULL) : 3;
	int64_t part = (int64_t)(seconds * 1e9 / 5);

	if (argc > 2)
		seed = strtoul(argv[2], NULL, 10);
	seed = seed * 2 + 1; /* never 0 */
	fuzz_between_calls(clock_now_ns() + part);
	fuzz_recovery(clock_now_ns() + part);
	fuzz_during_calls(clock_now_ns() + part, scribble_prod, call_take, "a producer that scribbles while we take");
	fuzz_during_calls(clock_now_ns() + part, scribble_cons, claim_and_publish, "a consumer that scribbles while we claim");
	fuzz_ctl(clock_now_ns() + part);
	printf("# longest call %.3f ms of CPU\n", (double)longest_ns / 1e6);
	test(out_of_bounds == 0, "nothing outside the ring");
	test(longest_ns < CALL_NS_MAX, "every call bounded");
	printf("1..%d\n", tests);
	return failed != 0;
}

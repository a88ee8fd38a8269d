/* SPDX-License-Identifier: MIT */
/*
 * Model of the frame ring: a consumer's steps
 *
 * The same steps in the same order as ring_take(), ring_release() and the recovery in proto/ring_rx.c. With two holds the
 * consumer may, at any time between two frames, use the oldest frame that it holds or take another one first.
 */
#include "model.h"

#include <cstring>

/* A consumer that knows the producer to be dead reads an interrupted steal as the frame that it marks: its payload can
 * no longer change. */
static uint8_t
seen(const Consumer &c, uint8_t word)
{
	return c.knows ? uint8_t(word & ~STEAL) : word;
}

/* Index of the oldest frame held, or -1. */
static int
oldest_held(const Consumer &c)
{
	int best = -1;

	for (int i = 0; i < kHoldsMax; i++)
		if (c.held[i] != 0 && (best < 0 || seq_of(c.held[i]) < seq_of(c.held[best])))
			best = i;
	return best;
}

static int
free_hold(const Consumer &c)
{
	for (int i = 0; i < cfg.holds; i++)
		if (c.held[i] == 0)
			return i;
	return -1;
}

/* What comes after a frame was released, lost, or not found. */
static uint8_t
look_again(Consumer &c)
{
	return oldest_held(c) >= 0 ? C_NEXT : C_SCAN;
}

static bool
nothing_left(const State &s, const Consumer &c)
{
	if (s.p.pc != P_DONE && !(s.p.pc == P_DEAD && c.knows))
		return false;
	if (s.producer_stores.count > 0)
		return false;
	for (int i = 0; i < cfg.slots; i++)
		if (seq_of(s.mem[STATE + i]) > c.last)
			return false;
	return true;
}

static void
scan_slot(const State &s, Consumer &c, const StoreBuffer &own)
{
	int i = c.pc - C_SCAN;
	uint8_t word = seen(c, load(s, own, STATE + i));

	if (word != 0 && !(word & STEAL) && seq_of(word) > c.last) {
		bool newer = seq_of(word) > seq_of(c.best);

		if (cfg.depth > 0)
			c.pass[i] = word;
		if (c.best == 0 || newer == (cfg.policy == POLICY_LATEST))
			c.best = word;
	}
	c.pc = i + 1 < cfg.slots ? uint8_t(c.pc + 1) : uint8_t(C_PICK);
}

/* With a depth: chooses the oldest of the `depth` newest frames of the scan. Returns the sequence before those. */
static int
look_at_newest(Consumer &c)
{
	int floor = c.last;

	for (uint8_t word : c.pass)
		if (seq_of(word) - cfg.depth > floor)
			floor = seq_of(word) - cfg.depth;
	c.best = 0;
	for (uint8_t &word : c.pass) {
		if (seq_of(word) > floor && (c.best == 0 || seq_of(word) < seq_of(c.best)))
			c.best = word;
		word = 0;
	}
	for (int f = c.last + 1; f <= floor; f++)
		c.late |= uint8_t(1 << f);
	return floor;
}

/* Is the candidate of this scan good, or must we scan again? */
static bool
accept(Consumer &c)
{
	int floor = cfg.depth > 0 ? look_at_newest(c) : c.last;

	if (c.best == 0) {
		c.scans = c.previous = 0;
		return false;
	}
	if (cfg.policy == POLICY_LATEST || seq_of(c.best) == floor + 1)
		return true;
	if (cfg.policy == POLICY_BLOCK)
		return false;
	if (cfg.scan == SCAN_TWICE && c.scans == 0) {
		c.scans = 1;
		return false;
	}
	if (cfg.scan == SCAN_AGREE && c.previous != c.best) {
		c.previous = c.best;
		return false;
	}
	return true;
}

static void
pick(Consumer &c)
{
	if (!accept(c)) {
		c.at = 0;
		c.pc = look_again(c);
		return;
	}
	c.word = c.best;
	c.slot = uint8_t(slot_of(c.best));
	c.best = c.scans = c.previous = 0;
	c.pc = cfg.hold_first ? C_HOLD : C_TAKEN;
}

/* Between two frames, with something held. */
static bool
choose_next(Consumer &c, bool another)
{
	if (another) {
		int k = free_hold(c);

		if (k < 0)
			return false;
		c.at = uint8_t(k);
		c.pc = C_SCAN;
		return true;
	}
	c.at = uint8_t(oldest_held(c));
	c.word = c.held[c.at];
	c.slot = uint8_t(slot_of(c.word));
	c.scans = c.previous = 0;
	c.pc = C_LO;
	return true;
}

/* The frame is ours: publish how far we are. */
static bool
take(State &s, int k)
{
	Consumer &c = s.c[k];
	int seq = seq_of(c.word);

	if (seq > c.last) {
		if (!store(s, s.consumer_stores[k], taken_addr(k), seq, cfg.release_taken))
			return false;
		for (int f = c.last + 1; f < seq && cfg.policy != POLICY_LATEST; f++)
			if (!((s.dropped | c.late) >> f & 1))
				violate("consumer skipped a frame nobody tried to drop");
		c.last = uint8_t(seq);
	}
	if (cfg.holds == 1) {
		c.pc = cfg.hold_first ? C_LO : C_HOLD;
		return true;
	}
	if (!c.recovering)
		c.held[c.at] = c.word;
	c.recovering = c.word = c.slot = c.at = 0;
	c.pc = C_NEXT;
	return true;
}

static void
deliver(State &s, int k)
{
	Consumer &c = s.c[k];
	int seq = seq_of(c.word);

	if (c.lo != seq || load(s, s.consumer_stores[k], HI + c.slot) != seq)
		violate("torn or wrong payload delivered");
	if ((c.delivered >> seq & 1) && !c.crashed)
		violate("duplicate delivery without a crash");
	if (seq < c.last_delivered)
		violate("delivered out of order");
	c.delivered |= uint8_t(1 << seq);
	c.last_delivered = uint8_t(seq);
	c.lo = 0;
	c.pc = C_RELEASE;
}

/* ---- recovery --------------------------------------------------------- */

/* All holds of the dead were looked at, or the next one is. */
static void
recover_next(Consumer &c)
{
	c.word = c.slot = 0;
	if (c.at + 1 < cfg.holds && cfg.recover_all) {
		c.at++;
		c.pc = C_RECOVER;
		return;
	}
	c.at = 0;
	for (uint8_t held : c.held)
		if (seq_of(held) > seq_of(c.word))
			c.word = held; /* the newest: `taken` must not stay behind it */
	c.slot = uint8_t(slot_of(c.word));
	c.pc = c.word != 0 ? C_TAKEN : C_SCAN;
	if (c.word == 0)
		c.recovering = 0;
}

static void
recover_look(State &s, int k)
{
	Consumer &c = s.c[k];

	c.word = s.mem[hold_addr(k, c.at)];
	c.slot = uint8_t(slot_of(c.word));
	c.last = s.mem[taken_addr(k)];
	if (c.word == 0)
		recover_next(c);
	else
		c.pc = C_RECOVER_2;
}

static void
recover_decide(State &s, int k)
{
	Consumer &c = s.c[k];
	uint8_t word = seen(c, load(s, s.consumer_stores[k], STATE + c.slot));

	if (word == c.word && cfg.recover_hold) {
		if (cfg.holds == 1) {
			c.pc = C_TAKEN; /* deliver it again */
			return;
		}
		c.held[c.at] = c.word;
		recover_next(c);
	} else if (word == (c.word | STEAL) && cfg.recover_waits) {
		c.pc = C_RECOVER; /* the producer is about to decide */
	} else {
		c.pc = C_UNHOLD;
	}
}

/* ---- one step --------------------------------------------------------- */

static void
scan_or_end(State &s, int k)
{
	Consumer &c = s.c[k];

	if (!nothing_left(s, c)) {
		c.best = 0;
		scan_slot(s, c, s.consumer_stores[k]);
	} else {
		c.pc = oldest_held(c) >= 0 ? C_NEXT : C_END;
	}
}

static bool
drop_hold(State &s, int k)
{
	Consumer &c = s.c[k];

	if (!store(s, s.consumer_stores[k], hold_addr(k, c.at), 0, true))
		return false;
	if (c.recovering) {
		recover_next(c);
		return true;
	}
	c.held[c.at] = c.word = c.slot = 0;
	c.at = 0;
	c.pc = look_again(c);
	return true;
}

bool
consume(State &s, int k, bool other)
{
	Consumer &c = s.c[k];
	StoreBuffer &own = s.consumer_stores[k];

	if (other)
		return c.pc == C_NEXT && choose_next(c, true);
	switch (c.pc) {
	case C_SCAN:
		scan_or_end(s, k);
		return true;
	case C_SCAN + 1:
	case C_SCAN + 2:
	case C_SCAN_LAST:
		scan_slot(s, c, own);
		return true;
	case C_PICK:
		pick(c);
		return true;
	case C_HOLD:
		if (!store(s, own, hold_addr(k, c.at), c.word, false))
			return false;
		c.pc = cfg.consumer_fence ? C_FENCE : C_VALIDATE;
		return true;
	case C_FENCE:
		if (own.count > 0)
			return false;
		c.pc = C_VALIDATE;
		return true;
	case C_VALIDATE:
		if (seen(c, load(s, own, STATE + c.slot)) != c.word) {
			c.pc = C_UNHOLD;
			return true;
		}
		if (cfg.check_redelivery)
			c.secured |= uint8_t(1 << seq_of(c.word));
		c.pc = cfg.hold_first ? C_TAKEN : C_LO;
		return true;
	case C_TAKEN:
		return take(s, k);
	case C_NEXT:
		return choose_next(c, false);
	case C_LO:
		c.lo = load(s, own, LO + c.slot);
		c.pc = C_HI;
		return true;
	case C_HI:
		deliver(s, k);
		return true;
	case C_RELEASE:
	case C_UNHOLD:
		return drop_hold(s, k);
	case C_RECOVER:
		recover_look(s, k);
		return true;
	case C_RECOVER_2:
		recover_decide(s, k);
		return true;
	}
	return false; /* C_END */
}

void
kill_consumer(State &s, int k)
{
	Consumer &c = s.c[k];

	drain_all(s, s.consumer_stores[k]);
	c.kills++;
	c.crashed = 1;
	c.pc = C_RECOVER;
	c.word = c.slot = c.at = c.last = c.best = c.scans = c.previous = c.lo = 0;
	c.recovering = cfg.holds > 1;
	memset(c.held, 0, sizeof(c.held));
	memset(c.pass, 0, sizeof(c.pass));
}

/* SPDX-License-Identifier: MIT */
/*
 * Model of the frame ring: the producer's steps
 *
 * The same steps in the same order as ring_claim() and ring_publish() in proto/ring.c, with the rules that can be left
 * out (Config) and one that the product no longer has: a producer that continues on a dead one's memory.
 */
#include "model.h"

/* The producer's private copy of the state words: what it stored last. */
static uint8_t
mirror(const State &s, int slot)
{
	return load(s, s.producer_stores, STATE + slot);
}

static int
newest(const State &s)
{
	int best = 0;

	for (int i = 0; i < cfg.slots; i++)
		if (seq_of(mirror(s, i)) > best)
			best = seq_of(mirror(s, i));
	return best;
}

/* How many hold words there are, and the address of the n-th. */
static int
hold_words()
{
	return cfg.consumers * cfg.holds;
}

static int
nth_hold(int n)
{
	return hold_addr(n / cfg.holds, n % cfg.holds);
}

/* The oldest slot on one side of `taken` that nobody holds, or -1. `last_hold` is the hold word read just now. */
static int
oldest_unheld(const State &s, bool was_taken, uint8_t last_hold)
{
	int slot = -1, lowest = 99;

	for (int i = 0; i < cfg.slots; i++) {
		uint8_t word = mirror(s, i);
		int seq = seq_of(word);
		bool held = word == last_hold;

		for (int k = 0; k + 1 < hold_words(); k++)
			held |= word == s.p.held[k];
		if ((seq <= s.p.taken) != was_taken || held || (cfg.keep_newest && seq == newest(s)))
			continue;
		if (seq < lowest) {
			slot = i;
			lowest = seq;
		}
	}
	return slot;
}

static void
go_take_over(State &s, int slot, bool by_mark)
{
	s.p.victim = uint8_t(slot);
	s.p.old_word = by_mark ? mirror(s, slot) : uint8_t(0);
	s.p.pc = by_mark ? P_STEAL : P_ZERO;
}

/* Chooses the slot for the next frame: empty, else done with, else stolen. */
static void
choose(State &s, uint8_t last_hold)
{
	int slot;

	for (int i = 0; i < cfg.slots; i++)
		if (mirror(s, i) == 0)
			return go_take_over(s, i, false);
	slot = oldest_unheld(s, true, last_hold);
	if (slot >= 0)
		return go_take_over(s, slot, !cfg.fast_reuse);
	s.p.pc = P_TAKEN; /* nothing found: try again */
	if (cfg.policy == POLICY_BLOCK && cfg.block_waits)
		return;
	slot = oldest_unheld(s, false, last_hold);
	if (slot >= 0)
		return go_take_over(s, slot, true);
	if (cfg.check_wait_free)
		violate("the producer must wait for a consumer");
}

/* A new producer on the old memory: finish an interrupted steal, then continue after the newest frame. */
static void
recover_producer(State &s)
{
	s.p.seq = uint8_t(newest(s) + 1);
	s.p.pc = P_TAKEN;
	for (int i = 0; i < cfg.slots; i++)
		if (s.mem[STATE + i] & STEAL) {
			s.p.victim = uint8_t(i);
			s.p.old_word = s.mem[STATE + i] & uint8_t(~STEAL);
			s.p.pc = P_FENCE;
			return;
		}
}

static void
read_taken(State &s)
{
	Producer &p = s.p;
	uint8_t taken;

	if (p.at == 0 && p.seq > cfg.frames) {
		p.pc = P_DONE;
		return;
	}
	taken = load(s, s.producer_stores, taken_addr(p.at));
	if (p.at == 0 || taken < p.taken)
		p.taken = taken;
	p.at = uint8_t(p.at + 1 < cfg.consumers ? p.at + 1 : 0);
	if (p.at == 0)
		p.pc = P_HOLD;
}

static void
read_hold(State &s)
{
	Producer &p = s.p;
	uint8_t hold = load(s, s.producer_stores, nth_hold(p.at));

	if (p.at + 1 < hold_words()) {
		p.held[p.at++] = hold;
		return;
	}
	choose(s, hold);
	p.at = 0;
	for (uint8_t &h : p.held)
		h = 0;
}

static void
check_hold(State &s)
{
	Producer &p = s.p;

	if (load(s, s.producer_stores, nth_hold(p.at)) == p.old_word)
		p.pc = P_RESTORE;
	else if (p.at + 1 == hold_words())
		p.pc = P_ZERO;
	p.at = uint8_t(p.pc == P_CHECK ? p.at + 1 : 0);
}

bool
produce(State &s)
{
	Producer &p = s.p;
	StoreBuffer &own = s.producer_stores;

	switch (p.pc) {
	case P_TAKEN:
		read_taken(s);
		return true;
	case P_HOLD:
		read_hold(s);
		return true;
	case P_STEAL:
		if (!store(s, own, STATE + p.victim, cfg.steal_mark ? p.old_word | STEAL : 0, false))
			return false;
		if (seq_of(p.old_word) > p.taken)
			s.dropped |= uint8_t(1 << seq_of(p.old_word));
		p.pc = cfg.producer_fence ? P_FENCE : P_CHECK;
		return true;
	case P_FENCE:
		if (own.count > 0)
			return false;
		p.pc = P_CHECK;
		return true;
	case P_CHECK:
		check_hold(s);
		return true;
	case P_RESTORE:
		if (!store(s, own, STATE + p.victim, p.old_word, true))
			return false;
		p.old_word = 0;
		p.pc = P_TAKEN;
		return true;
	case P_ZERO:
		if (!store(s, own, STATE + p.victim, 0, false))
			return false;
		p.old_word = 0;
		p.pc = P_LO;
		return true;
	case P_LO:
		if (!store(s, own, LO + p.victim, p.seq, false))
			return false;
		p.pc = P_HI;
		return true;
	case P_HI:
		if (!store(s, own, HI + p.victim, p.seq, false))
			return false;
		p.pc = P_PUBLISH;
		return true;
	case P_PUBLISH:
		if (!store(s, own, STATE + p.victim, word_of(p.seq, p.victim), cfg.release_publish))
			return false;
		p.seq++;
		p.pc = P_TAKEN;
		return true;
	case P_RECOVER:
		recover_producer(s);
		return true;
	}
	return false; /* P_DONE, P_DEAD */
}

void
kill_producer(State &s)
{
	uint8_t seq = s.p.seq, kills = uint8_t(s.p.kills + 1);

	drain_all(s, s.producer_stores);
	s.p = Producer{};
	s.p.seq = seq;
	s.p.kills = kills;
	s.p.pc = cfg.new_generation ? P_DEAD : P_RECOVER;
}

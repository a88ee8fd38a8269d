/* SPDX-License-Identifier: MIT */
/*
 * Model of the frame ring: the search
 *
 * Breadth first over every interleaving of the processes' steps, of the moments at which buffered stores become visible,
 * and of SIGKILL before any step. "Every" is meant literally: the search ends when no new state is left. Checked are, in
 * the steps themselves, torn payloads, order, duplicates and needless skips; and here
 *
 *   - at the end each published frame was delivered or dropped, and in BLOCK none was dropped;
 *   - from every state that can be reached the end can still be reached: nobody hangs.
 */
#include "model.h"

#include <cstdio>
#include <cstring>
#include <unordered_set>
#include <utility>
#include <vector>

Config cfg;
const char *violation = nullptr;

void
violate(const char *what)
{
	if (violation == nullptr)
		violation = what;
}

/* TSO: oldest first. PSO: any order, except two stores to one word, and a release store, which waits for all before. */
bool
may_drain(const StoreBuffer &own, int i)
{
	if (cfg.memory == MEMORY_TSO)
		return i == 0;
	if (own.store[i].release && i > 0)
		return false;
	for (int k = 0; k < i; k++)
		if (own.store[k].addr == own.store[i].addr)
			return false;
	return true;
}

namespace {

std::vector<State> states;
std::vector<uint32_t> parents;
std::vector<std::pair<uint32_t, uint32_t>> edges;

struct HashState {
	size_t operator()(uint32_t id) const
	{
		auto byte = reinterpret_cast<const unsigned char *>(&states[id]);
		uint64_t hash = 1469598103934665603ull;
		for (size_t i = 0; i < sizeof(State); i++)
			hash = (hash ^ byte[i]) * 1099511628211ull;
		return size_t(hash);
	}
};

struct EqualState {
	bool operator()(uint32_t a, uint32_t b) const
	{
		return memcmp(&states[a], &states[b], sizeof(State)) == 0;
	}
};

std::unordered_set<uint32_t, HashState, EqualState> known;

uint32_t
add(const State &s, uint32_t from)
{
	uint32_t id = uint32_t(states.size());
	states.push_back(s);
	auto [place, is_new] = known.insert(id);
	if (!is_new) {
		states.pop_back();
		return *place;
	}
	parents.push_back(from);
	return id;
}

/* Add all successors of one state; stops at the first violation. */
bool
expand(uint32_t id)
{
	const State s = states[id];
	auto reach = [&](const State &next) {
		edges.emplace_back(id, add(next, id));
		return violation == nullptr;
	};
	State next = s;

	if (produce(next) && !reach(next))
		return false;
	for (int k = 0; k < 2 * cfg.consumers; k++) {
		next = s;
		if (consume(next, k / 2, k % 2 != 0) && !reach(next))
			return false;
	}
	for (int i = 0; i < s.producer_stores.count; i++)
		if (may_drain(s.producer_stores, i)) {
			next = s;
			drain(next, next.producer_stores, i);
			reach(next);
		}
	for (int k = 0; k < cfg.consumers; k++)
		for (int i = 0; i < s.consumer_stores[k].count; i++)
			if (may_drain(s.consumer_stores[k], i)) {
				next = s;
				drain(next, next.consumer_stores[k], i);
				reach(next);
			}
	if (s.p.kills < cfg.kill_producer && s.p.pc != P_DONE && s.p.pc != P_DEAD) {
		next = s;
		kill_producer(next);
		reach(next);
	}
	for (int k = 0; k < cfg.consumers; k++) {
		if (s.c[k].kills < cfg.kill_consumer && s.c[k].pc != C_END) {
			next = s;
			kill_consumer(next, k);
			reach(next);
		}
		if (s.p.pc == P_DEAD && !s.c[k].knows && s.c[k].pc != C_END) {
			next = s;
			next.c[k].knows = 1;
			reach(next);
		}
	}
	return true;
}

void
show(uint32_t id)
{
	std::vector<uint32_t> path{id};
	while (parents[path.back()] != path.back())
		path.push_back(parents[path.back()]);
	for (size_t i = path.size(); i-- > 0;) {
		const State &s = states[path[i]];
		printf("  P pc=%d seq=%d victim=%d old=%02x kills=%d |", s.p.pc, s.p.seq,
		    s.p.victim, s.p.old_word, s.p.kills);
		for (int k = 0; k < cfg.consumers; k++)
			printf(" C%d pc=%d word=%02x last=%d kills=%d hold=%02x,%02x taken=%d |", k,
			    s.c[k].pc, s.c[k].word, s.c[k].last, s.c[k].kills,
			    s.mem[hold_addr(k, 0)], s.mem[hold_addr(k, 1)],
			    s.mem[taken_addr(k)]);
		for (int k = 0; k < cfg.slots; k++)
			printf(" %02x", s.mem[STATE + k]);
		printf(" buffered %d/%d/%d\n", s.producer_stores.count,
		    s.consumer_stores[0].count, s.consumer_stores[1].count);
	}
}

int
fail(const char *what, uint32_t id)
{
	printf("VIOLATION: %s\n", what);
	if (cfg.trace)
		show(id);
	return 1;
}

bool
is_end(const State &s)
{
	for (int k = 0; k < cfg.consumers; k++)
		if (s.c[k].pc != C_END)
			return false;
	return true;
}

/* Returns what is wrong with an end state, or nullptr. */
const char *
check_end(const State &s)
{
	for (int k = 0; k < cfg.consumers; k++)
		for (int f = 1; f < s.p.seq; f++) {
			bool delivered = s.c[k].delivered >> f & 1;
			bool dropped = (s.dropped | s.c[k].late) >> f & 1;
			if (!delivered && !dropped && cfg.policy != POLICY_LATEST)
				return "a published frame was neither delivered nor dropped";
			if (!delivered && (s.c[k].secured >> f & 1))
				return "a frame secured before a crash was not delivered";
		}
	if (cfg.policy == POLICY_BLOCK && cfg.block_waits && s.dropped)
		return "dropped in BLOCK";
	return nullptr;
}

/* Every state must have a path to an end state. Returns a state without one,
 * or -1. Walks the edges backwards from the end states. */
int64_t
find_stuck(const std::vector<uint32_t> &ends)
{
	const size_t n = states.size();
	std::vector<uint32_t> head(n + 1, 0), from(edges.size());

	for (const auto &e : edges)
		head[e.second + 1]++;
	for (size_t i = 0; i < n; i++)
		head[i + 1] += head[i];
	std::vector<uint32_t> next(head.begin(), head.end() - 1);
	for (const auto &e : edges)
		from[next[e.second]++] = e.first;

	std::vector<char> live(n, 0);
	std::vector<uint32_t> queue = ends;
	for (uint32_t id : ends)
		live[id] = 1;
	for (size_t i = 0; i < queue.size(); i++)
		for (uint32_t k = head[queue[i]]; k < head[queue[i] + 1]; k++)
			if (!live[from[k]]) {
				live[from[k]] = 1;
				queue.push_back(from[k]);
			}
	for (size_t i = 0; i < n; i++)
		if (!live[i])
			return int64_t(i);
	return -1;
}

} // namespace

int
check()
{
	State start;
	memset(&start, 0, sizeof(start));
	start.p.seq = 1;
	start.p.pc = P_TAKEN;
	add(start, 0);

	for (uint32_t id = 0; id < states.size() && violation == nullptr; id++) {
		expand(id);
		if (states.size() > cfg.limit) {
			printf("state limit reached\n");
			return 2;
		}
	}
	printf("%zu states %zu edges: ", states.size(), edges.size());
	if (violation != nullptr)
		return fail(violation, edges.back().second);

	std::vector<uint32_t> ends;
	for (uint32_t id = 0; id < states.size(); id++) {
		if (!is_end(states[id]))
			continue;
		ends.push_back(id);
		if (const char *wrong = check_end(states[id]))
			return fail(wrong, id);
	}
	int64_t stuck = find_stuck(ends);
	if (stuck >= 0)
		return fail("a state that cannot reach the end", uint32_t(stuck));
	printf("OK (%zu end states)\n", ends.size());
	return 0;
}

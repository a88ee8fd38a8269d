/* SPDX-License-Identifier: MIT */
/*
 * Model of the frame ring: the world
 *
 * One producer and one or two consumers, each with one or two holds, on a ring of at most four slots and seven frames.
 * A shared word of the real ring (proto/ring_layout.h) is one byte of State::mem here. A process is a program counter
 * and a few locals. A payload is two words, LO and HI, written one after the other: a torn frame is one with LO != HI.
 *
 * Stores go through a buffer for each process, as in real machines: a store is visible to others only when it has been
 * drained. SC has no buffers; TSO drains in order; PSO drains stores to different words in any order, except that a
 * release store waits for all that came before it. A seq_cst fence is a step that needs an empty buffer.
 *
 * Not modelled: bells and doorbells (a lost wake-up costs one timeout, never safety), reordering of loads (each takes
 * effect where it stands in the program), and hostile peers, which tests/ring/test_hostile.c is for.
 */
#ifndef MR_TESTS_MODEL_H
#define MR_TESTS_MODEL_H

#include <cstddef>
#include <cstdint>
#include <type_traits>

constexpr int kSlotsMax = 4;
constexpr int kConsumersMax = 2;
constexpr int kHoldsMax = 2;
constexpr int kStoresMax = 6; /* depth of a store buffer */
constexpr int kFramesMax = 7; /* frames are bits of a uint8_t */

/* ---- configuration ---------------------------------------------------- */

enum Memory { MEMORY_SC, MEMORY_TSO, MEMORY_PSO };
enum Policy { POLICY_DROP, POLICY_BLOCK, POLICY_LATEST };
enum Scan { SCAN_ONCE, SCAN_TWICE, SCAN_AGREE };

struct Config {
	int slots = 3;
	int frames = 4;
	int consumers = 1;
	int holds = 1;	       /* of each consumer */
	int kill_producer = 1; /* how often SIGKILL may hit the producer */
	int kill_consumer = 1; /* ... and each consumer */
	Memory memory = MEMORY_TSO;
	Policy policy = POLICY_DROP;
	int depth = 0; /* DROP: a consumer looks at that many newest frames; 0: all */
	size_t limit = 12000000; /* states */
	bool trace = false;

	bool new_generation = false;   /* a dead producer never returns: its ring is drained and dropped */
	bool check_redelivery = false; /* a frame that a consumer secured before it died must be delivered */
	bool check_wait_free = false;  /* except in BLOCK the producer must always find a slot */

	/* Mutants: each leaves out one rule. */
	bool producer_fence = true;
	bool consumer_fence = true;
	bool steal_mark = true;
	bool release_publish = true;
	bool release_taken = true;
	bool keep_newest = true;
	bool hold_first = true;
	bool block_waits = true;
	bool fast_reuse = true; /* false is what proto/ring.c does: every slot is taken over by mark, fence, check */
	bool recover_hold = true;
	bool recover_all = true; /* all holds of the dead, not the first only */
	bool recover_waits = true;
	Scan scan = SCAN_AGREE;
};

extern Config cfg;

/* ---- state ------------------------------------------------------------ */

/* Addresses of the shared words. */
enum {
	STATE = 0,
	LO = STATE + kSlotsMax,
	HI = LO + kSlotsMax,
	HOLD = HI + kSlotsMax,
	TAKEN = HOLD + kHoldsMax * kConsumersMax,
	WORDS = TAKEN + kConsumersMax
};

constexpr int hold_addr(int consumer, int k) { return HOLD + kHoldsMax * consumer + k; }
constexpr int taken_addr(int consumer) { return TAKEN + consumer; }

/* A state word, as in the real ring: STEAL | slot | sequence; 0 is empty. */
constexpr uint8_t STEAL = 0x40;
constexpr uint8_t word_of(int seq, int slot) { return uint8_t(seq | slot << 4); }
constexpr int seq_of(uint8_t word) { return word & 0xf; }
constexpr int slot_of(uint8_t word) { return (word & ~STEAL) >> 4; }

struct Store {
	uint8_t addr, value, release;
};

struct StoreBuffer {
	Store store[kStoresMax];
	uint8_t count;
};

struct Producer {
	uint8_t pc;
	uint8_t seq;	  /* of the next frame */
	uint8_t victim;	  /* slot being taken over */
	uint8_t old_word; /* what the victim held */
	uint8_t taken;	  /* least `taken` seen */
	uint8_t at;	  /* hold or `taken` word to read next, in one list over all consumers */
	uint8_t held[kHoldsMax * kConsumersMax - 1]; /* hold words read so far */
	uint8_t kills;
};

struct Consumer {
	uint8_t pc;
	uint8_t word, slot;	 /* frame being taken or used */
	uint8_t at;		 /* its hold */
	uint8_t held[kHoldsMax]; /* private copy of the holds of secured frames; with two holds */
	uint8_t recovering;	 /* with two holds: looks through the holds of the dead */
	uint8_t last;		 /* newest sequence taken */
	uint8_t best;		 /* candidate of the scan under way */
	uint8_t pass[kSlotsMax]; /* words of that scan, only with depth */
	uint8_t scans;		 /* SCAN_TWICE: scans done */
	uint8_t previous;	 /* SCAN_AGREE: candidate of the scan before */
	uint8_t lo;		 /* first half of the payload */
	uint8_t kills;
	uint8_t knows; /* was told that the producer is dead */

	/* Not part of the protocol: what the checks must remember. Bits are sequences. */
	uint8_t crashed;
	uint8_t delivered;
	uint8_t last_delivered;
	uint8_t secured; /* only with check_redelivery */
	uint8_t late;	 /* skipped on purpose, only with depth */
};

struct State {
	uint8_t mem[WORDS];
	StoreBuffer producer_stores;
	StoreBuffer consumer_stores[kConsumersMax];
	Producer p;
	Consumer c[kConsumersMax];
	uint8_t dropped; /* the producer tried to drop these */
};

static_assert(std::has_unique_object_representations_v<State>, "states are compared and hashed as bytes");

extern const char *violation; /* the first one, or nullptr */
void violate(const char *what);

/* ---- memory ----------------------------------------------------------- */

/* A process sees its own latest store first. */
inline uint8_t
load(const State &s, const StoreBuffer &own, int addr)
{
	for (int i = own.count - 1; i >= 0; i--)
		if (own.store[i].addr == addr)
			return own.store[i].value;
	return s.mem[addr];
}

/* False: the store buffer is full, so this step is not possible now. */
inline bool
store(State &s, StoreBuffer &own, int addr, int value, bool release)
{
	if (cfg.memory == MEMORY_SC) {
		s.mem[addr] = uint8_t(value);
		return true;
	}
	if (own.count == kStoresMax)
		return false;
	own.store[own.count++] = Store{uint8_t(addr), uint8_t(value), uint8_t(release)};
	return true;
}

/* Makes the i-th buffered store visible to everyone. */
inline void
drain(State &s, StoreBuffer &own, int i)
{
	s.mem[own.store[i].addr] = own.store[i].value;
	for (int k = i; k + 1 < own.count; k++)
		own.store[k] = own.store[k + 1];
	own.store[--own.count] = Store{0, 0, 0};
}

bool may_drain(const StoreBuffer &own, int i);

/* What a killed process has executed becomes visible: death is a full fence. */
inline void
drain_all(State &s, StoreBuffer &own)
{
	while (own.count > 0)
		drain(s, own, 0);
}

/* ---- the two processes and the search --------------------------------- */

enum ProducerStep {
	P_TAKEN,   /* read `taken` of each consumer */
	P_HOLD,	   /* read the hold words, after the last choose a slot */
	P_STEAL,   /* mark the victim */
	P_FENCE,   /* wait until the mark is visible */
	P_CHECK,   /* held after all? */
	P_ZERO,	   /* the slot is ours: state = 0 */
	P_LO,	   /* write the payload ... */
	P_HI,
	P_PUBLISH, /* state = word */
	P_DONE,
	P_RECOVER, /* a new producer on the old memory */
	P_RESTORE, /* give the victim back */
	P_DEAD
};

enum ConsumerStep {
	C_SCAN, /* C_SCAN + i reads state word i */
	C_SCAN_LAST = C_SCAN + kSlotsMax - 1,
	C_PICK,
	C_HOLD,	    /* announce the frame */
	C_FENCE,    /* wait until that is visible */
	C_VALIDATE, /* is it still there? */
	C_TAKEN,
	C_NEXT, /* with two holds: use the oldest held frame, or take another one first */
	C_LO,	/* use the payload */
	C_HI,
	C_RELEASE,
	C_UNHOLD,  /* lost the race: look again */
	C_RECOVER, /* a new incarnation: what was held? */
	C_RECOVER_2,
	C_END
};

/* One step, which touches at most one shared word. False: not possible now. */
bool produce(State &s);
void kill_producer(State &s);
/* `other`: the second possibility where the consumer has a choice. */
bool consume(State &s, int k, bool other);
void kill_consumer(State &s, int k);

/* Visits every reachable state and prints the verdict. 0: all holds; 1: violation; 2: too many states. */
int check();

#endif

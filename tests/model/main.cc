/* SPDX-License-Identifier: MIT */
/*
 * Model of the frame ring: command line
 *
 * Usage: ring_model [name=value ...]. Without arguments: 3 slots, 4 frames, one consumer with one hold, one kill of each
 * process, TSO, DROP_OLDEST. Exit status: 0 all checks hold, 1 violation, 2 usage or state limit.
 *
 *     slots 1-4, frames 1-7, consumers 1-2, holds 1-2
 *     kill-producer, kill-consumer   0-9: how often SIGKILL may hit each process, before any of its steps
 *     memory     sc, tso, pso        see model.h
 *     policy     drop, block, latest
 *     depth      0-4                 drop: a consumer looks only at that many newest frames
 *     new-generation=1               a killed producer never returns; consumers are told later, drain and stop. This is
 *                                    what millrace does; without it a new producer continues on the old memory
 *     check-redelivery=1             also: a frame validated before a crash is delivered in the end
 *     check-wait-free=1              also: except in BLOCK the producer always finds a slot
 *     mutant=NAME                    leaves out one rule, see set_mutant()
 *     trace=1                        prints the path to the violation
 *     limit=N                        greatest number of states
 *
 * run_model.sh lists the runs that must hold and the mutants that must fail.
 */
#include "model.h"

#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

bool
set_mutant(const std::string &name)
{
	if (name == "no-producer-fence")
		cfg.producer_fence = false;
	else if (name == "no-consumer-fence")
		cfg.consumer_fence = false;
	else if (name == "zero-first")
		cfg.steal_mark = false;
	else if (name == "relaxed-publish")
		cfg.release_publish = false;
	else if (name == "relaxed-taken")
		cfg.release_taken = false;
	else if (name == "steal-newest")
		cfg.keep_newest = false;
	else if (name == "hold-after-validate")
		cfg.hold_first = false;
	else if (name == "block-steals")
		cfg.block_waits = false;
	else if (name == "always-steal")
		cfg.fast_reuse = false;
	else if (name == "forget-hold")
		cfg.recover_hold = false;
	else if (name == "recover-first-hold")
		cfg.recover_all = false;
	else if (name == "recover-at-once")
		cfg.recover_waits = false;
	else if (name == "scan-once")
		cfg.scan = SCAN_ONCE;
	else if (name == "scan-twice")
		cfg.scan = SCAN_TWICE;
	else
		return false;
	return true;
}

bool
set_number(const std::string &name, int n)
{
	if (name == "slots" && n >= 1 && n <= kSlotsMax)
		cfg.slots = n;
	else if (name == "frames" && n >= 1 && n <= kFramesMax)
		cfg.frames = n;
	else if (name == "consumers" && n >= 1 && n <= kConsumersMax)
		cfg.consumers = n;
	else if (name == "holds" && n >= 1 && n <= kHoldsMax)
		cfg.holds = n;
	else if (name == "kill-producer" && n >= 0 && n <= 9)
		cfg.kill_producer = n;
	else if (name == "kill-consumer" && n >= 0 && n <= 9)
		cfg.kill_consumer = n;
	else if (name == "depth" && n >= 0 && n <= kSlotsMax)
		cfg.depth = n;
	else if (name == "limit" && n > 0)
		cfg.limit = size_t(n);
	else if (name == "new-generation" && (n == 0 || n == 1))
		cfg.new_generation = n;
	else if (name == "check-redelivery" && (n == 0 || n == 1))
		cfg.check_redelivery = n;
	else if (name == "check-wait-free" && (n == 0 || n == 1))
		cfg.check_wait_free = n;
	else if (name == "trace" && (n == 0 || n == 1))
		cfg.trace = n;
	else
		return false;
	return true;
}

bool
set_name(const std::string &name, const std::string &value)
{
	static const char *const memories[] = {"sc", "tso", "pso"};
	static const char *const policies[] = {"drop", "block", "latest"};

	for (int i = 0; i < 3; i++) {
		if (name == "memory" && value == memories[i]) {
			cfg.memory = Memory(i);
			return true;
		}
		if (name == "policy" && value == policies[i]) {
			cfg.policy = Policy(i);
			return true;
		}
	}
	return name == "mutant" && set_mutant(value);
}

bool
parse(const std::string &argument)
{
	size_t equals = argument.find('=');
	if (equals == std::string::npos || equals + 1 == argument.size())
		return false;
	std::string name = argument.substr(0, equals), value = argument.substr(equals + 1);
	char *end = nullptr;
	long number = strtol(value.c_str(), &end, 10);
	if (*end == '\0' && number >= 0 && number <= 1000000000)
		return set_number(name, int(number));
	return set_name(name, value);
}

} // namespace

int
main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (!parse(argv[i])) {
			fprintf(stderr, "ring_model: bad argument: %s\n", argv[i]);
			return 2;
		}
	return check();
}

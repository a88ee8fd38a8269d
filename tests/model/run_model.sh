#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Goal: the frame ring's protocol holds in every interleaving, and the checker would notice if it did not.
# Method: runs the model checker and compares each verdict with what is known. A row is: the text that the verdict must
# begin with | arguments. The exact number of states is part of it, so that a change of the model is noticed too.
#
# usage: run_model.sh RING_MODEL [quick|full]
# quick: half a minute, 0.5 GiB. full adds the largest state spaces: some minutes, 3.5 GiB.
# Prints TAP, a test for each run. Exit status: 0 all as expected, 1 not, 2 usage.

set -u
model=${1:-}
mode=${2:-quick}
if [ ! -x "$model" ] || { [ "$mode" != quick ] && [ "$mode" != full ]; }; then
	echo "usage: $0 RING_MODEL [quick|full]" >&2
	exit 2
fi
count=0
wrong=0

# Variables must outlive the loop, so the rows come from a here-document and not through a pipe.
check_rows() {
	while IFS='|' read -r want args; do
		want=${want%"${want##*[! ]}"}
		[ -n "$want" ] || continue
		count=$((count + 1))
		# shellcheck disable=SC2086  # the arguments are words
		got=$("$model" $args)
		got=${got#*edges: VIOLATION: }
		case $got in
		"$want"*) echo "ok $count - $args: $got" ;;
		*)
			echo "not ok $count - $args: $got (expected: $want)"
			wrong=$((wrong + 1))
			;;
		esac
	done
}

# mutant=always-steal new-generation=1 is what proto/ring.c does: every slot is taken over by mark, fence and check, and a
# dead producer's ring is drained and replaced.
echo "# the protocol that ships: must hold"
check_rows <<'END'
1551012 states 5556498 edges: OK | mutant=always-steal new-generation=1 check-redelivery=1 check-wait-free=1 frames=5
458919 states 1995079 edges: OK  | mutant=always-steal new-generation=1 check-redelivery=1 memory=pso
254548 states 872527 edges: OK   | mutant=always-steal new-generation=1 check-redelivery=1 check-wait-free=1 depth=1
275099 states 949668 edges: OK   | mutant=always-steal new-generation=1 check-redelivery=1 check-wait-free=1 depth=2
505799 states 2150129 edges: OK  | mutant=always-steal new-generation=1 check-redelivery=1 check-wait-free=1 depth=2 memory=pso
62312 states 230243 edges: OK    | mutant=always-steal new-generation=1 check-redelivery=1 policy=block frames=5
151661 states 581085 edges: OK   | mutant=always-steal new-generation=1 check-redelivery=1 policy=block frames=5 kill-consumer=2
130880 states 646368 edges: OK   | mutant=always-steal new-generation=1 check-redelivery=1 policy=block frames=5 memory=pso
1060810 states 3025624 edges: OK | mutant=always-steal consumers=2 memory=sc kill-producer=0 kill-consumer=0
928914 states 3527347 edges: OK  | mutant=always-steal new-generation=1 check-redelivery=1 consumers=2 memory=sc frames=3
132184 states 378752 edges: OK   | mutant=always-steal new-generation=1 consumers=2 slots=4 memory=sc kill-producer=0 kill-consumer=0 check-wait-free=1
234821 states 917684 edges: OK   | mutant=always-steal new-generation=1 holds=2 slots=4 check-redelivery=1 check-wait-free=1
813903 states 2123664 edges: OK  | mutant=always-steal new-generation=1 holds=2 slots=4 check-redelivery=1 check-wait-free=1 frames=5 memory=sc
647601 states 1636039 edges: OK  | mutant=always-steal new-generation=1 holds=2 slots=4 check-redelivery=1 check-wait-free=1 frames=5 memory=sc depth=2
901601 states 4994218 edges: OK  | mutant=always-steal new-generation=1 holds=2 slots=4 check-redelivery=1 memory=pso
569301 states 2254915 edges: OK  | mutant=always-steal new-generation=1 holds=2 slots=4 check-redelivery=1 policy=block frames=5
END

echo "# the same with one rule left out: must fail"
check_rows <<'END'
torn                       | mutant=always-steal new-generation=1 mutant=no-producer-fence
torn                       | mutant=always-steal new-generation=1 mutant=no-consumer-fence
torn                       | mutant=always-steal new-generation=1 consumers=2 mutant=no-producer-fence kill-producer=0 kill-consumer=0
torn                       | mutant=always-steal new-generation=1 consumers=2 mutant=no-consumer-fence kill-producer=0 kill-consumer=0
torn                       | mutant=always-steal new-generation=1 holds=2 slots=4 frames=5 mutant=no-producer-fence
torn                       | mutant=always-steal new-generation=1 holds=2 slots=4 frames=5 mutant=no-consumer-fence
torn                       | mutant=always-steal new-generation=1 mutant=relaxed-publish memory=pso
a published frame          | mutant=always-steal new-generation=1 mutant=hold-after-validate
a frame secured            | mutant=always-steal new-generation=1 mutant=zero-first check-redelivery=1
a frame secured            | mutant=always-steal new-generation=1 mutant=recover-at-once check-redelivery=1
a published frame          | mutant=always-steal new-generation=1 mutant=forget-hold
a published frame          | mutant=always-steal new-generation=1 mutant=recover-first-hold holds=2 slots=4
consumer skipped           | mutant=always-steal new-generation=1 mutant=scan-once
consumer skipped           | mutant=always-steal new-generation=1 mutant=scan-twice frames=5
a state that cannot        | mutant=always-steal new-generation=1 mutant=block-steals policy=block
the producer must wait     | mutant=always-steal new-generation=1 slots=2 check-wait-free=1
the producer must wait     | mutant=always-steal new-generation=1 consumers=2 slots=3 memory=sc kill-producer=0 kill-consumer=0 check-wait-free=1
the producer must wait     | mutant=always-steal new-generation=1 holds=2 slots=3 memory=sc kill-producer=0 kill-consumer=0 check-wait-free=1
END

# The harder protocol, in which a new producer continues on the old memory and slots that all consumers are done with are
# reused without a fence. Kept because a rule that holds here holds with room to spare.
echo "# the general protocol: must hold"
check_rows <<'END'
65375 states 162308 edges: OK    | memory=sc
429274 states 1498108 edges: OK  | memory=tso check-wait-free=1
956337 states 4310547 edges: OK  | memory=pso
902789 states 3211036 edges: OK  | slots=4 frames=5
268133 states 1100177 edges: OK  | policy=block frames=5 kill-producer=2 kill-consumer=2
261668 states 1362597 edges: OK  | policy=block memory=pso
387837 states 1324337 edges: OK  | policy=latest
151083 states 747575 edges: OK   | policy=latest memory=pso frames=3
403424 states 1370225 edges: OK  | depth=1
441411 states 1514279 edges: OK  | depth=2
731823 states 2447291 edges: OK  | check-redelivery=1
558481 states 2581958 edges: OK  | new-generation=1 check-redelivery=1 memory=pso
145607 states 572852 edges: OK   | new-generation=1 check-redelivery=1 policy=block frames=5 kill-consumer=2
270967 states 947480 edges: OK   | new-generation=1 check-redelivery=1 check-wait-free=1 depth=2
997330 states 2835184 edges: OK  | consumers=2 memory=sc kill-producer=0 kill-consumer=0
544280 states 2367659 edges: OK  | consumers=2 policy=block kill-producer=0 kill-consumer=0
END

echo "# the general protocol with one rule left out: must fail"
check_rows <<'END'
torn                       | mutant=no-producer-fence kill-producer=0 kill-consumer=0
torn                       | mutant=no-consumer-fence kill-producer=0 kill-consumer=0
torn                       | mutant=relaxed-publish memory=pso kill-producer=0 kill-consumer=0
torn                       | mutant=hold-after-validate memory=sc kill-producer=0 kill-consumer=0
torn                       | mutant=zero-first memory=sc kill-consumer=0
a frame secured            | mutant=zero-first kill-producer=0 check-redelivery=1
a frame secured            | mutant=recover-at-once kill-producer=0 check-redelivery=1
a published frame          | mutant=forget-hold kill-producer=0
consumer skipped           | mutant=scan-once memory=sc kill-producer=0 kill-consumer=0
consumer skipped           | mutant=scan-twice frames=5
a state that cannot        | mutant=block-steals policy=block kill-producer=0 kill-consumer=0
the producer must wait     | slots=2 memory=sc kill-producer=0 kill-consumer=0 check-wait-free=1
the producer must wait     | consumers=2 slots=3 memory=sc kill-producer=0 kill-consumer=0 check-wait-free=1
torn                       | new-generation=1 mutant=no-producer-fence
torn                       | new-generation=1 mutant=no-consumer-fence
torn                       | new-generation=1 mutant=relaxed-publish memory=pso
torn                       | new-generation=1 mutant=hold-after-validate
a frame secured            | new-generation=1 mutant=recover-at-once check-redelivery=1
a published frame          | new-generation=1 mutant=forget-hold
torn                       | consumers=2 mutant=no-producer-fence kill-producer=0 kill-consumer=0
torn                       | consumers=2 mutant=no-consumer-fence kill-producer=0 kill-consumer=0
torn                       | consumers=2 mutant=zero-first memory=sc kill-consumer=0
END

if [ "$mode" = full ]; then
	echo "# large: must hold"
	check_rows <<'END'
3662914 states 13706693 edges: OK  | mutant=always-steal new-generation=1 check-redelivery=1 frames=5 kill-consumer=2
1941049 states 6734225 edges: OK   | mutant=always-steal new-generation=1 check-redelivery=1 check-wait-free=1 depth=2 frames=5
6050507 states 22661359 edges: OK  | mutant=always-steal new-generation=1 holds=2 slots=4 check-redelivery=1 check-wait-free=1 frames=5
2391094 states 8423348 edges: OK   | frames=5
1581794 states 5776585 edges: OK   | new-generation=1 check-redelivery=1 check-wait-free=1 frames=5
1049709 states 2854545 edges: OK   | consumers=2 memory=sc kill-producer=0 kill-consumer=0 policy=latest
6444035 states 25592466 edges: OK  | frames=5 kill-producer=2 kill-consumer=2
4720722 states 16898225 edges: OK  | slots=4 frames=6
3733586 states 14241373 edges: OK  | new-generation=1 check-redelivery=1 frames=5 kill-consumer=2
7004556 states 19933024 edges: OK  | consumers=2 slots=4 frames=5 memory=sc kill-producer=0 kill-consumer=0 check-wait-free=1
4014878 states 20845200 edges: OK  | consumers=2 slots=2 frames=3 new-generation=1
5667127 states 25519030 edges: OK  | consumers=2 slots=2 frames=3 kill-producer=0 check-redelivery=1
12899929 states 55201527 edges: OK | consumers=2 kill-producer=0 kill-consumer=0 limit=20000000
14947144 states 60936029 edges: OK | consumers=2 memory=sc new-generation=1 limit=20000000
END
	echo "# large, one rule left out: must fail"
	check_rows <<'END'
a frame secured            | mutant=always-steal new-generation=1 holds=2 slots=4 frames=5 mutant=recover-at-once check-redelivery=1
END
fi

echo "1..$count"
[ "$wrong" = 0 ]

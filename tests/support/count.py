#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Adds up the test cases of one run of `meson test` and prints the closing line.

usage: count.py BUILD_DIR

A meson test is a program; what people want to know is how many cases passed. A program that prints TAP is counted
by its lines, a criterion program without TAP by its synthesis line, any other program as one case. A program that
failed counts for at least one failure, whatever it printed, and a case that a TAP plan promised and that never came
is a failure too. The exit status is 0 only when something ran and nothing failed.
"""
import json
import os
import re
import sys

TAP_LINE = re.compile(r"^(not )?ok\b(.*)$")
TAP_PLAN = re.compile(r"^1\.\.(\d+)")
TAP_SKIP = re.compile(r"#\s*skip", re.IGNORECASE)
COMMENTS_MAX = 40
SYNTHESIS = re.compile(r"Synthesis: Tested: (\d+) \| Passing: (\d+) \| Failing: (\d+)")


def count_tap(text):
    passed = failed = skipped = 0
    plan = None
    for line in text.splitlines():
        found = TAP_PLAN.match(line)
        if found:
            plan = int(found.group(1))
        found = TAP_LINE.match(line)
        if not found:
            continue
        if TAP_SKIP.search(found.group(2)):
            skipped += 1
        elif found.group(1):
            failed += 1
        else:
            passed += 1
    if plan is None and passed + failed + skipped == 0:
        return None
    missing = (plan or 0) - passed - failed - skipped
    return passed, failed + max(0, missing), skipped


def count_test(entry):
    """(passed, failed, skipped) of one line of meson's log."""
    output = entry.get("stdout") or ""
    counts = count_tap(output)
    if counts is None:
        found = SYNTHESIS.search(output + (entry.get("stderr") or ""))
        if found:
            counts = (int(found.group(2)), int(found.group(3)), 0)
    result = entry["result"]
    if result == "SKIP":
        return counts if counts and sum(counts) else (0, 0, 1)
    if result in ("OK", "EXPECTEDFAIL"):
        return counts if counts else (1, 0, 0)
    passed, failed, skipped = counts if counts else (0, 0, 0)
    return passed, max(1, failed), skipped


def failures(entry):
    """What a failed test said: its failed cases, each with the comments before it."""
    said, comments = [], []
    for line in (entry.get("stdout") or "").splitlines():
        if line.startswith("#"):
            comments.append(line)
        elif line.startswith("not ok"):
            said += comments[-COMMENTS_MAX:] + [line]
            comments = []
        elif line.startswith("ok"):
            comments = []
    return said or comments[-COMMENTS_MAX:]


def main():
    path = os.path.join(sys.argv[1], "meson-logs", "testlog.json")
    passed = failed = skipped = 0
    try:
        with open(path, encoding="utf-8", errors="replace") as log:
            for line in log:
                if not line.strip():
                    continue
                entry = json.loads(line)
                p, f, s = count_test(entry)
                passed, failed, skipped = passed + p, failed + f, skipped + s
                if f:
                    print(f"\nfailed: {entry['name']}: {entry['result']}")
                    for said in failures(entry):
                        print(f"  {said}")
    except OSError as error:
        print(f"no test log: {error}")
        return 1
    print(f"\n{passed} passed, {failed} failed, {skipped} skipped")
    return 0 if failed == 0 and passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main())

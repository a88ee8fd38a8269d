#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
Goal: a worker that says impossible or ruinous things on its control socket hurts its own session's pictures and nothing
else: the supervisor answers, egress lives, the stream goes on with its fallback.
Method: hostile_worker.py in each of its modes behind the real supervisor, /health asked all the time.
"""
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from stack import BUILD, CLIP_WHIP, SLOW, Failure, Stack, run, wait_for  # noqa: E402

HOSTILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hostile_worker.py")
REAL = os.path.abspath(os.path.join(BUILD, "libexec", "millrace", "workers", "green-tint"))


def counters(s):
    return s.status("s")["millrace"]["egress"]["counters"]


def play(mode, *args):
    """Three seconds with that worker; returns the stack's last status and the slowest /health in seconds."""
    with Stack(" ".join((HOSTILE, mode) + args), serve_args=("--worker-env", "REAL=" + REAL)) as s:
        s.wait_ready()
        s.publish(CLIP_WHIP, args=("--loop",))
        assert s.session("s")[0] == 200
        wait_for("output", lambda: counters(s)["frames_out"] > 12, 15)
        slowest, end = 0.0, time.monotonic() + 3
        while time.monotonic() < end:
            begin = time.monotonic()
            assert s.get("/health")[1]["status"] == "OK"
            slowest = max(slowest, time.monotonic() - begin)
        before = counters(s)["frames_out"]
        wait_for("the stream to go on", lambda: counters(s)["frames_out"] > before + 12, 10)
        if mode == "closein":
            wait_for("processed frames of the next life", lambda: counters(s)["frames_processed"] > 12, 10)
        status = s.status("s")["millrace"]
        print(f"# {mode}: slowest /health {slowest * 1000:.0f} ms, {status['worker_deaths']} deaths of the worker")
        if status["egress"]["deaths"] or status["ingest"]["deaths"]:
            raise Failure(f"{mode} killed a process that is not its own: {status['egress']} {status['ingest']}")
        if slowest > 0.4 * SLOW:
            raise Failure(f"{mode} held the supervisor up for {slowest:.2f} s")
        assert s.post("/api/stream/stop")[0] == 200
        return status


def test_ring_mapped_after_it_was_replaced():
    play("mapreplaced")


def test_rings_piled_up():
    play("ringpile")


def test_flood_of_large_rings():
    assert play("ringflood")["worker_deaths"] > 0


def test_ring_closed_that_has_not_ended():
    flag = f"/tmp/millrace-test-closein-{os.getpid()}"
    try:
        assert play("closein", flag)["worker_deaths"] > 0
    finally:
        if os.path.exists(flag):
            os.unlink(flag)


def test_flood_of_events():
    play("eventflood")


if __name__ == "__main__":
    run([test_ring_mapped_after_it_was_replaced, test_rings_piled_up, test_flood_of_large_rings,
         test_ring_closed_that_has_not_ended, test_flood_of_events])

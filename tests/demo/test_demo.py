#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
Goal: the demo is what a newcomer sees first: it keeps its promises, says clearly what is wrong when something is, and
leaves no process behind however it ends.
Method: it is run as a person runs it, and interrupted and killed; its descendants are looked for in /proc.
"""
import os
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from stack import MILLRACE, SLOW, Failure, run, wait_for  # noqa: E402


def start(*arguments):
    """The demo in a folder of its own, with Ctrl-C as a shell in the foreground leaves it."""
    folder = tempfile.TemporaryDirectory(prefix="millrace-test-demo-")
    process = subprocess.Popen(
        [os.path.abspath(MILLRACE), "demo", "-o", os.path.join(folder.name, "out.ts"), *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    process.folder = folder
    return process


def parent_of(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            state, parent = f.read().rsplit(")", 1)[1].split()[:2]
            return None if state == "Z" else int(parent)
    except OSError:
        return None


def descendants(root):
    parents = {int(p): parent_of(p) for p in os.listdir("/proc") if p.isdigit()}
    found, grew = {root}, True
    while grew:
        more = {p for p, up in parents.items() if up in found} - found
        grew = bool(more)
        found |= more
    return found - {root}


def running_demo():
    """A demo whose stream flows, and all the processes that it has started."""
    demo = start("--seconds", "60")
    for line in demo.stdout:
        if "first processed frame" in line:
            family = descendants(demo.pid)
            if len(family) < 6:  # relay, publish, play; supervisor, ingest, egress, worker
                raise Failure(f"only {len(family)} processes belong to the demo")
            return demo, family
    raise Failure("the demo ended before its first processed frame")


def nobody_is_left(demo, family):
    wait_for("all processes of the demo to be gone", lambda: not [p for p in family if parent_of(p) is not None], 10)
    demo.stdout.close()
    demo.folder.cleanup()


def test_demo_keeps_its_promises():
    demo = start("--seconds", str(6 * SLOW))
    text, _ = demo.communicate(timeout=60 * SLOW)
    demo.folder.cleanup()
    for line in text.splitlines():
        print(f"# {line}")
    if demo.returncode != 0 or "The stream never stopped." not in text:
        raise Failure(f"the demo ended with status {demo.returncode}")


def test_interrupted_demo_leaves_nothing():
    demo, family = running_demo()
    demo.send_signal(signal.SIGINT)
    if demo.wait(20 * SLOW) != 130:
        raise Failure(f"status {demo.returncode} after Ctrl-C")
    nobody_is_left(demo, family)


def test_killed_demo_leaves_nothing():
    demo, family = running_demo()
    demo.kill()
    demo.wait()
    nobody_is_left(demo, family)


def test_demo_of_something_else():
    with tempfile.NamedTemporaryFile(suffix=".ts") as nothing:
        nothing.write(b"this is not a video\n" * 500)
        nothing.flush()
        demo = start(nothing.name)
        text, _ = demo.communicate(timeout=60 * SLOW)
        demo.folder.cleanup()
    if demo.returncode != 1 or "millrace publish" not in text or "Traceback" in text:
        raise Failure(f"status {demo.returncode}: {text}")


if __name__ == "__main__":
    run([test_demo_keeps_its_promises, test_interrupted_demo_leaves_nothing, test_killed_demo_leaves_nothing,
         test_demo_of_something_else])

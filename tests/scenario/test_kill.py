#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
Goal: a worker that is killed again and again costs the viewer nothing but the frames in between: same session, one
strictly increasing timeline, no gap over one frame interval + 100 ms, processed frames after each kill, nothing leaked.
Method: SIGKILL to the worker's pid once a second; the output is read on the wire, with the time of arrival of each
frame. MILLRACE_KILLS makes the run longer.
"""
import os
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from stack import CLIP, CLIP_WHIP, SLOW, Failure, Reader, Stack, fd_count, probe_errors, run, wait_for  # noqa: E402

KILLS = int(os.environ.get("MILLRACE_KILLS", "8"))
FRAME = 1 / 24


def memory_kib(pids):
    """What is theirs: file pages count less the more other processes of the machine happen to map them."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as f:
                total += sum(int(line.split()[1]) for line in f if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
        except OSError:
            continue
    return total


def worker_pid(s):
    return next((w["pid"] for w in s.workers() if w.get("pid")), 0)


def counters(s):
    return s.status("kill")["millrace"]["egress"]["counters"]


def kill_and_see(s, n):
    """One kill; processed frames must come again."""
    pid = wait_for(f"a worker to kill (kill {n})", lambda: worker_pid(s), 5)
    before = counters(s)["frames_processed"]
    os.kill(pid, signal.SIGKILL)
    begin = time.monotonic()
    wait_for(f"another worker after kill {n}", lambda: worker_pid(s) not in (0, pid), 5)
    wait_for(f"processed frames after kill {n}", lambda: counters(s)["frames_processed"] > before + 2, 5)
    time.sleep(max(0.0, 1.0 - (time.monotonic() - begin)))  # the rate of the kills, not a wait for an event


def source_gap(source, out):
    """The longest time between two pictures that the source itself let be shown: with B-frames a picture has its turn
    only when all before it have arrived, and the limit leaves some out."""
    sent, arrived, ready = {t for t, _ in out.pts}, 0.0, []
    for pts, when in sorted(source.pts):
        arrived = max(arrived, when)
        if pts in sent:
            ready.append(arrived)
    return max(b - a for a, b in zip(ready, ready[1:]))


def check_gaps(out, allowed):
    late = [(b[1] - a[1], a[0]) for a, b in zip(out.pts, out.pts[1:])]
    worst = max(late)
    print(f"# longest gap between two frames on the wire: {worst[0] * 1000:.0f} ms at PTS {worst[1] / 90000:.3f}")
    if worst[0] > allowed * SLOW:
        raise Failure(f"a gap of {worst[0] * 1000:.0f} ms in the output")
    for a, b in zip(out.pts, out.pts[1:]):
        if b[0] <= a[0]:
            raise Failure(f"timestamps do not increase: {a[0]} then {b[0]}")


def play(clip, kills):
    """Runs the clip with so many kills; returns what was read of the input and of the output."""
    with Stack("green-tint") as s:
        s.wait_ready()
        out, source = Reader(f"{s.relay_url}/kill-out"), Reader(f"{s.relay_url}/in")
        source.start()
        s.publish(clip, args=("--loop",))
        assert s.session("kill")[0] == 200
        out.start()
        wait_for("processed frames", lambda: counters(s)["frames_processed"] > 24, 15)
        tree, fds = s.tree(), fd_count(s.serve.popen.pid)
        memory = memory_kib(tree)
        for n in range(kills):
            kill_and_see(s, n)
        wait_for("the tree to be what it was", lambda: len(s.tree()) == len(tree), 5)
        wait_for("descriptors to be what they were", lambda: fd_count(s.serve.popen.pid) <= fds + 1, 5)
        after = memory_kib(s.tree())
        print(f"# memory {memory} KiB before, {after} KiB after {kills} kills; {counters(s)}")
        if after > memory * 1.15 + 4096:
            raise Failure(f"memory grew from {memory} to {after} KiB")
        assert s.post("/api/stream/stop", headers={"X-Stream-Id": "kill"})[0] == 200
        for r in (out, source):
            r.halt.set()
            if r.error:
                raise r.error
        path = s.path("out.ts")
        out.save(path)
        errors = probe_errors(path)
        if errors:
            raise Failure("ffmpeg finds errors in the output: " + errors[:500])
        return source, out


def test_kill_worker_once_a_second():
    _, out = play(CLIP_WHIP, KILLS)
    check_gaps(out, FRAME + 0.1)


def test_kills_add_nothing_to_the_rhythm_of_a_source_with_b_frames():
    source, out = play(CLIP, max(4, KILLS // 2))
    gap = source_gap(source, out)
    print(f"# the source's own longest gap: {gap * 1000:.0f} ms")
    check_gaps(out, max(FRAME, gap) + 0.1)


if __name__ == "__main__":
    run([test_kill_worker_once_a_second, test_kills_add_nothing_to_the_rhythm_of_a_source_with_b_frames])

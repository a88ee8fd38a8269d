#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
Goal: a supervisor that is killed takes no session with it. Its children are gone within a second; the next one on the
same state folder resumes every session that was open within two seconds, by itself, on the same channels: one
strictly increasing timeline, the same size, the parameters that were in force. What was stopped stays stopped.
Method: SIGKILL to the supervisor while sessions run; the output is read on the wire across the restart.
"""
import json
import os
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from stack import (MILLRACE, SLOW, Failure, Process, Reader, Stack, frame_colours, probe_errors, request,  # noqa: E402
                   run, wait_for)

ARGS = ("--workers", "2")


class Durable(Stack):
    """A stack whose supervisor has a state folder and can be killed and started again."""

    def __init__(self, worker="green-tint", args=ARGS, **kw):
        super().__init__(None, **kw)
        self.worker, self.args = worker, (*args, "--state-dir", self.path("state"))
        self.begin()

    def begin(self):
        self.start_serve(self.worker, self.args)

    def kill(self, sig=signal.SIGKILL):
        """Ends the supervisor; returns after how long its children were gone."""
        children = self.tree() - {self.serve.popen.pid}
        self.serve.popen.send_signal(sig)
        self.serve.popen.wait()
        begin = time.monotonic()
        wait_for("all children to be gone", lambda: not any(alive(p) for p in children), 1)
        return time.monotonic() - begin

    def of(self, name):
        code, reply = self.get(f"/api/sessions/{name}")
        return reply if code == 200 else {}

    def counter(self, name, counter, role="egress"):
        return self.of(name).get(role, {}).get("counters", {}).get(counter, 0)

    def listed(self):
        return {x["id"]: x["state"] for x in self.get("/api/sessions")[1]["sessions"]}

    def journal(self):
        return self.get("/api/sessions")[1]["journal"]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def increasing(out):
    for a, b in zip(out.pts, out.pts[1:]):
        if b[0] <= a[0]:
            raise Failure(f"timestamps do not increase: {a[0]} then {b[0]}")
    if out.error:
        raise out.error


def test_sessions_are_resumed():
    with Durable() as s:
        s.wait_ready()
        s.publish(args=("--loop",))
        out = {n: Reader(f"{s.relay_url}/{n}-out") for n in ("a", "b")}
        source = Reader(f"{s.relay_url}/in")
        source.start()
        for n, r in out.items():
            assert s.session(n, intensity=0.25)[0] == 200
            r.start()
        for n in out:
            wait_for("processed frames", lambda n=n: s.counter(n, "frames_processed") > 24, 15)
        assert s.post("/api/stream/params", {"intensity": 1.0}, headers={"X-Stream-Id": "a"})[0] == 200
        wait_for("sound", lambda: s.counter("a", "audio_out") > 10)
        before = s.counter("a", "frames_processed")
        wait_for("frames with the new parameters", lambda: s.counter("a", "frames_processed") > before + 12)
        gone = s.kill()
        at = {n: len(r.pts) for n, r in out.items()}
        begin = time.monotonic()
        s.begin()
        for n, r in out.items():
            wait_for(f"{n} to go on", lambda n=n, r=r: len(r.pts) > at[n] + 1, 5)
            took = r.pts[at[n] + 1][1] - begin
            print(f"# {n}: first frame {took * 1000:.0f} ms after the restart (children gone after {gone * 1000:.0f} ms), "
                  f"PTS {r.pts[at[n] - 1][0] / 90000:.3f} then {r.pts[at[n]][0] / 90000:.3f}, on the wire "
                  f"{(r.pts[at[n]][1] - r.pts[at[n] - 1][1]) * 1000:.0f} ms apart")
            if took > 2 * SLOW:
                raise Failure(f"{n} was resumed only after {took:.2f} s")
        for n in out:
            wait_for("processed frames", lambda n=n: s.counter(n, "frames_processed") > 24, 15)
        status = s.of("a")
        assert status["params"]["intensity"] == 1.0 and s.of("b")["params"]["intensity"] == 0.25, status["params"]
        assert status["resumed"] and status["journal"]["state"] == "ok", status
        assert status["uptime_ms"] > 2000, status["uptime_ms"]
        print("# " + json.dumps(s.journal()))
        for n in out:
            assert s.post("/api/stream/stop", headers={"X-Stream-Id": n})[0] == 200
            wait_for("the output to end", out[n].ended.is_set, 5)
            increasing(out[n])
            out[n].save(s.path(n + ".ts"))
        source.halt.set()
        errors = probe_errors(s.path("a.ts"))
        if errors:
            raise Failure("ffmpeg finds errors in the output: " + errors[:500])
        # the last frame is in force what the client had asked for: intensity 1 mixes half of pure green in
        greens = [c[1] - (c[0] + c[2]) / 2 for _, c in frame_colours(s.path("a.ts"))]
        weak = [c[1] - (c[0] + c[2]) / 2 for _, c in frame_colours(s.path("b.ts"))]
        if not greens[-1] > weak[-1] + 20:
            raise Failure(f"the parameters are not in force: {greens[-1]} against {weak[-1]}")
        times, inputs = {t for t, _ in out["a"].pts[at["a"] + 5:]}, {t for t, _ in source.pts}
        foreign = times - inputs
        if foreign:
            raise Failure(f"{len(foreign)} of {len(times)} timestamps after the restart are not those of the input")


def test_what_is_over_stays_over():
    with Durable() as s:
        s.wait_ready()
        s.publish(args=("--loop",))
        s.publish(channel="other", args=("--loop",))
        assert s.session("stopped")[0] == 200
        wait_for("frames", lambda: s.counter("stopped", "frames_out") > 5)
        assert s.post("/api/stream/stop", headers={"X-Stream-Id": "stopped"})[0] == 200
        assert s.session("open")[0] == 200 and s.session("gone", channel="other")[0] == 200
        wait_for("frames", lambda: s.counter("gone", "frames_out") > 5 and s.counter("open", "frames_out") > 5)
        s.kill()
        # its client ends it in the meantime: the channels are deleted
        for p in s.processes:
            if p.name.startswith("publish") and "other" in " ".join(p.popen.args):
                p.stop()
        for channel in ("other", "gone-out", "gone-control", "gone-events"):
            request(s.relay_url, "DELETE", f"/{channel}")
        s.begin()
        wait_for("the open one to go on", lambda: s.counter("open", "frames_processed") > 5)
        assert "stopped" not in s.listed(), s.listed()
        wait_for("the other one to end", lambda: s.listed().get("gone") in ("ended", None), 15)
        assert s.listed()["open"] == "running"
        s.kill()
        s.begin()
        wait_for("the open one to go on", lambda: s.counter("open", "frames_processed") > 5)
        assert list(s.listed()) == ["open"], s.listed()


def test_killed_again_and_again():
    with Durable() as s:
        s.wait_ready()
        s.publish(args=("--loop",))
        out = Reader(f"{s.relay_url}/again-out")
        assert s.session("again", intensity=1.0)[0] == 200
        out.start()
        for i in range(4):
            wait_for(f"frames (life {i})", lambda: s.counter("again", "frames_processed") > 12, 15)
            s.kill()
            s.begin()
        for _ in range(3):  # while nothing can have flowed yet
            wait_for("the session", s.listed)
            s.kill()
            s.begin()
        wait_for("frames", lambda: s.counter("again", "frames_processed") > 12, 15)
        size = os.path.getsize(s.path("state/journal"))
        assert size < 300000, size
        assert s.of("again")["params"]["intensity"] == 1.0
        assert s.serve.stop() == 0
        out.halt.set()
        increasing(out)
        s.begin()
        s.wait_ready()
        assert s.listed() == {}, "SIGTERM ends sessions for good"


def test_a_session_that_crashes_the_supervisor_is_set_aside():
    with Durable() as s:
        s.wait_ready()
        s.publish(args=("--loop",))
        for n in ("x", "y"):
            assert s.session(n)[0] == 200
        wait_for("frames", lambda: s.counter("x", "frames_out") > 5 and s.counter("y", "frames_out") > 5)
        s.kill()
        s.begin()
        for _ in range(2):  # it crashes while both are resumed, then while the first of these suspects is
            wait_for("a session", s.listed)
            s.kill(signal.SIGABRT)
            s.begin()
        aside = wait_for("one to be set aside", lambda: s.journal()["set_aside"])
        assert len(aside) == 1 and "crashed twice" in aside[0]["why"], aside
        name = aside[0]["id"]
        other = "y" if name == "x" else "x"
        wait_for("the other one to go on", lambda: s.counter(other, "frames_processed") > 5, 10)
        assert name not in s.listed() and "set_aside" in s.serve.tail(50000)
        assert s.post("/api/stream/stop", headers={"X-Stream-Id": name})[0] == 200
        assert s.journal()["set_aside"] == []
        s.kill()
        s.begin()
        wait_for("the other one to go on", lambda: s.counter(other, "frames_processed") > 5, 10)
        assert list(s.listed()) == [other]


def test_another_worker_takes_over():
    with Durable(worker="passthrough") as s:
        s.wait_ready()
        s.publish(args=("--loop",))
        assert s.session("w")[0] == 200
        wait_for("frames", lambda: s.counter("w", "frames_processed") > 12)
        s.kill()
        s.worker = "grayscale"
        s.begin()
        wait_for("frames of the other worker", lambda: s.counter("w", "frames_processed") > 12, 10)


def test_one_supervisor_a_folder():
    with Durable() as s:
        p = Process([MILLRACE, "serve", "--port", "0", "--worker", "green-tint", "--state-dir", s.path("state")],
                    s.dir.name, "second")
        assert p.popen.wait(10) == 100 and "another millrace uses it" in p.tail(), p.tail()
        p.stop()


def test_sessions_run_on_without_a_journal():
    with Stack("green-tint", serve_args=("--state-dir", "/proc/no/such/folder")) as s:
        s.wait_ready()
        s.publish(args=("--loop",))
        assert s.session("n")[0] == 200
        wait_for("frames", lambda: s.status("n")["millrace"]["egress"]["counters"]["frames_processed"] > 5)
        journal = s.status("n")["millrace"]["journal"]
        assert journal["state"] == "degraded" and "/proc/no/such/folder" in journal["problem"], journal
        assert "degraded" in s.serve.tail(20000)
        assert "millrace_journal_ok 0" in s.get("/metrics")[1]
        assert s.post("/api/stream/stop")[0] == 200


if __name__ == "__main__":
    run([test_sessions_are_resumed, test_what_is_over_stays_over, test_killed_again_and_again,
         test_a_session_that_crashes_the_supervisor_is_set_aside, test_another_worker_takes_over, test_one_supervisor_a_folder,
         test_sessions_run_on_without_a_journal])

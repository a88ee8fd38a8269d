#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
Goal: workers in Python are as good as those in C: the tint is exact on every frame, parameters change live, a kill costs
nothing but the frames in between, a handler that raises lets the original pass, and frames are views of the shared memory.
Method: the real programs on loopback with `millrace serve --worker FILE.py`; a probe worker writes down what it sees.
"""
import json
import os
import signal
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "support"), os.path.join(HERE, "..", "scenario")]
from stack import SOURCE, Failure, Reader, Stack, frame_colours, run, wait_for  # noqa: E402
from test_live import check_frames, check_stream, live  # noqa: E402

EXAMPLES = os.path.join(SOURCE, "worker-sdk", "python", "examples")
PLAIN = os.path.join(SOURCE, "worker-sdk", "examples", "plain_worker.py")
PROBE = os.path.join(HERE, "probe_worker.py")
CROP = "scale=512:512:force_original_aspect_ratio=increase,crop=512:512"


def counters(s, name="p"):
    return s.status(name)["millrace"]["egress"]["counters"]


def wait_more(s, counter, n=5, seconds=8):
    begin = counters(s)[counter]
    wait_for(f"{n} more of {counter}", lambda: counters(s)[counter] >= begin + n, seconds)


def worker_pid(s):
    return next((w["pid"] for w in s.workers() if w.get("pid")), 0)


def tinted_exactly(worker):
    with Stack(worker) as s:
        source, output, out = live(s, 2.5)
        check_stream(output, out)
        check_frames(source, output, 24)


def test_tint_with_numpy():
    tinted_exactly(os.path.join(EXAMPLES, "tint.py"))


def test_tint_without_any_library():
    tinted_exactly(f"{PLAIN} --tint")


def test_parameters_survive_a_kill():
    with Stack(os.path.join(EXAMPLES, "tint.py")) as s:
        s.wait_ready()
        readers = {name: Reader(f"{s.relay_url}/{name}") for name in ("in", "p-out")}
        for r in readers.values():
            r.start()
        s.publish(args=("--loop",))
        assert s.session("p", intensity=0.0)[0] == 200
        wait_for("processed frames", lambda: counters(s)["frames_processed"] > 12, 15)
        assert s.post("/api/stream/params", {"intensity": 1.0}, headers={"X-Stream-Id": "p"})[0] == 200
        code, reply = s.post("/api/stream/params", {"intensity": 7}, headers={"X-Stream-Id": "p"})
        print(f"# a bad intensity is answered with {code} {reply}")
        wait_more(s, "frames_processed")
        pid = worker_pid(s)
        os.kill(pid, signal.SIGKILL)
        wait_for("another worker", lambda: worker_pid(s) not in (0, pid), 5)
        wait_more(s, "frames_processed", 24)
        assert s.post("/api/stream/stop", headers={"X-Stream-Id": "p"})[0] == 200
        wait_for("the end of the output", readers["p-out"].ended.is_set, 5)
        for name, r in readers.items():
            r.halt.set()
            if r.error:
                raise r.error
            r.save(s.path(name + ".ts"))
        want, got = dict(frame_colours(s.path("in.ts"), CROP)), frame_colours(s.path("p-out.ts"))
        for a, b in zip(got, got[1:]):
            if b[0] <= a[0]:
                raise Failure(f"timestamps do not increase: {a[0]} then {b[0]}")
        for t, colour in got[-20:-2]:
            e = (want[t][0] * 0.5, want[t][1] * 0.5 + 127.5, want[t][2] * 0.5)
            if max(abs(x - y) for x, y in zip(colour, e)) > 6:
                raise Failure(f"frame {t} is {colour}, not {e}: the new worker does not know the intensity")


class Probe:
    """A stack with the probe as its worker, and a session that flows."""

    def __init__(self, fmt, *more, **params):
        self.fmt, self.more, self.params = fmt, more, params

    def __enter__(self):
        self.stack = Stack(None)
        s = self.stack.__enter__()
        self.path = s.path("report.json")
        s.start_serve(" ".join((PROBE, self.path, self.fmt) + self.more))
        s.wait_ready()
        s.publish(args=("--loop",))
        assert s.session("p", **self.params)[0] == 200
        wait_for("processed frames", lambda: counters(s)["frames_processed"] > 12, 15)
        return self

    def __exit__(self, *why):
        self.stack.__exit__(*why)

    def report(self):
        with open(self.path) as f:
            return json.load(f)

    def update(self, **params):
        return self.stack.post("/api/stream/params", params, headers={"X-Stream-Id": "p"})


def check(report, **wanted):
    for key, value in wanted.items():
        if report.get(key) != value:
            raise Failure(f"{key} is {report.get(key)!r}, not {value!r}; all: {report}")


def test_frames_are_views_of_shared_memory():
    with Probe("rgb24", note="first") as p:
        r = wait_for("a report", lambda: p.report() if p.report()["kept_same"] > 5 else None)
        check(r, shape=[512, 512, 3], out_shape=[512, 512, 3], dtype="uint8", readonly=True, contiguous=True,
              format="rgb24", bytes=512 * 512 * 3, refuses_writing=True, event=True, data=True, starts=1, kept_changed=0)
        assert r["first_params"]["note"] == "first", r
        for where, rights in (("in_memory", "r--s"), ("out_memory", "rw-s")):
            if "/memfd:" not in r[where] or not r[where].startswith(rights):
                raise Failure(f"{where} is {r[where]}: not the ring, so it was copied")
        print(f"# in: {r['in_memory']}, out: {r['out_memory']}")
        assert p.stack.post("/api/stream/stop", headers={"X-Stream-Id": "p"})[0] == 200
        wait_for("stream_stop", lambda: p.report().get("stopped"))


def test_what_a_handler_may_do():
    with Probe("rgb24") as p:
        s = p.stack
        for bad in ({"raise": True}, {"keep": "output"}):
            p.update(**bad)
            wait_more(s, "fill_pass")
            p.update(**{k: None for k in bad})
            wait_more(s, "frames_processed")
        p.update(answer="pass")
        wait_more(s, "fill_pass")
        p.update(answer="withhold")
        wait_more(s, "fill_withheld")
        p.update(answer="array")
        wait_more(s, "frames_processed")
        p.update(overlay=True)
        wait_more(s, "frames_overlay")
        p.update(overlay=False)
        wait_more(s, "frames_processed")
        code, reply = p.update(bad=True)
        print(f"# refused parameters are answered with {code} {reply}")
        wait_for("the reason in the log", lambda: "bad is bad" in s.serve.tail(20000))
        assert "as asked" in s.serve.tail(40000)
        check(p.report(), starts=1)  # it is still the first incarnation


def test_async_handlers_and_their_tasks():
    with Probe("rgbf32p", "async") as p:
        wait_more(p.stack, "frames_processed", 24)
        check(p.report(), format="rgbf32p", shape=[3, 512, 512], dtype="float32", bytes=512 * 512 * 12)
        assert "/memfd:" in p.report()["in_memory"], p.report()
        ticks = p.report()["ticks"]
        print(f"# {ticks} ticks of a task beside {p.report()['frames']} frames")
        assert ticks > 20, p.report()


def test_planar_formats():
    with Probe("nv12") as p:
        r = wait_for("a report", lambda: p.report() if p.report()["frames"] else None)
        check(r, format="nv12", planes=[[512, 512], [256, 256, 2]], bytes=512 * 512 * 3 // 2)


if __name__ == "__main__":
    run([test_tint_with_numpy, test_tint_without_any_library, test_parameters_survive_a_kill,
         test_frames_are_views_of_shared_memory, test_what_a_handler_may_do, test_async_handlers_and_their_tasks,
         test_planar_formats])

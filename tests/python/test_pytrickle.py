#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
Goal: a PyTrickle application, with its imports changed, brings up the whole service by itself and does its work.
Method: `python3 app.py`, as its user types it; a session is started over its API, parameters change, its worker is killed.
"""
import os
import signal
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "support"))
from stack import BUILD, SOURCE, Failure, Reader, Stack, frame_colours, run, wait_for  # noqa: E402

APPS = os.path.join(SOURCE, "worker-sdk", "python", "examples", "pytrickle")
ENV = {"PYTHONPATH": os.path.abspath(os.path.join(BUILD, "libexec", "millrace", "python")),
       "MILLRACE_SERVE_ARGS": "--port 0", "PYTHONDONTWRITEBYTECODE": "1"}
CROP = "scale=512:512:force_original_aspect_ratio=increase,crop=512:512"


def start(s, app):
    s.serve = s.start(["/usr/bin/python3", app], "app")
    s.url = s.serve.url()
    s.wait_ready(15)
    s.publish(args=("--loop",))


def counters(s):
    return s.status("p")["millrace"]["egress"]["counters"]


def wait_more(s, counter, n=5, seconds=8):
    begin = counters(s)[counter]
    wait_for(f"{n} more of {counter}", lambda: counters(s)[counter] >= begin + n, seconds)


def update(s, **params):
    code, reply = s.post("/api/stream/params", params, headers={"X-Stream-Id": "p"})
    assert code == 200, reply


def test_decorated_handlers():
    with Stack(None, env=ENV) as s:
        start(s, os.path.join(APPS, "passthrough.py"))
        assert s.session("p")[0] == 200
        wait_for("processed frames", lambda: counters(s)["frames_processed"] > 12, 15)
        update(s, enabled=False)
        wait_more(s, "fill_pass")
        update(s, enabled=True, withhold=True)
        wait_more(s, "frames_overlay")
        update(s, withhold=False)
        wait_more(s, "frames_processed")
        assert counters(s)["audio_out"] > 20
        assert s.get("/version")[1]
        pid = next(w["pid"] for w in s.workers() if w.get("pid"))
        os.kill(pid, signal.SIGKILL)
        wait_more(s, "frames_processed", 24)
        assert s.post("/api/stream/stop", headers={"X-Stream-Id": "p"})[0] == 200
        wait_for("the stop handler", lambda: "the stream is over" in s.serve.tail(20000))


def test_functions_and_live_parameters():
    with Stack(None, env=ENV) as s:
        start(s, os.path.join(APPS, "green_hue.py"))
        readers = {name: Reader(f"{s.relay_url}/{name}") for name in ("in", "p-out")}
        for r in readers.values():
            r.start()
        assert s.session("p")[0] == 200
        wait_for("processed frames", lambda: counters(s)["frames_processed"] > 12, 15)
        update(s, intensity=1.0)
        wait_more(s, "frames_processed", 36)
        assert s.post("/api/stream/stop", headers={"X-Stream-Id": "p"})[0] == 200
        wait_for("the end of the output", readers["p-out"].ended.is_set, 5)
        for name, r in readers.items():
            r.halt.set()
            if r.error:
                raise r.error
            r.save(s.path(name + ".ts"))
        want, got = dict(frame_colours(s.path("in.ts"), CROP)), frame_colours(s.path("p-out.ts"))
        for t, colour in got[-14:-2]:
            e = (want[t][0] * 0.5, want[t][1] * 0.5 + 127.5, want[t][2] * 0.5)
            if max(abs(x - y) for x, y in zip(colour, e)) > 6:
                raise Failure(f"frame {t} is {colour}, not {e}")


def test_a_subclass_with_results_of_another_size():
    with Stack(None, env=ENV) as s:
        start(s, os.path.join(HERE, "pytrickle_subclass.py"))
        assert s.session("p")[0] == 200
        wait_for("processed frames", lambda: counters(s)["frames_processed"] > 12, 15)
        c = counters(s)
        assert (c["out_width"], c["out_height"]) == (256, 256), c
        wait_for("sound through the worker", lambda: s.workers()[0]["says_audio_taken"] > 10)
        update(s, mode="full")
        wait_more(s, "frames_processed")
        for mode in ("none", "raise"):
            update(s, mode=mode)
            wait_more(s, "fill_withheld")
        log = s.serve.tail(20000)
        assert "the stream begins" in log and log.count("as asked") < 5, log
        assert s.get("/version")[1]["model_id"] == "halve"


if __name__ == "__main__":
    run([test_decorated_handlers, test_functions_and_live_parameters, test_a_subclass_with_results_of_another_size])

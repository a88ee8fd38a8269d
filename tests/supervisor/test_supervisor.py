#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
Goal: the API answers as its clients expect, quickly, and whatever a worker does ends one process and nothing else.
Method: the real supervisor, ingest and egress, with workers that a script plays; channels lead nowhere.
"""
import json
import os
import signal
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from stack import MILLRACE, SLOW, Failure, Process, Stack, fd_count, request, wait_for  # noqa: E402
from stack import run  # noqa: E402

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "scripted_worker.py")


class Service(Stack):
    """A supervisor alone, with a scripted worker."""

    def __init__(self, script="", serve_args=(), env=None, worker=None, ready=True):
        import tempfile
        self.dir = tempfile.TemporaryDirectory(prefix="millrace-test-")
        self.processes, self.env, self.relay_url = [], env, "http://127.0.0.1:9"
        self.start_serve(worker or f"'{SCRIPT}' {script}", serve_args)
        if ready:
            self.wait_ready()

    def open(self, name, **over):
        return self.post("/stream/start", {"gateway_request_id": name, "subscribe_url": "http://127.0.0.1:9/in", **over})

    def worker(self, i=0):
        return self.get(f"/api/workers/{i}")[1]

    def crashes(self):
        return self.get("/api/crashes")[1]["crashes"]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def kill_worker(s, i=0):
    """SIGKILL to the worker's present process; its pid."""
    pid = wait_for("the worker to run", lambda: s.worker(i)["pid"])
    os.kill(pid, 9)
    return pid


def timed(call):
    begin = time.monotonic()
    result = call()
    return result, time.monotonic() - begin


# ---- what a child is given -----------------------------------------------------


def test_heritage_is_a_list():
    env = {"ORCH_SECRET": "s3cret", "MODEL_DIR": "/models"}
    with Service("tell-fds", env=env) as s:
        # 0 to 3; the directory that is being listed is closed again
        assert s.worker()["status"] == "fds 0 1 2 3", s.worker()["status"]
    with Service("tell-env", env=env, serve_args=("--worker-env", "MODEL_DIR,MODE=fast")) as s:
        names = s.worker()["status"].split()[1:]
        assert "MODEL_DIR" in names and "MODE" in names and "ORCH_SECRET" not in names, names
        with open(f"/proc/{s.worker()['pid']}/status") as f:
            assert "NoNewPrivs:\t1" in f.read()


class FewFiles(Service):
    """A supervisor that may not open many files itself."""

    def start_serve(self, worker, serve_args=()):
        self.serve = self.start(["/bin/sh", "-c", 'ulimit -n 256 && exec "$0" "$@"', MILLRACE, "serve", "--port", "0",
                                 "--worker", worker, *serve_args], "serve")
        self.url = self.serve.url()


def test_children_start_where_few_files_may_be_open():
    def limit(pid):
        with open(f"/proc/{pid}/limits") as f:
            return [line.split()[3:5] for line in f if line.startswith("Max open files")][0]

    with FewFiles() as s:
        assert limit(s.worker()["pid"]) == ["256", "256"]
        assert s.open("x")[0] == 200
        wait_for("egress", lambda: s.status()["millrace"]["egress"]["state"] == "open")
    with Service() as s:
        assert limit(s.worker()["pid"]) == ["1024", "1024"]


def test_ruinous_json_is_refused_at_once():
    with Service() as s:
        assert s.open("one")[0] == 200
        json_type = {"Content-Type": "application/json"}
        many = b'{"a":[' + b"1," * 2000000 + b"1]}"
        for body, word in ((b'{"a":' + b"[" * 100000 + b"]" * 100000 + b"}", "deeper"), (many, "values"),
                           (b'{"a":{' + b",".join(b'"k%d":1' % i for i in range(300000)) + b"}}", "values")):
            begin = time.monotonic()
            code, reply = s.post("/stream/params", body, headers=json_type)
            assert code == 400 and word in reply["message"], (code, reply)
            assert time.monotonic() - begin < 1.0 * SLOW, time.monotonic() - begin
        text = "x" * 5000000  # large is not many
        assert s.post("/stream/params", {"prompt": text})[0] == 200
        assert s.get("/health")[1]["status"] == "OK"


# ---- start, params, stop -------------------------------------------------------


def test_bodies_are_those_that_clients_know():
    with Service() as s:
        assert s.get("/health") == (200, {"status": "IDLE"})
        code, reply = s.post("/stream/stop")
        assert (code, reply) == (400, {"status": "error", "message": "No active stream to stop"})
        code, reply = s.post("/stream/params", {"a": 1})
        assert (code, reply) == (400, {"status": "error", "message": "No active stream to update"})
        code, reply = s.open("one")
        assert code == 200 and reply["message"] == "Stream started successfully" and reply["request_id"] == "one", reply
        state = reply["current_state"]
        assert state["status"] == "OK" and state["active_streams"] == 1 and state["pipeline_state"] == "IDLE", state
        assert set(state) == {"status", "state", "error_message", "pipeline_ready", "active_streams", "startup_complete",
                              "pipeline_state", "additional_info"}, state
        code, reply = s.open("two")
        assert code == 503 and reply["message"] == "Pipeline is still in use", reply
        code, reply = s.open("one")
        assert code == 503 and reply["message"] == "Pipeline is still in use", reply
        code, reply = s.post("/api/stream/update", {"strength": 0.5})
        assert (code, reply) == (200, {"status": "success", "message": "Parameters updated successfully"})
        status = s.get("/stream/status")[1]
        assert status["client_active"] and status["client_running"] and set(status["fps"]) == {
            "ingress_video_fps", "ingress_audio_fps", "egress_video_fps", "egress_audio_fps"}, status
        assert status["current_params"]["gateway_request_id"] == "one"
        assert status["millrace"]["params"] == {"strength": 0.5}
        assert s.post("/stream/stop", headers={"X-Stream-Id": "other"})[0] == 404
        assert s.get("/health")[1]["status"] == "OK", "a foreign stop stopped something"
        # the base URL of a client may end with a slash, and the body of a stop is anything
        code, reply = s.post("//stream/stop", b"stream ended", headers={"X-Stream-Id": "one"})
        assert (code, reply) == (200, {"status": "success", "message": "Stream stopped successfully"})
        assert s.post("/stream/stop")[0] == 400
        assert s.get("/api/sessions/one")[1]["state"] == "stopped"
        code, status = s.get("/stream/status", headers={"X-Stream-Id": "one"})
        assert code == 200 and not status["client_active"] and not status["client_running"], status
        assert not s.get("/stream/status")[1]["client_active"]
        assert s.get("/stream/status", headers={"X-Stream-Id": "nobody"})[0] == 404


def test_messages_of_refusals():
    with Service() as s:
        for params, why in (({"width": 5}, "Both 'width' and 'height' must be provided together"),
                            ({"width": "a", "height": 1}, "Width and height must be valid integers or integer strings"),
                            ({"max_framerate": 61}, "max_framerate cannot exceed 60 FPS"),
                            ({"detect_out_resolution": "?"}, "detect_out_resolution must be a boolean value")):
            code, reply = s.post("/stream/params", params)
            assert (code, reply["message"]) == (400, f"Parameter update failed: {why}"), reply
            code, reply = s.open("x", params=params)
            assert (code, reply["message"]) == (400, f"Error starting stream: {why}"), reply
        for body in (b"{", b"[]", b"", b'{"gateway_request_id": "\x00"}', b'{"gateway_request_id": "\xff"}', b"[" * 100000):
            code, reply = s.post("/stream/start", body, headers={"Content-Type": "application/json; charset=utf-8"})
            assert code == 400 and reply["message"].startswith("Error starting stream: "), (body[:20], reply)
        code, reply = s.post("/stream/start", b'{"gateway_request_id": "x"}', headers={"Content-Type": "text/plain"})
        assert code == 400 and "application/json" in reply["message"], reply
        for url in ("ftp://x/y", "http://", "http:///x", "nonsense", "http://a b/", "http://x:99999/", "//x/y"):
            code, reply = s.open("x", publish_url=url)
            assert code == 400 and "publish_url" in reply["message"], (url, reply)
        for cut in range(4):  # the message is cut inside a character
            code, reply = s.open("x", subscribe_url="x" * cut + "\u00e9" * 150)
            assert code == 400 and "subscribe_url is not an http or https URL: " in reply["message"], reply
        assert s.open("x" * 300)[0] == 400
        assert s.get("/health")[1] == {"status": "IDLE"}
        assert s.open("x")[0] == 200


def test_frames_that_cannot_have_rings():
    with Service() as s:
        code, reply = s.open("x", params={"width": 8192, "height": 8192})
        assert code == 400 and reply["message"].startswith("Error starting stream: "), reply
        assert "--max-frame-bytes" in reply["message"] and s.get("/api/sessions")[1]["sessions"] == [], reply

    def video_bytes(s):
        rings = {r["ring"]: r["bytes"] for r in s.status()["millrace"]["rings"]}
        return "in.video" in rings and "out.video" in rings and rings["in.video"] + rings["out.video"]

    with Stack() as s:
        s.wait_ready()
        s.publish()
        assert s.session()[0] == 200
        need = wait_for("the rings", lambda: video_bytes(s))
        assert s.status()["millrace"]["problem"] == "", s.status()["millrace"]["problem"]
    with Stack(serve_args=("--max-session-bytes", str(need - 1))) as s:
        s.wait_ready()
        code, reply = s.session()
        assert code == 400 and "--max-session-bytes" in reply["message"], reply
    with Stack(serve_args=("--max-session-bytes", str(need))) as s:  # room for the pictures, none for the sound
        s.wait_ready()
        s.publish()
        assert s.session()[0] == 200
        problem = wait_for("the refusal", lambda: s.status()["millrace"]["problem"].startswith("no ") and s.status())
        assert "--max-session-bytes" in problem["millrace"]["problem"], problem


def test_methods_paths_and_limits():
    with Service() as s:
        assert s.get("/nothing") == (404, "404: Not Found")
        assert s.get("/stream/start")[0] == 405
        assert request(s.url, "PUT", "/health")[0] == 405
        assert request(s.url, "HEAD", "/health") == (200, "")
        assert s.get("/api/workers/7")[0] == 404 and s.get("/api/workers/x")[0] == 404
        assert s.get("/api/sessions/nobody")[0] == 404
        assert s.get("/hardware/stats")[1]["gpu_stats"] == {}
        big = b'{"gateway_request_id": "big", "params": {"x": "' + b"y" * (9 << 20) + b'"}}'
        assert s.post("/stream/start", big, headers={"Content-Type": "application/json"})[0] == 200
        assert s.post("/stream/stop")[0] == 200
        metrics = s.get("/metrics")[1]
        assert "millrace_sessions_started_total 1" in metrics and "# TYPE millrace_egress_frames_out counter" in metrics
        # a client that says nothing holds nobody up, and a request of megabytes of headers is refused
        at = s.url.rsplit(":", 1)
        silent = [socket.create_connection(("127.0.0.1", int(at[1]))) for _ in range(20)]
        silent[0].sendall(b"GET /health HTTP/1.1\r\nX: " + b"y" * 200000)
        _, seconds = timed(lambda: s.get("/health"))
        assert seconds < 0.1 * SLOW, seconds
        for c in silent:
            c.close()


def test_several_streams_are_told_apart():
    with Service("--capacity 3", serve_args=("--capacity", "0")) as s:
        assert [s.open(n)[0] for n in "aabc"] == [200, 409, 200, 200]
        assert s.open("d")[0] == 503
        code, reply = s.post("/stream/stop")
        assert code == 400 and "X-Stream-Id" in reply["message"], reply
        assert s.post("/stream/params", {"k": 1}, headers={"X-Stream-Id": "b"})[0] == 200
        assert s.post("/stream/params", {"k": 2, "gateway_request_id": "c"})[0] == 200
        shown = {n: s.get("/stream/status", headers={"X-Stream-Id": n})[1]["millrace"]["params"] for n in "abc"}
        assert shown == {"a": {}, "b": {"k": 1}, "c": {"k": 2}}, shown
        assert len(s.get("/stream/status")[1]["millrace"]["sessions"]) == 3
        assert s.post("/stream/stop", {"gateway_request_id": "b"})[0] == 200
        assert s.open("d")[0] == 200
        assert {x["id"]: x["state"] for x in s.get("/api/sessions")[1]["sessions"]} == {
            "a": "running", "b": "stopped", "c": "running", "d": "running"}


def test_token():
    with open("/proc/sys/kernel/random/uuid") as f:
        token = f.read().strip()
    import tempfile
    with tempfile.NamedTemporaryFile("w") as f:
        f.write(token + "\n")
        f.flush()
        with Service(serve_args=("--auth-token-file", f.name)) as s:
            for headers in ({}, {"Authorization": token}, {"Authorization": "Bearer "}, {"Authorization": f"Bearer {token}x"},
                            {"Authorization": f"Bearer {token[:-1]}"}, {"Authorization": f"Bearer {token}{token}"}):
                assert s.get("/api/workers", headers=headers) == (401, {"detail": {"msg": "Invalid bearer token."}}), headers
                assert s.post("/stream/stop", headers=headers)[0] == 401
            assert s.get("/api/workers", headers={"Authorization": f"Bearer {token}"})[0] == 200
            assert s.get("/health")[0] == 200 and s.get("/readyz")[0] == 200


# ---- parameters ----------------------------------------------------------------


def test_a_refusal_of_the_worker_is_told():
    with Service("refuse-params") as s:
        s.open("x", params={"a": 1})
        code, reply = s.post("/stream/params", {"strength": 2})
        assert (code, reply["message"]) == (400, "Parameter update failed: strength must be below 1"), reply
        assert s.get("/stream/status")[1]["millrace"]["params"] == {"a": 1}


def test_parameters_reach_the_worker_as_they_were_sent():
    first = b'{"seed": 18446744073709551615, "t": "a\\u0000b", "z": "\\u0000n5", "x": [-1e400, {"k": 0.1}], "max_framerate": 30}'
    second = b'{"more": 123456789012345678901234567890, "t": "\\u0000"}'
    header = {"Content-Type": "application/json"}
    with Service("tell-params") as s:
        def told(params):
            return wait_for("the parameters", lambda: json.loads(s.worker()["status"] or "{}") == params, 5)

        code, reply = s.post("/stream/start", b'{"gateway_request_id": "x", "subscribe_url": "http://127.0.0.1:9/in", "params": ' +
                             first + b"}", headers=header)
        assert code == 200, reply
        told(json.loads(first))
        assert "18446744073709551615" in s.worker()["status"], s.worker()["status"]
        code, reply = s.post("/stream/params", second, headers=header)
        assert code == 200, reply
        told(json.loads(second))
        both = {**json.loads(first), **json.loads(second)}
        assert s.status()["millrace"]["params"] == both, s.status()["millrace"]["params"]
        kill_worker(s)
        told(both)
        for bad in (b'{"\\u0000k": 1}', b'{"a": 018446744073709551615}', b'{"gateway_request_id": "a\\u0000b"}'):
            assert s.post("/stream/start", bad, headers=header)[0] == 400, bad


def test_a_worker_that_does_not_answer_holds_nobody_up():
    with Service("slow-params") as s:
        s.open("x")
        answers = []
        t = threading.Thread(target=lambda: answers.append(timed(lambda: s.post("/stream/params", {"a": 2}))))
        t.start()
        _, seconds = timed(lambda: s.get("/health"))
        assert seconds < 0.1 * SLOW, seconds
        t.join()
        (code, reply), seconds = answers[0]
        assert code == 200 and "not confirmed" in reply["message"] and seconds < 2 * SLOW, (reply, seconds)
        pid = kill_worker(s)
        wait_for("the next worker", lambda: s.worker()["state"] == "busy" and s.worker()["pid"] != pid)
        assert s.get("/stream/status")[1]["millrace"]["params"] == {"a": 2}, "the next worker starts with them"


# ---- workers that cannot start -------------------------------------------------


def test_not_ready_yet():
    with Service("no-ready", ready=False) as s:
        wait_for("LOADING", lambda: s.worker()["state"] == "loading")
        code, reply = s.open("x")
        assert code == 503 and reply["message"] == "Pipeline is still initializing. Please wait for IDLE status.", reply
        assert reply["current_state"]["status"] == "LOADING" and s.get("/health")[1] == {"status": "LOADING"}
        assert s.get("/readyz")[0] == 503 and s.get("/livez")[0] == 200
    with Service("no-hello", serve_args=("--start-timeout", "300ms"), ready=False) as s:
        crash = wait_for("the start timeout", lambda: s.crashes())[0]
        assert crash["class"] == "start_timeout", crash


def test_permanent_failure_and_restart():
    with Service("exit=100", ready=False) as s:
        wait_for("FAILED", lambda: s.worker()["state"] == "failed")
        code, reply = s.open("x")
        assert code == 503 and "exit code 100" in reply["message"] and reply["current_state"]["status"] == "ERROR", reply
        assert s.get("/health") == (200, {"status": "ERROR"})
        before = s.worker()["incarnation"]
        assert before == 1, "a permanent failure is not tried again by itself"
        assert s.post("/api/workers/0/restart")[0] == 200
        wait_for("another try", lambda: s.worker()["incarnation"] == 2 and s.worker()["state"] == "failed")
        assert "about to leave ?[31m" in s.crashes()[0]["log"], s.crashes()[0]
        assert b"\x1b" not in s.serve.tail(100000).encode(), "the log shows a control character of a child"


def test_a_crash_loop_is_slow_and_visible():
    with Service("exit=1", ready=False) as s:
        wait_for("the crash loop", lambda: s.worker()["state"] == "crashloop", 15)
        assert s.get("/health")[1] == {"status": "ERROR"} and s.worker()["deaths"] == 6, s.worker()
        assert s.worker()["next_start_ms"] > 20000
        code, reply = s.open("x")
        assert code == 503 and "exit code 1" in reply["message"], reply


def test_a_worker_that_dies_of_its_first_frames_is_slowed_down():
    with Stack(worker="crash-test") as s:
        s.wait_ready()
        s.publish(args=("--loop",))
        assert s.session(mode="exit", after=3)[0] == 200
        wait_for("the crash loop", lambda: s.workers()[0]["state"] == "crashloop", 30)
        status = s.status()["millrace"]
        assert status["worker_deaths"] == 6 and status["frames_processed"] > 0, status
        before = status["frames_out"]
        wait_for("the stream to go on", lambda: s.status()["millrace"]["frames_out"] > before + 10)
        assert s.get("/health")[1]["status"] == "OK"


def test_a_program_that_is_not_there_is_found_later():
    with Service(worker="/nonexistent/worker", ready=False) as s:
        code, reply = s.open("x")
        assert code == 503 and "No such file" in reply["message"], reply
        assert "/nonexistent/worker" in str(s.get("/api/workers")[1])
    with Service(worker="/bin/sh -c 'exit 0'", ready=False) as s:
        assert wait_for("a death", lambda: s.crashes())[0]["class"] == "done"


def test_the_ready_of_a_dead_worker_binds_nothing():
    import tempfile
    with tempfile.TemporaryDirectory() as d, Service(f"late-ready={d}/second") as s:
        assert s.open("x")[0] == 200
        kill_worker(s)
        wait_for("the next worker", lambda: s.worker()["status"] == "waiting")
        pid = s.worker()["pid"]
        os.kill(s.serve.popen.pid, signal.SIGSTOP)
        try:
            with open(f"{d}/second.go", "x", encoding="utf-8"):
                pass
            wait_for("its end", lambda: not alive(pid))
        finally:
            os.kill(s.serve.popen.pid, signal.SIGCONT)
        wait_for("its death to be seen", lambda: len(s.crashes()) == 2)
        assert {c["class"] for c in s.crashes()} == {"killed_by_other", "error"}, s.crashes()
        assert s.status()["millrace"]["worker_deaths"] == 1, s.status()


# ---- workers that misbehave ----------------------------------------------------


def test_violations_end_one_process():
    for script, words in (("bad-hello", "HELLO"), ("garbage", "malformed"), ("flood", "flood")):
        with Service(script, ready=False) as s:
            crash = wait_for(f"the end of {script}", lambda: s.crashes(), 15)[-1]
            assert crash["class"] == "violation" and words in crash["text"], (script, crash)
            _, seconds = timed(lambda: s.get("/health"))
            assert seconds < 0.2 * SLOW, (script, seconds)


def test_a_burst_of_a_worker_is_not_the_end_of_egress():
    with Service("chatter") as s:
        assert s.open("x", events_url="http://127.0.0.1:9/events")[0] == 200
        egress = wait_for("egress", lambda: s.status()["millrace"]["egress"]["state"] == "open" and
                          s.status()["millrace"]["egress"])
        os.kill(egress["pid"], signal.SIGSTOP)
        assert s.post("/stream/params", {"a": 1})[0] == 200
        wait_for("the burst", lambda: s.status()["millrace"]["egress"]["messages_dropped"] > 50)
        kill_worker(s)  # what must arrive still does
        wait_for("the next worker", lambda: s.worker()["state"] == "busy")
        os.kill(egress["pid"], signal.SIGCONT)
        assert s.post("/stream/params", {"a": 2})[0] == 200
        now = s.status()["millrace"]["egress"]
        assert (now["pid"], now["deaths"]) == (egress["pid"], 0), now
        assert s.post("/stream/stop")[0] == 200
        assert not [c for c in s.crashes() if "egress" in c["child"]], s.crashes()


def test_output_without_end_is_cut():
    with Service("shout", ready=False) as s:
        wait_for("the note", lambda: "suppressed" in s.serve.tail(1 << 20), 15)
        _, seconds = timed(lambda: s.get("/health"))
        assert seconds < 0.2 * SLOW, seconds
        assert os.path.getsize(s.serve.log_path) < 2 << 20


def test_what_a_worker_leaves_behind_goes_with_it():
    with Service("daemon", ready=False) as s:
        status = wait_for("the daemon", lambda: s.worker()["status"].startswith("daemon ") and s.worker()["status"])
        daemon = int(status.split()[1])
        assert alive(daemon)
        kill_worker(s)
        wait_for("the end of the daemon", lambda: not alive(daemon))
        assert s.crashes()[0]["class"] == "killed_by_other"


def test_stop_is_quick_whatever_the_worker_does():
    for script in ("stay", "deaf"):
        with Service(script) as s:
            assert s.open("x")[0] == 200
            pid = s.worker()["pid"]
            (code, reply), seconds = timed(lambda: s.post("/stream/stop"))
            assert code == 200 and seconds < 2 * SLOW, (reply, seconds)
            assert s.open("y")[0] == 200, "the next start works at once"
            wait_for("the worker to be replaced", lambda: s.worker()["pid"] not in (None, pid), 5)
            wait_for("it to serve the next session", lambda: s.worker()["state"] == "busy")
            assert s.post("/stream/stop", headers={"X-Stream-Id": "y"})[0] == 200


def test_a_standby_takes_over():
    with Service(serve_args=("--standby", "1")) as s:
        wait_for("both to be ready", lambda: [w["state"] for w in s.workers()] == ["idle", "idle"])
        assert s.open("x")[0] == 200 and s.open("y")[0] == 503, "a standby is no capacity"
        busy = [w for w in s.workers() if w["state"] == "busy"][0]
        kill_worker(s, busy["index"])
        wait_for("the standby to serve", lambda: s.worker(1 - busy["index"])["state"] == "busy", 2)
        assert s.get("/health")[1]["status"] == "OK" and s.get("/readyz")[0] == 200


# ---- the end -------------------------------------------------------------------


def test_sigterm_leaves_nothing():
    for script in ("", "stay", "no-ready"):
        s = Service(script, ready=script != "no-ready")
        if script != "no-ready":
            s.open("x")
        wait_for("the worker", lambda: s.worker()["pid"])
        tree = s.tree()
        code, seconds = timed(lambda: s.serve.stop(seconds=6))
        assert code == 0 and seconds < 6 * SLOW, (script, code, seconds)
        wait_for("all children to be gone", lambda: not any(alive(p) for p in tree), 2)
        s.close()


def test_workers_are_asked_to_end_before_they_are_told():
    for script, words in (("late-drain", "all is done"), ("only-term", "SIGTERM it is")):
        s = Service(script)
        code, seconds = timed(lambda: s.serve.stop(seconds=6))
        assert code == 0 and seconds < 2.5 * SLOW, (script, code, seconds)
        with open(s.serve.log_path, encoding="utf-8") as f:
            log = f.read()
        assert words in log and "class=asked" in log, (script, log)
        s.close()


def test_children_do_not_outlive_a_killed_supervisor():
    s = Service()
    s.open("x")
    tree = s.tree()
    assert len(tree) >= 4, tree
    s.serve.popen.kill()
    s.serve.popen.wait()
    wait_for("all children to be gone", lambda: not any(alive(p) for p in tree), 5)
    s.close()


def test_nothing_is_left_after_many_sessions():
    with Service("--capacity 2", serve_args=("--capacity", "0")) as s:
        def once(i):
            assert s.open(f"s{i}")[0] == 200
            if i % 10 == 5:
                kill_worker(s)
            assert s.post("/stream/stop", headers={"X-Stream-Id": f"s{i}"})[0] == 200
        for i in range(20):
            once(i)
        wait_for("a quiet moment", lambda: len(s.tree()) == 2 and s.worker()["state"] == "idle")
        before = fd_count(s.serve.popen.pid)
        for i in range(20, 40):
            once(i)
        wait_for("a quiet moment", lambda: len(s.tree()) == 2 and s.worker()["state"] == "idle")
        after = fd_count(s.serve.popen.pid)
        if after > before + 2:  # connections that are being closed
            raise Failure(f"descriptors grew from {before} to {after}")


def test_bad_settings_are_refused():
    for args, words in ((["--worker", "x", "--port", "99999"], "--port"), ([], "--worker"),
                        (["--worker", "x", "--host", "0.0.0.0"], "--auth-token-file")):
        import tempfile
        with tempfile.TemporaryDirectory() as d:
            p = Process([MILLRACE, "serve", *args], d, "serve")
            assert p.popen.wait(10) == 100
            assert words in p.tail(), p.tail()
            p.stop()
    with Service() as s:
        import tempfile
        with tempfile.TemporaryDirectory() as d:
            p = Process([MILLRACE, "serve", "--worker", "x", "--port", s.url.rsplit(":", 1)[1]], d, "serve")
            assert p.popen.wait(10) == 111 and "in use" in p.tail(), p.tail()
            p.stop()


if __name__ == "__main__":
    run([test_heritage_is_a_list, test_ruinous_json_is_refused_at_once, test_children_start_where_few_files_may_be_open, test_bodies_are_those_that_clients_know, test_messages_of_refusals,
         test_frames_that_cannot_have_rings, test_methods_paths_and_limits, test_several_streams_are_told_apart, test_token,
         test_a_refusal_of_the_worker_is_told, test_parameters_reach_the_worker_as_they_were_sent,
         test_a_worker_that_does_not_answer_holds_nobody_up, test_not_ready_yet,
         test_permanent_failure_and_restart, test_a_crash_loop_is_slow_and_visible,
         test_a_worker_that_dies_of_its_first_frames_is_slowed_down, test_a_program_that_is_not_there_is_found_later, test_the_ready_of_a_dead_worker_binds_nothing, test_violations_end_one_process,
         test_a_burst_of_a_worker_is_not_the_end_of_egress, test_output_without_end_is_cut,
         test_what_a_worker_leaves_behind_goes_with_it, test_stop_is_quick_whatever_the_worker_does,
         test_a_standby_takes_over, test_sigterm_leaves_nothing,
         test_workers_are_asked_to_end_before_they_are_told, test_children_do_not_outlive_a_killed_supervisor,
         test_nothing_is_left_after_many_sessions, test_bad_settings_are_refused])

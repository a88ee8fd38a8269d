#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
Goal: whatever is wrong with a request, a URL, a channel, a clip or a worker gets a clear error in the reply or in the
status, disturbs nobody else, and the next start works.
Method: one good session runs all the time; its processed frames must go on while each bad thing is tried.
"""
import os
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from stack import CLIP, Failure, Stack, request, run, wait_for  # noqa: E402


def session_of(s, name):
    """What the API says of a session, whole; None when it is not known."""
    code, reply = s.get(f"/api/sessions/{name}")
    return reply if code == 200 else None


def count(s, name, counter):
    return (session_of(s, name) or {}).get("egress", {}).get("counters", {}).get(counter, 0)


def processed(s):
    return count(s, "good", "frames_processed")


def still_good(s):
    before = processed(s)
    wait_for("the good session to go on", lambda: processed(s) > before + 5, 5)


def start(s, name, **over):
    body = {"gateway_request_id": name, "subscribe_url": f"{s.relay_url}/in", "publish_url": f"{s.relay_url}/{name}-out"}
    body.update(over)
    return s.post("/api/stream/start", {k: v for k, v in body.items() if v is not None})


def stop(s, name):
    return s.post("/api/stream/stop", headers={"X-Stream-Id": name})


def words_in_status(s, name, *words):
    """The session's status comes to contain all of the words."""
    def look():
        text = str(session_of(s, name) or "").lower()
        return text if all(w in text for w in words) else None
    return wait_for(f"{name}'s status to say {words}: {session_of(s, name)}", look, 12)


def good_stack():
    s = Stack("green-tint", serve_args=("--workers", "3"))
    s.wait_ready()
    s.publish(args=("--loop",))
    assert start(s, "good")[0] == 200
    wait_for("processed frames", lambda: processed(s) > 5, 15)
    return s


def test_bad_requests():
    with good_stack() as s:
        json_type = {"Content-Type": "application/json"}
        for body, why in ((b"{", "json"), (b"[1]", "object"), (b"", ""), (b'"x"', ""), (b"\xff\xfe{}", "")):
            code, reply = s.post("/api/stream/start", body, headers=json_type)
            assert code == 400 and "Error starting stream" in reply["message"], (body, code, reply)
            assert why in reply["message"].lower(), (why, reply)
        for over in ({"gateway_request_id": 5}, {"subscribe_url": 7}, {"params": []}, {"subscribe_url": "not a url"},
                     {"subscribe_url": "file:///etc/passwd"}, {"publish_url": "gopher://x/y"},
                     {"params": {"width": 512}}, {"params": {"width": "a", "height": 5}},
                     {"params": {"max_framerate": 61}}, {"params": {"detect_out_resolution": "maybe"}}):
            code, reply = start(s, "bad", **over)
            assert code == 400, (over, code, reply)
        code, reply = s.post("/api/stream/start", {"subscribe_url": "http://127.0.0.1:1/x"})
        assert code == 400 and "gateway_request_id" in reply["message"], reply
        code, reply = s.post("/api/stream/params", {"intensity": 1}, headers={"X-Stream-Id": "nobody"})
        assert code in (400, 404), (code, reply)
        assert stop(s, "nobody")[0] in (400, 404)
        assert s.get("/nothing/here")[0] == 404
        assert s.get("/api/stream/start")[0] == 405
        code, reply = start(s, "good")
        assert code in (400, 409, 503), (code, reply)
        still_good(s)
        assert start(s, "next")[0] == 200
        wait_for("the next session's frames", lambda: count(s, "next", "frames_processed") > 5, 10)
        assert stop(s, "next")[0] == 200


def test_unreachable_and_nonsense_urls():
    with good_stack() as s:
        assert start(s, "refused", subscribe_url="http://127.0.0.1:1/in")[0] == 200
        words_in_status(s, "refused", "refused")
        assert stop(s, "refused")[0] == 200
        assert start(s, "unresolved", subscribe_url="http://no-such-host.invalid/in")[0] == 200
        words_in_status(s, "unresolved", "resol")
        assert stop(s, "unresolved")[0] == 200
        assert start(s, "no-out", publish_url="http://127.0.0.1:1/out")[0] == 200
        words_in_status(s, "no-out", "refused")
        assert stop(s, "no-out")[0] == 200
        still_good(s)


def test_channel_without_media():
    with good_stack() as s:
        stop_flag = threading.Event()

        def text():
            for seq in range(200):
                if stop_flag.is_set():
                    return
                request(s.relay_url, "POST", f"/text/{seq}", b"this is not a transport stream\n" * 400)
                stop_flag.wait(0.1)
        t = threading.Thread(target=text, daemon=True)
        t.start()
        assert start(s, "text", subscribe_url=f"{s.relay_url}/text")[0] == 200
        words_in_status(s, "text", "mpeg")
        assert stop(s, "text")[0] == 200
        stop_flag.set()
        t.join(5)
        still_good(s)


def test_truncated_clip():
    with good_stack() as s:
        cut = s.path("cut.ts")
        with open(CLIP, "rb") as f, open(cut, "wb") as g:
            data = f.read(400000)
            g.write(data[:200001] + data[260000:])  # a hole in the middle, and no whole packets after it
        s.publish(cut, "cut")
        assert start(s, "cut", subscribe_url=f"{s.relay_url}/cut")[0] == 200
        wait_for("frames of the truncated clip", lambda: count(s, "cut", "frames_out") > 5, 10)
        wait_for("the session to end with its channel", lambda: session_of(s, "cut") is None or
                 session_of(s, "cut")["state"] not in ("running", "starting", "open"), 15)
        still_good(s)


def test_worker_that_cannot_start():
    for worker, words in (("/no/such/worker", "no such"), ("/etc/passwd", "permission"), ("/bin/false", "exit")):
        with Stack(None) as s:
            s.start_serve(worker)
            code, reply = s.post("/api/stream/start", {"gateway_request_id": "x"})
            assert code == 503, (worker, code, reply)

            def told():
                text = (str(s.get("/api/workers")[1]) + s.serve.tail(20000)).lower()
                return words in text
            wait_for(f"a clear error about {worker}", told, 5)
            if s.get("/livez")[0] != 200:
                raise Failure("the supervisor does not live")


if __name__ == "__main__":
    run([test_bad_requests, test_unreachable_and_nonsense_urls, test_channel_without_media, test_truncated_clip,
         test_worker_that_cannot_start])

#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
Goal: a real clip, live, through the green-tint worker: every input frame that the limit lets through comes out tinted,
in order and in time, with its audio, in a stream that any reader accepts.
Method: the real programs on loopback; the output is decoded with ffmpeg and compared frame by frame with the input,
scaled and cropped the same way. MILLRACE_LIVE_SECONDS makes the run longer, MILLRACE_CLIP takes another clip.
"""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from stack import CLIP, Failure, Reader, Stack, frame_colours, nal_types, probe_errors, run, wait_for  # noqa: E402

SECONDS = float(os.environ.get("MILLRACE_LIVE_SECONDS", "12"))
THE_CLIP = os.environ.get("MILLRACE_CLIP", CLIP)


def reference_colours(clip, path):
    """Mean colours of the clip's frames after the cover-scale and crop to 512x512."""
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-copyts", "-i", clip, "-map", "0:v:0", "-vf",
                    "scale=512:512:force_original_aspect_ratio=increase,crop=512:512", "-c:v", "ffv1", "-vsync",
                    "passthrough", path], check=True)
    return frame_colours(path)


def live(clip, seconds, **params):
    with Stack("green-tint") as s:
        s.wait_ready()
        assert s.session("live", **params)[0] == 200
        out = Reader(f"{s.relay_url}/live-out")
        out.start()
        s.publish(clip, args=("--loop",))
        wait_for("output", lambda: len(out.pts) > 0, 10)
        wait_for("enough output", lambda: len(out.pts) and (out.pts[-1][0] - out.pts[0][0]) / 90000 >= seconds,
                 seconds + 20)
        status = s.status("live")
        code, reply = s.post("/api/stream/stop", headers={"X-Stream-Id": "live"})
        assert code == 200, reply
        wait_for("the output to end", lambda: s.get("/api/sessions")[1] is not None, 5)
        out.halt.set()
        if out.error:
            raise out.error
        path = "/tmp/millrace-live-%d.ts" % os.getpid()
        out.save(path)
        return path, out, status, reference_colours(clip, s.path("reference.mkv"))


def check_tint(path, reference, rate):
    got = frame_colours(path)
    by_pts = {}
    start = reference[0][0]
    for t, c in reference:
        by_pts[round((t - start) * 90000)] = c
    bad, last = [], None
    for t, (r, g, b) in got:
        if last is not None and t <= last:
            raise Failure(f"timestamps go back: {last} then {t}")
        last = t
        want = by_pts.get(round((t - start) * 90000))
        if want is None:
            continue  # a later loop of the clip
        # green-tint at its default intensity mixes a quarter of pure green in
        e = (want[0] * 0.75, want[1] * 0.75 + 63.75, want[2] * 0.75)
        if max(abs(r - e[0]), abs(g - e[1]), abs(b - e[2])) > 8:
            bad.append((t, (r, g, b), want))
    gaps = [b[0] - a[0] for a, b in zip(got, got[1:])]
    if max(gaps) > 1.5 / rate:
        raise Failure(f"a frame is missing: gap of {max(gaps) * 1000:.0f} ms at {rate} fps")
    if bad:
        raise Failure(f"{len(bad)} of {len(got)} frames are not tinted as they should be, first: {bad[0]}")
    return len(got)


def check_stream(path, out, status):
    errors = probe_errors(path)
    if errors:
        raise Failure("ffmpeg finds errors in the output: " + errors[:500])
    for i, segment in enumerate(out.segments[:-1]):
        pids = [((segment[at + 1] & 0x1f) << 8 | segment[at + 2]) for at in range(0, 188 * 6, 188)]
        if 0 not in pids[:2] or 0x1000 not in pids[:3]:
            raise Failure(f"segment {i} does not begin with PAT and PMT: PIDs {pids}")
        types = nal_types(bytes(segment))
        if 7 not in types or 8 not in types or 5 not in types:
            raise Failure(f"segment {i} does not begin with SPS, PPS and IDR: NAL types {types}")
    counters = status["millrace"]["sessions"][0]["egress"] if "sessions" in status.get("millrace", {}) else {}
    print("# egress counters:", counters)


def test_every_frame_is_tinted_24fps():
    path, out, status, reference = live(THE_CLIP, SECONDS)
    check_stream(path, out, status)
    frames = check_tint(path, reference, 24)
    print(f"# {frames} frames")
    os.unlink(path)


if __name__ == "__main__":
    run([test_every_frame_is_tinted_24fps])

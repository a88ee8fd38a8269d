#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
Goal: a real clip, live, through the green-tint worker: every input frame that the limit lets through comes out tinted,
in order and in time, with its audio, in a stream that any reader accepts.
Method: the real programs on loopback. Input and output channel are both recorded, decoded with ffmpeg and compared
frame by frame, by timestamp. MILLRACE_LIVE_SECONDS makes the runs longer, MILLRACE_CLIP takes another clip.
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from stack import (CLIP, Failure, Reader, Stack, audio_envelope, envelope_lag, frame_colours, nal_types,  # noqa: E402
                   probe_errors, run, wait_for)

SECONDS = float(os.environ.get("MILLRACE_LIVE_SECONDS", "10"))
THE_CLIP = os.environ.get("MILLRACE_CLIP", CLIP)
CROP = "scale=512:512:force_original_aspect_ratio=increase,crop=512:512"


def live(s, seconds, **params):
    """Runs the clip for so long; returns the paths of the recorded input and output, and the output's reader."""
    s.wait_ready()
    assert s.session("live", **params)[0] == 200
    readers = {name: Reader(f"{s.relay_url}/{name}") for name in ("in", "live-out")}
    for r in readers.values():
        r.start()
    s.publish(THE_CLIP, args=("--loop",))
    out = readers["live-out"]
    wait_for("output", lambda: out.pts, 10)
    wait_for("enough output", lambda: (out.pts[-1][0] - out.pts[0][0]) / 90000 >= seconds, seconds + 20)
    counters = s.status("live")["millrace"]["egress"]["counters"]
    print("# " + ", ".join(f"{k}={counters[k]}" for k in ("frames_in", "frames_processed", "fill_deadline",
                                                          "fill_no_worker", "latency_us_p50", "latency_us_p99")))
    code, reply = s.post("/api/stream/stop", headers={"X-Stream-Id": "live"})
    assert code == 200, reply
    wait_for("the output channel to end with its session", out.ended.is_set, 3)
    for name, r in readers.items():
        r.halt.set()
        if r.error:
            raise r.error
        r.save(s.path(name + ".ts"))
    return s.path("in.ts"), s.path("live-out.ts"), out


def limited(times, rate):
    """The timestamps that the limit lets through: drop what is early, else advance by one interval; a source that is
    not faster than the limit loses nothing."""
    interval = 90000 / rate
    if (times[-1] - times[0]) / (len(times) - 1) >= interval * 0.995:
        return times
    kept, due = [], 0
    for t in times:
        if t < due - 0.01:
            continue
        due = t + interval if t > due + interval else due + interval
        kept.append(t)
    return kept


def check_frames(source, output, rate):
    want = dict(frame_colours(source, CROP))
    got = frame_colours(output)
    times = [t for t, _ in got]
    if any(b <= a for a, b in zip(times, times[1:])):
        raise Failure("timestamps do not increase")
    expected = [t for t in limited(sorted(want), rate) if times[0] <= t <= times[-1]]
    missing, extra = set(expected) - set(times), set(times) - set(expected)
    if missing or extra:
        raise Failure(f"of {len(expected)} frames {len(missing)} are missing and {len(extra)} are not of the input: "
                      f"{sorted(missing)[:5]} {sorted(extra)[:5]}")
    bad = []
    for t, colour in got:
        # green-tint at its default intensity of 0.5 mixes a quarter of pure green in
        e = (want[t][0] * 0.75, want[t][1] * 0.75 + 63.75, want[t][2] * 0.75)
        if max(abs(x - y) for x, y in zip(colour, e)) > 6:
            bad.append((t, colour, e))
    if bad:
        raise Failure(f"{len(bad)} of {len(got)} frames are not tinted as they should be, first: {bad[0]}")
    print(f"# {len(got)} frames, all tinted, none missing")


def check_stream(path, out):
    errors = probe_errors(path)
    if errors:
        raise Failure("ffmpeg finds errors in the output: " + errors[:500])
    for i, segment in enumerate(out.segments):
        pids = [((segment[at + 1] & 0x1f) << 8 | segment[at + 2]) for at in range(0, 188 * 4, 188)]
        if 0 not in pids[:2] or 0x1000 not in pids[:3]:
            raise Failure(f"segment {i} does not begin with PAT and PMT: PIDs {pids}")
        types = nal_types(bytes(segment))
        if 7 not in types or 8 not in types or 5 not in types:
            raise Failure(f"segment {i} does not begin with SPS, PPS and IDR: NAL types {types}")


def check_sound(source, output, begin_ticks, seconds):
    begin = begin_ticks / 90000 + 1
    lag, fit = envelope_lag(audio_envelope(source, begin, seconds - 2), audio_envelope(output, begin, seconds - 2))
    print(f"# sound: {lag} ms late against the input, fit {fit:.2f}")
    if abs(lag) > 40 or fit < 0.6:
        raise Failure(f"sound is out of sync: {lag} ms (fit {fit:.2f})")


def play(rate):
    with Stack("green-tint") as s:
        source, output, out = live(s, SECONDS, max_framerate=rate)
        check_stream(output, out)
        check_frames(source, output, rate)
        check_sound(source, output, out.pts[0][0], min(SECONDS, 20))


def test_every_frame_is_tinted_24fps():
    play(24)


def test_every_frame_is_tinted_30fps():
    play(30)


if __name__ == "__main__":
    run([test_every_frame_is_tinted_24fps, test_every_frame_is_tinted_30fps])

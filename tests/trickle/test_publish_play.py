#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
Goal: what `millrace publish` reads is what `millrace play` writes, packet for packet, cut as readers need it.
Method: both programs on the relay, with a real clip, compared by ffprobe; segments taken apart byte by byte.

usage: test_publish_play.py LIBEXEC_DIR CLIP; prints TAP. The plays run at the same time, each on its own channel.
"""
import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request

LIBEXEC, CLIP = sys.argv[1], sys.argv[2]
TESTS = []


def test(function):
    TESTS.append(function)
    return function


def program(name):
    return os.path.join(LIBEXEC, "millrace-" + name)


def packets(path):
    """[(kind, pts, dts, checksum, keyframe)] in file order."""
    text = subprocess.run(["ffprobe", "-v", "error", "-show_packets", "-show_data_hash", "crc32", "-of", "json", path],
                          check=True, capture_output=True, text=True).stdout
    return [(p["codec_type"], p["pts"], p["dts"], p["data_hash"], p["flags"][0] == "K")
            for p in json.loads(text)["packets"]]


def by_kind(found, kind):
    return [p for p in found if p[0] == kind]


def publish(*words, **more):
    return subprocess.Popen([program("publish"), *words], stderr=subprocess.PIPE, text=True, **more)


def play(url, path, *words):
    return subprocess.Popen([program("play"), url, "-o", path, *words], stderr=subprocess.PIPE, text=True)


def ends(process, code=0, seconds=30):
    _, error = process.communicate(timeout=seconds)
    assert process.returncode == code, f"exit {process.returncode}: {error}"
    return error


def get(url):
    with urllib.request.urlopen(url, timeout=5) as reply:
        return reply.read()


def check_segment(data):
    """PAT, PMT, then a video PES with a keyframe; continuity counters start at 0 and have no hole."""
    assert len(data) % 188 == 0 and len(data) > 0
    pids, counters = [], {}
    for at in range(0, len(data), 188):
        packet = data[at:at + 188]
        assert packet[0] == 0x47
        pid = (packet[1] & 0x1F) << 8 | packet[2]
        pids.append(pid)
        if packet[3] & 0x10:
            want = (counters.get(pid, -1) + 1) & 15
            assert packet[3] & 15 == want, f"pid {pid}: counter {packet[3] & 15}, not {want}"
            counters[pid] = want
    assert pids[0] == 0 and pids[2] == 0x100, pids[:4]
    pmt = data[188:376]
    assert pmt[5] == 2, "the second packet is no PMT"
    first = data[376:564]
    assert first[3] & 0x20 and first[5] & 0x40, "no random access indicator in the first video packet"


@test
def a_file_arrives_packet_for_packet_in_real_time(url, folder):
    reader = play(url, folder + "/out.ts")
    began = time.monotonic()
    writer = publish(CLIP, url)
    ends(writer)
    took = time.monotonic() - began
    ends(reader)
    want, got = packets(CLIP), packets(folder + "/out.ts")
    for kind in ("video", "audio"):
        assert by_kind(want, kind) == by_kind(got, kind), \
            f"{kind}: {len(by_kind(want, kind))} packets in, {len(by_kind(got, kind))} out, or others"
    assert 9 < took < 15, f"10 s of video took {took:.1f} s"


@test
def standard_input_is_cut_into_whole_segments(url, folder):
    with open(CLIP, "rb") as clip:
        ends(publish("-", url, "--keep", stdin=clip), seconds=8)  # as it comes: far faster than real time
    newest = int(get(url + "/next"))
    assert newest == 5, f"{newest} segments of 2 s in a clip of 10 s"
    whole = b""
    for seq in range(1, newest):
        data = get(f"{url}/{seq}")
        check_segment(data)
        with open(f"{folder}/{seq}.ts", "wb") as out:
            out.write(data)
        found = by_kind(packets(f"{folder}/{seq}.ts"), "video")
        assert found[0][4], "the first access unit is no keyframe"
        assert len(found) == 60 or seq == newest - 1, f"segment {seq} has {len(found)} frames"
        whole += data
    # a restart goes on where the one before stopped, also with another way of cutting
    with open(CLIP, "rb") as clip:
        ends(publish("-", url, "--segment-time", "4s", stdin=clip), seconds=8)
    try:
        get(url + "/next")
        raise AssertionError("the channel is still there")
    except urllib.error.HTTPError as error:
        assert error.code == 404


@test
def a_restart_goes_on_at_the_next_number(url, folder):
    for _ in range(2):
        ends(publish(CLIP, url, "--speed", "max", "--keep"), seconds=8)
    assert int(get(url + "/next")) == 10


@test
def a_loop_is_one_timeline(url, folder):
    subprocess.run(["ffmpeg", "-v", "error", "-i", CLIP, "-t", "2.5", "-c", "copy", folder + "/short.mp4"], check=True)
    reader = play(url, folder + "/out.ts")
    writer = publish(folder + "/short.mp4", url, "--loop")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if os.path.exists(folder + "/out.ts") and os.path.getsize(folder + "/out.ts") > 900_000:
            break
        time.sleep(0.05)
    writer.send_signal(signal.SIGINT)
    ends(writer)
    ends(reader)
    found = packets(folder + "/out.ts")
    # the cut took B-frames from the end of the clip, so there is a hole of some frames at each seam
    for kind, step_max in (("video", 18000), ("audio", 18000)):
        stamps = [p[2] for p in by_kind(found, kind)]
        steps = [b - a for a, b in zip(stamps, stamps[1:])]
        assert len(stamps) > 150, f"{len(stamps)} {kind} packets"
        assert min(steps) > 0 and max(steps) < step_max, f"{kind}: steps from {min(steps)} to {max(steps)}"
    decoded = subprocess.run(["ffmpeg", "-v", "error", "-i", folder + "/out.ts", "-f", "null", "-"],
                             capture_output=True, text=True)
    assert decoded.stderr == "", decoded.stderr


@test
def play_writes_to_a_pipe_until_the_end(url, folder):
    reader = subprocess.Popen([program("play"), url], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    subprocess.run(["ffmpeg", "-v", "error", "-i", CLIP, "-t", "2.5", "-c", "copy", folder + "/short.ts"], check=True)
    ends(publish(folder + "/short.ts", url))
    data, _ = reader.communicate(timeout=10)
    assert reader.returncode == 0
    assert len(data) > 100_000 and len(data) % 188 == 0


@test
def play_ends_when_its_reader_goes_away(url, folder):
    reader = subprocess.Popen([program("play"), url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=False)
    writer = publish(CLIP, url)
    assert reader.stdout.read(188)[0] == 0x47
    reader.stdout.close()
    assert reader.wait(10) == 0
    writer.send_signal(signal.SIGTERM)
    ends(writer)


@test
def what_cannot_be_published_is_said(url, folder):
    def refuses(code, text, *words, **more):
        error = ends(publish(*words, **more), code, 10)
        assert text in error and error.count("\n") == 1, error

    refuses(100, "No such file", folder + "/none.mp4", url)
    with open(folder + "/text", "w") as out:
        out.write("this is no video\n" * 100)
    refuses(100, "not a media stream", folder + "/text", url)
    refuses(100, "not a channel's URL", CLIP, "ftp://host/channel")
    refuses(100, "a URL are needed", CLIP)
    refuses(100, "not a time", CLIP, url, "--segment-time", "soon")
    with open(CLIP, "rb") as clip:
        cat = subprocess.Popen(["cat"], stdin=clip, stdout=subprocess.PIPE)
        refuses(100, "cannot be rewound", "-", url, "--loop", stdin=cat.stdout)
        cat.stdout.close()
        cat.wait(10)
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=d=0.5", "-c:v", "ffv1", folder + "/x.mkv"],
                   check=True)
    refuses(100, "MPEG-TS does not carry; re-encode it", folder + "/x.mkv", url)


@test
def what_cannot_be_played_is_said(url, folder):
    for code, words in ((100, ["nonsense"]), (100, []), (100, [url, "--from", "x"]),
                        (100, [url, "-o", "/nonexistent/x"])):
        found = subprocess.run([program("play"), *words], capture_output=True, text=True, timeout=10)
        assert found.returncode == code and found.stderr.count("\n") == 1, found.stderr


def run(function, base):
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            function(base + function.__name__, folder)
            trouble = None
        except Exception:
            trouble = traceback.format_exc()
    return function.__name__, trouble, time.monotonic() - began


def main():
    failed = 0
    relay = subprocess.Popen([program("relay"), "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                             text=True)
    base = relay.stdout.readline().split()[-1]
    print(f"1..{len(TESTS)}", flush=True)
    with concurrent.futures.ThreadPoolExecutor(len(TESTS)) as pool:
        done = pool.map(lambda function: run(function, base), TESTS)
        for number, (name, trouble, seconds) in enumerate(done, 1):
            failed += trouble is not None
            print(f"{'not ok' if trouble else 'ok'} {number} - {name} # {seconds:.1f} s", flush=True)
            for line in (trouble or "").splitlines():
                print("# " + line, flush=True)
    relay.terminate()
    relay.wait(10)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

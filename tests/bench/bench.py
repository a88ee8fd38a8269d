#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What millrace costs, measured against doing without it. Prints one table: figure, measured, target, verdict.

usage: bench.py [--build DIR] [--seconds N] [--rounds N] [--clip FILE] [--json FILE] [--only pipeline|ring]

All numbers come from runs in this call, on this machine. The pipeline is the product: relay, publisher, supervisor,
ingest, worker (passthrough, RGB24, 512x512, at most 24 frames a second) and egress. The yardstick is one ffmpeg
process that does the same work on the same clip in real time: decode, scale and crop, to RGB24 and back, encode with
the same settings, multiplex. Rounds of both alternate, so that a machine that is busy for a while disturbs both; the
figure is the median of the rounds.

CPU time is read from /proc for the supervisor and all its descendants, those that have died included, over a window
in which frames flow; relay and publisher stand for the outside world and are listed apart. Memory is the sum of the
proportional set sizes (PSS) of the same processes.
"""
import argparse
import ctypes
import http.client
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TICK = os.sysconf("SC_CLK_TCK")
SETTLE = 3.0  # seconds of flowing frames before a window opens
FPS = 24
SIDE = 512


class Trouble(Exception):
    pass


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


# ---- /proc --------------------------------------------------------------------


def stat_fields(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
        return f.read().rsplit(")", 1)[1].split()


def children_of():
    """parent pid -> pids, for every process there is."""
    tree = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                tree.setdefault(int(stat_fields(entry)[1]), []).append(int(entry))
            except (OSError, IndexError):
                continue
    return tree


def descendants(root):
    tree, found, todo = children_of(), [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += tree.get(pid, [])
    return found


def cpu_ns(pid):
    """CPU time of a process and of its children that it has waited for, in nanoseconds."""
    fields = stat_fields(pid)
    ticks = sum(int(fields[i]) for i in (11, 12, 13, 14))
    try:  # the scheduler's own count is exact, the ticks are sampled; dead children exist in ticks only
        with open(f"/proc/{pid}/schedstat", encoding="utf-8") as f:
            own = int(f.read().split()[0])
        threads = os.listdir(f"/proc/{pid}/task")
        if len(threads) > 1:
            own = 0
            for t in threads:
                with open(f"/proc/{pid}/task/{t}/schedstat", encoding="utf-8") as f:
                    own += int(f.read().split()[0])
        return own + sum(int(fields[i]) for i in (13, 14)) * 1_000_000_000 // TICK
    except OSError:
        return ticks * 1_000_000_000 // TICK


def cpu_of_tree(root):
    return {pid: cpu_ns(pid) for pid in descendants(root) if os.path.exists(f"/proc/{pid}")}


def name_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return os.path.basename(f.read().split(b"\0")[0].decode("utf-8", "replace")) or "?"
    except OSError:
        return "?"


def pss_kib(pid):
    with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as f:
        return sum(int(line.split()[1]) for line in f if line.startswith("Pss:"))


# ---- the stack ------------------------------------------------------------------


class Stack:
    """relay, supervisor with passthrough, publisher."""

    def __init__(self, build, clip):
        self.millrace = os.path.join(build, "bin", "millrace")
        self.logs = tempfile.TemporaryDirectory(prefix="millrace-bench-")
        self.running = []
        try:
            self.relay, self.relay_url = self.server("relay", "--port", "0")
            self.supervisor, url = self.server("serve", "--port", "0", "--worker", "passthrough")
            self.address = urllib.parse.urlsplit(url)
            self.until("the worker to be ready", lambda: self.call("GET", "/health")["status"] in ("IDLE", "OK"))
            self.publisher = self.program("publish", clip, self.relay_url + "/in", "--loop")
        except BaseException:
            self.close()
            raise

    def program(self, *argv, stdout=subprocess.DEVNULL):
        log = open(os.path.join(self.logs.name, argv[0] + ".log"), "ab")
        process = subprocess.Popen([self.millrace, *argv], stdin=subprocess.DEVNULL, stdout=stdout, stderr=log,
                                   preexec_fn=die_with_parent, start_new_session=True)
        log.close()
        self.running.append(process)
        return process

    def server(self, *argv):
        process = self.program(*argv, stdout=subprocess.PIPE)
        for line in process.stdout:
            found = re.search(rb"http://[^\s\"]+", line)
            if found:
                threading.Thread(target=process.stdout.read, daemon=True).start()
                return process, found.group(0).decode().rstrip("/")
        raise Trouble(f"millrace {argv[0]} did not come up: {self.log(argv[0])}")

    def log(self, verb):
        with open(os.path.join(self.logs.name, verb + ".log"), encoding="utf-8", errors="replace") as f:
            return f.read()[-2000:]

    def call(self, method, path, body=None):
        connection = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=10)
        connection.request(method, path, body=None if body is None else json.dumps(body),
                           headers={"Content-Type": "application/json"})
        reply = connection.getresponse()
        text = reply.read()
        connection.close()
        if reply.status != 200:
            raise Trouble(f"{method} {path}: {reply.status} {text.decode('utf-8', 'replace')}")
        return json.loads(text)

    def frames_out(self):
        return self.call("GET", "/api/sessions/bench")["egress"]["counters"].get("frames_out", 0)

    def until(self, what, ready, seconds=15):
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                raise Trouble(f"waited {seconds} s in vain for {what}: {self.log('serve')}")
            time.sleep(0.02)

    def close(self):
        for process in reversed(self.running):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(8)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self.logs.cleanup()


def key_values(line):
    pairs = dict(p.split("=", 1) for p in line.split())
    return {k: (float(v) if re.fullmatch(r"-?[\d.]+", v) else v) for k, v in pairs.items()}


# ---- one round of each ------------------------------------------------------------


def pipeline_round(options):
    stack = Stack(options.build, options.clip)
    try:
        time.sleep(2.5)  # a segment and more is in the input channel: what is measured is a live start
        meter = subprocess.Popen(
            [os.path.join(options.build, "tests", "bench", "channel_latency"), stack.relay_url + "/in",
             stack.relay_url + "/out", str(SETTLE + options.seconds + 1)],
            stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
        stack.running.append(meter)
        time.sleep(0.3)
        asked_ns = time.monotonic_ns()
        stack.call("POST", "/api/stream/start", {
            "gateway_request_id": "bench", "subscribe_url": stack.relay_url + "/in",
            "publish_url": stack.relay_url + "/out", "events_url": stack.relay_url + "/events",
            "params": {"width": SIDE, "height": SIDE, "max_framerate": FPS}})
        stack.until("output", lambda: stack.frames_out() > 0)
        time.sleep(SETTLE)
        root = stack.supervisor.pid
        outside = (stack.relay.pid, stack.publisher.pid)
        before, frames_before = cpu_of_tree(root), stack.frames_out()
        outside_before = [cpu_ns(p) for p in outside]
        time.sleep(options.seconds)
        after, frames_after = cpu_of_tree(root), stack.frames_out()
        outside_after = [cpu_ns(p) for p in outside]
        memory = {pid: pss_kib(pid) for pid in descendants(root)}
        names = {pid: name_of(pid) for pid in after}
        status = stack.call("GET", "/api/sessions/bench")
        output, _ = meter.communicate(timeout=options.seconds + 30)
        stack.call("POST", "/api/stream/stop")
    finally:
        stack.close()
    frames = frames_after - frames_before
    if frames < options.seconds * FPS / 2 or "p50_ms" not in output:
        raise Trouble(f"{frames} frames in {options.seconds} s is not a running stream; {output}; {status}")
    meter = key_values(output)
    per_process, memory_by_name = {}, {}
    for pid, ns in after.items():
        per_process[names[pid]] = per_process.get(names[pid], 0) + (ns - before.get(pid, 0)) / frames / 1e6
        memory_by_name[names[pid]] = memory_by_name.get(names[pid], 0) + memory.get(pid, 0) / 1024
    return {
        "frames": frames,
        "cpu_ms": sum(per_process.values()),
        "cpu_by_process": per_process,
        "relay_ms": (outside_after[0] - outside_before[0]) / frames / 1e6,
        "publish_ms": (outside_after[1] - outside_before[1]) / frames / 1e6,
        "memory_mb": sum(memory_by_name.values()),
        "memory_by_process": memory_by_name,
        "latency_p50_ms": meter["p50_ms"],
        "latency_p99_ms": meter["p99_ms"],
        "first_frame_ms": (meter["first_out_ns"] - asked_ns) / 1e6,
        "counters": status["egress"]["counters"],
    }


# Threads, scaler, rate and audio settings as in ingest and egress: with more threads ffmpeg needs more CPU time.
FFMPEG = ("ffmpeg -hide_banner -v error -nostats -progress pipe:1 -threads 1 -re -stream_loop -1 -i {clip} "
          "-map 0:v:0 -map 0:a:0? -filter_threads 1 "
          "-vf fps={fps},scale={side}:{side}:force_original_aspect_ratio=increase:flags=bicubic,"
          "crop={side}:{side},format=rgb24,format=yuv420p "
          "-c:v libx264 -preset superfast -tune zerolatency -crf 23 -bf 0 -g 48 -threads 1 "
          "-c:a libopus -ar 48000 -b:a 112k -compression_level:a 5 -f mpegts -y /dev/null")


def ffmpeg_round(options):
    command = FFMPEG.format(clip="CLIP", side=SIDE, fps=FPS).split()
    command[command.index("CLIP")] = options.clip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
                               preexec_fn=die_with_parent)
    start = time.monotonic()
    begin = None
    try:
        for line in process.stdout:
            if not line.startswith("frame="):
                continue
            frames, now, cpu = int(line.split("=")[1]), time.monotonic(), cpu_ns(process.pid)
            if begin is None:
                if now - start >= SETTLE:
                    begin = (frames, cpu, now)
            elif now - begin[2] >= options.seconds:
                return {"frames": frames - begin[0], "cpu_ms": (cpu - begin[1]) / (frames - begin[0]) / 1e6}
    finally:
        process.kill()
        process.wait()
    raise Trouble("ffmpeg ended early")


def ring_round(options):
    output = subprocess.run([os.path.join(options.build, "tests", "bench", "ring_bench"), str(options.ring_seconds), "60"],
                            capture_output=True, text=True, check=True).stdout
    return {ways["way"]: ways for ways in map(key_values, output.splitlines())}


# ---- the table ----------------------------------------------------------------------


def median(rounds, key):
    return statistics.median(r[key] for r in rounds)


class Table:
    def __init__(self):
        self.rows = []

    def add(self, figure, measured, unit, target=None, digits=1):
        verdict = "" if target is None else "met" if measured <= target else "MISSED"
        self.rows.append((figure, f"{measured:.{digits}f} {unit}", "" if target is None else f"<= {target:g} {unit}", verdict))

    def show(self):
        rows = [("figure", "measured", "target", "verdict"), *self.rows]
        widths = [max(len(r[i]) for r in rows) for i in range(4)]
        for n, r in enumerate(rows):
            print(f"  {r[0]:<{widths[0]}}  {r[1]:>{widths[1]}}  {r[2]:>{widths[2]}}  {r[3]}".rstrip())
            if n == 0:
                print("  " + "-" * (sum(widths) + 6))


def by_process(values, digits):
    return ", ".join(f"{name.removeprefix('millrace-')} {v:.{digits}f}" for name, v in
                     sorted(values.items(), key=lambda i: -i[1]))


def tell(text):
    print(text, file=sys.stderr, flush=True)


def pipeline_rows(options, table, results):
    ours, theirs = [], []
    for n in range(options.rounds):
        tell(f"bench: round {n + 1} of {options.rounds}: the pipeline, {options.seconds:g} s")
        ours.append(pipeline_round(options))
        tell(f"bench: round {n + 1} of {options.rounds}: one ffmpeg process, {options.seconds:g} s")
        theirs.append(ffmpeg_round(options))
    results.update(pipeline=ours, ffmpeg=theirs)
    ratio = statistics.median(a["cpu_ms"] / b["cpu_ms"] for a, b in zip(ours, theirs))
    table.add("CPU a frame, all processes of the service", median(ours, "cpu_ms"), "ms", digits=2)
    table.add("CPU a frame, one ffmpeg process", median(theirs, "cpu_ms"), "ms", digits=2)
    table.add("  ratio", ratio, "x", 1.3, 2)
    table.add("added latency, p50", median(ours, "latency_p50_ms"), "ms", 40)
    table.add("added latency, p99", median(ours, "latency_p99_ms"), "ms")
    table.add("start request to first output frame", median(ours, "first_frame_ms"), "ms", digits=0)
    table.add("memory (PSS), all processes of the service", median(ours, "memory_mb"), "MB", 120)
    last = ours[-1]
    return [f"CPU ms a frame: {by_process(last['cpu_by_process'], 2)}; outside the service: relay "
            f"{last['relay_ms']:.2f}, publish {last['publish_ms']:.2f}",
            f"memory MB: {by_process(last['memory_by_process'], 1)}",
            "ffmpeg: " + FFMPEG.format(clip=os.path.relpath(options.clip), side=SIDE, fps=FPS)]


def ring_rows(options, table, results):
    tell(f"bench: handing frames over, {5 * options.ring_seconds:g} s")
    ways = results["ring"] = ring_round(options)
    bell = ways["ring-bell"]
    for way, name, target in (("ring-bell", "ring, consumer parked on the bell", 60),
                              ("ring-doorbell", "ring, consumer parked in poll()", 60),
                              ("pipe", "pipe", None), ("socketpair", "socketpair", None)):
        w = ways[way]
        table.add(f"0.8 MB frame over a {name}, p50", w["p50_us"], "us", target)
        table.add("  p99", w["p99_us"], "us")
        table.add("  CPU for handing over", w["handover_cpu_us"], "us")
        if w is not bell and target is None:
            table.add("  latency, times the ring's", w["p50_us"] / bell["p50_us"], "x")
    lost = sum(w["lost"] for w in ways.values())
    return [f"frames lost while handing over: {lost:.0f}"] if lost else []


def parse():
    parser = argparse.ArgumentParser(prog="./dev bench", description="Measures cost, latency and memory.")
    parser.add_argument("--build", default=os.path.join(SOURCE, "build"), help=argparse.SUPPRESS)
    parser.add_argument("--clip", default=os.path.join(SOURCE, "tests", "data", "camera-10s.ts"), metavar="FILE")
    parser.add_argument("--seconds", type=float, default=15, metavar="N", help="length of a window (%(default)s)")
    parser.add_argument("--ring-seconds", type=float, default=5, metavar="N", help="for each way (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of pipeline and ffmpeg (%(default)s)")
    parser.add_argument("--only", choices=("pipeline", "ring"), help="one half")
    parser.add_argument("--json", metavar="FILE", help="write all numbers there")
    return parser.parse_args()


def main():
    options = parse()
    table, notes, results = Table(), [], {}
    load = os.getloadavg()[0]
    try:
        if options.only != "ring":
            notes += pipeline_rows(options, table, results)
        if options.only != "pipeline":
            notes += ring_rows(options, table, results)
    except (Trouble, OSError, subprocess.SubprocessError) as error:
        tell(f"bench: {error}")
        return 1
    print(f"millrace on {os.cpu_count()} processors, load before {load:.2f}; clip {os.path.relpath(options.clip)}, "
          f"{SIDE}x{SIDE}, at most {FPS} frames/s, RGB24 worker (passthrough); median of {options.rounds} rounds of "
          f"{options.seconds:g} s\ncommand: {re.sub(' --build [^ ]+', '', ' '.join(['./dev bench', *sys.argv[1:]]))}\n")
    table.show()
    print()
    for note in notes:
        print(f"  {note}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as f:
            json.dump(results, f, indent=1)
    return 1 if any(r[3] == "MISSED" for r in table.rows) else 0


if __name__ == "__main__":
    sys.exit(main())

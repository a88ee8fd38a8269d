# SPDX-License-Identifier: MIT
"""
The whole product on loopback, for scenario tests: relay, supervisor, publisher, a reader of the output.

Nothing here waits for a fixed time: it waits for an event with a deadline. Every process that was started is ended by
its own pid in close(). Ports are chosen by the programs themselves (--port 0).
"""
import atexit
import http.client
import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
import urllib.parse

BUILD = os.environ.get("MILLRACE_BUILD", "build")
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MILLRACE = os.path.join(BUILD, "bin", "millrace")
CLIP = os.path.join(SOURCE, "tests", "data", "camera-10s.ts")
# the same camera as a browser sends it: no B-frames, so each picture arrives when its turn has come; Opus sound
CLIP_WHIP = os.path.join(SOURCE, "tests", "data", "camera-whip-10s.ts")
SLOW = float(os.environ.get("MILLRACE_TEST_SLOW", "1"))  # sanitizer builds stretch the bounds by this factor


class Failure(AssertionError):
    pass


def wait_for(what, predicate, seconds=10.0, every=0.02):
    """Returns the predicate's first true value; Failure after the deadline."""
    deadline = time.monotonic() + seconds * SLOW
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failure(f"waited {seconds * SLOW:.0f} s in vain for: {what}")
        time.sleep(every)


RUNNING = set()  # children that have not been waited for, whoever forgot them


def kill_the_forgotten():
    """A test that fails while it sets up has nobody who calls close()."""
    for popen in list(RUNNING):
        if popen.poll() is None:
            popen.kill()
            popen.wait()


atexit.register(kill_the_forgotten)


class Process:
    """A child whose output is kept; killed by pid at the end."""

    def __init__(self, argv, log_dir, name, env=None, stdin=subprocess.DEVNULL):
        self.name = name
        self.log_path = os.path.join(log_dir, name + ".log")
        self.log = open(self.log_path, "wb")
        self.popen = subprocess.Popen(argv, stdin=stdin, stdout=subprocess.PIPE, stderr=self.log,
                                      env=dict(os.environ, **(env or {})), start_new_session=True)
        RUNNING.add(self.popen)
        self.lines = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.popen.stdout:
            self.lines.append(line.decode("utf-8", "replace").rstrip("\n"))

    def url(self):
        def find():
            for line in list(self.lines):
                match = re.search(r"https?://[^\s\"]+", line)
                if match:
                    return match.group(0).rstrip("/")
            if self.popen.poll() is not None:
                raise Failure(f"{self.name} exited with {self.popen.returncode}: {self.tail()}")
            return None
        return wait_for(f"{self.name} to print its URL", find)

    def tail(self, count=2000):
        self.log.flush()
        with open(self.log_path, "rb") as f:
            return f.read()[-count:].decode("utf-8", "replace")

    def stop(self, sig=signal.SIGTERM, seconds=8.0):
        if self.popen.poll() is None:
            self.popen.send_signal(sig)
            try:
                self.popen.wait(seconds * SLOW)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
                raise Failure(f"{self.name} did not stop within {seconds} s of signal {sig}")
        self.reader.join(2)
        self.log.close()
        return self.popen.returncode


def request(base, method, path, body=None, headers=None, timeout=10.0):
    """(status, parsed JSON or text) of one request; `body` is encoded as JSON unless it is bytes."""
    at = urllib.parse.urlsplit(base)
    conn = http.client.HTTPConnection(at.hostname, at.port, timeout=timeout * SLOW)
    send = dict(headers or {})
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        send.setdefault("Content-Type", "application/json")
    conn.request(method, path, body=body, headers=send)
    reply = conn.getresponse()
    text = reply.read()
    conn.close()
    try:
        return reply.status, json.loads(text)
    except ValueError:
        return reply.status, text.decode("utf-8", "replace")


class Reader(threading.Thread):
    """Reads a trickle channel segment by segment and notes when each video PES began to arrive.

    segments: [bytes]; pts: [(pts_90k, arrival monotonic seconds)] of PID 0x100 in order of arrival.
    """

    def __init__(self, url, video_pid=0x100):
        super().__init__(daemon=True)
        self.url, self.video_pid = url, video_pid
        self.segments, self.pts, self.error = [], [], None
        self.halt = threading.Event()
        self.ended = threading.Event()

    def run(self):
        at = urllib.parse.urlsplit(self.url)
        seq = 0
        try:
            while not self.halt.is_set():
                conn = http.client.HTTPConnection(at.hostname, at.port, timeout=60)
                conn.request("GET", f"{at.path}/{seq}")
                reply = conn.getresponse()
                if reply.getheader("Lp-Trickle-Closed"):
                    break
                if reply.status == 404 and not self.segments:
                    conn.close()
                    time.sleep(0.05)
                    continue
                if reply.status == 404:
                    break
                if reply.status == 470:
                    latest = int(reply.getheader("Lp-Trickle-Latest"))
                    conn.close()
                    if self.segments and latest != seq:
                        raise Failure(f"the reader fell behind: wanted {seq}, the newest is {latest}")
                    seq = latest
                    time.sleep(0.05)
                    continue
                self._segment(reply)
                conn.close()
                seq += 1
        except Exception as e:  # noqa: a thread must hand its error over
            if not self.halt.is_set():
                self.error = e
        self.ended.set()

    def _segment(self, reply):
        data = bytearray()
        self.segments.append(data)
        done = 0
        while True:
            chunk = reply.read1(65536)
            now = time.monotonic()
            if not chunk:
                return
            data += chunk
            while done + 188 <= len(data):
                self._packet(data[done:done + 188], now)
                done += 188

    def _packet(self, p, now):
        pid = (p[1] & 0x1f) << 8 | p[2]
        if p[0] != 0x47 or pid != self.video_pid or not p[1] & 0x40:
            return
        at = 4 + (1 + p[4] if p[3] & 0x20 else 0)
        pes = p[at:]
        if pes[:3] == b"\0\0\1" and pes[7] & 0x80:
            b = pes[9:14]
            self.pts.append(((b[0] >> 1 & 7) << 30 | b[1] << 22 | (b[2] >> 1) << 15 | b[3] << 7 | b[4] >> 1, now))

    def save(self, path):
        with open(path, "wb") as f:
            for s in self.segments:
                f.write(s)


class Stack:
    def __init__(self, worker="green-tint", serve_args=(), relay_args=(), env=None):
        self.dir = tempfile.TemporaryDirectory(prefix="millrace-test-")
        self.processes = []
        self.env = env
        self.relay = self.start([MILLRACE, "relay", "--port", "0", *relay_args], "relay")
        self.relay_url = self.relay.url()
        self.serve = None
        if worker is not None:
            self.start_serve(worker, serve_args)

    def start_serve(self, worker, serve_args=()):
        self.serve = self.start([MILLRACE, "serve", "--port", "0", "--worker", worker, *serve_args], "serve")
        self.url = self.serve.url()

    def start(self, argv, name):
        p = Process(argv, self.dir.name, f"{name}-{len(self.processes)}", env=self.env)
        self.processes.append(p)
        return p

    def path(self, name):
        return os.path.join(self.dir.name, name)

    def get(self, path, **kw):
        return request(self.url, "GET", path, **kw)

    def post(self, path, body=None, **kw):
        return request(self.url, "POST", path, body, **kw)

    def wait_ready(self, seconds=10.0):
        wait_for("the worker to be IDLE", lambda: self.get("/health")[1].get("status") in ("IDLE", "OK"), seconds)

    def publish(self, clip=CLIP, channel="in", args=()):
        return self.start([MILLRACE, "publish", clip, f"{self.relay_url}/{channel}", *args], "publish")

    def session(self, name="s", channel="in", out=None, **params):
        """Starts a session; returns (status, reply)."""
        body = {
            "gateway_request_id": name,
            "subscribe_url": f"{self.relay_url}/{channel}",
            "publish_url": f"{self.relay_url}/{out or name + '-out'}",
            "control_url": f"{self.relay_url}/{name}-control",
            "events_url": f"{self.relay_url}/{name}-events",
            "params": params or None,
        }
        request(self.relay_url, "POST", f"/{name}-control", b"", headers={"Expect-Content": "application/json"})
        return self.post("/api/stream/start", body)

    def status(self, name=None):
        headers = {"X-Stream-Id": name} if name else {}
        return self.get("/api/stream/status", headers=headers)[1]

    def workers(self):
        reply = self.get("/api/workers")[1]
        return reply["workers"] if isinstance(reply, dict) else reply

    def tree(self):
        """pids of the supervisor and all its living descendants."""
        parents = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    with open(f"/proc/{entry}/stat") as f:
                        parents[int(entry)] = int(f.read().rsplit(")", 1)[1].split()[1])
                except (OSError, IndexError):
                    continue
        found, grew = {self.serve.popen.pid}, True
        while grew:
            more = {p for p, up in parents.items() if up in found} - found
            grew = bool(more)
            found |= more
        return found

    def close(self):
        failures = []
        for p in reversed(self.processes):
            try:
                p.stop()
            except Failure as e:
                failures.append(str(e))
        self.dir.cleanup()
        if failures:
            raise Failure("; ".join(failures))

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None:
            for p in self.processes:
                print(f"# ---- {p.name} (exit {p.popen.poll()})")
                for line in p.tail(3000).splitlines():
                    print("# " + line)
            for p in reversed(self.processes):
                if p.popen.poll() is None:
                    p.popen.kill()
            self.dir.cleanup()
            return
        self.close()


def fd_count(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def frame_colours(path, filters=""):
    """[(pts in 90 kHz, (r, g, b))] of each video frame: its mean colour after `filters`, decoded by ffmpeg, in order."""
    chain = (filters + "," if filters else "") + "scale=1:1:flags=area,format=rgb24"
    out = subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-map", "0:v:0", "-vf", chain, "-f", "rawvideo", "-vsync",
                          "passthrough", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    probe = subprocess.run(["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "frame=pts", "-of",
                            "csv=p=0", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    times = [int(t) for t in re.findall(r"\d+", probe.stdout.decode())]
    raw = out.stdout
    colours = [tuple(raw[i:i + 3]) for i in range(0, len(raw) - 2, 3)]
    if len(times) != len(colours):
        raise Failure(f"{len(times)} timestamps but {len(colours)} decoded frames in {path}")
    return list(zip(times, colours))


def audio_envelope(path, begin, seconds, per_second=1000):
    """Mean loudness of each millisecond of the sound between two session times (seconds of PTS). The sound must be
    continuous: only the first frame's timestamp is looked at."""
    rate = 8000
    out = subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-map", "0:a:0", "-ar", str(rate), "-ac", "1", "-f",
                          "s16le", "-"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
    first = subprocess.run(["ffprobe", "-v", "error", "-select_streams", "a:0", "-read_intervals", "%+#1", "-show_entries",
                            "frame=pts_time", "-of", "csv=p=0", path], stdout=subprocess.PIPE, check=True).stdout
    first = float(re.search(r"[\d.]+", first.decode()).group(0))
    step = rate // per_second
    skip = round((begin - first) * rate)
    samples = memoryview(out[:len(out) // 2 * 2]).cast("h")[skip:]
    count = min(len(samples) // step, int(seconds * per_second))
    return [sum(abs(x) for x in samples[i * step:(i + 1) * step]) / step for i in range(count)]


def envelope_lag(a, b, most=120):
    """By how many steps b is late against a (best normalised correlation), and how well they fit (0..1)."""
    n = min(len(a), len(b)) - 2 * most
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    x = [v - mean_a for v in a[most:most + n]]
    norm_x = sum(v * v for v in x) ** 0.5
    best = (-1.0, 0)
    for lag in range(-most, most + 1):
        y = [v - mean_b for v in b[most + lag:most + lag + n]]
        norm_y = sum(v * v for v in y) ** 0.5
        fit = sum(p * q for p, q in zip(x, y)) / (norm_x * norm_y + 1e-9)
        best = max(best, (fit, lag))
    return best[1], best[0]


def probe_errors(path):
    """What ffmpeg says while it decodes the whole file; '' when it is clean."""
    done = subprocess.run(["ffmpeg", "-v", "error", "-xerror", "-i", path, "-f", "null", "-"],
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    return done.stderr.decode("utf-8", "replace").strip()


def nal_types(segment):
    """NAL unit types of the first access unit on PID 0x100 of a segment."""
    data = bytearray()
    started = False
    for at in range(0, len(segment) - 187, 188):
        p = segment[at:at + 188]
        if ((p[1] & 0x1f) << 8 | p[2]) != 0x100:
            continue
        if p[1] & 0x40:
            if started:
                break
            started = True
        begin = 4 + (1 + p[4] if p[3] & 0x20 else 0)
        data += p[begin:] if p[3] & 0x10 else b""
    codes = (m.end() for m in re.finditer(rb"\x00\x00\x01", bytes(data)) if m.start() > 0)  # the first is the PES itself
    return [data[at] & 0x1f for at in codes if at < len(data)]


def run(tests):
    """Runs functions as TAP; exit status 1 when one failed."""
    import sys
    import traceback
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # a test runner whose patience has ended
    names = sys.argv[1:]
    chosen = [t for t in tests if not names or t.__name__ in names]
    print(f"1..{len(chosen)}", flush=True)
    bad = 0
    for i, test in enumerate(chosen, 1):
        begin = time.monotonic()
        try:
            test()
            print(f"ok {i} - {test.__name__} # {time.monotonic() - begin:.1f} s", flush=True)
        except Exception:  # noqa: any failure is the test's result
            bad += 1
            for line in traceback.format_exc().splitlines():
                print("# " + line)
            print(f"not ok {i} - {test.__name__}", flush=True)
    sys.exit(1 if bad else 0)

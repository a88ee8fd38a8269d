#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
millrace demo: watch a live stream survive the death of its worker.

Starts a relay and a supervisor with the green-tint worker on free ports of the loopback interface, publishes a clip in
real time, starts a session over the REST API, follows the output, changes a parameter, kills the worker with SIGKILL,
stops, and says what happened. Everything it claims about the output was seen on the output: arrival time and timestamp
of each video frame that came back from the relay. Counts of frames come from the supervisor's /api/sessions/demo.

Everything that it starts is ended by its own pid, also on Ctrl-C; the kernel ends it when the demo itself is killed.
"""
import argparse
import ctypes
import http.client
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

HERE = os.path.dirname(os.path.abspath(__file__))
CLIP = os.path.join(HERE, "demo-clip.ts")
GRACE = 0.100  # seconds beyond a frame interval that a gap in the output may last
PR_SET_PDEATHSIG = 1


class Trouble(Exception):
    """Something that the person at the terminal has to know; ends the demo."""


# ---- processes ----------------------------------------------------------------


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Program:
    """One of our programs. Its standard error goes to a log file; its standard output is read by `on_output`."""

    def __init__(self, logs, verb, *arguments):
        self.verb = verb
        self.log_path = os.path.join(logs, verb + ".log")
        self.argv = [os.path.join(HERE, "millrace-" + {"serve": "supervisor"}.get(verb, verb)), *arguments]
        if not os.path.exists(self.argv[0]):
            raise Trouble(f"{self.argv[0]} is not there; is the installation complete?")
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                                            start_new_session=True, preexec_fn=die_with_parent)

    def wait_for_url(self, seconds=10):
        """The URL that a server prints on its standard output once it listens."""
        found = []

        def look():
            for line in self.process.stdout:
                match = re.search(rb"http://[^\s\"]+", line)
                if match and not found:
                    found.append(match.group(0).decode().rstrip("/"))
        threading.Thread(target=look, daemon=True).start()
        deadline = time.monotonic() + seconds
        while not found:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Trouble(f"millrace {self.verb} did not come up:\n{self.last_words()}")
            time.sleep(0.02)
        return found[0]

    def check_alive(self):
        if self.process.poll() is not None:
            raise Trouble(f"millrace {self.verb} ended with status {self.process.returncode}:\n{self.last_words()}")

    def last_words(self, lines=10):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return "".join("  | " + line for line in log.readlines()[-lines:]).rstrip("\n")

    def stop(self, seconds=5):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Api:
    """The supervisor's REST API."""

    def __init__(self, url):
        self.address = urllib.parse.urlsplit(url)

    def call(self, method, path, body=None):
        connection = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=10)
        try:
            connection.request(method, path, body=None if body is None else json.dumps(body),
                               headers={"Content-Type": "application/json"})
            reply = connection.getresponse()
            text = reply.read().decode("utf-8", "replace")
        except OSError as error:
            raise Trouble(f"{method} {path}: {error}") from error
        finally:
            connection.close()
        if reply.status != 200:
            raise Trouble(f"{method} {path} was answered with {reply.status}: {text.strip()}")
        return json.loads(text)

    def get(self, path):
        return self.call("GET", path)

    def post(self, path, body=None):
        return self.call("POST", path, body)

    def session(self):
        session = self.get("/api/sessions/demo")
        if session["over_because"]:
            raise Trouble(f"the session has ended by itself: {session['over_because']}")
        return session

    def worker(self):
        workers = self.get("/api/workers")["workers"]
        return workers[0] if workers else {}


# ---- the output, as a viewer sees it --------------------------------------------


class Viewer(threading.Thread):
    """Follows the output through `millrace play`, keeps it in a file and notes each video frame."""

    PACKET = 188

    def __init__(self, program, path):
        super().__init__(daemon=True)
        self.program = program
        self.file = open(path, "wb")
        self.frames = []  # (arrival in seconds of the monotonic clock, timestamp in seconds)

    def run(self):
        rest = b""
        stream = self.program.process.stdout
        while True:
            data = stream.read1(65536)
            now = time.monotonic()
            if not data:
                break
            self.file.write(data)
            rest += data
            whole = len(rest) // self.PACKET * self.PACKET
            for at in range(0, whole, self.PACKET):
                self.packet(rest[at:at + self.PACKET], now)
            rest = rest[whole:]
        self.file.close()

    def packet(self, packet, now):
        """Notes the timestamp of a packet that begins a video frame."""
        if packet[0] != 0x47 or not packet[1] & 0x40:
            return
        start = 4 + (1 + packet[4] if packet[3] & 0x20 else 0)
        pes = packet[start:]
        if len(pes) < 14 or pes[:3] != b"\0\0\1" or pes[3] & 0xf0 != 0xe0 or not pes[7] & 0x80:
            return
        b = pes[9:14]
        pts = (b[0] >> 1 & 7) << 30 | b[1] << 22 | b[2] >> 1 << 15 | b[3] << 7 | b[4] >> 1
        self.frames.append((now, pts / 90000))

    def interval(self):
        """The longest step between two timestamps that is normal for this stream, in seconds."""
        frames = list(self.frames)
        steps = [b[1] - a[1] for a, b in zip(frames, frames[1:])]
        if not steps:
            return 0.0
        return min(max(statistics.quantiles(steps, n=20)[-1] if len(steps) > 20 else max(steps), 0.001), 0.2)

    def longest_gap(self, since=0.0, until=float("inf")):
        frames = [f for f in list(self.frames) if since <= f[0] <= until]
        return max((b[0] - a[0] for a, b in zip(frames, frames[1:])), default=0.0)

    def steps_back(self):
        frames = list(self.frames)
        return sum(b[1] <= a[1] for a, b in zip(frames, frames[1:]))


def decoder_verdict(path):
    """(is it good, words). Uses ffprobe and ffmpeg when they are there."""
    if shutil.which("ffprobe") is None or shutil.which("ffmpeg") is None:
        return True, "not checked with a decoder: ffmpeg is not installed"
    probe = subprocess.run(
        ["ffprobe", "-v", "error", "-show_entries", "stream=codec_name,width,height,sample_rate", "-of", "json", path],
        capture_output=True, text=True, check=False)
    decode = subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-f", "null", "-"], capture_output=True, text=True,
                            check=False)
    complaints = (probe.stderr + decode.stderr).strip()
    if complaints or probe.returncode or decode.returncode:
        return False, "the decoder complains: " + complaints.splitlines()[0] if complaints else "it cannot be decoded"
    streams = []
    seen = set()
    for s in json.loads(probe.stdout).get("streams", []):
        words = f"{s['codec_name']} {s['width']}x{s['height']}" if "width" in s else \
            f"{s['codec_name']} {s.get('sample_rate', '?')} Hz"
        if words not in seen:
            seen.add(words)
            streams.append(words)
    return True, f"decodes without an error ({', '.join(streams)})"


# ---- what the person sees ---------------------------------------------------------


class Terminal:
    """Lines that stay, and one line of progress below them: rewritten on a terminal, every few seconds elsewhere."""

    PLAIN_EVERY = 3.0

    def __init__(self):
        self.is_tty = sys.stdout.isatty()
        self.start = time.monotonic()
        self.last_plain = -self.PLAIN_EVERY

    def seconds(self):
        return time.monotonic() - self.start

    def say(self, text):
        clear = "\r\033[K" if self.is_tty else ""
        print(f"{clear}{self.seconds():5.1f} s  {text}", flush=True)

    def progress(self, text):
        now = self.seconds()
        if self.is_tty:
            width = shutil.get_terminal_size().columns
            print(f"\r\033[K{now:5.1f} s  {text}"[:width + 4], end="", flush=True)
        elif now - self.last_plain >= self.PLAIN_EVERY:
            self.last_plain = now
            print(f"{now:5.1f} s  {text}", flush=True)

    def end_progress(self):
        if self.is_tty:
            print("\r\033[K", end="", flush=True)


def counts(session):
    """The numbers that the demo talks about, from /api/sessions/demo."""
    egress = session["egress"]["counters"]
    return {
        "in": egress.get("frames_in", 0),
        "sent": egress.get("frames_out", 0),
        "processed": egress.get("frames_processed", 0),
        "no_worker": egress.get("fill_no_worker", 0),
        "deadline": egress.get("fill_deadline", 0),
        "withheld": egress.get("fill_withheld", 0),
        "dropped": egress.get("frames_dropped", 0),
    }


def filled(c):
    return c["no_worker"] + c["deadline"] + c["withheld"]


# ---- the play ---------------------------------------------------------------------


class Demo:
    def __init__(self, options, logs):
        self.options = options
        self.logs = logs
        self.terminal = Terminal()
        self.programs = []
        self.restarts = 0
        self.killed_at = None
        self.processed_at_kill = 0

    def start(self, verb, *arguments):
        program = Program(self.logs, verb, *arguments)
        self.programs.append(program)
        return program

    def set_up(self):
        say = self.terminal.say
        self.relay_url = self.start("relay", "--port", "0").wait_for_url()
        say(f"relay: {self.relay_url}")
        url = self.start("serve", "--port", "0", "--worker", "green-tint").wait_for_url()
        self.api = Api(url)
        self.until("the worker to be ready", lambda: self.api.get("/health")["status"] in ("IDLE", "OK"))
        say(f"supervisor: {url}, its worker green-tint is a process of its own, pid {self.api.worker().get('pid')}")
        self.publisher = self.start("publish", self.options.file, self.relay_url + "/in", "--loop")
        say(f"publishing {self.options.file} in real time")
        self.api.post("/api/stream/start", {
            "gateway_request_id": "demo",
            "subscribe_url": self.relay_url + "/in",
            "publish_url": self.relay_url + "/out",
            "events_url": self.relay_url + "/events",
        })
        self.viewer = Viewer(self.start("play", self.relay_url + "/out"), self.options.output)
        self.viewer.start()
        self.until("the first processed frame", lambda: counts(self.api.session())["processed"] > 0, 15)
        say("the first processed frame is out; to watch it live, in another terminal:")
        self.terminal.say(f"    {watch_command(self.relay_url + '/out')}")

    def until(self, what, ready, seconds=10):
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                raise Trouble(f"waited {seconds} s in vain for {what}")
            for program in self.programs:
                program.check_alive()
            time.sleep(0.05)

    def watch(self, seconds):
        """Shows progress for so long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for program in self.programs:
                program.check_alive()
            c, worker = counts(self.api.session()), self.api.worker()
            self.terminal.progress(
                f"in {c['in']}, processed {c['processed']}, filled in {filled(c)}, longest gap "
                f"{self.viewer.longest_gap() * 1000:.0f} ms, worker {worker.get('pid')} {worker.get('state', '?')}")
            time.sleep(0.25)

    def change_parameter(self, intensity):
        self.api.post("/api/stream/params", {"intensity": intensity})
        self.terminal.say(f"parameter changed while it runs: intensity = {intensity}")

    def kill_worker(self):
        victim = self.api.worker().get("pid")
        if not victim:
            raise Trouble("there is no worker to kill")
        self.processed_at_kill = counts(self.api.session())["processed"]
        self.killed_at = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        self.terminal.say(f"kill -9 {victim}: the worker is gone in the middle of the stream")
        self.until("another worker", lambda: self.api.worker().get("pid") not in (None, 0, victim))
        self.restarts += 1
        before = self.processed_at_kill
        self.until("processed frames after the kill", lambda: counts(self.api.session())["processed"] > before + 1)
        self.terminal.say(f"a new worker (pid {self.api.worker().get('pid')}) is processing, "
                          f"{(time.monotonic() - self.killed_at) * 1000:.0f} ms after the kill")

    def play(self):
        t = self.options.seconds
        self.watch(0.25 * t)
        self.change_parameter(0.75)
        self.watch(0.2 * t)
        self.kill_worker()
        self.watch(0.3 * t)
        self.change_parameter(0.1)
        self.watch(0.25 * t)
        self.terminal.end_progress()
        self.api.post("/api/stream/stop")
        self.final = counts(self.api.get("/api/sessions/demo"))
        self.terminal.say("stopped")
        self.publisher.stop()
        # The channel belongs to the relay, not to the session: nobody else tells the viewer that no more will come.
        deadline = time.monotonic() + 3
        while len(self.viewer.frames) < self.final["sent"] and time.monotonic() < deadline:
            time.sleep(0.05)
        self.viewer.program.stop()
        self.viewer.join(5)

    def verdict(self):
        """Prints what happened; the list of what was not as promised."""
        c, wrong = self.final, []
        gap, interval = self.viewer.longest_gap(), self.viewer.interval()
        bound = interval + GRACE
        at_kill = self.viewer.longest_gap(self.killed_at - 0.5, self.killed_at + 1.5)
        good, words = decoder_verdict(self.options.output)
        reasons = ", ".join(f"{n} {why}" for n, why in (
            (c["no_worker"], "while no worker was there"), (c["deadline"], "because the result was late"),
            (c["withheld"], "because the worker had none")) if n)
        print(f"\nWhat happened\n"
              f"  frames in        {c['in']}\n"
              f"  frames sent      {c['sent']}\n"
              f"    processed      {c['processed']}\n"
              f"    filled in      {filled(c)}{' (' + reasons + ')' if reasons else ''}\n"
              f"    dropped        {c['dropped']}\n"
              f"  worker           killed once, restarted {'once' if self.restarts == 1 else self.restarts}; "
              f"{c['processed'] - self.processed_at_kill} frames processed since\n"
              f"  longest gap      {gap * 1000:.0f} ms between two frames of the output, around the kill "
              f"{at_kill * 1000:.0f} ms (promised: at most {bound * 1000:.0f})\n"
              f"  timeline         {len(self.viewer.frames)} frames seen, "
              f"{self.viewer.steps_back() or 'no'} steps back in their timestamps\n"
              f"  output           {self.options.output}: {words}\n"
              f"  watch the file   ffplay {self.options.output}\n"
              f"  watch it live    run `{demo_command()} --seconds 600` and, in another terminal, the command that it shows")
        if len(self.viewer.frames) < c["sent"]:
            wrong.append(f"{c['sent']} frames were sent and {len(self.viewer.frames)} arrived")
        if c["processed"] == 0:
            wrong.append("no frame was processed")
        if c["processed"] <= self.processed_at_kill:
            wrong.append("no frame was processed after the kill")
        if gap > bound:
            wrong.append(f"a gap of {gap * 1000:.0f} ms in the output")
        if self.viewer.steps_back():
            wrong.append("timestamps of the output went back")
        if not good:
            wrong.append(words)
        return wrong

    def keep_logs(self):
        kept = tempfile.mkdtemp(prefix="millrace-demo-logs-")
        for name in os.listdir(self.logs):
            shutil.copy(os.path.join(self.logs, name), kept)
        return kept

    def end(self):
        for program in reversed(self.programs):
            program.stop()


def millrace_command():
    """How a person calls `millrace` from here."""
    there = os.path.normpath(os.path.join(HERE, "..", "..", "bin", "millrace"))
    found = shutil.which("millrace")
    if found and os.path.realpath(found) == os.path.realpath(there):
        return "millrace"
    near = os.path.relpath(there)
    return there if near.startswith("..") else near


def watch_command(url):
    return f"{millrace_command()} play {url} | ffplay -fflags nobuffer -flags low_delay -"


def demo_command():
    return millrace_command() + " demo"


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="millrace demo", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="A live stream through the green-tint worker, whose parameters change while it runs and which is\n"
                    "killed while it runs. Exits with 0 when the stream kept its promises.")
    parser.add_argument("file", nargs="?", default=CLIP, metavar="FILE", help="a clip with video (a short one is there)")
    parser.add_argument("-o", "--output", default="millrace-demo.ts", metavar="FILE", help="where the output goes (%(default)s)")
    parser.add_argument("--seconds", type=float, default=24.0, metavar="N", help="how long it streams (%(default)s)")
    options = parser.parse_args(arguments)
    if not os.path.isfile(options.file):
        parser.error(f"{options.file}: no such file")
    if options.seconds < 5:
        parser.error("--seconds: at least 5")
    return options


def main():
    options = parse(sys.argv[1:])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="millrace-demo-") as logs:
        demo = Demo(options, logs)
        wrong = []
        try:
            demo.set_up()
            demo.play()
            wrong = demo.verdict()
            if wrong:
                print(f"\nNot as promised: {'; '.join(wrong)}. The logs are in {demo.keep_logs()}.")
            else:
                print("\nThe stream never stopped.")
        except Trouble as trouble:
            demo.terminal.end_progress()
            print(f"millrace demo: {trouble}\nThe logs are in {demo.keep_logs()}.", file=sys.stderr)
            wrong = ["trouble"]
        except KeyboardInterrupt:
            demo.terminal.end_progress()
            print("millrace demo: interrupted; everything that was started is being ended", file=sys.stderr)
            return 130
        finally:
            demo.end()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

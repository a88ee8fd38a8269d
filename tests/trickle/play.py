# SPDX-License-Identifier: MIT
"""
Plays between trk_probe, which runs the trickle client, and a server whose every byte is scripted.

A test is a function of (server, start) marked with @test; start("sub" or "pub", option=value...) runs a probe. main()
runs them, a few at a time, and prints TAP. usage of a file of tests: FILE TRK_PROBE [NAME...]
"""
import concurrent.futures
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
import traceback

from scripted_server import Server, tls_context

PROBE = sys.argv[1]
TESTS = []


def test(function):
    TESTS.append(function)
    return function


def test_deaf(function):
    """As test(), on a server that does not listen yet."""
    function.deaf = True
    return test(function)


def test_tls(function):
    """As test(), over TLS."""
    function.tls = True
    return test(function)


class Probe:
    def __init__(self, kind, server, **options):
        words = [PROBE, kind, server.url] + [f"{k}={v}" for k, v in options.items()]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lines = queue.Queue()
        self.seen = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def say(self, *commands):
        for command in commands:
            self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def next(self, seconds=5.0):
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"silence after {self.seen}") from None
        assert line is not None, f"the probe ended after {self.seen}"
        self.seen.append(line)
        return line

    def expect(self, *wanted, seconds=5.0):
        """The next lines, states apart, are these."""
        for want in wanted:
            line = self.next(seconds)
            while line.startswith("state "):
                line = self.next(seconds)
            assert re.fullmatch(want, line), f"{line!r} came instead of {want!r}, after {self.seen}"

    def expect_state(self, pattern, seconds=5.0):
        deadline = time.monotonic() + seconds
        while not re.fullmatch("state " + pattern, self.next(max(0.01, deadline - time.monotonic()))):
            pass

    def data(self, want, seconds=5.0):
        """The next lines are data that add up to `want`."""
        got = ""
        while got != want:
            line = self.next(seconds)
            if line.startswith("state "):
                continue
            assert line.startswith("data "), f"{line!r} instead of data, after {self.seen}"
            got += line[5:]
            assert want.startswith(got), f"{got!r} instead of {want!r}"

    def silent(self, seconds):
        """Nothing but states for so long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                line = self.lines.get(timeout=deadline - time.monotonic())
            except (queue.Empty, ValueError):
                return
            assert line is not None and line.startswith("state "), f"{line!r} came"

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("the probe does not end") from None
        return self.process.returncode


def run(function):
    tls = None
    if getattr(function, "tls", False):
        with tempfile.TemporaryDirectory() as folder:
            tls = tls_context(folder)
    server = Server(listen=not getattr(function, "deaf", False), tls=tls)
    probes = []

    def start(kind, **options):
        probes.append(Probe(kind, server, **options))
        return probes[-1]

    began = time.monotonic()
    trouble = None
    try:
        function(server, start)
    except Exception:
        trouble = traceback.format_exc()
    for probe in probes:
        try:
            code = probe.close()
            if code != 0 and trouble is None:
                trouble = f"the probe ended with {code}"
        except (AssertionError, OSError) as error:
            trouble = trouble or str(error)
    server.close()
    if server.wrong and trouble is None:
        trouble = "; ".join(server.wrong)
    return function.__name__, trouble, time.monotonic() - began


def main():
    chosen = [t for t in TESTS if len(sys.argv) < 3 or t.__name__ in sys.argv[2:]]
    print(f"1..{len(chosen)}", flush=True)
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for number, (name, trouble, seconds) in enumerate(pool.map(run, chosen), 1):
            failed += trouble is not None
            print(f"{'not ok' if trouble else 'ok'} {number} - {name} # {seconds:.1f} s", flush=True)
            for line in (trouble or "").splitlines():
                print("# " + line, flush=True)
    return 1 if failed else 0

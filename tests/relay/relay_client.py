# SPDX-License-Identifier: MIT
"""The relay under test and a client that shows everything that is on the wire: 1xx replies, chunks, early ends."""
import os
import re
import signal
import socket
import subprocess
import threading

TIMEOUT_S = 5


class Relay:
    """A relay of its own on a free port; `with` stops it and demands a clean exit."""

    def __init__(self, program, *options):
        self.child = subprocess.Popen([program, "--port", "0", *options], stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE, text=True, errors="replace")
        self.log = ""
        self.reader = threading.Thread(target=self._drain, daemon=True)
        self.reader.start()
        line = self.child.stdout.readline()
        found = re.search(r"http://([^:/]+|\[[^\]]+\]):(\d+)(/\S*)", line)
        assert found, f"no URL in {line!r}: {self.log}"
        self.port = int(found.group(2))
        self.base = found.group(3)
        self.clients = []
        self.status = None  # of its end, once a case has waited for it

    def _drain(self):
        for line in self.child.stderr:
            self.log += line

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        for client in self.clients:
            client.close()
        alive = self.status is not None or self.child.poll() is None
        if self.status is None:
            self.child.send_signal(signal.SIGTERM)
            self.wait()
        if kind is None:
            assert alive and self.status == 0, f"relay ended with {self.status}: {self.log[-2000:]}"

    def wait(self):
        try:
            self.status = self.child.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            raise
        self.reader.join(TIMEOUT_S)
        self.child.stdout.close()
        self.child.stderr.close()
        return self.status

    def connect(self, rcvbuf=None):
        client = Client(self.port, rcvbuf)
        self.clients.append(client)
        return client

    def request(self, method, path, headers=(), body=b""):
        """A whole request on a fresh connection."""
        client = self.connect()
        client.send(method, path, list(headers) + [("Content-Length", len(body))], body)
        reply = client.reply(method)
        client.close()
        return reply

    def sync(self):
        """What was sent before on other connections has been read when this returns: one thread, one loop turn."""
        for _ in range(2):
            self.request("GET", self.base)

    def get(self, path):
        """Begins a GET that will wait, and makes sure that it does."""
        client = self.connect()
        client.send("GET", path)
        self.sync()
        return client

    def post(self, path, headers=()):
        """Begins a chunked POST whose body is still to come."""
        client = self.connect()
        client.send("POST", path, list(headers) + [("Transfer-Encoding", "chunked")])
        self.sync()
        return client

    def fd_count(self):
        return len(os.listdir(f"/proc/{self.child.pid}/fd"))


class Reply:
    def __init__(self, status, phrase, headers):
        self.status, self.phrase, self.headers = status, phrase, headers
        self.body = b""
        self.early = 0  # 1xx replies before it

    def __getitem__(self, name):
        """The value of a header, or None."""
        return self.headers.get(name.lower())

    def __repr__(self):
        return f"{self.status} {self.phrase} {self.headers} {self.body[:200]!r}"


class Client:
    def __init__(self, port, rcvbuf=None):
        self.socket = socket.socket()
        if rcvbuf:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect(("127.0.0.1", port))
        self.buffer = b""
        self.chunked = False

    def close(self):
        self.socket.close()

    def kill(self):
        """As when a process dies with unread data: a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def raw(self, data):
        self.socket.sendall(data)

    def send(self, method, path, headers=(), body=b""):
        head = f"{method} {path} HTTP/1.1\r\nHost: relay\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers) + "\r\n"
        self.raw(head.encode("latin-1") + body)

    def chunk(self, data):
        self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    def end(self):
        self.raw(b"0\r\n\r\n")

    def _more(self):
        data = self.socket.recv(65536)
        if not data:
            raise EOFError(self.buffer)
        self.buffer += data

    def _until(self, mark):
        while mark not in self.buffer:
            self._more()
        data, _, self.buffer = self.buffer.partition(mark)
        return data

    def _exactly(self, count):
        while len(self.buffer) < count:
            self._more()
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def head_any(self):
        """The next head, 1xx or final."""
        lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        _, status, phrase = lines[0].split(" ", 2)
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            assert name.lower() not in headers, f"{name} twice"
            headers[name.lower()] = value.strip()
        return Reply(int(status), phrase, headers)

    def head(self):
        early = 0
        while True:
            reply = self.head_any()
            if reply.status >= 200:
                reply.early = early
                self.chunked = reply["Transfer-Encoding"] == "chunked"
                return reply
            early += 1

    def data(self, count):
        """So many bytes of a chunked body, which may come in any number of chunks."""
        got = b""
        while len(got) < count:
            n = int(self._until(b"\r\n"), 16)
            assert n > 0, f"the body ended after {got!r}"
            got += self._exactly(n)
            self._exactly(2)
        assert len(got) == count, got
        return got

    def rest(self):
        """The chunked body until its proper end."""
        got = b""
        while True:
            n = int(self._until(b"\r\n"), 16)
            got += self._exactly(n)
            self._exactly(2)
            if n == 0:
                return got

    def reply(self, method="GET"):
        """A whole reply."""
        reply = self.head()
        if method != "HEAD":
            reply.body = self.rest() if self.chunked else self._exactly(int(reply["Content-Length"]))
        return reply

    def silent(self):
        """Nothing has arrived, and the connection is open."""
        if self.buffer:
            return False
        self.socket.settimeout(0)
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(TIMEOUT_S)
        return False

    def ended(self):
        """Waits for the server's end of the connection: "eof" or "reset"; a byte is an error."""
        assert not self.buffer, self.buffer
        try:
            data = self.socket.recv(1)
        except ConnectionResetError:
            return "reset"
        assert not data, data
        return "eof"

# SPDX-License-Identifier: MIT
"""
A trickle server that does nothing by itself: the test takes each request and says, byte by byte, what becomes of it.

Each connection carries one request. `take()` waits for the next one that matches; the request is then answered, fed,
reset, or left hanging. What no client may ever do is checked for every request: a negative seq in a POST or DELETE, a
second request on a connection, `Expect:`.
"""
import os
import queue
import re
import socket
import ssl
import struct
import subprocess
import threading
import time


class Request:
    def __init__(self, connection, head):
        self.connection = connection
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.path, self.version = lines[0].split(" ")
        self.headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()
        self.raw = b""          # what came after the head, as it came
        self.closed = threading.Event()  # the client has closed or reset the connection
        self.changed = threading.Condition()

    def __repr__(self):
        return f"{self.method} {self.path}"

    # ---- what the client sent ----

    def body(self):
        """(bytes of the chunks so far, whether the body was ended cleanly)"""
        out, rest = b"", self.raw
        while True:
            size, found, rest = rest.partition(b"\r\n")
            if not found:
                return out, False
            count = int(size, 16)
            if count == 0:
                return out, True
            out += rest[:count]
            if len(rest) < count + 2:
                return out, False
            rest = rest[count + 2:]

    def wait_body(self, want, ended=None, seconds=5.0):
        """Until the body begins with `want` and, if asked, has been ended."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while True:
                got, end = self.body()
                if got == want and (ended is None or end == ended):
                    return time.monotonic()
                left = deadline - time.monotonic()
                if left <= 0 or not want.startswith(got):
                    raise AssertionError(f"{self}: body is {got[:80]!r} (ended: {end}), not {want[:80]!r}")
                self.changed.wait(left)

    def wait_closed(self, seconds=5.0):
        assert self.closed.wait(seconds), f"{self}: the client kept the connection"

    # ---- what the server does ----

    def send(self, data):
        try:
            self.connection.sendall(data)
        except OSError:
            pass

    def reply(self, status, body=b"", chunked=False, **fields):
        head = f"HTTP/1.1 {status} X\r\n"
        for name, value in fields.items():
            head += f"{name.replace('_', '-')}: {value}\r\n"
        if chunked:
            self.send((head + "Transfer-Encoding: chunked\r\n\r\n").encode())
        else:
            self.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def chunk(self, data):
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def end(self):
        self.send(b"0\r\n\r\n")

    def segment(self, seq, data=b"", end=False, **fields):
        """Headers of a data reply, bytes, and perhaps the end."""
        self.reply(200, chunked=True, Lp_Trickle_Seq=seq, **fields)
        if data:
            self.chunk(data)
        if end:
            self.end()

    def close(self):
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.connection.close()

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_now()

    def close_now(self):
        # shutdown() wakes the reading thread but would send FIN first, so the descriptor is closed under it
        self.connection.close()


def tls_context(folder):
    """A server's context with a certificate that nobody vouches for, as an orchestrator has it."""
    names = [os.path.join(folder, name) for name in ("cert.pem", "key.pem")]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "2", "-subj", "/CN=nobody", "-out", names[0], "-keyout", names[1]],
                   check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*names)
    return context


class Locked:
    """A TLS connection of which one thread reads while another writes; Python's may not be used so."""

    def __init__(self, connection):
        self.connection = connection
        self.lock = threading.Lock()

    def recv(self, count):
        time.sleep(0.001)  # let the writer have its turn
        with self.lock:
            return self.connection.recv(count)

    def sendall(self, data):
        with self.lock:
            self.connection.sendall(data)

    def settimeout(self, _):
        self.connection.settimeout(0.005)

    def __getattr__(self, name):
        return getattr(self.connection, name)


class Server:
    def __init__(self, listen=True, tls=None):
        self.socket = socket.socket()
        self.tls = tls
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}/base/c"
        self.requests = queue.Queue()
        self.kept = []      # taken off the queue while looking for another
        self.seen = []      # all that ever came
        self.wrong = []
        if listen:
            self.listen()

    def listen(self):
        self.socket.listen(50)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        if self.tls is not None:
            try:
                connection = Locked(self.tls.wrap_socket(connection, server_side=True))
            except OSError:
                return
        self._serve_request(connection)

    def _serve_request(self, connection):
        head, request = b"", None
        connection.settimeout(0.05)
        while True:
            try:
                data = connection.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                data = b""
            if not data:
                break
            if request is None:
                head += data
                if b"\r\n\r\n" not in head:
                    continue
                head, _, rest = head.partition(b"\r\n\r\n")
                request = Request(connection, head)
                request.raw = rest
                self._check(request)
                self.seen.append(request)
                self.requests.put(request)
                continue
            with request.changed:
                request.raw += data
                request.changed.notify_all()
            if request.headers.get("transfer-encoding") != "chunked":
                self.wrong.append(f"{request}: more bytes on the same connection")
        if request is not None:
            request.closed.set()

    def _check(self, request):
        if request.version != "HTTP/1.1":
            self.wrong.append(f"{request}: {request.version}")
        if "expect" in request.headers:
            self.wrong.append(f"{request}: Expect")
        if request.method != "GET" and re.search(r"/-\d+$", request.path):
            self.wrong.append(f"{request}: negative seq")

    def take(self, method, tail, seconds=5.0):
        """The oldest request of that kind that was not taken yet. Others wait for their turn."""
        deadline = time.monotonic() + seconds
        path = "/base/c" + tail
        for request in self.kept:
            if (request.method, request.path) == (method, path):
                self.kept.remove(request)
                return request
        while True:
            try:
                request = self.requests.get(timeout=max(0.001, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {method} {path}; came: {self.seen}") from None
            if (request.method, request.path) == (method, path):
                return request
            self.kept.append(request)

    def count(self, method, tail):
        return sum(1 for r in self.seen if (r.method, r.path) == (method, "/base/c" + tail))

    def close(self):
        self.socket.close()

#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
A worker that speaks the control protocol without our library, and misbehaves as its arguments say.

It answers every session and every ring without mapping anything. Arguments: --capacity N, and any of
  no-hello, no-ready    wait for ever instead
  tell-fds, tell-env    say in STATUS which descriptors and variables it has
  bad-hello             a HELLO with an impossible capacity
  garbage               a message that does not exist
  flood                 STATUS without end
  shout                 lines on standard output without end
  daemon                leave a process behind that has left the session (its pid is in STATUS)
  deaf                  read nothing any more
  stay                  never answer SESSION_CLOSE
  slow-params           never answer PARAMS
  tell-params           say in STATUS which parameters it has got
  refuse-params         refuse every PARAMS with a reason
  chatter               390 EVENTs and OVERLAYs with every answer to PARAMS
  late-drain            take 300 ms for what is left to do at DRAIN
  only-term             heed SIGTERM and not DRAIN
  late-ready=FILE       the first makes FILE; the next waits for FILE.go, takes it away, says READY and exits with 1
  exit=N                exit with N instead of READY
"""
import os
import signal
import socket
import struct
import sys
import time

HDR = struct.Struct("<HBBIII")
HELLO, READY, MAPPED, PARAMS_RESULT, STATUS, EVENT, SESSION_CLOSED, OVERLAY = 1, 2, 3, 6, 7, 8, 10, 13
CONFIG, SESSION_OPEN, RING_OPEN, PARAMS, SESSION_CLOSE, DRAIN = 64, 65, 66, 69, 70, 71
TEXT_MAX = 440

args = set(sys.argv[1:])
capacity = int(sys.argv[sys.argv.index("--capacity") + 1]) if "--capacity" in args else 1
fds_at_start = sorted(int(n) for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}"))
sock = socket.socket(fileno=3)


def send(kind, payload=b"", session=0, txn=0):
    sock.send(HDR.pack(kind, 1, 0, HDR.size + len(payload), session, txn) + payload)


def status(text):
    data = text.encode()[:TEXT_MAX - 1]
    send(STATUS, struct.pack("<II", len(data), 0) + data.ljust(TEXT_MAX, b"\0"))


def wait_for_ever():
    while True:
        time.sleep(3600)


def leave_daemon():
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(writer, str(os.getpid()).encode())
            for fd in range(64):
                try:
                    os.close(fd)
                except OSError:
                    pass
            wait_for_ever()
        os._exit(0)
    os.wait()
    status("daemon " + os.read(reader, 32).decode())


def introduce():
    if "no-hello" in args:
        wait_for_ever()
    asked = 1000 if "bad-hello" in args else capacity
    send(HELLO, struct.pack("<HHIIIIIII64s", 1, 0, 1, 0, 1, asked, 1, os.getpid(), 0, b"scripted worker"))
    message = sock.recv(512)
    assert HDR.unpack_from(message)[0] == CONFIG
    for arg in args:
        if arg.startswith("exit="):
            print("about to leave \x1b[31m", flush=True)
            os._exit(int(arg[5:]))
    if "tell-fds" in args:
        status("fds " + " ".join(map(str, fds_at_start)))
    if "tell-env" in args:
        status("env " + " ".join(sorted(os.environ)))
    if "no-ready" in args:
        wait_for_ever()
    late = [arg[11:] for arg in args if arg.startswith("late-ready=")]
    if late and os.path.exists(late[0]):
        status("waiting")
        while not os.path.exists(late[0] + ".go"):
            time.sleep(0.01)
        os.unlink(late[0] + ".go")
        send(READY)
        os._exit(1)
    if late:
        open(late[0], "x").close()
    send(READY)
    if "daemon" in args:
        leave_daemon()
    if "garbage" in args:
        sock.send(b"\xff" * 40)
    while "flood" in args:
        status("flood")
    while "shout" in args:
        os.write(1, b"x" * 99 + b"\n")
    if "deaf" in args:
        wait_for_ever()


def answer(message, descriptors):
    kind, _, _, _, session, txn = HDR.unpack_from(message)
    if "tell-params" in args and kind in (SESSION_OPEN, PARAMS):
        status(os.pread(descriptors[0], TEXT_MAX, 0).decode())
    if kind == RING_OPEN:
        ring_id, generation = struct.unpack_from("<II", message, HDR.size + 4)
        send(MAPPED, struct.pack("<II", ring_id, generation), session, txn)
    elif kind == PARAMS and "slow-params" not in args:
        version = struct.unpack_from("<Q", message, HDR.size)[0]
        refused = "refuse-params" in args
        text = b"strength must be below 1" if refused else b""
        send(PARAMS_RESULT, struct.pack(f"<QiI{TEXT_MAX}s", version, -22 if refused else 0, 0, text), session, txn)
        for i in range(195 if "chatter" in args else 0):
            event = f'{{"n":{i}}}'.encode()
            send(EVENT, struct.pack("<II", len(event), 0) + event.ljust(TEXT_MAX, b"\0"), session)
            send(OVERLAY, struct.pack(f"<Ii{TEXT_MAX}s", i % 2, i % 100, b"still here"), session)
    elif kind == SESSION_CLOSE and "stay" not in args:
        send(SESSION_CLOSED, b"", session, txn)
    elif kind == DRAIN and "only-term" not in args:
        if "late-drain" in args:
            time.sleep(0.3)
            print("all is done", flush=True)
        sys.exit(0)


def on_term(*_):
    print("SIGTERM it is", flush=True)
    sys.exit(0)


if "only-term" in args:
    signal.signal(signal.SIGTERM, on_term)
introduce()
while True:
    data, ancillary, _, _ = sock.recvmsg(512, socket.CMSG_SPACE(4 * 12))
    fds = [fd for level, kind, raw in ancillary if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS
           for fd in struct.unpack(f"<{len(raw) // 4}i", raw[:len(raw) // 4 * 4])]
    if not data:
        sys.exit(0)
    answer(data, fds)
    for fd in fds:
        os.close(fd)

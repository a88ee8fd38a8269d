#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
A worker that speaks the protocol in order to break its peers. Usage: hostile_worker.py MODE [FLAG_FILE]

  mapreplaced   asks for another ring and then maps the one that it was offered first
  ringpile      asks for many rings and maps none
  ringflood     asks for hundreds of the largest rings
  closein       closes a ring that has not ended, dies, and is green-tint in its next life (FLAG_FILE; REAL in the
                environment is its path)
  eventflood    hundreds of events at once
"""
import os
import socket
import struct
import sys
import time

HDR = struct.Struct("<HBBIII")
HELLO, READY, MAPPED, RING_REQUEST, RING_CLOSED, PARAMS_RESULT = 1, 2, 3, 4, 5, 6
EVENT, SESSION_CLOSED, SESSION_OPEN, RING_OPEN, PARAMS, SESSION_CLOSE, DRAIN = 8, 10, 65, 66, 69, 70, 71
IN_VIDEO, OUT_VIDEO = 1, 4

mode = sys.argv[1]
flag = sys.argv[2] if len(sys.argv) > 2 else None
if mode == "closein" and os.path.exists(flag):
    os.execv(os.environ["REAL"], [os.environ["REAL"]])
sock = socket.socket(fileno=3)


def send(kind, payload=b"", session=0, txn=0):
    sock.send(HDR.pack(kind, 1, 0, HDR.size + len(payload), session, txn) + payload)


def ask(session, width, height):
    send(RING_REQUEST, struct.pack("<IIIIIIIIII", OUT_VIDEO, 1, width, height, 0, 0, 0, 24, 1, 0), session)


def on_session(session):
    if mode == "ringpile":
        for i in range(4):
            ask(session, 64 + 16 * i, 64)
    elif mode == "ringflood":
        for i in range(300):
            ask(session, 4096 if i % 2 else 4080, 4096)
    elif mode == "eventflood":
        time.sleep(1)  # so that egress is open
        for i in range(400):
            text = b'{"type":"x","n":%d}' % i
            send(EVENT, struct.pack("<II", len(text), 0) + text.ljust(440, b"\0"), session)


def on_ring(data, session, txn):
    ring, generation = struct.unpack_from("<II", data, HDR.size + 4)
    if mode == "ringpile":
        return
    if mode == "mapreplaced" and ring == OUT_VIDEO and generation == 1:
        ask(session, 128, 128)
        time.sleep(0.2)  # the new one is made before the old one is mapped
    send(MAPPED, struct.pack("<II", ring, generation), session, txn)
    if mode == "closein" and ring == IN_VIDEO:
        send(RING_CLOSED, struct.pack("<II", ring, generation), session)
        with open(flag, "w"):
            pass
        time.sleep(0.3)
        os._exit(1)


def main():
    send(HELLO, struct.pack("<HHIIIIIII64s", 1, 0, 1, 0, 1, 1, 1, os.getpid(), 0, b"hostile"))
    sock.recv(512)
    send(READY)
    while True:
        data, ancillary, _, _ = sock.recvmsg(512, socket.CMSG_SPACE(4 * 12))
        for _, _, raw in ancillary:
            for fd in struct.unpack(f"<{len(raw) // 4}i", raw[:len(raw) // 4 * 4]):
                os.close(fd)
        if not data:
            return
        kind, _, _, _, session, txn = HDR.unpack_from(data)
        if kind == SESSION_OPEN:
            on_session(session)
        elif kind == RING_OPEN:
            on_ring(data, session, txn)
        elif kind == PARAMS:
            version = struct.unpack_from("<Q", data, HDR.size)[0]
            send(PARAMS_RESULT, struct.pack("<QiI440s", version, 0, 0, b""), session, txn)
        elif kind == SESSION_CLOSE:
            send(SESSION_CLOSED, b"", session, txn)
        elif kind == DRAIN:
            return


main()

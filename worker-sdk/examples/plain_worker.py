#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
A millrace worker without the millrace library: the protocol itself, in plain Python.

    millrace serve --worker worker-sdk/examples/plain_worker.py              copies every picture
    millrace serve --worker "worker-sdk/examples/plain_worker.py --tint"     the example green-tint, value for value

It shows that docs/worker-protocol.md and proto/README.md say all that a worker must know, and is to be read beside them
by those who write one in another language. Python workers for real use `import millrace`.

Memory order. The rings ask three things of the machine: that a 64-bit word is read and written in one piece; that
stores become visible, and loads are made, in program order; and in two places a full barrier between a store and the
load after it: fence(). An item of a memoryview of type "Q" is moved by one instruction (struct's pack_into("<Q") may
move bytes). x86-64 keeps stores in order, and loads. Python has no barrier, but taking a free threading.Lock is a
locked instruction, which is one on x86-64. On another machine none of this holds, and this program refuses to run.
"""
import errno
import json
import mmap
import os
import select
import socket
import struct
import sys
import threading
import time

HELLO, READY, MAPPED, RING_REQUEST, RING_CLOSED, PARAMS_RESULT, SESSION_CLOSED = 1, 2, 3, 4, 5, 6, 10
CONFIG, SESSION_OPEN, RING_OPEN, RING_LIVE, RING_ENDED, PARAMS, SESSION_CLOSE, DRAIN = 64, 65, 66, 67, 68, 69, 70, 71
IN_VIDEO, OUT_VIDEO = 1, 4
RGB24, ROLE_WORKER, WANTS_DOORBELLS, FRAME_PASS, REASON_ERROR = 1, 1, 2, 4, 1

HEADER = struct.Struct("<HBBIII")  # type, major, minor, size, session, txn
RING_FIELDS = struct.Struct("<HH9I3Qq4I4I4I5I4I5I4Q")  # RING_OPEN after the header; the first of them by name:
RING_NAMES = ("abi_major abi_minor ring_id generation role consumer_idx consumer_count policy depth memory_kind "
              "slot_count slot_stride payload_max first_seq block_deadline_ns format width height").split()
DESCRIPTOR = struct.Struct("<QQqqqIIII64sQ")  # seq src_seq pts duration commit bytes flags reason 0 user 0

STEAL = 1 << 63  # the producer is about to take this frame away
P_STATE, P_BELL, P_DESC = 128 // 8, 640 // 4, 768  # the producer's page: words, 32-bit words, bytes
C_HOLD, C_TAKEN, C_BELL = 128 // 8, 256 // 8, 384 // 4  # a consumer's page
LOOK_AGAIN_MS, ASK_AGAIN_S = 50, 2.0  # a peer that was killed may not have rung

NOW, barrier = socket.MSG_DONTWAIT, threading.Lock()


def fence():
    """Every store before it is visible before any load after it. See the text at the top."""
    with barrier:
        pass


def word_seq(word):
    return (word & ~STEAL) >> 8


class Memory:
    """One mapped memfd. The descriptor is closed; Python's mmap keeps a duplicate until close()."""

    def __init__(self, fd, writable):
        prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self.map = mmap.mmap(fd, os.fstat(fd).st_size, mmap.MAP_SHARED | mmap.MAP_POPULATE, prot)
        os.close(fd)
        self.bytes = memoryview(self.map)
        self.u64, self.u32 = self.bytes.cast("Q"), self.bytes.cast("I")

    def close(self):
        for it in (self.u64, self.u32, self.bytes):
            it.release()
        self.map.close()


class Ring:
    """What both kinds of ring have in common: the fields of RING_OPEN, the pages, the doorbell."""

    def __init__(self, body, fds, is_in):
        values = RING_FIELDS.unpack_from(body)
        for name, value in zip(RING_NAMES, values):
            setattr(self, name, value)
        self.hold_count, self.recovering, self.ended, self.skip = values[32], values[37], values[38], values[41:45]
        if (self.abi_major, self.memory_kind, self.format, len(fds)) != (1, 1, RGB24, 4):
            sys.exit(101)  # not what HELLO asked for
        self.prod = Memory(fds[0], writable=not is_in)
        self.data = Memory(fds[1], writable=not is_in)
        self.cons = Memory(fds[2], writable=is_in)
        self.doorbell = socket.socket(fileno=fds[3])

    def payload(self, slot):
        return self.data.bytes[slot * self.slot_stride:][:self.payload_max]

    def close(self):
        for it in filter(None, (self.prod, self.data, self.cons, self.doorbell)):
            it.close()


class InRing(Ring):
    """A ring of which we are a consumer with one hold."""

    def __init__(self, body, fds):
        super().__init__(body, fds, is_in=True)
        self.bell = self.cons.u32[C_BELL]
        self.last = self.first_seq - 1  # newest frame taken
        self.recovered = self.recover() if self.recovering else 0

    def state(self, slot):
        word = self.prod.u64[P_STATE + slot]
        return word & ~STEAL if self.ended else word  # nobody can finish a theft any more

    def recover(self):
        """The frame that our predecessor held when it died, if it is still there."""
        held, deadline = self.cons.u64[C_HOLD], time.monotonic() + 0.05
        slot, found = held & 0xff, 0
        if held and slot < self.slot_count and word_seq(held) >> 32 == self.generation:
            while self.state(slot) == held | STEAL and time.monotonic() < deadline:
                pass  # the producer is between its mark and its decision
            found = held if self.state(slot) == held else 0
        if held and not found:
            self.cons.u64[C_HOLD] = 0
        self.last = max(self.last, self.cons.u64[C_TAKEN], word_seq(found))
        if self.last >> 32 != self.generation:  # somebody scribbled
            self.last = self.first_seq - 1
        self.cons.u64[C_TAKEN] = self.last
        return found

    def scan(self):
        """(lowest new word, the sequence before it): one pass over the slots."""
        words = [w for w in map(self.state, range(self.slot_count)) if w and not w & STEAL and word_seq(w) > self.last]
        floor = self.last
        if words and self.depth and word_seq(max(words)) - self.last > self.depth:
            floor = word_seq(max(words)) - self.depth
        return min((w for w in words if word_seq(w) > floor), default=0), floor

    def find(self):
        """The next word, or 0. A pass is no snapshot: a gap is believed when two passes agree."""
        previous = 0
        for _ in range(8):
            word, floor = self.scan()
            if not word or word_seq(word) == floor + 1 or word == previous:
                return word
            previous = word
        return 0

    def take(self):
        """(word, descriptor) of a frame that is now held, or None."""
        for _ in range(8):
            again, self.recovered = self.recovered, 0
            word = again or self.find()
            if not word:
                return None
            if not again:
                self.cons.u64[C_HOLD] = word
                fence()  # the producer marks and looks at our hold; we hold and look at its mark: one sees the other
                if self.state(word & 0xff) != word:
                    self.cons.u64[C_HOLD] = 0  # it was taken away first
                    continue
                self.last = word_seq(word)
                self.cons.u64[C_TAKEN] = self.last
            desc = DESCRIPTOR.unpack_from(self.prod.bytes, P_DESC + (word & 0xff) * 128)
            if word_seq(word) not in self.skip and desc[0] == word_seq(word) and desc[5] == self.payload_max:
                return word, desc
            self.release()
        return None

    def release(self):
        self.cons.u64[C_HOLD] = 0
        self.bell = self.cons.u32[C_BELL] = self.bell + 1 & 0xffffffff


class OutRing(Ring):
    """A ring that we fill; its one consumer is egress."""

    def __init__(self, body, fds):
        super().__init__(body, fds, is_in=False)
        self.words = [0] * self.slot_count  # our own copy: a producer never reads its words back
        self.seq, self.bell = self.first_seq, 0

    def is_held(self, word):
        return any(self.cons.u64[C_HOLD + k] == word for k in range(self.hold_count))

    def victim(self):
        """The oldest frame that is done with, else the oldest at all; never the newest, never one that is held."""
        free = [w for w in self.words if word_seq(w) != self.seq - 1 and not self.is_held(w)]
        return min(free, key=lambda w: (word_seq(w) > self.cons.u64[C_TAKEN], w), default=0)

    def claim(self):
        """A slot to write to, or None."""
        if 0 in self.words:
            return self.words.index(0)
        for _ in range(128):
            word = self.victim()
            slot = word & 0xff
            if not word:
                continue
            self.prod.u64[P_STATE + slot] = word | STEAL
            fence()  # as in InRing.take(), from the other side
            if self.is_held(word):
                self.prod.u64[P_STATE + slot] = word
                continue
            self.prod.u64[P_STATE + slot] = self.words[slot] = 0
            return slot
        return None

    def publish(self, slot, source, length, flags=0, reason=0):
        """Answers the frame with the descriptor `source`: its number, times and user words travel along."""
        at = P_DESC + slot * 128
        self.prod.bytes[at:at + 128] = DESCRIPTOR.pack(self.seq, source[0], source[2], source[3], time.monotonic_ns(),
                                                       length, flags, reason, 0, source[9], 0)
        # After payload and descriptor: this makes it visible.
        self.prod.u64[P_STATE + slot] = self.words[slot] = self.seq << 8 | slot
        self.seq += 1
        self.bell = self.prod.u32[P_BELL] = self.bell + 1 & 0xffffffff
        try:  # the library wakes the futex on the bell as well; Python cannot, the doorbell does
            self.doorbell.send(b"\0", NOW | socket.MSG_NOSIGNAL)
        except OSError:
            pass  # full: it rings already; or gone: the supervisor will say so


class Copy:
    def update(self, params):
        pass

    def process(self, source, result):
        result[:] = source


class Tint:
    """green-tint.c in tables: one for green, one for the others."""

    intensity = 0.5

    def update(self, params):
        intensity = self.intensity if params.get("intensity") is None else params["intensity"]
        if type(intensity) not in (int, float):
            raise ValueError("intensity must be a number from 0 to 1")
        if not 0 <= intensity <= 1:
            raise ValueError(f"intensity must be from 0 to 1, not {intensity:g}")
        self.intensity, k = intensity, int(intensity * 128 + 0.5)
        self.other = bytes((v * (256 - k) + 128) >> 8 for v in range(256))
        self.green = bytes((v * (256 - k) + 255 * k + 128) >> 8 for v in range(256))

    def process(self, source, result):
        pixels = bytearray(bytes(source).translate(self.other))
        pixels[1::3] = bytes(source[1::3]).translate(self.green)
        result[:] = pixels


class Worker:
    """One session at a time: HELLO says so."""

    def __init__(self, model_class):
        self.model_class, self.session, self.draining, self.stats = model_class, 0, False, None
        self.ctl = socket.socket(fileno=3)

    def send(self, kind, session=0, body=b"", txn=0):
        try:
            self.ctl.send(HEADER.pack(kind, 1, 0, HEADER.size + len(body), session, txn) + body, socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            sys.exit(0)  # the supervisor is gone

    def hear(self):
        """Handles one message. False: there is none."""
        try:
            message, extra, _, _ = self.ctl.recvmsg(512, socket.CMSG_SPACE(48), NOW | socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return False
        if not message:
            sys.exit(0)  # the supervisor is gone
        kind, major, _, _, number, txn = HEADER.unpack_from(message)
        if major != 1:
            sys.exit(101)  # it speaks another protocol
        fds = [fd for _, _, data in extra for fd in struct.unpack(f"{len(data) // 4}i", data)]
        for fd in self.obey(kind, number, txn, message[HEADER.size:], fds):
            os.close(fd)
        return True

    def obey(self, kind, number, txn, body, fds):
        """Does what a message says; returns the descriptors that nobody took."""
        if kind == CONFIG:
            self.stats = Memory(fds.pop(0), writable=True)
        elif kind == DRAIN:
            self.draining = True
        elif kind == SESSION_OPEN:
            self.session, self.model, self.refused = number, self.model_class(), None
            self.rings, self.out, self.asked, self.live = [], None, 0.0, False
            text_bytes, version = struct.unpack_from("<2Q", body)
            self.take_params(txn, version, os.pread(fds[0], text_bytes, 0), start=True)
        elif number != self.session:
            pass  # it is closed already
        elif kind == PARAMS:
            version, text_bytes = struct.unpack_from("<2Q", body)
            self.take_params(txn, version, os.pread(fds[0], text_bytes, 0), start=False)
        elif kind == RING_OPEN:
            self.open_ring(body, fds, txn)
            return []
        elif kind == RING_LIVE and self.out and self.out.generation == struct.unpack_from("<2I", body)[1]:
            self.live, self.asked = True, 0.0
        elif kind == RING_ENDED:
            for ring in self.rings:
                ring.ended = ring.ended or ring.generation == struct.unpack_from("<2I", body)[1]
        elif kind == SESSION_CLOSE:
            for ring in filter(None, [*self.rings, self.out]):
                ring.close()
            self.session = 0
            self.send(SESSION_CLOSED, number, txn=txn)
        return fds

    def take_params(self, txn, version, text, start):
        """Parameters that it cannot start with are tried again together with each update; until then frames pass."""
        params, status, why = json.loads(text), 0, ""
        try:
            self.model.update({**(self.refused or {}), **params})
            self.refused = None
        except ValueError as e:
            status, why = -errno.EINVAL, str(e)
            self.refused = params if start else self.refused
        if status < 0 or not start:  # a start that went well is not answered
            self.send(PARAMS_RESULT, self.session, struct.pack("<QiI440s", version, status, 0, why.encode()), txn)

    def open_ring(self, body, fds, txn):
        ring_id = struct.unpack_from("<2HI", body)[2]
        ring = (InRing if ring_id == IN_VIDEO else OutRing)(body, fds)
        if ring_id == IN_VIDEO:
            if len(self.rings) == 3:  # generations come faster than they are drained
                self.close_oldest()
            self.rings.append(ring)
        else:
            if self.out:
                self.out.close()
            self.out, self.live = ring, False
        self.send(MAPPED, self.session, struct.pack("<2I", ring.ring_id, ring.generation), txn)

    def close_oldest(self):
        ring = self.rings.pop(0)
        self.send(RING_CLOSED, self.session, struct.pack("<2I", ring.ring_id, ring.generation))
        ring.close()

    def ready_to_answer(self, ring):
        """There is an out ring of the size of this in ring; asks for one if not."""
        if self.live and (self.out.width, self.out.height) == (ring.width, ring.height):
            return True
        if time.monotonic() - self.asked > ASK_AGAIN_S:
            self.send(RING_REQUEST, self.session,
                      struct.pack("<10I", OUT_VIDEO, RGB24, ring.width, ring.height, 0, 0, 0, 0, 1, 0))
            self.asked = time.monotonic()
        return False

    def step(self):
        """One frame at most. False: there is nothing to do."""
        while self.session and self.rings:
            ring = self.rings[0]
            taken = ring.take() if self.ready_to_answer(ring) else None
            if taken:
                self.answer(ring, *taken)
                return True
            if not ring.ended or ring.recovered or ring.find():
                return False
            self.close_oldest()  # drained: the next generation's turn
        return False

    def answer(self, ring, word, desc):
        slot = self.out.claim()
        if slot is not None and self.refused is not None:
            self.out.publish(slot, desc, 0, FRAME_PASS, REASON_ERROR)
        elif slot is not None:
            self.model.process(ring.payload(word & 0xff), self.out.payload(slot))
            self.out.publish(slot, desc, self.out.payload_max)
        ring.release()
        self.stats.u64[0] += 1  # frames taken
        self.stats.u64[1] += slot is not None  # answers

    def wait(self):
        poll = select.poll()
        rings = {r.doorbell.fileno(): r for r in (self.rings if self.session else []) if r.doorbell}
        for fd in (self.ctl.fileno(), *rings):
            poll.register(fd, select.POLLIN)
        for fd, what in poll.poll(LOOK_AGAIN_MS if self.session else 10000):
            if fd in rings and what & (select.POLLHUP | select.POLLERR):
                rings[fd].doorbell.close()  # its producer is dead: RING_ENDED follows
                rings[fd].doorbell = None
            elif fd in rings:
                rings[fd].doorbell.recv(64, NOW)

    def run(self):
        self.send(HELLO, 0, struct.pack("<2H7I64s", 1, 0, ROLE_WORKER, WANTS_DOORBELLS, RGB24, 1, 1, os.getpid(), 0,
                                        b"plain-python"))
        while self.stats is None:  # CONFIG comes
            self.wait()
            self.hear()
        self.send(READY)  # a model would be loaded before
        while self.session or not self.draining:
            if not self.hear() and not self.step():
                self.wait()


if __name__ == "__main__":
    if os.uname().machine != "x86_64":
        sys.exit("plain_worker.py: Python has the barrier that a ring needs on x86-64 only; see the text at its top")
    Worker(Tint if "--tint" in sys.argv else Copy).run()

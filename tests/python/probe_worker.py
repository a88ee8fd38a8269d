#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
A worker that looks at what it is given and writes what it sees, as JSON, into the file that its first argument names.

usage: probe_worker.py FILE FORMAT [async]

Parameters: {"raise": true}: every picture fails; {"keep": "output"}: a view of the output is kept; {"answer": "pass",
"withhold" or "array"}; {"bad": true} is refused; {"overlay": true}: the slate is on.
"""
import asyncio
import json
import os
import sys
import zlib

import numpy

import millrace

REPORT, FORMAT = sys.argv[1], sys.argv[2]
seen = {"frames": 0, "ticks": 0, "starts": 0, "kept_same": 0, "kept_changed": 0, "blocks": 0}
kept = []


def write_report():
    with open(REPORT + ".new", "w") as f:
        json.dump(seen, f)
    os.replace(REPORT + ".new", REPORT)


def mapping_of(array):
    """What /proc says about the memory of an array."""
    at = array.ctypes.data
    with open("/proc/self/maps") as f:
        for line in f:
            begin, end = (int(x, 16) for x in line.split()[0].split("-"))
            if begin <= at and at + array.nbytes <= end:
                return line.split()[1] + " " + line.split(None, 5)[5].strip() if len(line.split()) > 5 else "anonymous"
    return "nowhere"


def look(session, frame, out):
    if seen["frames"] == 0:
        a, b = frame.array, out.array
        seen.update(shape=list(a.shape), dtype=str(a.dtype), readonly=not a.flags.writeable, contiguous=a.flags.c_contiguous,
                    in_memory=mapping_of(a), out_memory=mapping_of(b), out_shape=list(b.shape),
                    planes=[list(p.shape) for p in frame.planes], format=frame.format, rate=frame.frame_rate,
                    bytes=frame.data.nbytes, event=session.event({"type": "probe", "n": 1}), data=session.data("line"))
        try:
            frame.data[0] = 1
        except TypeError:
            seen["refuses_writing"] = True
    seen["frames"] += 1
    seen["pts_ns"] = frame.pts_ns
    if kept:  # the frame before, through a view that was kept
        before, checksum = kept.pop()
        seen["kept_same" if zlib.adler32(before) == checksum else "kept_changed"] += 1
    if FORMAT == "rgb24":
        kept.append((frame.array, zlib.adler32(frame.array)))
    if seen["frames"] % 12 == 0:
        write_report()


def answer(session, frame, out):
    look(session, frame, out)
    if session.params.get("raise"):
        raise RuntimeError("as asked")
    if session.params.get("keep") == "output":
        session.output = out.array
    how = session.params.get("answer")
    if how == "pass":
        return millrace.PASS
    if how == "withhold":
        return millrace.WITHHOLD
    if how == "array":
        return numpy.full_like(frame.array, 128)
    out.array[...] = frame.array
    return None


async def answer_later(session, frame, out):
    await asyncio.sleep(0)
    return answer(session, frame, out)


async def tick():
    while True:
        seen["ticks"] += 1
        await asyncio.sleep(0.02)


@millrace.stream_start
def start(session):
    seen["starts"] += 1
    seen["first_params"] = session.params
    write_report()


@millrace.params
def update(session, changes):
    if changes.get("bad"):
        raise ValueError("bad is bad")
    if "overlay" in changes:
        session.overlay(changes["overlay"], 40, "a probe")


@millrace.stream_stop
def stop(session):
    kept.clear()
    seen["stopped"] = True
    write_report()


if len(sys.argv) > 3:
    tasks = []

    @millrace.load
    async def load():
        tasks.append(asyncio.ensure_future(tick()))

    millrace.video(answer_later)
else:
    millrace.video(answer)

if __name__ == "__main__":
    millrace.run(name="probe", format=FORMAT)

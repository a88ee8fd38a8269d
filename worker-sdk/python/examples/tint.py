#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
tint: mixes pure green into every picture; how much can be changed while the stream runs.

Parameters: {"intensity": 0..1}, 0.5 at first; value for value what the C example green-tint computes. It works in bands of
a few rows with one scratch array that stays in the cache: a temporary as large as the picture costs more than the sums.
"""
import numpy

import millrace

BAND = 16  # rows


def set_intensity(session, params):
    intensity = params.get("intensity")
    if intensity is None:
        return
    if type(intensity) not in (int, float):
        raise ValueError("intensity must be a number from 0 to 1")
    if not 0 <= intensity <= 1:
        raise ValueError(f"intensity must be from 0 to 1, not {intensity:g}")
    k = int(intensity * 128 + 0.5)
    session.keep = 256 - k
    session.add = [128, 255 * k + 128, 128]
    session.row = numpy.empty(0, numpy.uint16)  # of `add`, made for the width of the pictures


@millrace.stream_start
def start(session):
    set_intensity(session, {"intensity": 0.5})
    set_intensity(session, session.params)


@millrace.params
def update(session, changes):
    set_intensity(session, changes)


@millrace.video
def tint(session, frame, out):
    source = frame.array.reshape(frame.height, -1)
    target = out.array.reshape(frame.height, -1)
    if len(session.row) != 3 * frame.width:
        session.row = numpy.tile(numpy.array(session.add, numpy.uint16), frame.width)
        session.scratch = numpy.empty((BAND, 3 * frame.width), numpy.uint16)
    for y in range(0, frame.height, BAND):
        rows = source[y:y + BAND]
        sums = session.scratch[:len(rows)]
        numpy.multiply(rows, session.keep, out=sums, dtype=numpy.uint16)
        sums += session.row
        sums >>= 8
        target[y:y + BAND] = sums


if __name__ == "__main__":
    millrace.run(name="tint-python", capacity=4)

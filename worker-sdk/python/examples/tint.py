#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
tint: mixes pure green into every picture; how much can be changed while the stream runs.

Parameters: {"intensity": 0..1}, 0.5 at first; value for value what the C example green-tint computes. One table for green
and one for the other colours make it fast.
"""
import numpy

import millrace


def set_intensity(session, params):
    intensity = params.get("intensity")
    if intensity is None:
        return
    if type(intensity) not in (int, float):
        raise ValueError("intensity must be a number from 0 to 1")
    if not 0 <= intensity <= 1:
        raise ValueError(f"intensity must be from 0 to 1, not {intensity:g}")
    k = int(intensity * 128 + 0.5)
    values = numpy.arange(256)
    session.other = ((values * (256 - k) + 128) // 256).astype(numpy.uint8)
    session.green = ((values * (256 - k) + 255 * k + 128) // 256).astype(numpy.uint8)


@millrace.stream_start
def start(session):
    set_intensity(session, {"intensity": 0.5})
    set_intensity(session, session.params)


@millrace.params
def update(session, changes):
    set_intensity(session, changes)


@millrace.video
def tint(session, frame, out):
    numpy.take(session.other, frame.array, out=out.array, mode="clip")
    out.array[..., 1] = session.green[frame.array[..., 1]]


if __name__ == "__main__":
    millrace.run(name="tint-python", capacity=4)

#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""grayscale: the luma of each pixel in all three colours, with numpy; what the C example grayscale computes."""
import numpy

import millrace

WEIGHTS = numpy.array([77, 150, 29], dtype=numpy.uint16)  # of 256; no sum exceeds 16 bits


@millrace.video
def gray(session, frame, out):
    luma = (frame.array @ WEIGHTS + numpy.uint16(128)) >> 8
    out.array[:] = luma[..., None]


if __name__ == "__main__":
    millrace.run(name="grayscale-python", capacity=4)

#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""passthrough: each picture is copied from the input slot to the output slot; without numpy. --audio: audio as well."""
import sys

import millrace


@millrace.video
def copy(session, frame, out):
    out.data[:] = frame.data


if __name__ == "__main__":
    if "--audio" in sys.argv[1:]:
        millrace.audio(copy)
    millrace.run(name="passthrough-python", capacity=4)

#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
A PyTrickle application made of plain functions: pictures are mirrored and become greener.

Parameters: {"intensity": 0..1}, 0.5 at first. A line about it goes to the data channel every five seconds.
"""
import asyncio
import time

import numpy

from millrace.pytrickle import StreamProcessor
from millrace.pytrickle.frames import VideoFrame, to_numpy

intensity = 0.5
processor = None
tasks = []


def load_model(**kwargs):
    print("nothing to load")


async def report():
    while await processor.send_data(str({"type": "status_update", "intensity": intensity, "timestamp": time.time()})):
        await asyncio.sleep(5)


async def process_video(frame: VideoFrame) -> VideoFrame:
    if not tasks:
        tasks.append(asyncio.ensure_future(report()))
    pixels = to_numpy(frame.tensor)[:, :, ::-1].copy()  # [1, height, width, 3]
    pixels *= 1 - intensity / 2
    pixels[..., 1] += intensity / 2
    return frame.replace_tensor(numpy.ascontiguousarray(pixels))


def update_params(params: dict):
    global intensity
    if "intensity" in params:
        intensity = max(0.0, min(1.0, float(params["intensity"])))


def on_stream_stop():
    while tasks:
        tasks.pop().cancel()


if __name__ == "__main__":
    processor = StreamProcessor(video_processor=process_video, model_loader=load_model, param_updater=update_params,
                                on_stream_stop=on_stream_stop, name="green-processor", port=8000)
    processor.run()

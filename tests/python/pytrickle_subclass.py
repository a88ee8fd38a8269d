#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A PyTrickle application that subclasses FrameProcessor. Parameter: {"mode": "small", "full", "none" or "raise"}."""
import asyncio

from millrace.pytrickle import FrameProcessor, OverlayConfig, StreamServer


class Halve(FrameProcessor):
    mode = "small"

    async def process_video_async(self, frame):
        if self.mode == "none":
            return None
        if self.mode == "raise":
            raise RuntimeError("as asked")
        assert list(frame.tensor.shape) == [1, frame.height, frame.width, 3]
        return frame.replace_tensor(frame.tensor[:, ::2, ::2] if self.mode == "small" else frame.tensor)

    async def process_audio_async(self, frame):
        assert frame.samples.shape == (1 if frame.layout == "mono" else 2, frame.nb_samples)
        return [frame.replace_samples(frame.samples * 0.5)]

    async def update_params(self, params):
        self.mode = params.get("mode", self.mode)

    async def on_stream_start(self):
        print("the stream begins")


async def main():
    await StreamServer(frame_processor=Halve(), port=8000, capability_name="halve",
                       overlay_config=OverlayConfig(enabled=False)).run_forever()


if __name__ == "__main__":
    asyncio.run(main())

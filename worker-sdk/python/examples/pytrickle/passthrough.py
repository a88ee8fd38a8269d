#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
A PyTrickle application as millrace runs it: python3 passthrough.py brings up the service on port 8000.

Pictures and sound pass unchanged. Parameters: {"enabled": false} leaves even that to millrace; {"withhold": true} answers
no picture, so that the loading overlay appears.
"""
import asyncio

from millrace.pytrickle import AudioFrame, StreamProcessor, VideoFrame, VideoProcessingResult
from millrace.pytrickle.decorators import (audio_handler, model_loader, on_stream_start, on_stream_stop, param_updater,
                                           video_handler)


class Handlers:
    def __init__(self):
        self.enabled, self.withhold = True, False

    @model_loader
    async def load(self, **kwargs):
        print("nothing to load")

    @on_stream_start
    async def start(self, params=None):
        await self.update(params or {})

    @video_handler
    async def video(self, frame: VideoFrame):
        if self.withhold:
            return VideoProcessingResult.WITHHELD
        return frame.replace_tensor(frame.tensor) if self.enabled else None

    @audio_handler
    async def audio(self, frame: AudioFrame):
        return [frame]

    @param_updater
    async def update(self, params: dict):
        self.enabled = bool(params.get("enabled", self.enabled))
        self.withhold = bool(params.get("withhold", self.withhold))

    @on_stream_stop
    async def stop(self):
        print("the stream is over")


async def main():
    await StreamProcessor.from_handlers(Handlers(), name="passthrough-example", port=8000).run_forever()


if __name__ == "__main__":
    asyncio.run(main())
